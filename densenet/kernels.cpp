// The elementwise passes of normalize-once, each over a matrix of pixels x channels whose rows may lie apart.
//
// PyTorch has an operator for every single product, sum and comparison in them, and each reads and writes memory anew;
// here a pass reads every value once. One thread. Sums are taken in single precision over 256 rows, then in double.
// kernels.py says what each pass computes, in PyTorch's operators; tests/networks/test_kernels.py holds the two against each other.

#include <cstdint>
#include <cstring>
#include <vector>

typedef intptr_t Long;  // as wide as a pointer, as kernels.py passes every argument

namespace {

struct bfloat16 {
    uint16_t bits;
    operator float() const {
        uint32_t word = uint32_t(bits) << 16;
        float value;
        std::memcpy(&value, &word, 4);
        return value;
    }
    bfloat16 &operator=(float value) {  // to the nearest, ties to even; not-a-number stays so, as arithmetic makes it
        uint32_t word;
        std::memcpy(&word, &value, 4);
        bits = uint16_t((word + 0x7fff + (word >> 16 & 1)) >> 16);
        return *this;
    }
};

const Long BLOCK = 256;

// Calls `sum(row, first, second)` for every row, and adds the sums of each block of rows to the totals.
template <class R, class Sum>
inline void summed(Long rows, Long n, double *first, double *second, Sum sum) {
    std::vector<R> a(n), b(n);
    for (Long start = 0; start < rows; start += BLOCK) {
        const Long end = start + BLOCK < rows ? start + BLOCK : rows;
        for (Long c = 0; c < n; c++) a[c] = b[c] = 0;
        for (Long row = start; row < end; row++) sum(row, a.data(), b.data());
        for (Long c = 0; c < n; c++) first[c] += a[c], second[c] += b[c];
    }
}

// out = scale * x + shift, and what is negative of it 0 where it is rectified; not-a-number stays
template <class T, class R>
inline void affine(Long rows, Long n, const T *x, Long next_x, const R *__restrict scale, const R *__restrict shift,
                   bool rectified, T *out, Long next_out) {
    for (Long row = 0; row < rows; row++) {
        const T *__restrict from = x + row * next_x;
        T *__restrict to = out + row * next_out;
        if (rectified)
            for (Long c = 0; c < n; c++) {
                const R value = scale[c] * R(from[c]) + shift[c];
                to[c] = value < 0 ? R(0) : value;
            }
        else
            for (Long c = 0; c < n; c++) to[c] = scale[c] * R(from[c]) + shift[c];
    }
}

// mean and variance (over the number of rows) of each channel, in two passes
template <class T, class R>
inline void moments(Long rows, Long n, const T *x, Long next_x, R *mean, R *variance) {
    std::vector<double> total(n), unused(n), square(n), rest(n);
    summed<R>(rows, n, total.data(), unused.data(), [&](Long row, R *__restrict a, R *) {
        const T *__restrict from = x + row * next_x;
        for (Long c = 0; c < n; c++) a[c] += R(from[c]);
    });
    for (Long c = 0; c < n; c++) mean[c] = R(total[c] / rows);
    summed<R>(rows, n, square.data(), rest.data(), [&](Long row, R *__restrict a, R *__restrict b) {
        const T *__restrict from = x + row * next_x;
        for (Long c = 0; c < n; c++) {
            const R distance = R(from[c]) - mean[c];
            a[c] += distance * distance;
            b[c] += distance;
        }
    });
    // what rounding has left of the mean
    for (Long c = 0; c < n; c++) variance[c] = R((square[c] - rest[c] * rest[c] / rows) / rows);
}

// sums of g and of g * (x - mean) over the rows, added to `total` and `product`: g is the gradient, but 0 where
// scale * x + shift <= 0, if there is a scale; into, if it is there, gains scale * g, or becomes it if it is fresh
template <class T, class G, class R>
inline void gathered(Long rows, Long n, const G *g, Long next_g, const T *x, Long next_x, const R *__restrict mean,
                     const R *__restrict scale, const R *__restrict shift, R *into, Long next_into, bool fresh,
                     R *total, R *product) {
    std::vector<double> first(n), second(n);
    summed<R>(rows, n, first.data(), second.data(), [&](Long row, R *__restrict a, R *__restrict b) {
        const G *__restrict gradient = g + row * next_g;
        const T *__restrict from = x + row * next_x;
        R *__restrict to = into + (into ? row * next_into : 0);
        if (into)
            for (Long c = 0; c < n; c++) {
                const R arrived = gradient[c];
                const R value = scale[c] * R(from[c]) + shift[c] <= 0 ? R(0) : arrived;
                a[c] += value;
                b[c] += value * (R(from[c]) - mean[c]);
                to[c] = (fresh ? R(0) : to[c]) + scale[c] * value;
            }
        else if (scale)
            for (Long c = 0; c < n; c++) {
                const R arrived = gradient[c];
                const R value = scale[c] * R(from[c]) + shift[c] <= 0 ? R(0) : arrived;
                a[c] += value;
                b[c] += value * (R(from[c]) - mean[c]);
            }
        else
            for (Long c = 0; c < n; c++) {
                const R value = R(gradient[c]);
                a[c] += value;
                b[c] += value * (R(from[c]) - mean[c]);
            }
    });
    for (Long c = 0; c < n; c++) total[c] += R(first[c]), product[c] += R(second[c]);
}

// out = factor * g + slope * (x - mean) + offset, g as above; out may be the gradient
template <class T, class G, class R>
inline void combined(Long rows, Long n, const G *g, Long next_g, const T *x, Long next_x, const R *__restrict mean,
                     const R *__restrict scale, const R *__restrict shift, const R *__restrict factor,
                     const R *__restrict slope, const R *__restrict offset, T *out) {
    for (Long row = 0; row < rows; row++) {
        const G *gradient = g + row * next_g;
        const T *__restrict from = x + row * next_x;
        T *to = out + row * n;
        if (scale)
            for (Long c = 0; c < n; c++) {
                const R arrived = gradient[c];
                const R value = scale[c] * R(from[c]) + shift[c] <= 0 ? R(0) : arrived;
                to[c] = factor[c] * value + slope[c] * (R(from[c]) - mean[c]) + offset[c];
            }
        else
            for (Long c = 0; c < n; c++)
                to[c] = factor[c] * R(gradient[c]) + slope[c] * (R(from[c]) - mean[c]) + offset[c];
    }
}

}  // namespace

#define EXPORT extern "C" void

// Raised here and in kernels.py whenever a loop takes or does something else, so that neither meets an older other.
extern "C" const Long interface = 1;

// T: of feature maps, R: of parameters and sums
#define OF_MAPS(name, T, R)                                                                                     \
    EXPORT affine_##name(Long rows, Long n, const T *x, Long next_x, const R *scale, const R *shift,            \
                         Long rectified, T *out, Long next_out) {                                                \
        affine<T, R>(rows, n, x, next_x, scale, shift, rectified, out, next_out);                               \
    }                                                                                                           \
    EXPORT moments_##name(Long rows, Long n, const T *x, Long next_x, R *mean, R *variance) {                   \
        moments<T, R>(rows, n, x, next_x, mean, variance);                                                      \
    }

// G: of the gradient that arrives
#define OF_GRADIENTS(name, T, G, R)                                                                             \
    EXPORT gathered_##name(Long rows, Long n, const G *g, Long next_g, const T *x, Long next_x, const R *mean,  \
                           const R *scale, const R *shift, R *into, Long next_into, Long fresh, R *total,       \
                           R *product) {                                                                        \
        gathered<T, G, R>(rows, n, g, next_g, x, next_x, mean, scale, shift, into, next_into, fresh, total,     \
                          product);                                                                             \
    }                                                                                                           \
    EXPORT combined_##name(Long rows, Long n, const G *g, Long next_g, const T *x, Long next_x, const R *mean,  \
                           const R *scale, const R *shift, const R *factor, const R *slope, const R *offset,    \
                           T *out) {                                                                            \
        combined<T, G, R>(rows, n, g, next_g, x, next_x, mean, scale, shift, factor, slope, offset, out);       \
    }

OF_MAPS(float32, float, float)
OF_MAPS(float64, double, double)
OF_MAPS(bfloat16, bfloat16, float)
OF_GRADIENTS(float32_float32, float, float, float)
OF_GRADIENTS(float64_float64, double, double, double)
OF_GRADIENTS(bfloat16_bfloat16, bfloat16, bfloat16, float)
OF_GRADIENTS(bfloat16_float32, bfloat16, float, float)

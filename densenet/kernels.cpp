// The passes of normalize-once, each over matrices of pixels x channels whose rows may lie apart.
//
// PyTorch has an operator for every single product, sum and comparison in them, and each reads and writes memory anew;
// here a pass reads every value once. The 1x1 convolution takes scale, shift and rectifier into its own pass, forward and
// backward, so that its input is never written. kernels.py says what each pass computes, in PyTorch's operators;
// tests/networks/test_kernels.py holds the two against each other.
//
// Threads share the work in pieces of rows whose sizes depend on the matrix alone. Sums are taken piece by piece and then
// added in the order of the pieces, in double precision, so that no bit depends on the number of threads.

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>
#ifdef __AVX512BF16__
#include <immintrin.h>
#endif

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

// ---- threads

typedef void Parallel(void (*work)(void *), void *argument, unsigned threads, unsigned flags);

Parallel *parallel = nullptr;  // runs work(argument) in each of PyTorch's own threads, and waits for all

const Long SMALL = 32768;  // values for which a second thread does not pay

// Calls work(0), work(1), ... work(count - 1). `values` is how many values all of them read.
template <class Work>
void share(Long threads, Long values, Long count, const Work &work) {
    struct Shared {
        const Work &work;
        Long count;
        std::atomic<Long> next;
    } shared{work, count, {0}};
    void (*take)(void *) = [](void *given) {
        Shared &shared = *static_cast<Shared *>(given);
        for (Long piece; (piece = shared.next.fetch_add(1)) < shared.count;) shared.work(piece);
    };
    if (parallel && threads > 1 && count > 1 && values >= SMALL)
        parallel(take, &shared, unsigned(threads), 0);
    else
        take(&shared);
}

// ---- elementwise passes

const Long BLOCK = 256;  // rows whose sums are taken in single precision

// Calls `sum(row, first, second)` for every row, and adds the sums of each block of rows to the totals.
template <class R, class Sum>
inline void summed(Long threads, Long rows, Long n, double *first, double *second, Sum sum) {
    const Long blocks = (rows + BLOCK - 1) / BLOCK;
    std::vector<R> parts(2 * blocks * n);
    share(threads, rows * n, blocks, [&](Long block) {
        R *a = parts.data() + 2 * block * n;
        for (Long row = block * BLOCK; row < std::min(rows, (block + 1) * BLOCK); row++) sum(row, a, a + n);
    });
    for (Long block = 0; block < blocks; block++) {
        const R *a = parts.data() + 2 * block * n, *b = a + n;
        for (Long c = 0; c < n; c++) first[c] += a[c], second[c] += b[c];
    }
}

// Calls `pass(row)` for every row.
template <class Pass>
inline void each_row(Long threads, Long rows, Long n, Pass pass) {
    share(threads, rows * n, (rows + BLOCK - 1) / BLOCK, [&](Long block) {
        for (Long row = block * BLOCK; row < std::min(rows, (block + 1) * BLOCK); row++) pass(row);
    });
}

// to = scale * x + shift, and what is negative of it 0; not-a-number stays
template <class T, class R, class S>
inline void rectify(Long n, const T *__restrict x, const R *__restrict scale, const R *__restrict shift,
                    S *__restrict to) {
    for (Long c = 0; c < n; c++) {
        const R value = scale[c] * R(x[c]) + shift[c];
        to[c] = value < 0 ? R(0) : value;
    }
}

// out = scale * x + shift, rectified or not
template <class T, class R>
inline void affine(Long threads, Long rows, Long n, const T *x, Long next_x, const R *__restrict scale,
                   const R *__restrict shift, bool rectified, T *out, Long next_out) {
    each_row(threads, rows, n, [=](Long row) {
        const T *__restrict from = x + row * next_x;
        T *__restrict to = out + row * next_out;
        if (rectified)
            rectify(n, from, scale, shift, to);
        else
            for (Long c = 0; c < n; c++) to[c] = scale[c] * R(from[c]) + shift[c];
    });
}

// mean and variance (over the number of rows) of each channel, in two passes
template <class T, class R>
inline void moments(Long threads, Long rows, Long n, const T *x, Long next_x, R *mean, R *variance) {
    std::vector<double> total(n), unused(n), square(n), rest(n);
    summed<R>(threads, rows, n, total.data(), unused.data(), [=](Long row, R *__restrict a, R *) {
        const T *__restrict from = x + row * next_x;
        for (Long c = 0; c < n; c++) a[c] += R(from[c]);
    });
    for (Long c = 0; c < n; c++) mean[c] = R(total[c] / rows);
    summed<R>(threads, rows, n, square.data(), rest.data(), [=](Long row, R *__restrict a, R *__restrict b) {
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

// adds g and g * (x - mean) to a and b: g is the gradient, but 0 where scale * x + shift <= 0; and scale * g to `into`
template <class T, class G, class R>
inline void gather(Long n, const G *__restrict gradient, const T *__restrict x, const R *__restrict mean,
                   const R *__restrict scale, const R *__restrict shift, bool fresh, R *__restrict into,
                   R *__restrict a, R *__restrict b) {
    for (Long c = 0; c < n; c++) {
        const R arrived = gradient[c];
        const R value = scale[c] * R(x[c]) + shift[c] <= 0 ? R(0) : arrived;
        a[c] += value;
        b[c] += value * (R(x[c]) - mean[c]);
        into[c] = (fresh ? R(0) : into[c]) + scale[c] * value;
    }
}

// sums of g and of g * (x - mean) over the rows, added to `total` and `product`: g is the gradient, but 0 where
// scale * x + shift <= 0, if there is a scale; into, if it is there, gains scale * g, or becomes it if it is fresh
template <class T, class G, class R>
inline void gathered(Long threads, Long rows, Long n, const G *g, Long next_g, const T *x, Long next_x,
                     const R *__restrict mean, const R *__restrict scale, const R *__restrict shift, R *into,
                     Long next_into, bool fresh, R *total, R *product) {
    std::vector<double> first(n), second(n);
    summed<R>(threads, rows, n, first.data(), second.data(), [=](Long row, R *__restrict a, R *__restrict b) {
        const G *__restrict gradient = g + row * next_g;
        const T *__restrict from = x + row * next_x;
        if (into)
            gather(n, gradient, from, mean, scale, shift, fresh, into + row * next_into, a, b);
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
inline void combined(Long threads, Long rows, Long n, const G *g, Long next_g, const T *x, Long next_x,
                     const R *__restrict mean, const R *__restrict scale, const R *__restrict shift,
                     const R *__restrict factor, const R *__restrict slope, const R *__restrict offset, T *out) {
    each_row(threads, rows, n, [=](Long row) {
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
    });
}

// ---- the 1x1 convolution

#if defined(__AVX512F__)
const int BYTES = 64, ROWS = 8;
#elif defined(__AVX__)
const int BYTES = 32, ROWS = 4;
#else
const int BYTES = 16, ROWS = 4;
#endif
// The size of a vector, and how many rows of vectors are summed at once: as many as there are registers for.

const int VECTORS = 3;    // the vectors in such a row
const Long TILE = 128;    // rows whose inputs and gradients stay in the cache
const Long PIECES = 32;   // how many sums a gradient of weights is made of, at most
const Long AHEAD = 24;    // how many rows before their use values are fetched from memory

// Products of S, summed in R. A bfloat16 is multiplied in pairs, two products for each sum.
template <class S, class R>
struct Product {
    static const Long depth = 1;
    typedef S Element;
    typedef R Vector __attribute__((vector_size(BYTES)));
    static Vector add(Vector sum, Element a, Vector b) { return sum + a * b; }
};

#ifdef __AVX512BF16__
template <>
struct Product<bfloat16, float> {
    static const Long depth = 2;
    typedef int32_t Element __attribute__((aligned(2), may_alias));
    typedef __m512 Vector;
    static Vector add(Vector sum, Element a, Vector b) {
        return _mm512_dpbf16_ps(sum, (__m512bh)_mm512_set1_epi32(a), (__m512bh)b);
    }
};
#endif

// Memory that begins at a cache line and is 0.
template <class S>
struct Scratch {
    S *const data;
    explicit Scratch(Long size) : data(new (std::align_val_t(64)) S[size]()) {}
    ~Scratch() { ::operator delete[](data, std::align_val_t(64)); }
    Scratch(const Scratch &) = delete;
};

inline Long round_up(Long size, Long unit) { return (size + unit - 1) / unit * unit; }

// out[r][c] = sum over k of a[r * next_row + k * next_k] * b[k][c], added to what is there unless it is fresh, for ROWS
// rows and V vectors of columns. Lengths are in elements; b has `next_b` of them in a row.
template <int V, class S, class R>
inline void multiply_tile(Long depth, const S *a, Long next_row, Long next_k, const S *b, Long next_b, bool fresh,
                          R *out, Long next_out) {
    typedef typename Product<S, R>::Vector Vector;
    typedef Vector Unaligned __attribute__((aligned(sizeof(R)), may_alias));
    typedef typename Product<S, R>::Element Element;
    const int lanes = BYTES / sizeof(R);
    const Element *left = reinterpret_cast<const Element *>(a);
    const R *right = reinterpret_cast<const R *>(b);
    Vector sum[ROWS][V] = {};
    for (Long k = 0; k < depth; k++) {
        Vector columns[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) columns[v] = *reinterpret_cast<const Unaligned *>(right + k * next_b + v * lanes);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
            for (int v = 0; v < V; v++)
                sum[r][v] = Product<S, R>::add(sum[r][v], left[r * next_row + k * next_k], columns[v]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 4
        for (int v = 0; v < V; v++) {
            Unaligned &to = *reinterpret_cast<Unaligned *>(out + r * next_out + v * lanes);
            to = fresh ? sum[r][v] : to + sum[r][v];
        }
}

// The same for any number of columns that is a multiple of the lanes.
template <class S, class R>
inline void multiply(Long columns, Long depth, const S *a, Long next_row, Long next_k, const S *b, Long next_b,
                     bool fresh, R *out, Long next_out) {
    const int lanes = BYTES / sizeof(R);
    for (Long c = 0; c < columns; c += VECTORS * lanes) {
        const S *from = b + c * Product<S, R>::depth;
        if (columns - c >= 3 * lanes)
            multiply_tile<3>(depth, a, next_row, next_k, from, next_b, fresh, out + c, next_out);
        else if (columns - c >= 2 * lanes)
            multiply_tile<2>(depth, a, next_row, next_k, from, next_b, fresh, out + c, next_out);
        else
            multiply_tile<1>(depth, a, next_row, next_k, from, next_b, fresh, out + c, next_out);
    }
}

// Writes a matrix (depth, columns), whose elements lie `next_k` and `next_column` apart, as `multiply` reads it: values
// that are multiplied in one step lie side by side, and a row has room for `width` of them.
template <class S, class R>
inline void pack(const R *matrix, Long depth, Long next_k, Long columns, Long next_column, Long width, S *packed) {
    const Long unit = Product<S, R>::depth;
    for (Long k = 0; k < depth; k++)
        for (Long c = 0; c < columns; c++)
            packed[(k / unit * width + c) * unit + k % unit] = matrix[k * next_k + c * next_column];
}

template <class T>
inline void fetch(Long n, const T *values) {
    for (Long c = 0; c < n; c += 64 / Long(sizeof(T))) __builtin_prefetch(values + c);
}

// out = max(scale * x + shift, 0) times the weight, (rows, n) -> (rows, outputs)
template <class T, class S, class R>
void convolved(Long threads, Long rows, Long n, const T *x, Long next_x, const R *scale, const R *shift,
               const R *weight, Long outputs, T *out) {
    const Long unit = Product<S, R>::depth, wide = round_up(outputs, BYTES / sizeof(R)), length = round_up(n, unit);
    const Scratch<S> packed(length * wide);
    pack(weight, n, 1, outputs, n, wide, packed.data);
    share(threads, rows * n, (rows + BLOCK - 1) / BLOCK, [&](Long block) {
        const Scratch<S> u(ROWS * length);
        const Scratch<R> z(ROWS * wide);
        const Long end = std::min(rows, (block + 1) * BLOCK);
        for (Long start = block * BLOCK; start < end; start += ROWS) {
            const Long here = std::min<Long>(ROWS, end - start);
            for (Long r = 0; r < here; r++) {
                fetch(n, x + std::min(start + r + AHEAD, rows - 1) * next_x);
                rectify(n, x + (start + r) * next_x, scale, shift, u.data + r * length);
            }
            multiply(wide, length / unit, u.data, length / unit, 1, packed.data, wide, true, z.data, wide);
            for (Long r = 0; r < here; r++) {
                T *__restrict to = out + (start + r) * outputs;
                for (Long o = 0; o < outputs; o++) to[o] = z.data[r * wide + o];
            }
        }
    });
}

// The rows of the matrices of a tile side by side in pairs, as Product<bfloat16> takes sums over rows.
inline void interleave(Long n, const bfloat16 *__restrict first, const bfloat16 *__restrict second,
                       bfloat16 *__restrict to) {
    for (Long c = 0; c < n; c++) {
        const uint32_t both = first[c].bits | uint32_t(second[c].bits) << 16;
        std::memcpy(to + 2 * c, &both, 4);
    }
}

// The same where a sum takes one row at a time: they are where they should be.
template <class S>
const S *by_rows(Long, Long, const S *rows, S *) {
    return rows;
}

template <>
inline const bfloat16 *by_rows(Long rows, Long n, const bfloat16 *from, bfloat16 *to) {
    for (Long r = 0; r < rows; r += 2) interleave(n, from + r * n, from + (r + 1) * n, to + r * n);
    return to;
}

// The gradients of scale, shift and weight (written to product, total, of_weight), and of x (added to `into`), given the
// gradient g of the output, (rows, outputs). Scale's is taken at x - mean.
template <class T, class S, class R>
void convolved_back(Long threads, Long rows, Long n, const T *x, Long next_x, const R *mean, const R *scale,
                    const R *shift, const R *weight, Long outputs, const T *g, R *into, Long next_into, R *total,
                    R *product, R *of_weight) {
    const Long unit = Product<S, R>::depth, wide = round_up(n, BYTES / sizeof(R));
    const Long padded = round_up(outputs, std::max<Long>(ROWS, unit));
    const Long piece_rows = std::max(2 * TILE, round_up((rows + PIECES - 1) / PIECES, TILE));
    const Long pieces = (rows + piece_rows - 1) / piece_rows;
    const Scratch<S> packed(round_up(outputs, unit) * wide);
    pack(weight, outputs, n, n, 1, wide, packed.data);
    const Scratch<R> parts(pieces * padded * wide);
    std::vector<double> first(pieces * n), second(pieces * n);
    share(threads, rows * n, pieces, [&](Long piece) {
        const Scratch<S> u(TILE * wide), u_pairs(unit > 1 ? TILE * wide : 0);
        const Scratch<S> gradient(TILE * padded), gradient_pairs(unit > 1 ? TILE * padded : 0);
        const Scratch<R> of_u(TILE * wide), sums(2 * n);
        R *part = parts.data + piece * padded * wide;
        const Long end = std::min(rows, (piece + 1) * piece_rows);
        for (Long start = piece * piece_rows; start < end; start += TILE) {
            const Long here = std::min(TILE, end - start);
            for (Long r = 0; r < here; r++) {
                const Long next = std::min(start + r + AHEAD, rows - 1);
                fetch(n, x + next * next_x);
                fetch(outputs, g + next * outputs);
                fetch(n, into + (start + r) * next_into);
                rectify(n, x + (start + r) * next_x, scale, shift, u.data + r * wide);
                for (Long o = 0; o < outputs; o++) gradient.data[r * padded + o] = R(g[(start + r) * outputs + o]);
            }
            for (Long r = here; r < round_up(here, unit); r++)
                std::fill_n(u.data + r * wide, wide, S()), std::fill_n(gradient.data + r * padded, padded, S());
            for (Long r = 0; r < here; r += ROWS)
                multiply(wide, (outputs + unit - 1) / unit, gradient.data + r * padded, padded / unit, 1, packed.data,
                         wide, true, of_u.data + r * wide, wide);
            const S *left = by_rows(here, padded, gradient.data, gradient_pairs.data);
            const S *right = by_rows(here, wide, u.data, u_pairs.data);
            for (Long o = 0; o < padded; o += ROWS)
                multiply(wide, (here + unit - 1) / unit, left + o * unit, 1, padded, right, wide, false,
                         part + o * wide, wide);
            std::fill_n(sums.data, 2 * n, R(0));
            for (Long r = 0; r < here; r++)
                gather(n, of_u.data + r * wide, x + (start + r) * next_x, mean, scale, shift, false,
                       into + (start + r) * next_into, sums.data, sums.data + n);
            for (Long c = 0; c < n; c++) {
                first[piece * n + c] += sums.data[c];
                second[piece * n + c] += sums.data[n + c];
            }
        }
    });
    for (Long c = 0; c < n; c++) {
        double a = 0, b = 0;
        for (Long piece = 0; piece < pieces; piece++) a += first[piece * n + c], b += second[piece * n + c];
        total[c] = R(a), product[c] = R(b);
    }
    share(threads, pieces * outputs * n, outputs, [&](Long o) {
        std::vector<double> whole(n);
        for (Long piece = 0; piece < pieces; piece++)
            for (Long c = 0; c < n; c++) whole[c] += parts.data[(piece * padded + o) * wide + c];
        for (Long c = 0; c < n; c++) of_weight[o * n + c] = R(whole[c]);
    });
}

}  // namespace

#define EXPORT extern "C" void

// Raised here and in kernels.py whenever a loop takes or does something else, so that neither meets an older other.
extern "C" const Long interface = 2;

EXPORT use_threads_of(Parallel *found) { parallel = found; }

#ifdef __AVX512BF16__
typedef bfloat16 Half;
#else
typedef float Half;  // what a bfloat16 is multiplied as
#endif

// T: of feature maps, S: of what is multiplied, R: of parameters and sums
#define OF_MAPS(name, T, S, R)                                                                                  \
    EXPORT affine_##name(Long threads, Long rows, Long n, const T *x, Long next_x, const R *scale,              \
                         const R *shift, Long rectified, T *out, Long next_out) {                               \
        affine<T, R>(threads, rows, n, x, next_x, scale, shift, rectified, out, next_out);                      \
    }                                                                                                           \
    EXPORT moments_##name(Long threads, Long rows, Long n, const T *x, Long next_x, R *mean, R *variance) {     \
        moments<T, R>(threads, rows, n, x, next_x, mean, variance);                                             \
    }                                                                                                           \
    EXPORT convolved_##name(Long threads, Long rows, Long n, const T *x, Long next_x, const R *scale,           \
                            const R *shift, const R *weight, Long outputs, T *out) {                            \
        convolved<T, S, R>(threads, rows, n, x, next_x, scale, shift, weight, outputs, out);                    \
    }                                                                                                           \
    EXPORT convolved_back_##name(Long threads, Long rows, Long n, const T *x, Long next_x, const R *mean,       \
                                 const R *scale, const R *shift, const R *weight, Long outputs, const T *g,     \
                                 R *into, Long next_into, R *total, R *product, R *of_weight) {                 \
        convolved_back<T, S, R>(threads, rows, n, x, next_x, mean, scale, shift, weight, outputs, g, into,      \
                                next_into, total, product, of_weight);                                          \
    }

// G: of the gradient that arrives
#define OF_GRADIENTS(name, T, G, R)                                                                             \
    EXPORT gathered_##name(Long threads, Long rows, Long n, const G *g, Long next_g, const T *x, Long next_x,   \
                           const R *mean, const R *scale, const R *shift, R *into, Long next_into, Long fresh,  \
                           R *total, R *product) {                                                              \
        gathered<T, G, R>(threads, rows, n, g, next_g, x, next_x, mean, scale, shift, into, next_into, fresh,   \
                          total, product);                                                                      \
    }                                                                                                           \
    EXPORT combined_##name(Long threads, Long rows, Long n, const G *g, Long next_g, const T *x, Long next_x,   \
                           const R *mean, const R *scale, const R *shift, const R *factor, const R *slope,      \
                           const R *offset, T *out) {                                                           \
        combined<T, G, R>(threads, rows, n, g, next_g, x, next_x, mean, scale, shift, factor, slope, offset,    \
                          out);                                                                                 \
    }

OF_MAPS(float32, float, float, float)
OF_MAPS(float64, double, double, double)
OF_MAPS(bfloat16, bfloat16, Half, float)
OF_GRADIENTS(float32_float32, float, float, float)
OF_GRADIENTS(float64_float64, double, double, double)
OF_GRADIENTS(bfloat16_bfloat16, bfloat16, bfloat16, float)
OF_GRADIENTS(bfloat16_float32, bfloat16, float, float)

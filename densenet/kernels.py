"""The passes of normalize-once over matrices of pixels x channels, whose rows may lie apart.

Each elementwise pass has two implementations: a formula in PyTorch's operators here, and a compiled loop in kernels.cpp
that reads every value once. The 1x1 convolution has a compiled loop here, and PyTorch's operator in normalize_once.py.
The compiled loops run on CPUs, in PyTorch's own threads. Their results do not depend on the number of threads, to the
last bit.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def library_name() -> str | None:
    """Returns the file name of the compiled loops for this CPU; None if there was no compiler at the installation."""
    kinds = LIBRARIES.get(torch.backends.cpu.get_cpu_capability(), ("",))
    if not knows_halves():
        kinds = tuple(kind for kind in kinds if kind != "_avx512_bf16")
    files = (f"_kernels{kind}{suffix}" for kind in kinds for suffix in EXTENSION_SUFFIXES)
    return next((file for file in files if Path(__file__).with_name(file).exists()), None)


def knows_halves() -> bool:
    """Returns whether this CPU multiplies bfloat16 (AVX512_BF16). Returns False if PyTorch is too old to tell."""
    return hasattr(torch.cpu, "get_capabilities") and bool(torch.cpu.get_capabilities().get("avx512_bf16"))


LIBRARIES = {"AVX512": ("_avx512_bf16", "_avx512", "_avx2", ""), "AVX2": ("_avx2", "")}
"""Which compiled libraries to try for each CPU capability that PyTorch reports, best first."""

INTERFACE = 2
"""The version of the interface to the compiled loops; kernels.cpp states the same number."""


@cache
def library() -> ctypes.CDLL | None:
    """Loads the compiled loops. Raises ImportError if they were compiled from another version of kernels.cpp."""
    name = library_name()
    return None if name is None else load_library(Path(__file__).with_name(name))


def load_library(path: Path) -> ctypes.CDLL:
    """Loads a library. Raises ImportError if its interface has another version."""
    found = ctypes.CDLL(str(path))
    number = ctypes.c_ssize_t.in_dll(found, "interface").value if hasattr(found, "interface") else 0
    if number != INTERFACE:
        raise ImportError(f"{path} is of interface {number}, not {INTERFACE}: install the package again")
    found.use_threads_of(pytorchs_threads())
    return found


@cache
def pytorchs_threads() -> Callable[..., None] | None:
    """Returns the function that runs work in the threads of PyTorch's operators, OpenMP's; None if it is not there."""
    path = Path(torch.__file__).parent / "lib" / "libtorch_global_deps.so"
    return getattr(ctypes.CDLL(str(path)), "GOMP_parallel", None) if path.exists() else None


NAMES = {torch.float32: "float32", torch.float64: "float64", torch.bfloat16: "bfloat16"}
PARAMETERS = {torch.float32: torch.float32, torch.float64: torch.float64, torch.bfloat16: torch.float32}
"""The types of feature maps that the compiled loops take, each with the type of the parameters and sums beside it."""


def suits_loops(maps: Tensor, dtype: torch.dtype) -> bool:
    """Returns whether the compiled loops take these feature maps, with parameters of this type."""
    suits = maps.device.type == "cpu" and PARAMETERS.get(maps.dtype) == dtype
    if not suits or torch.compiler.is_compiling() or library() is None:
        return False
    return torch.get_num_threads() == 1 or pytorchs_threads() is not None


def apply_affine(x: Tensor, scale: Tensor, shift: Tensor, rectified: bool, out: Tensor) -> Tensor:
    """Writes scale * x + shift to `out`, `(M, C) -> (M, C)`; with `rectified`, max(scale * x + shift, 0)."""
    if suits_loops(x, scale.dtype):
        _call(_loop("affine", x.dtype), *x.shape, x, x.stride(0), scale, shift, rectified, out, out.stride(0))
        return out
    value = x * scale + shift
    return out.copy_(value.relu_() if rectified else value)


def measure_moments(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns the mean and the biased variance of each channel, `(M, C) -> (C,)` twice, in the parameters' dtype."""
    if suits_loops(x, dtype):
        mean, variance = torch.empty(2, x.shape[1], dtype=dtype).unbind()
        _call(_loop("moments", x.dtype), *x.shape, x, x.stride(0), mean, variance)
        return mean, variance
    x = x.to(dtype)
    if torch.compiler.is_compiling():
        variance, mean = torch.var_mean(x, 0, correction=0)  # compiled code takes one pass for both
        return mean, variance
    mean = x.mean(0)
    return mean, (x - mean).square_().mean(0)


Rectifier = tuple[Tensor, Tensor]
"""Scale and shift before a rectifier: a gradient passes where scale * x + shift is positive."""


def gather_sums(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    rectifier: Rectifier | None,
    into: Tensor | None = None,
    fresh: bool = False,
) -> tuple[Tensor, Tensor]:
    """Returns the sums over the pixels of g and of g * (x - mean), `(M, C) -> (C,)` twice.

    g is the gradient with respect to the rectifier's input. If `into` is given, scale * g is added to it, or written to
    it if it is `fresh`.
    """
    scale, shift = rectifier or (None, None)
    if suits_loops(x, mean.dtype):
        total, product = torch.zeros(2, x.shape[1], dtype=mean.dtype).unbind()
        sums = (into, 0 if into is None else into.stride(0), fresh, total, product)
        arrived = (gradient, gradient.stride(0), x, x.stride(0), mean, scale, shift)
        _call(_loop("gathered", x.dtype, gradient.dtype), *x.shape, *arrived, *sums)
        return total, product
    g = _unrectify(gradient, x, rectifier).to(mean.dtype)
    if into is not None and scale is not None:
        into.copy_(g * scale) if fresh else into.add_(g * scale)
    return g.sum(0), (g * (x - mean)).sum(0)


def combine_gradient(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    rectifier: Rectifier | None,
    factors: tuple[Tensor, Tensor, Tensor],
    out: Tensor,
) -> Tensor:
    """Writes factor * g + slope * (x - mean) + offset to `out`, `(M, C) -> (M, C)`.

    g is the gradient with respect to the rectifier's input, as in `gather_sums`. `out` may be `gradient` itself.
    """
    scale, shift = rectifier or (None, None)
    if suits_loops(x, mean.dtype):
        arrived = (gradient, gradient.stride(0), x, x.stride(0), mean, scale, shift)
        _call(_loop("combined", x.dtype, gradient.dtype), *x.shape, *arrived, *factors, out)
        return out
    factor, slope, offset = factors
    return out.copy_(_unrectify(gradient, x, rectifier) * factor + (x - mean) * slope + offset)


def convolve(x: Tensor, rectifier: Rectifier, weight: Tensor) -> Tensor:
    """Returns max(scale * x + shift, 0) times the weight, `(outputs, C)`: `(M, C) -> (M, outputs)`.

    It is for what `suits_loops`. A bfloat16 is multiplied as such if the CPU can do that, else in single precision.
    """
    out = torch.empty(len(x), len(weight), dtype=x.dtype)
    _call(_loop("convolved", x.dtype), *x.shape, x, x.stride(0), *rectifier, weight.contiguous(), len(weight), out)
    return out


def convolve_backward(
    gradient: Tensor, x: Tensor, mean: Tensor, rectifier: Rectifier, weight: Tensor, into: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the gradients of scale, `(C,)`, of shift and of the weight, given that of the output, `(M, outputs)`.

    Scale's is taken at x - mean. The gradient of x, `(M, C)`, is added to `into`.
    """
    product, total = torch.empty(2, x.shape[1], dtype=mean.dtype).unbind()
    of_weight = torch.empty(weight.shape, dtype=weight.dtype)
    arrived = (x, x.stride(0), mean, *rectifier, weight.contiguous(), len(weight), gradient.contiguous())
    _call(_loop("convolved_back", x.dtype), *x.shape, *arrived, into, into.stride(0), total, product, of_weight)
    return product, total, of_weight


def _unrectify(gradient: Tensor, x: Tensor, rectifier: Rectifier | None) -> Tensor:
    """Returns the gradient with respect to the rectifier's input."""
    if rectifier is None:
        return gradient
    scale, shift = rectifier
    return torch.where(x * scale + shift <= 0, 0, gradient)


@cache
def _loop(name: str, *dtypes: torch.dtype) -> Callable[..., None]:
    """Returns the compiled loop for feature maps, and gradients, of these types."""
    found = library()
    assert found is not None
    function = found["_".join((name, *(NAMES[dtype] for dtype in dtypes)))]
    function.restype = None
    function.argtypes = [ctypes.c_void_p] * ARGUMENTS[name]
    return function


ARGUMENTS = {"affine": 10, "moments": 7, "gathered": 15, "combined": 14, "convolved": 10, "convolved_back": 16}
"""How many arguments each compiled loop takes: whole numbers and pointers, all as wide as a pointer."""


def _call(loop: Callable[..., None], rows: int, channels: int, *rest: Tensor | int | None) -> None:
    """Calls a loop on the storage of tensors. Does nothing for fake tensors, which have no storage.

    Raises ValueError for a tensor whose channels do not lie side by side in memory.
    """
    if not isinstance(rest[0], FakeTensor):
        if channels > 1 and any(isinstance(each, Tensor) and each.stride(-1) != 1 for each in rest):
            raise ValueError("the compiled loops take no channels with gaps between them")
        loop(
            torch.get_num_threads(),
            rows,
            channels,
            *(each.data_ptr() if isinstance(each, Tensor) else each for each in rest),
        )

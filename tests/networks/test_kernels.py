"""The compiled loops against the formulas that they stand for."""

from __future__ import annotations

import math
import multiprocessing
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from densenet import kernels

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 1e-2}

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="there was no compiler at the installation")


FOLDER = Path(kernels.__file__).parent
KINDS = {kind: path for kind in ("", *kernels.LIBRARIES["AVX512"]) for path in FOLDER.glob(f"_kernels{kind}.*.so")}
BEST = str(kernels.library_name())


def runs_here(path: Path) -> bool:
    """Whether this CPU has the instructions of a library: it is one of those after the best one."""
    names = [KINDS[kind].name for kind in kernels.LIBRARIES["AVX512"] if kind in KINDS]
    return path.name in names[names.index(BEST) :] if BEST in names else path.name == BEST


@pytest.fixture(
    params=[path for path in dict.fromkeys(KINDS.values()) if runs_here(path)], ids=lambda path: path.name.split(".")[0]
)
def each_library(request, monkeypatch):
    """The loops of each library that runs on this CPU."""
    found = kernels.load_library(request.param)
    monkeypatch.setattr(kernels, "library", lambda: found)
    kernels._loop.cache_clear()
    yield
    kernels._loop.cache_clear()


@contextmanager
def threads(number):
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    yield
    torch.set_num_threads(before)


def drawn(rows, channels, dtype, seed=0):
    """Columns of a wider matrix."""
    generator = torch.Generator().manual_seed(seed)
    wide = torch.randn(rows, channels + 5, generator=generator, dtype=torch.float64) * 3 + 1
    return wide.to(dtype)[:, 2 : channels + 2]


def parameters_of(channels, dtype, count):
    dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(9), dtype=dtype).unbind()


def both(call) -> tuple[Any, Any]:
    """What the compiled loop gives, and what the formula does."""
    with pytest.MonkeyPatch.context() as patch:
        found = call()
        patch.setattr(kernels, "library", lambda: None)
        return found, call()


def agree(found, expected, dtype):
    for one, other in zip(found, expected, strict=True):
        scale = 1 + other.double().abs().max()
        assert (one.double() - other.double()).abs().max() <= TOLERANCE[dtype] * scale


SHAPES = pytest.mark.parametrize(("rows", "channels"), [(1, 1), (3, 12), (256, 48), (700, 37)])
OF_TYPES = pytest.mark.parametrize("dtype", DTYPES)


@SHAPES
@OF_TYPES
@pytest.mark.parametrize("is_rectified", [True, False])
def test_affine_and_moments(rows, channels, dtype, is_rectified, each_library):
    x = drawn(rows, channels, dtype)
    scale, shift = parameters_of(channels, dtype, 2)
    agree(*both(lambda: [kernels.apply_affine(x, scale, shift, is_rectified, torch.empty_like(x))]), dtype)
    agree(*both(lambda: kernels.measure_moments(x, scale.dtype)), dtype)


@SHAPES
@OF_TYPES
@pytest.mark.parametrize("is_rectified", [True, False])
@pytest.mark.parametrize("is_narrow", [True, False])
def test_gathered_and_combined(rows, channels, dtype, is_rectified, is_narrow, each_library):
    x, (scale, shift, mean, *factors) = drawn(rows, channels, dtype), parameters_of(channels, dtype, 6)
    gradient = drawn(rows, channels, dtype if is_narrow else scale.dtype, 1)
    rectifier = (scale, shift) if is_rectified else None
    agree(*both(lambda: kernels.gather_sums(gradient, x, mean, rectifier)), dtype)
    agree(*both(lambda: [kernels.combine_gradient(gradient, x, mean, rectifier, factors, torch.empty_like(x))]), dtype)


@SHAPES
@OF_TYPES
@pytest.mark.parametrize("fresh", [True, False])
def test_gathered_into_sums(rows, channels, dtype, fresh, each_library):
    x, gradient, (scale, shift, mean) = (
        drawn(rows, channels, dtype),
        drawn(rows, channels, dtype, 1),
        parameters_of(channels, dtype, 3),
    )

    def call():
        into = drawn(rows, channels, scale.dtype, 3).clone()
        return [*kernels.gather_sums(gradient, x, mean, (scale, shift), into, fresh), into]

    agree(*both(call), dtype)


CONVOLUTIONS = pytest.mark.parametrize(
    ("rows", "channels", "outputs"), [(1, 1, 1), (3, 12, 5), (129, 37, 20), (700, 70, 48), (3000, 33, 50)]
)


def convolution_of(rows, channels, outputs, dtype):
    """Rows, the parameters of a convolution, the gradient of its output, and the sums that it adds to."""
    scale, shift, mean = parameters_of(channels, dtype, 3)
    weight = torch.randn(outputs, channels, generator=torch.Generator().manual_seed(5), dtype=scale.dtype)
    into = drawn(rows, channels, scale.dtype, 3)
    return drawn(rows, channels, dtype), (scale, shift), weight, mean, drawn(rows, outputs, dtype, 1), into


@CONVOLUTIONS
@OF_TYPES
def test_the_convolution(rows, channels, outputs, dtype, each_library):
    x, (scale, shift), weight, *_ = convolution_of(rows, channels, outputs, dtype)
    expected = (x.double() * scale.double() + shift.double()).relu() @ weight.double().T
    found = kernels.convolve(x, (scale, shift), weight)
    assert found.dtype == dtype
    agree([found], [expected], dtype)


@CONVOLUTIONS
@OF_TYPES
def test_the_convolution_s_gradients(rows, channels, outputs, dtype, each_library):
    x, (scale, shift), weight, mean, gradient, into = convolution_of(rows, channels, outputs, dtype)
    wide = [each.double().requires_grad_() for each in (x - mean, scale, shift + mean * scale, weight)]
    ((wide[0] * wide[1] + wide[2]).relu() @ wide[3].T).backward(gradient.double())
    sums = into.clone()
    found = kernels.convolve_backward(gradient, x, mean, (scale, shift), weight, sums)
    of_x, *expected = (each.grad for each in wide)
    agree([*found, sums], [*expected, into.double() + of_x], dtype)


@OF_TYPES
def test_no_bit_depends_on_the_number_of_threads(dtype, each_library):
    x, rectifier, weight, mean, gradient, into = convolution_of(1500, 37, 20, dtype)
    wide, (scale, shift) = drawn(1500, 37, dtype, 4), rectifier

    def compute():
        sums, more = into.clone(), into.clone()
        return [
            kernels.apply_affine(x, scale, shift, True, torch.empty_like(x)),
            *kernels.measure_moments(x, scale.dtype),
            *kernels.gather_sums(wide, x, mean, rectifier, more),
            kernels.combine_gradient(wide, x, mean, rectifier, (scale, shift, mean), torch.empty_like(x)),
            kernels.convolve(x, rectifier, weight),
            *kernels.convolve_backward(gradient, x, mean, rectifier, weight, sums),
            sums,
            more,
        ]

    alone = compute()
    for number in (2, 3, 2 * (os.cpu_count() or 1) + 1):
        with threads(number):
            assert all(map(torch.equal, compute(), alone)), number


def test_copies_of_a_process_compute_the_same():
    x, rectifier, weight, *_ = convolution_of(3000, 37, 20, torch.float32)

    def compute(pipe):
        torch.set_num_threads(1)  # PyTorch's own operators ask for it after a fork
        pipe.send(kernels.convolve(x, rectifier, weight).numpy().tobytes())

    with threads(2):
        expected = kernels.convolve(x, rectifier, weight).numpy().tobytes()
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(2)]
    processes = [context.Process(target=compute, args=(there,), daemon=True) for _, there in pipes]
    for process in processes:
        process.start()
    assert [here.poll(60) and here.recv() for here, _ in pipes] == [expected] * 2
    for process in processes:
        process.join()


def test_the_gradient_may_be_overwritten():
    x, gradient = torch.randn(2, 40, 7).unbind()
    rest = (torch.zeros(7), (torch.ones(7), torch.zeros(7)), (torch.ones(7), torch.zeros(7), torch.zeros(7)))
    expected = torch.where(x <= 0, 0, gradient)
    assert kernels.combine_gradient(gradient, x, *rest, gradient).equal(expected)


def test_halves_are_rounded_as_pytorch_rounds_them():
    bits = torch.arange(0, 2**16).mul(2**15 + 1).to(torch.int32)  # ties and their neighbours among them
    values = torch.cat([bits, bits * 2**15, bits + 2**30]).view(torch.float32)
    values = values[values.isfinite()].view(-1, 1)
    stored = torch.empty(values.shape, dtype=torch.bfloat16)
    one, zero, none = torch.ones(1), torch.zeros(1), torch.zeros(values.shape, dtype=torch.bfloat16)
    kernels.combine_gradient(values, none, zero, None, (one, zero, zero), stored)
    assert stored.equal(values.to(torch.bfloat16))


@OF_TYPES
def test_what_is_no_number_stays_none(dtype):
    x = torch.tensor([[math.nan, -math.inf, math.inf, -1.0, 1.0]], dtype=dtype)
    one, zero = parameters_of(5, dtype, 1)[0].fill_(1), parameters_of(5, dtype, 1)[0].fill_(0)
    found, expected = both(lambda: kernels.apply_affine(x, one, zero, True, torch.empty_like(x)))
    assert found.isnan().tolist() == [[True, False, False, False, False]]
    assert found[:, 1:].equal(expected[:, 1:])
    gradient, ones = x.clone(), torch.ones_like(x)
    passed = kernels.combine_gradient(gradient, ones, zero, (one, zero), (one, zero, zero), torch.empty_like(x))
    assert passed.isnan().equal(x.isnan())
    assert passed[:, 1:].equal(x[:, 1:])


def test_a_first_value_far_away_disturbs_no_variance():
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) + 100
    x[0] += 10_000
    mean, variance = kernels.measure_moments(x, torch.float32)
    exact = x.double().var(0, correction=0)
    assert ((variance - exact).abs() / exact).max() < 1e-5
    assert ((mean - x.double().mean(0)).abs() / 100).max() < 1e-6


def test_other_devices_threads_and_types_take_the_formulas():
    single, half, short = torch.float32, torch.bfloat16, torch.float16
    assert kernels.suits_loops(torch.empty(1, 1), single)
    assert kernels.suits_loops(torch.empty(1, 1, dtype=half), single)
    assert not kernels.suits_loops(torch.empty(1, 1, device="meta"), single)
    assert not kernels.suits_loops(torch.empty(1, 1, dtype=short), single)
    assert not kernels.suits_loops(torch.empty(1, 1, dtype=short), short)
    assert not kernels.suits_loops(torch.empty(1, 1, dtype=half), half)
    assert not kernels.suits_loops(torch.empty(1, 1), torch.float64)
    with threads(2):
        assert kernels.suits_loops(torch.empty(1, 1), single) == (kernels.pytorchs_threads() is not None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(kernels, "pytorchs_threads", lambda: None)
            assert not kernels.suits_loops(torch.empty(1, 1), single)


def test_channels_with_gaps_between_them_are_refused():
    x, scale, gaps = torch.zeros(4, 3), torch.ones(3), torch.ones(3, 2)[:, 0]
    for wrong in ((x.t().contiguous().t(), scale), (x, gaps), (x, torch.ones(1).expand(3))):
        with pytest.raises(ValueError, match="gaps"):
            kernels.apply_affine(*wrong, scale, True, torch.empty(4, 3))


def test_an_older_library_is_refused(monkeypatch):
    path = Path(kernels.__file__).with_name(str(kernels.library_name()))
    assert kernels.load_library(path) is not None
    monkeypatch.setattr(kernels, "INTERFACE", kernels.INTERFACE + 1)
    with pytest.raises(ImportError, match="install the package again"):
        kernels.load_library(path)


def test_without_storage_there_is_nothing_to_compute():
    with FakeTensorMode():
        x, scale = torch.empty(4, 3), torch.empty(3)
        assert kernels.apply_affine(x, scale, scale, True, torch.empty(4, 3)).shape == (4, 3)
        assert [each.shape for each in kernels.gather_sums(x, x, scale, None)] == [(3,), (3,)]


def test_a_processor_without_wide_vectors_has_its_own_library(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert str(kernels.library_name()).startswith("_kernels.")

"""The compiled loops against the formulas that they stand for."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from densenet import kernels

DTYPES = (torch.float32, torch.float64, torch.bfloat16)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-13, torch.bfloat16: 1e-2}

pytestmark = pytest.mark.skipif(kernels.library() is None, reason="there was no compiler at the installation")


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
def test_affine_and_moments(rows, channels, dtype, is_rectified):
    x = drawn(rows, channels, dtype)
    scale, shift = parameters_of(channels, dtype, 2)
    agree(*both(lambda: [kernels.apply_affine(x, scale, shift, is_rectified, torch.empty_like(x))]), dtype)
    agree(*both(lambda: kernels.measure_moments(x, scale.dtype)), dtype)


@SHAPES
@OF_TYPES
@pytest.mark.parametrize("is_rectified", [True, False])
@pytest.mark.parametrize("is_narrow", [True, False])
def test_gathered_and_combined(rows, channels, dtype, is_rectified, is_narrow):
    x, (scale, shift, mean, *factors) = drawn(rows, channels, dtype), parameters_of(channels, dtype, 6)
    gradient = drawn(rows, channels, dtype if is_narrow else scale.dtype, 1)
    rectifier = (scale, shift) if is_rectified else None
    agree(*both(lambda: kernels.gather_sums(gradient, x, mean, rectifier)), dtype)
    agree(*both(lambda: [kernels.combine_gradient(gradient, x, mean, rectifier, factors, torch.empty_like(x))]), dtype)


@SHAPES
@OF_TYPES
@pytest.mark.parametrize("fresh", [True, False])
def test_gathered_into_sums(rows, channels, dtype, fresh):
    x, gradient, (scale, shift, mean) = (
        drawn(rows, channels, dtype),
        drawn(rows, channels, dtype, 1),
        parameters_of(channels, dtype, 3),
    )

    def call():
        into = drawn(rows, channels, scale.dtype, 3).clone()
        return [*kernels.gather_sums(gradient, x, mean, (scale, shift), into, fresh), into]

    agree(*both(call), dtype)


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
    torch.set_num_threads(2)
    try:
        assert not kernels.suits_loops(torch.empty(1, 1), single)
    finally:
        torch.set_num_threads(1)


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

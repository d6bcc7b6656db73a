"""Numbers as they are printed."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ablations.metrics import count_places
from ablations.report.comparison import decide
from ablations.report.printing import print_accuracy, print_change, print_p, print_percent, print_shared


@pytest.mark.parametrize(
    ("mean", "sd", "images", "printed"),
    [
        (97.1296, 0.2778, 360, ("97.13", "0.28")),
        (97.1296, 2.778, 360, ("97.1", "2.8")),
        (97.1296, 27.78, 360, ("97", "28")),
        (99.996, 0.0049, 10_000, ("99.996", "0.005")),
        (99.996, math.nan, 10_000, ("99.996", "")),
        (100.0, 0.0, 10_000, ("100.00", "0.00")),
        (99.99996, 0.00001, 10_000, ("99.99996", "0.00001")),
        (95.1234, 0.0234, 10_000, ("95.12", "0.02")),
        (95.1234, 0.0234, 50_000, ("95.123", "0.023")),
        (95.1234, 0.0, 0, ("95.12", "0.00")),
    ],
)
def test_an_accuracy_has_the_digits_of_its_spread_and_hides_no_error(mean, sd, images, printed):
    assert print_accuracy(mean, sd, images) == printed


@pytest.mark.parametrize(
    ("images", "places"), [(0, 2), (1, 2), (360, 2), (10_000, 2), (10_001, 3), (100_000, 3), (1_000_000, 4)]
)
def test_decimals_show_one_image(images, places):
    assert count_places(images) == places


@pytest.mark.parametrize(
    ("change", "margin", "printed"),
    [
        ((1.3, 0.88, 1.72), None, ("+1.30", "+0.88", "+1.72")),
        ((-13.04, -27.2, 1.1), None, ("-13", "-27", "+1")),
        ((0.3, 0.004, 0.596), None, ("+0.300", "+0.004", "+0.596")),
        ((0.0, -0.5004, 0.5004), 0.5, ("+0.0000", "-0.5004", "+0.5004")),
        ((0.0, -0.4996, 0.4996), 0.5, ("+0.00", "-0.50", "+0.50")),
        ((2.0, math.nan, math.nan), None, ("+2.00", "+nan", "+nan")),
    ],
)
def test_a_change_has_digits_that_give_its_verdict(change, margin, printed):
    value, low, high = change
    assert print_change(value, low, high, 360, margin) == printed


@given(st.floats(-50, 50), st.floats(0, 30), st.sampled_from([None, 0.5, 2.0]))
def test_a_printed_interval_gives_the_verdict(value, half, margin):
    low, high = value - half, value + half
    ends = (0.0, *((margin, -margin) if margin else ()))
    assume(all(abs(end - limit) > 1e-6 for end in (low, high) for limit in ends))
    _, start, end = print_change(value, low, high, 10_000, margin)
    assert decide(float(start), float(end), margin) == decide(low, high, margin)


@pytest.mark.parametrize(
    ("p", "printed"),
    [(0.0202, "0.02"), (0.04999, "0.04999"), (0.0501, "0.05"), (1.0, "1"), (3.21e-9, "3.2e-09"), (0.5, "0.5")],
)
def test_a_p_value_stays_on_its_side_of_five_percent(p, printed):
    assert print_p(p) == printed


def test_times_have_no_decimals():
    assert print_percent("train_images_per_second", -0.1234) == "-12"
    assert print_percent("params", -0.1234) == "-12.3"


@pytest.mark.parametrize(
    ("shared", "printed"),
    [
        ((0.964, 0.9432, 0.9848), ("0.964", "0.943", "0.985")),
        ((0.98, 0.96, 0.99962), ("0.9800", "0.9600", "0.9996")),
        ((1.02, 1.00004, 1.04), ("1.02000", "1.00004", "1.04000")),
        ((0.99, 0.98, 1.0), ("0.990", "0.980", "1.000")),
        ((0.99, math.nan, math.nan), ("0.990", "nan", "nan")),
    ],
)
def test_printed_shared_errors_tell_whether_their_interval_contains_1(shared, printed):
    assert print_shared(*shared) == printed

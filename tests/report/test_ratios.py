"""Ratios of speeds: the median of the rounds, and an interval by the binomial distribution."""

from __future__ import annotations

import doctest
import math

import pytest
from scipy.stats import binom

import ablations.report.ratios
from ablations.report.ratios import compare_rounds, find_rank


@pytest.mark.parametrize(
    ("count", "rank"), [(0, 0), (5, 0), (6, 1), (8, 1), (9, 2), (11, 2), (12, 3), (15, 4), (20, 6)]
)
def test_the_ranks_are_those_of_tables_of_the_sign_test(count, rank):
    assert find_rank(count) == rank


@pytest.mark.parametrize("count", range(1, 200))
def test_the_interval_is_the_narrowest_that_covers_95_percent(count):
    """The k-th smallest and the k-th largest miss the median with probability 2 P(X < k)."""
    rank = find_rank(count)
    assert not rank or 2 * binom.cdf(rank - 1, count, 0.5) <= 0.05
    assert 2 * binom.cdf(rank, count, 0.5) > 0.05


def test_six_rounds_give_their_extremes():
    found = compare_rounds([3.0, 2.0, 4.0, 8.0, 3.0, 2.5], [1.0, 1.0, 1.0, 2.0, 1.0, 1.0])
    assert (found.median, found.low, found.high) == (3.0, 2.0, 4.0)


def test_nine_rounds_leave_out_one_value_at_each_end():
    found = compare_rounds([float(value) for value in (9, 1, 8, 2, 7, 3, 6, 4, 5)], [1.0] * 9)
    assert (found.median, found.low, found.high) == (5.0, 2.0, 8.0)


def test_a_drift_that_both_share_cancels():
    base = [1.0, 1.5, 2.0, 2.5, 3.0, 3.5]
    found = compare_rounds([2 * value for value in base], base)
    assert (found.median, found.low, found.high) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("rounds", range(6))
def test_too_few_rounds_give_no_interval(rounds):
    found = compare_rounds([2.0] * rounds, [1.0] * rounds)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert found.median == 2.0 if rounds else math.isnan(found.median)


def test_the_example_of_the_docstring_holds():
    found = doctest.testmod(ablations.report.ratios)
    assert (found.attempted, found.failed) == (1, 0)

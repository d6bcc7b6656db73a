"""The ratio of two speeds that were measured in rounds, with an interval that needs no assumption on their spread."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

CONFIDENCE = 0.95
"""The least probability with which an interval contains the true median."""


@dataclass(frozen=True)
class Ratio:
    """The median of the ratios of all rounds, and the interval of the true median; NaN for unknown."""

    median: float
    low: float
    high: float


def compare_rounds(level: Sequence[float], base: Sequence[float]) -> Ratio:
    """Returns the ratio level / base from one value of each per round.

    A round measures both shortly after each other, so that what disturbs both cancels. The interval reaches from the
    k-th smallest to the k-th largest ratio, with the largest k of at least 95 % confidence: each ratio lies below the
    true median with probability 1/2, whatever its distribution is (Conover 1999, Practical Nonparametric Statistics,
    section 3.2). With 6 to 8 rounds k is 1; fewer than 6 rounds give no interval.

    >>> compare_rounds([2.0, 2.2, 1.8, 2.1, 2.0, 2.0], [1.0] * 6)
    Ratio(median=2.0, low=1.8, high=2.2)
    """
    ratios = sorted(above / below for above, below in zip(level, base, strict=True))
    rank = find_rank(len(ratios))
    if not rank:
        return Ratio(median(ratios) if ratios else math.nan, math.nan, math.nan)
    return Ratio(median(ratios), ratios[rank - 1], ratios[-rank])


def find_rank(count: int) -> int:
    """Returns the largest k for which the k-th smallest and the k-th largest of `count` values hold the true median.

    That is, with 95 % confidence at least; 0 if no k does. The interval misses the median if fewer than k values lie
    on one side of it: with probability 2 P(X < k), where X is binomial with n = `count` and p = 1/2.
    """
    rank, missed = 0, 0
    while True:
        missed += 2 * math.comb(count, rank)
        if missed > (1 - CONFIDENCE) * 2**count:
            return rank
        rank += 1

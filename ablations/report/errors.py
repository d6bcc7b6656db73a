"""Do the runs of a level err on the same images as those of the base, and in the same classes?

The **error consistency** of two runs is Cohen's kappa of their outcomes, right or wrong, on the same images (Geirhos,
Meding and Wichmann 2020, arXiv 2006.16736):

    kappa = (agreement - expected) / (1 - expected)

Agreement is the share of the images on which both runs are right or both are wrong. Expected is the agreement of two
runs of these accuracies that err independently. Kappa is 1 if both err on exactly the same images, and 0 if they agree
as often as by chance. Two runs of one network with different seeds have a kappa below 1, too, so a kappa says little
without that of two such runs beside it.

The **shared errors** of a level and the base need no second number. They are the correlation, over the images, of the
chances that a run of either classifies the image correctly:

    cov(level, base) / sqrt(cov(level, level) * cov(base, base))

where each covariance is of the outcomes of two runs with different seeds, a mean over all pairs. This is Spearman's
correction for attenuation (1904): 1 means that the level finds the same images hard as another run of the base does,
whatever their accuracies are. The variance is a jackknife's: over groups of images, and what the level's and the base's
runs add to it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from ablations.report.comparison import Runs
from ablations.report.statistics import SIGNIFICANCE, Floats, Part, add_parts

GROUPS = 100
"""The most groups of images that are left out one after another."""

MOST_CLASSES = 20
"""The most classes whose accuracies are shown one by one."""


FEWEST = 100
"""The fewest wrong images per run, and the fewest right ones, on the average, of which a kappa says anything."""

RUNS = 3
"""The fewest runs of a level and of the base: without one of two, no pair is left for a jackknife."""


@dataclass(frozen=True)
class ClassChange:
    """The change of the accuracy of one class against the base, in points. NaN means unknown."""

    value: float
    different: bool
    """Whether its 95 % t interval over the seeds does not contain 0. The intervals hold for all classes and levels of a
    study together."""


@dataclass(frozen=True)
class LevelErrors:
    """How far a level errs as the base does. NaN means unknown."""

    level: str
    is_base: bool
    n: int
    """The number of finished runs."""

    with_base: float
    """The mean error consistency of a run of the level and one of the base, with different seeds."""

    own: float
    """The mean error consistency of two runs of the level."""

    shared: float
    """The shared errors of the level and the base, with their 95 % interval from `low` to `high`. Known together."""

    low: float
    high: float
    classes: tuple[ClassChange, ...]
    """By class, in the order of their numbers; empty if unknown, or if there are many classes."""


def compare_errors(levels: Sequence[tuple[str, bool, Runs]]) -> tuple[LevelErrors, ...]:
    """Compares the errors of the levels of a study, (level, is_base, runs), with those of its base.

    Returns nothing if no level can be compared: that takes RUNS runs of the base and of another level, on the same
    images, with FEWEST wrong and right ones a run.
    """
    base = next(runs for _, is_base, runs in levels if is_base)
    count = max(1, sum(not is_base and not runs.equals(base) for _, is_base, runs in levels))
    found = tuple(_compare(name, is_base, runs, base, count) for name, is_base, runs in levels)
    return found if any(not math.isnan(each.shared) for each in found) else ()


def _compare(name: str, is_base: bool, runs: Runs, base: Runs, levels: int) -> LevelErrors:
    if runs.test_set != base.test_set or not all(map(_has_errors, (runs, base))):
        return LevelErrors(name, is_base, runs.n, math.nan, math.nan, math.nan, math.nan, math.nan, ())
    both, chosen = _leave_out_images(_stack(runs, base)), _choose_pairs(runs, base)
    with_base, own = (float(each[0, 0]) for each in _average(_find_kappas(both[:1]), chosen)[:2])
    if is_base:
        return LevelErrors(name, is_base, runs.n, own, own, math.nan, math.nan, math.nan, ())
    classes = _compare_classes(runs, base, levels)
    if runs.equals(base):
        return LevelErrors(name, is_base, runs.n, with_base, own, 1.0, 1.0, 1.0, classes)
    shared = _share(_average(_find_covariances(both), chosen))
    value, half = float(shared[0, 0]), _find_half(shared, (runs.n, base.n), levels)
    ends = (value, value - half, value + half) if not math.isnan(half) else (math.nan,) * 3
    return LevelErrors(name, is_base, runs.n, with_base, own, *ends, classes)


def _has_errors(runs: Runs) -> bool:
    """Returns whether the errors of a level's runs are known, and are enough."""
    bits = [each for each in runs.outcomes if each is not None]
    if not RUNS <= runs.n == len(bits):
        return False
    wrong = statistics.fmean(int((~each).sum()) for each in bits)
    return FEWEST <= wrong <= len(bits[0]) - FEWEST


def _stack(*levels: Runs) -> Floats:
    return np.array([bits for runs in levels for bits in runs.outcomes], dtype=float)


def find_kappas(outcomes: Floats) -> Floats:
    """Returns Cohen's kappa of each two runs, `(runs, images) -> (runs, runs)`; NaN for runs without errors."""
    return _find_kappas(outcomes @ outcomes.T / outcomes.shape[1])


def _find_kappas(both: Floats) -> Floats:
    """Returns the kappas from the shares of images that both of two runs classified correctly, `(..., runs, runs)`."""
    right = np.diagonal(both, axis1=-2, axis2=-1)
    sums = right[..., :, None] + right[..., None, :]
    disagreement = sums - 2 * right[..., :, None] * right[..., None, :]
    return 2 * _find_covariances(both) / np.where(disagreement > 0, disagreement, np.nan)


def _find_covariances(both: Floats) -> Floats:
    """Returns the covariances of outcomes, 1 or 0, from the shares that both of two runs classified correctly."""
    right = np.diagonal(both, axis1=-2, axis2=-1)
    covariances: Floats = both - right[..., :, None] * right[..., None, :]
    return covariances


def _leave_out_images(outcomes: Floats) -> Floats:
    """Returns the share of images that both of two runs classified correctly: of all images, then without one group of
    them after another, `(1 + groups, runs, runs)`.
    """
    images = outcomes.shape[1]
    groups = [outcomes[:, first :: min(GROUPS, images)] for first in range(min(GROUPS, images))]
    products = np.array([np.zeros((len(outcomes),) * 2), *(group @ group.T for group in groups)])
    counts = images - np.array([0, *(group.shape[1] for group in groups)])
    both: Floats = (products.sum(axis=0) - products) / counts[:, None, None]
    return both


def _choose_pairs(runs: Runs, base: Runs) -> NDArray[np.bool_]:
    """Returns which pairs of runs each mean is over: `(3, 1 + runs, runs, runs)`.

    The means are with the base, within the level and within the base; first over all runs, then without one after
    another. Only pairs with different seeds count: runs with the same one saw the images in the same order.
    """
    seeds = np.array([*runs.accuracies, *base.accuracies])
    of_base = np.arange(len(seeds)) >= runs.n
    both = np.stack([np.not_equal.outer(of_base, of_base), ~of_base[:, None] & ~of_base, of_base[:, None] & of_base])
    kept = np.vstack([np.ones(len(seeds), bool), ~np.eye(len(seeds), dtype=bool)])
    found: NDArray[np.bool_] = (both & np.not_equal.outer(seeds, seeds))[:, None] & kept[:, :, None] & kept[:, None, :]
    return found


def _average(values: Floats, chosen: NDArray[np.bool_]) -> Floats:
    """Returns the three means over pairs, `(samples, runs, runs)` -> `(3, samples, 1 + runs)`; NaN without a pair."""
    known = np.isfinite(values)
    sums = np.einsum("sij,kmij->ksm", np.where(known, values, 0.0), chosen)
    counts = np.einsum("sij,kmij->ksm", known.astype(float), chosen)
    means: Floats = sums / np.where(counts > 0, counts, np.nan)
    return means


def _share(means: Floats) -> Floats:
    """Returns the shared errors from the three mean covariances; NaN if two runs of one level share no errors."""
    with_base, own, of_base = means
    product = np.where((own > 0) & (of_base > 0), own * of_base, np.nan)
    shared: Floats = with_base / np.sqrt(product)
    return shared


def _find_half(shared: Floats, sizes: tuple[int, int], levels: int) -> float:
    """Returns half the width of the interval of the shared errors, which holds for all levels together (Bonferroni).

    `shared` has their values without a group of images and without a run, `(1 + groups, 1 + runs)`; both axes begin
    with nothing left out. What neither the image nor the run explains is in both variances, over the images and over
    the runs, so it is taken out of the second. With it, the degrees of freedom are more, and the narrower of both
    intervals counts. NaN if a value is.
    """
    if np.isnan(shared).any():
        return math.nan
    over_images = Part(float(_jackknife(shared[1:, 0])), len(shared) - 2)
    over_runs, rest = [], 0.0
    for own in (shared[:, 1 : 1 + sizes[0]], shared[:, 1 + sizes[0] :]):
        apart, number = own - own.mean(axis=1, keepdims=True), own.shape[1]
        over_runs.append(Part(float((apart[0] ** 2).sum()) * (number - 1) / number, number - 1))
        rest += float(_jackknife(apart[1:]).sum()) * (number - 1) / number
    runs = add_parts(over_runs)
    whole, beyond = add_parts([over_images, runs]), max(0.0, runs.variance - rest)
    variance = over_images.variance + beyond
    less = Part(variance, whole.degrees * (variance / whole.variance) ** 2) if beyond and variance else over_images
    return min(_find_width(part, levels) for part in (whole, less))


def _find_width(part: Part, levels: int) -> float:
    """Returns half the width of a t interval that holds for so many levels together, for a variance."""
    quantile = -float(special.stdtrit(max(1.0, part.degrees), SIGNIFICANCE / 2 / levels))
    return quantile * math.sqrt(part.variance)


def _jackknife(values: Floats) -> Floats:
    """Returns the variance of estimates from their values without one group after another, `(groups, ...) -> (...)`."""
    number = len(values)
    variance: Floats = (number - 1) ** 2 / number * values.var(axis=0, ddof=1)
    return variance


def _compare_classes(runs: Runs, base: Runs, levels: int) -> tuple[ClassChange, ...]:
    """Compares the accuracy of each class with the base's by Welch's t interval over the seeds.

    Equal accuracies do not show how far others would vary, so no spread counts as less than one image of a class.
    """
    own, others = (np.array(each.class_accuracies, dtype=float) for each in (runs, base))
    if own.ndim < 2 or own.shape[1:] != others.shape[1:] or own.shape[1] > MOST_CLASSES:
        return ()
    change = own.mean(axis=0) - others.mean(axis=0)
    floor = (100 * len(change) / runs.test_set[1]) ** 2
    found = []
    for place, value in enumerate(change.round(9) + 0.0):  # removes rounding errors of sums
        spreads = [max(floor, float(each[:, place].var(ddof=1))) for each in (own, others)]
        parts = [Part(spread / len(each), len(each) - 1) for spread, each in zip(spreads, (own, others), strict=True)]
        total = add_parts(parts)
        quantile = -float(special.stdtrit(max(1.0, total.degrees), SIGNIFICANCE / 2 / (levels * len(change))))
        found.append(ClassChange(float(value), bool(abs(value) > quantile * math.sqrt(total.variance))))
    return tuple(found)


def make_errors_frame(errors: Sequence[LevelErrors]) -> pd.DataFrame:
    """Returns a row per level: level, is_base, n, error consistency, shared errors, the change of each class."""
    rows = [
        {
            "level": each.level,
            "is_base": each.is_base,
            "n": each.n,
            "error_consistency": each.with_base,
            "error_consistency_own": each.own,
            "shared_errors": each.shared,
            "shared_errors_low": each.low,
            "shared_errors_high": each.high,
            **{f"class_{number}": change.value for number, change in enumerate(each.classes)},
        }
        for each in errors
    ]
    return pd.DataFrame(rows)

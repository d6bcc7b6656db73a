"""Compares the mean accuracies of levels: over the seeds and the test images together, or over the seeds alone.

The model, for image i of N and seed s of the n seeds of level a, with y = 100 for a correctly classified image and 0
for another: `y_asi = mean_a + image_ai + seed_as + rest_asi`. Seeds are random draws within a level, and the same
images are classified by all levels. For a contrast `sum_a c_a mean_a` the variance is estimated by

    sum_a c_a² S_a / n_a  +  V / N  -  sum_a c_a² R_a / (n_a N)

where S_a is the variance of the accuracy over the seeds, V the variance over the images of the contrast of their mean
outcomes, and R_a the mean square of `rest`, which the first two terms both contain. For one level against another with
paired seeds these are the crossed random effects `(MS_seed + MS_image - MS_rest) / (n N)`. The degrees of freedom are
Satterthwaite's (1946). Intervals are simultaneous: their factor is a quantile of the largest |t| of the family
(Dunnett 1955, in general Hothorn, Bretz and Westfall 2008), so that they decide the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from scipy.stats import qmc

SIGNIFICANCE = 0.05
POWER = 0.8
"""The probability with which the smallest detectable difference is found, if the spread of the runs is the true one."""

POWER_WITHIN = (1 + POWER) / 2
"""A true difference of 0 must be found to be below the margin and above its negative."""

SHARED = 0.01
"""Seeds are paired if a two-way analysis of variance finds their effect at this level."""

WIDER, WIDER_BASE = 0.1, 0.2
"""A level with a wider spread than the others, by a one-sided F-test at this level, is judged by its own spread. For
the base the level is WIDER_BASE, because its spread is in every comparison."""

OUTLYING = 0.001
"""A level whose spread differs from the others', by an F-test at this level, is left out of the pooled spread."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """The finished runs of a level: two or more."""

    accuracies: tuple[float, ...]
    """The accuracy of each run, in %."""

    seeds: tuple[Hashable, ...]
    """What each run drew its random numbers from. Equal seeds are paired if they matter."""

    images: int
    """The number of test images."""

    outcomes: NDArray[np.bool_] | None = None
    """Which images each run classified correctly, `(seeds, images)`; None if the records do not tell."""


@dataclass(frozen=True)
class Images:
    """What the outcomes of single images tell of the levels."""

    shares: Floats
    """The share of a level's runs that classified an image correctly, in %, `(levels, images)`."""

    residuals: Floats
    """The mean square of what neither the image nor the seed explains, `(levels,)`."""


@dataclass(frozen=True)
class Fit:
    """Means of levels, and how much they vary over the seeds and the images. Each array has a value per level."""

    counts: Floats
    """The number of seeds."""

    means: Floats
    variances: Floats
    """The variance of the accuracy over the seeds."""

    degrees: Floats
    """The degrees of freedom of that variance."""

    pools: NDArray[np.int_]
    """The number of the pool that the variance is from: levels with the same number share one variance."""

    paired: bool
    """Whether the seeds have an effect that the levels share, which was removed."""

    images: Images | None
    """None if the accuracies are compared on these test images only."""


def fit(samples: Sequence[Sample], base: int | None = None) -> Fit:
    """Fits the model to the samples of several levels, which classified the same images.

    `base` is the place of the level that the others are compared with, if there is one.
    """
    variances, degrees, paired = _measure_spreads(samples)
    floor = max((100 / sample.images) ** 2 if sample.images else 0.0 for sample in samples) or 1e-4
    used, freedom, pools = pool(np.maximum(variances, floor), degrees, base)
    known = [sample.outcomes for sample in samples if sample.outcomes is not None]
    images = None
    if len(known) == len(samples):
        shares = [100 * outcomes.mean(axis=0) for outcomes in known]
        images = Images(np.array(shares), np.array([_find_residual(outcomes) for outcomes in known]))
    return Fit(
        counts=np.array([len(sample.accuracies) for sample in samples], dtype=float),
        means=np.array([math.fsum(sample.accuracies) / len(sample.accuracies) for sample in samples]),
        variances=used,
        degrees=freedom,
        pools=pools,
        paired=paired,
        images=images,
    )


def _measure_spreads(samples: Sequence[Sample]) -> tuple[Floats, Floats, bool]:
    """Returns the variance over the seeds of each level, its degrees of freedom, and whether seeds were paired.

    The seeds are paired if all levels have the same ones and a two-way analysis of variance finds that they matter.
    """
    rows = [np.array(sample.accuracies) for sample in samples]
    if len(samples) > 1 and len({sample.seeds for sample in samples}) == 1:
        table = np.array(rows)
        levels, seeds = table.shape
        effects = table.mean(axis=0) - table.mean()
        rest = table - table.mean(axis=1, keepdims=True) - effects
        freedom = (levels - 1) * (seeds - 1)
        explained, left = levels * (effects**2).sum() / (seeds - 1), (rest**2).sum() / freedom
        if left > 0 and special.fdtrc(seeds - 1, freedom, explained / left) < SHARED:
            each = np.full(levels, freedom / levels)
            return (rest**2).sum(axis=1) / each, each, True
    degrees = np.array([len(row) - 1.0 for row in rows])
    return np.array([row.var(ddof=1) for row in rows]), degrees, False


def pool(variances: Floats, degrees: Floats, base: int | None = None) -> tuple[Floats, Floats, NDArray[np.int_]]:
    """Pools the variances of levels with equally many seeds, as far as they agree.

    Returns for each the variance to use, its degrees of freedom, and the number of its pool; a variance that is used
    itself has a pool of its own. A pool leaves out the largest and the smallest variances that differ from the rest by
    an F-test at OUTLYING. Of the others, one that is larger than the pooled rest is used itself at WIDER, or at
    WIDER_BASE if it is the base's, which is in every comparison. The variance of a single level of two seeds is not
    taken to be smaller than the others'.
    """
    used, freedom, pools = variances.copy(), degrees.copy(), np.arange(len(variances))
    for number in np.unique(degrees):
        alike = degrees == number
        inside = alike & _find_majority(variances, degrees, alike)
        shared = variances[inside].mean()
        for place in np.flatnonzero(inside & (variances > shared)):
            rest = inside.copy()
            rest[place] = False
            level = WIDER_BASE if place == base else WIDER
            if rest.any() and _compare_spread(variances, degrees, int(place), rest)[0] < level:
                continue
            used[place], freedom[place], pools[place] = shared, degrees[inside].sum(), len(variances) + int(number)
        small = inside & (variances <= shared)
        used[small], freedom[small], pools[small] = shared, degrees[inside].sum(), len(variances) + int(number)
    few = freedom < 2  # two seeds alone do not tell how far others would lie apart
    if few.any() and not few.all():
        used[few] = np.maximum(used[few], (used * degrees)[~few].sum() / degrees[~few].sum())
    return used, freedom, pools


def _find_majority(variances: Floats, degrees: Floats, alike: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns which of these variances are left when those at both ends that differ from the rest are taken away.

    At each end the most are taken away, up to a half, of which the one nearest to the rest still differs: two wide
    levels do not hide each other.
    """
    order = np.argsort(variances, kind="stable")
    inside = alike.copy()
    for tail, ordered in ((0, order[::-1]), (1, order)):
        left = [place for place in ordered if inside[place]]
        for number in range(len(left) // 2, 0, -1):
            rest = np.zeros(len(variances), dtype=bool)
            rest[left[number:]] = True
            nearest = left[number - 1]
            whole = variances[nearest] != variances[left[number]]  # equal variances stay together
            if len(left) > 2 and whole and _compare_spread(variances, degrees, nearest, rest)[tail] < OUTLYING:
                inside[left[:number]] = False
                break
    return inside


def _compare_spread(variances: Floats, degrees: Floats, place: int, rest: NDArray[np.bool_]) -> tuple[float, float]:
    """Returns the upper and the lower tail of the F-test of one variance against the pooled variance of others."""
    freedom = degrees[rest].sum()
    pooled = (variances * degrees)[rest].sum() / freedom
    if not pooled > 0:
        return (0.0, 1.0) if variances[place] > 0 else (1.0, 1.0)
    ratio = variances[place] / pooled
    return float(special.fdtrc(degrees[place], freedom, ratio)), float(special.fdtr(degrees[place], freedom, ratio))


def _find_residual(outcomes: NDArray[np.bool_]) -> float:
    """Returns the mean square of what neither the image nor the seed explains, from outcomes `(seeds, images)`."""
    values = 100.0 * outcomes
    seeds, images = values.shape
    rest = values - values.mean(axis=1, keepdims=True) - values.mean(axis=0) + values.mean()
    return float((rest**2).sum() / ((seeds - 1) * max(1, images - 1)))


@dataclass(frozen=True)
class Part:
    """One term of the variance of an estimate, with the degrees of freedom of its mean square."""

    variance: float
    degrees: float


@dataclass(frozen=True)
class Estimate:
    """A contrast of the means of levels, with the terms of its variance."""

    value: float
    seeds: Part
    """What varies over the seeds."""

    images: Part
    """What varies over the images, `rest` included; 0 if the model is of the seeds alone."""

    rest: Part
    """What the first two terms both contain."""

    @property
    def beyond(self) -> float:
        """The variance over the images beyond what varies over the seeds. More seeds do not make it smaller."""
        return max(0.0, self.images.variance - self.rest.variance)

    @property
    def error(self) -> float:
        """The standard error."""
        return math.sqrt(self.seeds.variance + self.beyond)

    @property
    def degrees(self) -> float:
        """The degrees of freedom of the standard error (Satterthwaite 1946), at least 1."""
        parts = [self.seeds, self.images, self.rest] if self.beyond else [self.seeds]
        return max(1.0, self.error**4 / sum(part.variance**2 / part.degrees for part in parts))


def estimate(fitted: Fit, contrast: Floats) -> Estimate:
    """Estimates a contrast `(levels,)` of the means of the levels."""
    variances = contrast**2 * fitted.variances / fitted.counts
    terms = [
        Part(variances[fitted.pools == number].sum(), fitted.degrees[fitted.pools == number][0])
        for number in np.unique(fitted.pools)
    ]
    images, rest = _vary_images(fitted, contrast)
    return Estimate(float(contrast @ fitted.means), add_parts(terms), images, rest)


def _vary_images(fitted: Fit, contrast: Floats) -> tuple[Part, Part]:
    """Returns what varies over the images, and what the seeds vary, too."""
    if fitted.images is None or fitted.images.shares.shape[1] < 2:
        return Part(0.0, 1.0), Part(0.0, 1.0)
    number = fitted.images.shares.shape[1]
    seen = float((contrast @ fitted.images.shares).var(ddof=1)) / number
    rest = contrast**2 * fitted.images.residuals / (fitted.counts * number)
    degrees = (fitted.counts - 1) * (number - 1)
    return Part(seen, number - 1), add_parts([Part(*pair) for pair in zip(rest, degrees, strict=True)])


def add_parts(parts: Sequence[Part]) -> Part:
    """Returns a sum of independent terms, with its degrees of freedom (Satterthwaite 1946)."""
    variance = float(sum(part.variance for part in parts))
    spread = float(sum(part.variance**2 / part.degrees for part in parts))
    return Part(variance, variance**2 / spread if spread else 1.0)


DRAWS = 13
"""The distribution of the largest |t| is computed from 2^13 points, which gives three digits of its quantiles."""


class Family:
    """Comparisons that are judged together: one false verdict among all of them has the probability 5 %."""

    def __init__(self, correlations: Floats) -> None:
        """Takes the correlations of the comparisons, `(comparisons, comparisons)`."""
        size = len(correlations)
        root = np.linalg.cholesky(correlations + 1e-9 * np.eye(size))  # equal comparisons make it singular
        self.size = size
        drawn = np.abs(_draw_normals(size) @ root.T).max(axis=1)
        self.largest = np.sort(drawn).reshape(1024, -1).mean(axis=1)  # a summary that is quick to average over

    def correct(self, t: float, degrees: float) -> float:
        """Returns the probability that the largest |t| of the family is at least `t`, if no level differs."""
        if abs(t) < 1e-100:
            return 1.0
        alone = 2 * float(special.stdtr(degrees, -abs(t)))
        several = float(special.chdtr(degrees, degrees * (self.largest / t) ** 2).mean())
        return min(1.0, max(alone, min(several, self.size * alone)))

    def find_factor(self, degrees: float) -> float:
        """Returns the number of standard errors to each side of a simultaneous 95 % interval."""
        low, high = (-float(special.stdtrit(degrees, SIGNIFICANCE / 2 / count)) for count in (1, self.size))
        if self.size == 1:
            return low
        found = optimize.brentq(lambda t: self.correct(t, degrees) - SIGNIFICANCE, 0.99 * low, 1.01 * high, xtol=1e-9)
        return float(found)

    def finds(self, estimated: Estimate, effect: float, power: float) -> bool:
        """Returns whether a true difference as large as `effect` is found with this probability.

        It is found if `find_smallest` is not larger; this is faster, as it needs no root.
        """
        if not estimated.error:
            return True
        left = abs(effect) / estimated.error - float(special.stdtrit(estimated.degrees, power))
        return left > 0 and self.correct(left, estimated.degrees) <= SIGNIFICANCE


@cache
def _draw_normals(size: int) -> Floats:
    """Returns points of the standard normal distribution, `(2^DRAWS, size)`, the same in every call (Sobol 1967)."""
    uniform = qmc.Sobol(size, scramble=True, rng=0).random_base2(DRAWS)
    points: Floats = special.ndtri(np.maximum(uniform, 2.0**-31))  # among many, some are 0: half of the finest step
    return points


def foresee(fitted: Fit, contrast: Floats, seeds: int) -> Estimate:
    """Returns the estimate of a contrast that so many seeds of each level would give, if they vary as these do."""
    now, counts = estimate(fitted, contrast), np.full_like(fitted.counts, seeds)
    degrees = fitted.degrees * (counts - 1) / (fitted.counts - 1)
    later = estimate(replace(fitted, counts=counts, degrees=degrees), contrast)
    return replace(later, images=replace(later.images, variance=now.beyond + later.rest.variance))


@dataclass(frozen=True)
class Comparison:
    """A contrast with its simultaneous 95 % interval and its p-values."""

    fitted: Fit
    contrast: Floats
    family: Family

    @cached_property
    def estimate(self) -> Estimate:
        """The contrast of the means, with its variance."""
        return estimate(self.fitted, self.contrast)

    @cached_property
    def half(self) -> float:
        """Half the width of the simultaneous interval."""
        return self.family.find_factor(self.estimate.degrees) * self.estimate.error

    @property
    def p(self) -> float:
        """The p-value of this comparison alone."""
        return 2 * float(special.stdtr(self.estimate.degrees, -abs(self._t)))

    @property
    def p_corrected(self) -> float:
        """The p-value corrected for all comparisons of the family. It is below 0.05 if the interval excludes 0."""
        return self.family.correct(abs(self._t), self.estimate.degrees)

    @property
    def _t(self) -> float:
        return self.estimate.value / self.estimate.error

    @property
    def smallest(self) -> float:
        """The smallest true difference that this comparison finds with the probability POWER."""
        return find_smallest(self.estimate, self.family)

    def count_seeds(self, effect: float) -> float:
        """Returns how many seeds each level needs to find a true difference as large as `effect`."""
        return count_seeds(self._foresee, self.family, effect, POWER)

    def count_seeds_within(self, margin: float) -> float:
        """Returns how many seeds each level needs so that a true difference of 0 is found to be within the margin.

        With so many seeds, a true difference as large as the margin is found, too.
        """
        return count_seeds(self._foresee, self.family, margin, POWER_WITHIN)

    def _foresee(self, seeds: int) -> Estimate:
        return foresee(self.fitted, self.contrast, seeds)


def compare(fitted: Fit, contrasts: Floats) -> list[Comparison]:
    """Compares by several contrasts `(contrasts, levels)`, which are one family."""
    if not len(contrasts):
        return []
    covariance = (contrasts * (fitted.variances / fitted.counts)) @ contrasts.T
    if fitted.images is not None and fitted.images.shares.shape[1] > 1:
        covariance += np.atleast_2d(np.cov(contrasts @ fitted.images.shares)) / fitted.images.shares.shape[1]
    scale = np.sqrt(np.diag(covariance))
    family = Family(covariance / np.outer(scale, scale))
    return [Comparison(fitted, contrast, family) for contrast in contrasts]


def find_smallest(estimated: Estimate, family: Family, power: float = POWER) -> float:
    """Returns the smallest true difference that is found with this probability."""
    degrees = estimated.degrees
    return (family.find_factor(degrees) + float(special.stdtrit(degrees, power))) * estimated.error


MOST_SEEDS = 1000


def count_seeds(foreseen: Callable[[int], Estimate], family: Family, effect: float, power: float) -> float:
    """Returns how many seeds give an estimate that finds an effect with this probability, at least two.

    Returns infinity if MOST_SEEDS do not suffice: the test images are too few, or the effect is too small.
    """

    def finds(number: int) -> bool:
        return family.finds(foreseen(number), effect, power)

    low, high = 2, MOST_SEEDS
    if not finds(high):
        return math.inf
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if finds(middle) else (middle + 1, high)
    return low


def compute_half_interval(sd: float, n: int) -> float:
    """Returns half the width of the 95 % t interval of a mean over n seeds; NaN for less than two."""
    return float(special.stdtrit(n - 1, 1 - SIGNIFICANCE / 2)) * sd / math.sqrt(n) if n > 1 else math.nan

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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special
from scipy.stats import qmc

SIGNIFICANCE = 0.05
POWER = 0.8
"""The probability with which the smallest detectable effect is found."""

SHARED = 0.01
"""Seeds are paired if a two-way analysis of variance finds their effect at this level."""

WIDER = 0.1
"""A level with a wider spread than the others, by a one-sided F-test at this level, is judged by its own spread."""

OUTLYING = 0.001
"""A level whose spread differs from the others', by an F-test at this level, is left out of the pooled spread."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Sample:
    """The finished runs of a level: two or more."""

    accuracies: tuple[float, ...]
    """The accuracy of each run, in %."""

    seeds: tuple[int, ...]
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

    pooled: NDArray[np.bool_]
    """Whether the variance is the one that the levels share."""

    paired: bool
    """Whether the seeds have an effect that the levels share, which was removed."""

    images: Images | None
    """None if the accuracies are compared on these test images only."""


def fit(samples: Sequence[Sample]) -> Fit:
    """Fits the model to the samples of several levels, which classified the same images."""
    variances, degrees, paired = _measure_spreads(samples)
    floor = max((100 / sample.images) ** 2 if sample.images else 0.0 for sample in samples) or 1e-4
    shared, freedom, pooled = pool(variances, degrees)
    known = [sample.outcomes for sample in samples if sample.outcomes is not None]
    images = None
    if len(known) == len(samples):
        shares = [100 * outcomes.mean(axis=0) for outcomes in known]
        images = Images(np.array(shares), np.array([_find_residual(outcomes) for outcomes in known]))
    return Fit(
        counts=np.array([len(sample.accuracies) for sample in samples], dtype=float),
        means=np.array([math.fsum(sample.accuracies) / len(sample.accuracies) for sample in samples]),
        variances=np.maximum(shared, floor),
        degrees=freedom,
        pooled=pooled,
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


def pool(variances: Floats, degrees: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Pools variances that agree.

    Returns for each the variance to use, its degrees of freedom, and whether it is the pooled one. The pool leaves out
    variances that differ from the others' by an F-test at OUTLYING. A variance that is larger at WIDER is used itself;
    a smaller one is replaced by the pooled one.
    """
    inside = np.ones(len(variances), dtype=bool)
    while inside.sum() > 2:
        tails = [min(_compare_spread(variances, degrees, inside, int(place))) for place in np.flatnonzero(inside)]
        if min(tails) >= OUTLYING:
            break
        inside[np.flatnonzero(inside)[int(np.argmin(tails))]] = False
    freedom = degrees[inside].sum()
    shared = (variances * degrees)[inside].sum() / freedom
    wide = np.array([_compare_spread(variances, degrees, inside, place)[0] < WIDER for place in range(len(variances))])
    own = wide & (variances > shared)
    return np.where(own, variances, shared), np.where(own, degrees, freedom), ~own


def _compare_spread(variances: Floats, degrees: Floats, inside: NDArray[np.bool_], place: int) -> tuple[float, float]:
    """Returns the upper and the lower tail of the F-test of one variance against the pooled variance of the others."""
    others = inside.copy()
    others[place] = False
    freedom = degrees[others].sum()
    pooled = (variances * degrees)[others].sum() / freedom if freedom else 0.0
    if not pooled > 0:
        return (0.0, 1.0) if freedom and variances[place] > 0 else (1.0, 1.0)
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

    def with_seeds(self, before: float, after: float) -> Estimate:
        """Returns the estimate that `after` seeds of each level would give instead of `before`, varying as these do."""
        seeds, rest = (
            Part(part.variance * before / after, part.degrees * (after - 1) / (before - 1))
            for part in (self.seeds, self.rest)
        )
        return Estimate(self.value, seeds, Part(self.beyond + rest.variance, self.images.degrees), rest)


def estimate(fitted: Fit, contrast: Floats) -> Estimate:
    """Estimates a contrast `(levels,)` of the means of the levels."""
    variances = contrast**2 * fitted.variances / fitted.counts
    terms = [Part(variances[place], fitted.degrees[place]) for place in np.flatnonzero(~fitted.pooled)]
    if fitted.pooled.any():
        terms.append(Part(variances[fitted.pooled].sum(), fitted.degrees[fitted.pooled][0]))
    images, rest = _vary_images(fitted, contrast)
    return Estimate(float(contrast @ fitted.means), _add_parts(terms), images, rest)


def _vary_images(fitted: Fit, contrast: Floats) -> tuple[Part, Part]:
    """Returns what varies over the images, and what the seeds vary, too."""
    if fitted.images is None or fitted.images.shares.shape[1] < 2:
        return Part(0.0, 1.0), Part(0.0, 1.0)
    number = fitted.images.shares.shape[1]
    seen = float((contrast @ fitted.images.shares).var(ddof=1)) / number
    rest = contrast**2 * fitted.images.residuals / (fitted.counts * number)
    degrees = (fitted.counts - 1) * (number - 1)
    return Part(seen, number - 1), _add_parts([Part(*pair) for pair in zip(rest, degrees, strict=True)])


def _add_parts(parts: Sequence[Part]) -> Part:
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


@cache
def _draw_normals(size: int) -> Floats:
    """Returns points of the standard normal distribution, `(2^DRAWS, size)`, the same in every call (Sobol 1967)."""
    points: Floats = special.ndtri(qmc.Sobol(size, scramble=True, rng=0).random_base2(DRAWS))
    return points


@dataclass(frozen=True)
class Comparison:
    """A contrast with its simultaneous 95 % interval and its p-values."""

    estimate: Estimate
    family: Family

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


def compare(fitted: Fit, contrasts: Floats) -> list[Comparison]:
    """Compares by several contrasts `(contrasts, levels)`, which are one family."""
    if not len(contrasts):
        return []
    covariance = (contrasts * (fitted.variances / fitted.counts)) @ contrasts.T
    if fitted.images is not None and fitted.images.shares.shape[1] > 1:
        covariance += np.atleast_2d(np.cov(contrasts @ fitted.images.shares)) / fitted.images.shares.shape[1]
    scale = np.sqrt(np.diag(covariance))
    family = Family(covariance / np.outer(scale, scale))
    return [Comparison(estimate(fitted, contrast), family) for contrast in contrasts]


def find_smallest(estimated: Estimate, family: Family) -> float:
    """Returns the smallest true difference that is found with the probability POWER."""
    degrees = estimated.degrees
    return (family.find_factor(degrees) + float(special.stdtrit(degrees, POWER))) * estimated.error


MOST_SEEDS = 1000


def count_seeds(estimated: Estimate, family: Family, seeds: float, effect: float) -> int | None:
    """Returns how many seeds a level would need to find an effect with the probability POWER, at least two.

    Returns None if MOST_SEEDS do not suffice: then the test images are too few, or the effect is too small. `seeds` is
    the number that the estimate is from, two or more.
    """

    def finds(number: int) -> bool:
        return find_smallest(estimated.with_seeds(seeds, number), family) <= abs(effect)

    low, high = 2, MOST_SEEDS
    if not finds(high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if finds(middle) else (middle + 1, high)
    return low


def compute_half_interval(sd: float, n: int) -> float:
    """Returns half the width of the 95 % t interval of a mean over n seeds; NaN for less than two."""
    return float(special.stdtrit(n - 1, 1 - SIGNIFICANCE / 2)) * sd / math.sqrt(n) if n > 1 else math.nan

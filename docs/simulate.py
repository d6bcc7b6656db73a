"""Simulates studies to see how often the suite's verdicts are wrong, and how often they find what is there.

    python docs/simulate.py              # prints the tables of docs/statistics.md in about eight minutes
    python docs/simulate.py --studies 200

Each simulated study has a base and further levels, each trained with n seeds. In most rows no level differs from the
base, so that every "different" is false. The usual alternative stands beside it: a paired t-test for each level, with
Holm's correction over the study.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, stdtr

from ablations.report.statistics import SIGNIFICANCE, Sample, compare, fit

SD = 0.525
"""The standard deviation of the accuracy over the seeds, in points, as seen over 18 variants on digits."""

Draw = Callable[[np.random.Generator], tuple[list[Sample], NDArray[np.float64]]]
"""Draws the runs of a study: a sample for each level, and the true change of each level but the base."""


@dataclass(frozen=True)
class Rates:
    """Shares of simulated studies, in %."""

    wrong: float
    """Studies with a false verdict, or in which an interval does not contain the true change."""

    wrong_by_holm: float
    """Studies with a false verdict of paired t-tests with Holm's correction."""

    found: float
    """Studies in which the change of the first level was found."""

    found_by_holm: float


def draw_seeds(seeds: Sequence[int], effect: float = 0.0, wide: Sequence[int] = (), shared: float = 0.0) -> Draw:
    """Accuracies that vary over the seeds alone; `seeds` has the number of seeds of each level.

    Levels in `wide` vary three times as much; `shared` is the standard deviation of what all levels share in a seed.
    """
    levels = len(seeds)

    def draw(random: np.random.Generator) -> tuple[list[Sample], NDArray[np.float64]]:
        sds, truth = np.full(levels, SD), np.zeros(levels - 1)
        sds[list(wide)] *= 3
        truth[0] = effect
        means, common = 90 + np.array([0, *truth]), random.normal(0, shared, max(seeds))
        samples = [
            Sample(tuple(random.normal(mean, sd, number) + common[:number]), tuple(range(number)), 0)
            for mean, sd, number in zip(means, sds, seeds, strict=True)
        ]
        return samples, truth

    return draw


def draw_images(levels: int, seeds: int, images: int, effect: float = 0.0, spread: float = 0.05) -> Draw:
    """Outcomes of images that are drawn from a population, by a probit model.

    Images differ in difficulty, levels differ in what they find difficult, and seeds vary by `spread`. The truth is the
    change of the accuracy in the population, not on the images drawn.
    """
    own, rest = 0.5, 1.0
    scale = float(np.sqrt(1.5**2 + own**2 + rest**2 + spread**2))
    true_effect = 100 * float(ndtr((2 + effect) / scale) - ndtr(2 / scale))

    def draw(random: np.random.Generator) -> tuple[list[Sample], NDArray[np.float64]]:
        easy = random.normal(2, 1.5, images) + random.normal(0, own, (levels, 1, images))
        easy[1] += effect
        scores = easy + random.normal(0, spread, (levels, seeds, 1)) + random.normal(0, rest, (levels, seeds, images))
        samples = [Sample(tuple(100 * one.mean(axis=1)), tuple(range(seeds)), images, one) for one in scores > 0]
        return samples, np.array([true_effect, *[0.0] * (levels - 2)])

    return draw


def measure(draw: Draw, studies: int, over_images: bool = True, stream: int = 0) -> Rates:
    """Returns how often the verdicts of so many studies are wrong. `stream` chooses the random numbers."""
    random, counts = np.random.default_rng(stream), np.zeros(4)
    for _ in range(studies):
        samples, truth = draw(random)
        if not over_images:
            samples = [Sample(each.accuracies, each.seeds, each.images) for each in samples]
        contrasts = np.hstack([-np.ones((len(truth), 1)), np.eye(len(truth))])
        found = compare(fit(samples, base=0), contrasts)
        outside = [
            each.family.correct((each.estimate.value - true) / each.estimate.error, each.estimate.degrees)
            < SIGNIFICANCE
            for each, true in zip(found, truth, strict=True)
        ]
        holm = _test_pairs(samples)
        counts += [any(outside), any(holm[truth == 0]), found[0].p_corrected < SIGNIFICANCE, holm[0]]
    return Rates(*(100 * counts / studies))


def _test_pairs(samples: Sequence[Sample]) -> NDArray[np.bool_]:
    """Returns which levels differ by a paired t-test with Holm's correction."""
    base, *others = (np.array(sample.accuracies) for sample in samples)
    if len({len(sample.accuracies) for sample in samples}) > 1:
        return np.zeros(len(others), dtype=bool)  # no pairs
    p = np.array([_test_pair(other - base) for other in others])
    order = np.argsort(p)
    corrected = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    return corrected[np.argsort(order)] < SIGNIFICANCE


def _test_pair(differences: NDArray[np.float64]) -> float:
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    return 2 * float(stdtr(len(differences) - 1, -abs(differences.mean()) / error)) if error else 1.0


def list_rows(studies: int) -> Iterator[tuple[str, str]]:
    """Yields each table's name and row."""
    for levels in (2, 6, 20):
        for seeds in (3, 5, 10):
            null = measure(draw_seeds([seeds] * levels), studies)
            power = measure(draw_seeds([seeds] * levels, effect=2.0), studies, stream=1)
            cells = (null.wrong, null.wrong_by_holm, power.wrong, power.found, power.found_by_holm)
            yield "seeds", f"| {levels} | {seeds} | " + " | ".join(f"{cell:.1f}" for cell in cells) + " |"
    for images in (360, 2000):
        for levels in (2, 6, 20):
            for seeds in (3, 5, 10):
                if images * levels * seeds > 120_000:
                    continue  # large and slow
                draw = draw_images(levels, seeds, images)
                both, alone = measure(draw, studies // 2), measure(draw, studies // 2, over_images=False)
                power = measure(draw_images(levels, seeds, images, effect=0.3), studies // 2, stream=1)
                cells = (both.wrong, alone.wrong, both.wrong_by_holm, power.wrong, power.found)
                head = f"| {images} | {levels} | {seeds} | "
                yield "images", head + " | ".join(f"{cell:.1f}" for cell in cells) + " |"
    spreads: dict[str, tuple[list[int], dict[str, Any]]] = {
        "the base varies more": ([0], {"wide": [0]}),
        "one level varies more": ([0], {"wide": [2]}),
        "two levels vary more": ([0], {"wide": [2, 3]}),
        "the levels share the effect of a seed": ([0], {"shared": SD}),
        "the base has 10 seeds": ([10], {}),
        "the base has 10 seeds, the levels vary more": ([10], {"wide": [1, 2, 3, 4, 5]}),
        "the base has 2 seeds": ([2], {}),
    }
    for name, (first, options) in spreads.items():
        for seeds in (3, 5, 10):
            numbers = [first[0] or seeds, *[seeds] * 5]
            yield "spreads", f"| {name} | {seeds} | {measure(draw_seeds(numbers, **options), studies).wrong:.1f} |"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000, help="studies per row (half as many with images)")
    asked, start, table = parser.parse_args(), time.monotonic(), ""
    for name, row in list_rows(asked.studies):
        if name != table:
            print(f"\n{name}")
            table = name
        print(row, flush=True)
    print(f"\n{asked.studies} studies a row, {time.monotonic() - start:.0f} s")

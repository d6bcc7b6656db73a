"""Compares the levels of a study with its base, and decides: different, equivalent within a margin, or undecided.

The simultaneous interval decides. Levels whose runs ended with equal weights and equal results are `identical`,
without a test.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import special

from ablations.metrics import level_text
from ablations.report.effects import Contrast, Move
from ablations.report.mixing import MIXED
from ablations.report.statistics import SIGNIFICANCE, Comparison, Fit, Sample, compare, fit
from ablations.storage.records import unpack_bits

Verdict = Literal[
    "base", "different", "equivalent", "undecided", "identical", "no result", "not comparable"
]  # fmt: skip

DECIDED = ("different", "equivalent", "undecided")
"""The verdicts of comparisons that were tested."""


@dataclass(frozen=True)
class Difference:
    """A change of accuracy, in points. NaN means unknown."""

    n: int
    """The number of seeds; for an effect, the smallest number among its levels."""

    value: float
    low: float
    """The lower end of the simultaneous 95 % interval."""

    high: float
    verdict: Verdict
    p: float = math.nan
    p_corrected: float = math.nan
    """The p-value corrected for all comparisons of the study."""

    smallest: float = math.nan
    """The smallest true difference that such runs find in about four cases of five; NaN above 100 points."""

    seeds_for_change: float = math.nan
    """The seeds a level that find a true difference of this size in about four cases of five, if undecided. Infinite if
    a thousand do not suffice."""

    seeds_for_margin: float = math.nan
    """The seeds a level that show in about four cases of five that a true difference of 0 is within the margin."""


@dataclass(frozen=True)
class Effect:
    """A main effect (one move) or an interaction (two moves) of a product study."""

    moves: tuple[Move, ...]
    difference: Difference

    @property
    def name(self) -> str:
        """The name with which it is cited: `growth_rate 4 -> 8 x epochs 1 -> 2`."""
        return " x ".join(
            f"{move.axis.rpartition('.')[2]} {level_text(move.before)} -> {level_text(move.after)}"
            for move in self.moves
        )


@dataclass(frozen=True)
class Conclusions:
    """What the runs of a study tell of its levels."""

    levels: pd.DataFrame
    """A row per level: level, variant, is_base, n, not_done, lost, mean, sd, difference, low, high, p, p_corrected,
    smallest_difference, seeds_for_change, seeds_for_margin, verdict."""

    effects: tuple[Effect, ...]
    """Main effects and interactions of a product study."""

    family: int
    """The number of comparisons that are judged together."""

    over_images: bool
    """Whether the intervals cover the choice of the test images, too."""

    paired: bool
    """Whether the comparisons are paired by seed, because the seeds matter."""

    runs: int
    """The number of runs that were compared."""

    seed_sd: float | None
    """The standard deviation of the accuracy over the seeds, in points, the median over the levels; None if unknown."""

    image_error: float
    """The standard error of a difference from the choice of the test images, in points, the median over the
    comparisons; 0 if the intervals do not cover it."""


@dataclass(frozen=True)
class Runs:
    """The runs of a variant."""

    accuracies: Mapping[int, float]
    """In %, by seed, of the finished runs."""

    ends: Mapping[int, tuple[Any, ...]]
    """What each finished run ended with, by seed: the checksum of its weights, its accuracy, and the images that it
    classified correctly. A network may compute something else from the same weights."""

    arithmetic: tuple[str, ...]
    """The instructions that each finished run was computed with. Seeds are paired only if these are the same."""

    outcomes: tuple[NDArray[np.bool_] | None, ...]
    """Which test images each finished run classified correctly; None if a record does not tell."""

    test_set: tuple[str, int]
    """The checksum of the data and the number of test images. Only runs with the same test set are compared."""

    not_done: Mapping[str, int]
    """The number of other runs by status, in alphabetical order."""

    class_accuracies: tuple[tuple[float, ...], ...] = ()
    """The accuracy of each finished run on the images of each class, in %; empty if a record does not tell."""

    @property
    def n(self) -> int:
        """The number of finished runs."""
        return len(self.accuracies)

    @property
    def lost(self) -> int:
        """The number of runs that ended without a result. A run that is missing, or set aside as mixed, is not lost."""
        return sum(number for status, number in self.not_done.items() if status not in ("missing", MIXED))

    @property
    def mean(self) -> float:
        """The mean accuracy of the finished runs."""
        return statistics.fmean(self.accuracies.values()) if self.n else math.nan

    @property
    def worst_mean(self) -> float:
        """The mean accuracy if the lost runs count as 0 %."""
        return self.mean * self.n / (self.n + self.lost) if self.n else math.nan

    @property
    def lowest_mean(self) -> float:
        """The mean accuracy if runs are lost as often as is still likely, and count as 0 %.

        That share is the upper end of the 95 % interval of Clopper and Pearson (1934).
        """
        share = float(special.betaincinv(self.lost + 1, self.n, 1 - SIGNIFICANCE / 2)) if self.lost else 0.0
        return self.mean * (1 - share)

    def equals(self, other: Runs) -> bool:
        """Returns whether no run of both was lost, and all seeds that both have ended in the same way, at least one."""
        if self.lost or other.lost:
            return False
        common = self.ends.keys() & other.ends.keys()
        return bool(common) and all(self.ends[seed] == other.ends[seed] for seed in common)

    @cached_property
    def sample(self) -> Sample:
        """The finished runs for the statistics."""
        known = [each for each in self.outcomes if each is not None]
        outcomes = np.array(known) if len(known) == self.n and known else None
        draws = tuple(zip(self.accuracies, self.arithmetic, strict=True))
        return Sample(tuple(self.accuracies.values()), draws, self.test_set[1], outcomes)


def conclude(
    levels: pd.DataFrame,
    runs: pd.DataFrame,
    contrasts: Sequence[Contrast] = (),
    margin: float | None = None,
    test: bool = True,
) -> Conclusions:
    """Compares each level with the base, and judges the effects of a product study in the same family.

    `levels` has the columns level, variant and is_base; `runs` are those of Frames. `margin` is the largest difference,
    in points, that does not matter to the reader; without one, no level is called equivalent. Without `test`, no change
    has an interval, and none is decided.
    """
    found = collect_runs(runs[runs.variant.isin(levels.variant)])
    base = str(levels.loc[levels.is_base, "variant"].iloc[0])
    return _Judge(found, base, margin, test).conclude(levels, contrasts)


class _Judge:
    """Builds the family of a study, and gives each comparison its verdict."""

    def __init__(self, runs: Mapping[str, Runs], base: str, margin: float | None, test: bool) -> None:
        self.runs, self.base, self.margin, self.test = runs, base, margin, test
        finished = [each for each in (runs[base], *runs.values()) if each.n]
        same = [name for name, each in runs.items() if each.n > 1 and each.test_set == finished[0].test_set]
        self.known = [name for name in same if not math.isnan(runs[name].mean)]  # a hidden accuracy is NaN
        places: dict[Any, int] = {}  # equal runs of two levels are one sample
        self.place = {name: places.setdefault(tuple(runs[name].ends.items()), len(places)) for name in self.known}
        samples = {self.place[name]: runs[name].sample for name in reversed(self.known)}
        ordered = [samples[place] for place in sorted(samples)]
        self.fitted: Fit | None = fit(ordered, self.place.get(base)) if samples else None

    def conclude(self, levels: pd.DataFrame, contrasts: Sequence[Contrast]) -> Conclusions:
        weights: list[Mapping[str, float]] = [{str(name): 1.0, self.base: -1.0} for name in levels.variant]
        weights += [contrast.weights for contrast in contrasts]
        fixed = [self._settle(str(name)) for name in levels.variant]
        fixed += [self._settle_effect(contrast) for contrast in contrasts]
        tested = [each for each, settled in zip(weights, fixed, strict=True) if settled is None]
        found = self._compare(tested) if self.test else []
        judged = iter([self._judge(*each) for each in zip(tested, found, strict=True)])
        differences = [settled or next(judged) for settled in fixed]
        rows = [
            self._fill_row(row, difference)
            for row, difference in zip(levels.to_dict("records"), differences[: len(levels)], strict=True)
        ]
        of_effects = zip(contrasts, differences[len(levels) :], strict=True)
        effects = [Effect(each.moves, difference) for each, difference in of_effects]
        fitted = self.fitted
        return Conclusions(
            pd.DataFrame(rows),
            tuple(effects),
            len(found),
            fitted is not None and fitted.images is not None,
            fitted is not None and fitted.paired,
            sum(self.runs[name].n for name in self.known),
            None if fitted is None else math.sqrt(np.median(fitted.variances)),
            statistics.median([math.sqrt(each.estimate.beyond) for each in found]) if found else 0.0,
        )

    def _settle(self, name: str) -> Difference | None:
        """Returns the difference of a level that needs no test; None for a level to be tested."""
        own, base = self.runs[name], self.runs[self.base]
        value = own.mean - base.mean
        if name == self.base:
            return Difference(own.n, math.nan, math.nan, math.nan, "base")
        if not own.n or not base.n or math.isnan(value):
            return Difference(own.n, math.nan, math.nan, math.nan, "no result")
        if own.test_set != base.test_set:
            return Difference(own.n, math.nan, math.nan, math.nan, "not comparable")
        if own.equals(base):
            return Difference(own.n, 0.0, 0.0, 0.0, "identical")
        if min(own.n, base.n) < 2 or not self.test:
            return Difference(own.n, value, math.nan, math.nan, "undecided")
        return None

    def _settle_effect(self, contrast: Contrast) -> Difference | None:
        """Returns an effect that needs no test; None for one to be tested."""
        seeds = min(self.runs[name].n for name in contrast.weights)
        if seeds and any(
            all(one == other or self.runs[one].equals(self.runs[other]) for one, other in pairs)
            for pairs in contrast.twins
        ):
            return Difference(seeds, 0.0, 0.0, 0.0, "identical")
        if not all(name in self.place for name in contrast.weights):
            return Difference(seeds, math.nan, math.nan, math.nan, "no result")
        return None

    def _compare(self, contrasts: Sequence[Mapping[str, float]]) -> list[Comparison]:
        if self.fitted is None:
            return []
        rows = np.zeros((len(contrasts), len(self.fitted.means)))
        for row, weights in zip(rows, contrasts, strict=True):
            for name, weight in weights.items():
                row[self.place[name]] += weight
        return compare(self.fitted, rows)

    def _judge(self, weights: Mapping[str, float], found: Comparison) -> Difference:
        """Returns the verdict of a tested contrast. Lost runs widen its interval: they may have been anything."""
        runs = {name: self.runs[name] for name in weights}
        drops = {name: weights[name] * (each.mean - each.lowest_mean) for name, each in runs.items()}
        value, half = round(found.estimate.value, 9) + 0.0, found.half  # removes rounding errors of sums
        low = max(-100.0, value - half - math.fsum(drop for drop in drops.values() if drop > 0))
        high = min(100.0, value + half - math.fsum(drop for drop in drops.values() if drop < 0))
        seeds, verdict = min(each.n for each in runs.values()), decide(low, high, self.margin)
        if any(each.lost for each in runs.values()):
            return Difference(seeds, value, low, high, verdict)
        needed = {}
        if verdict == "undecided":
            needed["seeds_for_change"] = found.count_seeds(value) if value else math.nan
            if self.margin:
                needed["seeds_for_margin"] = found.count_seeds_within(self.margin)
        smallest = found.smallest if found.smallest <= 100 else math.nan
        return Difference(seeds, value, low, high, verdict, found.p, found.p_corrected, smallest, **needed)

    def _fill_row(self, row: dict[Any, Any], found: Difference) -> dict[str, Any]:
        own = self.runs[row["variant"]]
        accuracies = list(own.accuracies.values())
        return {
            **{key: row[key] for key in ("level", "variant", "is_base")},
            "n": own.n,
            "not_done": describe_not_done(own.not_done),
            "lost": own.lost,
            "mean": own.mean,
            "sd": statistics.stdev(accuracies) if own.n > 1 and not math.isnan(own.mean) else math.nan,
            **{name: getattr(found, key) for name, key in COLUMNS.items()},
        }


COLUMNS = {
    "difference": "value",
    "low": "low",
    "high": "high",
    "p": "p",
    "p_corrected": "p_corrected",
    "smallest_difference": "smallest",
    "seeds_for_change": "seeds_for_change",
    "seeds_for_margin": "seeds_for_margin",
    "verdict": "verdict",
}
"""The columns of a comparison, by the attributes of Difference."""


def decide(low: float, high: float, margin: float | None) -> Verdict:
    """Returns the verdict that a simultaneous interval gives."""
    if low > 0 or high < 0:
        return "different"
    return "equivalent" if margin and -margin <= low and high <= margin else "undecided"


def make_effects_frame(effects: Sequence[Effect]) -> pd.DataFrame:
    """Returns a row per effect: effect, axes, levels, n, and the columns of a comparison."""
    rows = [
        {
            "effect": "main" if len(effect.moves) == 1 else "interaction",
            "axes": " x ".join(move.axis for move in effect.moves),
            "levels": ", ".join(f"{level_text(move.before)} -> {level_text(move.after)}" for move in effect.moves),
            "n": effect.difference.n,
            **{name: getattr(effect.difference, key) for name, key in COLUMNS.items()},
        }
        for effect in effects
    ]
    return pd.DataFrame(rows, columns=["effect", "axes", "levels", "n", *COLUMNS])


def collect_runs(runs: pd.DataFrame) -> dict[str, Runs]:
    """Collects the runs of every variant from the frame of runs."""
    columns = [
        "seed", "status", "test_accuracy", "weights", "data_checksum", "test_images", "test_outcomes", "arithmetic",
        "test_per_class_accuracy",
    ]  # fmt: skip
    found = {}
    for name, part in runs.reindex(columns=["variant", *columns]).groupby("variant", sort=False):
        done = part[part.status == "done"]
        seeds = [int(seed) for seed in done.seed]
        images = [0 if pd.isna(number) else int(number) for number in done.test_images]
        known = [isinstance(text, str) for text in done.weights]  # unknown weights are identical with no others
        statuses = Counter(str(status) for status in part.status[part.status != "done"])
        accuracies, bits = list(map(float, done.test_accuracy)), map(str, done.test_outcomes)
        weights = [text if is_known else name for text, is_known in zip(done.weights, known, strict=True)]
        found[str(name)] = Runs(
            accuracies=dict(zip(seeds, accuracies, strict=True)),
            ends=dict(zip(seeds, zip(weights, accuracies, bits, strict=True), strict=True)),
            arithmetic=tuple(map(str, done.arithmetic)),
            outcomes=tuple(
                unpack_bits(packed, number) if isinstance(packed, str) else None
                for packed, number in zip(done.test_outcomes, images, strict=True)
            ),
            test_set=(str(next(iter(done.data_checksum), "")), max(images, default=0)),
            not_done=dict(sorted(statuses.items())),
            class_accuracies=_read_classes(done.test_per_class_accuracy),
        )
    return found


def _read_classes(texts: pd.Series) -> tuple[tuple[float, ...], ...]:
    if not all(isinstance(text, str) for text in texts):
        return ()
    found = tuple(tuple(math.nan if each is None else each for each in json.loads(text)) for text in texts)
    return found if len({*map(len, found)}) == 1 else ()


def describe_not_done(counts: Mapping[str, int]) -> str:
    """Returns `1 diverged, 2 missing`."""
    return ", ".join(f"{number} {status}" for status, number in counts.items())

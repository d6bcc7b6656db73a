"""Compares levels over their seeds: paired differences, 95 % intervals, and one rule for the verdict.

A difference is *resolved* if its paired t-test, Holm-corrected over the study, has p < 0.05. The interval covers only
the variation over seeds, not the choice of the test set.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from ablations.metrics import level_text
from ablations.storage.manifest import StudyEntry

SIGNIFICANCE = 0.05


@dataclass(frozen=True)
class Difference:
    """The difference of a variant from the base, paired by seed."""

    pairs: int
    mean: float
    low: float
    """The lower end of the 95 % t interval of the mean; NaN for less than two pairs."""

    high: float
    p: float
    """The p-value of a two-sided paired t-test, uncorrected; NaN if the differences do not vary."""

    identical: bool
    """Whether both runs of every pair have exactly the same weights, so that equal accuracies are no coincidence."""


Key = tuple[int, str, str]
"""Seed, device and torch version. Only runs with the same three values are paired."""

Runs = Mapping[Key, tuple[float, str]]
"""Accuracy and weights of a variant's finished runs."""


def compare_runs(base: Runs, other: Runs) -> Difference:
    """Returns `other` minus `base`, over the runs that both have."""
    keys = [key for key in base if key in other]
    return judge([other[key][0] - base[key][0] for key in keys], all(other[key][1] == base[key][1] for key in keys))


def judge(differences: Sequence[float], identical: bool) -> Difference:
    """Returns the mean of paired differences, one per seed, with its t interval (Student 1908) and t-test against 0."""
    differences = [round(difference, 9) for difference in differences]  # removes rounding errors of sums
    n = len(differences)
    if n and identical:
        end = 0.0 if n > 1 else math.nan
        return Difference(n, 0.0, end, end, 1.0, identical=True)
    mean = statistics.fmean(differences) if n else math.nan
    if n < 2:
        return Difference(n, mean, math.nan, math.nan, math.nan, identical=False)
    error = statistics.stdev(differences) / math.sqrt(n)  # stdev sums exactly: equal values have deviation 0
    if error <= 1e-9:  # only rounding: a t-test would call any such difference certain
        return Difference(n, mean, math.nan, math.nan, math.nan, identical=False)
    half = compute_half_interval(error * math.sqrt(n), n)
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return Difference(n, mean, mean - half, mean + half, p, identical=False)


def compute_half_interval(sd: float, n: int) -> float:
    """Returns half the width of the 95 % t interval of a mean over n seeds; NaN for less than two."""
    return float(stats.t.ppf(1 - SIGNIFICANCE / 2, n - 1)) * sd / math.sqrt(n) if n > 1 else math.nan


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values with Holm's step-down correction (Holm 1979). NaN means no test and stays NaN."""
    p = np.asarray(p_values, dtype=float)
    corrected = np.full(len(p), math.nan)
    tested = np.flatnonzero(~np.isnan(p))
    largest = 0.0
    for rank, index in enumerate(tested[np.argsort(p[tested], kind="stable")]):
        largest = max(largest, min(1.0, (len(tested) - rank) * float(p[index])))
        corrected[index] = largest
    return [float(value) for value in corrected]


def summarise(levels: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Returns the accuracy of each level of one study, in the order of the levels, and its difference from the base.

    Columns: level, variant, is_base, n, not_done (`1 diverged, 1 missing`), mean, sd, pairs, difference, low, high, p,
    p_holm, verdict.
    """
    own = runs[runs.variant.isin(levels.variant)]
    seeds, statuses = _collect_runs(own), count_not_done(own)
    base = seeds[str(levels.loc[levels.is_base, "variant"].iloc[0])]
    rows: list[dict[str, Any]] = []
    compared = []
    for level in levels.itertuples(index=False):
        done = seeds[str(level.variant)]
        accuracies = [accuracy for accuracy, _ in done.values()]
        compared.append(compare_runs(base, done))
        rows.append(
            {
                "level": level.level,
                "variant": level.variant,
                "is_base": level.is_base,
                "n": len(done),
                "not_done": describe_not_done(statuses[str(level.variant)]),
                "mean": statistics.fmean(accuracies) if done else math.nan,
                "sd": statistics.stdev(accuracies) if len(done) > 1 else math.nan,
            }
        )
    tests = [math.nan if row["is_base"] else each.p for row, each in zip(rows, compared, strict=True)]
    for row, each, corrected in zip(rows, compared, holm(tests), strict=True):
        if row["is_base"]:
            row |= dict.fromkeys(("difference", "low", "high", "p", "p_holm"), math.nan)
            row |= {"pairs": each.pairs, "verdict": "base"}
        else:
            row |= {"pairs": each.pairs, "difference": each.mean, "low": each.low, "high": each.high}
            verdict = "no pairs" if row["n"] and base and not each.pairs else _decide(each, corrected)
            row |= {"p": each.p, "p_holm": corrected, "verdict": verdict}
    return pd.DataFrame(rows)


@dataclass(frozen=True)
class Move:
    """A change from one level of an axis to another."""

    axis: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Effect:
    """A main effect (one move) or an interaction (two moves) of a product study."""

    moves: tuple[Move, ...]
    difference: Difference
    p_holm: float
    verdict: str


def find_effects(study: StudyEntry, runs: pd.DataFrame) -> list[Effect]:
    """Returns main effects and interactions of a study that is the product of several axes; an empty list for others.

    A main effect is the change from the base's level of an axis to another level, averaged over the levels of all other
    axes. An interaction is how much two changes along two axes, made together, differ from their sum. Each is
    paired by seed, over the seeds of all cells that it needs, and Holm-corrected over all effects of the study.
    """
    product = _find_product(study)
    if product is None:
        return []
    done = _collect_runs(runs[runs.variant.isin(product.variants.values())])
    changes = list(_list_changes(product))
    compared = [_compare_cells(product, changed, done) for changed in changes]
    return [
        Effect(_list_moves(product, changed), difference, corrected, _decide(difference, corrected))
        for changed, difference, corrected in zip(
            changes, compared, holm([difference.p for difference in compared]), strict=True
        )
    ]


def make_effects_frame(effects: Sequence[Effect]) -> pd.DataFrame:
    """Returns a row per effect: effect, axes, levels, pairs, difference, low, high, p, p_holm, verdict."""
    rows = [
        {
            "effect": "main" if len(effect.moves) == 1 else "interaction",
            "axes": " x ".join(move.axis for move in effect.moves),
            "levels": ", ".join(f"{level_text(move.before)} -> {level_text(move.after)}" for move in effect.moves),
            "pairs": effect.difference.pairs,
            "difference": effect.difference.mean,
            "low": effect.difference.low,
            "high": effect.difference.high,
            "p": effect.difference.p,
            "p_holm": effect.p_holm,
            "verdict": effect.verdict,
        }
        for effect in effects
    ]
    return pd.DataFrame(rows, columns=_EFFECT_COLUMNS)


_EFFECT_COLUMNS = ["effect", "axes", "levels", "pairs", "difference", "low", "high", "p", "p_holm", "verdict"]

Combination = tuple[str, ...]
"""A level of each axis, as text."""


@dataclass(frozen=True)
class _Product:
    """A study with every combination of the levels of its axes."""

    axes: tuple[str, ...]
    levels: list[list[str]]
    """The levels of each axis."""

    reference: Combination
    """The cell that all others are compared with: the base, or the first level of each axis if the base is no cell."""

    variants: dict[Combination, str]
    values: dict[tuple[int, str], Any]
    """The value of a field, by the number of its axis and the text of the level."""


def _find_product(study: StudyEntry) -> _Product | None:
    """Returns the study's product; None if the study is not a product."""
    axes = study.axes
    cells = {tuple(level_text(level.values.get(axis)) for axis in axes): level for level in study.levels}
    inside = {cell: level for cell, level in cells.items() if not level.is_base}
    for each in (cells, inside):
        levels = [list(dict.fromkeys(cell[place] for cell in each)) for place in range(len(axes))]
        if len(axes) > 1 and min(map(len, levels)) > 1 and len(each) == math.prod(map(len, levels)):
            base = next((cell for cell, level in each.items() if level.is_base), None)
            variants = {cell: level.variant for cell, level in each.items()}
            values = {(place, cell[place]): level.values.get(axis)
                      for cell, level in each.items() for place, axis in enumerate(axes)}  # fmt: skip
            return _Product(axes, levels, base or tuple(texts[0] for texts in levels), variants, values)
    return None


def _list_changes(product: _Product) -> Iterator[dict[int, str]]:
    """Yields the changed levels of each effect: a level of one axis or of two that differs from the reference."""
    others = [
        [level for level in levels if level != own]
        for levels, own in zip(product.levels, product.reference, strict=True)
    ]
    for count in (1, 2):
        for axes in itertools.combinations(range(len(others)), count):
            for levels in itertools.product(*(others[axis] for axis in axes)):
                yield dict(zip(axes, levels, strict=True))


def _list_moves(product: _Product, changed: Mapping[int, str]) -> tuple[Move, ...]:
    values = product.values
    return tuple(
        Move(product.axes[place], values[place, product.reference[place]], values[place, to])
        for place, to in changed.items()
    )


def _compare_cells(product: _Product, changed: Mapping[int, str], done: Mapping[str, Runs]) -> Difference:
    """Computes an effect for each seed: the cells with all changes, minus those with one axis unchanged, and so on."""
    choices = [
        [changed[axis], product.reference[axis]] if axis in changed else levels
        for axis, levels in enumerate(product.levels)
    ]
    runs = {cell: done[product.variants[cell]] for cell in itertools.product(*choices)}
    signs = {cell: math.prod(1 if cell[axis] == to else -1 for axis, to in changed.items()) for cell in runs}
    keys = [key for key in next(iter(runs.values())) if all(key in own for own in runs.values())]
    seen = len(runs) / 2 ** len(changed)
    differences = [sum(sign * runs[cell][key][0] for cell, sign in signs.items()) / seen for key in keys]

    def moves_nothing(axis: int) -> bool:
        """Returns whether this axis changes no weights in any cell."""
        still = {cell: (*cell[:axis], product.reference[axis], *cell[axis + 1 :]) for cell in runs}
        return all(runs[cell][key][1] == runs[other][key][1] for cell, other in still.items() for key in keys)

    return judge(differences, any(map(moves_nothing, changed)))


def _collect_runs(runs: pd.DataFrame) -> dict[str, dict[Key, tuple[float, str]]]:
    """Returns accuracy and weights of the finished runs of every variant."""
    found: dict[str, dict[Key, tuple[float, str]]] = {str(name): {} for name in runs.variant}
    columns = ["variant", "seed", "device_name", "torch", "test_accuracy", "weights"]
    for variant, *key, accuracy, weights in (
        runs[runs.status == "done"].reindex(columns=columns).itertuples(index=False)
    ):
        known = isinstance(weights, str)  # unknown weights are identical with no others
        found[str(variant)][tuple(key)] = float(accuracy), weights if known else f"unknown, {variant} {key}"
    return found


def count_not_done(runs: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Counts the runs of every variant by status, without `done`, in alphabetical order."""
    found: dict[str, Counter[str]] = {str(name): Counter() for name in runs.variant}
    for variant, status in runs[runs.status != "done"][["variant", "status"]].itertuples(index=False):
        found[str(variant)][status] += 1
    return {name: dict(sorted(counts.items())) for name, counts in found.items()}


def describe_not_done(counts: Mapping[str, int]) -> str:
    """Returns `1 diverged, 2 missing`."""
    return ", ".join(f"{number} {status}" for status, number in counts.items())


def _decide(difference: Difference, corrected: float) -> str:
    if not difference.pairs:
        return "no data"
    if difference.identical:
        return "identical"
    return "resolved" if corrected < SIGNIFICANCE else "not resolved"

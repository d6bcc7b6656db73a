"""What the seeds carry: paired differences, 95 % intervals, and one rule that decides.

A difference is *resolved* when its paired t-test, Holm-corrected over the study, has p < 0.05. The interval is of the
seeds alone: that the test set is itself a sample is not in it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """A variant against the base, paired by seed."""

    pairs: int
    mean: float
    low: float
    """Lower end of the 95 % t interval of the mean; NaN below two pairs."""

    high: float
    p: float
    """Two-sided paired t-test, uncorrected; NaN where the differences do not vary."""

    identical: bool
    """Both of every pair ended in the very same weights: not a tie by chance."""


def paired(base: pd.DataFrame, other: pd.DataFrame) -> Difference:
    """`other` minus `base`, over the runs that both have.

    Both have the columns test_accuracy and weights and are indexed by seed, device and version.
    """
    pairs = base.merge(other, left_index=True, right_index=True, suffixes=("_base", ""))
    differences = [float(value) for value in pairs.test_accuracy - pairs.test_accuracy_base]
    n = len(differences)
    if n and bool((pairs.weights == pairs.weights_base).all()):
        end = 0.0 if n > 1 else math.nan
        return Difference(n, 0.0, end, end, 1.0, identical=True)
    mean = statistics.fmean(differences) if n else math.nan
    if n < 2:
        return Difference(n, mean, math.nan, math.nan, math.nan, identical=False)
    error = statistics.stdev(differences) / math.sqrt(n)  # exact sums: equal values have deviation 0
    if error <= 1e-12 * abs(mean):  # rounding alone: a t-test would call any such difference certain
        return Difference(n, mean, math.nan, math.nan, math.nan, identical=False)
    half = float(stats.t.ppf(1 - LEVEL / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return Difference(n, mean, mean - half, mean + half, p, identical=False)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (Holm 1979); NaN is no test and stays NaN."""
    p = np.asarray(p_values, dtype=float)
    corrected = np.full(len(p), math.nan)
    tested = np.flatnonzero(~np.isnan(p))
    largest = 0.0
    for rank, index in enumerate(tested[np.argsort(p[tested], kind="stable")]):
        largest = max(largest, min(1.0, (len(tested) - rank) * float(p[index])))
        corrected[index] = largest
    return [float(value) for value in corrected]


def summary(levels: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """Accuracy per level of one study, in the levels' order, and its difference from the base.

    Columns: level, variant, is_base, n, not_done (`1 diverged, 1 missing`), mean, sd, pairs, difference, low, high, p,
    p_holm, verdict.
    """
    by_variant = {str(name): group for name, group in runs.groupby("variant", sort=False)}
    seeds = {name: _accuracies(group) for name, group in by_variant.items()}
    base = seeds[str(levels.loc[levels.is_base, "variant"].iloc[0])]
    rows, compared = [], []
    for level in levels.itertuples(index=False):
        own, group = seeds[str(level.variant)], by_variant[str(level.variant)]
        statuses = group.status.value_counts().sort_index().to_dict()
        compared.append(paired(base, own))
        rows.append(
            {
                "level": level.level,
                "variant": level.variant,
                "is_base": level.is_base,
                "n": len(own),
                "not_done": ", ".join(f"{n} {name}" for name, n in statuses.items() if name != "done"),
                "mean": statistics.fmean(own.test_accuracy) if len(own) else math.nan,
                "sd": statistics.stdev(own.test_accuracy) if len(own) > 1 else math.nan,
            }
        )
    tests = [math.nan if row["is_base"] else each.p for row, each in zip(rows, compared, strict=True)]
    for row, each, corrected in zip(rows, compared, holm(tests), strict=True):
        if row["is_base"]:
            row |= dict.fromkeys(("difference", "low", "high", "p", "p_holm"), math.nan)
            row |= {"pairs": each.pairs, "verdict": "base"}
        else:
            row |= {"pairs": each.pairs, "difference": each.mean, "low": each.low, "high": each.high}
            row |= {"p": each.p, "p_holm": corrected, "verdict": _verdict(each, corrected)}
    return pd.DataFrame(rows)


def _accuracies(runs: pd.DataFrame) -> pd.DataFrame:
    """By seed, device and torch version: only runs that agree in all three are paired."""
    key = ["seed", "device_name", "torch"]
    done = runs[runs.status == "done"].reindex(columns=[*key, "test_accuracy", "weights"])
    return done.astype({"test_accuracy": float}).set_index(key)


def _verdict(difference: Difference, corrected: float) -> str:
    if not difference.pairs:
        return "no data"
    if difference.identical:
        return "identical"
    return "resolved" if corrected < LEVEL else "not resolved"

"""Statistics against scipy called directly, and against cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import ablations
from ablations.statistics import holm, paired, summary


def accuracies(values, weights="own"):
    """Runs by seed; no two of different columns end in the same weights, unless said."""
    frame = pd.DataFrame({"test_accuracy": values, "weights": [f"{weights} {n}" for n in range(len(values))]})
    return frame.astype({"test_accuracy": float})


BASE = accuracies([90, 91, 92], "base's")


def test_by_hand():
    """Differences 2, 2.5, 1.5: mean 2, deviation 0.5, error 0.5 / sqrt(3), t(2, 0.975) = 4.302653."""
    found = paired(BASE, accuracies([92, 93.5, 93.5]))
    assert found.mean == 2.0
    assert found.high - found.mean == pytest.approx(4.302653 * 0.5 / math.sqrt(3), rel=1e-6)
    assert found.p == pytest.approx(2 * (1 - stats.t.cdf(2 / (0.5 / math.sqrt(3)), 2)))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=8))
def test_against_scipy(pairs):
    base, other = zip(*pairs, strict=True)
    found = paired(accuracies(base, "base's"), accuracies(other))
    assert not found.identical
    if math.isnan(found.p):
        return
    reference = stats.ttest_rel(other, base)
    interval = reference.confidence_interval(0.95)
    assert found.p == pytest.approx(reference.pvalue, rel=1e-6, abs=1e-12)
    assert [found.low, found.high] == pytest.approx([interval.low, interval.high], rel=1e-6, abs=1e-9)


def test_the_same_weights_are_identical_and_a_tie_by_chance_is_not():
    assert paired(BASE, BASE).identical
    tie = paired(BASE, accuracies([90, 91, 92]))
    assert (tie.identical, tie.mean) == (False, 0.0)
    assert math.isnan(tie.p)


def test_a_constant_shift_is_not_called_certain():
    shifted = paired(BASE, accuracies([91, 92, 93]))
    assert shifted.mean == 1.0
    assert math.isnan(shifted.p)


def test_one_pair_or_none_has_no_interval():
    one = paired(accuracies([90], "base's"), accuracies([91, 95]))
    assert (one.pairs, one.mean) == (1, 1.0)
    assert math.isnan(one.low)
    assert paired(BASE.iloc[:0], accuracies([1])).pairs == 0


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []
    first, second = holm([0.02, math.nan])
    assert first == 0.02
    assert math.isnan(second)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=10))
def test_holm_never_lowers_and_keeps_the_order(p_values):
    corrected = holm(p_values)
    assert all(c >= p for c, p in zip(corrected, p_values, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(corrected)[order]) >= 0).all()


def test_a_study_s_summary(results):
    frames = ablations.load(results)
    base, wide = summary(frames.studies, frames.runs).to_dict("records")
    assert (base["n"], base["mean"], base["sd"], base["verdict"]) == (3, 91.0, 1.0, "base")
    assert (wide["n"], wide["mean"], wide["difference"]) == (3, 93.0, 2.0)
    assert wide["p"] == wide["p_holm"] == pytest.approx(0.0202, abs=1e-4)
    assert wide["verdict"] == "resolved"


def test_failed_runs_lower_n_and_are_counted(results):
    frames = ablations.load(results)
    runs = frames.runs.copy()
    runs.loc[(runs["model.growth_rate"] == 8) & (runs.seed == 1), ["status", "test_accuracy"]] = ["diverged", math.nan]
    wide = summary(frames.studies, runs).to_dict("records")[1]
    assert (wide["n"], wide["pairs"], wide["mean"], wide["difference"]) == (2, 2, 92.75, 1.75)
    assert wide["not_done"] == "1 diverged"


def test_runs_of_different_devices_are_never_paired(results):
    frames = ablations.load(results)
    runs = frames.runs.copy()
    runs.loc[runs["model.growth_rate"] == 8, "device_name"] = "Another"
    wide = summary(frames.studies, runs).to_dict("records")[1]
    assert (wide["n"], wide["pairs"], wide["verdict"]) == (3, 0, "no data")

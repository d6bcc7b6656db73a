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
from ablations.report.statistics import compare_runs, find_effects, holm, make_effects_frame, summarise
from ablations.storage.manifest import LevelEntry, StudyEntry


def accuracies(values, weights="own"):
    """Runs by seed; no two of different variants end in the same weights, unless said."""
    return {(seed, "cpu", "1"): (float(value), f"{weights} {seed}") for seed, value in enumerate(values)}


BASE = accuracies([90, 91, 92], "base's")


def test_by_hand():
    """Differences 2, 2.5, 1.5: mean 2, deviation 0.5, error 0.5 / sqrt(3), t(2, 0.975) = 4.302653."""
    found = compare_runs(BASE, accuracies([92, 93.5, 93.5]))
    assert found.mean == 2.0
    assert found.high - found.mean == pytest.approx(4.302653 * 0.5 / math.sqrt(3), rel=1e-6)
    assert found.p == pytest.approx(2 * (1 - stats.t.cdf(2 / (0.5 / math.sqrt(3)), 2)))


@settings(max_examples=50)
@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=8))
def test_against_scipy(pairs):
    base, other = zip(*pairs, strict=True)
    found = compare_runs(accuracies(base, "base's"), accuracies(other))
    assert not found.identical
    if math.isnan(found.p):
        return
    reference = stats.ttest_rel(other, base)
    interval = reference.confidence_interval(0.95)
    assert found.p == pytest.approx(reference.pvalue, rel=1e-6, abs=1e-12)
    assert [found.low, found.high] == pytest.approx([interval.low, interval.high], rel=1e-6, abs=1e-9)


def test_the_same_weights_are_identical_and_a_tie_by_chance_is_not():
    assert compare_runs(BASE, BASE).identical
    tie = compare_runs(BASE, accuracies([90, 91, 92]))
    assert (tie.identical, tie.mean) == (False, 0.0)
    assert math.isnan(tie.p)


def test_a_constant_shift_is_not_called_certain():
    shifted = compare_runs(BASE, accuracies([91, 92, 93]))
    assert shifted.mean == 1.0
    assert math.isnan(shifted.p)


def test_one_pair_or_none_has_no_interval():
    one = compare_runs(accuracies([90], "base's"), accuracies([91, 95]))
    assert (one.pairs, one.mean) == (1, 1.0)
    assert math.isnan(one.low)
    assert compare_runs({}, accuracies([1])).pairs == 0


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
    base, wide = summarise(frames.studies, frames.runs).to_dict("records")
    assert (base["n"], base["mean"], base["sd"], base["verdict"]) == (3, 91.0, 1.0, "base")
    assert (wide["n"], wide["mean"], wide["difference"]) == (3, 93.0, 2.0)
    assert wide["p"] == wide["p_holm"] == pytest.approx(0.0202, abs=1e-4)
    assert wide["verdict"] == "resolved"


def test_failed_runs_lower_n_and_are_counted(results):
    frames = ablations.load(results)
    runs = frames.runs.copy()
    one = (runs["model.growth_rate"] == 8) & (runs.seed == 1)
    runs.loc[one, "status"], runs.loc[one, "test_accuracy"] = "diverged", math.nan
    wide = summarise(frames.studies, runs).to_dict("records")[1]
    assert (wide["n"], wide["pairs"], wide["mean"], wide["difference"]) == (2, 2, 92.75, 1.75)
    assert wide["not_done"] == "1 diverged"


def test_runs_of_different_devices_are_never_paired(results):
    frames = ablations.load(results)
    runs = frames.runs.copy()
    runs.loc[runs["model.growth_rate"] == 8, "device_name"] = "Another"
    wide = summarise(frames.studies, runs).to_dict("records")[1]
    assert (wide["n"], wide["pairs"], wide["verdict"]) == (3, 0, "no pairs")


def level_of(label, values, variant, is_base):
    return LevelEntry(label=label, values=values, variant=variant, is_base=is_base, declared=variant)


def study_of(levels, axes=("one", "two")):
    return StudyEntry(name="both", question="", axes=axes, seeds=(0,), levels=tuple(levels))


def effects(study, runs):
    return make_effects_frame(find_effects(study, runs))


def product_of(cells, seeds, base=("a", "x"), weights=None):
    """A study of two axes and its runs, from accuracies per cell and seed; None is a run that is missing."""
    levels = [level_of(f"{a}, {b}", {"one": a, "two": b}, f"{a}{b}", (a, b) == base) for a, b in cells]
    rows = [
        {
            "variant": f"{a}{b}", "seed": seed, "device_name": "cpu", "torch": "1", "test_accuracy": value,
            "status": "missing" if value is None else "done",
            "weights": f"{a}{b}{seed}" if weights is None else weights(a, b, seed),
        }
        for (a, b), values in cells.items()
        for seed, value in zip(seeds, values, strict=True)
    ]  # fmt: skip
    return study_of(levels), pd.DataFrame(rows)


TWO_BY_TWO = {("a", "x"): [90, 91, 92], ("a", "y"): [92, 92, 95], ("b", "x"): [91, 93, 93], ("b", "y"): [97, 97, 98]}
"""one: +1, +2, +1 at x and +5, +5, +3 at y; two: +2, +1, +3 at a and +6, +4, +5 at b."""


def test_effects_of_two_by_two_by_hand():
    found = effects(*product_of(TWO_BY_TWO, range(3)))
    assert found[["effect", "axes", "levels"]].to_numpy().tolist() == [
        ["main", "one", "a -> b"], ["main", "two", "x -> y"], ["interaction", "one x two", "a -> b, x -> y"],
    ]  # fmt: skip
    assert found.difference.tolist() == pytest.approx([(3 + 3.5 + 2) / 3, (4 + 2.5 + 4) / 3, (4 + 3 + 2) / 3])
    for row, differences in zip(found.itertuples(), ([3, 3.5, 2], [4, 2.5, 4], [4, 3, 2]), strict=True):
        reference = stats.ttest_1samp(differences, 0)
        assert row.p == pytest.approx(reference.pvalue)
        interval = reference.confidence_interval(0.95)
        assert [row.low, row.high] == pytest.approx([interval.low, interval.high])
    assert found.p_holm.tolist() == pytest.approx(holm(found.p.tolist()))


def test_effects_of_three_levels_are_means_over_the_other_axis():
    cells = {(a, b): [10 * i + j + i * j] * 2 for i, a in enumerate("abc") for j, b in enumerate("xy")}
    found = effects(*product_of(cells, range(2)))
    assert found.difference.tolist() == [10.5, 21, 2, 1, 2]
    assert found.effect.tolist() == ["main"] * 3 + ["interaction"] * 2
    assert found.verdict.unique().tolist() == ["not resolved"], "differences that do not vary are no test"


def test_an_effect_is_over_the_seeds_that_have_all_its_cells():
    cells = {**TWO_BY_TWO, ("b", "y"): [97, None, 98]}
    assert effects(*product_of(cells, range(3))).pairs.tolist() == [2, 2, 2]
    cells[("b", "z")] = cells[("a", "z")] = [90, 95, 91]
    found = effects(*product_of(cells, range(3))).set_index("levels")
    assert found.pairs.to_dict() == {"a -> b": 2, "x -> y": 2, "x -> z": 3, "a -> b, x -> y": 2, "a -> b, x -> z": 3}


def test_a_base_beside_the_product_and_what_is_none():
    study, runs = product_of(TWO_BY_TWO, range(3), base=None)
    levels = [*study.levels, level_of("base", {"one": "c", "two": "x"}, "ax", True)]
    assert effects(study_of(levels), runs).levels.tolist() == ["a -> b", "x -> y", "a -> b, x -> y"]
    assert effects(study_of(levels[1:]), runs).empty
    assert effects(study_of(levels[1:], axes=("one",)), runs).empty


def test_what_is_only_noise_of_sums_is_no_effect():
    """Accuracies of 360 images whose interaction is none in every seed, but for the last bits of floats."""
    counts = {("a", "x"): (330, 331, 333, 329, 335), ("a", "y"): (340, 337, 344, 341, 341)}
    gains = (7, 5, 11, 2, 4)
    more = {("b", b): [n + gain for n, gain in zip(counts["a", b], gains, strict=True)] for b in "xy"}
    cells = {cell: [100 * count / 360 for count in row] for cell, row in (counts | more).items()}
    found = effects(*product_of(cells, range(5))).set_index("effect")
    assert (found.difference["interaction"], found.verdict["interaction"]) == (0.0, "not resolved")
    assert math.isnan(found.p["interaction"])


def test_a_product_without_one_of_its_cells_is_none():
    """The cell that equals the base was left out: the others are no average over both axes."""
    study, runs = product_of(TWO_BY_TWO, range(3))
    assert effects(study_of([level for level in study.levels if level.label != "a, y"]), runs).empty


def test_an_axis_that_changes_no_bit_is_identical_and_interacts_with_nothing():
    cells = {(a, b): TWO_BY_TWO["a", b] for a, b in TWO_BY_TWO}
    study, runs = product_of(cells, range(3), weights=lambda a, b, seed: f"{b}{seed}")
    assert effects(study, runs).verdict.tolist() == ["identical", "not resolved", "identical"]


def falsely_resolved(studies, seeds, levels=6):
    """The share of null studies in which the rule resolves something: seeds vary, variants do not."""
    generator = np.random.default_rng(0)
    frame = pd.DataFrame({"level": range(levels), "variant": [f"v{n}" for n in range(levels)]})
    frame["is_base"] = frame.level == 0
    runs = pd.DataFrame([(f"v{n}", seed) for n in range(levels) for seed in range(seeds)], columns=["variant", "seed"])
    runs = runs.assign(device_name="cpu", torch="1", status="done", weights=[str(n) for n in range(len(runs))])
    found = 0
    for _ in range(studies):
        of_seed = generator.normal(95, 1, seeds)
        runs["test_accuracy"] = of_seed[runs.seed] + generator.normal(0, 0.5, len(runs))
        found += "resolved" in set(summarise(frame, runs).verdict)
    return found / studies


@pytest.mark.parametrize("seeds", [3, 5])
def test_null_studies_are_seldom_resolved(seeds):
    """Five percent, and twice the standard error of so few studies; without a correction it would be 20 %."""
    assert falsely_resolved(300, seeds) <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [3, 5])
def test_null_studies_are_resolved_in_at_most_five_percent(seeds, capsys):
    share = falsely_resolved(5000, seeds)
    with capsys.disabled():
        print(f"\n{seeds} seeds: {100 * share:.2f} % of 5,000 null studies of 5 comparisons resolve something")
    assert share <= 0.05

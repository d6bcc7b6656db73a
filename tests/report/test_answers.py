"""Answers: what the seeds carry, in sentences, and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from conftest import MACHINE, TINY, fabricate, record_of, study_of, texts_of, welch_half, write_grid
from scipy import stats

import ablations
from ablations.grid.model import list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read
from ablations.report import answers
from ablations.report.citations import check, find_value, look_up, make_marks
from ablations.report.formats import write_tables
from ablations.report.page import _count_verdicts
from ablations.report.results import analyse, phrase_level
from ablations.report.tables import make_effects_table
from ablations.storage import records


def answer(frames, study="growth_rate"):
    return answers.answer(study_of(frames, study))


PARTS = ("change", "low", "high")


def change_level(level, changes):
    """The level with other numbers; `macs_change` is a change of its costs, with `_low` and `_high` for a speed."""
    costs = {
        key: replace(cost, **{part: changes.get(f"{key}_{part}", getattr(cost, part)) for part in PARTS})
        for key, cost in level.costs.items()
    }
    names = {f"{key}_{part}" for key in level.costs for part in PARTS}
    return replace(level, costs=costs, **{name: value for name, value in changes.items() if name not in names})


def with_levels(frames, rows, margin=None):
    """The answer of a study that has these levels beside its base: copies of one level, each with its changes."""
    study = study_of(frames)
    others = (change_level(study.others[0], {"phrase": f"level-{n}", **row}) for n, row in enumerate(rows))
    return answers.answer(replace(study, levels=(study.base, *others), margin=margin))


def test_a_change_has_its_interval_and_its_price(results):
    frames = ablations.load(results)
    assert answer(frames) == [
        "Against growth_rate 4, on these test images: growth_rate 8 gains 2.0 points (95 % 0.4–3.6) at +100 % MACs and "
        "+100 % params."
    ]


@pytest.mark.parametrize(
    ("macs", "params", "price"),
    [
        (0.0, 0.0004, " at equal MACs and params"),
        (0.004, -0.03, " at +0.4 % MACs and −3 % params"),
        (0.42, -0.0101, " at +42 % MACs and −1 % params"),
        (float("nan"), 0.5, " at +50 % params"),
        (float("nan"), float("nan"), ""),
    ],
)
def test_costs_within_a_percent_are_equal_and_unknown_ones_unsaid(macs, params, price, results):
    level = change_level(study_of(ablations.load(results)).base, {"macs_change": macs, "params_change": params})
    assert answers._say_price(level) == price


def test_the_three_largest_changes_are_named_and_the_others_counted(results):
    changes = [-1.0, 2.0, -3.0, 4.0, 0.5, -0.25]
    rows = [{"difference": d, "low": d - 0.1, "high": d + 0.1, "macs_change": 0, "params_change": 0} for d in changes]
    assert with_levels(ablations.load(results), rows) == [
        "Against growth_rate 4, on these test images: level-3 gains 4.00 points (95 % 3.90–4.10) at equal MACs and "
        "params; level-2 loses 3.00 points (95 % 2.90–3.10) at equal MACs and params; level-1 gains 2.00 points (95 % "
        "1.90–2.10) at equal MACs and params; and 2 more lose and 1 more gains.",
        "Costs against the base over all levels: equal MACs and params, peak memory in training +100 %.",
    ]


def test_an_undecided_change_comes_with_what_would_decide_it(results):
    frames = ablations.load(results)
    row = {"verdict": "undecided", "low": -0.5, "high": 4.5, "smallest_difference": 3.42, "seeds_for_change": 7.0}
    assert with_levels(frames, [row]) == [
        "Undecided with 3 seeds, on these test images: the change in accuracy of level-0, +2.0 points "
        "(95 % −0.5 to +4.5).",
        "A change of level-0 by 3.4 points would be found in about four cases of five; to find one as large as was "
        "seen takes 7 seeds a level.",
        "Costs against the base: MACs +100 %, params +100 %, peak memory in training +100 %.",
    ]
    less = row | {"difference": -2.5, "low": -5.17, "high": 0.17, "macs_change": -0.5, "params_change": 0.0, "n": 2,
                  "smallest_difference": 0.518, "seeds_for_change": float("inf")}  # fmt: skip
    assert with_levels(frames, [row | {"params_change": 0.0}, less]) == [
        "Undecided with 2 to 3 seeds, on these test images: the change in accuracy of both levels; the largest is that "
        "of level-1, −2.5 points (95 % −5.2 to +0.2).",
        "A change of level-1 by 0.52 points would be found in about four cases of five; to find one as large as was "
        "seen takes more than 1,000 seeds, or more test images.",
        "Costs against the base over all levels: equal params, MACs −50 % to +100 %, peak memory in training +100 %.",
    ]
    assert with_levels(frames, [{}, row, row])[1].startswith(
        "Undecided with 3 seeds, on these test images: the change in accuracy of 2 of 3 levels; the largest is that of "
        "level-1"
    )


def test_a_margin_is_what_the_seeds_are_counted_for(results):
    row = {"verdict": "undecided", "low": -0.5, "high": 4.5, "smallest_difference": 3.42, "seeds_for_change": 7.0}
    rows = [row | {"seeds_for_margin": 21.0}, row | {"seeds_for_margin": 34.0}]
    assert (
        "A change of level-1 by 3.4 points would be found in about four cases of five; to show that it lies within the "
        "margin of 0.75 takes 34 seeds a level."
    ) in with_levels(ablations.load(results), rows, margin=0.75)


def test_a_small_change_is_equivalent_or_different_within_the_margin(tmp_path):
    """With 90.5, 91.5 and 91.0 % the mean is the base's. Half the interval is 2.776445 sqrt(0.25 * 2 / 3) = 1.133."""
    grid = read(write_grid(tmp_path, TINY.replace("speed_rounds", "margin = 1.2\nspeed_rounds")))
    fabricate(tmp_path / "same", grid, edit=set_accuracies([90.5, 91.5, 91.0]))
    assert answer(ablations.load(tmp_path / "same"))[0] == (
        "Equivalent to growth_rate 4 within 1.2 points, with 3 seeds, on these test images: growth_rate 8, +0.0 points "
        "(95 % −1.1 to +1.1)."
    )
    wide = read(write_grid(tmp_path, TINY.replace("speed_rounds", "margin = 3.7\nspeed_rounds")))
    fabricate(tmp_path / "more", wide)
    assert (
        "growth_rate 8 gains 2.0 points (95 % 0.4–3.6, within the margin)"
        in answer(ablations.load(tmp_path / "more"))[0]
    )


def set_accuracies(accuracies):
    """An edit of records: the wider layer has these accuracies, by seed."""

    def edit(job, record):
        if job.kind == "run" and job.name.startswith("growth_rate 8"):
            record["deterministic"]["test_accuracy"] = accuracies[job.config.seed]

    return edit


def add_outcomes(job, record):
    """An edit of records: of 200 test images, all that a run classified correctly come first."""
    if job.kind == "run":
        right = np.arange(200) < 2 * record["deterministic"]["test_accuracy"]
        record["deterministic"] |= {"test_images": 200, "test_outcomes": records.pack_bits(right)}


def test_outcomes_of_single_images_make_the_answer_one_for_other_images_too(tmp_path, tiny):
    """The variance is 0.5 * 2/3 over the seeds, 0.70575 over the images, and 0.13791 of it in both.

    Over the images: the differences of the mean outcomes are 1/3, 2/3 (4 times), 1 and 0 (194 times). In both: base and
    wider layer have the residual mean squares 33.25 and 49.50, each over 3 seeds and 200 images.
    """
    fabricate(tmp_path / "r", tiny, edit=add_outcomes)
    seen = np.var([1 / 3, *[2 / 3] * 4, 1, *[0] * 194], ddof=1) * 100**2 / 200
    both = (1.3233333 + 1.97) * 100**2 / (2 * 199) / 600  # sums of squares: see the outcomes at the edge
    variance = 1 / 3 + seen - both
    degrees = variance**2 / ((1 / 3) ** 2 / 4 + seen**2 / 199 + both**2 / 398)
    half = stats.t.ppf(0.975, degrees) * variance**0.5
    (level,) = study_of(ablations.load(tmp_path / "r")).others
    assert (level.low, level.high) == (pytest.approx(2 - half, abs=1e-3), pytest.approx(2 + half, abs=1e-3))
    assert answer(ablations.load(tmp_path / "r")) == [
        "Against growth_rate 4: growth_rate 8 gains 2.0 points (95 % 0.1–3.9) at +100 % MACs and +100 % params."
    ]


def test_lost_runs_are_told_and_decide_nothing_in_favour_of_their_level(tmp_path, tiny):
    """Levels of two and of three seeds share no variance. Of three runs one is lost: up to 90.6 % may be."""
    fabricate(tmp_path / "r", tiny, lost=("growth_rate 8, seed 2",))
    frames = ablations.load(tmp_path / "r")
    (level,) = study_of(frames).others
    half, share = welch_half([90.5, 91.0, 91.5], [92.0, 93.5]), stats.beta.ppf(0.975, 2, 2)
    assert share == pytest.approx(0.9057, abs=1e-4)
    assert (level.low, level.high) == (pytest.approx(1.75 - half - 92.75 * share), pytest.approx(1.75 + half))
    assert (level.verdict, level.worst_mean) == ("undecided", pytest.approx(185.5 / 3))
    sentences = answer(frames)
    assert sentences[0] == (
        "Undecided with 2 to 3 seeds, on these test images: the change in accuracy of growth_rate 8, "
        "+1.8 points (95 % −88.3 to +7.7)."
    )
    assert sentences[1] == (
        "Runs without a result: 1 of 3 of growth_rate 8 (as 0 %, they make its mean 61.8 % instead of 92.8 %)."
    )
    assert sentences[-1] == "1 of 6 runs has no result: 1 diverged."


def test_one_seed_carries_no_interval(tmp_path):
    fabricate(tmp_path / "r", read(write_grid(tmp_path, TINY.replace("[0, 1, 2]", "[0]"))))
    assert answer(ablations.load(tmp_path / "r"))[0] == (
        "Undecided, because one seed gives no interval: the change in accuracy of growth_rate 8, +1.50 points."
    )


def test_the_same_change_in_every_seed_is_decided(tmp_path, tiny):
    """Equal accuracies vary by one image of 360 at least: 2.776445 * 100 / 360 * sqrt(2 / 3) = 0.6297."""

    def edit(job, record):
        if job.kind == "run":
            record["deterministic"]["test_accuracy"] = 90.0 + 2 * job.name.startswith("growth_rate 8")

    fabricate(tmp_path / "r", tiny, edit=edit)
    assert "growth_rate 8 gains 2.00 points (95 % 1.37–2.63)" in answer(ablations.load(tmp_path / "r"))[0]


def test_identical_levels_are_told_by_what_they_save(results):
    same = {"verdict": "identical", "difference": 0.0, "low": 0.0, "high": 0.0}
    speed = {"train_images_per_second_change": -0.24, "train_images_per_second_low": -0.25,
             "train_images_per_second_high": -0.2}  # fmt: skip
    less = same | {"train_peak_memory_bytes_change": -0.52} | speed  # 1 / 0.76, 1 / 0.8 and 1 / 0.75 of the time
    not_compared = same | {"train_peak_memory_bytes_change": 0.005}
    unchanged = not_compared | speed | {"train_images_per_second_high": 0.01}
    faster = not_compared | {name: -value for name, value in speed.items()}
    faster |= {"train_images_per_second_low": 0.2, "train_images_per_second_high": 0.25}
    assert with_levels(ablations.load(results), [not_compared, less]) == [
        "Results identical to those of growth_rate 4, to the bit, with 3 seeds: level-1, with 52 % less peak memory "
        "in training and 32 % more time a step (25–33); level-0."
    ]
    assert with_levels(ablations.load(results), [unchanged, faster]) == [
        "Results identical to those of growth_rate 4, to the bit, with 3 seeds: level-0, with about as much time a "
        "step; level-1, with 19 % less time a step (17–20)."
    ]


def test_a_missing_base_and_missing_runs_are_told(tmp_path, tiny):
    fabricate(tmp_path / "r", tiny, skip=tuple(f"base, seed {seed}" for seed in range(3)))
    assert answer(ablations.load(tmp_path / "r")) == [
        "Nothing can be compared: growth_rate 4, the base, has no result.",
        "Costs against the base: MACs +100 %, params +100 %, peak memory in training +100 %.",
        "3 of 6 runs have no result: 3 missing.",
    ]


def test_a_level_of_other_data_is_not_compared(tmp_path, tiny):
    def edit(job, record):
        if job.name == "growth_rate 8, seed 2":
            record["environment"]["torch"] = "2.98.0"
        if job.kind == "run" and job.name.startswith("growth_rate 8"):
            record["deterministic"]["test_images"] = 1000

    fabricate(tmp_path / "r", tiny, edit=edit)
    (level,) = study_of(ablations.load(tmp_path / "r")).others
    assert (level.verdict, level.n) == ("not comparable", 3)
    assert np.isnan([level.difference, level.low, level.p]).all()
    assert answer(ablations.load(tmp_path / "r"))[:2] == [
        "Not comparable: growth_rate 8 was trained or tested on other data than the base.",
        "Not made as the base: growth_rate 8 (torch 2.98.0).",
    ]


def test_levels_without_a_result_are_named(tmp_path, tiny):
    skip = ("base", *(f"growth_rate 8, seed {seed}" for seed in range(3)))
    fabricate(tmp_path / "r", tiny, skip=skip)
    assert answer(ablations.load(tmp_path / "r")) == [
        "No result to compare: growth_rate 8 (3 of 3 missing).",
        "3 of 6 runs have no result: 3 missing.",
        "1 of 2 measurements of costs has no result: 1 missing.",
    ]


@pytest.mark.parametrize(
    ("label", "values", "name"),
    [
        ("12", {"model.growth_rate": 12}, "growth_rate 12"),
        ("8-16-32", {"model.growth_rate": [8, 16, 32]}, "growth_rate 8-16-32"),
        ("none", {"model.norm": "none"}, "norm none"),
        ("true", {"model.bias": True}, "bias true"),
        ("conv-norm-act", {"model.layer_order": "conv-norm-act"}, "conv-norm-act"),
        ("12, 0.5", {"model.growth_rate": 12, "model.compression": 0.5}, "“growth_rate 12, compression 0.5”"),
        ("base", {"model.growth_rate": 12, "model.compression": None}, "base"),
        ("added, equal MACs", {}, "“added, equal MACs”"),
        ("ResNet-20", {}, "ResNet-20"),
    ],
)
def test_levels_are_named_so_that_a_sentence_can_hold_them(label, values, name):
    assert phrase_level(label, values) == name


def test_one_point_is_one_point(results):
    study = study_of(ablations.load(results))
    sizes = [answers._say_size(study, size, size - 0.5, size + 0.5).partition(" (")[0] for size in (0.6, -0.999, 1.0)]
    assert sizes == ["0.60 points", "1.00 point", "1.00 point"]
    assert answers._say_size(study, 1.3, -2.0, 4.0).startswith("1.3 points")


def test_a_percent_has_a_sign_unless_it_is_none():
    assert [answers._say_percent(change) for change in (0.42, -0.031, 0.004, -0.004, 4.41, -0.0001)] == [
        "+42 %", "−3 %", "+0.4 %", "−0.4 %", "+441 %", "0 %",
    ]  # fmt: skip


def product(folder, gain):
    """A product study of growth rate and epochs; `gain(wide, long, seed)` is what a run is above 90."""
    grid = read(write_grid(folder, TINY + "[study.both]\nmodel.growth_rate = [4, 8]\ntrain.epochs = [1, 2]\n"))
    make_manifest(grid, MACHINE, folder / "r").write(folder / "r")
    for job in (job for job in list_jobs(grid, MACHINE) if job.kind == "run"):
        wide, longer = job.fields["model"]["growth_rate"] == 8, job.fields["train"].get("epochs") == 2
        records.publish(folder / "r", record_of(job, 90 + gain(wide, longer, job.config.seed), 1.0))
    return ablations.load(folder / "r")


def test_a_product_study_s_effects_are_told(tmp_path):
    """Each level has the accuracies 0, 0.5 and 1 above its own, so the variance is 0.25 with 8 degrees of freedom.

    That of a main effect, the mean of two differences, is 0.25 / 3. Its interval lies between that of one comparison
    and Bonferroni's of 6: three levels, two main effects, one interaction.
    """
    gains = product(tmp_path, lambda wide, longer, seed: 4 * wide + 2 * longer + ((seed * (1 + longer) + wide) % 3) / 2)
    study = study_of(gains, "both")
    assert study.conclusions.family == 6
    wide, longer, both = (effect.difference for effect in study.effects)
    for found, error in ((wide, (0.25 / 3) ** 0.5), (longer, (0.25 / 3) ** 0.5), (both, (4 * 0.25 / 3) ** 0.5)):
        assert stats.t.isf(0.025, 8) * error < found.high - found.value < stats.t.isf(0.025 / 6, 8) * error
    assert [(round(found.value, 9), found.verdict) for found in (wide, longer, both)] == [
        (4.0, "different"), (2.0, "different"), (0.0, "undecided"),
    ]  # fmt: skip
    said = [f"{found.value:.2f} points (95 % {found.low:.2f}–{found.high:.2f})" for found in (wide, longer)]
    assert (
        f"On the average over the other axes, on these test images: growth_rate 4 → 8 gains {said[0]}; "
        f"epochs 1 → 2 gains {said[1]}."
    ) in answer(gains, "both")
    low, high = (f"{each:+.1f}".replace("-", "−") for each in (both.low, both.high))
    assert answer(gains, "both")[:2] == [
        "No interaction differs from 0 with 3 seeds.",
        f"The largest interaction is that of growth_rate 4 → 8 and epochs 1 → 2: +0.0 points (95 % {low} to {high}).",
    ]
    assert answer(gains, "both")[3] == "These intervals hold for all 6 comparisons of the study together."


def test_a_product_is_answered_by_its_interaction_first(tmp_path):
    frames = product(tmp_path, lambda wide, longer, seed: 5 * wide * longer + (seed + wide) % 3 / 2)
    both = study_of(frames, "both").effects[2].difference
    size = f"{both.value:.1f} points (95 % {both.low:.1f}–{both.high:.1f})"
    assert answer(frames, "both")[0] == (
        "The axes interact, on these test images: growth_rate 4 → 8 and epochs 1 → 2 together give "
        f"{size} more than their sum."
    )
    assert _count_verdicts(study_of(frames, "both")).endswith("; effects: 3 different")


def test_an_effect_can_be_cited(tmp_path):
    frames = product(tmp_path, lambda wide, longer, seed: 5 * wide * longer + (seed + wide) % 3 / 2)
    found = analyse(frames)
    name = "growth_rate 4 -> 8 x epochs 1 -> 2"
    row = texts_of(make_effects_table(found.study("both")))[2]
    value, low, high = (find_value(found, "both", name, f"test_accuracy_change{end}") for end in ("", "_low", "_high"))
    assert row[3] == f"{value} [{low}, {high}]"
    assert row[4:7] == tuple(find_value(found, "both", name, key) for key in ("verdict", "p", "p_corrected"))
    assert find_value(found, "both", "epochs 1 -> 2", "n") == "3"
    assert "points" in look_up(found, "both", name, "test_accuracy_change").describe()
    write_tables(found)
    (tmp_path / "paper.md").write_text(make_marks(found, "both", name, "p")["markdown"].replace(f"{tmp_path}/", ""))
    latex = make_marks(found, "both", name, "p")["latex"]
    (tmp_path / "paper.tex").write_text("\\input{r/numbers}" + latex)
    for path in (tmp_path / "paper.md", tmp_path / "paper.tex"):
        assert [citation.problem for citation in check(path)] == [""]


def test_effects_that_may_be_0_are_said_to_be_so(tmp_path):
    frames = product(tmp_path, lambda wide, longer, seed: (7 * seed + 3 * wide + 5 * longer * seed) % 4)
    sentences = answer(frames, "both")
    assert "No main effect and no interaction differs from 0 with 3 seeds." in sentences

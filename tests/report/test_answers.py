"""Answers: what the seeds carry, in sentences, and no more."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import MACHINE, TINY, fabricate, record_of, study_of, write_grid

import ablations
from ablations.grid.model import list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read
from ablations.report import answers
from ablations.report.results import phrase_level
from ablations.storage import records


def answer(frames, study="growth_rate"):
    return answers.answer(study_of(frames, study))


def change_level(level, changes):
    """The level with other numbers; `macs_change` is a change of its costs."""
    costs = {key: replace(cost, change=changes.get(f"{key}_change", cost.change)) for key, cost in level.costs.items()}
    own = {name: value for name, value in changes.items() if not name.endswith("_change")}
    return replace(level, costs=costs, **own)


def with_levels(frames, rows):
    """The answer of a study that has these levels beside its base: copies of one level, each with its changes."""
    study = study_of(frames)
    others = (change_level(study.others[0], {"phrase": f"level-{n}", **row}) for n, row in enumerate(rows))
    return answers.answer(replace(study, levels=(study.base, *others)))


def test_a_resolved_change_has_its_interval_and_its_price(results):
    frames = ablations.load(results)
    assert answer(frames) == ["Against growth_rate 4: growth_rate 8 gains 2.0 points (95 % 0.8–3.2) at +100 % MACs "
                              "and +100 % params."]  # fmt: skip


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
        "Against growth_rate 4: level-3 gains 4.00 points (95 % 3.90–4.10) at equal MACs and params; level-2 loses "
        "3.00 points (95 % 2.90–3.10) at equal MACs and params; level-1 gains 2.00 points (95 % 1.90–2.10) at equal "
        "MACs and params; and 2 more lose and 1 more gains.",
        "Costs against the base over all levels: equal MACs and params, peak memory in training +100 %.",
    ]


def test_an_unresolved_change_is_said_to_be_so(results):
    frames = ablations.load(results)
    row = {"verdict": "not resolved", "low": -0.5, "high": 4.5}
    assert with_levels(frames, [row]) == [
        "Not resolved with 3 seeds: the change in accuracy of level-0, +2.0 points (95 % −0.5 to +4.5).",
        "Costs against the base: MACs +100 %, params +100 %, peak memory in training +100 %.",
    ]
    less = row | {"difference": -2.5, "low": -4.75, "high": -0.25, "macs_change": -0.5, "params_change": 0.0}
    assert with_levels(frames, [row | {"params_change": 0.0}, less | {"pairs": 2}]) == [
        "Not resolved with 2 to 3 seeds: the change in accuracy of both levels; the largest is that of level-1, −2.5 "
        "points (95 % −4.8 to −0.2, not corrected for 2 comparisons).",
        "Costs against the base over all levels: equal params, MACs −50 % to +100 %, peak memory in training +100 %.",
    ]
    assert with_levels(frames, [{}, row, row])[1].startswith(
        "Not resolved with 3 seeds: the change in accuracy of 2 of 3 levels; the largest is that of level-1"
    )


def test_one_seed_carries_no_interval(tmp_path):
    fabricate(tmp_path / "r", read(write_grid(tmp_path, TINY.replace("[0, 1, 2]", "[0]"))))
    assert answer(ablations.load(tmp_path / "r"))[0] == (
        "One seed gives no interval, so it cannot resolve the change in accuracy of growth_rate 8, +2.00 points."
    )


def test_the_same_change_in_every_seed_carries_no_interval(results):
    row = {"verdict": "not resolved", "low": float("nan"), "high": float("nan")}
    assert (
        "+2.00 points (the same in every seed, which gives no interval)"
        in with_levels(ablations.load(results), [row])[0]
    )


def test_identical_levels_are_told_by_what_they_save(results):
    same = {"verdict": "identical", "difference": 0.0, "low": 0.0, "high": 0.0}
    less = same | {"train_peak_memory_bytes_change": -0.52, "train_images_per_second_change": -0.24}
    within_spread = same | {"train_peak_memory_bytes_change": 0.005, "train_images_per_second_change": -0.04}
    assert with_levels(ablations.load(results), [within_spread, less]) == [
        "Results identical to those of growth_rate 4, to the bit, with 3 seeds: level-1, with 52 % less peak memory "
        "in training and 32 % more time a step; level-0."
    ]


def test_a_missing_base_and_missing_runs_are_told(tmp_path, tiny):
    fabricate(tmp_path / "r", tiny, skip=tuple(f"base, seed {seed}" for seed in range(3)))
    assert answer(ablations.load(tmp_path / "r")) == [
        "Nothing can be compared: growth_rate 4, the base, has no result.",
        "Costs against the base: MACs +100 %, params +100 %, peak memory in training +100 %.",
        "3 of 6 runs have no result: 3 missing.",
    ]


def test_a_level_without_a_common_seed_is_named(tmp_path, tiny):
    fabricate(tmp_path / "r", tiny, skip=("base, seed 0", "growth_rate 8, seed 1", "growth_rate 8, seed 2", "base"))
    assert answer(ablations.load(tmp_path / "r")) == [
        "Not comparable: growth_rate 8 shares no seed, device and torch version with the base.",
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


def test_one_point_is_one_point():
    sizes = [answers._say_size(size, size - 0.5, size + 0.5).partition(" (")[0] for size in (0.5, -0.999, 1.0, 1.3)]
    assert sizes == ["0.50 points", "1.00 point", "1.00 point", "1.30 points"]
    assert answers._say_size(1.3, -2.0, 4.0).startswith("1.3 points")


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
    frames = product(tmp_path, lambda wide, longer, seed: wide * (4 + 0.1 * seed) + longer * (1 + 0.01 * seed**2))
    sentences = answer(frames, "both")
    said = "On the average over the other axes: growth_rate 4 → 8 gains 4.10 points (95 % 3.85–4.35); "
    assert any(sentence.startswith(said) for sentence in sentences), sentences


def test_effects_that_are_not_resolved_are_said_to_be_so(tmp_path):
    frames = product(tmp_path, lambda wide, longer, seed: (7 * seed + 3 * wide + 5 * longer * seed) % 4)
    sentences = answer(frames, "both")
    assert "No main effect and no interaction is resolved with 3 seeds." in sentences

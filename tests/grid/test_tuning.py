"""Tuning: the same budget for every variant, no test image, and a choice that nothing but validation accuracy makes."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
from conftest import MACHINE, TINY, context, record_of, study_of, texts_of, write_grid
from rich.console import Console
from typer.testing import CliRunner

from ablations.cli import _finish, app
from ablations.config import DataConfig, TrainConfig, Tuning, Variant, identity
from ablations.data.dataset import load as load_data
from ablations.execution import driver, job
from ablations.grid.model import list_jobs, list_trials, number_jobs
from ablations.grid.planning import list_awaited, make_manifest
from ablations.grid.reader import read
from ablations.grid.tuning import _distance, choose
from ablations.report import citations
from ablations.report import page as report
from ablations.report.answers import answer
from ablations.report.captions import explain_tuning
from ablations.report.formats import render_latex, render_latex_words, spell_cell
from ablations.report.frames import find_causes, load
from ablations.report.plotting import tuning as figure_of_tuning
from ablations.report.plotting.figures import list_stems
from ablations.report.results import analyse
from ablations.report.tables import Cell, Note, make_overall_table, make_study_table, shorten, spell_value
from ablations.report.values import collect_values
from ablations.storage import files, records
from ablations.training import evaluation
from ablations.training import loop as train
from densenet import DenseNetConfig

TUNE = """
[tune]
train.learning_rate = [0.03, 0.1, 0.3]
seeds = [100]
validation = 50
train.batch_size = 16
"""
TUNED = TINY.replace("[0, 1, 2]", "[0, 1]").replace("train_limit = 100", "train_limit = 200") + TUNE
FOLLOWING = '[study.recomputed]\ntune = "base"\nseeds = [0]\nmodel.checkpoint = ["none", "layer"]\n'


@pytest.fixture
def tuned(tmp_path):
    return read(write_grid(tmp_path, TUNED + FOLLOWING))


def publish_trials(folder, grid, accuracies, skip=()):
    """Made-up trials: their validation accuracy by variant and candidate."""
    for variant_id in grid.tuned:
        for each in list_trials(grid, variant_id):
            name = each.name.rpartition(", seed ")[0]
            if name not in skip:
                record = record_of(each, 0.0, 1.0)
                record["deterministic"] = {"validation_accuracy": accuracies[name], "validation_loss": 1.0}
                records.publish(folder, record)


ACCURACIES = {
    "base, learning_rate 0.03": 70.0, "base, learning_rate 0.1": 72.0, "base, learning_rate 0.3": 71.0,
    "growth_rate 8, learning_rate 0.03": 73.0, "growth_rate 8, learning_rate 0.1": 74.0,
    "growth_rate 8, learning_rate 0.3": 75.0,
}  # fmt: skip


def chosen(folder, grid):
    return choose(grid, records.load(folder)[0], records.load_attempts(folder))


def fields_of(choices, grid):
    names = {variant_id: list_trials(grid, variant_id)[0].name.partition(",")[0] for variant_id in choices}
    return {names[variant_id]: choice.fields for variant_id, choice in choices.items()}


# What is trained


def test_every_level_has_the_same_budget_and_seeds_of_its_own(tuned):
    budgets, models = {}, {}
    for variant_id in tuned.tuned:
        found = list_trials(tuned, variant_id)
        budgets[variant_id] = [(each.fields["train"], each.fields["data"], each.fields["seed"]) for each in found]
        models[variant_id] = {json.dumps(each.fields["model"]) for each in found}
    first, second = budgets.values()
    assert first == second
    assert [each[0]["learning_rate"] for each in first if "learning_rate" in each[0]] == [
        0.03,
        0.3,
    ]  # 0.1 is the default
    assert {each[0]["batch_size"] for each in first} == {16}
    assert {each[1]["validation"] for each in first} == {50.0}
    assert all(len(each) == 1 for each in models.values())
    reported = {seed for study in tuned.studies for seed in study.seeds}
    assert {each[2] for each in first} == {100}
    assert reported == {0, 1}


def test_levels_that_follow_the_base_are_not_tuned(tuned):
    assert len(tuned.tuned) == 2
    assert len(tuned.variants) == 3


def test_a_trial_knows_no_test_image(tuned, tmp_path, monkeypatch):
    """Whatever the test images are, a trial is the same, and nothing but validation images is ever evaluated."""
    trial, seen = list_trials(tuned, next(iter(tuned.tuned)))[0], []

    def spy(network, data, images, *more, **named):
        seen.append((len(images), len(data.test)))
        return evaluation.evaluate(network, data, images, *more, **named)

    def other(config):
        data = load_data(config)
        test = data.test.load()
        return replace(data, test=replace(test, images=255 - test.images, labels=test.labels.flip(0)))

    monkeypatch.setattr(train, "evaluate", spy)
    found = []
    for place, source in (("a", load_data), ("b", other)):
        monkeypatch.setattr(job, "load", source)
        assert job.execute(trial, tmp_path / place, {}, context()) == "done"
        found.append(records.load(tmp_path / place)[0][trial.id]["deterministic"])
    assert found[0] == found[1]
    assert set(seen) == {(50, 0)}
    assert not [key for key in found[0] if key.startswith("test")]
    assert found[0]["data"]["images_per_class"].keys() == {"train", "validation"}
    assert (found[0]["train_images"], found[0]["validation_images"]) == (200, 50)


def test_a_trial_trains_as_a_run_of_the_same_fields_does(tuned, tmp_path):
    trial = list_trials(tuned, next(iter(tuned.tuned)))[0]
    run = replace(trial, kind="run", id=identity({"kind": "run", "config": trial.fields}))
    for each in (trial, run):
        job.execute(each, tmp_path, {}, context())
    first, second = (records.load(tmp_path)[0][each.id]["deterministic"] for each in (trial, run))
    assert (first["weights"], first["history"]) == (second["weights"], second["history"])
    assert first.items() <= {**second, "data": first["data"]}.items()


def test_the_reported_run_is_that_of_a_grid_that_states_the_value(tuned, tmp_path):
    publish_trials(tmp_path / "r", tuned, ACCURACIES)
    settled = list_jobs(tuned, MACHINE, chosen(tmp_path / "r", tuned))
    stated = TINY.replace("[0, 1, 2]", "[0, 1]").replace("train_limit = 100", "train_limit = 200")
    for value, name in ((0.1, "base"), (0.3, "growth_rate 8")):
        text = stated.replace("train.epochs = 1", f"train.epochs = 1\ntrain.learning_rate = {value}")
        there = {
            each.name: each.id for each in list_jobs(read(write_grid(tmp_path, text)), MACHINE) if each.kind == "run"
        }
        here = {each.name: each.id for each in settled if each.kind == "run"}
        for run in (f"{name}, seed 0", f"{name}, seed 1"):
            assert here[run] == there[run]


# What is chosen


def test_the_best_by_validation_accuracy_is_chosen_and_the_base_is_followed(tuned, tmp_path):
    publish_trials(tmp_path, tuned, ACCURACIES)
    choices = chosen(tmp_path, tuned)
    assert fields_of(choices, tuned) == {"base": {"learning_rate": 0.1}, "growth_rate 8": {"learning_rate": 0.3}}
    rates = {level.label: level.variant.train.learning_rate
             for study in tuned.settle(choices).studies for level in study.levels}  # fmt: skip
    assert rates == {"4": 0.1, "8": 0.3, "none": 0.1, "layer": 0.1}
    assert all(variant.tuning is None for variant in tuned.settle(choices).variants.values())


@pytest.mark.parametrize(
    ("accuracies", "rate"),
    [([70, 70, 70], 0.1), ([72, 70, 72], 0.03), ([70, 72, 72], 0.1), ([72, 70, 72 - 1e-12], 0.03)],
)
def test_of_equal_ones_the_nearer_to_the_base_is_chosen(accuracies, rate, tmp_path):
    """0.03 is 3.33 times below the base's 0.1, and 0.3 is 3 times above; here the base's own rate is 0.05."""
    text = TUNED if rate == 0.1 else TUNED.replace("train.epochs = 1", "train.epochs = 1\ntrain.learning_rate = 0.05")
    grid = read(write_grid(tmp_path, text))
    names = [f"{name}, learning_rate {value}" for name in ("base", "growth_rate 8") for value in (0.03, 0.1, 0.3)]
    publish_trials(tmp_path, grid, dict(zip(names, [*accuracies, 0, 0, 1], strict=True)))
    assert fields_of(chosen(tmp_path, grid), grid)["base"] == {"learning_rate": rate}


def test_a_product_of_fields_with_two_seeds(tmp_path):
    text = TUNED.replace("seeds = [100]", "seeds = [100, 101]").replace(
        "validation = 50", "train.weight_decay = [0.0, 1e-4]\nvalidation = 50"
    )
    grid = read(write_grid(tmp_path, text))
    (base, *_) = grid.tuned
    found = list_trials(grid, base)
    assert len(found) == 3 * 2 * 2
    for number, each in enumerate(found):
        record = record_of(each, 0.0, 1.0)
        # the mean of two seeds decides: the best single trial, 90, has a partner of 50
        accuracy = {0: 90.0, 1: 50.0, 8: 75.0, 9: 76.0}.get(number, 60.0)
        record["deterministic"] = {"validation_accuracy": accuracy, "validation_loss": 1.0}
        records.publish(tmp_path, record)
    assert chosen(tmp_path, grid)[base].fields == {"learning_rate": 0.3, "weight_decay": 0.0}


def note(folder, each, status):
    records.note_attempt(folder, {"id": each.id, "name": each.name, "status": status, "reason": "because"})


def test_what_diverged_is_no_candidate_and_what_failed_leaves_no_choice(tuned, tmp_path):
    base, wide = tuned.tuned
    publish_trials(tmp_path, tuned, ACCURACIES,
                   skip=("base, learning_rate 0.1", "growth_rate 8, learning_rate 0.3"))  # fmt: skip
    note(tmp_path, list_trials(tuned, base)[1], "diverged")
    note(tmp_path, list_trials(tuned, wide)[2], "oom")
    choices = chosen(tmp_path, tuned)
    assert choices[base].fields == {"learning_rate": 0.3}
    assert (choices[wide].status, choices[wide].fields) == ("failed", {})
    assert choices[wide].reason == "its tuning failed (growth_rate 8, learning_rate 0.3, seed 100: oom, because)"
    for each in list_trials(tuned, base):
        note(tmp_path / "all", each, "diverged")
    assert chosen(tmp_path / "all", tuned)[base].reason == "its tuning failed (every candidate diverged)"
    assert chosen(tmp_path / "all", tuned)[wide].status == "missing"


def test_before_all_trials_are_there_nothing_is_chosen(tuned, tmp_path):
    publish_trials(tmp_path, tuned, ACCURACIES, skip=("base, learning_rate 0.03",))
    choices = chosen(tmp_path, tuned)
    assert sorted(choice.status for choice in choices.values()) == ["chosen", "missing"]
    kinds = [each.kind for each in list_jobs(tuned, MACHINE, choices)]
    assert (kinds.count("cost"), kinds.count("tuning"), kinds.count("run")) == (3, 6, 2)
    assert len(list_awaited(tuned.settle(choices))) == 3, "the base with two seeds, and what follows it with one"


def test_a_cost_that_depends_on_the_choice_waits_for_it(tmp_path):
    grid = read(write_grid(tmp_path, TUNED.replace("train.batch_size = 16", "train.batch_size = [16, 64]")))
    assert not [each for each in list_jobs(grid, MACHINE) if each.kind == "cost"]
    (base, *_) = grid.tuned
    for each in list_trials(grid, base):
        record = record_of(each, 0.0, 1.0)
        record["deterministic"] = {"validation_accuracy": 50.0 + each.config.variant.train.batch_size}
        records.publish(tmp_path, record)
    (cost,) = (each for each in list_jobs(grid, MACHINE, chosen(tmp_path, grid)) if each.kind == "cost")
    assert cost.config.batch_size == 64


def test_a_job_has_the_same_number_whatever_was_chosen_so_that_shards_stay_apart(tmp_path):
    tune = TUNE.replace("train.batch_size = 16", "train.batch_size = [16, 64]")
    text = TUNED.replace(TUNE, tune).replace("speed_rounds = 0", "speed_rounds = 6")
    grid, half = read(write_grid(tmp_path, text)), tmp_path / "half"
    for number, name in enumerate(grid.tuned):
        for each in list_trials(grid, name):
            record = record_of(each, 0.0, 1.0)
            record["deterministic"] = {"validation_accuracy": 50.0 + each.config.variant.train.batch_size}
            for folder in [tmp_path, half][: 2 - number]:
                records.publish(folder, record)
    early, some, every = (
        number_jobs(grid, MACHINE, choose(grid, records.load(folder)[0], {}))
        for folder in (tmp_path / "none", half, tmp_path)
    )
    assert early.items() < some.items() < every.items()
    assert sorted(every.values()) == list(range(12 + 2 + 1 + 4)), "trials, costs, a speed and runs"


def test_a_schedule_in_steps_takes_the_place_of_epochs():
    tuning = Tuning((("learning_rate", (0.1, 0.3)),), (7,), 50.0, (("steps", 10),))
    variant = Variant(DenseNetConfig(), DataConfig(), TrainConfig(epochs=3, keep_weights=True))
    trial = tuning.trial(variant, {"learning_rate": 0.3})
    assert (trial.train.steps, trial.train.total_steps(640)) == (10, 10)
    assert (trial.train.keep_weights, trial.data.validation) == (False, 50.0)
    assert variant.settle({"learning_rate": 0.3}).train == TrainConfig(epochs=3, keep_weights=True, learning_rate=0.3)


# The grid file


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("seeds = [100]", "seeds = [1]", "study growth_rate is tuned with seeds that are reported"),
        ("seeds = [100]\n", "", "tune.seeds: is missing"),
        ("validation = 50", "validation = 0", "tune.validation = 0: must be the images to choose on"),
        ("validation = 50", "validation = 1.5", "tune.validation = 1.5: must be the images to choose on"),
        ("validation = 50", "validation = 5000", "data.validation = 5000: that is 5,000 of 1,437 images"),
        ("[0.03, 0.1, 0.3]", "[0.1]", "tune: needs lists of train.* to choose from, two values or more"),
        ("[0.03, 0.1, 0.3]", "[]", "tune.train.learning_rate = []: must be a list of different values"),
        ("[0.03, 0.1, 0.3]", "[0.1, 0.1]", "must be a list of different values"),
        ("[0.03, 0.1, 0.3]", "[0.1, -0.3]", "tune.train.learning_rate = -0.3: should be greater than 0"),
        ("train.learning_rate = [", "train.learning_rat = [", "did you mean 'learning_rate'?"),
        ("learning_rate = [0.03, 0.1, 0.3]", "keep_weights = [true, false]", "cannot be tuned: it does not change"),
        ("train.batch_size = 16", "train.batch_size = 0", "tune.train.batch_size = 0"),
        ("train.batch_size = 16", 'train.last_batch = "drop"\ntrain.batch_size = 500', "drops them all"),
        ("train.batch_size = 16", "train.warmup_epochs = 1.0", "warmup_epochs = 1 must be below epochs = 1"),
        ("[tune]", "[tune]\nvalidaton = 5", "tune.validaton = 5: unknown key; did you mean 'validation'?"),
        ("[study.growth_rate]", "[study.growth_rate]\ntune = true", 'study.growth_rate.tune = True: must be a table'),
        ("model.growth_rate = [4, 8]", "train.learning_rate = [0.1, 0.2]", "sets what tune chooses"),
        ("model.growth_rate = [4, 8]", "train.batch_size = [8, 32]", "sets what tune fixes for its trials"),
        ("train.batch_size = 16", "train.test_curve = true", "a trial keeps no weights and has no test images"),
        ("[study.growth_rate]", "[study.growth_rate]\nseeds = [100]", "tune.seeds = [100]"),
        ("[study.growth_rate]", "[study.growth_rate]\nseeds = []", "study.growth_rate.seeds = []: must be a list"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_tuning_is_told_before_any_work(before, after, said, tmp_path):
    assert before in TUNED
    with pytest.raises(ValueError, match="nothing was run") as error:
        read(write_grid(tmp_path, TUNED.replace(before, after, 1)))
    assert said in str(error.value)


def test_steps_and_epochs_are_one_choice(tmp_path):
    text = TUNED.replace("train.learning_rate = [0.03, 0.1, 0.3]", "train.epochs = [1, 2]")
    with pytest.raises(ValueError, match="level 3 sets what tune chooses"):
        read(write_grid(tmp_path, text.replace("model.growth_rate = [4, 8]", "train.steps = [3, 4]")))
    grid = read(write_grid(tmp_path, TUNED + "train.epochs = 4\n"), ["tune.train.steps=9"])
    assert dict(grid.base.tuning.schedule) == {"batch_size": 16, "steps": 9}


def test_a_broken_tuning_is_told_once(tmp_path):
    with pytest.raises(ValueError, match="1 problem, nothing was run"):
        read(write_grid(tmp_path, TUNED.replace("validation = 50", "validation = 0") + FOLLOWING))


def test_tune_base_needs_a_tuning_of_the_grid(tmp_path):
    with pytest.raises(ValueError, match='in a grid that has \\[tune\\], "base"'):
        read(write_grid(tmp_path, TINY + FOLLOWING))


def test_a_study_may_be_tuned_in_its_own_way_or_not_at_all(tmp_path):
    text = TUNED + "[study.own]\ntune = { train.momentum = [0.8, 0.9], seeds = [7], validation = 0.1 }\n"
    text += "model.compression = [0.5, 1.0]\n[study.plain]\ntune = false\nmodel.bn_size = [2, 4]\n"
    grid = read(write_grid(tmp_path, text))
    axes = {study.name: {level.variant.tuning and level.variant.tuning.axes[0][0] for level in study.levels}
            for study in grid.studies}  # fmt: skip
    assert axes == {"growth_rate": {"learning_rate"}, "own": {"momentum"}, "plain": {None}}
    assert [each.name for each in list_jobs(grid, MACHINE) if each.kind == "run"] == [
        f"plain {size}, seed {seed}" for seed in (0, 1) for size in (4, 2)
    ], "the base that is not tuned is another variant than the one that is"


def test_the_command_line_reaches_the_tuning(tmp_path):
    grid = read(write_grid(tmp_path, TUNED), ["tune.validation=40", "tune.train.batch_size=8", "tune.seeds=[9]"])
    tuning = grid.base.tuning
    assert (tuning.validation, tuning.schedule, tuning.seeds) == (40.0, (("batch_size", 8),), (9,))
    with pytest.raises(ValueError, match="or tune"):
        read(write_grid(tmp_path, TUNED), ["seeds=3"])


def test_trials_count_among_the_jobs_that_a_grid_may_have(tmp_path):
    read(write_grid(tmp_path, TUNED), max_jobs=12)
    with pytest.raises(ValueError, match="up to 12 jobs; at most 11"):
        read(write_grid(tmp_path, TUNED), max_jobs=11)


# Seeds of a study


def test_a_study_has_its_own_seeds_and_a_variant_those_of_all_its_studies(tmp_path):
    grid = read(write_grid(tmp_path, TINY + "[study.one]\nseeds = [5]\nmodel.bn_size = [2, 4]\n"))
    names = [each.name for each in list_jobs(grid, MACHINE) if each.kind == "run"]
    assert names == [
        "base, seed 0", "growth_rate 8, seed 0", "base, seed 1", "growth_rate 8, seed 1", "base, seed 2",
        "growth_rate 8, seed 2", "base, seed 5", "one 2, seed 5",
    ]  # fmt: skip


@pytest.mark.parametrize(("asked", "own"), [([0, 1], (0,)), ([0], (0,)), ([3, 4], (3, 4))])
def test_seeds_of_the_command_line_choose_among_a_study_s_own(asked, own, tmp_path):
    grid = read(write_grid(tmp_path, TINY + "[study.one]\nseeds = [0]\nmodel.bn_size = [2, 4]\n"), seeds=asked)
    assert [study.seeds for study in grid.studies] == [tuple(asked), own]


def test_captions_say_how_many_seeds_a_level_has(tmp_path):
    grid = read(write_grid(tmp_path, TINY + "[study.one]\nseeds = [0]\nmodel.bn_size = [2, 4]\n"))
    make_manifest(grid, MACHINE, tmp_path / "r").write(tmp_path / "r")
    for each in list_jobs(grid, MACHINE):
        records.publish(tmp_path / "r", record_of(each, 90.0, 1.0))
    frames = load(tmp_path / "r")
    assert "360 test images; 3 seeds." in make_study_table(study_of(frames)).caption
    assert "360 test images; 1 seed." in make_study_table(study_of(frames, "one")).caption
    assert "360 test images; 1 to 3 seeds." in make_overall_table(analyse(frames)).caption


def test_a_study_s_table_has_its_own_seeds_alone(tmp_path):
    """The base of 90, 91 and 92 % is 90 % in a study of seed 0: the change is the difference of what stands there."""
    grid = read(write_grid(tmp_path, TINY + "[study.one]\nseeds = [0]\nmodel.bn_size = [2, 4]\n"))
    make_manifest(grid, MACHINE, tmp_path / "r").write(tmp_path / "r")
    for each in list_jobs(grid, MACHINE):
        if each.kind == "run":
            records.publish(tmp_path / "r", record_of(each, 90.0 + each.config.seed + 5 * ("one" in each.name), 1.0))
    frames = load(tmp_path / "r")
    level, base = texts_of(make_study_table(study_of(frames, "one")))
    assert (base[1:3], level[1:4]) == (("1", "90.00"), ("1", "95.00", "+5.00"))
    assert texts_of(make_study_table(study_of(frames)))[0][1:3] == ("3", "91.0 ± 1.0")
    overall = {row[0]: row[1:3] for row in texts_of(make_overall_table(analyse(frames)))}
    assert overall["one 2"] == ("1", "95.00")
    assert len(study_of(frames, "one").frames.history) == 2


OWN = """
[study.own]
tune = { train.learning_rate = [0.05, 0.1, 0.9], seeds = [7], validation = 50 }
model.bn_size = [2, 4]
"""


def test_a_base_that_is_tuned_in_two_ways_is_two_variants(tmp_path):
    """The first chooses 0.1, at the end of its list, and the second 0.2, in the middle of its own.

    All runs of the first give 90 %, and those of the second 93 %: at 3 seeds one image of 360 decides more than that.
    """
    text = TUNED.replace("[0.03, 0.1, 0.3]", "[0.03, 0.1]") + OWN.replace("0.1, 0.9", "0.2, 0.9")
    grid, folder = read(write_grid(tmp_path, text)), tmp_path / "r"
    for variant_id in grid.tuned:
        for each in list_trials(grid, variant_id):
            record, rate = record_of(each, 0.0, 1.0), each.config.variant.train.learning_rate
            record["deterministic"] = {"validation_accuracy": {0.1: 80.0, 0.2: 90.0}.get(rate, 10.0)}
            records.publish(folder, record)
    choices = chosen(folder, grid)
    make_manifest(grid, MACHINE, folder, choices).write(folder)
    for each in list_jobs(grid, MACHINE, choices):
        if each.kind == "run":
            records.publish(folder, record_of(each, 90.0 + 3 * (each.config.variant.train.learning_rate == 0.2), 1.0))
    frames = load(folder)
    marks = {
        name: [row[5] for row in texts_of(make_study_table(study_of(frames, name)))] for name in ("growth_rate", "own")
    }
    assert marks == {"growth_rate": ["0.1 (end of its list)"] * 2, "own": ["0.2", "0.2"]}
    assert [row[0] for row in texts_of(make_overall_table(analyse(frames)))] == [
        "4 (base)", "growth_rate 8", "own 2", "own 4",
    ]  # fmt: skip
    said = "Compare own within their own tables: they have another base."
    assert said in make_overall_table(analyse(frames)).caption


def test_small_values_are_numbers_in_latex_too():
    cell = Cell(spell_value(1e-5), notes=(Note(("end of its list",)),))
    assert render_latex_words(spell_cell(cell)) == r"\num{1e-05} (end of its list)"


@pytest.mark.parametrize(("base", "order"), [(0.0, [0.0, 0.5, 1, 5]), (1e-4, [1e-4, 2e-4, 1e-5, 1e-2, 0.0])])
def test_distances_from_the_base(base, order):
    config = TrainConfig(weight_decay=base)
    assert sorted(order, key=lambda value: _distance(config, {"weight_decay": value})) == order


def test_a_list_that_cannot_go_further_ends_nowhere(tmp_path):
    text = TUNED.replace(
        "train.learning_rate = [0.03, 0.1, 0.3]", "train.weight_decay = [0.0, 1e-4]\ntrain.ema = [0.5, 0.9]"
    )
    entry = make_manifest(read(write_grid(tmp_path, text)), MACHINE, tmp_path).tuning[0]
    assert entry.ends == {"weight_decay": [1e-4], "ema": [0.5, 0.9]}


@pytest.mark.parametrize(
    ("tune", "base", "said"),
    [
        ('train.schedule = ["step", "one-cycle"]\ntrain.warmup_epochs = 0.0', "train.warmup_epochs = 0.5", "a rise"),
        ("train.warmup_epochs = [0.5, 3.0]\ntrain.epochs = 10", "", "warmup_epochs = 3 must be below epochs = 1"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_once_chosen_is_told_before_the_tuning(tune, base, said, tmp_path):
    text = TUNED.replace("train.learning_rate = [0.03, 0.1, 0.3]", tune).replace(
        "train.epochs = 1\n", f"train.epochs = 1\n{base}\n"
    )
    with pytest.raises(ValueError, match="nothing was run") as error:
        read(write_grid(tmp_path, text))
    assert said in str(error.value)


def test_a_folder_of_runs_that_were_not_tuned_is_not_taken_for_one_of_tuned_ones(tmp_path, results):
    tuned = read(write_grid(tmp_path, TINY + TUNE))
    with pytest.raises(driver.WrongFolder, match=r"tune {} there, {'values': {'learning_rate': \[0.03, 0.1, 0.3\]}"):
        work(tuned, results)


# What is shown


@pytest.fixture
def shown(tuned, tmp_path):
    folder = tmp_path / "r"
    publish_trials(folder, tuned, ACCURACIES)
    choices = chosen(folder, tuned)
    make_manifest(tuned, MACHINE, folder, choices).write(folder)
    files.write(folder / "grid.toml", tuned.text.encode())
    for each in list_jobs(tuned, MACHINE, choices):
        if each.kind != "tuning":
            records.publish(folder, record_of(each, 90.0 + each.fields.get("seed", 0), 1.0))
    return load(folder)


def test_all_results_of_the_tuning_are_a_frame_and_a_file(shown):
    frame = shown.tuning
    assert frame["train.learning_rate"].tolist() == [0.03, 0.1, 0.3] * 2
    assert frame.validation_accuracy.tolist() == list(ACCURACIES.values())
    assert frame.chosen.tolist() == [False, True, False, False, False, True]
    assert set(frame.variant) < set(shown.runs.variant)
    report.write(analyse(shown))
    lines = (shown.folder / "tuning.csv").read_text().splitlines()
    assert len(lines) == 7
    assert lines[0].startswith("name,train.learning_rate,variant,seed,id,status,reason,validation_accuracy")


def test_tables_have_what_was_chosen_and_say_where_a_wider_list_is_needed(shown):
    study = study_of(shown)
    table = make_study_table(study)
    place = [column.head for column in table.columns].index("Learning rate")
    assert [row[place] for row in texts_of(table)] == ["0.1", "0.3 (end of its list)"]
    assert study.numbers["train.learning_rate"].tolist() == [0.1, 0.3]
    assert [row[place] for row in texts_of(shorten(study))] == ["0.1", "0.3 (end of its list)"]
    assert r"\shortstack{Level} & \shortstack{Learning\\rate} & \shortstack{p} &" in render_latex(table)
    said = (
        "Learning rate: chosen from 0.03, 0.1, 0.3, by the accuracy on 50 validation images, cut from the training set"
    )
    assert (
        f"{said} (seed 100, batch_size 16); another seed might have chosen another value. Every level was tuned alike."
        in table.caption
    )
    assert "The levels take what was chosen for the base." in make_study_table(study_of(shown, "recomputed")).caption
    assert "recomputed: Learning rate" in make_overall_table(analyse(shown)).caption
    said = "The chosen learning_rate of growth_rate 8 is the first or the last of its list: add values beyond it."
    assert said in answer(study)
    assert not [each for each in answer(study_of(shown, "recomputed")) if "of its list" in each]


def test_what_was_chosen_is_counted_and_can_be_cited(shown):
    assert report.count_jobs(shown).startswith("6 trials for tuning, 5 runs and 3 costs: 14 done")
    values = collect_values(analyse(shown))
    assert values["growth_rate", "8", "learning_rate"] == "0.3"
    assert [values["growth_rate", level, "trial_accuracy"] for level in ("4", "8")] == ["72.00", "75.00"]
    told = citations.look_up(analyse(shown), "growth_rate", "8", "trial_accuracy")
    assert told.seeds == ""
    assert told.provenance.startswith("Learning rate: chosen from 0.03, 0.1, 0.3, by the accuracy on 50 validation")
    found = citations.look_up(analyse(shown), "growth_rate", "8", "learning_rate")
    assert found.meaning == "train.learning_rate, as tuning chose it"
    status = CliRunner().invoke(app, ["status", str(shown.folder), "--json"])
    assert {kind: json.loads(status.output)[kind] for kind in ("tuning", "runs", "costs")} == {
        "tuning": {"done": 6}, "runs": {"done": 5}, "costs": {"done": 3},
    }  # fmt: skip
    chosen = shown.tuning[shown.tuning.chosen & (shown.tuning.name == "growth_rate 8")].id.iloc[0]
    (shown.folder / "records" / f"{chosen}.json").unlink()
    assert ("growth_rate", "8", "trial_accuracy") not in collect_values(analyse(load(shown.folder)))


def test_a_grid_without_tuning_shows_none_of_it(results):
    frames = load(results)
    assert (study_of(frames).tuned, explain_tuning(frames), len(frames.tuning)) == ((), "", 0)
    assert "growth_rate.tuning" not in list_stems(analyse(frames))["growth_rate"]
    assert "tuning" not in frames.tables()


def test_the_figure_has_a_line_per_level_and_fills_what_was_chosen(shown):
    assert list_stems(analyse(shown))["growth_rate"][-1] == "growth_rate.tuning"
    assert "recomputed.tuning" not in list_stems(analyse(shown))["recomputed"], "one line compares nothing"
    figure = figure_of_tuning.draw(study_of(shown))
    (panel,) = figure.axes
    assert [line.get_xydata().tolist() for line in panel.lines] == [
        [[0.03, 70.0], [0.1, 72.0], [0.3, 71.0]], [[0.03, 73.0], [0.1, 74.0], [0.3, 75.0]],
    ]  # fmt: skip
    single = [part for part in panel.collections if len(part.get_offsets()) == 1]
    coloured = [part for part in single if np.asarray(part.get_facecolor())[0, :3].tolist() != [1, 1, 1]]
    filled = [np.asarray(part.get_offsets()).tolist() for part in coloured]
    assert filled == [[[0.1, 72.0]], [[0.3, 75.0]]]
    assert panel.get_xscale() == "log"
    assert "Values at which a level lies above the base: 8 3 of 3." in " ".join(
        text.get_text() for text in figure.texts
    ).replace("\n", " ")
    assert [text.get_text() for text in panel.get_xticklabels()] == ["0.03", "0.1", "0.3"]


def test_a_variant_whose_tuning_failed_is_a_row_that_says_so(tuned, tmp_path, capsys):
    folder = tmp_path / "r"
    publish_trials(folder, tuned, ACCURACIES, skip=("growth_rate 8, learning_rate 0.3",))
    (_, wide) = tuned.tuned
    note(folder, list_trials(tuned, wide)[2], "oom")
    choices = chosen(folder, tuned)
    make_manifest(tuned, MACHINE, folder, choices).write(folder)
    frames = load(folder)
    table = make_study_table(study_of(frames))
    row = texts_of(table)[1]
    assert row[:3] == ("8", "0", "2 of 2 untuned")
    assert row[[column.head for column in table.columns].index("Learning rate")] == ""
    assert [(each["status"], len(each["jobs"])) for each in find_causes(frames)] == [("oom", 1), ("untuned", 2)]
    assert _finish(folder) == 1
    said = capsys.readouterr()
    assert "`--retry oom` runs them again" in said.err
    assert "its tuning failed (growth_rate 8, learning_rate 0.3, seed 100: oom, because)" in said.err


def test_a_diverged_candidate_is_drawn_and_is_no_failure(tuned, tmp_path):
    folder = tmp_path / "r"
    publish_trials(folder, tuned, ACCURACIES, skip=("growth_rate 8, learning_rate 0.3",))
    (_, wide) = tuned.tuned
    note(folder, list_trials(tuned, wide)[2], "diverged")
    make_manifest(tuned, MACHINE, folder, chosen(folder, tuned)).write(folder)
    frames = load(folder)
    assert find_causes(frames) == []
    assert frames.tuning.status.tolist() == ["done"] * 5 + ["diverged"]
    figure = figure_of_tuning.draw(study_of(frames))
    assert "diverged" in [text.get_text() for text in figure.legends[0].get_texts()]


# One command does both phases


def work(grid, folder, retry=()):
    return driver.work(
        grid, folder, driver.make_engine("local", ["cpu", "cpu"]), retry, Console(file=io.StringIO(), width=200)
    )


ALIKE = TUNED.replace("[0, 1]", "[0]").replace("model.growth_rate = [4, 8]", "train.momentum = [0.9, 0.8]")
"""Levels that share their cost, which takes longest to measure."""


def test_one_run_tunes_and_trains_and_a_grid_may_grow(tmp_path):
    text, folder = ALIKE.replace("[0.03, 0.1, 0.3]", "[0.1, 0.3]"), tmp_path / "r"
    assert work(read(write_grid(tmp_path, text)), folder).executed == 1 + 4 + 2
    frames = load(folder)
    assert set(frames.runs.status) == set(frames.tuning.status) == set(frames.costs.status) == {"done"}
    assert frames.tuning.groupby("name").chosen.sum().tolist() == [1, 1]
    rates = frames.runs.set_index("variant")["train.learning_rate"]
    assert rates.to_dict() == frames.tuning[frames.tuning.chosen].set_index("variant")["train.learning_rate"].to_dict()
    before = json.loads((folder / "jobs.json").read_bytes())

    assert work(read(write_grid(tmp_path, text)), folder).executed == 0
    assert json.loads((folder / "jobs.json").read_bytes()) == before

    more = read(write_grid(tmp_path, text.replace("[0.9, 0.8]", "[0.9, 0.8, 0.7]")))
    assert work(more, folder).executed == 2 + 1, "a level more: its trials and its run"

    wider = text.replace("[0.9, 0.8]", "[0.9, 0.8, 0.7]").replace("[0.1, 0.3]", "[0.1, 0.3, 1e-6]")
    executed = work(read(write_grid(tmp_path, wider)), folder).executed
    assert executed == 3, "a value more: a trial for each level, and no run, for it is never chosen"
    with pytest.raises(driver.WrongFolder, match="3 of its 12 runs would leave the tables"):
        work(more, folder)


def test_a_failed_trial_is_tried_again_when_asked_to(tmp_path, monkeypatch):
    grid, folder = read(write_grid(tmp_path, ALIKE)), tmp_path / "r"
    (_, other) = grid.tuned
    note(folder, list_trials(grid, other)[0], "timeout")
    first = work(grid, folder)
    assert (first.total, first.executed, first.stopped) == (1 + 6 + 2, 1 + 5 + 1, False)
    assert sorted(load(folder).runs.status) == ["done", "untuned"]
    assert work(grid, folder).executed == 0
    assert work(grid, folder, ["timeout"]).executed == 1 + 1, "the trial, and the run that waited for it"
    assert set(load(folder).runs.status) == {"done"}


LONG = ALIKE.replace("train.epochs = 1", "train.epochs = 25\ntrain.checkpoint_seconds = 0.05")
LONG = LONG.replace("[0.03, 0.1, 0.3]", "[0.03, 0.1]")


def values(folder):
    """What does not depend on the machine: deterministic parts of records, choices, and the tables but for time."""
    frames = load(folder)
    timed = ("images_per_second", "seconds", "disturbed", "iqr", "repeats", "stopped")
    table = study_of(frames).numbers
    kept = [name for name in table if not any(word in name for word in timed)]
    found = {name: each["deterministic"] for name, each in records.load(folder)[0].items()}
    tuning = frames.tuning[[name for name in frames.tuning if "seconds" not in name]]
    return found, tuning.to_csv(), table[kept].to_csv(), json.loads((folder / "jobs.json").read_bytes())


def strike(path, folder, kind, number):
    """Starts a driver, and ends it by a signal as soon as a training of this kind has kept a state; its exit code."""
    grid, begun = read(path), time.time()
    trials = {each.id for variant_id in grid.tuned for each in list_trials(grid, variant_id)}
    command = [sys.executable, "-m", "ablations", "run", str(path), "--device", "cpu", "--workers", "2", "--out"]
    with subprocess.Popen([*command, str(folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as driver:
        while not [each for each in folder.glob("checkpoints/*.latest")
                   if (each.stem in trials) == (kind == "tuning") and modified(each) > begun]:  # fmt: skip
            assert driver.poll() is None, "it ended before it could be killed"
            assert time.time() - begun < 120
            time.sleep(0.005)
        driver.send_signal(number)
        return driver.wait()


def modified(path):
    """When a file was written; one that is just being replaced is old."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


@pytest.mark.slow
def test_a_grid_that_is_killed_in_both_phases_ends_as_one_that_is_not(tmp_path):
    path, whole, broken = write_grid(tmp_path, LONG), tmp_path / "whole", tmp_path / "broken"
    work(read(path), whole)
    assert strike(path, broken, "tuning", signal.SIGKILL) == -signal.SIGKILL
    assert strike(path, broken, "run", signal.SIGTERM) == 75
    work(read(path), broken)
    assert values(broken) == values(whole)
    trained = [each for each in records.load(broken)[0].values() if each["kind"] != "cost"]
    resumed = {each["kind"] for each in trained if each["measured"]["resumes"]}
    assert resumed == {"tuning", "run"}
    assert all(each["environment"]["exact_resume"] for each in trained)

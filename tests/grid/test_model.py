"""What a valid grid needs: variants, jobs, and the manifest that reports are made from."""

from __future__ import annotations

from conftest import MACHINE, TINY, write_grid

from ablations.config import cost_fields
from ablations.grid.model import Choice, list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read


def test_equal_variants_of_two_studies_run_once(tmp_path):
    text = TINY + "[study.again]\nmodel.growth_rate = [8]\n[study.rate]\ntrain.learning_rate = [0.1, 0.05]\n"
    found = list_jobs(read(write_grid(tmp_path, text)), MACHINE)
    assert len({job.id for job in found}) == len(found)
    assert sum(job.kind == "run" for job in found) == 3 * 3
    assert sum(job.kind == "cost" for job in found) == 2, "a learning rate costs nothing"
    assert [job.kind for job in found] == ["cost"] * 2 + ["run"] * 9


def test_a_cost_belongs_to_its_machine_and_a_run_does_not(tiny):
    here, there = list_jobs(tiny, MACHINE), list_jobs(tiny, {**MACHINE, "device_name": "Another"})
    for a, b in zip(here, there, strict=True):
        assert (a.id == b.id) == (a.kind == "run")


def test_the_manifest_holds_no_path_and_is_the_same_every_time(tmp_path, tiny):
    plan = make_manifest(tiny, MACHINE, tmp_path)
    assert plan == make_manifest(read(write_grid(tmp_path)), MACHINE, tmp_path)
    assert str(tmp_path) not in str(plan)


def speeds_of(tmp_path, text):
    return {job.name: job for job in list_jobs(read(write_grid(tmp_path, text)), MACHINE) if job.kind == "speed"}


RATES = "\n[study.rates]\n{}train.learning_rate = [0.1, 0.05]\nmodel.growth_rate = [4, 8]\n"


def test_each_level_of_another_cost_is_compared_with_its_base(tmp_path):
    """Once for each pair of costs; a learning rate changes no cost."""
    found = speeds_of(tmp_path, TINY.replace("speed_rounds = 0\n", "") + RATES.format(""))
    assert list(found) == ["growth_rate 8 against base"]
    (job,) = found.values()
    assert job.config.rounds == 6
    assert job.fields == {"level": cost_fields(job.config.level), "base": cost_fields(job.config.base), "rounds": 6}


def test_the_most_rounds_that_a_study_asks_for_are_taken(tmp_path):
    assert speeds_of(tmp_path, TINY + RATES.format("")) == {}
    (few,) = speeds_of(tmp_path, TINY + RATES.format("speed_rounds = 6\n")).values()
    (more,) = speeds_of(
        tmp_path, TINY.replace("rounds = 0", "rounds = 6") + RATES.format("speed_rounds = 9\n")
    ).values()
    assert (few.config.rounds, more.config.rounds) == (6, 9)
    assert few.id != more.id, "more rounds are another measurement"


def test_comparisons_stand_in_the_plan_beside_their_levels(tmp_path):
    text = TINY.replace("rounds = 0", "rounds = 6") + RATES.format("")
    plan = make_manifest(read(write_grid(tmp_path, text)), MACHINE, tmp_path)
    (job,) = [entry for entry in plan.jobs if entry.kind == "speed"]
    assert [level.speed for level in plan.study("growth_rate").levels] == [None, job.id]
    assert [level.speed for level in plan.study("rates").levels] == [None, None, job.id, job.id]
    assert [entry.kind for entry in plan.jobs][:3] == ["cost", "cost", "speed"]


def test_a_cost_that_waits_for_tuning_is_not_compared_yet(tmp_path):
    """The batch size is tuned, and a step's cost depends on it."""
    text = TINY.replace("rounds = 0", "rounds = 6")
    text += "[tune]\ntrain.batch_size = [32, 64]\nseeds = [9]\nvalidation = 20\n"
    assert speeds_of(tmp_path, text) == {}
    grid = read(write_grid(tmp_path, text))
    choices = {name: Choice("chosen", {"batch_size": 32}) for name in grid.tuned}
    assert [job.name for job in list_jobs(grid, MACHINE, choices) if job.kind == "speed"] == [
        "growth_rate 8 against base"
    ]

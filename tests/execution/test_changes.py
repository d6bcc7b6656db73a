"""Results of an edited network never stand beside those of its old self."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace

import pytest
from conftest import context, record_of, write_grid
from typer.testing import CliRunner

from ablations.cli import app
from ablations.environment import describe_networks
from ablations.execution.changes import (
    SourceChanged,
    describe_edited,
    find_outdated,
    list_failed,
    refuse_changed,
    set_outdated_aside,
)
from ablations.execution.job import execute, job_machine
from ablations.grid.model import list_jobs
from ablations.grid.reader import read
from ablations.storage import records

GRID = """\
seeds = [0, 1]
speed_rounds = 6
base.model.block_config = [1, 1]
base.model.growth_rate = 4
base.data.train_limit = 20
base.train.epochs = 1
[study.network]
variant = [{ name = "edited", model.family = "edited_network:Net" }]
"""

NET = """\
import torch, edited_part
class Net(torch.nn.Sequential):
    def __init__(self, in_channels, num_classes):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(in_channels * edited_part.PIXELS, num_classes))
"""


@pytest.fixture
def edited(tmp_path, monkeypatch):
    """A grid's jobs, the records of all jobs of a user's class but one run, and a function that edits the class."""
    (tmp_path / "edited_network.py").write_text(NET)
    (tmp_path / "edited_part.py").write_text("PIXELS = 64\n")
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    jobs = list_jobs(read(write_grid(tmp_path, GRID)), job_machine("cpu"))
    whole = {job.id: write_record(job) for job in jobs}
    assert [job.name for job in jobs if "network_modules" in whole[job.id]["environment"]] == [
        "network edited", "network edited against base", "network edited, seed 0", "network edited, seed 1",
    ]  # fmt: skip
    yield jobs, whole, lambda text: (tmp_path / "edited_part.py").write_text(text)
    for name in ("edited_network", "edited_part"):
        del sys.modules[name]


def write_record(job):
    """A made-up record of this machine, with the sources of the user's network as they are now."""
    record = record_of(job, 90.0, 1.0)
    own = {"network_modules", "network_source"}
    beside = {key: value for key, value in record["environment"].items() if key not in own}
    return {**record, "environment": {**beside, **job_machine("cpu"), **describe_networks(job.config)}}


def test_nothing_is_outdated_as_long_as_only_comments_change(edited, tmp_path):
    jobs, whole, edit = edited
    edit("# of an image\nPIXELS = 64\n")
    whole.popitem()
    assert find_outdated(jobs, whole, tmp_path) == []


def test_runs_of_an_edited_network_are_not_continued(edited, tmp_path):
    jobs, whole, edit = edited
    edit("PIXELS = 8 * 8\n")
    assert find_outdated(jobs, whole, tmp_path) == [], "all is done, and nothing new would stand beside it"
    whole.popitem()
    with pytest.raises(SourceChanged) as caught:
        find_outdated(jobs, whole, tmp_path)
    assert str(caught.value) == (
        f"edited_network:Net has changed since its runs in {tmp_path} were made (1 on record; changed: edited_part). "
        "Tables would mix the old network with the new one: undo the change, give the new class another name, or "
        "choose another folder with --out, or run all of them again with --retry edited"
    )


def test_all_jobs_of_an_edited_network_are_made_again_on_request(edited, tmp_path):
    jobs, whole, edit = edited
    assert (find_outdated(jobs, whole, tmp_path, again=True), describe_edited(jobs, whole)) == ([], "")
    edit("PIXELS = 8 * 8\n")
    outdated = find_outdated(jobs, whole, tmp_path, again=True)
    assert [job.name for job in jobs if job.id in outdated] == [
        "network edited", "network edited against base", "network edited, seed 0", "network edited, seed 1",
    ]  # fmt: skip
    assert describe_edited(jobs, whole) == (
        "edited_network:Net has changed since 2 trainings on record were made (edited_part): tables show the old "
        "network. `--retry edited` trains and measures the new one"
    )


def test_a_plan_tells_that_a_network_was_edited_even_if_nothing_is_missing(edited, tmp_path):
    _, whole, edit = edited
    edit("PIXELS = 8 * 8\n")
    for record in whole.values():
        records.publish(tmp_path / "out", record)
    result = CliRunner().invoke(app, ["plan", str(write_grid(tmp_path, GRID)), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert "Note: edited_network:Net has changed since 2 trainings on record" in result.stderr.replace("\n", " ")


def test_a_single_job_of_an_edited_network_is_refused_too(edited, tmp_path):
    jobs, whole, edit = edited
    *_, last = jobs
    del whole[last.id]
    for job in jobs:
        refuse_changed(job, whole, tmp_path)
    edit("PIXELS = 8 * 8\n")
    refuse_changed(next(job for job in jobs if job.name == "base"), whole, tmp_path)
    with pytest.raises(SourceChanged, match=r"has changed since its runs .* changed: edited_part\)"):
        refuse_changed(last, whole, tmp_path)


def test_measurements_of_an_edited_network_are_made_again(edited, tmp_path):
    jobs, whole, edit = edited
    edit("PIXELS = 8 * 8\n")
    measured = [job.id for job in jobs if job.kind in ("cost", "speed")]
    kept = {name: whole[name] for name in measured}
    outdated = find_outdated(jobs, kept, tmp_path)
    assert [job.name for job in jobs if job.id in outdated] == ["network edited", "network edited against base"]
    for record in kept.values():
        records.publish(tmp_path, record)
    set_outdated_aside(tmp_path, outdated)
    assert records.load(tmp_path)[0].keys() == set(measured) - set(outdated)


def test_a_network_that_is_edited_while_the_grid_runs_fails_its_jobs(edited, tmp_path):
    jobs, _, edit = edited
    *_, last = jobs
    started = replace(last, source=describe_networks(last.config))
    edit("PIXELS = 8 * 8\n")
    assert execute(started, tmp_path / "out", {}, context()) == "failed"
    (note,) = records.load_attempts(tmp_path / "out")[last.id]
    assert note["reason"].endswith(
        "edited_network:Net was changed while the grid ran (edited_part): run the grid again"
    )


def test_a_record_names_the_source_that_was_trained_even_if_it_is_edited_meanwhile(edited, tmp_path):
    jobs, _, edit = edited
    *_, last = jobs
    before = describe_networks(last.config)
    (tmp_path / "out").mkdir()
    watching = replace(context(), tell=lambda message: edit("PIXELS = 8 * 8\n"))
    assert execute(last, tmp_path / "out", {}, watching) == "done"
    made = records.load(tmp_path / "out")[0][last.id]["environment"]
    assert {key: made[key] for key in before} == before != describe_networks(last.config)


def test_jobs_that_failed_belong_to_those_of_an_edited_network(edited, tmp_path):
    jobs, _, _ = edited
    for job in jobs:
        records.note_attempt(tmp_path, {"id": job.id, "name": job.name, "status": "failed", "reason": ""})
    failed = list_failed(jobs, tmp_path)
    assert [job.name for job in jobs if job.id in failed] == [
        "network edited", "network edited against base", "network edited, seed 0", "network edited, seed 1",
    ]  # fmt: skip


def test_a_refused_command_moves_no_record(edited, tmp_path):
    """Its disturbed costs would be measured again, and would be those of the new network beside runs of the old one."""
    jobs, whole, edit = edited
    for job in jobs:
        if job.kind == "cost":
            whole[job.id]["measured"]["train_disturbed"] = "other processes used 0.9 cores"
        records.publish(tmp_path / "out", whole[job.id])
    edit("PIXELS = 8 * 8\n")
    arguments = ["run", str(write_grid(tmp_path, GRID)), "--out", str(tmp_path / "out"), "--retry", "disturbed"]
    result = CliRunner().invoke(app, arguments)
    assert (result.exit_code, result.stdout) == (2, f"Planning {arguments[1]} ...\nPlanned: 2 variants.\n")
    assert "edited_network:Net has changed since its runs in" in result.stderr.replace("\n", " ")
    assert {path.stem for path in (tmp_path / "out" / "records").iterdir()} == {job.id for job in jobs}


@pytest.mark.parametrize("command", ["run", "plan"])
def test_it_is_told_before_any_job(command, edited, tmp_path):
    jobs, whole, edit = edited
    edit("PIXELS = 8 * 8\n")
    first = next(job.id for job in jobs if job.name == "network edited, seed 0")
    records.publish(tmp_path / "out", whole[first])
    grid = write_grid(tmp_path, GRID)
    result = CliRunner().invoke(app, [command, str(grid), "--out", str(tmp_path / "out")])
    said = f"Planning {grid} ...\nPlanned: 2 variants.\n" if command == "run" else ""
    assert (result.exit_code, result.stdout) == (2, said)
    assert "edited_network:Net has changed since its runs in" in result.stderr.replace("\n", " ")
    assert [path.name for path in (tmp_path / "out" / "records").iterdir()] == [f"{first}.json"]

"""Merging results folders: what is taken, what is not, and that nothing is replaced."""

from __future__ import annotations

import json

import pytest
from conftest import MACHINE, TINY, fabricate, record_of, write_grid
from typer.testing import CliRunner

from ablations.cli import app
from ablations.execution.driver import Shard
from ablations.grid.model import list_jobs, list_trials
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read
from ablations.grid.tuning import choose
from ablations.report.frames import load
from ablations.storage import records
from ablations.storage.manifest import NotResults
from ablations.storage.merging import merge


def make_shard(folder, grid, number):
    """A results folder with the records of one of three parts of the jobs."""
    own = Shard(number, 3).take(grid, MACHINE, {})
    left = {job.name for job in list_jobs(grid, MACHINE) if job.id not in own}
    fabricate(folder, grid, skip=tuple(left))
    return folder


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_shards_are_one_folder_again(tmp_path, tiny, results):
    shards = [make_shard(tmp_path / str(number), tiny, number) for number in (1, 2, 3)]
    merged = merge(shards, tmp_path / "all")
    assert sum(len(each.added) for each in merged) == 8
    assert contents(tmp_path / "all") == contents(results)
    again = merge(shards, tmp_path / "all")
    assert sum(len(each.present) for each in again) == 8
    assert not any(each.added or each.different or each.damaged or each.foreign for each in again)
    assert contents(tmp_path / "all") == contents(results)


def test_what_is_there_stays_and_a_different_result_is_told(tmp_path, tiny, results):
    run = next(job for job in list_jobs(tiny, MACHINE) if job.kind == "run")
    other = tmp_path / "other"
    fabricate(other, tiny, edit=lambda job, record: record["deterministic"].update(test_accuracy=50.0)
              if job.id == run.id else None)  # fmt: skip
    before = contents(results)
    (merged,) = merge([other], results)
    assert (merged.different, len(merged.present)) == ([run.id], 8)
    assert contents(results) == before


def test_damaged_and_foreign_records_are_not_taken(tmp_path, tiny, results):
    path = next((results / "records").iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    wide = read(write_grid(tmp_path, TINY.replace("[4, 8]", "[4, 12]").replace("[0, 1, 2]", "[0]")))
    for job in list_jobs(wide, {**MACHINE, "device_name": "Another"}):
        if job.kind == "cost" or "12" in job.name:
            record = record_of(job, 90.0, 1.0)
            record["environment"] |= {"device_name": "Another"}
            records.publish(results, record)
    target = tmp_path / "all"
    make_manifest(tiny, MACHINE, target).write(target)
    (merged,) = merge([results], target)
    assert merged.damaged == [path]
    assert merged.foreign == {"run": 1, "cost": 2}
    assert (len(merged.added), len(load(target).others)) == (7, 0)
    told = json.loads(CliRunner().invoke(app, ["merge", str(results), "--into", str(target), "--json"]).stdout)
    assert told["merged"][0]["foreign"] == {"run": 1, "cost": 2}


def test_runs_with_other_seeds_are_taken(tmp_path, tiny):
    fabricate(tmp_path / "one", read(write_grid(tmp_path), seeds=[0]))
    fabricate(tmp_path / "two", read(write_grid(tmp_path), seeds=[1, 2]))
    first, second = merge([tmp_path / "one", tmp_path / "two"], tmp_path / "all")
    assert (len(first.added), len(second.added), len(second.present)) == (4, 4, 2)
    make_manifest(tiny, MACHINE, tmp_path / "all").write(tmp_path / "all")
    assert set(load(tmp_path / "all").runs.status) == {"done"}


def test_notes_of_failures_are_taken_once_and_not_beside_a_record(tmp_path, tiny):
    lost = ("growth_rate 8, seed 0",)
    fabricate(tmp_path / "one", tiny, lost=lost)
    target = tmp_path / "all"
    assert [each.failures for _ in range(2) for each in merge([tmp_path / "one"], target)] == [1, 0]
    assert [note["name"] for notes in records.load_attempts(target).values() for note in notes] == [*lost]
    fabricate(tmp_path / "two", tiny)
    assert [each.failures for each in merge([tmp_path / "one"], tmp_path / "two")] == [0]


def test_runs_that_follow_from_the_tuning_of_a_shard_are_taken(tmp_path):
    text = TINY.replace("[0, 1, 2]", "[0]").replace("[4, 8]", "[4]")
    text += "[tune]\ntrain.learning_rate = [0.1, 0.2]\nseeds = [9]\nvalidation = 40\n"
    grid = read(write_grid(tmp_path, text))
    target, source = tmp_path / "all", tmp_path / "shard"
    make_manifest(grid, MACHINE, target).write(target)
    trials = {}
    for job in list_trials(grid, *grid.tuned):
        trials[job.id] = record_of(job, 0.0, 1.0)
        trials[job.id]["deterministic"] = {"validation_accuracy": 100 * job.config.variant.train.learning_rate}
    choices = choose(grid, trials, {})
    make_manifest(grid, MACHINE, source, choices).write(source)
    (run,) = [job for job in list_jobs(grid, MACHINE, choices) if job.kind == "run"]
    records.publish(source, record_of(run, 90.0, 1.0))
    (merged,) = merge([source], target)
    assert (merged.added, merged.foreign) == ([run.id], {})


def test_kept_weights_come_with_their_record(tmp_path, tiny, results):
    run = next(job for job in list_jobs(tiny, MACHINE) if job.kind == "run")
    (results / "weights").mkdir()
    (results / "weights" / f"{run.id}.safetensors").write_bytes(b"weights")
    merge([results], tmp_path / "all")
    assert (tmp_path / "all" / "weights" / f"{run.id}.safetensors").read_bytes() == b"weights"


def test_nothing_is_done_if_one_of_the_folders_cannot_be_merged(tmp_path, results):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").touch()
    with pytest.raises(NotResults, match=r"mine holds no results, but letter\.txt: choose a new folder"):
        merge([results], tmp_path / "mine")
    with pytest.raises(NotResults, match="none"):
        merge([results, tmp_path / "none"], tmp_path / "all")
    with pytest.raises(NotResults, match="cannot be merged into itself"):
        merge([results], results)
    assert not (tmp_path / "all").exists()
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_the_command_says_what_it_took_and_how_to_go_on(tmp_path, tiny):
    shards = [str(make_shard(tmp_path / str(number), tiny, number)) for number in (1, 2)]
    target = tmp_path / "all"
    added = [len(Shard(number, 3).take(tiny, MACHINE, {})) for number in (1, 2)]
    said = CliRunner().invoke(app, ["merge", *shards, "--into", str(target)])
    assert said.exit_code == 0
    assert said.output.splitlines() == [
        *(f"{place}: {count} records added; 0 already there." for place, count in zip(shards, added, strict=True)),
        f"Not done: {8 - sum(added)} missing. This command does what is missing, and reports:",
        f"  ablate run {target}/grid.toml --out {target}",
    ]
    told = json.loads(CliRunner().invoke(app, ["merge", *shards, "--into", str(target), "--json"]).output)
    assert [len(each["present"]) for each in told["merged"]] == added
    assert told["left"] == {"missing": 8 - sum(added)}
    last = str(make_shard(tmp_path / "3", tiny, 3))
    lines = CliRunner().invoke(app, ["merge", last, "--into", str(target)]).output.splitlines()
    assert lines[1:] == ["All jobs are done. This command makes the report:", f"  ablate report {target}"]
    assert CliRunner().invoke(app, ["merge", str(target), "--into", str(target)]).exit_code == 2

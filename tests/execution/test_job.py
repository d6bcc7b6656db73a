"""One job: its record, or the status that its failure becomes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import ChainMap
from dataclasses import replace

import pytest
import torch
from conftest import MACHINE, TINY, context, record_of, speed_of, write_grid
from typer.testing import CliRunner

from ablations.cli import app
from ablations.environment import describe_code
from ablations.execution import job
from ablations.grid.model import list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read
from ablations.profiling import speed
from ablations.storage import records
from ablations.training.loop import Diverged
from ablations.training.stopwatch import PARTS

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")  # Python 3.12


class Odd(Exception):
    """An error that no other process can make again."""

    def __init__(self):
        super().__init__(lambda: None)

    def __str__(self):
        return "odd"


def test_a_run_s_record_is_complete(tiny, tmp_path):
    run = next(each for each in list_jobs(tiny, MACHINE) if each.kind == "run")
    code = {"commit": "c", "fingerprint": "f"}
    assert job.execute(run, tmp_path, code, context(started=time.monotonic() - 7)) == "done"
    record = records.load(tmp_path)[0][run.id]
    assert record["config"] == run.fields
    assert record["config"]["data"]["checksum"] == tiny.checksum(tiny.base)
    assert set(record["deterministic"]) == {
        "test_accuracy", "test_loss", "test_top5_accuracy", "test_calibration_error", "test_per_class_accuracy",
        "test_outcomes", "test_mistakes",
        "train_images", "validation_images", "test_images", "steps", "weights", "data", "history",
    }  # fmt: skip
    assert record["deterministic"]["train_images"] == 100
    assert record["deterministic"]["data"]["images_per_class"] == {"train": [10] * 10, "test": [36] * 10}
    assert len(record["measured"]["epoch_seconds"]) == len(record["deterministic"]["history"]) == 1
    parts = [record["measured"][f"{part}_seconds"] for part in PARTS]
    assert sum(parts) == pytest.approx(record["measured"]["seconds"])
    assert all(seconds > 0 for seconds in parts)
    assert record["measured"]["start_seconds"] > 7
    assert record["environment"].items() >= code.items()
    assert record["environment"]["threads"] == 1


def test_two_executions_agree_in_the_deterministic_part(tiny, tmp_path):
    run = next(each for each in list_jobs(tiny, MACHINE) if each.kind == "run")
    found = []
    for place in (tmp_path / "a", tmp_path / "b"):
        place.mkdir()
        job.execute(run, place, {}, context())
        found.append(records.load(place)[0][run.id]["deterministic"])
    assert found[0] == found[1]


def test_a_pause_for_a_measurement_changes_no_result_and_no_time(tiny, tmp_path):
    run = next(each for each in list_jobs(tiny, MACHINE) if each.kind == "run")
    pauses = iter([0.4])

    def give_way(settle):
        seconds = next(pauses, 0.0)
        settle()
        time.sleep(seconds)
        return seconds

    found = []
    for place, giving in ((tmp_path / "a", lambda settle: 0.0), (tmp_path / "b", give_way)):
        place.mkdir()
        began = time.monotonic()
        job.execute(run, place, {}, replace(context(), give_way=giving))
        found.append(records.load(place)[0][run.id])
        passed = time.monotonic() - began
    assert found[0]["deterministic"] == found[1]["deterministic"]
    assert found[1]["measured"]["seconds"] < passed - 0.35
    assert sum(found[1]["measured"]["epoch_seconds"]) < passed - 0.35


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MemoryError(), "oom"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), "oom"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), "oom"),
        (Diverged("the loss is nan at step 3, in epoch 1"), "diverged"),
        (RuntimeError("shapes do not fit"), "failed"),
    ],
)
def test_a_failure_becomes_a_status_with_its_reason(error, status, tiny, tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise error

    monkeypatch.setattr(job, "train", broken)
    run = next(each for each in list_jobs(tiny, MACHINE) if each.kind == "run")
    assert job.execute(run, tmp_path, {}, context()) == status
    (attempt,) = records.load_attempts(tmp_path)[run.id]
    assert attempt["status"] == status
    assert attempt["reason"] == f"{type(error).__name__}: {error}"
    assert not any("/" in line for line in attempt["traceback"])
    assert records.load(tmp_path)[0] == {}


def test_the_place_of_a_failure_is_the_innermost_line_of_the_user_s(tmp_path):
    """Between this project above it, and torch and Python's library below it."""
    path = tmp_path / "net.py"
    path.write_text("import json, torch\ndef forward(images):\n    return torch.nn.functional.linear(images, None)\n"
                    "def read():\n    json.loads('{')\n")  # fmt: skip
    scope: dict = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    for function, arguments, line in (("forward", [torch.ones(1, 2)], 3), ("read", [], 5)):
        with pytest.raises(Exception) as caught:  # noqa: PT011
            scope[function](*arguments)
        assert job.describe_traceback(caught.value)["place"] == f"net.py:{line} in {function}"
    with pytest.raises(KeyError) as caught:
        lookup_in_the_library()
    found = job.describe_traceback(caught.value.with_traceback(caught.tb.tb_next.tb_next))
    assert found["place"] == ""
    assert found["traceback"]


def test_a_job_that_is_done_again_replaces_its_record_and_keeps_the_old_one(tiny, tmp_path, monkeypatch):
    cost = next(each for each in list_jobs(tiny, MACHINE) if each.kind == "cost")
    for scale, again in ((1.0, False), (2.0, False), (3.0, True)):
        monkeypatch.setattr(job, "_record", lambda each, *more, scale=scale: record_of(each, 0.0, scale))
        assert job.execute(replace(cost, again=again), tmp_path, {}, context()) == "done"
    assert records.load(tmp_path)[0][cost.id]["deterministic"]["params"] == 3000
    (old,) = (tmp_path / "records" / "outdated").iterdir()
    assert records.read(old)["deterministic"]["params"] == 1000


def lookup_in_the_library():
    return ChainMap({})["none"]


@pytest.fixture
def comparison(tmp_path):
    grid = read(write_grid(tmp_path, TINY.replace("speed_rounds = 0", "speed_rounds = 6")))
    return next(each for each in list_jobs(grid, job.job_machine("cpu")) if each.kind == "speed")


@FORKS
def test_a_comparison_s_record_has_the_seconds_of_every_round(comparison, tmp_path, monkeypatch):
    """Each measured in a process of its own. A fork of this process cannot train, because other tests have."""
    here = os.getpid()
    monkeypatch.setattr(speed, "measure_speed", lambda cost, device: {**speed_of(1.0), "process": os.getpid()})
    assert job.execute(comparison, tmp_path, {"commit": "c"}, context()) == "done"
    record = records.load(tmp_path)[0][comparison.id]
    assert (record["kind"], record["config"]) == ("speed", comparison.fields)
    rounds = record["measured"]["rounds"]
    assert [list(each) for each in rounds] == [["base", "level"], ["level", "base"]] * 3
    measured = [side for each in rounds for side in each.values()]
    assert len({here, *(side.pop("process") for side in measured)}) == 13
    assert measured == [speed_of(1.0)] * 12
    assert record["environment"]["threads"] == 1
    assert record["environment"]["commit"] == "c"


@FORKS
@pytest.mark.parametrize(
    ("error", "status"), [(MemoryError(), "oom"), (RuntimeError("shapes do not fit"), "failed"), (Odd(), "failed")]
)
def test_a_side_that_cannot_be_measured_fails_the_comparison(error, status, comparison, tmp_path, monkeypatch):
    def broken(cost, device):
        if cost == comparison.config.level:
            raise error
        return {}

    monkeypatch.setattr(speed, "measure_speed", broken)
    assert job.execute(comparison, tmp_path, {}, context()) == status
    (attempt,) = records.load_attempts(tmp_path)[comparison.id]
    assert attempt["status"] == status
    assert attempt["reason"] == f"the level in round 1: {type(error).__name__}: {error}"
    assert any("in broken" in line for line in attempt["traceback"])


@FORKS
def test_a_measurement_that_is_killed_again_and_again_is_a_failure(comparison, tmp_path, monkeypatch):
    deaths = tmp_path / "deaths"

    def die(cost, device):
        with deaths.open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(speed, "measure_speed", die)
    assert job.execute(comparison, tmp_path, {}, context()) == "failed"
    (attempt,) = records.load_attempts(tmp_path)[comparison.id]
    assert attempt["reason"] == "the base in round 1: its process was killed by SIGKILL, 3 times in a row"
    assert deaths.read_text() == "xxx"


@FORKS
def test_a_comparison_is_abandoned_on_request(comparison, tmp_path):
    assert job.execute(comparison, tmp_path, {}, context(lambda: True)) == "stopped"
    assert (records.load(tmp_path)[0], records.load_attempts(tmp_path)) == ({}, {})


def test_data_that_changed_after_planning_is_not_trained_on(tiny, tmp_path):
    run = next(each for each in list_jobs(tiny, MACHINE) if each.kind == "run")
    run.fields["data"]["checksum"] = "0" * 64
    assert job.execute(run, tmp_path, {}, context()) == "failed"
    assert (
        "digits has changed on disk since the job was planned" in records.load_attempts(tmp_path)[run.id][0]["reason"]
    )


@pytest.mark.parametrize("words", ["(pid 7) is killed by signal: Killed. ", "(pid(s) 7, 8) exited unexpectedly"])
def test_a_killed_reader_of_files_is_the_death_of_the_process_and_no_failure(words, tiny, tmp_path, monkeypatch):
    def broken(*arguments, **options):
        raise RuntimeError(f"DataLoader worker {words}")

    monkeypatch.setattr(job, "train", broken)
    run = next(each for each in list_jobs(tiny, MACHINE) if each.kind == "run")
    with pytest.raises(SystemExit, match="DataLoader worker"):
        job.execute(run, tmp_path, {}, context())
    assert records.load_attempts(tmp_path) == {}


@pytest.mark.parametrize(("fingerprint", "exact"), [("f", True), ("g", False)])
def test_the_same_sources_under_another_commit_go_on_exactly(fingerprint, exact, tiny, tmp_path):
    run = next(each for each in list_jobs(tiny, MACHINE) if each.kind == "run")
    first = {"commit": "a", "fingerprint": "f"}
    assert job.execute(run, tmp_path, first, context(lambda: True)) == "stopped"
    assert job.execute(run, tmp_path, {"commit": "b", "fingerprint": fingerprint}, context()) == "done"
    record = records.load(tmp_path)[0][run.id]
    assert (record["measured"]["resumes"], record["environment"]["exact_resume"]) == (1, exact)


COMMAND = (sys.executable, "-m", "ablations", "job")


def start(folder, job_id, *options):
    return subprocess.run([*COMMAND, str(folder), job_id, *options], capture_output=True, text=True, check=False)


@pytest.fixture
def planned(tiny, tmp_path):
    """A results folder that holds a plan and nothing else, and the jobs of the plan."""
    machine = job.job_machine("cpu")
    make_manifest(tiny, machine, tmp_path / "r").write(tmp_path / "r")
    return tmp_path / "r", {each.name: each for each in list_jobs(tiny, machine)}


@pytest.mark.slow
def test_jobs_are_run_from_disk(tmp_path, planned):
    """A run in a bare process, and a cost; their records are those of jobs that this process executes."""
    folder, todo = planned
    found = start(folder, todo["base, seed 0"].id)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.endswith("base, seed 0: done\n")
    result = CliRunner().invoke(app, ["job", str(folder), todo["growth_rate 8"].id])
    assert (result.exit_code, result.stdout) == (0, "growth_rate 8: done\n")
    (tmp_path / "here").mkdir()
    for name in ("base, seed 0", "growth_rate 8"):
        job.execute(todo[name], tmp_path / "here", describe_code(), context())
    there, here = (records.load(place)[0] for place in (folder, tmp_path / "here"))
    assert {key: each["deterministic"] for key, each in there.items()} == {
        key: each["deterministic"] for key, each in here.items()
    }
    run = there[todo["base, seed 0"].id]
    assert run["environment"] == here[run["id"]]["environment"]
    again = CliRunner().invoke(app, ["job", str(folder), run["id"]])
    assert (again.exit_code, again.stdout) == (0, "base, seed 0 is on record already\n")


def test_what_is_wrong_with_a_job_is_told_without_a_traceback(tiny, tmp_path, planned):
    folder, todo = planned
    (folder / "records").mkdir()
    (folder / "records" / f"{todo['base'].id}.json").write_text("{}")
    make_manifest(tiny, MACHINE, tmp_path / "other").write(tmp_path / "other")
    cost = next(each for each in list_jobs(tiny, MACHINE) if each.kind == "cost")
    for arguments, said in (
        ((tmp_path / "nowhere", "0"), "holds no results"),
        ((folder, "0123"), "it is none of its 8; `ablate run` plans the grid anew"),
        ((folder, todo["base, seed 0"].id, "--device", "cuda:99"), "device cuda:99: this machine has cpu"),
        ((folder, todo["base"].id), "is damaged: there is no checksum at its end"),
        ((tmp_path / "other", cost.id), "to be measured on another machine (device_name Test processor, torch 2.99.0)"),
    ):
        result = CliRunner().invoke(app, ["job", *map(str, arguments)])
        assert result.exit_code == 2
        assert said in result.stderr.replace("\n", "")


def test_a_network_that_ends_its_process_is_no_record(tiny, tmp_path, monkeypatch):
    def leave(*arguments, **options):
        raise SystemExit(0)

    monkeypatch.setattr(job, "train", leave)
    make_manifest(tiny, MACHINE, tmp_path).write(tmp_path)
    run = next(each for each in list_jobs(tiny, MACHINE) if each.kind == "run")
    result = CliRunner().invoke(app, ["job", str(tmp_path), run.id])
    assert (result.exit_code, result.stderr) == (2, "base, seed 0: its process was ended (0)\n")


def test_a_job_that_is_asked_to_stop_keeps_its_state(tmp_path):
    text = TINY.replace("train.epochs = 1", "train.epochs = 300").replace("seeds = [0, 1, 2]", "seeds = [0]")
    grid = read(write_grid(tmp_path, text))
    make_manifest(grid, MACHINE, tmp_path / "r").write(tmp_path / "r")
    run = next(each for each in list_jobs(grid, MACHINE) if each.kind == "run")
    with subprocess.Popen([*COMMAND, str(tmp_path / "r"), run.id], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().startswith("base, seed 0: epoch 1.0, loss")
        process.terminate()
        assert process.stdout.read().endswith("base, seed 0: stopped\n")
    assert process.returncode == 75
    assert [path.name for path in (tmp_path / "r" / "checkpoints").glob("*.latest")] == [f"{run.id}.latest"]


def test_a_job_that_fails_notes_why(tmp_path):
    text = TINY.replace("train.epochs = 1", "train.epochs = 1\ntrain.learning_rate = 1e30")
    grid = read(write_grid(tmp_path, text))
    make_manifest(grid, MACHINE, tmp_path / "r").write(tmp_path / "r")
    run = next(each for each in list_jobs(grid, MACHINE) if each.kind == "run")
    found = CliRunner().invoke(app, ["job", str(tmp_path / "r"), run.id])
    assert found.exit_code == 1
    assert "base, seed 0: diverged: Diverged: the loss is" in found.stdout
    assert records.load_attempts(tmp_path / "r")[run.id][0]["status"] == "diverged"

"""One job: its record, or the status that its failure becomes."""

from __future__ import annotations

import time

import pytest
import torch
from conftest import MACHINE

from ablations.execution import job
from ablations.grid.model import jobs
from ablations.storage import records
from ablations.training.loop import Diverged
from ablations.training.stopwatch import PARTS


def silent(kind: str, *detail: float) -> None:
    pass


def test_a_run_s_record_is_complete(tiny, tmp_path):
    run = next(each for each in jobs(tiny, MACHINE) if each.kind == "run")
    code = {"commit": "c", "fingerprint": "f"}
    assert job.execute(run, tmp_path, code, "cpu", silent, started=time.monotonic() - 7) == "done"
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
    run = next(each for each in jobs(tiny, MACHINE) if each.kind == "run")
    found = []
    for place in (tmp_path / "a", tmp_path / "b"):
        job.execute(run, place, {}, "cpu", silent)
        found.append(records.load(place)[0][run.id]["deterministic"])
    assert found[0] == found[1]


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
    def broken(*arguments):
        raise error

    monkeypatch.setattr(job, "train", broken)
    run = next(each for each in jobs(tiny, MACHINE) if each.kind == "run")
    assert job.execute(run, tmp_path, {}, "cpu", silent) == status
    (attempt,) = records.load_attempts(tmp_path)[run.id]
    assert attempt["status"] == status
    assert attempt["reason"] == f"{type(error).__name__}: {error}"
    assert not any("/" in line for line in attempt["traceback"])
    assert records.load(tmp_path)[0] == {}


def test_data_that_changed_after_planning_is_not_trained_on(tiny, tmp_path):
    run = next(each for each in jobs(tiny, MACHINE) if each.kind == "run")
    run.fields["data"]["checksum"] = "0" * 64
    assert job.execute(run, tmp_path, {}, "cpu", silent) == "failed"
    assert (
        "digits has changed on disk since the job was planned" in records.load_attempts(tmp_path)[run.id][0]["reason"]
    )


@pytest.mark.parametrize("words", ["(pid 7) is killed by signal: Killed. ", "(pid(s) 7, 8) exited unexpectedly"])
def test_a_killed_reader_of_files_is_the_death_of_the_process_and_no_failure(words, tiny, tmp_path, monkeypatch):
    def broken(*arguments):
        raise RuntimeError(f"DataLoader worker {words}")

    monkeypatch.setattr(job, "train", broken)
    run = next(each for each in jobs(tiny, MACHINE) if each.kind == "run")
    with pytest.raises(SystemExit, match="DataLoader worker"):
        job.execute(run, tmp_path, {}, "cpu", silent)
    assert records.load_attempts(tmp_path) == {}


@pytest.mark.parametrize(("fingerprint", "exact"), [("f", True), ("g", False)])
def test_the_same_sources_under_another_commit_go_on_exactly(fingerprint, exact, tiny, tmp_path):
    run = next(each for each in jobs(tiny, MACHINE) if each.kind == "run")
    first = {"commit": "a", "fingerprint": "f"}
    assert job.execute(run, tmp_path, first, "cpu", silent, lambda: True) == "stopped"
    assert job.execute(run, tmp_path, {"commit": "b", "fingerprint": fingerprint}, "cpu", silent) == "done"
    record = records.load(tmp_path)[0][run.id]
    assert (record["measured"]["resumes"], record["environment"]["exact_resume"]) == (1, exact)

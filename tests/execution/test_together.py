"""A run in several processes: stops, deaths and failures of one of them, and the places that it takes."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest
import torch
from conftest import MACHINE, TINY, write_grid

from ablations.config import count_processes
from ablations.execution.driver import PRELOAD, refuse
from ablations.execution.engine import Finished, Kept, Restarted, Started, Stopped, Task, Told
from ablations.execution.fresh import Killed, call_fresh
from ablations.execution.job import execute
from ablations.execution.local import LocalEngine
from ablations.execution.together import Failed, call_together
from ablations.grid.model import list_jobs
from ablations.grid.reader import read
from ablations.storage import records
from ablations.storage.turns import lock_device
from ablations.training import loop

TWO = TINY.replace("[0, 1, 2]", "[0]").replace("[4, 8]", "[4]").replace("epochs = 1", "epochs = 3")
TWO = TWO.replace("data.train_limit = 100", "data.train_limit = 99\ntrain.processes = 2\ntrain.batch_size = 16")
EVERY_STEP = "train.checkpoint_seconds = 0\n"


def job_of(folder, text=TWO):
    grid = read(write_grid(folder, text))
    return next(each for each in list_jobs(grid, MACHINE) if each.kind == "run")


def execute_with(fault, job, folder, context):
    """Executes a job whose second process has a fault in its tenth step, once."""
    original, steps = loop.training_step, []

    def step(*arguments, **options):
        steps.append(0)
        assert not torch.cuda._is_in_bad_fork(), "the processes of a job may use CUDA"
        if fault is not None and len(steps) == 10 and os.environ["RANK"] == "1":
            fault(folder)
        return original(*arguments, **options)

    loop.training_step = step
    return execute(job, folder, {}, context)


def die(folder):
    mark = folder / "died"
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)


def rest(folder):
    time.sleep(3)


def fill_memory(folder):
    raise MemoryError("3 TiB")


def fail(folder):
    raise TypeError("odd images")


def run(folder, fault=None, stopping=lambda: False, text=TWO):
    job = job_of(folder, text)
    count = count_processes(job.config)
    task = Task(job.id, execute_with, (fault, job, folder), stoppable=True, slots=count)
    return job, LocalEngine(["cpu"] * count, {}, PRELOAD).run([task], stopping)


def stop_and_go_on(folder, text):
    """Stops a run after a checkpoint within its second epoch, and gives the record of the run that goes on from it."""
    asked: list[Kept] = []
    _, events = run(folder, stopping=lambda: bool(asked), text=text.replace("[base]", f"[base]\n{EVERY_STEP}"))
    found = []
    for event in events:
        found.append(event)
        if isinstance(event, Kept) and event.place >= (1, 2):
            asked.append(event)
    assert isinstance(found[-1], Stopped)
    assert records.load(folder)[0] == {}
    _, events = run(folder, text=text)
    assert isinstance(list(events)[-1], Finished)
    return record_in(folder)


def record_in(folder):
    (record,) = records.load(folder)[0].values()
    return record


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The record of a run that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    _, events = run(folder)
    assert [type(event) for event in events if not isinstance(event, Kept)][-1] is Finished
    return record_in(folder)


def test_a_record_tells_of_the_processes(undisturbed):
    told = {name: undisturbed["environment"][name] for name in ("processes", "nodes", "backend", "batch_norm")}
    assert told == {"processes": 2, "nodes": 1, "backend": "gloo", "batch_norm": "share"}
    assert undisturbed["environment"]["exact_resume"] is True
    assert undisturbed["config"]["train"]["processes"] == 2
    assert [epoch["images"] for epoch in undisturbed["deterministic"]["history"]] == [99, 99, 99]


def test_a_killed_process_ends_all_and_they_go_on_from_the_checkpoint(tmp_path, undisturbed):
    began = time.monotonic()
    _, events = run(tmp_path, die, text=TWO.replace("[base]", f"[base]\n{EVERY_STEP}"))
    found = list(events)
    (restarted,) = [event for event in found if isinstance(event, Restarted)]
    assert "exit code 1" in restarted.reason
    assert isinstance(found[-1], Finished)
    assert time.monotonic() - began < 60, "a process that loses another one does not wait for it"
    record = record_in(tmp_path)
    assert record["deterministic"] == undisturbed["deterministic"]
    assert record["measured"]["resumes"] == 1


def test_a_stop_in_mid_epoch_loses_nothing(tmp_path, undisturbed):
    record = stop_and_go_on(tmp_path, TWO)
    assert record["deterministic"] == undisturbed["deterministic"]
    assert record["measured"]["resumes"] == 1


@pytest.mark.slow
def test_three_processes_with_dropout_go_on_with_the_same_bits(tmp_path):
    """Three gradients have several sums, which differ in the last bits: their order must not change."""
    text = TWO.replace("train.processes = 2", "train.processes = 3\nmodel.dropout = 0.2")
    for name in ("whole", "stopped"):
        (tmp_path / name).mkdir()
    _, events = run(tmp_path / "whole", text=text)
    assert isinstance(list(events)[-1], Finished)
    stopped = stop_and_go_on(tmp_path / "stopped", text)
    assert stopped["deterministic"] == record_in(tmp_path / "whole")["deterministic"]
    assert stopped["measured"]["resumes"] == 1


@pytest.mark.slow
def test_all_processes_give_way_to_a_measurement(tmp_path, undisturbed):
    measured: list[float] = []
    threads: list[threading.Thread] = []

    def measure():
        with lock_device("cpu", True, lambda others: None):
            measured.append(time.monotonic())

    _, events = run(tmp_path, rest)
    for event in events:
        if isinstance(event, Told) and not threads:
            (lock,) = Path(tempfile.gettempdir()).glob("*-cpu.lock")
            os.utime(lock, (0, 0))  # the turn of the trainings is over
            threads.append(threading.Thread(target=measure))
            threads[0].start()
        if isinstance(event, Finished):
            ended = time.monotonic()
    threads[0].join()
    assert measured[0] < ended
    assert record_in(tmp_path)["deterministic"] == undisturbed["deterministic"]


@pytest.mark.parametrize(
    ("fault", "more", "status", "reason"),
    [
        (fill_memory, "", "oom", "MemoryError: 3 TiB"),
        (fail, "", "failed", "TypeError: odd images"),
        (None, "train.learning_rate = 1e30\n", "diverged", "Diverged: the loss is"),
    ],
)
def test_a_failure_of_the_second_process_is_that_of_the_job(tmp_path, fault, more, status, reason):
    job, events = run(tmp_path, fault, text=TWO.replace("[base]", f"[base]\n{more}"))
    last = list(events)[-1]
    assert (type(last), getattr(last, "status", "")) == (Finished, status)
    (attempt,) = records.load_attempts(tmp_path)[job.id]
    assert attempt["status"] == status
    assert attempt["reason"].startswith(reason)
    assert attempt["traceback"]


def test_too_few_workers_are_told(tmp_path):
    grid = read(write_grid(tmp_path, TWO))
    refuse(grid, "cpu", 2)
    with pytest.raises(
        ValueError, match=r"train.processes = 2 needs 2 workers at a time, and this is 1 worker: --work"
    ):
        refuse(grid, "cpu", 1)
    shared = TWO.replace("train.processes = 2", 'train.processes = 2\ntrain.batch_norm = "all"')
    with pytest.raises(ValueError, match=r"train.batch_norm = 'all' needs a CUDA device, and there is none here"):
        refuse(read(write_grid(tmp_path, shared)), "cpu", 2)


def tell(path, seconds, context):
    with Path(path).open("a") as file:
        file.write(f"{' '.join(context.devices)} begins\n")
    time.sleep(seconds)
    with Path(path).open("a") as file:
        file.write(f"{' '.join(context.devices)} ends\n")
    return "done"


@pytest.mark.slow
def test_a_task_of_several_slots_waits_for_them_and_nobody_starts_before_it(tmp_path):
    log = tmp_path / "log"
    kinds = [("one", 1), ("two", 2), ("last", 1)]
    tasks = [Task(name, tell, (log, 0.3), slots=slots) for name, slots in kinds]
    events = list(LocalEngine(["cpu", "cpu"], {}).run(tasks))
    assert [event.task.key for event in events if isinstance(event, Started)] == ["one", "two", "last"]
    assert log.read_text().splitlines() == [
        "cpu begins", "cpu ends", "cpu cpu begins", "cpu cpu ends", "cpu begins", "cpu ends",
    ]  # fmt: skip


def add_up(group):
    return {"rank": group.rank, "sum": float(group.sum(torch.tensor(group.rank + 1.0)))}


def decide(group):
    return [group.agree(bool(number % 3 == group.rank)) for number in range(6)]


def stop_with_all(group):
    while not group.stopping():
        time.sleep(0.01)
    return group.size


def ask_cuda(group):
    return torch.cuda._is_in_bad_fork()


def leave(group):
    if group.rank == 1:
        os._exit(3)
    group.any(True)


def call(function, stop=False):
    began = time.monotonic()
    try:
        return call_together(
            function, ["cpu"] * 3, lambda error: {"said": str(error)}, lambda: stop and time.monotonic() > began + 0.2
        )
    except (Failed, Killed) as error:
        return str(error)


def call_all():
    return [call(add_up), call(decide), call(stop_with_all, True), call(ask_cuda), call(leave), call(fail)]


def test_what_processes_tell_each_other():
    added, decided, stopped, spoilt, left, failed = call_fresh(call_all, (), "forkserver", lambda: False)
    assert added == {"rank": 0, "sum": 6.0}
    assert decided == [True, False, False] * 2, "process 0 decides"
    assert stopped == 3
    assert spoilt is False, "they may use CUDA"
    assert left == "process 1 of 3 was ended with exit code 3"
    assert "odd images" in failed

"""The engine of this machine: fresh processes, real deaths, tasks that do not listen, nothing left running.

What every engine must do stands in test_engine.py.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path

import pytest

from ablations.execution.engine import AskedToStop, Ended, Finished, Lost, Restarted, Stopped, Task, Told
from ablations.execution.local import LocalEngine, _Schedule, _Worker
from ablations.storage.turns import Purpose, lock_device


def work(name, context):
    context.tell("ready")
    return f"{name} on {context.device}"


def span(path, waits, context):
    """Notes when it began and ended; `waits` for company, which a slow machine may be long in sending."""
    start = time.monotonic()
    with Path(f"{path}.begun").open("a") as file:
        file.write(".")
    while waits and Path(f"{path}.begun").stat().st_size < 4 and time.monotonic() < start + 20:
        time.sleep(0.01)
    time.sleep(0.2)
    with Path(path).open("a") as file:
        file.write(f"{start} {time.monotonic()}\n")
    return "done"


def count_up(context):
    count_up.calls = getattr(count_up, "calls", 0) + 1
    return f"call {count_up.calls}, {os.environ['OMP_NUM_THREADS']} thread"


def die(context):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(context):
    os._exit(3)


def sleep(context):
    context.tell("ready")
    time.sleep(60)
    return "done"


def finished(events):
    return [event.status for event in events if isinstance(event, Finished)]


def test_every_task_has_a_fresh_process_with_one_thread():
    tasks = [Task(str(number), count_up, ()) for number in range(3)]
    assert finished(LocalEngine(["cpu"], {}).run(tasks)) == ["call 1, 1 thread"] * 3


def tell_from_threads(context):
    """Large messages at once, which without a lock would mix on their way."""
    threads = [threading.Thread(target=context.tell, args=((number, "x" * 200_000),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return str(context.started)


def test_any_thread_may_tell_and_the_start_is_the_engine_s():
    before = time.monotonic()
    events = list(LocalEngine(["dev"], {}).run([Task("a", tell_from_threads, ())]))
    assert sorted(event.message for event in events if isinstance(event, Told)) == [
        (number, "x" * 200_000) for number in range(8)
    ]
    assert before < float(finished(events)[0]) < time.monotonic()


def test_exclusive_tasks_overlap_with_nothing(tmp_path):
    path = tmp_path / "spans"
    tasks = [Task(str(number), span, (str(path), number >= 2), exclusive=number < 2) for number in range(6)]
    assert finished(LocalEngine(["cpu"] * 3, {}).run(tasks)) == ["done"] * 6
    spans = sorted(tuple(map(float, line.split())) for line in path.read_text().splitlines())
    assert spans[0][1] <= spans[1][0]
    assert all(spans[1][1] <= start for start, _ in spans[2:])
    assert spans[3][0] < spans[2][1], "the others run side by side"


def test_what_dies_is_started_again_and_given_up_after_three_deaths_in_a_row():
    tasks = [Task("killed", die, ()), Task("left", leave, ()), Task("good", work, ("good",))]
    events = list(LocalEngine(["cpu"], {}).run(tasks))
    ends = {event.task.key: event for event in events if isinstance(event, Ended)}
    reason = "3 times in a row without a newer checkpoint"
    assert ends["killed"] == Lost(tasks[0], 0, "failed", f"its process was killed by SIGKILL, {reason}")
    assert ends["left"] == Lost(tasks[1], 0, "failed", f"its process was ended with exit code 3, {reason}")
    assert ends["good"] == Finished(tasks[2], 0, "good on cpu")
    assert [event.reason for event in events if isinstance(event, Restarted)] == [
        "killed by SIGKILL", "killed by SIGKILL", "ended with exit code 3", "ended with exit code 3",
    ]  # fmt: skip


def test_a_task_over_its_limit_is_ended():
    tasks = [Task("slow", sleep, (), limit=0.5), Task("good", work, ("good",), limit=60.0)]
    assert [event for event in LocalEngine(["cpu"], {}).run(tasks) if isinstance(event, Ended)] == [
        Lost(tasks[0], 0, "timeout", "it took longer than time_limit = 0.5 seconds"),
        Finished(tasks[1], 0, "good on cpu"),
    ]


def obey(context):
    context.tell("ready")
    while not context.stopping():
        time.sleep(0.01)
    return "stopped"


def deaf(context):
    context.tell("ready")
    time.sleep(60)


def test_what_may_be_stopped_is_asked_and_the_rest_is_ended(monkeypatch):
    monkeypatch.setattr("ablations.execution.local.GRACE", 1.0)
    ready: list[str] = []
    tasks = [Task("good", obey, (), stoppable=True), Task("deaf", deaf, (), stoppable=True), Task("other", deaf, ())]
    tasks += [Task("never begun", obey, (), stoppable=True)]
    start = time.monotonic()
    events = []
    for event in LocalEngine(["cpu"] * 3, {}).run(tasks, lambda: len(ready) == 3):
        events.append(event)
        if isinstance(event, Told):
            ready.append(event.task.key)
    stopped = [event.task.key for event in events if isinstance(event, Stopped)]
    assert sorted(event.task.key for event in events if isinstance(event, AskedToStop)) == ["deaf", "good"]
    assert stopped[-1] == "deaf"
    assert sorted(stopped) == ["deaf", "good", "other"]
    assert time.monotonic() - start < 20
    assert not multiprocessing.active_children()


def with_child(path, context):
    """Has a child of its own, like a reader of files, and waits."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    Path(path).write_text(f"{os.getpid()} {child.pid}")
    context.tell("ready")
    time.sleep(60)


DRIVER = """
import sys
sys.path[:0] = {path!r}
from ablations.execution.engine import Task
from ablations.execution.local import LocalEngine
from ablations.storage.turns import Purpose, lock_device
from test_local import with_child
if __name__ == "__main__":
    for event in LocalEngine(["cpu"], {{}}).run([Task("a", with_child, ({file!r},))]):
        print(type(event).__name__, flush=True)
"""


def test_a_driver_that_is_killed_takes_its_workers_and_theirs_with_it(tmp_path):
    file = str(tmp_path / "pids")
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(path=[str(Path(__file__).parent), str(Path(__file__).parents[2])], file=file))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as driver:
        assert any(line == "Told\n" for line in driver.stdout)
        driver.kill()
    workers = [int(pid) for pid in Path(file).read_text().split()]
    end = time.monotonic() + 5
    while any(map(running, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(running, workers))


def running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_closing_ends_every_worker():
    before = set(multiprocessing.active_children())  # readers that other tests have left
    events = LocalEngine(["cpu"] * 2, {}).run([Task(str(n), sleep, ()) for n in range(2)])
    while not isinstance(next(events), Told):
        pass
    assert set(multiprocessing.active_children()) - before
    events.close()
    assert not set(multiprocessing.active_children()) - before


def measure(path, context):
    Path(path).touch()
    return "done"


def train(path, context):
    """Trains until the measurement is made, for which it gives way."""
    paused = 0.0
    context.tell("ready")
    while not Path(path).exists():
        time.sleep(0.01)
        paused += context.give_way(lambda: None)
    return f"paused: {paused > 0}"


def test_what_trains_goes_on_while_a_measurement_waits_and_gives_way_to_it(tmp_path):
    device = f"test-{os.getpid()}"
    path = str(tmp_path / "measured")
    tasks = [
        Task("cost 1", measure, (path,), exclusive=True),
        Task("short", work, ("short",)),
        Task("long", train, (path,), stoppable=True, limit=60.0),
        Task("cost 2", measure, (path,), exclusive=True),
    ]
    with ExitStack() as other:  # a training of another grid
        other.enter_context(lock_device(device, False, lambda others: None, Purpose("run of others")))
        events = []
        for event in LocalEngine([device], {}).run(tasks):
            events.append(event)
            if isinstance(event, Told) and event.task.key == "long":
                (lock,) = Path(tempfile.gettempdir()).glob(f"*-{device}.lock")
                os.utime(lock, (0, 0))  # the turn of the trainings is over
                other.close()
    course = [(type(event).__name__, event.task.key) for event in events if not isinstance(event, Told)]
    assert course[:5] == [
        ("Started", "cost 1"), ("Waiting", "cost 1"), ("Started", "short"), ("Finished", "short"), ("Started", "long"),
    ]  # fmt: skip
    assert events[1].others == f"run of others (process {os.getpid()})"
    ends = {event.task.key: event.status for event in events if isinstance(event, Finished)}
    assert ends["cost 1"] == ends["cost 2"] == "done"
    assert ends["long"] == "paused: True"
    assert course.index(("Waiting", "long")) < course.index(("Finished", "cost 1"))


@pytest.mark.parametrize(
    ("devices", "busy", "slots", "places"),
    [
        (["cpu"] * 3, [], 2, (0, 1)),
        (["cpu"] * 3, [0], 2, (1, 2)),
        (["cpu"] * 3, [0, 2], 2, None),
        (["cuda:0", "cuda:1", "cuda:0", "cuda:1"], [1], 2, (0, 3)),
        (["cuda:0", "cuda:1", "cuda:0", "cuda:1"], [1, 3], 2, None),
        (["cuda:0", "cuda:1", "cuda:0", "cuda:1"], [0], 3, (1, 2, 3)),
        (["cuda:0", "cuda:0"], [], 2, (0, 1)),
    ],
)
def test_a_task_of_several_slots_gets_as_many_devices_as_there_are(devices, busy, slots, places):
    """Whatever runs beside it: NCCL needs a device for each process, and another one adds up in another order."""
    others = [_Worker(Task("other", sleep, ()), (place,), None, None) for place in busy]
    schedule = _Schedule(devices, deque(), lambda: False, None, others)
    assert schedule.find_places(Task("wide", sleep, (), slots=slots)) == places
    assert schedule.find_places(Task("cost", sleep, (), exclusive=True)) == (0,)

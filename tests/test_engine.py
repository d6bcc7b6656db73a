"""The engine: fresh processes, exclusive tasks alone, deaths told, nothing left running."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from ablations.engine import Task, device_lock, run


def work(name, device, progress):
    progress(1.0, 0.5)
    return f"{name} on {device}"


def span(path, waits, device, progress):
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


def count_up(device, progress):
    count_up.calls = getattr(count_up, "calls", 0) + 1
    return f"call {count_up.calls}, {os.environ['OMP_NUM_THREADS']} thread"


def die(device, progress):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(device, progress):
    os._exit(3)


def sleep(device, progress):
    progress(0.0, 0.0)
    time.sleep(60)
    return "done"


def finished(events):
    return [event.detail[0] for event in events if event.kind == "finished"]


def test_tasks_run_in_order_and_tell_their_course():
    events = list(run([Task(name, work, (name,)) for name in "ab"], ["dev"], []))
    assert [(event.kind, event.task.key, event.detail) for event in events] == [
        ("started", "a", ()), ("progress", "a", (1.0, 0.5)), ("finished", "a", ("a on dev",)),
        ("started", "b", ()), ("progress", "b", (1.0, 0.5)), ("finished", "b", ("b on dev",)),
    ]  # fmt: skip


def test_every_task_has_a_fresh_process_with_one_thread():
    assert finished(run([Task(str(n), count_up, ()) for n in range(3)], ["cpu"], [])) == ["call 1, 1 thread"] * 3


def test_exclusive_tasks_overlap_with_nothing(tmp_path):
    path = tmp_path / "spans"
    tasks = [Task(str(number), span, (str(path), number >= 2), exclusive=number < 2) for number in range(6)]
    assert finished(run(tasks, ["cpu"] * 3, [])) == ["done"] * 6
    spans = sorted(tuple(map(float, line.split())) for line in path.read_text().splitlines())
    assert spans[0][1] <= spans[1][0]
    assert all(spans[1][1] <= start for start, _ in spans[2:])
    assert spans[3][0] < spans[2][1], "the others run side by side"


def test_a_death_is_told_and_the_others_go_on():
    tasks = [Task("killed", die, ()), Task("left", leave, ()), Task("good", work, ("good",))]
    events = {event.task.key: event for event in run(tasks, ["cpu"], []) if event.kind in ("died", "finished")}
    assert events["killed"].detail == ("killed by SIGKILL",)
    assert events["left"].detail == ("ended with exit code 3",)
    assert events["good"].kind == "finished"


def test_closing_ends_every_worker():
    events = run([Task(str(n), sleep, ()) for n in range(2)], ["cpu"] * 2, [])
    while next(events).kind != "progress":
        pass
    assert multiprocessing.active_children()
    events.close()
    assert not multiprocessing.active_children()


def hold(device, seconds, ready):
    with device_lock(device, True, lambda: None):
        ready.set()
        time.sleep(seconds)


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_device_lock_waits_for_its_holder_and_outlives_no_one(exclusive):
    context = multiprocessing.get_context("forkserver")
    device, ready, waited = f"test-{os.getpid()}-{exclusive}", context.Event(), []
    holder = context.Process(target=hold, args=(device, 60, ready))
    holder.start()
    assert ready.wait(30)
    with device_lock(device, exclusive, lambda: (waited.append(True), holder.kill())):
        assert waited == [True]
    holder.join()


def test_shared_holders_do_not_wait_for_each_other():
    device = f"test-shared-{os.getpid()}"
    with device_lock(device, False, pytest.fail), device_lock(device, False, pytest.fail):
        pass

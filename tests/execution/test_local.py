"""The engine: fresh processes, exclusive tasks alone, deaths told, nothing left running."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ablations.execution.local import ENDS, Task, run


def work(name, device, tell, stopping, started):
    tell("progress", 1.0, 0.5)
    return f"{name} on {device}"


def span(path, waits, device, tell, stopping, started):
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


def count_up(device, tell, stopping, started):
    count_up.calls = getattr(count_up, "calls", 0) + 1
    return f"call {count_up.calls}, {os.environ['OMP_NUM_THREADS']} thread"


def die(device, tell, stopping, started):
    os.kill(os.getpid(), signal.SIGKILL)


def leave(device, tell, stopping, started):
    os._exit(3)


def sleep(device, tell, stopping, started):
    tell("progress", 0.0, 0.0)
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


def tell_from_threads(device, tell, stopping, started):
    """Large messages at once, which without a lock would mix on their way."""
    threads = [threading.Thread(target=tell, args=("progress", number, "x" * 200_000)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return str(started)


def test_any_thread_may_tell_and_the_start_is_the_engine_s():
    before = time.monotonic()
    events = list(run([Task("a", tell_from_threads, ())], ["dev"], []))
    assert sorted(event.detail for event in events if event.kind == "progress") == [
        (number, "x" * 200_000) for number in range(8)
    ]
    assert before < float(finished(events)[0]) < time.monotonic()


def test_exclusive_tasks_overlap_with_nothing(tmp_path):
    path = tmp_path / "spans"
    tasks = [Task(str(number), span, (str(path), number >= 2), exclusive=number < 2) for number in range(6)]
    assert finished(run(tasks, ["cpu"] * 3, [])) == ["done"] * 6
    spans = sorted(tuple(map(float, line.split())) for line in path.read_text().splitlines())
    assert spans[0][1] <= spans[1][0]
    assert all(spans[1][1] <= start for start, _ in spans[2:])
    assert spans[3][0] < spans[2][1], "the others run side by side"


def test_what_dies_is_started_again_and_given_up_after_three_deaths_in_a_row():
    tasks = [Task("killed", die, ()), Task("left", leave, ()), Task("good", work, ("good",))]
    events = list(run(tasks, ["cpu"], []))
    ends = {event.task.key: event for event in events if event.kind in ENDS}
    reason = "3 times in a row without a newer checkpoint"
    assert ends["killed"].detail == ("failed", f"its process was killed by SIGKILL, {reason}")
    assert ends["left"].detail == ("failed", f"its process was ended with exit code 3, {reason}")
    assert ends["good"].kind == "finished"
    assert [event.detail for event in events if event.kind == "restarted"] == [
        ("killed by SIGKILL",), ("killed by SIGKILL",), ("ended with exit code 3",), ("ended with exit code 3",),
    ]  # fmt: skip


def test_a_newer_checkpoint_forgives_deaths(tmp_path):
    """Eight deaths, and news of a newer checkpoint before every second one."""
    events = list(run([Task("a", dies_eight_times, (str(tmp_path / "lives"),))], ["cpu"], []))
    assert [event.kind for event in events if event.kind in ("restarted", *ENDS)] == ["restarted"] * 8 + ["finished"]


def dies_eight_times(path, device, tell, stopping, started):
    with Path(path).open("a") as file:
        file.write(".")
    life = Path(path).stat().st_size
    if life % 2 == 0:
        tell("kept", (life, 0))
    if life <= 8:
        os.kill(os.getpid(), signal.SIGSEGV)
    return "done"


def keeps_the_same_again(device, tell, stopping, started):
    tell("kept", (1, 5))
    os.kill(os.getpid(), signal.SIGKILL)


def test_the_same_checkpoint_again_forgives_nothing():
    events = list(run([Task("a", keeps_the_same_again, ())], ["cpu"], []))
    assert [event.kind for event in events if event.kind in ("restarted", *ENDS)] == ["restarted"] * 2 + ["lost"]


def test_a_task_over_its_limit_is_ended():
    tasks = [Task("slow", sleep, (), limit=0.5), Task("good", work, ("good",), limit=60.0)]
    ends = [(event.task.key, event.kind, event.detail) for event in run(tasks, ["cpu"], []) if event.kind in ENDS]
    assert ends == [
        ("slow", "lost", ("timeout", "it took longer than time_limit = 0.5 seconds")),
        ("good", "finished", ("good on cpu",)),
    ]


def obey(device, tell, stopping, started):
    tell("progress", 0.0, 0.0)
    while not stopping():
        time.sleep(0.01)
    return "stopped"


def deaf(device, tell, stopping, started):
    tell("progress", 0.0, 0.0)
    time.sleep(60)


def test_what_may_be_stopped_is_asked_and_the_rest_is_ended(monkeypatch):
    monkeypatch.setattr("ablations.execution.local.GRACE", 1.0)
    ready = []
    tasks = [Task("good", obey, (), stoppable=True), Task("deaf", deaf, (), stoppable=True), Task("other", deaf, ())]
    tasks += [Task("never begun", obey, (), stoppable=True)]
    start = time.monotonic()
    events = []
    for event in run(tasks, ["cpu"] * 3, [], lambda: len(ready) == 3):
        events.append((event.task.key, event.kind))
        if event.kind == "progress":
            ready.append(event.task.key)
    assert sorted(each for each in events if each[1] == "asked") == [("deaf", "asked"), ("good", "asked")]
    assert [key for key, kind in events if kind == "stopped"][-1] == "deaf"
    assert sorted(key for key, kind in events if kind == "stopped") == ["deaf", "good", "other"]
    assert time.monotonic() - start < 20
    assert not multiprocessing.active_children()


def refuse(device, tell, stopping, started):
    raise OSError(28, "No space left on device", "/there")


def test_what_is_no_matter_of_a_task_is_told_as_it_is():
    (event,) = [event for event in run([Task("a", refuse, ())], ["cpu"], []) if event.kind in ENDS]
    assert (event.kind, event.detail[0].errno, event.detail[0].filename) == ("broken", 28, "/there")


def with_child(path, device, tell, stopping, started):
    """Has a child of its own, like a reader of files, and waits."""
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    child.start()
    Path(path).write_text(f"{os.getpid()} {child.pid}")
    tell("progress", 0.0, 0.0)
    time.sleep(60)


DRIVER = """
import sys
sys.path[:0] = {path!r}
from ablations.execution.local import ENDS, Task, run
from test_local import with_child
if __name__ == "__main__":
    for event in run([Task("a", with_child, ({file!r},))], ["cpu"], []):
        print(event.kind, flush=True)
"""


def test_a_driver_that_is_killed_takes_its_workers_and_theirs_with_it(tmp_path):
    file = str(tmp_path / "pids")
    script = tmp_path / "driver.py"
    script.write_text(DRIVER.format(path=[str(Path(__file__).parent), str(Path(__file__).parents[2])], file=file))
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True) as driver:
        assert any(line == "progress\n" for line in driver.stdout)
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
    events = run([Task(str(n), sleep, ()) for n in range(2)], ["cpu"] * 2, [])
    while next(events).kind != "progress":
        pass
    assert set(multiprocessing.active_children()) - before
    events.close()
    assert not set(multiprocessing.active_children()) - before

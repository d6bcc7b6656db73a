"""What every engine must do, shown on each: order, exclusive tasks, deaths, limits, stops, nothing lost or doubled."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from ablations.execution.engine import (
    AskedToStop,
    Broken,
    Ended,
    Finished,
    Kept,
    Lost,
    Restarted,
    Started,
    Stopped,
    Task,
    Told,
)
from ablations.execution.inline import InlineEngine
from ablations.execution.local import LocalEngine

ENGINES = {"local": lambda: LocalEngine(["cpu"] * 2, {}), "inline": lambda: InlineEngine("cpu", {})}


@pytest.fixture(params=ENGINES)
def engine(request):
    return ENGINES[request.param]()


def note(path, text):
    """A line in a file, written at once: processes and threads may share it."""
    with Path(path).open("a") as file:
        file.write(f"{text}\n")


def work(name, context):
    context.tell([name, 0.5])
    return f"{name} on {context.device}"


def spend(path, name, seconds, context):
    note(path, f"{name} begins")
    time.sleep(seconds)
    note(path, f"{name} ends")
    return "done"


def die(context):
    raise SystemExit(9)


def die_with_news(path, context):
    """Dies eight times, and keeps a newer state before every second death."""
    note(path, "life")
    life = len(Path(path).read_text().splitlines())
    if life % 2 == 0:
        context.kept((life, 0))
    if life <= 8:
        raise SystemExit(9)
    return "done"


def die_with_old_news(context):
    context.kept((1, 5))
    raise SystemExit(9)


def obey(context):
    context.tell("ready")
    while not context.stopping():
        time.sleep(0.01)
    return "stopped"


def fill_the_disk(context):
    raise OSError(28, "No space left on device", "/there")


def course(events, kinds):
    return [(event.task.key, type(event).__name__) for event in events if isinstance(event, kinds)]


def test_tasks_start_in_order_and_tell_their_course(engine):
    events = list(engine.run([Task(name, work, (name,)) for name in "abc"]))
    assert [key for key, _ in course(events, Started)] == ["a", "b", "c"]
    for name in "abc":
        started, told, finished = [event for event in events if event.task.key == name]
        assert (type(started), type(told), type(finished)) == (Started, Told, Finished)
        assert told.message == [name, 0.5]
        assert finished.status == f"{name} on cpu"
        assert 0 <= started.slot == told.slot == finished.slot < engine.slots


def test_exclusive_tasks_overlap_with_nothing(engine, tmp_path):
    path = str(tmp_path / "spans")
    names = ["cost 1", "cost 2", "run 1", "run 2", "cost 3", "run 3"]
    tasks = [Task(name, spend, (path, name, 0.1), exclusive=name.startswith("cost")) for name in names]
    assert [event.status for event in engine.run(tasks) if isinstance(event, Finished)] == ["done"] * 6
    lines = Path(path).read_text().splitlines()
    assert sorted(lines) == sorted(f"{name} {what}" for name in names for what in ("begins", "ends"))
    for place, line in enumerate(lines):
        if line.startswith("cost") and line.endswith("begins"):
            assert lines[place + 1] == line.replace("begins", "ends")
            assert not place or lines[place - 1].endswith("ends")


def test_what_dies_is_the_next_to_be_started_and_given_up_after_three_deaths_in_a_row(engine):
    events = list(engine.run([Task("dies", die, ()), Task("lives", work, ("x",))]))
    assert course([event for event in events if event.task.key == "dies"], (Started, Restarted, Ended)) == [
        ("dies", "Started"), ("dies", "Restarted"), ("dies", "Started"), ("dies", "Restarted"), ("dies", "Started"),
        ("dies", "Lost"),
    ]  # fmt: skip
    (lost,) = [event for event in events if isinstance(event, Lost)]
    assert lost.status == "failed"
    assert lost.reason.endswith("3 times in a row without a newer checkpoint")
    assert course([event for event in events if event.task.key == "lives"], Ended) == [("lives", "Finished")]


def test_a_newer_checkpoint_forgives_deaths(engine, tmp_path):
    events = list(engine.run([Task("a", die_with_news, (str(tmp_path / "lives"),))]))
    assert course(events, (Restarted, Ended)) == [("a", "Restarted")] * 8 + [("a", "Finished")]
    assert [event.place for event in events if isinstance(event, Kept)] == [(2, 0), (4, 0), (6, 0), (8, 0)]


def test_the_same_checkpoint_again_forgives_nothing(engine):
    events = engine.run([Task("a", die_with_old_news, ())])
    assert course(events, (Restarted, Ended)) == [("a", "Restarted")] * 2 + [("a", "Lost")]


def test_a_task_over_its_limit_is_lost_and_the_next_one_runs(engine):
    tasks = [Task("slow", obey, (), stoppable=True, limit=0.3), Task("good", work, ("good",), limit=60.0)]
    ends = {event.task.key: event for event in engine.run(tasks) if isinstance(event, Ended)}
    assert ends["slow"] == Lost(tasks[0], 0, "timeout", "it took longer than time_limit = 0.3 seconds")
    assert ends["good"].status == "good on cpu"


def test_on_request_nothing_is_started_and_what_runs_is_asked_to_end(engine):
    ready: list[str] = []
    tasks = [Task(str(number), obey, (), stoppable=True) for number in range(4)]
    events = []
    for event in engine.run(tasks, lambda: len(ready) == engine.slots):
        events.append(event)
        if isinstance(event, Told):
            ready.append(event.task.key)
    asked, stopped = (
        {event.task.key for event in events if isinstance(event, kind)} for kind in (AskedToStop, Stopped)
    )
    assert asked == stopped == set(ready) == {str(number) for number in range(engine.slots)}
    assert len(course(events, Ended)) == engine.slots


def test_a_fault_of_the_machine_is_no_death_and_no_status(engine):
    (event,) = [event for event in engine.run([Task("a", fill_the_disk, ())]) if isinstance(event, Ended)]
    assert isinstance(event, Broken)
    assert (event.error.errno, event.error.filename) == (28, "/there")


def test_closing_ends_what_runs(engine):
    before = set(multiprocessing.active_children())  # readers that other tests have left
    events = engine.run([Task(str(number), obey, (), stoppable=True) for number in range(3)])
    while not isinstance(next(events), Told):
        pass
    events.close()
    assert not set(multiprocessing.active_children()) - before


def test_nothing_is_lost_and_nothing_ends_twice(engine, tmp_path):
    tasks = [Task("dies", die, ()), Task("lives", die_with_news, (str(tmp_path / "lives"),))]
    tasks += [Task(str(number), work, (str(number),), exclusive=number % 3 == 0) for number in range(6)]
    events = list(engine.run(tasks))
    assert sorted(key for key, _ in course(events, Ended)) == sorted(task.key for task in tasks)
    for task in tasks:
        own = [event for event in events if event.task is task or event.task.key == task.key]
        assert isinstance(own[0], Started)
        assert isinstance(own[-1], Ended)
        assert sum(isinstance(event, Started) for event in own) == 1 + sum(isinstance(e, Restarted) for e in own)

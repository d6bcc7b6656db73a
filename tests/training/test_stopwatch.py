"""Where the time of a training goes: parts that add up to the whole."""

from __future__ import annotations

import pytest

from ablations.training import stopwatch
from ablations.training.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch):
    """A clock that is set by hand."""
    now = [100.0]
    monkeypatch.setattr(stopwatch.time, "monotonic", lambda: now[0])
    return now


def test_every_moment_counts_to_one_part(clock):
    watch = Stopwatch(since=97.0)
    watch.lap("start")
    for _ in range(2):
        clock[0] += 1
        with watch.step():
            clock[0] += 4
    clock[0] += 0.5
    watch.lap("rest")
    assert watch.parts == {"start": 3, "data": 2, "step": 8, "evaluation": 0, "checkpoint": 0, "rest": 0.5}


class Event:
    """As CUDA's, which the device reaches later than it is recorded: a step there takes 3 s."""

    reached = 0.0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        Event.reached += 3
        self.at = Event.reached

    def elapsed_time(self, other):
        return 1000 * (other.at - self.at)


def test_on_cuda_steps_are_timed_by_the_device_and_read_when_it_has_done_them(clock, monkeypatch):
    monkeypatch.setattr(stopwatch.torch.cuda, "Event", Event)
    watch = Stopwatch(cuda=True)
    for _ in range(2):
        with watch.step():
            clock[0] += 0.1
    clock[0] += 7
    assert sum(watch.parts.values()) == 0
    watch.read()
    watch.read()
    assert watch.parts["step"] == 6
    assert watch.parts["data"] == pytest.approx(1.2)


def test_a_pause_counts_to_no_part(clock, monkeypatch):
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: clock[0])
    watch = Stopwatch()
    clock[0] += 5
    watch.skip(4)
    assert watch.now() == 101
    watch.lap("rest")
    assert watch.parts["rest"] == 1

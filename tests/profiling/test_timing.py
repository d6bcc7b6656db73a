"""Timing: repeats until precise, phases, and load of others that is seen."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time

import pytest
import torch

from ablations.profiling import timing
from ablations.profiling.timing import Accounts, disturbance, measure_time, relative_error

CPU = torch.device("cpu")


@pytest.fixture
def clock(monkeypatch):
    """A clock that only a step moves: `clock.append(seconds)`."""
    moved: list[float] = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: sum(moved))
    monkeypatch.setattr(Accounts, "since", lambda self: (0.0, 0.0))
    return moved


def test_steady_steps_end_when_they_are_precise(clock):
    found = measure_time(lambda mark: clock.append(0.1), CPU, 100.0)
    assert len(found.seconds) == timing.FEWEST_REPEATS
    assert found.stopped_by == "precision"
    assert found.median == pytest.approx(0.1)
    assert found.relative_iqr == pytest.approx(0.0, abs=1e-9)
    assert found.disturbed == ""


def test_unsteady_steps_end_with_the_budget_and_are_flagged(clock):
    lengths = itertools.cycle([0.1, 0.2, 0.3])
    found = measure_time(lambda mark: clock.append(next(lengths)), CPU, 6.0)
    assert found.stopped_by == "budget"
    assert sum(found.seconds) >= 6.0
    assert found.disturbed.startswith("half of the steps differ by")


def test_short_steps_are_repeated_for_a_while(clock):
    found = measure_time(lambda mark: clock.append(0.001), CPU, 100.0)
    assert len(found.seconds) == pytest.approx(300, abs=2)


def test_the_warm_up_is_not_timed(clock):
    lengths = iter([9.0] * timing.WARMUP_STEPS + [0.1] * 1000)
    assert max(measure_time(lambda mark: clock.append(next(lengths)), CPU, 10.0).seconds) == pytest.approx(0.1)


def test_phases_are_told_apart(clock):
    def step(mark):
        clock.append(0.2)
        mark("forward")
        clock.append(0.5)
        mark("backward")
        clock.append(0.1)

    found = measure_time(step, CPU, 10.0)
    assert found.phases == pytest.approx({"forward": 0.2, "backward": 0.5, "rest": 0.1})
    assert found.median == pytest.approx(0.8)


def test_the_interval_of_the_median_narrows_with_the_root_of_the_repeats():
    assert relative_error([1.0, 2.0, 3.0] * 3) == pytest.approx(1.57 * 2.0 / (3 * 2.0))
    assert relative_error([1.0, 2.0, 3.0] * 300) == pytest.approx(relative_error([1.0, 2.0, 3.0] * 3) / 10)


@pytest.mark.parametrize(
    ("spread", "cores", "stolen", "said"),
    [
        (0.1, 0.05, 0.01, ""),
        (0.1, 0.98, 0.0, "other processes used 1.0 cores"),
        (0.1, 0.0, 0.12, "the host took 12 % of the time"),
        (0.4, 0.5, 0.0, "other processes used 0.5 cores; half of the steps differ by 40 %"),
    ],
)
def test_what_speaks_against_a_measurement(spread, cores, stolen, said):
    assert disturbance(spread, cores, stolen) == said


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's accounts in /proc/stat")
def test_a_busy_loop_beside_is_seen():
    accounts = Accounts.now()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    time.sleep(1.0)
    busy.kill()
    busy.wait()
    assert accounts.since()[0] > 0.3


def test_own_work_is_not_taken_for_others(monkeypatch):
    start = Accounts(wall=0.0, busy=100.0, stolen=1.0, own=10.0)
    after = Accounts(wall=10.0, busy=111.0, stolen=1.5, own=19.0)
    monkeypatch.setattr(Accounts, "now", staticmethod(lambda: after))
    assert start.since() == pytest.approx((0.2, 0.05))


@pytest.mark.gpu
def test_cuda_is_timed_by_its_own_events():
    matrix = torch.randn(2000, 2000, device="cuda")
    found = measure_time(lambda mark: matrix @ matrix, torch.device("cuda"), 1.0)
    assert 0 < found.median < 0.1

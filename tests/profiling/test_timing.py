"""Timing: repeats until precise, phases, and load of others that is seen."""

from __future__ import annotations

import itertools
import re
import subprocess
import sys
import time

import numpy as np
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
    assert len(found.seconds) == timing.FEWEST_PRECISE
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


@pytest.mark.parametrize("slow", [20, 40, 60])
def test_steps_that_are_slow_at_first_are_a_warm_up(clock, slow):
    lengths = iter([0.03] * slow + [0.01] * 10_000)
    found = measure_time(lambda mark: clock.append(next(lengths)), CPU, 100.0)
    assert found.median == pytest.approx(0.01)
    assert (found.stopped_by, found.disturbed) == ("precision", "")
    assert found.relative_iqr == pytest.approx(0.0, abs=1e-9)


def test_a_warm_up_within_the_budget_is_not_counted(clock):
    """60 slow steps of 30 ms, and 120 fast ones in the rest of 3 seconds."""
    lengths = iter([0.03] * 60 + [0.01] * 10_000)
    found = measure_time(lambda mark: clock.append(next(lengths)), CPU, 3.0)
    assert found.median == pytest.approx(0.01)
    assert found.disturbed == ""


def test_few_slow_steps_within_a_short_budget_are_not_counted_either(clock):
    lengths = iter([0.03] * (timing.WARMUP_STEPS + 4) + [0.01] * 10_000)
    found = measure_time(lambda mark: clock.append(next(lengths)), CPU, 0.3, fewest=5)
    assert found.seconds == pytest.approx([0.01] * len(found.seconds))


@pytest.mark.parametrize(("factor", "said"), [(0.98, "fell"), (1.02, "rose")])
def test_a_drift_that_does_not_end_is_told(clock, factor, said):
    lengths = itertools.accumulate(itertools.repeat(factor), lambda length, each: length * each, initial=0.1)
    found = measure_time(lambda mark: clock.append(next(lengths)), CPU, 3.0)
    assert found.stopped_by == "budget"
    assert re.search(rf"the time of a step {said} by \d+ % meanwhile", found.disturbed)


def test_a_slow_stretch_at_the_end_is_no_warm_up(clock):
    """Nothing is dropped, and the measurement goes on to the end of its budget."""
    lengths = iter([0.01] * 60 + [0.015] * 10_000)
    found = measure_time(lambda mark: clock.append(next(lengths)), CPU, 1.4)
    assert found.stopped_by == "budget"
    assert "the time of a step rose by 50 % meanwhile" in found.disturbed


def test_noise_is_no_drift():
    generator = np.random.default_rng(0)
    for count in (12, 30, 75, 300):
        drifts = [timing.find_drift(list(generator.lognormal(0.0, 0.05, count))) for _ in range(200)]
        assert sum(map(bool, drifts)) <= 4


def test_a_drift_is_the_change_from_the_first_third_to_the_last():
    assert timing.find_drift([1.0] * 4 + [9.0] * 4 + [0.6] * 4) == pytest.approx(-0.4)
    assert timing.find_drift([1.0] * 4 + [9.0] * 4 + [1.04] * 4) == 0.0
    assert timing.find_drift([1.0] * 5 + [0.5] * 6) == 0.0, "too few repeats"


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
    drifted = disturbance(spread, cores, stolen, -0.4)
    assert drifted == "; ".join(filter(None, [said, "the time of a step fell by 40 % meanwhile"]))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's accounts in /proc/stat")
def test_a_busy_loop_beside_is_seen():
    accounts = Accounts.now()
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    time.sleep(1.0)
    busy.kill()
    busy.wait()
    assert accounts.since()[0] > 0.3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's accounts in /proc")
def test_a_partner_s_work_is_its_own():
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        accounts = Accounts.now(busy.pid)
        time.sleep(1.0)
        now = Accounts.now(busy.pid)
    finally:
        busy.kill()
        busy.wait()
    assert now.own - accounts.own > 0.2
    assert accounts.partners == (busy.pid,)


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

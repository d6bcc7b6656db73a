"""Times a step until its median is precise enough, and reports whether other load disturbed it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

Mark = Callable[[str], None]
"""Called by a step at the end of each phase."""

WARMUP_STEPS = 5
FEWEST_REPEATS = 10
"""The fewest repeats, even if they take longer than the budget."""

FEWEST_PRECISE = 75
"""The fewest repeats that may end because they are precise. After a warm-up of 60 steps, a third of them are fast."""

LEAST_SECONDS = 0.3
PRECISION = 0.02
"""Repeats end when the median is precise to 2 %: half the width of its 95 % interval, 1.57 IQR / sqrt(n) (McGill, Tukey
and Larsen 1978), divided by the median."""

LARGEST_SPREAD = 0.25
"""The largest interquartile range, relative to the median, of a measurement that counts as undisturbed."""

LARGEST_DRIFT = 0.05
"""The largest change of the median, from the first to the last third of the repeats, that is not called a drift."""

LARGEST_LOAD = 0.25
"""The largest number of cores that other processes may use during the measurement."""

LARGEST_STEAL = 0.05
"""The largest share of its time that a virtual machine may lose to its host."""


@dataclass(frozen=True)
class Timing:
    """Seconds of the repeats of a step."""

    seconds: tuple[float, ...]
    phases: dict[str, float]
    """The median of each phase of the step."""

    stopped_by: Literal["precision", "budget"]
    disturbed: str
    """Reasons not to trust the measurement; empty if there are none."""

    @property
    def median(self) -> float:
        """The median, in seconds."""
        return float(np.median(self.seconds))

    @property
    def relative_iqr(self) -> float:
        """The interquartile range, divided by the median."""
        low, high = np.percentile(self.seconds, [25, 75])
        return float((high - low) / self.median)


def measure_time(
    step: Callable[[Mark], object],
    device: torch.device,
    budget: float,
    warmup: int = WARMUP_STEPS,
    fewest: int = FEWEST_REPEATS,
    partners: tuple[int, ...] = (),
) -> Timing:
    """Repeats a step after a warm-up, until its median is precise or the budget of seconds is spent.

    If the steps become faster, their first third is not counted, because it was still a warm-up. `partners` are the ids
    of the other processes that take the step together with this one, and so do not disturb it.
    """
    for _ in range(warmup):
        _laps(step, device)
    accounts, start = Accounts.now(*partners), time.perf_counter()
    rounds: list[dict[str, float]] = []
    while True:
        rounds.append(_laps(step, device))
        spent = time.perf_counter() - start
        if len(rounds) < fewest or spent < min(LEAST_SECONDS, budget):
            continue
        if spent < budget and len(rounds) < FEWEST_PRECISE:
            continue
        drift, third = find_drift(_totals(rounds)), len(rounds) // 3
        if drift < 0 and len(rounds) - third >= fewest:
            rounds = rounds[third:]
        if spent >= budget or (not drift and relative_error(_totals(rounds)) <= PRECISION):
            break
    seconds = _totals(rounds)
    phases = {name: float(np.median([laps[name] for laps in rounds])) for name in rounds[0]}
    drift, precise = find_drift(seconds), relative_error(seconds) <= PRECISION
    timing = Timing(tuple(seconds), phases, "precision" if precise and not drift else "budget", "")
    return replace(timing, disturbed=disturbance(timing.relative_iqr, *accounts.since(), drift))


def _totals(rounds: list[dict[str, float]]) -> list[float]:
    return [sum(laps.values()) for laps in rounds]


def find_drift(seconds: list[float]) -> float:
    """Returns the change of the median from the first to the last third of the repeats, -0.4 for 40 % less time.

    Returns 0 if it is at most LARGEST_DRIFT beyond the errors of both medians, or if there are fewer than 12 repeats.
    """
    third = len(seconds) // 3
    if third < 4:
        return 0.0
    early, late = seconds[:third], seconds[-third:]
    change = float(np.median(late) / np.median(early)) - 1
    return change if abs(change) > LARGEST_DRIFT + relative_error(early) + relative_error(late) else 0.0


def relative_error(seconds: list[float]) -> float:
    """Returns half the width of the median's interval, divided by the median."""
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return float(1.57 * (high - low) / (len(seconds) ** 0.5 * median))


def disturbance(spread: float, cores: float, stolen: float, drift: float = 0.0) -> str:
    """Describes what disturbed a measurement: other processes, the host of a virtual machine, a spread or a drift."""
    found = []
    if cores > LARGEST_LOAD:
        found.append(f"other processes used {cores:.1f} cores")
    if stolen > LARGEST_STEAL:
        found.append(f"the host took {100 * stolen:.0f} % of the time")
    if spread > LARGEST_SPREAD:
        found.append(f"half of the steps differ by {100 * spread:.0f} %")
    if drift:
        found.append(f"the time of a step {'fell' if drift < 0 else 'rose'} by {100 * abs(drift):.0f} % meanwhile")
    return "; ".join(found)


@dataclass(frozen=True)
class Accounts:
    """The CPU time that Linux has counted since its start, in seconds; 0 if it is not available."""

    wall: float
    busy: float
    """CPU seconds of all processes on all cores."""

    stolen: float
    """Seconds that the host of a virtual machine gave to others."""

    own: float
    """CPU seconds of this process and its partners."""

    partners: tuple[int, ...] = ()
    """The ids of processes that count as this one."""

    @classmethod
    def now(cls, *partners: int) -> Accounts:
        """Reads the present counts."""
        wall, own = time.perf_counter(), time.process_time() + sum(map(_read_seconds, partners))
        try:
            line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
        except OSError:
            return cls(wall, 0.0, 0.0, own, partners)
        user, nice, system, _, _, irq, softirq, steal, *_ = (int(field) / _TICKS for field in line.split()[1:])
        return cls(wall, user + nice + system + irq + softirq, steal, own, partners)

    def since(self) -> tuple[float, float]:
        """Returns the cores that other processes used since then, and the share of a core's time that the host took."""
        now = self.now(*self.partners)
        wall = now.wall - self.wall
        return max(0.0, now.busy - self.busy - (now.own - self.own)) / wall, (now.stolen - self.stolen) / wall


def _read_seconds(process: int) -> float:
    """Returns the CPU seconds of a process; 0 if there is none."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0.0
    after = text.rpartition(")")[2].split()  # the name, in brackets, may have spaces
    return (int(after[11]) + int(after[12])) / _TICKS


_TICKS = os.sysconf("SC_CLK_TCK")


def _laps(step: Callable[[Mark], object], device: torch.device) -> dict[str, float]:
    """Returns the seconds of each phase of one step. The time after the last mark is the phase `rest`."""
    moments: list[tuple[str, Any]] = []

    def mark(name: str) -> None:
        if device.type == "cuda":
            moments.append((name, torch.cuda.Event(enable_timing=True)))
            moments[-1][1].record()
        else:
            moments.append((name, time.perf_counter()))

    mark("start")
    step(mark)
    mark("rest")
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return {name: before.elapsed_time(after) / 1000 for (_, before), (name, after) in pairwise(moments)}
    return {name: after - before for (_, before), (name, after) in pairwise(moments)}

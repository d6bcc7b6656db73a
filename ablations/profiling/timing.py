"""Times a step until its median is precise enough, and reports whether other load disturbed it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

Mark = Callable[[str], None]
"""Called by a step at the end of each phase."""

WARMUP_STEPS = 5
FEWEST_REPEATS = 10
LEAST_SECONDS = 0.3
PRECISION = 0.02
"""Repeats end when the median is precise to 2 %: half the width of its 95 % interval, 1.57 IQR / sqrt(n) (McGill, Tukey
and Larsen 1978), divided by the median."""

LARGEST_SPREAD = 0.25
"""The largest interquartile range, relative to the median, of a measurement that counts as undisturbed."""

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
) -> Timing:
    """Repeats a step after a warm-up, until its median is precise or the budget of seconds is spent."""
    for _ in range(warmup):
        _laps(step, device)
    accounts, start = Accounts.now(), time.perf_counter()
    rounds: list[dict[str, float]] = []
    while True:
        rounds.append(_laps(step, device))
        spent, seconds = time.perf_counter() - start, [sum(laps.values()) for laps in rounds]
        if len(rounds) < fewest or spent < min(LEAST_SECONDS, budget):
            continue
        precise = relative_error(seconds) <= PRECISION
        if precise or spent >= budget:
            break
    phases = {name: float(np.median([laps[name] for laps in rounds])) for name in rounds[0]}
    timing = Timing(tuple(seconds), phases, "precision" if precise else "budget", "")
    return Timing(timing.seconds, phases, timing.stopped_by, disturbance(timing.relative_iqr, *accounts.since()))


def relative_error(seconds: list[float]) -> float:
    """Returns half the width of the median's interval, divided by the median."""
    low, median, high = np.percentile(seconds, [25, 50, 75])
    return float(1.57 * (high - low) / (len(seconds) ** 0.5 * median))


def disturbance(spread: float, cores: float, stolen: float) -> str:
    """Describes what disturbed a measurement: other processes, the host of a virtual machine, or a wide spread."""
    found = []
    if cores > LARGEST_LOAD:
        found.append(f"other processes used {cores:.1f} cores")
    if stolen > LARGEST_STEAL:
        found.append(f"the host took {100 * stolen:.0f} % of the time")
    if spread > LARGEST_SPREAD:
        found.append(f"half of the steps differ by {100 * spread:.0f} %")
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
    """CPU seconds of this process."""

    @classmethod
    def now(cls) -> Accounts:
        """Reads the present counts."""
        wall, own = time.perf_counter(), time.process_time()
        try:
            line = Path("/proc/stat").read_text(encoding="ascii").partition("\n")[0]
        except OSError:
            return cls(wall, 0.0, 0.0, own)
        user, nice, system, _, _, irq, softirq, steal, *_ = (int(field) / _TICKS for field in line.split()[1:])
        return cls(wall, user + nice + system + irq + softirq, steal, own)

    def since(self) -> tuple[float, float]:
        """Returns the cores that other processes used since then, and the share of a core's time that the host took."""
        now = self.now()
        wall = now.wall - self.wall
        return max(0.0, now.busy - self.busy - (now.own - self.own)) / wall, (now.stolen - self.stolen) / wall


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

"""Where the time of a training goes: every moment of its process counts to one part."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PARTS = ("start", "data", "step", "evaluation", "checkpoint", "rest")
"""step: forward, backward, optimizer; data: also augmentation."""


class Stopwatch:
    """Seconds by part, since a moment of `time.monotonic()`, which is the same in every process of a machine."""

    def __init__(self, since: float | None = None, cuda: bool = False) -> None:
        self.parts: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._last = time.monotonic() if since is None else since
        self._cuda = cuda
        self._steps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def lap(self, part: str) -> None:
        """What has passed since the last lap counts to this part."""
        now = time.monotonic()
        self.parts[part] += now - self._last
        self._last = now

    @contextmanager
    def step(self) -> Iterator[None]:
        """A step of training; what was before it counts to the data. On CUDA, nothing waits for the device here."""
        if not self._cuda:
            self.lap("data")
            yield
            self.lap("step")
            return
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        yield
        end.record()
        self._steps.append((begin, end))

    def read(self) -> None:
        """Books the steps that CUDA has finished since the last call; the rest of the time counts as data loading."""
        if self._steps:
            seconds = sum(begin.elapsed_time(end) for begin, end in self._steps) / 1000
            self._steps.clear()
            self.lap("data")
            self.parts["data"] -= seconds
            self.parts["step"] += seconds

"""The time of a training, part by part: every moment of its process counts to exactly one part, except its pauses."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

PARTS = ("start", "data", "step", "evaluation", "checkpoint", "rest")
"""The parts. step: forward pass, backward pass and optimizer. data: loading and augmentation."""


class Stopwatch:
    """Seconds by part, since a moment of `time.monotonic()`, which is the same in all processes of a machine."""

    def __init__(self, since: float | None = None, cuda: bool = False) -> None:
        self.parts: dict[str, float] = dict.fromkeys(PARTS, 0.0)
        self._last = time.monotonic() if since is None else since
        self._cuda = cuda
        self._skipped = 0.0
        self._steps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def lap(self, part: str) -> None:
        """Adds the time since the last call to this part."""
        now = time.monotonic()
        self.parts[part] += now - self._last
        self._last = now

    def skip(self, seconds: float) -> None:
        """Leaves out seconds that have just passed, in which the training paused."""
        self._last += seconds
        self._skipped += seconds

    def now(self) -> float:
        """Returns the seconds of a clock that stands still while the training pauses."""
        return time.perf_counter() - self._skipped

    @contextmanager
    def step(self) -> Iterator[None]:
        """A context for one training step; the time before it counts as data.

        On CUDA, it does not wait for the device.
        """
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
        """Adds the seconds of the steps that CUDA has finished since the last call.

        The other time since then counts as data.
        """
        if self._steps:
            seconds = sum(begin.elapsed_time(end) for begin, end in self._steps) / 1000
            self._steps.clear()
            self.lap("data")
            self.parts["data"] -= seconds
            self.parts["step"] += seconds

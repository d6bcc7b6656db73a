"""Display of a running grid: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ablations.execution.engine import (
    AskedToStop,
    Broken,
    Ended,
    Event,
    Finished,
    Lost,
    Restarted,
    Started,
    Told,
    Waiting,
)
from ablations.storage.manifest import MEASUREMENTS
from ablations.training.events import Epoch, Progress

WAITING = "waiting for the device"


@dataclass(frozen=True)
class Work:
    """A job as it is displayed."""

    name: str
    kind: str
    epochs: float
    """The number of epochs of a run; 0 for a measurement."""


@dataclass
class Board:
    """The state of a running grid, collected from its events."""

    works: Mapping[str, Work]
    """The jobs to run, by key."""

    then: str = "nothing to go"
    """What is said when all of them are finished."""

    clock: float = field(default_factory=time.monotonic)
    statuses: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    """The number of finished jobs of each kind."""

    lengths: dict[str, list[float]] = field(default_factory=dict)
    """Seconds that workers spent on each finished job, by kind."""

    running: dict[int, tuple[str, float]] = field(default_factory=dict)
    """Slot -> job and its start time."""

    latest: dict[int, str] = field(default_factory=dict)
    """Slot -> epoch and loss."""

    first: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Slot -> time of its first progress report, and the finished share of the run then, which is above 0 after a
    resume."""

    pace: dict[int, float] = field(default_factory=dict)
    """Slot -> estimated seconds of its whole run, from the progress since then."""

    def update(self, event: Event) -> None:
        """Updates the state with an event."""
        key, slot = event.task.key, event.slot
        work = self.works[key]
        match event:
            case Started():
                self.running[slot] = key, time.monotonic()
                self.latest[slot] = "measuring" if work.kind in MEASUREMENTS else "starting"
            case Waiting(others=others):
                self.latest[slot] = f"{WAITING}, used by {others}" if others else WAITING
            case Told(message=Progress() as progress):
                self.latest[slot] = f"epoch {progress.epochs:.1f}/{work.epochs:g}, loss {progress.loss:.3f}"
                self._note_pace(slot, progress.epochs / work.epochs)
            case Told(message=Epoch(validation_accuracy=float(accuracy))):
                self.latest[slot] += f", validation accuracy {accuracy:.2f} %"
            case AskedToStop():
                self.latest[slot] = "stopping, when its state is kept"
            case Finished(status=status) | Lost(status=status):
                seconds = self._leave(slot)
                self.finished[work.kind] += 1
                self.lengths.setdefault(work.kind, []).append(seconds)
                self.statuses[status] += 1
            case Ended() | Restarted():
                self._leave(slot)

    def _note_pace(self, slot: int, share: float) -> None:
        now = time.monotonic()
        began, before = self.first.setdefault(slot, (now, share))
        if share > before:
            self.pace[slot] = (now - began) / (share - before)

    def _leave(self, slot: int) -> float:
        """Removes a worker's job and returns the seconds that the worker spent on it."""
        _, began = self.running.pop(slot)
        del self.latest[slot]
        self.first.pop(slot, None)
        self.pace.pop(slot, None)
        return time.monotonic() - began

    def seconds_left(self, workers: int) -> tuple[float, float] | None:
        """Estimates the remaining seconds as a range, which finished jobs narrow; None while a kind has no estimate."""
        low = high = 0.0
        for kind, count in Counter(work.kind for work in self.works.values()).items():
            running = [time.monotonic() - began for key, began in self.running.values() if self.works[key].kind == kind]
            left = count - self.finished[kind]
            mean = self._mean_seconds(kind) if left else 0.0
            if mean is None:
                return None
            seconds = max(0.0, left * mean - sum(running)) / (1 if kind in MEASUREMENTS else workers)
            spread = self._relative_spread(kind, left) if seconds else 0.0
            low, high = low + seconds * (1 - spread), high + seconds * (1 + spread)
        return low, high

    def _relative_spread(self, kind: str, left: int) -> float:
        """Returns half the range of the remaining seconds of a kind, divided by them: at least 10 %."""
        lengths = self.lengths.get(kind, [])
        if len(lengths) < 2:
            return 0.25
        variation = stdev(lengths) / fmean(lengths)
        return min(0.5, max(0.1, variation * (1 / math.sqrt(len(lengths)) + 1 / math.sqrt(left))))

    def _mean_seconds(self, kind: str) -> float | None:
        """Returns the mean seconds of finished jobs of a kind, else an estimate from the running jobs, or None."""
        if lengths := self.lengths.get(kind):
            return fmean(lengths)
        whole = [pace for slot, pace in self.pace.items() if self.works[self.running[slot][0]].kind == kind]
        return fmean(whole) if whole else None

    def summary(self, workers: int) -> str:
        """Returns `12 done, 2 running, 57 left; 1:10 so far, about 3 to 4 minutes to go`."""
        done = sum(self.finished.values())
        left = len(self.works) - done - len(self.running)
        counts = [f"{count} {status}" for status, count in sorted(self.statuses.items())] or ["0 done"]
        to_go = self.seconds_left(workers)
        rest = "time to go not known yet" if to_go is None else f"{format_span(*to_go)} to go"
        rest = rest if len(self.works) > done else self.then
        so_far = format_clock(time.monotonic() - self.clock)
        return f"{', '.join(counts)}, {len(self.running)} running, {left} left; {so_far} so far, {rest}"


UNITS = (("seconds", 1), ("minutes", 60), ("hours", 60 * 60), ("days", 24 * 60 * 60))
"""Units of time in seconds. The largest one is taken of which the time has more than two."""


def format_span(low: float, high: float) -> str:
    """Returns a range of seconds in words: `about 5 to 7 hours`, `about 3 minutes`, `up to 1 second`."""
    if high < 1:
        return "up to 1 second"
    unit, length = next((name, size) for name, size in reversed(UNITS) if high >= 2 * size or size == 1)
    least, most = round(low / length), max(1, round(high / length))
    unit = unit if most > 1 else unit.removesuffix("s")
    if least in (0, most):
        return f"{'about' if least else 'up to'} {most} {unit}"
    return f"about {least} to {most} {unit}"


def format_clock(seconds: float) -> str:
    """Returns `1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def show(console: Console, events: Iterable[Event], board: Board, workers: int) -> Iterable[Event]:
    """Yields the events unchanged, and displays the progress."""
    return _live(console, events, board, workers) if console.is_terminal else _plain(console, events, board, workers)


def _live(console: Console, events: Iterable[Event], board: Board, workers: int) -> Iterable[Event]:
    def picture() -> Group:
        table = Table("Worker", "Job", "Now", box=None, padding=(0, 2, 0, 0), header_style="bold")
        for slot in sorted({*range(workers), *board.running}):
            key = board.running.get(slot, ("", 0.0))[0]
            table.add_row(str(slot), Text(board.works[key].name if key else "-"), board.latest.get(slot, ""))
        done = sum(board.finished.values())
        return Group(Padding(ProgressBar(len(board.works), done), 0), Text(board.summary(workers)), table)

    with Live(get_renderable=picture, console=console, refresh_per_second=4, transient=True):
        for event in events:
            board.update(event)
            yield event
    console.print(Text(board.summary(workers)))


def _plain(console: Console, events: Iterable[Event], board: Board, workers: int) -> Iterable[Event]:
    """Prints a line for each finished job, and one for a running job with news, at most every ten seconds."""
    last, waited = time.monotonic(), set[str]()
    for event in events:
        said = board.latest.get(event.slot, "")
        board.update(event)
        work = board.works[event.task.key]
        if isinstance(event, Ended):
            _line(console, f"{_end_of(event):<8} {work.kind:<4} {work.name}{_after(said.removeprefix(WAITING))}")
            _line(console, f"  {board.summary(workers)}")
            last = time.monotonic()
        elif isinstance(event, Restarted):
            _line(console, f"again    {work.name}: its process was {event.reason}")
        elif isinstance(event, Told | Waiting | AskedToStop):
            first = isinstance(event, Waiting) and event.task.key not in waited
            if first or isinstance(event, AskedToStop) or time.monotonic() - last > 10:
                _line(console, f"running  {work.name}{_after(board.latest[event.slot])}")
                last = time.monotonic()
            waited |= {event.task.key} if isinstance(event, Waiting) else set()
        yield event


def _end_of(event: Ended) -> str:
    """Returns `done`, `failed, its process was killed by SIGKILL`, or `stopped`."""
    match event:
        case Finished(status=status):
            return status
        case Lost(status=status, reason=reason):
            return f"{status}, {reason}"
        case Broken(error=error):
            return str(error)
    return "stopped"


def _after(news: str) -> str:
    return f": {news}" if news.startswith(("epoch", "waiting", "stopping")) else ""


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_rows(console: Console, title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Prints a table on the terminal. Each word of a column's head has its own line.

    A number is never broken: the last columns that do not fit are left out, and named below the table.
    """
    lines = [[*row] for row in rows]
    widths = [
        max(map(cell_len, [*head.split(), *(line[index] for line in lines)])) + 2 for index, head in enumerate(heads)
    ]  # with the two spaces after it
    room = console.width - 1 - min(widths[0], max(NAME, console.width // 3))
    kept = 1 + sum(width <= room for width in itertools.accumulate(widths[1:]))
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, head in enumerate(heads[:kept]):
        name = index == 0
        table.add_column(
            head.replace(" ", "\n"), justify="left" if name else "right", overflow="fold", no_wrap=not name
        )
    for line in lines:
        table.add_row(*map(Text, line[:kept]))
    console.print(table)
    if kept < len(heads):
        console.print(Text(f"Left out for want of room: {', '.join(heads[kept:])}."), soft_wrap=True)


NAME = 12
"""The fewest characters of a line in the first column."""

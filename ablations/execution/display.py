"""Shows a grid at work: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ablations.execution.local import ENDS, Event


@dataclass(frozen=True)
class Work:
    """A job as it is shown."""

    name: str
    kind: str
    epochs: float
    """How many a run has; 0 for a cost."""


@dataclass
class Board:
    """What is known of a grid at work, from its events."""

    works: Mapping[str, Work]
    """The jobs to be done, by key."""

    clock: float = field(default_factory=time.monotonic)
    statuses: Counter[str] = field(default_factory=Counter)
    finished: Counter[str] = field(default_factory=Counter)
    """Finished jobs by kind."""

    spent: Counter[str] = field(default_factory=Counter)
    """Seconds of workers in finished jobs, by kind."""

    running: dict[int, tuple[str, float]] = field(default_factory=dict)
    """Slot -> job and when it began."""

    latest: dict[int, str] = field(default_factory=dict)
    """Slot -> epoch and loss."""

    first: dict[int, tuple[float, float]] = field(default_factory=dict)
    """Slot -> when it first told how much of its run is done, and how much; a run may have been taken up."""

    pace: dict[int, float] = field(default_factory=dict)
    """Slot -> seconds that its whole run takes, by what was done since."""

    def update(self, event: Event) -> None:
        """Takes in an event."""
        key, slot = event.task.key, event.slot
        work = self.works[key]
        if event.kind == "started":
            self.running[slot] = key, time.monotonic()
            self.latest[slot] = "measuring" if work.kind == "cost" else "starting"
        elif event.kind == "waiting":
            self.latest[slot] = "waiting for the device: another process of this suite uses it"
        elif event.kind == "progress":
            epoch, loss = event.detail
            self.latest[slot] = f"epoch {epoch:.1f}/{work.epochs:g}, loss {loss:.3f}"
            now, share = time.monotonic(), epoch / work.epochs
            began, before = self.first.setdefault(slot, (now, share))
            if share > before:
                self.pace[slot] = (now - began) / (share - before)
        elif event.kind == "asked":
            self.latest[slot] = "stopping, when its state is kept"
        elif event.kind in (*ENDS, "restarted"):
            _, began = self.running.pop(slot)
            del self.latest[slot]
            self.first.pop(slot, None)
            self.pace.pop(slot, None)
            if event.kind in ("finished", "lost"):
                self.finished[work.kind] += 1
                self.spent[work.kind] += time.monotonic() - began  # type: ignore[assignment]
                self.statuses[event.detail[0]] += 1

    def seconds_left(self, workers: int) -> float | None:
        """From the mean time that jobs of each kind take; None while nothing is known of a kind."""
        seconds = 0.0
        for kind, count in Counter(work.kind for work in self.works.values()).items():
            running = [time.monotonic() - began for key, began in self.running.values() if self.works[key].kind == kind]
            left = count - self.finished[kind]
            mean = self._mean_seconds(kind) if left else 0.0
            if mean is None:
                return None
            seconds += max(0.0, left * mean - sum(running)) / (1 if kind == "cost" else workers)
        return seconds

    def _mean_seconds(self, kind: str) -> float | None:
        """The mean over the finished jobs of a kind; before there is one, an estimate from those that run."""
        if self.finished[kind]:
            return self.spent[kind] / self.finished[kind]
        whole = [pace for slot, pace in self.pace.items() if self.works[self.running[slot][0]].kind == kind]
        return sum(whole) / len(whole) if whole else None

    def summary(self, workers: int) -> str:
        """`12 done, 2 running, 57 left, 0:01:10 so far, about 0:03:00 to go`."""
        done = sum(self.finished.values())
        left = len(self.works) - done - len(self.running)
        counts = [f"{count} {status}" for status, count in sorted(self.statuses.items())] or ["0 done"]
        to_go = self.seconds_left(workers)
        rest = "time to go not known yet" if to_go is None else f"about {clock(to_go)} to go"
        so_far = clock(time.monotonic() - self.clock)
        return f"{', '.join(counts)}, {len(self.running)} running, {left} left; {so_far} so far, {rest}"


def clock(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def show(console: Console, events: Iterable[Event], works: Mapping[str, Work], workers: int) -> Iterable[Event]:
    """Passes the events on, and shows them meanwhile."""
    board = Board(works)
    return _live(console, events, board, workers) if console.is_terminal else _plain(console, events, board, workers)


def _live(console: Console, events: Iterable[Event], board: Board, workers: int) -> Iterable[Event]:
    def picture() -> Group:
        table = Table("Worker", "Job", "Now", box=None, padding=(0, 2, 0, 0), header_style="bold")
        for slot in range(workers):
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
    """A line for every finished job, and one for a running job when it has news, at most every ten seconds."""
    last = time.monotonic()
    for event in events:
        said = board.latest.get(event.slot, "")
        board.update(event)
        name = board.works[event.task.key].name
        if event.kind in ENDS:
            detail = ", ".join(map(str, event.detail)) or event.kind
            _line(console, f"{detail:<8} {board.works[event.task.key].kind:<4} {name}{_after(said)}")
            _line(console, f"  {board.summary(workers)}")
            last = time.monotonic()
        elif event.kind == "restarted":
            _line(console, f"again    {name}: its process was {event.detail[0]}")
        elif event.kind in ("waiting", "asked") or (event.kind == "progress" and time.monotonic() - last > 10):
            _line(console, f"running  {name}{_after(board.latest[event.slot])}")
            last = time.monotonic()
        yield event


def _after(news: str) -> str:
    return f": {news}" if news.startswith(("epoch", "waiting", "stopping")) else ""


def _line(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_rows(console: Console, title: str, heads: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on the terminal, its heads a word a line."""
    table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, head in enumerate(heads):
        table.add_column(head.replace(" ", "\n"), justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)

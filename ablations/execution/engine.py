"""What an engine is: it runs tasks somewhere, and yields what becomes of them as events.

The driver knows no more of an engine than what stands here, and an engine knows nothing of networks.
`tests/execution/test_engine.py` states what every engine must do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

MOST_DEATHS = 3
"""Deaths in a row, without a newer checkpoint between them, after which a task is given up."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables of the environment that say how many threads a job's libraries may use: one."""

Stopping = Callable[[], bool]
"""Whether somebody has asked to stop."""


@dataclass(frozen=True)
class Context:
    """What an engine gives to a task that it runs. Any thread of the task may call the functions."""

    device: str
    """`cpu`, or `cuda:1`."""

    started: float
    """When its process was started, in seconds of `time.monotonic()`, without its waiting for the device."""

    tell: Callable[[object], None]
    """Passes a message to the driver, as the event `Told`."""

    kept: Callable[[Any], None]
    """Says that a state is kept from which the task would go on: its place, which is greater for a later state."""

    stopping: Stopping = lambda: False
    """Whether the task should end by itself, soon, with the status `stopped`."""


@dataclass(frozen=True)
class Task:
    """`function(*arguments, context)` gives a status.

    An OSError that it raises is a fault of the machine and no matter of the task: see `Broken`. Whatever else it raises
    is a death.
    """

    key: str
    function: Callable[..., str]
    arguments: tuple[Any, ...]
    exclusive: bool = False
    """Whether no other task may use the device meanwhile."""

    stoppable: bool = False
    """Whether the function asks `context.stopping()` and ends by itself; others are killed."""

    limit: float = 0.0
    """Seconds that it may have the device; 0 = as long as it takes."""


@dataclass(frozen=True)
class Event:
    """What happened to a task."""

    task: Task
    slot: int
    """Which worker, from 0."""


@dataclass(frozen=True)
class Started(Event):
    """A worker has begun with the task, for the first time or again."""


@dataclass(frozen=True)
class Waiting(Event):
    """Another process of this suite uses the device."""


@dataclass(frozen=True)
class Told(Event):
    """The task has told something."""

    message: Any


@dataclass(frozen=True)
class Kept(Event):
    """The task has kept a state from which it would go on."""

    place: Any


@dataclass(frozen=True)
class Restarted(Event):
    """The task's process died; the task is the next to be started."""

    reason: str


@dataclass(frozen=True)
class AskedToStop(Event):
    """The task was asked to end by itself."""


@dataclass(frozen=True)
class Ended(Event):
    """Nothing more happens to the task."""


@dataclass(frozen=True)
class Stopped(Ended):
    """The task was ended on request; it may be run again."""


@dataclass(frozen=True)
class Finished(Ended):
    """The function gave its status."""

    status: str


@dataclass(frozen=True)
class Lost(Ended):
    """The task could not tell itself what happened to it: it died too often, or took too long."""

    status: str
    reason: str


@dataclass(frozen=True)
class Broken(Ended):
    """The machine failed, not the task: a disk that is full, for example."""

    error: OSError


class Engine(Protocol):
    """Runs tasks, and keeps these rules.

    Tasks start in their order. At most `slots` run at a time, and beside an exclusive one none. A task whose process
    dies is the next to be started, until it has died MOST_DEATHS times in a row without a newer checkpoint. Of every
    task that was started, the last event is an `Ended`; none ends twice.
    """

    slots: int
    machine: Mapping[str, Any]
    """What a measurement on its devices depends on, as `environment.machine` tells: a part of a cost's identity."""

    def run(self, tasks: Sequence[Task], stopping: Stopping = lambda: False) -> Generator[Event]:
        """Runs the tasks and yields what happens.

        When it is `stopping`, nothing more is started, and what runs is asked to end. Closing the iterator ends all.
        """
        ...


class Deaths:
    """Counts how often each task died without a newer checkpoint."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._places: dict[str, Any] = {}

    def forgive(self, key: str, place: Any) -> None:
        """Counts from 0 again where a later state is kept than ever before."""
        if key not in self._places or place > self._places[key]:
            self._places[key], self._counts[key] = place, 0

    def count(self, task: Task, slot: int, reason: str) -> Restarted | Lost:
        """Counts one death, and says what becomes of the task."""
        self._counts[task.key] = self._counts.get(task.key, 0) + 1
        if self._counts[task.key] < MOST_DEATHS:
            return Restarted(task, slot, reason)
        times = f"{MOST_DEATHS} times in a row without a newer checkpoint"
        return Lost(task, slot, "failed", f"its process was {reason}, {times}")


def over_limit(task: Task, slot: int) -> Lost:
    """The end of a task that took too long."""
    return Lost(task, slot, "timeout", f"it took longer than time_limit = {task.limit:g} seconds")

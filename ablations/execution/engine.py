"""The interface of an engine, which runs tasks and yields what happens to them as events.

The driver depends only on this interface, and engines know nothing about networks.
`tests/execution/test_engine.py` states what every engine must do.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ablations.execution.fresh import Method
from ablations.storage.turns import Purpose

MOST_DEATHS = 3
"""The number of deaths in a row, without a newer checkpoint between them, after which a task is given up."""

Stopping = Callable[[], bool]
"""Returns whether a stop was requested."""


@dataclass(frozen=True)
class Context:
    """The values and functions that an engine gives to a task. Any thread of the task may call the functions."""

    device: str
    """`cpu`, or `cuda:1`."""

    started: float
    """The start time of its process, in seconds of `time.monotonic()`, moved later by the time that it waited for the
    device."""

    tell: Callable[[object], None]
    """Sends a message to the driver, as the event `Told`."""

    kept: Callable[[Any], None]
    """Reports a saved state from which the task would resume, by its place. Later states have greater places."""

    stopping: Stopping = lambda: False
    """Returns whether the task should end soon by itself, with the status `stopped`."""

    method: Method = "forkserver"
    """How the task may start new processes for measurements: `fork` if its own process has computed nothing yet."""

    give_way: Callable[[Callable[[], None]], float] = lambda settle: 0.0
    """Lets a measurement use the device, if one waits and it is its turn: calls the function, which must end all work
    on the device, waits, and returns the seconds until the task may go on. To be called between two steps."""

    more: tuple[str, ...] = ()
    """The other devices of a task that needs several."""

    @property
    def devices(self) -> tuple[str, ...]:
        """All devices of the task: as many as it needs slots."""
        return (self.device, *self.more)


@dataclass(frozen=True)
class Task:
    """A task calls `function(*arguments, context)`, which returns a status.

    If the function raises an OSError, the machine failed and not the task: see `Broken`. Any other exception counts as
    a death of the task.
    """

    key: str
    function: Callable[..., str]
    arguments: tuple[Any, ...]
    exclusive: bool = False
    """Whether no other task may use the device at the same time."""

    purpose: Purpose | None = None
    """The use of the device, for those who wait for it."""

    stoppable: bool = False
    """Whether the function checks `context.stopping()` and ends by itself. Other tasks are killed."""

    limit: float = 0.0
    """The most seconds that the task may use the device; 0 = no limit. Time in which it waits does not count."""

    folder: Path | None = None
    """The folder where the function reads and writes the files of this task, whose names begin with `key`: one of the
    arguments."""

    slots: int = 1
    """The number of workers whose places and devices the task takes. It is one process at first, and may start more."""


@dataclass(frozen=True)
class Event:
    """Something that happened to a task."""

    task: Task
    slot: int
    """The number of the worker, from 0; the first one if the task takes several. An exclusive task may have the number
    after the last worker's."""


@dataclass(frozen=True)
class Started(Event):
    """A worker has started the task, for the first time or again."""


@dataclass(frozen=True)
class Waiting(Event):
    """The task waits for the device, at its start or because it gave way to a measurement."""

    others: str = ""
    """Who has the device."""


@dataclass(frozen=True)
class Told(Event):
    """The task has sent a message."""

    message: Any


@dataclass(frozen=True)
class Kept(Event):
    """The task has saved a state from which it would resume."""

    place: Any


@dataclass(frozen=True)
class Restarted(Event):
    """The process of the task died. The task will be started again, before all others."""

    reason: str


@dataclass(frozen=True)
class AskedToStop(Event):
    """The task was asked to end by itself."""


@dataclass(frozen=True)
class Ended(Event):
    """The last event of a task."""


@dataclass(frozen=True)
class Stopped(Ended):
    """The task was ended on request. It may be run again."""


@dataclass(frozen=True)
class Finished(Ended):
    """The function has returned its status."""

    status: str


@dataclass(frozen=True)
class Lost(Ended):
    """The task ended without a status: its process died too often, or it exceeded its limit."""

    status: str
    reason: str


@dataclass(frozen=True)
class Broken(Ended):
    """The machine failed, not the task; for example, the disk is full."""

    error: OSError


class Detached(Exception):
    """The tasks were handed over to a cluster, which goes on without the driver. The message says how to come back."""


class Engine(Protocol):
    """Runs tasks according to these rules.

    Tasks start in their order. At most `slots` tasks run at a time, fewer if some of them take several slots. None
    takes more than there are. An exclusive task has its devices alone. While an exclusive task waits for a device that
    other processes use, later tasks may start. If the process of a task dies, this task is started next, until it has
    died MOST_DEATHS times in a row without a newer checkpoint.
    Every task that was started has exactly one `Ended` event, which is its last event.
    """

    slots: int
    widest: int
    """The most slots that one task may take."""

    machine: Mapping[str, Any]
    """The machine as `environment.describe_machine` returns it. Measurements depend on it, so it is part of a cost's
    id."""

    def run(self, tasks: Sequence[Task], stopping: Stopping = lambda: False) -> Generator[Event]:
        """Runs the tasks and yields their events.

        When `stopping` returns True, no more tasks are started, and running tasks are asked to end. Closing the
        generator ends all tasks.
        """
        ...


class Cluster(Engine, Protocol):
    """An engine for other machines too. It holds processes or connections until it is closed."""

    def close(self) -> None:
        """Ends what the engine has started."""
        ...


class Deaths:
    """Counts how often each task died without a newer checkpoint."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._places: dict[str, Any] = {}

    def forgive(self, key: str, place: Any) -> None:
        """Sets a task's count to 0 if it has saved a later state than ever before."""
        if key not in self._places or place > self._places[key]:
            self._places[key], self._counts[key] = place, 0

    def count(self, task: Task, slot: int, reason: str) -> Restarted | Lost:
        """Counts one death, and returns whether the task is restarted or lost."""
        self._counts[task.key] = self._counts.get(task.key, 0) + 1
        if self._counts[task.key] < MOST_DEATHS:
            return Restarted(task, slot, reason)
        times = f"{MOST_DEATHS} times in a row without a newer checkpoint"
        return Lost(task, slot, "failed", f"its process was {reason}, {times}")


def over_limit(task: Task, slot: int) -> Lost:
    """Returns the last event of a task that exceeded its limit."""
    return Lost(task, slot, "timeout", f"it took longer than time_limit = {task.limit:g} seconds")

"""Runs tasks in new processes on this machine. It knows nothing about networks.

Each task has its own process, which is forked from a server that has already loaded the heavy modules. So it starts in
milliseconds, and nothing remains in it from earlier tasks. An exclusive task runs alone: within one driver by the order
of starts, between drivers by turns on the device. While it waits for its turn, other tasks of its driver are started.

If a process dies, its task is started again. If the driver dies, its processes end too. Every process leads a process
group, which is killed as a whole.
"""

from __future__ import annotations

import gc
import mmap
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any

from ablations.execution.engine import (
    AskedToStop,
    Broken,
    Context,
    Deaths,
    Event,
    Finished,
    Kept,
    Restarted,
    Started,
    Stopped,
    Stopping,
    Task,
    Told,
    Waiting,
    over_limit,
)
from ablations.execution.fresh import describe_end, end_with_server, start_server
from ablations.signals import STOPPING
from ablations.storage.turns import Turns, lock_devices

GRACE = 15.0
"""Seconds that a task has to end after it was asked to stop."""

TICK = 0.2
"""Seconds between two checks for a stop request and for the limits of tasks."""


@dataclass
class _Worker:
    task: Task
    slots: tuple[int, ...]
    """The numbers of its places. For an exclusive task, the number after the last place."""

    process: ForkServerProcess
    connection: Connection
    deadline: float = float("inf")
    """The time at which a worker that was asked to stop is killed."""

    waiting: float | None = None
    """The time since when it waits for its device; None if it does not."""

    @property
    def slot(self) -> int:
        """The first of its places."""
        return self.slots[0]

    def kill(self) -> None:
        """Kills the process and all processes that it started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # type: ignore[arg-type]  # it has been started
        self.process.kill()
        self.process.join()
        self.connection.close()


class LocalEngine:
    """Runs tasks on this machine, at most one per entry of `devices` at a time. A task of several slots has several.

    A running task has 15 seconds to end after it was asked to stop.
    """

    def __init__(self, devices: Sequence[str], machine: Mapping[str, Any], preload: Sequence[str] = ()) -> None:
        self.devices, self.machine = tuple(devices), machine
        self.slots = self.widest = len(devices)
        self._preload = ("__main__", *preload)

    def run(self, tasks: Sequence[Task], stopping: Stopping = lambda: False) -> Generator[Event]:
        """Runs the tasks and yields their events, as `Engine` describes."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(self._preload))
        work = _Schedule(self.devices, deque(tasks), stopping, context)
        try:
            yield from work.events()
        finally:
            for worker in work.workers:
                worker.kill()


@dataclass
class _Schedule:
    """The tasks and workers of one call of `run`."""

    devices: Sequence[str]
    left: deque[Task]
    stopping: Stopping
    context: multiprocessing.context.ForkServerContext
    workers: list[_Worker] = field(default_factory=list)
    deaths: Deaths = field(default_factory=Deaths)
    begun: dict[str, float] = field(default_factory=dict)
    """The time at which a task first had its device, moved later by the time that it waited for it since then."""

    crowded: bool = False
    """Whether an exclusive task had to wait, because other processes use the device too."""

    def events(self) -> Iterator[Event]:
        while self.workers or (self.left and not self.stopping()):
            yield from self.start()
            ready = wait([each for worker in self.workers for each in _sources(worker)], TICK)
            for worker in list(self.workers):
                if worker.process.sentinel in ready or worker.connection in ready:
                    yield from self.hear(worker, dead=worker.process.sentinel in ready)
            yield from self.enforce()

    def start(self) -> Iterator[Event]:
        """Starts the tasks that may start now."""
        while not self.stopping() and (task := self.find_next()):
            self.left.remove(task)
            places = self.find_places(task) or ()
            slots = (len(self.devices),) if task.exclusive else places
            devices = [self.devices[place] for place in places]
            self.workers.append(_start(self.context, task, slots, devices))
            yield Started(task, slots[0])

    def find_places(self, task: Task) -> tuple[int, ...] | None:
        """Returns the places that a task may take now, on as many different devices as there are; None if too few are
        free. An exclusive task takes the first ones, whoever has them.
        """
        busy = set() if task.exclusive else {slot for worker in self.workers for slot in worker.slots}
        free = [place for place in range(len(self.devices)) if place not in busy]
        apart = list({self.devices[place]: place for place in reversed(free)}.values())[::-1][: task.slots]
        if len(apart) < min(task.slots, len(set(self.devices))):
            return None
        found = [*apart, *(place for place in free if place not in apart)][: task.slots]
        return tuple(sorted(found)) if len(found) == task.slots else None

    def find_next(self) -> Task | None:
        """Returns the task that may start now, or None.

        It is the first one. While an exclusive task waits for the device, it is the first that is not exclusive.
        """
        alone = [worker for worker in self.workers if worker.task.exclusive]
        if alone:
            others = (task for task in self.left if not task.exclusive)
            first = next(others, None) if alone[0].waiting is not None else None
        else:
            first = self.left[0] if self.left else None
        if first is not None and first.exclusive:
            return first if self.crowded or not self.workers else None
        return first if first is not None and self.find_places(first) else None

    def hear(self, worker: _Worker, dead: bool) -> Iterator[Event]:
        """Yields the events that a worker has sent, and then its death if it is dead."""
        task, slot = worker.task, worker.slot
        while worker.connection.poll():
            try:
                kind, value = worker.connection.recv()
            except (EOFError, OSError):
                dead = True
                break
            if kind == "begun":
                self.note_begin(worker)
            elif kind == "waiting":
                worker.waiting = time.monotonic()
                self.crowded = self.crowded or task.exclusive
                yield Waiting(task, slot, value)
            elif kind == "told":
                yield Told(task, slot, value)
            elif kind == "kept":
                self.deaths.forgive(task.key, value)
                yield Kept(task, slot, value)
            else:
                yield self.end(worker, Broken(task, slot, value) if kind == "broken" else self.finish(worker, value))
                return
        if dead:
            worker.process.join()
            reason = describe_end(worker.process.exitcode or 0)
            stopped = self.stopping()
            yield self.end(worker, Stopped(task, slot) if stopped else self.deaths.count(task, slot, reason))

    def note_begin(self, worker: _Worker) -> None:
        """Notes that a worker has its device, for the first time or again."""
        now = time.monotonic()
        if worker.task.key not in self.begun:
            self.begun[worker.task.key] = now
        elif worker.waiting is not None:
            self.begun[worker.task.key] += now - worker.waiting
        worker.waiting = None

    def finish(self, worker: _Worker, status: str) -> Event:
        """Returns the last event of a task whose function returned a status."""
        if status != "stopped":
            return Finished(worker.task, worker.slot, status)
        asked = self.stopping()
        return Stopped(worker.task, worker.slot) if asked else Restarted(worker.task, worker.slot, TOLD_BY_OTHERS)

    def enforce(self) -> Iterator[Event]:
        """Kills workers over their limit.

        On a stop request, asks stoppable tasks to end, and kills others and late ones.
        """
        now, stopping = time.monotonic(), self.stopping()
        for worker in list(self.workers):
            task, begun = worker.task, self.begun.get(worker.task.key, now)
            if 0 < task.limit < now - begun and worker.waiting is None:
                yield self.end(worker, over_limit(task, worker.slot))
            elif stopping and (not task.stoppable or now > worker.deadline):
                yield self.end(worker, Stopped(task, worker.slot))
            elif stopping and worker.deadline == float("inf"):
                worker.deadline = now + GRACE
                worker.process.terminate()
                yield AskedToStop(task, worker.slot)

    def end(self, worker: _Worker, event: Event) -> Event:
        """Kills a worker and all processes that it started.

        If the task must be restarted, puts it first in the queue.
        """
        self.workers.remove(worker)
        worker.kill()
        if isinstance(event, Restarted):
            self.left.appendleft(worker.task)
        return event


TOLD_BY_OTHERS = "told to stop by somebody"


def _sources(worker: _Worker) -> tuple[Any, int]:
    return worker.connection, worker.process.sentinel


def _start(
    context: multiprocessing.context.ForkServerContext, task: Task, slots: tuple[int, ...], devices: Sequence[str]
) -> _Worker:
    start_server()
    here, there = context.Pipe(duplex=False)
    # not a daemon, because a daemon may not start processes that read images
    process = context.Process(target=_work, args=(there, task, devices, time.monotonic()))
    process.start()
    there.close()
    return _Worker(task, slots, process, here)


def _work(connection: Connection, task: Task, devices: Sequence[str], started: float) -> None:
    """Runs a task in a worker process.

    It has its own process group, so that only the driver gets the terminal's signals.
    """
    os.setpgid(0, 0)
    gc.freeze()  # the server's objects are no garbage, and searching them takes 0.2 s each time
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # receives signals that came before this line
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_server()
    threading.Thread(target=_end_with_driver, daemon=True).start()
    asked = mmap.mmap(-1, 1)  # a handler must not take a lock; and processes that are forked from this one share it
    sending = threading.Lock()

    def ask(number: int, frame: object) -> None:
        asked[0] = 1

    def send(kind: str, value: Any = None) -> None:
        try:
            with sending:
                connection.send((kind, value))
        except OSError:
            os.killpg(0, signal.SIGKILL)  # the driver is dead

    def give_way(turn: Turns, settle: Callable[[], None]) -> float:
        seconds = turn.give_way(settle, lambda: bool(asked[0]))
        if seconds:
            send("begun")
        return seconds

    try:
        with lock_devices(devices, task.exclusive, partial(send, "waiting"), task.purpose) as turn:
            send("begun")
            if task.stoppable:
                for number in set(STOPPING) - {signal.SIGINT}:
                    signal.signal(number, ask)
            tell, keep = partial(send, "told"), partial(send, "kept")
            first, *more = devices
            way = partial(give_way, turn)
            context = Context(
                first, started + turn.waited, tell, keep, lambda: bool(asked[0]), "fork", way, tuple(more)
            )
            status = task.function(*task.arguments, context)
        send("finished", status)  # when the device is free: this process is killed then
    except OSError as error:
        send("broken", error)
    except BaseException:
        traceback.print_exc()
        os._exit(1)  # at once, without cleanup: its process group is killed


def _end_with_driver() -> None:
    """Waits until the driver is dead, then kills this process and all that it started."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        wait([driver.sentinel])
        os.killpg(0, signal.SIGKILL)

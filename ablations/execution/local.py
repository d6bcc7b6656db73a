"""Runs tasks in fresh processes on this machine; knows nothing of networks.

Every task gets a process of its own, forked from a server that has the heavy modules loaded, so that it starts in
milliseconds and nothing of an earlier task is left in it. An exclusive task runs with no other beside it: within
one driver by order, between drivers by a lock that the kernel frees when its owner dies.

A process that dies is started again; a driver that dies takes its processes with it. Every process leads a group,
which ends as a whole.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, Literal

from ablations.signals import STOPPING
from ablations.storage import locks

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

MOST_DEATHS = 3
"""Deaths in a row, without a newer checkpoint between them, after which a task is given up."""

GRACE = 15.0
"""Seconds that a task has for ending when it is asked to."""

TICK = 0.2
"""Seconds after which the engine looks up: whether it should stop, and whether a task is over its limit."""

PR_SET_PDEATHSIG = 1
"""The number of this option in Linux's prctl."""

Tell = Callable[..., None]
"""`tell("progress", ...)`, and `tell("kept", place)` when a state is kept from which the task would go on; a later one
has a greater place."""

Stopping = Callable[[], bool]


@dataclass(frozen=True)
class Task:
    """`function(*arguments, device, tell, stopping, started)` returns a status; `exclusive` asks for the device alone.

    `tell` may be called by any thread. `started` is when the process was, in `time.monotonic()`, without its waiting
    for the device.
    """

    key: str
    function: Callable[..., str]
    arguments: tuple[Any, ...]
    exclusive: bool = False
    stoppable: bool = False
    """Whether the function asks `stopping()` and ends by itself; others are killed."""

    limit: float = 0.0
    """Seconds that it may have the device; 0 = any."""


@dataclass(frozen=True)
class Event:
    """What happened to a task."""

    kind: Literal[
        "started", "waiting", "progress", "kept", "restarted", "asked", "stopped", "finished", "lost", "broken"
    ]
    task: Task
    slot: int
    """Which worker."""

    detail: tuple[Any, ...] = ()
    """progress: the arguments of the call; finished: the status; restarted: why; lost: status and reason; broken: an
    OSError that the function raised, which is no matter of the task."""


ENDS = ("stopped", "finished", "lost", "broken")
"""After these nothing more happens to a task."""


@dataclass
class _Worker:
    task: Task
    slot: int
    process: ForkServerProcess
    connection: Connection
    deadline: float = float("inf")
    """When a worker that was asked to stop is killed."""

    def kill(self) -> None:
        """Ends the process and what it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # type: ignore[arg-type]  # it has been started
        self.process.kill()
        self.process.join()
        self.connection.close()


@dataclass
class _Engine:
    """The tasks of one call of `run`."""

    devices: Sequence[str]
    left: deque[Task]
    stopping: Stopping
    context: multiprocessing.context.ForkServerContext
    workers: list[_Worker] = field(default_factory=list)
    deaths: Counter[str] = field(default_factory=Counter)
    begun: dict[str, float] = field(default_factory=dict)
    """When a task first had its device."""

    kept: dict[str, Any] = field(default_factory=dict)
    """How far a task was when it last kept more than ever before."""

    def events(self) -> Iterator[Event]:
        while self.workers or (self.left and not self.stopping()):
            yield from self.start()
            ready = wait([each for worker in self.workers for each in _sources(worker)], TICK)
            for worker in list(self.workers):
                if worker.process.sentinel in ready or worker.connection in ready:
                    yield from self.news(worker, dead=worker.process.sentinel in ready)
            yield from self.impatience()

    def start(self) -> Iterator[Event]:
        """Starts what may start."""
        while self.left and not self.stopping() and _may_start(self.left[0], self.workers, len(self.devices)):
            slot = min(set(range(len(self.devices))) - {worker.slot for worker in self.workers})
            self.workers.append(_start(self.context, self.left.popleft(), slot, self.devices[slot]))
            yield Event("started", self.workers[-1].task, slot)

    def news(self, worker: _Worker, dead: bool) -> Iterator[Event]:
        """What a worker has said; after all of it, its death."""
        key = worker.task.key
        while worker.connection.poll():
            try:
                kind, detail = worker.connection.recv()
            except (EOFError, OSError):
                dead = True
                break
            if kind == "begun":
                self.begun.setdefault(key, time.monotonic())
                continue
            if kind == "kept" and (key not in self.kept or detail > self.kept[key]):
                self.kept[key], self.deaths[key] = detail, 0
            if kind == "finished" and detail == ("stopped",):
                yield self.end(worker, "stopped") if self.stopping() else self.again(worker, "told to stop by somebody")
                return
            if kind in ENDS:
                yield self.end(worker, kind, *detail)
                return
            yield Event(kind, worker.task, worker.slot, detail)
        if dead:
            yield self.after_death(worker)

    def after_death(self, worker: _Worker) -> Event:
        """Starts a dead worker's task again, unless it died MOST_DEATHS times in a row."""
        worker.process.join()
        code, key = worker.process.exitcode or 0, worker.task.key
        if self.stopping():
            return self.end(worker, "stopped")
        self.deaths[key] += 1
        reason = f"killed by {_signal(-code)}" if code < 0 else f"ended with exit code {code}"
        if self.deaths[key] == MOST_DEATHS:
            times = f"{MOST_DEATHS} times in a row without a newer checkpoint"
            return self.end(worker, "lost", "failed", f"its process was {reason}, {times}")
        return self.again(worker, reason)

    def again(self, worker: _Worker, reason: str) -> Event:
        """A worker's task is the next to be started."""
        self.left.appendleft(worker.task)
        return self.end(worker, "restarted", reason)

    def impatience(self) -> Iterator[Event]:
        """Ends workers over their limit, and all of them, more or less politely, when it is time to stop."""
        now, stopping = time.monotonic(), self.stopping()
        for worker in list(self.workers):
            limit, begun = worker.task.limit, self.begun.get(worker.task.key, now)
            if 0 < limit < now - begun:
                yield self.end(worker, "lost", "timeout", f"it took longer than time_limit = {limit:g} seconds")
            elif stopping and (not worker.task.stoppable or now > worker.deadline):
                yield self.end(worker, "stopped")
            elif stopping and worker.deadline == float("inf"):
                worker.deadline = now + GRACE
                worker.process.terminate()
                yield Event("asked", worker.task, worker.slot)

    def end(self, worker: _Worker, kind: Any, *detail: Any) -> Event:
        """Removes a worker, with all that it has started."""
        self.workers.remove(worker)
        worker.kill()
        return Event(kind, worker.task, worker.slot, detail)


def run(
    tasks: Sequence[Task], devices: Sequence[str], preload: Sequence[str], stopping: Stopping = lambda: False
) -> Generator[Event]:
    """Runs the tasks, at most one per entry of `devices` at a time, in their order, and yields what happens.

    When it is `stopping`, nothing more is started, and what runs is asked to end within 15 seconds. Closing the
    iterator ends all workers at once.
    """
    os.environ.update(dict.fromkeys(THREADS, "1"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *preload])
    engine = _Engine(devices, deque(tasks), stopping, context)
    try:
        yield from engine.events()
    finally:
        for worker in engine.workers:
            worker.kill()


def _signal(number: int) -> str:
    """`SIGKILL`; real-time signals have no names."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _sources(worker: _Worker) -> tuple[Any, int]:
    return worker.connection, worker.process.sentinel


def _may_start(task: Task, workers: Sequence[_Worker], slots: int) -> bool:
    if task.exclusive or any(worker.task.exclusive for worker in workers):
        return not workers
    return len(workers) < slots


def _start(context: multiprocessing.context.ForkServerContext, task: Task, slot: int, device: str) -> _Worker:
    _start_server()
    here, there = context.Pipe(duplex=False)
    # no daemon: it may have readers of its own
    process = context.Process(target=_work, args=(there, task, device, time.monotonic()))
    process.start()
    there.close()
    return _Worker(task, slot, process, here)


def _start_server() -> None:
    """Sees to it that the server runs, deaf to what asks to stop: that is meant for the driver."""
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(connection: Connection, task: Task, device: str, started: float) -> None:
    """The worker's whole life, in a process group of its own: signals of a terminal are the driver's business."""
    os.setpgid(0, 0)
    gc.freeze()  # what the server has loaded is no garbage, and to look through it takes 0.2 s every time
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # what came meanwhile is heard now
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_server()
    threading.Thread(target=_end_with_driver, daemon=True).start()
    asked: list[int] = []  # a handler may interrupt itself: nothing that takes a lock
    telling = threading.Lock()

    def tell(kind: str, *detail: Any) -> None:
        try:
            with telling:
                connection.send((kind, detail))
        except OSError:
            os.killpg(0, signal.SIGKILL)  # without a driver there is nobody to work for

    before = time.monotonic()
    with locks.device(device, task.exclusive, lambda: tell("waiting")):
        started += time.monotonic() - before
        tell("begun")
        if task.stoppable:
            for number in (signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, lambda number, _: asked.append(number))
        try:
            tell("finished", task.function(*task.arguments, device, tell, lambda: bool(asked), started))
        except OSError as error:
            tell("broken", error)
        except BaseException:
            traceback.print_exc()
            os._exit(1)  # at once: what it has started ends with its group


def _end_with_server() -> None:
    """Asks Linux to end this process with the server, which ends with the driver: even a halted process, or one that
    lets no other thread run. The server lives as long as anybody holds a certain pipe, which only the driver should.
    """
    with suppress(OSError, AttributeError, TypeError):
        os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_driver() -> None:
    """Waits for the driver's death, and follows it with all that this process has started."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        wait([driver.sentinel])
        os.killpg(0, signal.SIGKILL)

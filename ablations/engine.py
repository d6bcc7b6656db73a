"""Runs tasks in fresh processes on this machine; knows nothing of networks.

Every task gets a process of its own, forked from a server that has the heavy modules loaded, so that it starts in
milliseconds and nothing of an earlier task is left in it. An exclusive task runs with no other beside it: within
one driver by order, between drivers by a lock that the kernel frees when its owner dies.
"""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess
from typing import Any, Literal

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

Progress = Callable[[float, float], None]


@dataclass(frozen=True)
class Task:
    """`function(*arguments, device, progress)` returns a status; `exclusive` asks for the device alone."""

    key: str
    function: Callable[..., str]
    arguments: tuple[Any, ...]
    exclusive: bool = False


@dataclass(frozen=True)
class Event:
    """What happened to a task."""

    kind: Literal["started", "waiting", "progress", "finished", "died"]
    task: Task
    slot: int
    """Which worker."""

    detail: tuple[Any, ...] = ()
    """progress: the arguments of the call; finished: the status; died: what ended the process."""


@dataclass
class _Worker:
    task: Task
    slot: int
    process: ForkServerProcess
    connection: Connection


def run(tasks: Sequence[Task], devices: Sequence[str], preload: Sequence[str]) -> Iterator[Event]:
    """Runs the tasks, at most one per entry of `devices` at a time, in their order, and yields what happens.

    A process that dies without a status is an event; the others go on. Closing the iterator ends all workers.
    """
    os.environ.update(dict.fromkeys(THREADS, "1"))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *preload])
    _start_server()
    left, workers = deque(tasks), list[_Worker]()
    try:
        while left or workers:
            while left and _may_start(left[0], workers, len(devices)):
                slot = min(set(range(len(devices))) - {worker.slot for worker in workers})
                workers.append(_start(context, left.popleft(), slot, devices[slot]))
                yield Event("started", workers[-1].task, slot)
            ready = wait([worker.connection for worker in workers])
            for worker in [worker for worker in workers if worker.connection in ready]:
                event = _receive(worker)
                if event.kind in ("finished", "died"):
                    workers.remove(worker)
                yield event
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()


def _start_server() -> None:
    """Starts the server deaf to Ctrl-C, which is meant for the driver."""
    if threading.current_thread() is not threading.main_thread():
        forkserver.ensure_running()
        return
    heard = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, heard)


def _may_start(task: Task, workers: Sequence[_Worker], slots: int) -> bool:
    if task.exclusive or any(worker.task.exclusive for worker in workers):
        return not workers
    return len(workers) < slots


def _start(context: multiprocessing.context.ForkServerContext, task: Task, slot: int, device: str) -> _Worker:
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, task, device))  # no daemon: it may have readers of its own
    process.start()
    there.close()
    return _Worker(task, slot, process, here)


def _receive(worker: _Worker) -> Event:
    """The worker's next message; the end of its pipe without a status is its death."""
    try:
        kind, detail = worker.connection.recv()
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode or 0
        reason = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return Event("died", worker.task, worker.slot, (reason,))
    if kind == "finished":
        worker.process.join()
    return Event(kind, worker.task, worker.slot, detail)


def _work(connection: Connection, task: Task, device: str) -> None:
    """The worker's whole life. Ctrl-C is the driver's business; without a driver there is nobody to work for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def send(kind: str, *detail: Any) -> None:
        try:
            connection.send((kind, detail))
        except OSError:
            os._exit(1)

    def progress(*detail: float) -> None:
        send("progress", *detail)

    with device_lock(device, task.exclusive, lambda: send("waiting")):
        status = task.function(*task.arguments, device, progress)
    send("finished", status)


@contextmanager
def device_lock(device: str, exclusive: bool, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds a device of this machine, alone or with others; `waiting` is called once if somebody is in the way."""
    name = f"densenet-ablations-{os.getuid()}-{device.replace(':', '-')}.lock"
    descriptor = os.open(os.path.join(tempfile.gettempdir(), name), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        try:
            fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(descriptor, mode)
        yield
    finally:
        os.close(descriptor)

"""Calls a function in a new process, which nothing that was computed before has changed, and returns its value."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Literal, TypeVar

from ablations.signals import STOPPING

Method = Literal["fork", "forkserver"]
"""How a new process is made. fork: as a copy of this process, which must not have computed anything yet. forkserver: by
a server that loads the modules first, which takes some seconds once."""

TICK = 0.05
"""Seconds between two checks for a stop request."""

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Environment variables that limit the threads of a job's libraries. They are set to 1."""

PR_SET_PDEATHSIG = 1
"""The number of this option of prctl in Linux."""

Value = TypeVar("Value")


class Killed(RuntimeError):
    """The process ended without a value."""


class Abandoned(RuntimeError):
    """A stop was requested before the function returned, and its process was killed."""


def call_fresh(
    function: Callable[..., Value], arguments: tuple[Any, ...], method: Method, stopping: Callable[[], bool]
) -> Value:
    """Returns `function(*arguments)`, called in a new process that ends with this one.

    The arguments and the value are sent between processes. Raises Killed if the process ends without a value, also
    by an exception, and Abandoned if `stopping` returns True meanwhile.
    """
    return call_all_fresh(function, [arguments], method, stopping)[0]


def call_all_fresh(
    function: Callable[..., Value], arguments: Sequence[tuple[Any, ...]], method: Method, stopping: Callable[[], bool]
) -> list[Value]:
    """Returns the values of several such calls, each in its own process at the same time, in their order.

    Raises as `call_fresh` does, for the first process that ends without a value.
    """
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["__main__", function.__module__])
        start_server()
    left, found = {}, {}
    try:
        for number, each in enumerate(arguments):
            here, there = context.Pipe(duplex=False)
            process = context.Process(target=_work, args=(there, function, each, method))
            process.start()
            there.close()
            left[number] = here, process
        while left:
            if stopping():
                raise Abandoned
            ready = wait([source for here, process in left.values() for source in (here, process.sentinel)], TICK)
            for number, (here, process) in list(left.items()):
                if here in ready or process.sentinel in ready:
                    found[number] = _receive(here, process)
                    _end(*left.pop(number))
        return [found[number] for number in range(len(found))]
    finally:
        for worker in left.values():
            _end(*worker)


def _end(here: Connection, process: Any) -> None:
    process.kill()
    process.join()
    here.close()


def _receive(here: Connection, process: Any) -> Any:
    """Returns the value that the process has sent. Raises Killed if it has sent none."""
    with suppress(EOFError, OSError):
        if here.poll():
            return here.recv()
    process.join()
    raise Killed(f"its process was {describe_end(process.exitcode)}")


def describe_end(code: int) -> str:
    """Returns how a process ended by its exit code: `killed by SIGKILL`, `ended with exit code 1`."""
    if code >= 0:
        return f"ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return f"killed by {name}"


def start_server() -> None:
    """Starts the server if it does not run. The server blocks stop signals, which are meant for the driver.

    Without PYTHONSAFEPATH, the server would import modules from the current folder first, where a user's file may have
    the name of one of them.
    """
    os.environ.update(dict.fromkeys(THREADS, "1"))
    safe_path = os.environ.get("PYTHONSAFEPATH", "")
    os.environ["PYTHONSAFEPATH"] = "1"
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        with _use_short_folder():
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        os.environ["PYTHONSAFEPATH"] = safe_path


def find_short_folder(longest: int) -> str:
    """Returns the folder for temporary files, or /tmp if the name of that folder has more bytes than `longest`."""
    folder = tempfile.gettempdir()
    return folder if len(os.fsencode(folder)) <= longest else "/tmp"  # noqa: S108


@contextmanager
def _use_short_folder() -> Iterator[None]:
    """A context with /tmp as the folder for temporary files, if its name is too long for a socket in it."""
    folder = tempfile.gettempdir()
    tempfile.tempdir = find_short_folder(LONGEST_FOLDER)
    try:
        yield
    finally:
        tempfile.tempdir = folder


LONGEST_FOLDER = 70
"""Bytes in the name of a folder for temporary files. A socket in it has 108 bytes for its name, and the server needs 33
of them."""


def end_with_server() -> None:
    """Asks Linux to kill this process when the server ends, which ends with the process that started it.

    This works even if the process is halted or blocks other threads. The server runs as long as any process has a
    certain pipe open, so this process closes it, and only the one that started the server keeps it open.
    """
    with suppress(OSError, AttributeError, TypeError):
        os.close(forkserver._forkserver._forkserver_alive_fd)  # type: ignore[attr-defined]
        end_with_maker()


def end_with_maker() -> None:
    """Asks Linux to kill this process when the one that made it ends: the server, or the process that was forked."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _work(there: Connection, function: Callable[..., Any], arguments: tuple[Any, ...], method: Method) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if method == "forkserver":
        end_with_server()
    else:
        end_with_maker()
    there.send(function(*arguments))


def _end_with_parent() -> None:
    """Waits until the process that needs the value is dead, then ends this one."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)

"""Turns on a device of this machine: many trainings share it, and a measurement has it alone. Nobody starves.

Everybody who wants the device has a ticket, a file whose name begins with the time of arrival. Its owner holds a lock
on it, which the kernel releases when the owner dies. For TURN seconds after each measurement, all trainings have the
device. Then the next measurement has it, the one that came first: the trainings pause between two steps, and go on
after it. If nobody trains, one measurement follows another, and if nobody measures, no training pauses.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ablations.storage import files
from ablations.storage.files import StorageError, open_regular
from ablations.storage.locks import try_lock

TURN = 30.0
"""Seconds that trainings have after a measurement before they give way to the next one."""

TICK = 0.1
"""Seconds between two tries to get the device."""

LOOK = 0.5
"""The fewest seconds between two looks of a training for measurements that wait."""

ALONE, SHARED = ".alone", ".shared"
"""The ends of the names of tickets: of measurements, and of trainings."""


@dataclass(frozen=True)
class Purpose:
    """The use of the device, for those who wait for it."""

    job: str = "work"
    folder: str = ""
    """The results folder of the job."""


class Turn:
    """A turn on a device, as long as the context of `_lock` lasts."""

    def __init__(self, descriptor: int, ticket: _Ticket, waiting: Callable[[str], None]) -> None:
        self._descriptor, self._ticket, self._waiting = descriptor, ticket, waiting
        self._looked = 0.0
        self.waited = self.wait(lambda: False)
        """The seconds until the device was free."""

    def free(self) -> None:
        """Frees the device. After it, `wait` waits for the next turn."""
        _unlock(self._descriptor)
        self._ticket.sign(False)

    def wait(self, stopping: Callable[[], bool]) -> float:
        """Waits for the device and returns the seconds. Ends early if `stopping` returns True."""
        began, told = time.monotonic(), False
        mode = fcntl.LOCK_EX if self._ticket.alone else fcntl.LOCK_SH
        while not (self._is_next() and try_lock(self._descriptor, mode)) and not stopping():
            if not told:
                self._waiting(self._ticket.describe_others())
                told = True
            time.sleep(TICK)
        self._ticket.sign(True)
        return time.monotonic() - began

    def is_over(self) -> bool:
        """Returns whether a training must give way now. Looks only from time to time, because it is asked often."""
        now = time.monotonic()
        if self._ticket.alone or now - self._looked < LOOK:
            return False
        self._looked = now
        return not self._is_next()

    def _is_next(self) -> bool:
        """Returns whether the device is this ticket's, as soon as those who had it before have freed it."""
        tickets = self._ticket.list_all()
        measuring = (path for path in tickets if path.suffix == ALONE)
        training = (path for path in tickets if path.suffix == SHARED)
        theirs = 0 <= time.time() - os.fstat(self._descriptor).st_mtime < TURN  # a measurement ended then
        if not self._ticket.alone:
            return theirs or not any(map(_is_held, measuring))
        before = (path for path in measuring if path.name < self._ticket.path.name)
        return not any(map(_is_held, before)) and not (theirs and any(map(_is_held, training)))


class Turns:
    """Turns on several devices, as long as the context of `lock_devices` lasts."""

    def __init__(self, turns: Sequence[Turn]) -> None:
        self._turns = turns
        self.waited = sum(turn.waited for turn in turns)
        """The seconds until the devices were free."""

    def give_way(self, settle: Callable[[], None], stopping: Callable[[], bool]) -> float:
        """Lets a measurement use a device, if one waits and the trainings had their turn.

        Calls `settle`, which must end all work on the devices, then frees all of them, so that nobody waits for one
        while this process waits for another, and waits until the measurement is made. Returns the seconds until they
        were free again. Ends early if `stopping` returns True.
        """
        if not any(turn.is_over() for turn in self._turns):
            return 0.0
        settle()
        for turn in self._turns:
            turn.free()
        return sum(turn.wait(stopping) for turn in self._turns)


@contextmanager
def lock_devices(
    names: Iterable[str], exclusive: bool, waiting: Callable[[str], None], purpose: Purpose | None = None
) -> Iterator[Turns]:
    """Locks devices of this machine, alone or shared, and yields the turns on them.

    Each is locked once, in an order that is the same for everybody. Calls `waiting` with the names of those who have a
    device, once each time it is not free. Raises StorageError if a lock's file or the folder of the tickets cannot be
    opened.
    """
    with ExitStack() as stack:
        places = sorted({name_gpu(name) for name in names})
        yield Turns([stack.enter_context(_lock(place, exclusive, waiting, purpose)) for place in places])


def lock_device(
    name: str, exclusive: bool, waiting: Callable[[str], None], purpose: Purpose | None = None
) -> AbstractContextManager[Turns]:
    """Locks one device: see `lock_devices`."""
    return lock_devices([name], exclusive, waiting, purpose)


@contextmanager
def _lock(name: str, exclusive: bool, waiting: Callable[[str], None], purpose: Purpose | None) -> Iterator[Turn]:
    path = _place(name)
    try:
        descriptor = open_regular(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise _unusable(path.with_name(f"{path.name}.lock"), error) from error
    try:
        ticket = _Ticket(path.with_name(f"{path.name}.line"), exclusive, purpose or Purpose())
        try:
            yield Turn(descriptor, ticket, waiting)
        finally:
            ticket.discard()
            if exclusive:
                os.utime(descriptor)  # the turn of the trainings begins
    finally:
        _unlock(descriptor)
        os.close(descriptor)


def describe_waits(folder: Path) -> list[str]:
    """Returns which jobs of a results folder wait for a device of this machine, and who has it."""
    told = []
    for line in sorted(Path(tempfile.gettempdir()).glob(f"{_place('*').name}.line")):
        for path in _list_tickets(line):
            mine = _read(path) if _is_held(path) else {}
            if mine.get("folder") == str(folder.resolve()) and not mine["has_it"]:
                device = line.name.removesuffix(".line").removeprefix(_place("").name).replace("-", ":")
                told.append(f"{mine['job']} waits for {device}, used by {_describe_others(path)}")
    return told


@dataclass
class _Ticket:
    """A ticket in the folder `line`. Raises StorageError if it cannot be made."""

    line: Path
    alone: bool
    purpose: Purpose
    path: Path = field(init=False)

    def __post_init__(self) -> None:
        try:
            self.line.mkdir(mode=0o700, exist_ok=True)
            if self.line.is_symlink():
                raise OSError(None, "it is a link, and links are not followed")
            aside = self.line / f".{secrets.token_hex(8)}"  # nobody takes it for a ticket before it is locked
            self._descriptor = open_regular(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            try_lock(self._descriptor, fcntl.LOCK_EX)
            self.sign(False)
            self.path = self.line / f"{time.time_ns():020}-{secrets.token_hex(4)}{ALONE if self.alone else SHARED}"
            aside.rename(self.path)
        except OSError as error:
            raise _unusable(self.line, error) from error

    def sign(self, has_it: bool) -> None:
        """Writes into the ticket whose it is, and whether its owner has the device."""
        told = {"process": os.getpid(), "job": self.purpose.job, "folder": self.purpose.folder, "has_it": int(has_it)}
        with suppress(OSError):  # it only informs: a full disk must not stop a measurement
            os.pwrite(self._descriptor, json.dumps(told).encode(), 0)  # of the same length each time

    def list_all(self) -> list[Path]:
        """Lists the tickets of the device, in the order of arrival."""
        return _list_tickets(self.line)

    def describe_others(self) -> str:
        """Returns who has the device."""
        return _describe_others(self.path)

    def discard(self) -> None:
        """Removes the ticket."""
        with suppress(OSError):
            self.path.unlink()
        os.close(self._descriptor)


def _describe_others(path: Path) -> str:
    """Returns who has the device that a ticket is for, or who is before it."""
    before = {each: _read(each) for each in _list_tickets(path.parent) if each != path and _is_held(each)}
    found = [told for told in before.values() if told.get("has_it")]
    found = found or [told for each, told in before.items() if told and each.name < path.name]
    if not found:
        return "another process"
    of = f" of {found[0]['folder']}" if found[0]["folder"] else ""
    more = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{found[0]['job']}{of} (process {found[0]['process']}){more}"


def _place(name: str) -> Path:
    return Path(tempfile.gettempdir(), f"densenet-ablations-{os.getuid()}-{re.sub('[:/]', '-', name)}")


def name_gpu(name: str) -> str:
    """Returns a device's name on this machine: `cuda:3` for `cuda:0` with CUDA_VISIBLE_DEVICES=3.

    Processes that see only some GPUs count these from 0. Raises nothing: other names stay as they are.
    """
    visible = [each.strip() for each in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if each.strip()]
    kind, _, number = name.partition(":")
    if kind != "cuda" or not number.isdecimal() or int(number) >= len(visible):
        return name
    return f"cuda:{visible[int(number)]}"


def _list_tickets(line: Path) -> list[Path]:
    with suppress(OSError):
        return sorted(path for path in line.iterdir() if path.suffix in (ALONE, SHARED))
    return []


def _is_held(path: Path) -> bool:
    """Returns whether the owner of a ticket lives. Removes the ticket of a dead one."""
    try:
        descriptor = open_regular(path)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
    except BlockingIOError:
        return True
    except OSError:  # this file system has no locks
        pass
    finally:
        os.close(descriptor)
    return False


def _read(path: Path) -> dict[str, Any]:
    """Returns what a ticket says; nothing if it cannot be read."""
    try:
        told = json.loads(files.read(path))
        return told if told.keys() == {"process", "job", "folder", "has_it"} else {}
    except (OSError, ValueError, AttributeError):
        return {}


def _unlock(descriptor: int) -> None:
    """Releases the lock, also where a process that this one has forked has the descriptor too."""
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _unusable(path: Path, error: OSError) -> StorageError:
    reason = f"cannot be opened: {error.strerror}; every job locks its device with it. Remove it, or set TMPDIR"
    return StorageError(error.errno, reason, str(path))

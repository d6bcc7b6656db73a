"""Locks that the kernel frees when their holder dies: a device of this machine, and a results folder."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ablations.storage.files import StorageError

PATIENCE = 1.0
"""Seconds for which a driver tries again to lock a folder: a status check holds the lock briefly."""


class FolderInUse(RuntimeError):
    """Somebody else works on the folder; the text says who."""


@contextmanager
def lock_device(name: str, exclusive: bool, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds a device of this machine, alone or with others; `waiting` is called once if somebody is in the way."""
    file = f"densenet-ablations-{os.getuid()}-{name.replace(':', '-')}.lock"
    descriptor = os.open(os.path.join(tempfile.gettempdir(), file), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    mode = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    try:
        if not _try_lock(descriptor, mode):
            waiting()
            fcntl.flock(descriptor, mode)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def lock_folder(place: Path) -> Iterator[None]:
    """Holds a results folder alone. Raises Held, StorageError for a folder that cannot be written."""
    path = place / ".lock"
    descriptor = _take(path)
    try:
        _sign(descriptor, place)
        yield
    finally:
        if _is_file_of(path, descriptor):  # the folder may have been removed, and made anew by somebody else
            path.unlink(missing_ok=True)
        os.close(descriptor)


def find_holder(place: Path) -> str:
    """Who works on a results folder, `process 12 on host a since ...`; empty where nobody does."""
    path = place / ".lock"
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return ""
    try:
        return "" if _try_lock(descriptor, fcntl.LOCK_SH) else _describe_holder(path)
    finally:
        os.close(descriptor)


def _take(path: Path) -> int:
    """The lock's descriptor. A file that its last holder removed meanwhile is not the lock any more."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise StorageError(error.errno, f"cannot be written: {error.strerror}", str(path.parent)) from error
        if _try_lock(descriptor, fcntl.LOCK_EX):
            if _is_file_of(path, descriptor):
                return descriptor
        elif time.monotonic() > end:
            os.close(descriptor)
            raise FolderInUse(f"{path.parent} is being worked on by {_describe_holder(path)}")
        os.close(descriptor)
        time.sleep(0.05)


def _sign(descriptor: int, place: Path) -> None:
    """Writes into the lock who holds it."""
    now = datetime.now(UTC).isoformat(" ", "seconds")
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(
            descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": now}).encode(), 0
        )
    except OSError as error:
        raise StorageError(error.errno, f"cannot be written: {error.strerror}", str(place)) from error


def _try_lock(descriptor: int, mode: int) -> bool:
    """Takes the lock, or says that somebody else has it; where the file system has no locks, all have them."""
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # whoever publishes a record first wins: two drivers without locks lose time, and no result
    return True


def _is_file_of(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _describe_holder(path: Path) -> str:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

"""The lock on a results folder. The kernel releases it when its holder dies."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ablations.storage import files
from ablations.storage.files import StorageError, open_regular

PATIENCE = 1.0
"""Seconds for which locking a folder is tried again, because a status check holds the lock briefly."""


NAME = ".lock"
"""The lock file of a results folder."""


class FolderInUse(RuntimeError):
    """Another process works on the folder. The message names it."""


@contextmanager
def lock_folder(place: Path) -> Iterator[Callable[[], None]]:
    """Locks a results folder, and yields a function that raises StorageError if the folder is no longer in its place.

    Raises FolderInUse, and StorageError if the folder cannot be written.
    """
    path = place / NAME
    descriptor = _take(path)

    def check() -> None:
        if not _is_file_of(path, descriptor):
            raise StorageError(errno.ENOENT, "was renamed, removed or replaced while this command worked", str(place))

    try:
        _sign(descriptor, place)
        yield check
    finally:
        if _is_file_of(path, descriptor):  # another process may have removed the folder and made it again
            path.unlink(missing_ok=True)
        os.close(descriptor)


def find_holder(place: Path) -> str:
    """Returns who works on a results folder, `process 12 on host a since ...`, or an empty text if nobody does."""
    path = place / NAME
    try:
        descriptor = open_regular(path)
    except OSError:
        return ""
    try:
        return "" if try_lock(descriptor, fcntl.LOCK_SH) else _describe_holder(path)
    finally:
        os.close(descriptor)


def _take(path: Path) -> int:
    """Locks the file and returns its descriptor.

    If the last holder removed the file meanwhile, tries again with a new one.

    Raises FolderInUse and StorageError.
    """
    end = time.monotonic() + PATIENCE
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
        except OSError as error:
            raise StorageError(error.errno, f"cannot be written: {error.strerror}", str(path.parent)) from error
        if try_lock(descriptor, fcntl.LOCK_EX):
            if _is_file_of(path, descriptor):
                return descriptor
        elif time.monotonic() > end:
            os.close(descriptor)
            raise FolderInUse(f"{path.parent} is being worked on by {_describe_holder(path)}")
        os.close(descriptor)
        time.sleep(0.05)


def _sign(descriptor: int, place: Path) -> None:
    """Writes the holder into the lock file. Raises StorageError."""
    now = datetime.now(UTC).isoformat(" ", "seconds")
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(
            descriptor, json.dumps({"process": os.getpid(), "host": socket.gethostname(), "since": now}).encode(), 0
        )
    except OSError as error:
        raise StorageError(error.errno, f"cannot be written: {error.strerror}", str(place)) from error


def try_lock(descriptor: int, mode: int) -> bool:
    """Takes the lock and returns True, or returns False if another process holds it.

    On a file system without locks, it always returns True.
    """
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # without locks, two drivers lose time but no results: the first to publish a record wins
    return True


def _is_file_of(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:  # it is gone, or its folder is no folder any more
        return False


def is_lock(path: Path) -> bool:
    """Returns whether a file is the lock of a results folder: it is empty, or it names its holder."""
    try:
        named = path.name == NAME
        return named and (files.read(path) == b"" or _read_signature(path).keys() == {"process", "host", "since"})
    except (OSError, ValueError, AttributeError):
        return False


def _read_signature(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(files.read(path))
    return found


def _describe_holder(path: Path) -> str:
    try:
        found = _read_signature(path)
        return f"process {found['process']} on {found['host']} since {found['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"

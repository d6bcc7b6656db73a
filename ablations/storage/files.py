"""Files that are whole or not there: written aside, flushed to the disk, and only then named.

A file on its way has a name that says which process writes it, `.HOST.PID.RANDOM.tmp`: `sweep` removes those of
processes that are no more.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ABANDONED = 24 * 60 * 60
"""Seconds after which nobody can still be writing a file."""


class StorageError(OSError):
    """A file or folder that could not be written or read; its text names it and says why."""

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def write(path: Path, content: bytes) -> None:
    """Replaces a file's content, whole or not at all; leaves the file alone where nothing changes.

    Raises StorageError, as all functions here.
    """
    with _name_errors(path):
        if path.is_file() and path.read_bytes() == content:
            return
        _make_folder(path.parent)
        _rename(_write_aside(path.parent, content), path)


def rotate(path: Path, before: Path, *content: bytes) -> None:
    """Writes a file, piece after piece, and keeps what stood there as `before`, in the same folder.

    One of both is whole at any moment.
    """
    with _name_errors(path):
        _make_folder(path.parent)
        temporary = _write_aside(path.parent, *content)
        with suppress(FileNotFoundError):
            os.replace(path, before)
        _rename(temporary, path)


def create(path: Path, content: bytes) -> bool:
    """Makes a file that is not there yet. Of two writers the first wins; False for the second."""
    with _name_errors(path):
        _make_folder(path.parent)
        temporary = _write_aside(path.parent, content)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(temporary)
        _sync_folder(path.parent)
    return True


def read(path: Path) -> bytes:
    """A file's content. Raises FileNotFoundError where there is none, StorageError where it cannot be read."""
    with _name_errors(path, "read"):
        return path.read_bytes()


def move(path: Path, place: Path) -> None:
    """Moves a file out of the way."""
    with _name_errors(place):
        _make_folder(place.parent)
        os.replace(path, place)


def remove(path: Path) -> None:
    """Removes a file, if it is there."""
    with _name_errors(path, "removed"):
        path.unlink(missing_ok=True)


def probe(folder: Path) -> None:
    """Makes a folder where it is missing, and a file in it for a moment: raises StorageError where that fails."""
    with _name_errors(folder):
        _make_folder(folder)
        os.unlink(_write_aside(folder, b"can this be written?"))


def sweep(folder: Path) -> None:
    """Removes what is left half-written in a folder, at any depth: by processes of this machine that are no more, and
    by whomever for a day.
    """
    for path in folder.rglob(".*.*.*.tmp"):
        host, _, number = path.name[1:].rsplit(".", 2)[0].rpartition(".")
        with suppress(FileNotFoundError):
            dead = host == socket.gethostname() and number.isdecimal() and not is_alive(int(number))
            if dead or time.time() - path.stat().st_mtime > ABANDONED:
                remove(path)


def is_alive(process: int) -> bool:
    """Whether a process of this machine is there."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


@contextmanager
def _name_errors(path: Path, deed: str = "written") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if deed == "read" and isinstance(error, FileNotFoundError):
            raise
        raise StorageError(error.errno, f"cannot be {deed}: {error.strerror or error}", str(path)) from error


def _make_folder(folder: Path) -> None:
    """The folder and those above it, each known to the one that holds it."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _write_aside(folder: Path, *content: bytes) -> str:
    """A file in `folder` whose content has reached the disk."""
    name = f"{folder}/.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            for piece in content:
                left = memoryview(piece)
                while left:
                    left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except BaseException:
        _discard(name)
        raise
    return name


def _rename(temporary: str, path: Path) -> None:
    try:
        os.replace(temporary, path)
    except BaseException:
        _discard(temporary)
        raise
    _sync_folder(path.parent)


def _discard(name: str) -> None:
    with suppress(OSError):  # the first failure is the one to tell
        os.unlink(name)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files that are complete or absent: written under a temporary name, flushed to the disk, and then renamed.

The temporary name `.HOST.PID.RANDOM.tmp` contains the process that writes the file. `sweep` removes the temporary files
of dead processes.
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
"""Seconds after which a temporary file is abandoned, whoever wrote it."""


class StorageError(OSError):
    """A file or folder that cannot be written or read. The message names it and gives the reason."""

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def write(path: Path, content: bytes) -> None:
    """Replaces a file's content completely or not at all. Does not write if the content is the same.

    Raises StorageError, like all functions here.
    """
    with _name_errors(path):
        if path.is_file() and path.read_bytes() == content:
            return
        _make_folder(path.parent)
        _rename(_write_aside(path.parent, content), path)


def replace(path: Path, content: bytes) -> None:
    """Replaces the content of a user's file, completely or not at all.

    The file keeps its mode. If it is a link, its target is replaced.
    """
    path = path.resolve()
    with _name_errors(path):
        mode = path.stat().st_mode
        temporary = _write_aside(path.parent, content)
        try:
            os.chmod(temporary, mode)
        except OSError:
            _discard(temporary)
            raise
        _rename(temporary, path)


def rotate(path: Path, before: Path, *content: bytes) -> None:
    """Writes a file, piece after piece, and keeps the previous file as `before`, in the same folder.

    At least one of the two files is complete at any moment.
    """
    with _name_errors(path):
        _make_folder(path.parent)
        temporary = _write_aside(path.parent, *content)
        with suppress(FileNotFoundError):
            os.replace(path, before)
        _rename(temporary, path)


def create(path: Path, content: bytes) -> bool:
    """Creates a file that does not exist yet.

    If there are two writers, the first wins; returns False for the second.
    """
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
    """Reads a file's content. Raises FileNotFoundError if there is no file, StorageError if it cannot be read."""
    with _name_errors(path, "read"):
        return path.read_bytes()


def move(path: Path, place: Path) -> None:
    """Moves a file to another place."""
    with _name_errors(place):
        _make_folder(place.parent)
        os.replace(path, place)


def remove(path: Path) -> None:
    """Removes a file, if it exists."""
    with _name_errors(path, "removed"):
        path.unlink(missing_ok=True)


def probe(folder: Path) -> None:
    """Makes a folder if it is missing, and tests it with a temporary file.

    Raises StorageError if it cannot be written.
    """
    with _name_errors(folder):
        _make_folder(folder)
        os.unlink(_write_aside(folder, b"can this be written?"))


def sweep(folder: Path) -> None:
    """Removes temporary files in a folder, at any depth.

    These are the files of dead processes of this machine, and all files that are older than a day.
    """
    for path in folder.rglob(".*.*.*.tmp"):
        host, _, number = path.name[1:].rsplit(".", 2)[0].rpartition(".")
        with suppress(FileNotFoundError):
            dead = host == socket.gethostname() and number.isdecimal() and not is_alive(int(number))
            if dead or time.time() - path.stat().st_mtime > ABANDONED:
                remove(path)


def is_alive(process: int) -> bool:
    """Returns whether a process of this machine exists."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # the process belongs to another user
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
    """Makes a folder and those above it, and flushes each parent folder to the disk."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync_folder(folder.parent)


def _write_aside(folder: Path, *content: bytes) -> str:
    """Writes a temporary file in `folder`, flushes it to the disk and returns its name."""
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
    with suppress(OSError):  # the first error is the one to report
        os.unlink(name)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Files that are complete or absent: written under a temporary name, flushed to the disk, and then renamed.

The process that writes a temporary file `.HOST.PID.RANDOM.tmp` holds a lock on it until it has its name. The kernel
frees the lock of a dead process, and `sweep` removes the files that nobody holds. The number of a process would not be
enough: in another container it is another process.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ABANDONED = 24 * 60 * 60
"""Seconds after which a temporary file is abandoned, whoever wrote it."""

TEMPORARY = re.compile(r"\.(?P<host>.+)\.[0-9]+\.[0-9a-f]{8}\.tmp")
"""The names of temporary files. No other file is ever swept."""


class StorageError(OSError):
    """A file or folder that cannot be written or read. The message names it and gives the reason."""

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def write(path: Path, content: bytes) -> None:
    """Replaces a file's content completely or not at all. Does not write if the content is the same.

    Raises StorageError, like all functions here.
    """
    with _name_errors(path):
        if path.is_file() and not path.is_symlink() and path.read_bytes() == content:
            return
        _make_folder(path.parent)
        with _write_aside(path.parent, content) as temporary:
            os.replace(temporary, path)
        _sync_folder(path.parent)


def replace(path: Path, content: bytes) -> None:
    """Replaces the content of a user's file, completely or not at all.

    The file keeps its mode. If it is a link, its target is replaced.
    """
    path = path.resolve()
    with _name_errors(path):
        with _write_aside(path.parent, content) as temporary:
            os.chmod(temporary, path.stat().st_mode)
            os.replace(temporary, path)
        _sync_folder(path.parent)


def rotate(path: Path, before: Path, *content: bytes) -> None:
    """Writes a file, piece after piece, and keeps the previous file as `before`, in the same folder.

    At least one of the two files is complete at any moment.
    """
    with _name_errors(path):
        _make_folder(path.parent)
        with _write_aside(path.parent, *content) as temporary:
            with suppress(FileNotFoundError):
                os.replace(path, before)
            os.replace(temporary, path)
        _sync_folder(path.parent)


def create(path: Path, content: bytes) -> bool:
    """Creates a file that does not exist yet.

    If there are two writers, the first wins; returns False for the second.
    """
    with _name_errors(path):
        _make_folder(path.parent)
        with _write_aside(path.parent, content) as temporary:
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                os.unlink(temporary)
        _sync_folder(path.parent)
    return True


def read(path: Path) -> bytes:
    """Reads a file's content. Raises FileNotFoundError if there is no file, StorageError if it cannot be read.

    Only regular files are read: a pipe would block, and a link may lead out of the folder.
    """
    with _name_errors(path, "read"):
        descriptor = open_regular(path)
        try:
            size = os.fstat(descriptor).st_size
            content = os.read(descriptor, size + 1)
            while len(content) < size and (more := os.read(descriptor, size)):  # a read may return less
                content += more
            return content
        finally:
            os.close(descriptor)


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Opens a regular file and returns its descriptor. Raises OSError, at once, for anything else."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(error.errno, "it is a link, and links are not followed") from error
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    raise OSError(errno.EINVAL, os.strerror(errno.EISDIR) if stat.S_ISDIR(mode) else "it is no regular file")


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
    """Makes a folder if it is missing, and tests it with a temporary file and a hard link, which `create` needs.

    Raises StorageError if it cannot be written.
    """
    with _name_errors(folder):
        _make_folder(folder)
        with _write_aside(folder, b"can this be written?") as temporary:
            linked = f"{temporary.removesuffix('.tmp')[:-8]}{secrets.token_hex(4)}.tmp"
            try:
                os.link(temporary, linked)
            except OSError as error:
                if error.errno in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    raise OSError(error.errno, NO_LINKS) from error
                raise
            finally:
                os.unlink(temporary)
            os.unlink(linked)


NO_LINKS = (
    "its file system has no hard links, without which a record could be half written; choose a folder on another file "
    "system"
)


def sweep(folder: Path) -> None:
    """Removes temporary files in a folder, at any depth.

    These are the files of dead processes of this machine, and all files that are older than a day.
    """
    for place, _, names in os.walk(folder):
        for path in (Path(place, name) for name in names):
            match = TEMPORARY.fullmatch(path.name)
            if match and (_is_unheld(path, match["host"]) or _is_abandoned(path)):
                remove(path)


def _is_unheld(path: Path, host: str) -> bool:
    """Returns whether the process of this machine that wrote a temporary file is dead: nobody holds the file's lock."""
    if host != socket.gethostname():
        return False
    try:
        descriptor = open_regular(path)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # it is held, or this file system has no locks
        return False
    finally:
        os.close(descriptor)
    return True


def _is_abandoned(path: Path) -> bool:
    try:
        return time.time() - path.lstat().st_mtime > ABANDONED
    except FileNotFoundError:
        return False


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


@contextmanager
def _write_aside(folder: Path, *content: bytes) -> Iterator[str]:
    """Writes a temporary file in `folder`, flushes it to the disk and yields its name.

    The file is locked until the context ends, and removed if the context ends with an error.
    """
    name = f"{folder}/.{socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}.tmp"
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        try:
            with suppress(OSError):  # without locks, such a file is swept only when it is a day old
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for piece in content:
                left = memoryview(piece)
                while left:
                    left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
            yield name
        finally:
            os.close(descriptor)
    except BaseException:
        _discard(name)
        raise


def _discard(name: str) -> None:
    with suppress(OSError):  # the first error is the one to report
        os.unlink(name)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

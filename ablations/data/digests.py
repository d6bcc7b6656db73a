"""Checksums of data files, which are computed once and stored until a file changes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from ablations.data.images import DataError, show_progress
from ablations.storage import files
from ablations.storage.paths import cache_folder

CLOCK_STEP = 2.0
"""Seconds within which two changes of a file may have the same time: the coarsest clock of a file system."""

SHOWN_BYTES = 2**30
"""Bytes from which on the first reading of all files is shown with a progress bar."""

Stamp = tuple[list[int], str]
"""A file's stamp and its SHA-256."""


def hash_files(root: Path, paths: Sequence[Path]) -> list[str]:
    """Returns the SHA-256 of each file, in hexadecimal.

    Files that have not changed since the last call are not read again.

    A file counts as changed if its size, its inode, or the time of its last change of content or status is different.
    The checksums of all files below `root` are in one file of the cache folder. If that file is damaged or cannot be
    written, the files are hashed again. Raises DataError for a data file that cannot be read.
    """
    place = cache_folder() / "digests" / f"{hashlib.sha256(os.fsencode(root.absolute())).hexdigest()}.sha256"
    known = _read_stamps(place)
    found: dict[str, Stamp] = {}
    digests = []
    shown: Iterable[Path] = paths
    if not known and sum(_stamp(path)[0] for path in paths) > SHOWN_BYTES:
        shown = show_progress(paths, "Computing checksums", len(paths))
    for path in shown:
        name, now, stamp = str(path.absolute()), time.time_ns(), _stamp(path)
        entry = known.get(name)
        digest = entry[1] if entry and entry[0] == stamp else hash_file(path, "sha256")
        digests.append(digest)
        # a file that has just changed may change again without a new time: it is hashed again at the next call
        if now - max(stamp[1:3]) > CLOCK_STEP * 1e9:
            found[name] = stamp, digest
    if found != known:
        with suppress(files.StorageError):
            files.write(place, _checksum_of(json.dumps(found).encode("utf-8")))
    return digests


def hash_file(path: Path, kind: str) -> str:
    """Returns the `md5` or `sha256` sum of a file. Raises DataError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _stamp(path: Path) -> list[int]:
    """Returns the values that change with a file's content: size, time of content, time of status, inode."""
    try:
        state = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def _read_stamps(path: Path) -> dict[str, Stamp]:
    """Reads the entries of a file of the cache, by path. Returns none if the file is missing or damaged."""
    try:
        content = path.read_bytes()
        _, _, body = content.partition(b"\n")
        if content != _checksum_of(body):
            return {}
        return {name: (stamp, digest) for name, (stamp, digest) in json.loads(body).items()}
    except (OSError, ValueError):
        return {}


def _checksum_of(body: bytes) -> bytes:
    """Returns the text after a line with its checksum."""
    return hashlib.sha256(body).hexdigest().encode() + b"\n" + body

"""events.jsonl: what happens in a results folder, one JSON object on each line, for whoever follows a grid.

Lines are only added, and this suite never reads them back.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ablations.storage.files import StorageError, open_regular, read

NAME = "events.jsonl"

FIRST = ("time", "event", "job")
"""The first fields of every line: the time in UTC, what happened, and the id of the job."""


class Note(Protocol):
    """Adds a line."""

    def __call__(self, event: str, job: str, **beside: Any) -> None:
        """Adds a line with the time, the event, the job's id and other fields. Raises StorageError."""
        ...


@contextmanager
def open_journal(folder: Path) -> Iterator[Note]:
    """Opens the journal of a results folder and yields a function that adds a line.

    Raises StorageError if it cannot be written.
    """
    path = folder / NAME
    try:
        descriptor = open_regular(path, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    except OSError as error:
        raise _unwritable(path, error) from error

    def note(event: str, job: str, **beside: Any) -> None:
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = json.dumps(dict(zip(FIRST, (now, event, job), strict=True)) | beside, allow_nan=False)
        try:
            os.write(descriptor, f"{line}\n".encode())  # at once, so that lines of two processes do not mix
        except OSError as error:
            raise _unwritable(path, error) from error

    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":  # the machine stopped within a line
            os.write(descriptor, b"\n")
        yield note
    finally:
        os.close(descriptor)


def is_journal(path: Path) -> bool:
    """Returns whether a file is the journal of a results folder, by its name and its first line."""
    try:
        first = json.loads(read(path).split(b"\n", 1)[0] or b"{}") if path.name == NAME else {}
        return tuple(first)[: len(FIRST)] == FIRST
    except (OSError, ValueError, TypeError):
        return False


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(error.errno, f"cannot be written: {error.strerror}", str(path))

"""Files of tasks that travel between a results folder and a machine that does not see it.

A task's files are those whose names begin with its key, in any folder of the results folder: its record, the notes of
its failures, its checkpoints, its weights. On the other machine they lie in a folder of their own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from ablations.execution.engine import Task
from ablations.storage import files
from ablations.storage.records import unseal


@dataclass(frozen=True)
class Parcel:
    """The files of a task."""

    contents: Mapping[str, bytes]
    """By their paths below the results folder."""

    whole: bool = False
    """Whether the task has ended. Files of it that are not among these are to be removed then."""


def pack(folder: Path, key: str, whole: bool = False) -> Parcel:
    """Reads the files of a task."""
    contents = {}
    for path in sorted(folder.rglob(f"{key}.*")):
        try:
            contents[path.relative_to(folder).as_posix()] = files.read(path)
        except FileNotFoundError:  # replaced by a newer checkpoint just now
            continue
    return Parcel(contents, whole)


def unpack(parcel: Parcel, folder: Path, key: str) -> None:
    """Writes the files of a task. Records that were set aside come first, and whole ones only.

    Raises ValueError, before it writes anything, for a file that is not the task's or lies outside the folder, and for
    a damaged record. Raises StorageError if the folder cannot be written.
    """
    for name, content in parcel.contents.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or len(path.parts) < 2 or not path.name.startswith(f"{key}."):
            raise ValueError(f"{name} is no file of {key}")
        if path.parts[:-1] == ("records",):
            unseal(content)
    for name in sorted(parcel.contents, key=lambda name: (-name.count("/"), name)):
        files.write(folder / name, parcel.contents[name])
    if parcel.whole:
        for there in folder.rglob(f"{key}.*"):
            if there.relative_to(folder).as_posix() not in parcel.contents:
                files.remove(there)


@contextmanager
def move_out(task: Task, parcel: Parcel) -> Iterator[tuple[Task, Path]]:
    """A context with the same task for a new folder of this machine, which holds the parcel. The end removes it."""
    with tempfile.TemporaryDirectory(prefix=f"ablations-{task.key}-") as name:
        folder = Path(name)
        unpack(parcel, folder, task.key)
        arguments = tuple(folder if each == task.folder else each for each in task.arguments)
        yield replace(task, folder=folder, arguments=arguments), folder

"""Files of tasks that travel between a results folder and a machine that does not see it.

A task's files are those whose names begin with its key, in any folder of the results folder: its record, the notes of
its failures, its checkpoints, its weights. On the other machine they lie in a folder of their own.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PurePosixPath

from ablations.execution.engine import Task
from ablations.storage import files
from ablations.storage.records import unseal

Parcel = dict[str, bytes]
"""The contents of files by their paths below the results folder."""


def pack(folder: Path, key: str) -> Parcel:
    """Reads the files of a task."""
    parcel = {}
    for path in sorted(folder.rglob(f"{key}.*")):
        try:
            parcel[path.relative_to(folder).as_posix()] = files.read(path)
        except FileNotFoundError:  # replaced by a newer checkpoint just now
            continue
    return parcel


def unpack(parcel: Parcel, folder: Path, key: str) -> None:
    """Writes the files of a task. Records that were set aside come first, and whole ones only.

    Raises ValueError, before it writes anything, for a file that is not the task's or lies outside the folder, and for
    a damaged record. Raises StorageError if the folder cannot be written.
    """
    for name, content in parcel.items():
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or len(path.parts) < 2 or not path.name.startswith(f"{key}."):
            raise ValueError(f"{name} is no file of {key}")
        if path.parts[:-1] == ("records",):
            unseal(content)
    for name in sorted(parcel, key=lambda name: (-name.count("/"), name)):
        files.write(folder / name, parcel[name])


@contextmanager
def move_out(task: Task, parcel: Parcel) -> Iterator[tuple[Task, Path]]:
    """A context with the same task for a new folder of this machine, which holds the parcel. The end removes it."""
    with tempfile.TemporaryDirectory(prefix=f"ablations-{task.key}-") as name:
        folder = Path(name)
        unpack(parcel, folder, task.key)
        arguments = tuple(folder if each == task.folder else each for each in task.arguments)
        yield replace(task, folder=folder, arguments=arguments), folder

"""The files and folders that belong to a data set: one rule for all kinds of data sets in files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ablations.data.images import DataError

LEFT_BEHIND = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information"}
"""Folders that operating systems and network drives make. They are skipped, and so is each hidden entry."""

DESKTOP = {"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
"""Files that file managers make. They are skipped."""


def belongs(name: str) -> bool:
    """Returns whether an entry of this name may be part of a data set: it is not hidden, and no system made it."""
    return not name.startswith(".") and name.lower() not in LEFT_BEHIND | DESKTOP


def list_folders(place: Path) -> list[Path]:
    """Lists the folders in a folder, and links to folders, by name. Raises OSError if the folder cannot be read."""
    return sorted(each for each in place.iterdir() if belongs(each.name) and each.is_dir())


def walk_files(place: Path) -> Iterator[Path]:
    """Yields the files below a folder, by folder and name. Raises DataError for a link that leads nowhere.

    Links to folders are followed. Each folder is read once, so that a link back to a folder that contains it, or two
    links to one folder, repeat no file. Devices, pipes and sockets are no files.
    """
    seen = {_identify(each) for each in (place, *place.resolve().parents)}
    yield from _walk(place, seen)


def _walk(place: Path, seen: set[tuple[int, int]]) -> Iterator[Path]:
    for path in sorted(each for each in place.iterdir() if belongs(each.name)):
        if path.is_symlink() and not path.exists():
            raise DataError(f"{show_name(path)} cannot be read: it is a link to a file that is not there")
        if path.is_dir():
            identity = _identify(path)
            if identity not in seen:
                seen.add(identity)
                yield from _walk(path, seen)
        elif path.is_file():
            yield path


def _identify(place: Path) -> tuple[int, int]:
    state = place.stat()
    return state.st_dev, state.st_ino


@dataclass(frozen=True)
class Listing:
    """The files of a folder: those whose names end in one of the suffixes, and the others."""

    taken: tuple[Path, ...]
    others: tuple[Path, ...]


def list_files(place: Path, suffixes: Iterable[str]) -> Listing:
    """Lists the files below a folder, in the order of their paths, as `walk_files` finds them."""
    allowed, files = tuple(suffixes), sorted(walk_files(place))
    taken = tuple(path for path in files if path.suffix.lower() in allowed)
    return Listing(taken, tuple(path for path in files if path.suffix.lower() not in allowed))


def count_kinds(paths: Iterable[Path]) -> str:
    """Counts files by their suffix, for example `3 .gif, 1 without a suffix`."""
    counts = Counter(path.suffix.lower() or "without a suffix" for path in paths)
    return ", ".join(f"{count} {show_name(kind)}" for kind, count in counts.most_common())


def show_name(name: str | Path) -> str:
    r"""Returns a name as text that can be printed and stored: bytes that are not UTF-8 are written as `\xff`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")

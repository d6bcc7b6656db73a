"""The store of results: one JSON file per finished job, published once, verified on every read.

A record is a dictionary with an `id`; on disk it also carries the SHA-256 of its other fields.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

Record = dict[str, Any]


class Damaged(ValueError):
    """A file that is not the record that was published."""


def canonical(value: Any) -> bytes:
    """One JSON text per value: sorted keys, no white space, no NaN. What is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def pretty(value: Any) -> bytes:
    """The value as a file to read, keys in their own order."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def write(path: Path, content: bytes) -> None:
    """Replaces a file's content, whole or not at all; leaves the file alone where nothing changes."""
    if path.is_file() and path.read_bytes() == content:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(_flushed(path.parent, content), path)
    _sync_folder(path.parent)


def publish(folder: Path, record: Record) -> bool:
    """Makes a record permanent in `folder`/records. Of two writers the first wins; False for the second."""
    return _link(folder / "records" / f"{record['id']}.json", record)


def note_attempt(folder: Path, attempt: Record) -> None:
    """Keeps what failed in `folder`/attempts, beside earlier attempts of the same job."""
    number = 1
    while not _link(folder / "attempts" / f"{attempt['id']}-{number}.json", attempt):
        number += 1


def read(path: Path) -> Record:
    """A record as it was published. Raises Damaged for anything else."""
    try:
        record = json.loads(path.read_bytes())
        checksum = record.pop("checksum")
        if checksum != _checksum(record) or record["id"] != path.stem.partition("-")[0]:
            raise ValueError("its checksum does not match")
    except (OSError, ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    return dict(record)


def load(folder: Path) -> tuple[dict[str, Record], list[Path]]:
    """All whole records of a results folder by id, and the paths of the damaged ones."""
    return _load(folder / "records")


def load_attempts(folder: Path) -> dict[str, list[Record]]:
    """What failed, by job id, oldest first; a damaged note of a failure says nothing and is left out."""
    whole = {name: each for name, each in _load(folder / "attempts")[0].items() if name.partition("-")[2].isdecimal()}
    attempts: dict[str, list[Record]] = {}
    for name in sorted(whole, key=lambda name: int(name.partition("-")[2])):
        attempts.setdefault(whole[name]["id"], []).append(whole[name])
    return attempts


def set_aside(path: Path) -> Path:
    """Moves a damaged record out of the way, into `damaged`/ beside it; returns where it lies."""
    place = path.parent / "damaged" / path.name
    number = 0
    while place.exists():
        number += 1
        place = place.with_name(f"{path.stem}.{number}.json")
    place.parent.mkdir(exist_ok=True)
    os.replace(path, place)
    return place


def _load(folder: Path) -> tuple[dict[str, Record], list[Path]]:
    whole: dict[str, Record] = {}
    damaged = []
    for path in sorted(folder.glob("*.json")):
        try:
            whole[path.stem] = read(path)
        except Damaged:
            damaged.append(path)
    return whole, damaged


def _link(path: Path, record: Record) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _flushed(path.parent, pretty({**record, "checksum": _checksum(record)}))
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    _sync_folder(path.parent)
    return True


def _flushed(folder: Path, content: bytes) -> str:
    """A temporary file in `folder` whose content has reached the disk."""
    descriptor, name = tempfile.mkstemp(dir=folder, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        os.unlink(name)
        raise
    return name


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _checksum(record: Record) -> str:
    return hashlib.sha256(canonical(record)).hexdigest()

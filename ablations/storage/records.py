"""The store of results: one JSON file for each finished job, published once and verified on every read.

A record is a dictionary with an `id`. The end of its file contains the SHA-256 of all lines before it, so that
`head -n -2 FILE | sha256sum` verifies the file without this program.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from pydantic_core import from_json

from ablations.storage import files
from ablations.storage.schema import NOTE, RECORD, describe

Record = dict[str, Any]


PROTOCOL = 3
"""The version of the protocol, raised by hand if the same configuration would give other results than before."""

NAME, ATTEMPT = re.compile("[0-9a-f]{16}\\.json"), re.compile("[0-9a-f]{16}-([0-9]{1,9})\\.json")
"""The names of records and of notes of failures. No other file in their folders is one."""


DAMAGED, OUTDATED = "damaged", "outdated"
"""The folders within records/ for damaged records, and for whole ones that were made again."""


class Damaged(ValueError):
    """The file is not a record as it was published."""


def canonical_json(value: Any) -> bytes:
    """Writes a value as JSON that can be hashed: sorted keys, no white space, no NaN."""
    return _CANONICAL.encode(value).encode()


_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)


def identity(value: Any, protocol: int = PROTOCOL) -> str:
    """Returns sixteen hexadecimal digits that name a value and the protocol."""
    return hashlib.sha256(canonical_json({"protocol": protocol, "value": value})).hexdigest()[:16]


def pretty_json(value: Any) -> bytes:
    """Writes a value as JSON for readers, with its keys in their own order."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def seal(record: Record) -> bytes:
    """Writes a record with a checksum that reveals every change."""
    lines = pretty_json(record).removesuffix(b"\n}\n") + b",\n"
    return lines + _checksum_line(lines)


def unseal(content: bytes) -> Record:
    """Reads a record from such a file. Raises ValueError unless it is byte for byte as it was sealed."""
    length = len(_checksum_line(b""))
    if not content[-length:].startswith(b' "checksum": "'):
        raise ValueError("there is no checksum at its end: it was cut off, or changed, or made by an earlier version")
    if content[-length:] != _checksum_line(content[:-length]):
        raise ValueError("its checksum does not match")
    record: Record = _parse(content)
    del record["checksum"]
    return record


def _parse(content: bytes) -> Any:
    try:
        return from_json(content)
    except ValueError:  # half of a pair of surrogates, from the message of an error, or nothing that is JSON
        return remove_surrogates(json.loads(content))


def remove_surrogates(value: Any) -> Any:
    r"""Writes lone surrogates, which no terminal and no file takes, as text: `\ud800`."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {remove_surrogates(key): remove_surrogates(each) for key, each in value.items()}
    return [remove_surrogates(each) for each in value] if isinstance(value, list) else value


def pack_bits(bits: np.ndarray) -> str:
    """Writes booleans as hexadecimal text, four per digit. The last byte is filled up with zeros.

    >>> pack_bits(np.array([True, False, False, False, True]))
    '88'
    """
    return np.packbits(bits).tobytes().hex()


def unpack_bits(text: str, count: int) -> np.ndarray:
    """Reads the first `count` booleans of such a text, `(count,)`. Raises ValueError if the text has another length."""
    octets = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    if len(octets) != -(-count // 8):
        raise ValueError(f"{8 * len(octets)} bits are not those of {count} images")
    return np.unpackbits(octets, count=count).astype(bool)


def publish(folder: Path, record: Record) -> bool:
    """Publishes a record in `folder`/records.

    If there are two writers, the first wins; returns False for the second.
    """
    return files.create(folder / "records" / f"{record['id']}.json", seal(record))


def republish(folder: Path, record: Record) -> None:
    """Publishes a record in the place of an older one, which is kept in `outdated`/ beside it.

    One of them is in its place at any moment.
    """
    path = folder / "records" / f"{record['id']}.json"
    with suppress(FileNotFoundError):
        files.create(_find_free(path, OUTDATED), files.read(path))
    files.write(path, seal(record))


def note_attempt(folder: Path, attempt: Record) -> None:
    """Adds the note of a failure to `folder`/attempts, beside earlier notes of the same job."""
    number, attempt = 1, remove_surrogates(attempt)
    while not files.create(folder / "attempts" / f"{attempt['id']}-{number}.json", seal(attempt)):
        number += 1


def read(path: Path) -> Record:
    """Reads a record. Raises Damaged unless it is as it was published, StorageError if it cannot be read.

    Its fields must have the types that reports need, and its configuration must hash to its id.
    """
    record = _read(path)
    try:
        RECORD.validate_python(record)
    except ValidationError as error:
        raise Damaged(f"{path} is no record of this suite: {describe(error)}") from None
    if not has_own_id(record):
        raise Damaged(f"{path} is damaged: its configuration has another id")
    return record


def has_own_id(record: Record) -> bool:
    """Returns whether the configuration of a record hashes to its id, by this protocol or an earlier one."""
    value = {"kind": record["kind"], "config": record["config"]}
    if record["kind"] in ("cost", "speed"):
        value["machine"] = {key: record["environment"].get(key) for key in MACHINE}
    return any(identity(value, protocol) == record["id"] for protocol in range(PROTOCOL, 0, -1))


MACHINE = ("device", "device_name", "threads", "torch")
"""What describes the machine that measurements depend on."""


@dataclass(frozen=True)
class Found:
    """One file of `records/`."""

    path: Path
    record: Record | None
    """None if it is damaged."""


def iterate(folder: Path) -> Iterator[Found]:
    """Reads the records of a results folder one by one, so that they need not be in memory together."""
    for path in list_paths(folder):
        try:
            yield Found(path, read(path))
        except Damaged:
            yield Found(path, None)
        except FileNotFoundError:
            continue  # another process has just moved it


def list_paths(folder: Path) -> list[Path]:
    """Lists the files in `records/` that are records by their names."""
    return [path for path in _list_files(folder / "records") if NAME.fullmatch(path.name)]


def list_ignored(folder: Path) -> list[Path]:
    """Lists the files in `records/` that are none by their names, such as copies and notes of a file manager."""
    return [
        path
        for path in _list_files(folder / "records")
        if not NAME.fullmatch(path.name)
        and not files.TEMPORARY.fullmatch(path.name)
        and path.name not in (DAMAGED, OUTDATED)
    ]


def _list_files(place: Path) -> list[Path]:
    """Lists what lies in a folder. Raises StorageError if it cannot be read."""
    try:
        return sorted(place.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise files.StorageError(error.errno, f"cannot be read: {error.strerror}", str(place)) from error


def load(folder: Path) -> tuple[dict[str, Record], list[Path]]:
    """Reads a results folder: returns all intact records by id, and the paths of the damaged ones."""
    found = list(iterate(folder))
    whole = {each.record["id"]: each.record for each in found if each.record is not None}
    return whole, [each.path for each in found if each.record is None]


def read_last_attempt(folder: Path, job: str) -> Record | None:
    """Returns the newest note of a job's failures; None if there is none, or if it is damaged."""
    notes = sorted((folder / "attempts").glob(f"{job}-*.json"), key=lambda path: int(path.stem.partition("-")[2] or 0))
    with suppress(Damaged, FileNotFoundError, ValidationError):
        return NOTE.validate_python(_read(notes[-1])) if notes else None
    return None


def load_attempts(folder: Path) -> dict[str, list[Record]]:
    """Returns the notes of failures by job id, oldest first. Damaged notes are left out."""
    numbered = []
    for path in _list_files(folder / "attempts"):
        match = ATTEMPT.fullmatch(path.name)
        if match:
            with suppress(Damaged, FileNotFoundError, ValidationError):
                numbered.append((int(match[1]), NOTE.validate_python(_read(path))))
    attempts: dict[str, list[Record]] = {}
    for _, attempt in sorted(numbered, key=lambda each: each[0]):
        attempts.setdefault(attempt["id"], []).append(attempt)
    return attempts


def _read(path: Path) -> Record:
    """Reads a sealed file whose name starts with its id."""
    try:
        record = unseal(files.read(path))
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    if record.get("id") != path.stem.partition("-")[0]:
        raise Damaged(f"{path} is damaged: it is the record of {record.get('id')}")
    return record


def set_aside(path: Path, folder: str = DAMAGED) -> Path:
    """Moves a record to a folder beside it, and returns its new path. Replaces no record that is there."""
    place = _find_free(path, folder)
    files.move(path, place)
    return place


def _find_free(path: Path, folder: str) -> Path:
    """Returns a path for a record in a folder beside it where no other one is."""
    place = path.parent / folder / path.name
    number = 0
    while place.exists():
        number += 1
        place = place.with_name(f"{path.stem}.{number}.json")
    return place


def _checksum_line(lines: bytes) -> bytes:
    return f' "checksum": "{hashlib.sha256(lines).hexdigest()}"\n}}\n'.encode()

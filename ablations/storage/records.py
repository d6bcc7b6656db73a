"""The store of results: one JSON file for each finished job, published once and verified on every read.

A record is a dictionary with an `id`. The end of its file contains the SHA-256 of all lines before it, so that
`head -n -2 FILE | sha256sum` verifies the file without this program.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from ablations.storage import files

Record = dict[str, Any]


class Damaged(ValueError):
    """The file is not a record as it was published."""


def canonical_json(value: Any) -> bytes:
    """Writes a value as JSON that can be hashed: sorted keys, no white space, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


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
    record: Record = json.loads(content)
    del record["checksum"]
    return record


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


def note_attempt(folder: Path, attempt: Record) -> None:
    """Adds the note of a failure to `folder`/attempts, beside earlier notes of the same job."""
    number = 1
    while not files.create(folder / "attempts" / f"{attempt['id']}-{number}.json", seal(attempt)):
        number += 1


def read(path: Path) -> Record:
    """Reads a record. Raises Damaged unless it is as it was published, StorageError if it cannot be read."""
    try:
        record = unseal(files.read(path))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    if record.get("id") != path.stem.partition("-")[0]:
        raise Damaged(f"{path} is damaged: it is the record of {record.get('id')}")
    return record


def load(folder: Path) -> tuple[dict[str, Record], list[Path]]:
    """Reads a results folder: returns all intact records by id, and the paths of the damaged ones."""
    return _load(folder / "records")


def load_attempts(folder: Path) -> dict[str, list[Record]]:
    """Returns the notes of failures by job id, oldest first. Damaged notes are left out."""
    whole = {name: each for name, each in _load(folder / "attempts")[0].items() if name.partition("-")[2].isdecimal()}
    attempts: dict[str, list[Record]] = {}
    for name in sorted(whole, key=lambda name: int(name.partition("-")[2])):
        attempts.setdefault(whole[name]["id"], []).append(whole[name])
    return attempts


def set_aside(path: Path) -> Path:
    """Moves a damaged record to `damaged`/ beside it, and returns its new path."""
    place = path.parent / "damaged" / path.name
    number = 0
    while place.exists():
        number += 1
        place = place.with_name(f"{path.stem}.{number}.json")
    files.move(path, place)
    return place


def _load(folder: Path) -> tuple[dict[str, Record], list[Path]]:
    whole: dict[str, Record] = {}
    damaged = []
    for path in sorted(folder.glob("*.json")):
        try:
            whole[path.stem] = read(path)
        except Damaged:
            damaged.append(path)
        except FileNotFoundError:
            continue  # another process has just moved it
    return whole, damaged


def _checksum_line(lines: bytes) -> bytes:
    return f' "checksum": "{hashlib.sha256(lines).hexdigest()}"\n}}\n'.encode()

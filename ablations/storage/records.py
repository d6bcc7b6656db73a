"""The store of results: one JSON file per finished job, published once, verified on every read.

A record is a dictionary with an `id`. Its file ends in the SHA-256 of all lines before that one, so that
`head -n -2 FILE | sha256sum` verifies it without this program.
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
    """A file that is not the record that was published."""


def canonical_json(value: Any) -> bytes:
    """One JSON text per value: sorted keys, no white space, no NaN. What is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def pretty_json(value: Any) -> bytes:
    """The value as a file to read, keys in their own order."""
    return (json.dumps(value, indent=1, allow_nan=False) + "\n").encode()


def seal(record: Record) -> bytes:
    """The record as a file that tells every change of it."""
    lines = pretty_json(record).removesuffix(b"\n}\n") + b",\n"
    return lines + _checksum_line(lines)


def unseal(content: bytes) -> Record:
    """The record in such a file, byte for byte as it was sealed. Raises ValueError for anything else."""
    length = len(_checksum_line(b""))
    if not content[-length:].startswith(b' "checksum": "'):
        raise ValueError("there is no checksum at its end: it was cut off, or changed, or made by an earlier version")
    if content[-length:] != _checksum_line(content[:-length]):
        raise ValueError("its checksum does not match")
    record: Record = json.loads(content)
    del record["checksum"]
    return record


def pack_bits(bits: np.ndarray) -> str:
    """Booleans as hexadecimal text, four a digit; the last byte is filled up with zeros.

    >>> packed(np.array([True, False, False, False, True]))
    '88'
    """
    return np.packbits(bits).tobytes().hex()


def unpack_bits(text: str, count: int) -> np.ndarray:
    """The first `count` booleans of such a text, `(count,)`. Raises ValueError where it holds other than so many."""
    octets = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    if len(octets) != -(-count // 8):
        raise ValueError(f"{8 * len(octets)} bits are not those of {count} images")
    return np.unpackbits(octets, count=count).astype(bool)


def publish(folder: Path, record: Record) -> bool:
    """Makes a record permanent in `folder`/records. Of two writers the first wins; False for the second."""
    return files.create(folder / "records" / f"{record['id']}.json", seal(record))


def note_attempt(folder: Path, attempt: Record) -> None:
    """Keeps what failed in `folder`/attempts, beside earlier attempts of the same job."""
    number = 1
    while not files.create(folder / "attempts" / f"{attempt['id']}-{number}.json", seal(attempt)):
        number += 1


def read(path: Path) -> Record:
    """A record as it was published. Raises Damaged for anything else, StorageError for what cannot be read."""
    try:
        record = unseal(files.read(path))
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path} is damaged: {error}") from error
    if record.get("id") != path.stem.partition("-")[0]:
        raise Damaged(f"{path} is damaged: it is the record of {record.get('id')}")
    return record


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
            continue  # set aside by somebody else just now
    return whole, damaged


def _checksum_line(lines: bytes) -> bytes:
    return f' "checksum": "{hashlib.sha256(lines).hexdigest()}"\n}}\n'.encode()

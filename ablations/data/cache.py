"""Decoded data sets on disk, each under the checksum of its source and the version of the decoder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ablations.data.images import DataError, MemoryImages
from ablations.data.source import Parts, Source
from ablations.storage import files
from ablations.storage.paths import cache_folder


def decode_cached(source: Source) -> Parts:
    """Reads a data set from the cache. If it is not there, decodes it and writes it to the cache first.

    Raises DataError if it cannot be decoded or written.
    """
    path = cache_folder() / f"{cache_key(source)}.safetensors"
    cached = _read(path, source.checksum)
    if cached is not None:
        return cached
    parts = source.decode()
    tensors: dict[str, Tensor] = {}
    changes = json.dumps({name: part.changes for name, part in parts.items()})
    told = {"changes": changes} if any(part.changes for part in parts.values()) else {}
    for name, part in parts.items():
        tensors |= {f"{name}_images": part.load().images.contiguous(), f"{name}_labels": part.labels.contiguous()}
    try:
        files.write(path, save(tensors, metadata={**told, "digest": _hash_tensors(tensors, source.checksum, told)}))
    except files.StorageError as error:
        raise DataError(f"{error}; decoded data is kept there: set XDG_CACHE_HOME to a folder with room") from error
    return parts


def cache_key(source: Source) -> str:
    """Returns the name under which a decoded data set is stored: another decoder may give other pixels."""
    if not source.decoder:
        return source.checksum
    return hashlib.sha256(f"{source.checksum} {source.decoder}".encode()).hexdigest()


def count_once(key: str, count: Callable[[], int]) -> int:
    """Returns a count that is stored under a key in the cache folder. If it is not there, counts and stores it."""
    path = cache_folder() / "counts" / key
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        found = count()
        with suppress(files.StorageError):
            files.write(path, str(found).encode("ascii"))
        return found


def _read(path: Path, checksum: str) -> Parts | None:
    """The data set in a file of the cache; None if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            # copies, because a mapped file changes when another process writes to it
            tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
            told = file.metadata() or {}
        digest = told.pop("digest")
        if digest != _hash_tensors(tensors, checksum, told):
            return None
        changes = json.loads(told["changes"]) if told else {}
        return {
            name: MemoryImages(tensors[f"{name}_images"], tensors[f"{name}_labels"], changes.get(name, {}))
            for name in ("train", "test")
        }
    except (OSError, SafetensorError, KeyError):
        return None


def _hash_tensors(tensors: dict[str, Tensor], checksum: str, told: dict[str, str]) -> str:
    """SHA-256 of the source's checksum, what is told of the images, and each tensor: name, type, shape, values."""
    digest = hashlib.sha256(checksum.encode())
    for name in sorted(told):
        digest.update(f"{name} {told[name]}".encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()

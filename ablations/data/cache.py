"""Decoded data sets on disk, each under the checksum of its source."""

from __future__ import annotations

import hashlib
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
    path = cache_folder() / f"{source.checksum}.safetensors"
    cached = _read(path, source.checksum)
    if cached is not None:
        return cached
    parts = source.decode()
    tensors: dict[str, Tensor] = {}
    for name, part in parts.items():
        tensors |= {f"{name}_images": part.load().images.contiguous(), f"{name}_labels": part.labels.contiguous()}
    try:
        files.write(path, save(tensors, metadata={"digest": _hash_tensors(tensors, source.checksum)}))
    except files.StorageError as error:
        raise DataError(f"{error}; decoded data is kept there: set XDG_CACHE_HOME to a folder with room") from error
    return parts


def _read(path: Path, checksum: str) -> Parts | None:
    """The data set in a file of the cache; None if the file is missing or damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            # copies, because a mapped file changes when another process writes to it
            tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
            digest = (file.metadata() or {}).get("digest")
        parts: Parts = {
            name: MemoryImages(tensors[f"{name}_images"], tensors[f"{name}_labels"]) for name in ("train", "test")
        }
    except (OSError, SafetensorError, KeyError):
        return None
    return parts if digest == _hash_tensors(tensors, checksum) else None


def _hash_tensors(tensors: dict[str, Tensor], checksum: str) -> str:
    """SHA-256 of the source's checksum and of each tensor's name, type, shape and values."""
    digest = hashlib.sha256(checksum.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()

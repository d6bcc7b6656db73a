"""Decoded data sets on disk, each under the checksum of its source."""

from __future__ import annotations

import hashlib
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ablations.data.images import DataError
from ablations.data.source import Part, Parts, Source
from ablations.storage import files
from ablations.storage.paths import cache_folder


def decode_cached(source: Source) -> Parts:
    """The decoded data set, from the cache where it is there. Raises DataError where it cannot be kept."""
    path = cache_folder() / f"{source.checksum}.safetensors"
    kept = _read_cache(path, source.checksum)
    if kept is not None:
        return kept
    parts = source.decode()
    tensors = {
        f"{name}_{kind}": getattr(part, kind).contiguous()
        for name, part in parts.items()
        for kind in ("images", "labels")
    }
    try:
        files.write(path, save(tensors, metadata={"digest": _digest(tensors, source.checksum)}))
    except files.StorageError as error:
        raise DataError(f"{error}; decoded data is kept there: set XDG_CACHE_HOME to a folder with room") from error
    return parts


def _read_cache(path: Path, checksum: str) -> Parts | None:
    """What the cache holds, or None where it holds nothing or something damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            # copies: what is mapped from a file changes when somebody writes to it
            tensors = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
            digest = (file.metadata() or {}).get("digest")
        parts = {name: Part(tensors[f"{name}_images"], tensors[f"{name}_labels"]) for name in ("train", "test")}
    except (OSError, SafetensorError, KeyError):
        return None
    return parts if digest == _digest(tensors, checksum) else None


def _digest(tensors: dict[str, Tensor], checksum: str) -> str:
    digest = hashlib.sha256(checksum.encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()

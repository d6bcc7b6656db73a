"""Data sets in a folder of images for each class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablations.config import DataConfig
from ablations.data.download import file_digest
from ablations.data.images import DataError, Files, show_progress
from ablations.data.source import Part, Parts, Source, digest_with_size
from ablations.data.subsets import cut

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Files of an image folder that are images."""


READ_WHOLE = 2 * 2**30
"""Bytes of files up to which an image folder's checksum covers their content; beyond, their names and sizes."""


def imagefolder(config: DataConfig) -> Source:
    """A folder with a folder of images for each class, in `train` and in `test` (or `val`), or cut by data.test_share.

    What is larger than data.memory_limit is read as it is needed.
    """
    if not config.root:
        raise DataError(
            "data.root is missing: imagefolder needs the folder that holds train/CLASS/... and test/CLASS/..."
        )
    if not config.image_size:
        raise DataError("data.image_size is missing: an image folder's images are brought to one size, for example 224")
    root = Path(config.root)
    places, names = _class_folders(root, config)
    listed = {part: _listed(place, names) for part, place in places.items()}
    if "test" not in listed:
        listed = _cut(listed["train"], config)
    files = [path for paths, _ in listed.values() for path in paths]
    digest = _folder_digest(root, files)
    pixels = 3 * config.image_size**2 * len(files)

    def decode() -> Parts:
        parts = {
            part: Part(Files(tuple(paths), config.image_size), torch.tensor(labels))
            for part, (paths, labels) in listed.items()
        }
        if pixels > config.memory_limit * 2**20:
            return parts
        return {name: Part(_all_of(part.images, name), part.labels) for name, part in parts.items()}

    kept = pixels <= config.memory_limit * 2**20
    digest.update(f"test_share {config.test_share}".encode())
    return Source(root.resolve().name, digest_with_size(digest, config), decode, len(names), names, kept, sampled=True)


def _class_folders(root: Path, config: DataConfig) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Where the parts lie, and the classes, which all parts must have in common."""
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if (root / "train").is_dir() and test:
        places = {"train": root / "train", "test": test}
    elif root.is_dir() and config.test_share:
        places = {"train": root / "train" if (root / "train").is_dir() else root}
    else:
        raise DataError(
            f"{root} has no folders train and test (or val), each with a folder of images for every class; "
            "where there is one set alone, data.test_share = 0.2 cuts a fifth of it for the test"
        )
    names = {part: sorted(each.name for each in place.iterdir() if each.is_dir()) for part, place in places.items()}
    if names.get("test", names["train"]) != names["train"] or not names["train"]:
        odd = sorted(set(names["train"]) ^ set(names.get("test", [])))
        raise DataError(
            f"{root}: train and test must have the same folders of classes; they differ in {odd or 'nothing'}"
        )
    return places, tuple(names["train"])


def _listed(place: Path, names: Sequence[str]) -> tuple[list[Path], list[int]]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(path for path in (place / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f"{place / name} has no images; files that count end in {', '.join(SUFFIXES)}")
        paths += found
        labels += [label] * len(found)
    return paths, labels


def _cut(listed: tuple[list[Path], list[int]], config: DataConfig) -> dict[str, tuple[list[Path], list[int]]]:
    """A test set out of the only set there is."""
    paths, labels = listed
    size = round(config.test_share * len(labels))
    out = cut(torch.tensor(labels), size, 0, f"data.test_share = {config.test_share:g}").tolist()
    parts: dict[str, tuple[list[Path], list[int]]] = {"train": ([], []), "test": ([], [])}
    for is_out, path, label in zip(out, paths, labels, strict=True):
        part = parts["test" if is_out else "train"]
        part[0].append(path)
        part[1].append(label)
    return parts


def _folder_digest(root: Path, files: Sequence[Path]) -> Any:
    sizes = [_size(path) for path in files]
    whole = sum(sizes) <= READ_WHOLE
    digest = hashlib.sha256(b"imagefolder" if whole else b"imagefolder, by name and size")
    for path, size in zip(files, sizes, strict=True):
        digest.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
        if whole:
            digest.update(bytes.fromhex(file_digest(path, "sha256")))
    return digest


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _all_of(files: Tensor | Files, name: str) -> Tensor:
    if isinstance(files, Tensor):
        return files
    return torch.stack([files[index] for index in show_progress(range(len(files)), f"Reading {name}", len(files))])

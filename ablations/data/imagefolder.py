"""Data sets in image folders, with one folder for each class."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ablations.config import DataConfig
from ablations.data.digests import hash_files
from ablations.data.images import DataError, FileImages
from ablations.data.source import Parts, Source, finish_checksum
from ablations.data.subsets import cut

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Suffixes of the files that are images."""


READ_WHOLE = 2 * 2**30
"""The total bytes of files up to which the checksum of an image folder covers their content; else only names and
sizes."""


def imagefolder(config: DataConfig) -> Source:
    """A folder `train` and a folder `test` (or `val`), each with a folder of images for every class.

    Without a test set, data.test_share of the images becomes the test set. Images that need more memory than
    data.memory_limit are read from their files when they are needed. Raises DataError.
    """
    if not config.root:
        raise DataError(
            "data.root is missing: imagefolder needs the folder that holds train/CLASS/... and test/CLASS/..."
        )
    if not config.image_size:
        raise DataError("data.image_size is missing: an image folder's images are brought to one size, for example 224")
    root = Path(config.root)
    places, names = _find_parts(root, config)
    found = {part: _list_images(place, names) for part, place in places.items()}
    if "test" not in found:
        found = _cut_test_set(found["train"], config)
    files = [path for paths, _ in found.values() for path in paths]
    digest = _hash_folder(root, files)
    digest.update(f"test_share {config.test_share}".encode())
    fits = 3 * config.image_size**2 * len(files) <= config.memory_limit * 2**20

    def decode() -> Parts:
        parts: Parts = {}
        for part, (paths, labels) in found.items():
            images = FileImages(tuple(paths), torch.tensor(labels), config.image_size, config.workers)
            parts[part] = images.load(f"Reading {part}") if fits else images
        return parts

    return Source(root.resolve().name, finish_checksum(digest, config), decode, len(names), names, fits, sampled=True)


def _find_parts(root: Path, config: DataConfig) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Returns the folder of each part, and the names of the classes. Raises DataError if the parts' classes differ."""
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
    if not any(names.values()):
        raise DataError(f"{places['train']} has no folders: each class needs a folder of images, named after the class")
    odd = sorted(set(names["train"]).symmetric_difference(names.get("test", names["train"])))
    if odd:
        raise DataError(f"{root}: train and test must have the same folders of classes; they differ in {odd}")
    return places, tuple(names["train"])


def _list_images(place: Path, names: Sequence[str]) -> tuple[list[Path], list[int]]:
    """Lists the image files of a part and the numbers of their classes. Raises DataError for a class without images."""
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(path for path in (place / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f"{place / name} has no images; files that count end in {', '.join(SUFFIXES)}")
        paths += found
        labels += [label] * len(found)
    return paths, labels


def _cut_test_set(only: tuple[list[Path], list[int]], config: DataConfig) -> dict[str, tuple[list[Path], list[int]]]:
    """Divides the only set of images into training and test images."""
    paths, labels = only
    size = round(config.test_share * len(labels))
    out = cut(torch.tensor(labels), size, 0, f"data.test_share = {config.test_share:g}").tolist()
    parts: dict[str, tuple[list[Path], list[int]]] = {"train": ([], []), "test": ([], [])}
    for is_out, path, label in zip(out, paths, labels, strict=True):
        part = parts["test" if is_out else "train"]
        part[0].append(path)
        part[1].append(label)
    return parts


def _hash_folder(root: Path, files: Sequence[Path]) -> Any:
    """Returns a SHA-256 object for the names and sizes of all files, and for their content up to READ_WHOLE bytes."""
    sizes = [_read_size(path) for path in files]
    whole = sum(sizes) <= READ_WHOLE
    digest = hashlib.sha256(b"imagefolder" if whole else b"imagefolder, by name and size")
    sums = hash_files(root, files) if whole else [""] * len(files)
    for path, size, sum_ in zip(files, sizes, sums, strict=True):
        digest.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
        digest.update(bytes.fromhex(sum_))
    return digest


def _read_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error

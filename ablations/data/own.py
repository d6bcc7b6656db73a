"""Data sets of the user's own: a function that gives the images."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from typing import Any

import torch

from ablations.config import DataConfig
from ablations.data.arrays import to_images, to_labels
from ablations.data.images import DataError, MemoryImages
from ablations.data.source import Parts, Source, check_parts
from ablations.parts import find_part


def own(config: DataConfig) -> Source:
    """A data set that a function of the user's gives, `data.name = "package.module:name"`.

    The function is called with `root`, the folder `data.root`, if it has such an argument. It returns a `Source`, or a
    dictionary with `train` and `test`, each a pair of images and labels as arrays or tensors: uint8 `(N, H, W)`,
    `(N, H, W, C)` or `(N, C, H, W)` with 1 or 3 channels, and whole numbers `(N,)`. The checksum is of these bytes.
    Raises DataError for anything else.
    """
    part = find_part(config.name)
    given = part(**({"root": config.root} if "root" in inspect.signature(part).parameters else {}))
    if isinstance(given, Source):
        return given
    if not isinstance(given, Mapping) or set(given) != {"train", "test"}:
        rule = "a dictionary with train and test is needed, each a pair of images and labels, or a Source"
        keys = f" with the keys {', '.join(map(str, given))}" if isinstance(given, Mapping) else ""
        raise DataError(f"{config.name} gave a {type(given).__name__}{keys}; {rule}")
    parts: Parts = {name: _read_pair(given[name], f"{name} of {config.name}") for name in ("train", "test")}
    check_parts(parts, f"train of {config.name}", f"test of {config.name}")
    return Source(config.name.partition(":")[2], _hash(parts), lambda: parts, cached=False, published=False)


def _read_pair(pair: Any, where: str) -> MemoryImages:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise DataError(f"{where} is a {type(pair).__name__}; a pair of images and labels is needed")
    images, labels = (torch.as_tensor(each).numpy() for each in pair)
    found = MemoryImages(to_images(images, f"the images of {where}"), to_labels(labels, f"the labels of {where}"))
    if len(found.images) != len(found.labels):
        raise DataError(f"{where} has {len(found.images)} images and {len(found.labels)} labels")
    return found


def _hash(parts: Parts) -> str:
    digest = hashlib.sha256()
    for name, part in parts.items():
        images = part.load()
        digest.update(f"{name} {tuple(images.images.shape)}".encode())
        digest.update(images.images.numpy().tobytes() + images.labels.numpy().tobytes())
    return digest.hexdigest()

"""What a data set is decoded from, and what it is decoded into."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ablations.config import DataConfig
from ablations.data.images import DataError, Files


@dataclass(frozen=True)
class Part:
    """Training or test images, uint8 `(N, C, H, W)`, and their classes, int64 `(N,)`."""

    images: Tensor | Files
    labels: Tensor


Parts = dict[str, Part]
"""train and test."""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from."""

    label: str
    """Shown in captions."""

    checksum: str
    """SHA-256 of what it is decoded from, or of its published checksums."""

    decode: Callable[[], Parts]

    classes: int = 0
    """How many there are; 0: as many as the training labels tell."""

    names: tuple[str, ...] = ()
    """The names of the classes, where they have any."""

    kept: bool = True
    """Whether the decoded images are kept in the cache."""

    sampled: bool = False
    """Its statistics are taken from some of the images, whether they are in memory or not."""


def digest_with_size(digest: Any, config: DataConfig) -> str:
    """A checksum that covers the size to which images are brought."""
    if config.image_size:
        digest.update(f"resized to {config.image_size}".encode())
    return str(digest.hexdigest())


def check_parts(parts: Parts, train: str, test: str) -> Parts:
    """The parts, if train and test have the same shape and classes."""
    if parts["train"].images[0].shape != parts["test"].images[0].shape:
        raise DataError(f"the images of {train} and {test} have different shapes")
    known, tested = set(parts["train"].labels.tolist()), set(parts["test"].labels.tolist())
    if tested - known:
        raise DataError(f"{test} has labels that {train} does not have: {sorted(tested - known)[:5]}")
    gaps = sorted(set(range(max(known))) - known)
    if gaps:
        raise DataError(f"{train} has labels up to {max(known)}, but none of {gaps[:5]}: number the classes from 0 on")
    return parts

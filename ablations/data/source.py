"""Where a data set comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ablations.config import DataConfig
from ablations.data.images import DataError, ImageSource

Parts = dict[str, ImageSource]
"""The images of a data set: `train` and `test`."""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from."""

    label: str
    """Its name in captions."""

    checksum: str
    """SHA-256 of the content that it is decoded from, or of that content's published checksums."""

    decode: Callable[[], Parts]
    """Reads the images. Raises DataError."""

    classes: int = 0
    """How many classes there are; 0 means the highest training label and one."""

    names: tuple[str, ...] = ()
    """The names of the classes, where they have names."""

    cached: bool = True
    """Whether the decoded images are kept in the cache; only images in memory can be."""

    sampled: bool = False
    """Whether mean and standard deviation are measured on a sample of the images, because they may lie in files."""


def finish_checksum(digest: Any, config: DataConfig) -> str:
    """The checksum of a source whose images are resized as `config` says: another size is another data set."""
    if config.image_size:
        digest.update(f"resized to {config.image_size}".encode())
    return str(digest.hexdigest())


def check_parts(parts: Parts, train: str, test: str) -> Parts:
    """Gives the parts back, if they fit each other. Raises DataError.

    Both need images of the same shape, and the test no class that the training does not have. `train` and `test` name
    the parts in errors.
    """
    if parts["train"].shape != parts["test"].shape:
        raise DataError(f"the images of {train} and {test} have different shapes")
    known, tested = set(parts["train"].labels.tolist()), set(parts["test"].labels.tolist())
    if tested - known:
        raise DataError(f"{test} has labels that {train} does not have: {sorted(tested - known)[:5]}")
    gaps = sorted(set(range(max(known))) - known)
    if gaps:
        raise DataError(f"{train} has labels up to {max(known)}, but none of {gaps[:5]}: number the classes from 0 on")
    return parts

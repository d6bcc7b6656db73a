"""The source of a data set, from which it is decoded."""

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
    """The source of a data set."""

    label: str
    """The name of the data set in captions."""

    checksum: str
    """SHA-256 of the encoded content, or of its published checksums."""

    decode: Callable[[], Parts]
    """Reads the images. Raises DataError."""

    classes: int = 0
    """The number of classes; 0 means the highest training label plus one."""

    names: tuple[str, ...] = ()
    """The names of the classes, if they have names."""

    cached: bool = True
    """Whether the decoded images are stored in the cache, which is possible only for images in memory."""

    sampled: bool = False
    """Whether mean and standard deviation are measured on a sample of the images, because the images may lie in
    files."""


def finish_checksum(digest: Any, config: DataConfig) -> str:
    """Returns the checksum of a source. It includes `config.image_size`: another size is another data set."""
    if config.image_size:
        digest.update(f"resized to {config.image_size}".encode())
    return str(digest.hexdigest())


def check_parts(parts: Parts, train: str, test: str) -> Parts:
    """Returns the parts if they fit each other, else raises DataError.

    Both must have images of the same shape, and the test must have no class that the training does not have. `train`
    and `test` name the parts in errors.
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

"""The source of a data set, from which it is decoded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ablations.config import DataConfig
from ablations.data.images import DataError, ImageSource

Parts = dict[str, ImageSource]
"""The images of a data set: `train` and `test`."""

TEST_NAMES = ("test", "validation", "valid", "val")
"""The names of the set that is tested on, the best first: where there is no test set, a validation set is taken."""


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

    notes: tuple[str, ...] = ()
    """What a reader should know of how the files were understood, for example which files are left out."""

    decoder: str = ""
    """What decides on the pixels beside the content of the files, as `decoder_version` says; empty: nothing does."""

    cached: bool = True
    """Whether the decoded images are stored in the cache, which is possible only for images in memory."""

    own: bool = False
    """Whether it is not a published data set: then the test images that are training images, too, are counted."""

    sampled: bool = False
    """Whether mean and standard deviation are measured on a sample of the images, because the images may lie in
    files."""


def finish_checksum(digest: Any, config: DataConfig) -> str:
    """Returns the checksum of a source. It includes `config.image_size`: another size is another data set."""
    if config.image_size:
        digest.update(f"resized to {config.image_size}".encode())
    return str(digest.hexdigest())


def check_parts(parts: Parts, train: str, test: str, classes: int = 0) -> Parts:
    """Returns the parts if they fit each other, else raises DataError.

    Both must have images of the same shape, and labels that are whole numbers from 0. The training must have at least
    two classes, and the test none that the training does not have. If the number of classes is not known, no number may
    be left out. `train` and `test` name the parts in errors.
    """
    for part, name in (("train", train), ("test", test)):
        labels = parts[part].labels
        if not len(labels):
            raise DataError(f"{name} has no images")
        if labels.dtype != torch.int64 or labels.dim() != 1:
            raise DataError(f"{name} has labels of the type {labels.dtype}; one whole number for each image is needed")
    if parts["train"].shape != parts["test"].shape:
        shapes = " and ".join(str(parts[part].shape) for part in ("train", "test"))
        rule = "data.image_size brings all images of a table to one size"
        raise DataError(f"the images of {train} and {test} have different shapes, {shapes}; {rule}")
    known, tested = (set(parts[part].labels.unique().tolist()) for part in ("train", "test"))
    if tested - known:
        raise DataError(f"{test} has labels that {train} does not have: {sorted(tested - known)[:5]}")
    if len(known) < 2:
        raise DataError(f"{train} has one class alone, with the label {min(known)}: nothing can be learnt from it")
    if classes and max(known) >= classes:
        raise DataError(f"{train} has the label {max(known)}, but only {classes} classes, numbered from 0, have names")
    gaps = sorted(set(range(max(known))) - known)
    if gaps and not classes:
        raise DataError(f"{train} has labels up to {max(known)}, but none of {gaps[:5]}: number the classes from 0 on")
    return parts


def tell_choice(taken: str, found: Sequence[str], config: DataConfig) -> tuple[str, ...]:
    """Returns notes on the set that is tested on: that it is a validation set, and which found sets are not used."""
    notes = [] if taken.lower() == "test" else [f"there is no test set, so {taken} is what is tested on"]
    unused = [name for name in found if name != taken]
    if unused:
        notes.append(f"not used: {' and '.join(unused)} (data.validation cuts images to choose on from train)")
    if config.test_share:
        notes.append(f"data.test_share = {config.test_share:g} is not used, because there is a set to test on: {taken}")
    return tuple(notes)

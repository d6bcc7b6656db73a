"""Data sets as a run uses them: loaded from the cache or decoded, split, with mean and standard deviation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablations.config import DataConfig
from ablations.data.cache import cache_key, count_once, decode_cached
from ablations.data.images import DataError, FileImages, ImageSource
from ablations.data.registry import DATASETS
from ablations.data.source import Parts, Source
from ablations.data.subsets import balanced_subset, cut
from densenet.options import lookup

STATISTICS_OF = 10_000
"""The number of images of an image folder on which mean and standard deviation are measured."""


@dataclass(frozen=True)
class DatasetInfo:
    """The properties of a data set that a grid needs, without its images."""

    label: str
    checksum: str
    train_images: int
    validation_images: int
    test_images: int
    num_classes: int
    channels: int
    image_size: tuple[int, int]
    """Height and width, in pixels."""

    notes: tuple[str, ...] = ()
    """What a reader should know of how the files were understood."""


@dataclass(frozen=True)
class Dataset:
    """Images for training, validation and test, with their description.

    `mean` and `std` are those of the training images, float32 `(1, C, 1, 1)`.
    """

    label: str
    checksum: str
    train: ImageSource
    validation: ImageSource | None
    test: ImageSource
    num_classes: int
    names: tuple[str, ...]
    mean: Tensor
    std: Tensor
    notes: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """Channels of the images: 1 for grey, 3 for colour."""
        return self.train.shape[0]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.train.shape[1:]

    @property
    def info(self) -> DatasetInfo:
        """The description of the data set, without its images."""
        validation = len(self.validation) if self.validation else 0
        counts = (len(self.train), validation, len(self.test))
        size, notes = self.image_size, self.notes
        return DatasetInfo(self.label, self.checksum, *counts, self.num_classes, self.channels, size, notes)

    def normalise(self, images: Tensor) -> Tensor:
        """Standardises each channel by the training set, uint8 `(N, C, H, W)` -> float32 `(N, C, H, W)`."""
        return images.to(torch.float, copy=True).sub_(self.mean).div_(self.std)

    def to(self, device: torch.device) -> Dataset:
        """Returns the same data set on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("train", "test", "mean", "std")}
        return replace(self, validation=self.validation and self.validation.to(device), **moved)

    def described(self) -> dict[str, Any]:
        """Returns label, classes, images per class, mean, standard deviation and notes, as a record holds them."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        counts = {name: count_classes(part.labels, self.num_classes) for name, part in parts.items() if part}
        return {
            "label": self.label,
            "classes": list(self.names) or self.num_classes,
            "images_per_class": counts,
            "mean": [round(value, 4) for value in self.mean.flatten().tolist()],
            "std": [round(value, 4) for value in self.std.flatten().tolist()],
            **({"notes": list(self.notes)} if self.notes else {}),
        }


def load(config: DataConfig) -> Dataset:
    """Loads the data set that a configuration names, from the cache if possible.

    Raises DataError for data that is missing or damaged, ValueError for an unknown name. For example:

        data = load(DataConfig(name="digits", validation=0.1))
        images = data.normalise(next(data.train.batches([torch.arange(64)])))
    """
    try:
        root = str(Path(config.root).expanduser()) if config.root else ""
    except RuntimeError as error:  # the home folder of an unknown user
        raise DataError(f"data.root = {config.root}: {error}") from None
    config = config.model_copy(update={"root": root})
    try:
        source = lookup("data set", config.name, DATASETS)(config)
        parts = decode_cached(source) if source.cached else source.decode()
    except OSError as error:
        raise DataError(f"{error.filename or config.root or config.name} cannot be read: {error.strerror}") from error
    classes = _check_labels(parts, source)
    train, validation = _split(parts["train"], config, source.label)
    sample = train
    if source.sampled:
        sample = train.subset(balanced_subset(train.labels, min(STATISTICS_OF, len(train)), seed=0))
    mean, std = measure_channels(sample.load().images)
    checksum, names, notes = _add_changes(source.checksum, parts), source.names, _list_notes(source, parts)
    return Dataset(source.label, checksum, train, validation, parts["test"], classes, names, mean, std, notes)


def _check_labels(parts: Parts, source: Source) -> int:
    """Returns the number of classes. Raises DataError for labels that are no whole numbers, or of one class alone."""
    for name, part in parts.items():
        if part.labels.dtype != torch.int64 or part.labels.shape != (len(part),):
            kind = f"{part.labels.dtype} {tuple(part.labels.shape)}"
            raise DataError(f"{source.label}: the labels of {name} are {kind}; int64 ({len(part)},) is needed")
    classes = source.classes or int(parts["train"].labels.max()) + 1
    if classes < 2:
        raise DataError(f"{source.label} has one class alone: nothing can be learnt from it")
    return classes


def _add_changes(checksum: str, parts: Parts) -> str:
    """Returns the checksum of the images as they were decoded: another one if decoding changed any of them."""
    changes = {name: part.changes for name, part in sorted(parts.items()) if part.changes}
    return hashlib.sha256(f"{checksum} {json.dumps(changes)}".encode()).hexdigest() if changes else checksum


def _list_notes(source: Source, parts: Parts) -> tuple[str, ...]:
    """Lists the notes of a source, those on what was changed in its images, and one on images of both sets."""
    changed = [
        f"{count:,} of {len(part):,} images of {name}: {what}"
        for name, part in parts.items()
        for what, count in part.changes.items()
    ]
    shared = []
    if source.own and (count := count_once(f"{cache_key(source)}-shared", lambda: count_shared(parts))):
        rule = "a network may know them by heart, so the test accuracy says little about new images"
        shared = [f"{count:,} of {len(parts['test']):,} test images are training images, too: {rule}"]
    return tuple(f"{source.label}: {note}" for note in (*source.notes, *changed, *shared))


def count_shared(parts: Parts) -> int:
    """Counts the test images that are training images, too: with equal files, or in memory with equal pixels."""
    known = set(_hash_images(parts["train"]))
    return sum(each in known for each in _hash_images(parts["test"]))


def _hash_images(part: ImageSource) -> Iterator[bytes]:
    """Yields a checksum of each image, of its file if it is not in memory."""
    rows = part.sums if isinstance(part, FileImages) else part.load().images.numpy()
    yield from (hashlib.sha256(row.tobytes()).digest() for row in rows)


def _split(train: ImageSource, config: DataConfig, label: str) -> tuple[ImageSource, ImageSource | None]:
    """Moves validation images out of the training images, and then limits the rest to data.train_limit.

    Raises DataError if there are too few images.
    """
    validation = None
    if config.validation:
        share = config.validation < 1
        count = round(config.validation * len(train)) if share else int(config.validation)
        out = cut(train.labels, count, config.subset_seed, f"data.validation = {config.validation:g}")
        validation, train = train.subset(out.nonzero().flatten()), train.subset((~out).nonzero().flatten())
    if config.train_limit > len(train):
        left = " left" if config.validation else ""
        raise DataError(f"data.train_limit = {config.train_limit}: {label} has {len(train)} training images{left}")
    there = len(train.labels.unique())
    if 0 < config.train_limit < there:
        rule = f"{label} has {there} classes, and some of every class must remain"
        raise DataError(f"data.train_limit = {config.train_limit}: {rule}; give {there} images or more")
    if config.train_limit:
        train = train.subset(balanced_subset(train.labels, config.train_limit, config.subset_seed))
    return train, validation


def count_classes(labels: Tensor, classes: int) -> list[int]:
    """Counts the images of each class. `labels` is int64 `(N,)`."""
    return [int(count) for count in labels.bincount(minlength=classes)]


def measure_channels(images: Tensor) -> tuple[Tensor, Tensor]:
    """Returns mean and standard deviation of each channel, uint8 `(N, C, H, W)` -> float32 `(1, C, 1, 1)` twice.

    Sums are exact. A channel with a single value gets the deviation 1.
    """
    channels = images.shape[1]
    counts = torch.stack([images[:, channel].flatten().bincount(minlength=256) for channel in range(channels)]).double()
    values = torch.arange(256, dtype=torch.double)
    pixels = images.numel() / channels
    mean = counts @ values / pixels
    variance = counts @ values**2 / pixels - mean * mean
    std = variance.clamp_min(0).sqrt()
    std = torch.where(std > 0, std, torch.ones_like(std))
    return mean.float().view(1, -1, 1, 1), std.float().view(1, -1, 1, 1)

"""Data sets as a run uses them: loaded from the cache or decoded, split, with mean and standard deviation."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ablations.config import DataConfig
from ablations.data.cache import cache_key, count_once, decode_cached
from ablations.data.images import DataError, FileImages, ImageSource
from ablations.data.own import own
from ablations.data.registry import DATASETS
from ablations.data.source import Parts, Source
from ablations.data.subsets import balanced_subset, cut, stratified_subset
from ablations.parts import is_own
from densenet.options import lookup, suggest_colon

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
        find = own if is_own(config.name) else lookup("data set", config.name, DATASETS, suggest_colon(config.name))
        source = find(config)
        parts = decode_cached(source) if source.cached else source.decode()
    except OSError as error:
        raise DataError(
            f"{error.filename or config.root or config.name} cannot be read: {error.strerror or error}"
        ) from error
    classes = _check_labels(parts, source)
    train, validation = _split(parts["train"], config, source.label)
    sample = train
    if source.sampled:
        sample = train.subset(balanced_subset(train.labels, min(STATISTICS_OF, len(train)), seed=0))
    mean, std = measure_channels(sample.load().images)
    checksum, names, notes = _add_changes(source.checksum, parts), source.names, _list_notes(source, parts)
    test = _limit_test(parts["test"], config, source.label)
    return Dataset(source.label, checksum, train, validation, test, classes, names, mean, std, notes)


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
    """Lists the notes of a source, and those on what was changed in its images."""
    changed = [
        f"{count:,} of {len(part):,} images of {name}: {what}"
        for name, part in parts.items()
        for what, count in part.changes.items()
    ]
    twins = [] if source.published else _tell_twins(source, parts)
    return tuple(f"{source.label}: {note}" for note in (*source.notes, *changed, *twins))


def _tell_twins(source: Source, parts: Parts) -> list[str]:
    """Returns notes on images of the test that were trained on, and on equal images of different classes."""
    key, train, test = cache_key(source), parts["train"], parts["test"]
    shared = count_once(f"{key}-shared", lambda: _count_shared(_identify(train), _identify(test)))
    torn = count_once(f"{key}-torn", lambda: _count_torn(_identify(train), train.labels.tolist()))
    notes = [f"{shared:,} of {len(test):,} images of test are images of train, too"] if shared else []
    return notes + ([f"{torn:,} of {len(train):,} images of train are in two classes or more"] if torn else [])


def _identify(images: ImageSource) -> list[bytes]:
    """Returns a hash of the content of each image."""
    if isinstance(images, FileImages):
        return [sum_.tobytes() for sum_ in images.sums]
    return [hashlib.sha256(image.numpy().tobytes()).digest() for image in images.load().images]


def _count_shared(train: Sequence[bytes], test: Sequence[bytes]) -> int:
    known = set(train)
    return sum(each in known for each in test)


def _count_torn(images: Sequence[bytes], labels: Sequence[int]) -> int:
    """Counts the images that are equal to one of another class."""
    classes: dict[bytes, set[int]] = {}
    for image, label in zip(images, labels, strict=True):
        classes.setdefault(image, set()).add(label)
    return sum(len(classes[image]) > 1 for image in images)


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


def _limit_test(test: ImageSource, config: DataConfig, label: str) -> ImageSource:
    """Returns data.test_limit of the test images, with the same share of each class. Raises DataError."""
    if config.test_limit > len(test):
        raise DataError(f"data.test_limit = {config.test_limit}: {label} has {len(test)} test images")
    return test.subset(stratified_subset(test.labels, config.test_limit, seed=0)) if config.test_limit else test


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

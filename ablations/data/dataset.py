"""Data sets as a run uses them: decoded once and cached, split, and counted per class.

What fits into memory is one uint8 tensor, kept in a cache under the checksum of its source; what does not is read from
its files as it is needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ablations import signals
from ablations.config import DataConfig
from ablations.data.cache import decode_cached
from ablations.data.images import DataError, Files
from ablations.data.registry import DATASETS
from ablations.data.subsets import balanced_subset, cut
from densenet.options import lookup

STATISTICS_OF = 10_000
"""Images of a folder that the normalisation statistics are taken from, for it may be read as needed."""


@dataclass(frozen=True)
class Images:
    """Images and their classes, in memory or in files."""

    images: Tensor | Files
    """uint8 `(N, C, H, W)`."""

    labels: Tensor
    """int64 `(N,)`."""

    chosen: Tensor | None = None
    """Which of the files these are; None for all of them, and for images in memory."""

    workers: int = 0
    """Processes that read the files."""

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> Images:
        """The images of these indices."""
        if isinstance(self.images, Tensor):
            return replace(self, images=self.images[indices], labels=self.labels[indices])
        chosen = indices if self.chosen is None else self.chosen[indices]
        return replace(self, labels=self.labels[indices], chosen=chosen)

    def batches(self, indices: Sequence[Tensor]) -> Iterator[Tensor]:
        """uint8 `(n, C, H, W)` for each tensor of n indices, on the device of the labels."""
        if isinstance(self.images, Tensor):
            for batch in indices:
                yield self.images.index_select(0, batch)  # copies whole images: nine times as fast as [batch] on a CPU
            return
        places = [(batch if self.chosen is None else self.chosen[batch.cpu()]).tolist() for batch in indices]
        pinned = self.labels.is_cuda
        loader: DataLoader[Tensor] = DataLoader(
            self.images,
            batch_sampler=places,
            num_workers=self.workers,
            multiprocessing_context="fork" if self.workers else None,  # any other imports torch for each of them
            worker_init_fn=_deaf,
            pin_memory=pinned,
            generator=torch.Generator(),  # of its own: the common one is for dropout
        )
        try:
            for images in loader:
                yield images.to(self.labels.device, non_blocking=True)
        except DataError as error:  # a reader's, with its whole traceback
            raise DataError(str(error).strip().splitlines()[-1].rpartition("DataError: ")[2]) from None

    def to(self, device: torch.device) -> Images:
        """The same on another device; files stay where they are."""
        images = self.images.to(device) if isinstance(self.images, Tensor) else self.images
        return replace(self, images=images, labels=self.labels.to(device))

    def per_class(self, classes: int) -> list[int]:
        """How many images each class has."""
        return [int(count) for count in self.labels.bincount(minlength=classes)]


def _deaf(reader: int) -> None:
    """Loader workers ignore stop signals: the training ends them."""
    signals.ignore()


@dataclass(frozen=True)
class DatasetInfo:
    """What a grid needs to know of a data set, without its images."""

    label: str
    checksum: str
    train_images: int
    validation_images: int
    test_images: int
    num_classes: int
    channels: int
    image_size: tuple[int, int]
    """Height and width, in pixels."""


@dataclass(frozen=True)
class Dataset:
    """A data set; normalisation statistics are those of the training images."""

    label: str
    checksum: str
    train: Images
    validation: Images | None
    test: Images
    num_classes: int
    names: tuple[str, ...]
    mean: Tensor
    std: Tensor

    @property
    def channels(self) -> int:
        """C of the images."""
        return 3 if isinstance(self.train.images, Files) else self.train.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        if isinstance(self.train.images, Files):
            return self.train.images.size, self.train.images.size
        return self.train.images.shape[2], self.train.images.shape[3]

    @property
    def info(self) -> DatasetInfo:
        """The data set without its images."""
        validation = len(self.validation) if self.validation else 0
        counts = (len(self.train), validation, len(self.test))
        return DatasetInfo(self.label, self.checksum, *counts, self.num_classes, self.channels, self.image_size)

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 `(N, C, H, W)` -> float32 `(N, C, H, W)`, standardised per channel of the training set."""
        return images.to(torch.float, copy=True).sub_(self.mean).div_(self.std)

    def to(self, device: torch.device) -> Dataset:
        """The same data set on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("train", "test", "mean", "std")}
        return replace(self, validation=self.validation and self.validation.to(device), **moved)

    def described(self) -> dict[str, Any]:
        """What was trained, chosen and tested on, as it stands in a record."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "label": self.label,
            "classes": list(self.names) or self.num_classes,
            "images_per_class": {name: each.per_class(self.num_classes) for name, each in parts.items() if each},
            "mean": [round(value, 4) for value in self.mean.flatten().tolist()],
            "std": [round(value, 4) for value in self.std.flatten().tolist()],
        }


def load(config: DataConfig) -> Dataset:
    """The data set that a configuration names, from the cache where it is there.

    Raises DataError for data that is missing or damaged, ValueError for an unknown name.
    """
    try:
        root = str(Path(config.root).expanduser()) if config.root else ""
    except RuntimeError as error:  # there is no such user
        raise DataError(f"data.root = {config.root}: {error}") from None
    config = config.model_copy(update={"root": root})
    try:
        source = lookup("data set", config.name, DATASETS)(config)
        parts = decode_cached(source) if source.kept else source.decode()
    except OSError as error:
        raise DataError(f"{error.filename or config.root or config.name} cannot be read: {error.strerror}") from error
    train, test = (Images(part.images, part.labels, workers=config.workers) for part in (parts["train"], parts["test"]))
    train, validation = _split(train, config, source.label)
    mean, std = _statistics(train, source.sampled)
    classes = source.classes or int(parts["train"].labels.max()) + 1
    return Dataset(source.label, source.checksum, train, validation, test, classes, source.names, mean, std)


def _split(train: Images, config: DataConfig, label: str) -> tuple[Images, Images | None]:
    """The training images without those to choose on, and no more than the limit."""
    validation = None
    if config.validation:
        share = config.validation < 1
        count = round(config.validation * len(train)) if share else int(config.validation)
        out = cut(train.labels, count, config.subset_seed, f"data.validation = {config.validation:g}")
        validation, train = train.subset(out.nonzero().flatten()), train.subset((~out).nonzero().flatten())
    if config.train_limit > len(train):
        left = " left" if config.validation else ""
        raise DataError(f"data.train_limit = {config.train_limit}: {label} has {len(train)} training images{left}")
    if config.train_limit:
        train = train.subset(balanced_subset(train.labels, config.train_limit, config.subset_seed))
    return train, validation


def _statistics(train: Images, sampled: bool) -> tuple[Tensor, Tensor]:
    if isinstance(train.images, Tensor) and not sampled:
        return channel_statistics(train.images)
    some = balanced_subset(train.labels, min(STATISTICS_OF, len(train)), seed=0)
    return channel_statistics(torch.cat(list(replace(train, workers=0).batches(some.split(100)))))


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, `(N, C, H, W) -> (1, C, 1, 1)` twice; exact integer sums."""
    channels = images.shape[1]
    counts = torch.stack([images[:, channel].flatten().bincount(minlength=256) for channel in range(channels)]).double()
    values = torch.arange(256, dtype=torch.double)
    pixels = images.numel() / channels
    mean = counts @ values / pixels
    variance = counts @ values**2 / pixels - mean * mean
    std = variance.clamp_min(0).sqrt()
    std = torch.where(std > 0, std, torch.ones_like(std))
    return mean.float().view(1, -1, 1, 1), std.float().view(1, -1, 1, 1)

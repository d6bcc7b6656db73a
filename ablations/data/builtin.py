"""Data sets that need no file: scikit-learn's digits, and noise."""

from __future__ import annotations

import hashlib
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from ablations.config import DataConfig
from ablations.data.images import DataError, MemoryImages
from ablations.data.source import Parts, Source
from ablations.data.subsets import balanced_subset


def digits(config: DataConfig) -> Source:
    """scikit-learn's handwritten digits, which are part of its package: 1,797 grey images of 8 x 8, values 0 to 16.

    360 of them, 36 of each class, are the test set. The split is always the same. Raises DataError if data.root is set.
    Origin: UCI, "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), its test part.
    """
    if config.root:
        raise DataError(
            f"data.root = {config.root!r}: digits comes with scikit-learn and is read from nowhere else; leave it out"
        )
    pixels, labels = read_digits()
    images = torch.from_numpy(pixels.astype(np.uint8)).view(-1, 1, 8, 8)
    targets = torch.from_numpy(labels.astype(np.int64))

    def decode() -> Parts:
        test = torch.zeros(len(targets), dtype=torch.bool)
        test[balanced_subset(targets, 360, seed=0)] = True
        return {
            "train": MemoryImages(images[~test], targets[~test]),
            "test": MemoryImages(images[test], targets[test]),
        }

    return Source("digits", hashlib.sha256(b"digits" + pixels.tobytes() + labels.tobytes()).hexdigest(), decode)


def read_digits() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Reads the pixels, `(1797, 64)`, and the labels, `(1797,)`, as `sklearn.datasets.load_digits` does.

    It only finds scikit-learn's folder: to import scikit-learn takes longer than all else before a training. Raises
    DataError if scikit-learn is not installed, or has no such file.
    """
    spec = find_spec("sklearn")
    path = Path(spec.origin if spec and spec.origin else "").parent / "datasets" / "data" / "digits.csv.gz"
    try:
        table = np.loadtxt(path, delimiter=",")
    except OSError as error:
        raise DataError(f"digits comes with scikit-learn, and cannot be read: {error}") from error
    return table[:, :-1], table[:, -1].astype(np.int64)


def random(config: DataConfig) -> Source:
    """Noise of a given shape, to plan and time networks. Raises DataError for a missing field or too much memory."""
    if not (len(config.shape) == 3 and config.classes and config.size):
        raise DataError(
            "random needs data.shape, data.classes and data.size, for example "
            "data.shape = [3, 224, 224], data.classes = 1000, data.size = 64"
        )

    if 2 * config.size * math.prod(config.shape) > config.memory_limit * 2**20:
        raise DataError(
            f"random images of this shape and size take more than data.memory_limit = {config.memory_limit} MiB"
        )

    def draw(seed: int) -> MemoryImages:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(256, (config.size, *config.shape), generator=generator, dtype=torch.uint8)
        return MemoryImages(images, torch.randint(config.classes, (config.size,), generator=generator))

    label = f"random {' x '.join(map(str, config.shape))}"
    fields = f"{label}, {config.classes} classes, {config.size} images"
    checksum = hashlib.sha256(fields.encode()).hexdigest()
    return Source(label, checksum, lambda: {"train": draw(0), "test": draw(1)}, classes=config.classes, cached=False)

"""Subsets of images: with equally many images of each class, or with the same share of each class."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ablations.data.images import DataError, MemoryImages
from ablations.data.source import Parts


def balanced_subset(labels: Tensor, size: int, seed: int) -> Tensor:
    """Returns the sorted indices of `size` images, `(size,)`, with equally many images of each class.

    The counts of two classes differ by at most one, unless a class has no more images. `labels` is int64 `(N,)`.
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    shuffled = labels.numpy()[order]
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(shuffled):
        (places,) = np.nonzero(shuffled == label)
        rank[places] = np.arange(len(places))
    chosen = order[np.lexsort((shuffled, rank))[:size]]
    return torch.from_numpy(np.sort(chosen))


def stratified_subset(labels: Tensor, size: int, seed: int) -> Tensor:
    """Returns the sorted indices of `size` images, `(size,)`, with equal shares of all classes, to within one image.

    `labels` is int64 `(N,)`.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels.numpy()[order]
    place = np.empty(len(labels))
    for label in np.unique(shuffled):
        (places,) = np.nonzero(shuffled == label)
        place[places] = (np.arange(len(places)) + 0.5) / len(places)
    chosen = order[np.lexsort((shuffled, place))[:size]]
    return torch.from_numpy(np.sort(chosen))


def cut(labels: Tensor, size: int, seed: int, what: str) -> Tensor:
    """Returns a mask, bool `(N,)`: True for the `size` images that are cut off, with the same share of each class.

    Raises DataError, which begins with `what`, if no image is cut off or a class would keep no images.
    """
    out = torch.zeros(len(labels), dtype=torch.bool)
    out[stratified_subset(labels, size, seed)] = True
    emptied = sorted(set(labels.tolist()) - set(labels[~out].tolist()))
    if not 0 < size < len(labels) or emptied:
        left = f", and classes {emptied[:5]} would have none left to train on" if emptied else ""
        raise DataError(f"{what}: that is {size:,} of {len(labels):,} images{left}; some of every class must remain")
    return out


def cut_test_set(only: MemoryImages, share: float) -> Parts:
    """Divides the only set of images: this share of each class becomes the test set, always the same images.

    Raises DataError if there are too few images.
    """
    out = cut(only.labels, round(share * len(only)), 0, f"data.test_share = {share:g}")
    train = only.subset((~out).nonzero().flatten())
    return {"train": replace(train, changes=only.changes), "test": only.subset(out.nonzero().flatten())}

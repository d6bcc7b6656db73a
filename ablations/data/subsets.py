"""Choosing subsets: as many images of every class, or of each class its share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ablations.data.images import DataError


def balanced_subset(labels: Tensor, size: int, seed: int) -> Tensor:
    """Indices of `size` images, `(size,)` and sorted, with as many of every class as of any other.

    Counts of two classes differ by at most one, unless a class has no more images. `labels` is int64 `(N,)`.
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
    """Indices of `size` images, `(size,)` and sorted, of each class its share of all images to within one image.

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
    """A mask, bool `(N,)`: True for the `size` images that are cut off, of each class its share.

    Raises DataError, which begins with `what`, where no image is cut off or a class would keep none.
    """
    out = torch.zeros(len(labels), dtype=torch.bool)
    out[stratified_subset(labels, size, seed)] = True
    emptied = sorted(set(labels.tolist()) - set(labels[~out].tolist()))
    if not 0 < size < len(labels) or emptied:
        left = f", and classes {emptied[:5]} would have none left to train on" if emptied else ""
        raise DataError(f"{what}: that is {size:,} of {len(labels):,} images{left}; some of every class must remain")
    return out

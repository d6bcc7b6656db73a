"""Which images a subset takes: balanced over the classes, or of each class its share."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ablations.data.images import DataError


def balanced_subset(labels: Tensor, size: int, seed: int) -> Tensor:
    """Indices of `size` images, class by class in turn, so that classes differ by at most one while they last."""
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
    """Indices of `size` images, of each class its share of all to within one image."""
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels.numpy()[order]
    place = np.empty(len(labels))
    for label in np.unique(shuffled):
        (places,) = np.nonzero(shuffled == label)
        place[places] = (np.arange(len(places)) + 0.5) / len(places)
    chosen = order[np.lexsort((shuffled, place))[:size]]
    return torch.from_numpy(np.sort(chosen))


def cut(labels: Tensor, size: int, seed: int, what: str) -> Tensor:
    """True for the images that are cut off, `(N,)`. Raises DataError where a class would be left without any."""
    out = torch.zeros(len(labels), dtype=torch.bool)
    out[stratified_subset(labels, size, seed)] = True
    emptied = sorted(set(labels.tolist()) - set(labels[~out].tolist()))
    if not 0 < size < len(labels) or emptied:
        left = f", and classes {emptied[:5]} would have none left to train on" if emptied else ""
        raise DataError(f"{what}: that is {size:,} of {len(labels):,} images{left}; some of every class must remain")
    return out

"""Augmentation in batches, on the device; an image's variation depends on seed, epoch and index alone.

There is no random state: number j of image i is a hash of the seed, the epoch, i and j. So neither batch size, device,
order nor an interruption changes it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ablations.config import DataConfig
from ablations.data.dataset import Dataset

SHIFT = 4
"""Pixels by which the paper shifts at most (Huang et al. 2017, section 4.1)."""

BLOCK = 32
"""Batches whose variations are drawn at once: one by one, augmentation takes half as long again on a CPU."""


def random_numbers(seed: int, indices: Tensor, count: int) -> Tensor:
    """`count` whole numbers from 0 to 2^31 - 1 for each index, `(N,) -> (count, N)`.

    SplitMix64 (Steele, Lea and Flood 2014) of the index's own sequence, in 64 bits that wrap around.
    """
    steps = torch.arange(1, count + 1, device=indices.device).view(-1, 1)
    sequence = _mix(indices * _GOLDEN + seed)
    return _high_bits(_mix(sequence + steps * _GOLDEN), 33)


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _high_bits(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _high_bits(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _high_bits(x, 31)


def _high_bits(x: Tensor, shift: int) -> Tensor:
    """Shifts the bits right and fills with zeros; the plain shift of a signed number repeats its sign."""
    bits: Tensor = (x >> shift) & (2 ** (64 - shift) - 1)
    return bits


def augment(data: Dataset, indices: Sequence[Tensor], seed: int, config: DataConfig) -> Iterator[Tensor]:
    """Reads, varies and normalises the training images of each tensor of indices, `(N,)` -> float32 `(N, C, H, W)`.

    `seed` must differ from epoch to epoch and from run to run. Zero fills what a shift uncovers and what cutout erases:
    after normalisation it is the mean colour of the training set. Raises DataError for a damaged file.
    """
    batches = data.train.batches(indices)
    if config.augmentation == "none":
        yield from map(data.normalise, batches)
        return
    variations = _draw_variations(indices, seed, config, *data.image_size)
    for images, (offset, mirror, rows, columns, *erased) in zip(batches, variations, strict=True):
        varied = data.normalise(_move(images, offset, mirror))
        # what is uncovered shows a neighbour's pixels; a negative one of them times zero is a negative zero
        varied.mul_(_rectangle(rows, columns)).add_(0.0)
        if erased:
            varied.mul_(1 - _rectangle(*erased))
        yield varied


def _draw_variations(
    indices: Sequence[Tensor], seed: int, config: DataConfig, height: int, width: int
) -> Iterator[tuple[Tensor, ...]]:
    """How the images of each batch are varied, as four tensors or, with cutout, six:

    `(N,)`: the pixel at which each image begins, counted from its first;
    `(N,)`: 1 if it is mirrored, else 0;
    `(N, H)` and `(N, W)`: 1 for rows and columns that the image still covers, else 0;
    `(N, H)` and `(N, W)`: 1 for rows and columns that cutout erases, else 0.
    """
    for start in range(0, len(indices), BLOCK):
        block = indices[start : start + BLOCK]
        down, right, mirror, row, column = random_numbers(seed, torch.cat(list(block)), 5)
        down, right, mirror = down % (2 * SHIFT + 1) - SHIFT, right % (2 * SHIFT + 1) - SHIFT, mirror % 2
        right *= 1 - 2 * mirror  # a window of the mirrored image moves the other way
        drawn = [down * width + right, mirror, _segment(-down, height, height), _segment(-right, width, width)]
        if config.augmentation == "cutout":
            size = config.cutout_size
            drawn += [
                _segment(row % height - size // 2, size, height),
                _segment(column % width - size // 2, size, width),
            ]
        yield from zip(*(each.split([len(batch) for batch in block]) for each in drawn), strict=True)


def _move(images: Tensor, offset: Tensor, mirror: Tensor) -> Tensor:
    """Copies each image, or its mirror image where `mirror` is 1, from the pixel `offset` on; `(N, C, H, W)`.

    All images lie in one line, and each copy is one piece of it: where a copy leaves its image, it holds pixels of the
    neighbours, which the caller erases.
    """
    pixels, size = images.numel(), images[:1].numel()
    margin = images.new_zeros(SHIFT * images.shape[3] + SHIFT)
    line = torch.cat((margin, images.flatten(), images.flip(3).flatten(), margin))
    begin = torch.arange(len(margin), len(margin) + pixels, size, device=images.device) + pixels * mirror + offset
    return line.unfold(0, size, 1).index_select(0, begin).view(images.shape)


def _rectangle(rows: Tensor, columns: Tensor) -> Tensor:
    """`(N, H)`, `(N, W)` -> `(N, 1, H, W)`: 1 where the row and the column are 1, else 0."""
    return (rows.unsqueeze(2) * columns.unsqueeze(1)).unsqueeze(1)


def _segment(start: Tensor, length: int, side: int) -> Tensor:
    """1 for the `length` places from each start on, else 0, `(N,) -> (N, side)`; some places may lie outside."""
    places = torch.arange(side, device=start.device) - start.view(-1, 1)
    return ((places >= 0) & (places < length)).float()

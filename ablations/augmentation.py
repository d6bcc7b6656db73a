"""Augmentation in batches, on the device; one image's depends only on (seed, epoch, index).

Random numbers are counted, not drawn: number j of image i is a hash of the seed, the epoch, i and j, so that neither
batch size, device, order nor an interruption changes them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ablations.config import DataConfig

SHIFT = 4
"""Pixels by which the paper shifts at most (Huang et al. 2017, section 4.1)."""


def random_numbers(seed: int, indices: Tensor, count: int) -> Tensor:
    """`count` whole numbers from 0 to 2^31 - 1 for each index, `(N,) -> (count, N)`.

    SplitMix64 (Steele, Lea and Flood 2014) of the index's own sequence, in 64 bits that wrap around.
    """
    steps = torch.arange(1, count + 1, device=indices.device).view(-1, 1)
    sequence = _mixed(indices * _GOLDEN + seed)
    return _high_bits(_mixed(sequence + steps * _GOLDEN), 33)


_GOLDEN = 0x9E3779B97F4A7C15 - 2**64


def _mixed(x: Tensor) -> Tensor:
    x = (x ^ _high_bits(x, 30)) * (0xBF58476D1CE4E5B9 - 2**64)
    x = (x ^ _high_bits(x, 27)) * (0x94D049BB133111EB - 2**64)
    return x ^ _high_bits(x, 31)


def _high_bits(x: Tensor, shift: int) -> Tensor:
    """The bits shifted right with zeros coming in, which a shift of signed numbers does not do by itself."""
    bits: Tensor = (x >> shift) & (2 ** (64 - shift) - 1)
    return bits


def augmented(images: Tensor, indices: Tensor, seed: int, config: DataConfig) -> Tensor:
    """Normalised `(N, C, H, W)` -> the same shape, varied; `indices` `(N,)` are their places in the training set.

    `seed` stands for the run's seed and the epoch. Zero, which fills what a shift uncovers and what cutout erases, is
    the mean colour of the training set.
    """
    if config.augmentation == "none":
        return images
    down, right, mirror, row, column = random_numbers(seed, indices, 5)
    shifts = (down % (2 * SHIFT + 1), right % (2 * SHIFT + 1))
    varied = _shifted(images, *shifts, mirrored=mirror % 2 == 1)
    if config.augmentation == "cutout":
        height, width = images.shape[-2:]
        varied = varied * _outside(row % height, column % width, config.cutout_size, height, width).to(varied.dtype)
    return varied


def _shifted(images: Tensor, down: Tensor, right: Tensor, mirrored: Tensor) -> Tensor:
    """Each image's own window of the image padded with zeros, from (`down`, `right`), mirrored where `mirrored` is."""
    count, _, height, width = images.shape
    padded = F.pad(images, (SHIFT, SHIFT, SHIFT, SHIFT))
    rows = torch.arange(height, device=images.device) + down.view(-1, 1)
    columns = torch.arange(width, device=images.device).expand(count, -1)
    columns = torch.where(mirrored.view(-1, 1), width - 1 - columns, columns) + right.view(-1, 1)
    numbers = torch.arange(count, device=images.device)
    windows = padded[numbers.view(-1, 1, 1), :, rows.unsqueeze(2), columns.unsqueeze(1)]  # (N, H, W, C)
    return windows.permute(0, 3, 1, 2).contiguous()


def _outside(row: Tensor, column: Tensor, size: int, height: int, width: int) -> Tensor:
    """True but in the square around (row, column), of which a part may lie outside, `(N,) -> (N, 1, H, W)`."""
    rows = torch.arange(height, device=row.device) - (row - size // 2).view(-1, 1)
    columns = torch.arange(width, device=row.device) - (column - size // 2).view(-1, 1)
    inside_rows, inside_columns = ((each >= 0) & (each < size) for each in (rows, columns))
    return ~(inside_rows.unsqueeze(2) & inside_columns.unsqueeze(1)).unsqueeze(1)

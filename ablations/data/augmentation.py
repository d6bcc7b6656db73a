"""Augmentation of batches on the device. The variation of an image depends only on the seed, the epoch and its index.

There is no random state: number j of image i is a hash of the seed, the epoch, i and j. So the batch size, the device,
the order of images and interruptions do not change it. A function of the user's varies a whole batch, and draws from a
generator that the first image of the batch seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from ablations.config import DataConfig
from ablations.data.dataset import Dataset
from ablations.parts import change_images, is_own

SHIFT = 4
"""The largest shift in the paper, in pixels (Huang et al. 2017, section 4.1)."""

BLOCK = 32
"""Batches whose variations are drawn at once. Drawn one by one, augmentation takes 1.5 times as long on a CPU."""


def random_numbers(seed: int, indices: Tensor, count: int) -> Tensor:
    """Returns `count` whole numbers from 0 to 2^31 - 1 for each index, `(N,) -> (count, N)`.

    The numbers are SplitMix64 (Steele, Lea and Flood 2014) with a sequence for each index, in 64-bit arithmetic that
    wraps around.
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
    """Shifts the bits right and fills with zeros. The usual shift of a signed number would repeat its sign bit."""
    bits: Tensor = (x >> shift) & (2 ** (64 - shift) - 1)
    return bits


def augment(data: Dataset, indices: Sequence[Tensor], seed: int, config: DataConfig) -> Iterator[Tensor]:
    """Reads, varies and normalises the training images of each tensor of indices, `(N,)` -> float32 `(N, C, H, W)`.

    `seed` must be different for each epoch and each run. Pixels that a shift uncovers or cutout erases are 0, which is
    the mean colour of the training set after normalisation. Raises DataError for a damaged file.
    """
    batches = data.train.batches(indices)
    if config.augmentation == "none":
        yield from map(data.normalise, batches)
        return
    if config.augmentation not in ("standard", "cutout"):
        change = _find_change(config.augmentation, data.image_size)
        for images, batch in zip(batches, indices, strict=True):
            yield data.normalise(change(images, random_numbers(seed, batch, 2)))
        return
    variations = _draw_variations(indices, seed, config, *data.image_size)
    for images, (offset, mirror, rows, columns, *erased) in zip(batches, variations, strict=True):
        varied = data.normalise(_move(images, offset, mirror))
        # uncovered places hold pixels of a neighbour; a negative pixel times zero is a negative zero
        varied.mul_(_rectangle(rows, columns)).add_(0.0)
        if erased:
            varied.mul_(1 - _rectangle(*erased))
        yield varied


Change = Callable[[Tensor, Tensor], Tensor]
"""Varies images by two random numbers for each, uint8 `(N, C, H, W)`, int64 `(2, N)` -> uint8 `(N, C, H, W)`."""


def _find_change(name: str, size: tuple[int, int]) -> Change:
    """Returns what varies images by an augmentation of torchvision's, or by a function of the user's."""
    if is_own(name):
        return lambda images, numbers: change_images(name, images, int(numbers[0, 0]))
    from torchvision.transforms import v2

    made: dict[str, Callable[[], nn.Module]] = {
        "randaugment": v2.RandAugment,
        "trivialaugment": v2.TrivialAugmentWide,
        "resized-crop": lambda: v2.RandomResizedCrop(size, antialias=True),
    }
    return partial(_change_each, made[name]())


def _change_each(transform: nn.Module, images: Tensor, numbers: Tensor) -> Tensor:
    """Varies each image by a transform of torchvision's, which draws from torch's own generator, and mirrors half."""
    changed = []
    with torch.random.fork_rng(devices=[]):
        for image, mirror, seed in zip(images, *numbers.tolist(), strict=True):
            torch.manual_seed(seed)
            changed.append(transform(image.flip(2) if mirror % 2 else image))
    return torch.stack(changed)


def _draw_variations(
    indices: Sequence[Tensor], seed: int, config: DataConfig, height: int, width: int
) -> Iterator[tuple[Tensor, ...]]:
    """Yields the variations of the images of each batch, as four tensors or, with cutout, six:

    `(N,)`: the pixel at which each image begins, relative to its first pixel;
    `(N,)`: 1 if the image is mirrored, else 0;
    `(N, H)` and `(N, W)`: 1 for rows and columns that the image still covers, else 0;
    `(N, H)` and `(N, W)`: 1 for rows and columns that cutout erases, else 0.
    """
    for start in range(0, len(indices), BLOCK):
        block = indices[start : start + BLOCK]
        down, right, mirror, row, column = random_numbers(seed, torch.cat(list(block)), 5)
        down, right, mirror = down % (2 * SHIFT + 1) - SHIFT, right % (2 * SHIFT + 1) - SHIFT, mirror % 2
        right *= 1 - 2 * mirror  # a window of the mirrored image moves in the other direction
        drawn = [down * width + right, mirror, _segment(-down, height, height), _segment(-right, width, width)]
        if config.augmentation == "cutout":
            size = config.cutout_size
            drawn += [
                _segment(row % height - size // 2, size, height),
                _segment(column % width - size // 2, size, width),
            ]
        yield from zip(*(each.split([len(batch) for batch in block]) for each in drawn), strict=True)


def _move(images: Tensor, offset: Tensor, mirror: Tensor) -> Tensor:
    """Copies each image, or its mirror image if `mirror` is 1, from the pixel `offset` on; `(N, C, H, W)`.

    All images lie in one line, and each copy is one piece of this line. If a piece leaves its image, it contains pixels
    of the neighbours, which the caller erases.
    """
    pixels, size = images.numel(), images[:1].numel()
    margin = images.new_zeros(SHIFT * images.shape[3] + SHIFT)
    line = torch.cat((margin, images.flatten(), images.flip(3).flatten(), margin))
    begin = torch.arange(len(margin), len(margin) + pixels, size, device=images.device) + pixels * mirror + offset
    return line.unfold(0, size, 1).index_select(0, begin).view(images.shape)


def _rectangle(rows: Tensor, columns: Tensor) -> Tensor:
    """Returns 1 where both the row and the column are 1, else 0: `(N, H)`, `(N, W)` -> `(N, 1, H, W)`."""
    return (rows.unsqueeze(2) * columns.unsqueeze(1)).unsqueeze(1)


def _segment(start: Tensor, length: int, side: int) -> Tensor:
    """Returns 1 for the `length` places from each start on, else 0: `(N,) -> (N, side)`. Places may lie outside."""
    places = torch.arange(side, device=start.device) - start.view(-1, 1)
    return ((places >= 0) & (places < length)).float()

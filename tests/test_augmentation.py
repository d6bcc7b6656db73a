"""Augmentation: what it does to an image by hand, and that nothing but (seed, epoch, index) decides it."""

from __future__ import annotations

import pytest
import torch

from ablations.augmentation import augmented, random_numbers
from ablations.config import DataConfig

STANDARD = DataConfig(augmentation="standard")
CUTOUT = DataConfig(augmentation="cutout", cutout_size=3)


def by_hand(image: torch.Tensor, numbers: list[int], config: DataConfig) -> torch.Tensor:
    """One image `(C, H, W)`, varied with slices and loops."""
    down, right, mirror, row, column = numbers
    if mirror % 2:
        image = image.flip(2)
    _, height, width = image.shape
    top, left = down % 9 - 4, right % 9 - 4
    if mirror % 2:
        left = -left  # a window of the mirrored image moves the other way
    moved = torch.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y + top < height and 0 <= x + left < width:
                moved[:, y, x] = image[:, y + top, x + left]
    if config.augmentation == "cutout":
        for y in range(height):
            for x in range(width):
                top, left = row % height - config.cutout_size // 2, column % width - config.cutout_size // 2
                if 0 <= y - top < config.cutout_size and 0 <= x - left < config.cutout_size:
                    moved[:, y, x] = 0
    return moved


@pytest.mark.parametrize(
    "config",
    [STANDARD, CUTOUT, CUTOUT.model_copy(update={"cutout_size": 4})],
    ids=["standard", "cutout", "even cutout"],
)
def test_every_image_is_what_slices_and_loops_make_of_it(config):
    images, indices = torch.randn(40, 2, 7, 6), torch.arange(100, 140)
    numbers = random_numbers(5, indices, 5)
    found = augmented(images, indices, 5, config)
    assert found.shape == images.shape
    for place in range(40):
        assert torch.equal(found[place], by_hand(images[place], numbers[:, place].tolist(), config)), place


def test_none_leaves_the_images_alone():
    images = torch.randn(3, 1, 4, 4)
    assert augmented(images, torch.arange(3), 0, DataConfig()) is images


def test_neither_batch_nor_order_changes_an_image():
    images, indices = torch.randn(12, 3, 8, 8), torch.arange(12)
    whole = augmented(images, indices, 7, CUTOUT)
    order = torch.randperm(12)
    assert torch.equal(augmented(images[order], indices[order], 7, CUTOUT), whole[order])
    assert torch.equal(augmented(images[4:5], indices[4:5], 7, CUTOUT), whole[4:5])


def test_seed_and_index_change_it():
    image = torch.randn(1, 3, 8, 8).expand(500, -1, -1, -1)
    kinds = {tuple(each.flatten().tolist()) for each in augmented(image, torch.arange(500), 1, STANDARD)}
    assert len(kinds) > 150, "of 162 that there are"
    assert not torch.equal(
        augmented(image, torch.arange(500), 1, STANDARD), augmented(image, torch.arange(500), 2, STANDARD)
    )


def test_the_numbers_are_uniform_and_independent():
    numbers = random_numbers(3, torch.arange(20_000), 4)
    assert numbers.min() >= 0
    assert numbers.max() < 2**31
    for row in numbers:
        counts = (row % 9).bincount(minlength=9).double()
        assert ((counts - 20_000 / 9) ** 2 / (20_000 / 9)).sum() < 26, "chi-squared, 8 degrees, p = 0.001"
    correlation = torch.corrcoef(numbers.double())
    assert (correlation - torch.eye(4)).abs().max() < 0.03


def test_the_numbers_are_those_of_splitmix64():
    """Written with Python's whole numbers; they must be the same on every device and in every version."""
    wrap, golden = 2**64, 0x9E3779B97F4A7C15

    def mixed(x: int) -> int:
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % wrap
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB % wrap
        return x ^ (x >> 31)

    seed, indices = 123_456_789_012, torch.tensor([0, 1, 49_999, 1_281_166])
    expected = [
        [mixed((mixed((index * golden + seed) % wrap) + step * golden) % wrap) >> 33 for index in indices.tolist()]
        for step in (1, 2, 3)
    ]
    assert random_numbers(seed, indices, 3).tolist() == expected


@pytest.mark.gpu
def test_cuda_varies_an_image_as_the_cpu_does():
    images, indices = torch.randn(64, 3, 32, 32), torch.arange(64)
    there = augmented(images.cuda(), indices.cuda(), 9, DataConfig(augmentation="cutout"))
    assert torch.equal(there.cpu(), augmented(images, indices, 9, DataConfig(augmentation="cutout")))

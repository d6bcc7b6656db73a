"""Augmentation: what it does to an image by hand, and that nothing but (seed, epoch, index) decides it."""

from __future__ import annotations

import pytest
import torch

from ablations.config import DataConfig
from ablations.data.augmentation import BLOCK, SHIFT, augment, random_numbers
from ablations.data.dataset import Dataset, measure_channels
from ablations.data.images import MemoryImages

NONE = DataConfig()
STANDARD = DataConfig(augmentation="standard")
CUTOUT = DataConfig(augmentation="cutout", cutout_size=3)


def of(images: torch.Tensor) -> Dataset:
    part = MemoryImages(images, torch.zeros(len(images), dtype=torch.int64))
    return Dataset("", "", part, None, part, 1, (), *measure_channels(images))


def noise(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def varied(images: torch.Tensor, indices: torch.Tensor, seed: int, config: DataConfig, batch: int = 64) -> torch.Tensor:
    return torch.cat(list(augment(of(images), indices.split(batch), seed, config)))


def bits(images: torch.Tensor) -> torch.Tensor:
    """They tell zeros of different signs apart."""
    return images.view(torch.int32)


def by_hand(image: torch.Tensor, numbers: list[int], config: DataConfig) -> torch.Tensor:
    """One normalised image `(C, H, W)`, varied with slices and loops."""
    if config.augmentation == "none":
        return image
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
                    moved[:, y, x] *= 0
    return moved


@pytest.mark.parametrize("shape", [(2, 7, 6), (1, 8, 8), (3, 32, 32), (3, 2, 3)], ids=str)
@pytest.mark.parametrize(
    "config",
    [NONE, STANDARD, CUTOUT, CUTOUT.model_copy(update={"cutout_size": 4})],
    ids=["none", "standard", "cutout", "even cutout"],
)
def test_every_image_is_to_the_bit_what_slices_and_loops_make_of_it(config, shape):
    images, indices = noise(20, *shape), torch.randperm(20)
    numbers = random_numbers(5, indices, 5)
    mean, std = measure_channels(images)
    found = varied(images, indices, 5, config, batch=8)
    assert found.shape == images.shape
    for place, index in enumerate(indices.tolist()):
        expected = by_hand((images[index].float() - mean[0]) / std[0], numbers[:, place].tolist(), config)
        assert torch.equal(bits(found[place]), bits(expected)), place


@pytest.mark.parametrize("config", [NONE, STANDARD, CUTOUT], ids=lambda config: config.augmentation)
def test_neither_batch_nor_order_changes_an_image(config):
    count = 3 * BLOCK
    images, indices = noise(count, 3, 8, 8), torch.arange(count)
    whole, order = varied(images, indices, 7, config, batch=count), torch.randperm(count)
    for batch in (1, 2, 7):
        assert torch.equal(bits(varied(images, order, 7, config, batch)), bits(whole[order]))
    assert not list(augment(of(images), [], 7, config)), "of an epoch whose batches are all done"


@pytest.mark.parametrize("config", [NONE, STANDARD, CUTOUT], ids=lambda config: config.augmentation)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_batch_lies_in_memory_row_after_row(channels, config):
    """A batch of one channel could pass for channels last too, and a convolution would then choose other sums."""
    images = noise(8, channels, 5, 6)
    (batch,) = augment(of(images), [torch.arange(8)], 0, config)
    assert batch.stride() == images.stride()


def test_the_data_set_stays_as_it_is():
    images = noise(8, 3, 8, 8)
    before, data = images.clone(), of(images)
    for config in (NONE, STANDARD, CUTOUT):
        list(augment(data, [torch.arange(8)], 0, config))
    data.normalise(already := images.float())
    assert torch.equal(images, before)
    assert torch.equal(already, before.float())


def test_seed_and_index_change_it():
    images, indices = noise(1, 3, 8, 8).expand(500, -1, -1, -1), torch.arange(500)
    found = varied(images, indices, 1, STANDARD)
    assert len(found.unique(dim=0)) > 150, f"of {2 * (2 * SHIFT + 1) ** 2} that there are"
    assert not torch.equal(found, varied(images, indices, 2, STANDARD))


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
@pytest.mark.parametrize("config", [NONE, STANDARD, CUTOUT], ids=lambda config: config.augmentation)
def test_cuda_varies_an_image_as_the_cpu_does(config):
    data, indices = of(noise(64, 3, 32, 32)), torch.randperm(64)
    there = data.to(torch.device("cuda"))
    here, found = (next(augment(each, [indices.to(each.mean.device)], 9, config)) for each in (data, there))
    assert torch.equal(bits(found.cpu()), bits(here))

"""`make bench`: the data pipeline beside torchvision's, and whole trainings beside a loop that was written by hand."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from cases import CUDA, DEVICE
from rounds import ROUNDS, finish, interleaved, replayed, report
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision.transforms import v2

from ablations.config import DataConfig, TrainConfig
from ablations.data.augmentation import SHIFT, augment
from ablations.data.dataset import Dataset, load
from ablations.training.evaluation import EVALUATION_BATCH
from ablations.training.loop import derive_seed, hash_weights, make_network, train
from densenet import DenseNetConfig

DATA = DataConfig(name="random", shape=(3, 32, 32), classes=10, size=16384 if CUDA else 2048, augmentation="standard")


class Images(torch.utils.data.Dataset):
    """The same images as torchvision's references read them: one by one, by `transforms.v2`."""

    def __init__(self, data: Dataset, transform: v2.Transform) -> None:
        self.images, self.labels, self.transform = data.train.images, data.train.labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.transform(self.images[index]), self.labels[index]


def our_epoch(data: Dataset) -> int:
    """The images of an epoch as `ablations.train` reads them."""
    there = data.to(DEVICE)
    batches = torch.randperm(len(there.train)).to(DEVICE).split(64)
    found = sum(len(images) for images in augment(there, batches, 1, DATA))
    finish()
    return found


def their_epoch(data: Dataset, batchwise: bool = False) -> int:
    """Cropped and mirrored one by one; `batchwise`, converted and normalised batch by batch."""
    mean, std = ((each / 255).flatten().tolist() for each in (data.mean, data.std))
    varied = [v2.RandomCrop(data.image_size, padding=SHIFT), v2.RandomHorizontalFlip()]
    normal = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    images = Images(data, v2.Compose(varied if batchwise else [*varied, normal]))
    loader = DataLoader(images, batch_size=64, shuffle=True)
    found = sum(len(normal(images.to(DEVICE)) if batchwise else images.to(DEVICE)) for images, _ in loader)
    finish()
    return found


PIPELINES: dict[str, Callable[[Dataset], int]] = {
    "this suite": our_epoch,
    "DataLoader and transforms.v2": their_epoch,
    "DataLoader and transforms.v2, normalised batch by batch": partial(their_epoch, batchwise=True),
}


@pytest.fixture(scope="module")
def epochs() -> dict[str, list[float]]:
    data = load(DATA)
    return interleaved({name: partial(read, data) for name, read in PIPELINES.items()}, ROUNDS)


@pytest.mark.bench
@replayed
@pytest.mark.parametrize("name", PIPELINES)
def test_data_pipeline(benchmark, epochs, name):
    report(benchmark, "data pipeline", epochs[name], images=DATA.size)


def test_both_pipelines_give_every_image_once():
    data = load(DATA.model_copy(update={"size": 100}))
    assert [read(data) for read in PIPELINES.values()] == [100, 100, 100]


SMALL = DenseNetConfig(block_config=(6, 6, 6), growth_rate=12)


def bare_loop(network: nn.Module, data: Dataset, config: TrainConfig) -> float:
    """The test accuracy in % after a training as one writes it by hand."""
    fused = True if CUDA else None
    optimizer = torch.optim.SGD(network.parameters(), 0.1, 0.9, weight_decay=1e-4, nesterov=True, fused=fused)
    order = torch.Generator().manual_seed(derive_seed(0, "order"))
    images, labels = data.train.images, data.train.labels
    network.train()
    for _ in range(config.epochs):
        for batch in torch.randperm(len(labels), generator=order).to(labels.device).split(config.batch_size):
            optimizer.zero_grad()
            loss = F.cross_entropy(network((images[batch] - data.mean) / data.std), labels[batch])
            loss.backward()
            optimizer.step()
    network.eval()
    with torch.no_grad():
        parts = data.test.images.split(EVALUATION_BATCH[DEVICE.type])
        scores = torch.cat([network((part - data.mean) / data.std) for part in parts])
    return 100 * int((scores.argmax(1) == data.test.labels).sum()) / len(scores)


def suite(network: nn.Module, data: Dataset, config: TrainConfig) -> float:
    """The same by the suite."""
    return train(network, data, DataConfig(), config, 0).test.accuracy


LOOPS = {"this suite": suite, "bare loop": bare_loop}
END_TO_END = 512 if CUDA else 128
"""Images in the whole trainings that are compared."""


def whole_training(loop: Callable[..., float], data: Dataset, config: TrainConfig) -> tuple[float, str]:
    """Test accuracy and the weights' checksum."""
    network = make_network(SMALL, 0, DEVICE)
    return loop(network, data, config), hash_weights(network)


@pytest.fixture(scope="module")
def trainings() -> dict[str, list[float]]:
    config = TrainConfig(epochs=2, batch_size=32, schedule="constant")
    data = load(DATA.model_copy(update={"size": END_TO_END})).to(DEVICE)
    loops = {name: partial(whole_training, loop, data, config) for name, loop in LOOPS.items()}
    return interleaved(loops, ROUNDS)


@pytest.mark.bench
@replayed
@pytest.mark.parametrize("name", LOOPS)
def test_end_to_end(benchmark, trainings, name):
    steps = 2 * END_TO_END // 32
    report(benchmark, "end to end", trainings[name], epochs=2, steps=steps, batch=32, test_images=END_TO_END)


def test_the_bare_loop_is_the_suite_s_training_to_the_bit():
    data = load(DATA.model_copy(update={"size": 12})).to(DEVICE)
    config = TrainConfig(epochs=2, batch_size=4, schedule="constant")
    assert len({whole_training(loop, data, config) for loop in LOOPS.values()}) == 1

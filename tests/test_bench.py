"""`make bench`: a training step of every kind of recomputation beside torchvision's blocks, in one process."""

from __future__ import annotations

import pytest
import torch
import torchvision

from ablations.config import TrainConfig
from ablations.step import optimizer_for, training_step
from densenet import DenseNetConfig, build

SHAPE = {"block_config": (6, 6, 6), "growth_rate": 12}


def torchvisions(memory_efficient: bool) -> torch.nn.Module:
    """torchvision's blocks behind the CIFAR stem."""
    network = torchvision.models.DenseNet(12, (6, 6, 6), 24, num_classes=10, memory_efficient=memory_efficient)
    for name in ("norm0", "relu0", "pool0"):
        delattr(network.features, name)
    network.features.conv0 = torch.nn.Conv2d(3, 24, 3, padding=1, bias=False)
    return network


NETWORKS = {
    "ours, none": lambda: build(DenseNetConfig(**SHAPE)),
    "ours, bottleneck": lambda: build(DenseNetConfig(**SHAPE, checkpoint="bottleneck")),
    "ours, layer": lambda: build(DenseNetConfig(**SHAPE, checkpoint="layer")),
    "ours, block": lambda: build(DenseNetConfig(**SHAPE, checkpoint="block")),
    "torchvision": lambda: torchvisions(False),
    "torchvision, memory_efficient": lambda: torchvisions(True),
}


@pytest.mark.bench
@pytest.mark.parametrize("name", NETWORKS)
def test_training_step(benchmark, name):
    network = NETWORKS[name]().train()
    optimizer = optimizer_for(network, TrainConfig())
    images, labels = torch.randn(16, 3, 32, 32), torch.zeros(16, dtype=torch.long)
    benchmark.group = "training step, DenseNet-BC (6, 6, 6), k = 12, batch 16, 32 x 32"
    benchmark.pedantic(training_step, (network, optimizer, images, labels, TrainConfig()), rounds=10, warmup_rounds=2)


def test_the_networks_compared_are_the_same():
    sizes = {name: sum(p.numel() for p in make().parameters()) for name, make in NETWORKS.items()}
    assert len(set(sizes.values())) == 1, sizes

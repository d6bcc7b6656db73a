"""The networks: a parameterised DenseNet and its ResNet baseline.

>>> from densenet import DenseNetConfig, build
>>> network = build(DenseNetConfig(block_config=(3, 3, 3), growth_rate=8))
>>> sum(parameter.numel() for parameter in network.parameters())
32602
"""

from __future__ import annotations

import torch
from torch import nn

from densenet.densenet import DenseNet, DenseNetConfig
from densenet.options import Config, lookup
from densenet.resnet import ResNet, ResNetConfig

MODELS: dict[str, tuple[type[Config], type[nn.Module]]] = {
    "densenet": (DenseNetConfig, DenseNet),
    "resnet": (ResNetConfig, ResNet),
}
"""Network families: name -> configuration and network. A new family is a file in this folder and an entry here."""

PRESETS: dict[str, Config] = {
    "densenet-bc-100-12": DenseNetConfig(block_config=(16, 16, 16), growth_rate=12),
    "densenet121": DenseNetConfig(
        block_config=(6, 12, 24, 16), growth_rate=32, init_features=64, stem="imagenet", num_classes=1000
    ),
    "resnet20": ResNetConfig(depth=20),
    "resnet56": ResNetConfig(depth=56),
    "resnet110": ResNetConfig(depth=110),
}
"""Published networks by name."""


def build(network: str | Config) -> nn.Module:
    """A network, from a preset's name or from a configuration.

    Raises ValueError for an unknown name, naming the known ones.
    """
    config = lookup("preset", network, PRESETS) if isinstance(network, str) else network
    family = lookup("model family", getattr(config, "family", ""), MODELS)
    return family[1](config)


def count_params(config: Config) -> int:
    """Trainable parameters of a network, counted without giving it storage."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build(config).parameters() if parameter.requires_grad)


__all__ = [
    "MODELS",
    "PRESETS",
    "Config",
    "DenseNet",
    "DenseNetConfig",
    "ResNet",
    "ResNetConfig",
    "build",
    "count_params",
]

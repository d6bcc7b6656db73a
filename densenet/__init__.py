"""The networks: a parameterised DenseNet and its ResNet baseline, torchvision's, and a user's own.

>>> from densenet import DenseNetConfig, build
>>> network = build(DenseNetConfig(depth=22, growth_rate=8))
>>> sum(parameter.numel() for parameter in network.parameters())
32602
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from densenet.config import DenseNetConfig
from densenet.densenet import DenseNet
from densenet.foreign import ForeignConfig, OwnConfig, TorchvisionConfig, own_network, source_of, torchvision_network
from densenet.normalize_once import NormalizeOnce
from densenet.options import Config, lookup
from densenet.presets import PRESETS, published
from densenet.resnet import ResNet, ResNetConfig

MODELS: dict[str, tuple[type[Config], Callable[[Any], nn.Module]]] = {
    "densenet": (DenseNetConfig, lambda config: IMPLEMENTATIONS[config.implementation](config)),
    "resnet": (ResNetConfig, ResNet),
    "torchvision": (TorchvisionConfig, torchvision_network),
}
"""Network families: name -> configuration and what builds it. A new one is a file in this folder and an entry here."""


IMPLEMENTATIONS: dict[str, type[DenseNet]] = {"textbook": DenseNet, "normalize-once": NormalizeOnce}
"""The two implementations of a DenseNet, by name."""


def model_family(name: str) -> tuple[type[Config], Callable[[Any], nn.Module]]:
    """A family's configuration and what builds it; `package.module:Class` is a family too.

    Raises ValueError for an unknown name, naming the known ones.
    """
    return (OwnConfig, own_network) if ":" in name else lookup("model family", name, MODELS)


def build(network: str | Config) -> nn.Module:
    """A network, from a preset's name or from a configuration.

    Raises ValueError for an unknown name, naming the known ones.
    """
    config = lookup("preset", network, PRESETS) if isinstance(network, str) else network
    return model_family(getattr(config, "family", ""))[1](config)


def textbook(config: Config) -> Config:
    """The configuration whose network is counted: of the same function, computed as its equations stand."""
    return config.model_copy(update={"implementation": "textbook"}) if hasattr(config, "implementation") else config


def count_params(config: Config) -> int:
    """Trainable parameters of a network, counted without giving it storage."""
    return sum(parameter.numel() for parameter in _without_storage(config).parameters() if parameter.requires_grad)


def count_macs(config: Config, image_size: tuple[int, int]) -> int:
    """Multiply-accumulates of convolutions and linear layers for one image of (height, width), without storage."""
    images = torch.empty(1, getattr(config, "in_channels", 3), *image_size, device="meta")
    return macs_of(_without_storage(textbook(config)).eval(), images)


def macs_of(network: nn.Module, images: Tensor) -> int:
    """Multiply-accumulates of convolutions and linear layers in a forward pass, as torch's dispatcher sees them.

    Products that attention makes of activations are none of these.
    """
    attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # which hides linear layers in one operator
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            network(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)
    return (
        sum(int(flops) for operator, flops in counter.get_flop_counts()["Global"].items() if operator in _COUNTED) // 2
    )


_COUNTED = (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)


def _without_storage(config: Config) -> nn.Module:
    try:
        with torch.device("meta"):
            return build(config)
    except (NotImplementedError, RuntimeError):  # some draw plain numbers from tensors
        return build(config).to("meta")


__all__ = [
    "MODELS",
    "PRESETS",
    "Config",
    "DenseNet",
    "DenseNetConfig",
    "ForeignConfig",
    "OwnConfig",
    "ResNet",
    "ResNetConfig",
    "TorchvisionConfig",
    "build",
    "count_macs",
    "count_params",
    "macs_of",
    "model_family",
    "published",
    "source_of",
    "textbook",
]

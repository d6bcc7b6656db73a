"""The network families by name, and `build`, which makes a network from a name or a configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from densenet.config import DenseNetConfig
from densenet.densenet import DenseNet
from densenet.foreign import OwnConfig, TorchvisionConfig, build_own, build_torchvision
from densenet.normalize_once import NormalizeOnce
from densenet.options import Config, lookup, suggest_colon
from densenet.presets import PRESETS
from densenet.resnet import ResNet, ResNetConfig

MODELS: dict[str, tuple[type[Config], Callable[[Any], nn.Module]]] = {
    "densenet": (DenseNetConfig, lambda config: IMPLEMENTATIONS[config.implementation](config)),
    "resnet": (ResNetConfig, ResNet),
    "torchvision": (TorchvisionConfig, build_torchvision),
}
"""Network families: name -> class of its configuration and function that builds the network. A new family needs a file
in this folder and an entry here."""


IMPLEMENTATIONS: dict[str, type[DenseNet]] = {"textbook": DenseNet, "normalize-once": NormalizeOnce}
"""The two implementations of a DenseNet, by name."""


def model_family(name: str) -> tuple[type[Config], Callable[[Any], nn.Module]]:
    """Return the configuration class of a family and the function that builds its network.

    `package.module:Class` is a family too. Raises ValueError for an unknown name, and lists the known ones.
    """
    if ":" in name:
        return OwnConfig, build_own
    preset = f'; or take model.preset = "{name}"' if name in PRESETS else ""
    return lookup("model family", name, MODELS, f", or package.module:Class{suggest_colon(name)}{preset}")


def build(network: str | Config) -> nn.Module:
    """Build a network with new weights, or with the trained ones that its configuration names.

    Args:
        network: the name of a preset, such as `densenet121`, or a configuration.

    Returns:
        A module in training mode, `(N, in_channels, H, W) -> (N, num_classes)`.

    Raises:
        ValueError: the name is unknown, and the message lists the known ones and the nearest; or trained weights cannot
            be downloaded.

    Example:
        >>> build(DenseNetConfig(depth=22, growth_rate=8)).classifier.out_features
        10
    """
    config = lookup("preset", network, PRESETS) if isinstance(network, str) else network
    return model_family(getattr(config, "family", ""))[1](config)


def textbook(config: Config) -> Config:
    """Return the configuration with `implementation = "textbook"`: params and MACs are counted on this network."""
    return config.model_copy(update={"implementation": "textbook"}) if hasattr(config, "implementation") else config

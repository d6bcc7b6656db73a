"""The networks: a parameterised DenseNet and its ResNet baseline, torchvision's, and a user's own.

>>> from densenet import DenseNetConfig, build
>>> network = build(DenseNetConfig(depth=22, growth_rate=8))
>>> sum(parameter.numel() for parameter in network.parameters())
32606
"""

from __future__ import annotations

from densenet.config import DenseNetConfig
from densenet.counting import count_macs, count_operations, count_params, macs_of
from densenet.densenet import DenseNet
from densenet.foreign import (
    PART,
    ForeignConfig,
    OwnConfig,
    TorchvisionConfig,
    describe_source,
    fingerprint_weights,
    list_arguments,
    list_trained,
    list_unknown_weights,
    load_part,
    without_weights,
)
from densenet.options import Config
from densenet.presets import PRESETS, find_published
from densenet.registry import MODELS, build, model_family, textbook
from densenet.resnet import ResNet, ResNetConfig
from densenet.sources import fingerprint_modules

__all__ = [
    "MODELS",
    "PART",
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
    "count_operations",
    "count_params",
    "describe_source",
    "find_published",
    "fingerprint_modules",
    "fingerprint_weights",
    "list_arguments",
    "list_trained",
    "list_unknown_weights",
    "load_part",
    "macs_of",
    "model_family",
    "textbook",
    "without_weights",
]

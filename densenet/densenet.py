"""The DenseNet (Huang et al. 2017, arXiv 1608.06993): stem, dense blocks with transitions between them, head."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn

from densenet.blocks import DenseBlock, Transition, conv2d, norm_act, post, pre
from densenet.config import DenseNetConfig
from densenet.options import initialise

OLDER_NAME = re.compile(r"(\bdenselayer\d+\.(?:norm|conv))\.([12]\.)")
"""A module of a dense layer in torchvision's published files: `denselayer1.norm.1.`, which is `denselayer1.norm1.`."""


class DenseNet(nn.Module):
    """A DenseNet maps images to class scores, `(N, in_channels, H, W) -> (N, num_classes)`.

    Parameters have torchvision's names. Convolutions are initialised as in He et al. 2015.
    """

    def __init__(self, config: DenseNetConfig) -> None:
        super().__init__()
        self.config = config
        self.stem, self.blocks, self.smallest_image = config.stem, len(config.block_config), config.smallest_image
        self.features = stem(config)
        channels = config.stem_features
        for number, (layers, k) in enumerate(zip(config.block_config, config.growth_rates, strict=True), 1):
            block = DenseBlock(config, layers, channels, k)
            self.features.add_module(f"denseblock{number}", block)
            channels = block.out_channels
            if number < self.blocks:
                transition = Transition(config, channels)
                self.features.add_module(f"transition{number}", transition)
                channels = transition.out_channels
        for name, module in pre(config, channels, "5"):  # torchvision's name, for any number of blocks
            self.features.add_module(name, module)
        self.classifier = nn.Linear(channels, config.num_classes)
        for module in self.modules():
            initialise(module, config.init)

    def forward(self, images: Tensor) -> Tensor:
        """`(N, in_channels, H, W) -> (N, num_classes)`. Raises ValueError for an image that is too small."""
        self.check(images)
        scores: Tensor = self.classifier(self.features(images).mean((-2, -1)))
        return scores

    def _load_from_state_dict(self, state_dict: dict[str, Any], *arguments: Any) -> None:
        """Reads the older names of torchvision's published files, `denselayer1.norm.1.weight`, too."""
        for name in list(state_dict):
            state_dict[OLDER_NAME.sub(r"\1\2", name)] = state_dict.pop(name)
        super()._load_from_state_dict(state_dict, *arguments)

    def check(self, images: Tensor) -> None:
        """Raises ValueError for an image that is too small."""
        height, width = images.shape[-2:]
        if min(height, width) < self.smallest_image:
            raise ValueError(
                f"an image of {height} x {width} pixels is too small for {self.blocks} blocks and the {self.stem} "
                f"stem: at least {self.smallest_image} x {self.smallest_image} are needed"
            )


def stem(config: DenseNetConfig) -> nn.Sequential:
    """Makes the first layers, `(N, in_channels, H, W) -> (N, stem_features, H, W)`; for ImageNet, H / 4 and W / 4.

    The ImageNet stem is torchvision's for every layer order: conv, norm, act, max pool.
    """
    channels = config.stem_features
    parts = nn.Sequential()
    if config.stem == "cifar":
        parts.add_module("conv0", conv2d(config, config.in_channels, channels, 3))
        for name, module in post(config, channels, "0"):
            parts.add_module(name, module)
    else:
        parts.add_module("conv0", conv2d(config, config.in_channels, channels, 7, stride=2))
        for name, module in norm_act(config, ("norm", "act"), channels, "0", inplace=True):
            parts.add_module(name, module)
        parts.add_module("pool0", nn.MaxPool2d(3, stride=2, padding=1))
    return parts

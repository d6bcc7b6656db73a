"""DenseNet with every choice of the paper as a field (Huang et al. 2017, arXiv 1608.06993)."""

from __future__ import annotations

from math import floor
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator
from torch import Tensor, nn

from densenet.blocks import DenseBlock, Transition, post, pre
from densenet.options import Checkpoint, Config, LayerOrder, Stem


def _one_or_per_block(value: Any) -> Any:
    def positive(number: Any) -> bool:
        return isinstance(number, int) and not isinstance(number, bool) and 0 < number <= 10_000

    if positive(value):
        return value
    if isinstance(value, list | tuple) and value and all(positive(number) for number in value):
        return tuple(value)
    raise ValueError("Input should be a whole number above 0 and at most 10000, or a list of them, one per block")


class DenseNetConfig(Config):
    """The fields of a DenseNet. The defaults are a small DenseNet-BC for images of CIFAR's size."""

    family: Literal["densenet"] = "densenet"
    """Names this family in a grid."""

    block_config: Annotated[
        tuple[Annotated[int, Field(gt=0, le=1000)], ...], Field(strict=False, min_length=1, max_length=8)
    ] = (16, 16, 16)
    """Layers in each dense block; (16, 16, 16) is DenseNet-BC-100 (section 3, "Implementation Details")."""

    growth_rate: Annotated[int | tuple[int, ...], BeforeValidator(_one_or_per_block)] = 12
    """k, the channels that a layer adds (section 3, "Growth rate"): one number, or one per block."""

    init_features: int = Field(default=0, ge=0, le=10_000)
    """Channels of the stem; 0 stands for twice the (first) growth rate, the paper's choice for DenseNet-BC."""

    bn_size: int = Field(default=4, ge=0, le=100)
    """The bottleneck's width in growth rates (section 3, "Bottleneck layers"); 0 = no bottleneck."""

    compression: float = Field(default=0.5, gt=0, le=1)
    """theta: the share of channels that a transition keeps (section 3, "Compression"); 1 = no compression."""

    layer_order: LayerOrder = "norm-act-conv"
    """The order of norm, activation and convolution, in every layer, transition, stem and head."""

    stem: Stem = "cifar"
    """The first convolution, by the data set's kind."""

    checkpoint: Checkpoint = "none"
    """What the backward pass recomputes instead of keeping. It changes memory and time, never a result."""

    in_channels: int = Field(default=3, gt=0, le=10_000)
    """Channels of the image."""

    num_classes: int = Field(default=10, gt=0, le=1_000_000)
    """Outputs of the classifier."""

    @model_validator(mode="after")
    def _growth_rates_fit_blocks(self) -> DenseNetConfig:
        if isinstance(self.growth_rate, tuple) and len(self.growth_rate) != len(self.block_config):
            raise ValueError(
                f"growth_rate has {len(self.growth_rate)} entries for {len(self.block_config)} blocks: "
                "give one number, or one per block"
            )
        return self

    @property
    def growth_rates(self) -> tuple[int, ...]:
        """The growth rate k of each block."""
        return self.growth_rate if isinstance(self.growth_rate, tuple) else (self.growth_rate,) * len(self.block_config)

    @property
    def stem_features(self) -> int:
        """Channels that the stem gives to the first block."""
        return self.init_features or 2 * self.growth_rates[0]

    @property
    def smallest_image(self) -> int:
        """Height and width, in pixels, below which some pooling would leave nothing.

        Transitions round down; the ImageNet stem's convolution and pool round up.
        """
        before_transitions = 2 ** (len(self.block_config) - 1)
        return int(before_transitions if self.stem == "cifar" else 4 * before_transitions - 3)


class DenseNet(nn.Module):
    """Images to class scores, `(N, in_channels, H, W) -> (N, num_classes)`.

    Parameters are named as torchvision names them, convolutions initialised after He et al. 2015.
    """

    def __init__(self, config: DenseNetConfig) -> None:
        super().__init__()
        self.config = config
        order = config.layer_order
        channels = config.stem_features
        self.features = stem(config)
        last = len(config.block_config)
        for number, (layers, k) in enumerate(zip(config.block_config, config.growth_rates, strict=True), 1):
            block = DenseBlock(layers, channels, k, config.bn_size, order, config.checkpoint)
            self.features.add_module(f"denseblock{number}", block)
            channels += layers * k
            if number < last:
                compressed = max(1, floor(round(config.compression * channels, 6)))
                self.features.add_module(f"transition{number}", Transition(channels, compressed, order))
                channels = compressed
        for name, module in pre(order, channels, "5"):  # torchvision's name, whatever the number of blocks
            self.features.add_module(name, module)
        self.classifier = nn.Linear(channels, config.num_classes)
        self.apply(initialise)

    def forward(self, images: Tensor) -> Tensor:
        """`(N, in_channels, H, W) -> (N, num_classes)`. Raises ValueError for an image that is too small."""
        smallest = self.config.smallest_image
        if images.shape[-2] < smallest or images.shape[-1] < smallest:
            raise ValueError(
                f"an image of {images.shape[-2]} x {images.shape[-1]} pixels is too small for "
                f"{len(self.config.block_config)} blocks and the {self.config.stem} stem: "
                f"at least {smallest} x {smallest} are needed"
            )
        features = self.features(images)
        scores: Tensor = self.classifier(features.mean((-2, -1)))
        return scores


def stem(config: DenseNetConfig) -> nn.Sequential:
    """The first convolution, `(N, in_channels, H, W) -> (N, stem_features, H, W)`, a quarter of H, W for ImageNet.

    torchvision's ImageNet stem is kept in the default order: conv, norm, ReLU, max pool.
    """
    channels = config.stem_features
    parts = nn.Sequential()
    if config.stem == "cifar":
        parts.add_module("conv0", nn.Conv2d(config.in_channels, channels, 3, padding=1, bias=False))
        for name, module in post(config.layer_order, channels, "0"):
            parts.add_module(name, module)
    else:
        parts.add_module("conv0", nn.Conv2d(config.in_channels, channels, 7, stride=2, padding=3, bias=False))
        parts.add_module("norm0", nn.BatchNorm2d(channels))
        parts.add_module("relu0", nn.ReLU(inplace=True))
        parts.add_module("pool0", nn.MaxPool2d(3, stride=2, padding=1))
    return parts


def initialise(module: nn.Module) -> None:
    """He initialisation of convolutions; norms start at one and zero, the classifier's bias at zero."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
    elif isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)

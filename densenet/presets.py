"""The published networks by name, and the sizes that were published for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from densenet.config import DenseNetConfig
from densenet.options import Config
from densenet.resnet import ResNetConfig


def _plain(depth: int, growth_rate: int) -> DenseNetConfig:
    """A DenseNet without bottlenecks and compression, whose stem has 16 channels."""
    return DenseNetConfig(depth=depth, growth_rate=growth_rate, bn_size=0, compression=1.0, init_features=16)


def _imagenet(depth: int, growth_rate: int = 32) -> DenseNetConfig:
    return DenseNetConfig(
        stem="imagenet", depth=depth, growth_rate=growth_rate, init_features=2 * growth_rate, num_classes=1000
    )


def _resnet(depth: int) -> ResNetConfig:
    block: Literal["basic", "bottleneck"] = "basic" if depth < 50 else "bottleneck"
    return ResNetConfig(stem="imagenet", block=block, depth=depth, shortcut="projection", num_classes=1000)


PRESETS: dict[str, Config] = {
    "densenet-40-12": _plain(40, 12),
    "densenet-100-12": _plain(100, 12),
    "densenet-100-24": _plain(100, 24),
    "densenet-bc-100-12": DenseNetConfig(depth=100, growth_rate=12),
    "densenet-bc-250-24": DenseNetConfig(depth=250, growth_rate=24),
    "densenet-bc-190-40": DenseNetConfig(depth=190, growth_rate=40),
    "densenet121": _imagenet(121),
    "densenet161": _imagenet(161, growth_rate=48),
    "densenet169": _imagenet(169),
    "densenet201": _imagenet(201),
    "densenet264": _imagenet(264),
    **{f"resnet{depth}": ResNetConfig(depth=depth) for depth in (20, 32, 44, 56, 110)},
    "preresnet110": ResNetConfig(depth=110, order="full-pre-activation"),
    "preresnet164": ResNetConfig(block="bottleneck", depth=164, shortcut="projection", order="full-pre-activation"),
    **{f"resnet{depth}": _resnet(depth) for depth in (18, 34, 50, 101, 152)},
}
"""Published networks by name: Huang et al. 2017, Tables 1 and 2; He et al. 2016a, Tables 1 and 6, 2016b, Table 2."""


@dataclass(frozen=True)
class PublishedSize:
    """The size of a network as others state it, for the image size and the number of classes of its publication."""

    image: int
    """Height and width, in pixels."""

    params: int
    macs: int
    """Multiply-accumulates of the convolutions and the linear layer, for one image. For the CIFAR ResNets they are
    rounded to four or five digits."""


PUBLISHED: dict[str, PublishedSize] = {
    "densenet-40-12": PublishedSize(32, 1_019_722, 264_812_928),
    "densenet-100-12": PublishedSize(32, 6_979_642, 1_769_516_448),
    "densenet-100-24": PublishedSize(32, 27_249_082, 6_889_347_744),
    "densenet-bc-100-12": PublishedSize(32, 769_162, 287_929_692),
    "densenet-bc-250-24": PublishedSize(32, 15_324_406, 5_418_785_724),
    "densenet-bc-190-40": PublishedSize(32, 25_624_430, 9_301_945_740),
    "densenet121": PublishedSize(224, 7_978_856, 2_834_161_664),
    "densenet161": PublishedSize(224, 28_681_000, 7_727_907_072),
    "densenet169": PublishedSize(224, 14_149_480, 3_359_843_328),
    "densenet201": PublishedSize(224, 20_013_928, 4_291_365_888),
    "resnet20": PublishedSize(32, 269_722, 40_550_000),
    "resnet32": PublishedSize(32, 464_154, 68_860_000),
    "resnet44": PublishedSize(32, 658_586, 97_170_000),
    "resnet56": PublishedSize(32, 853_018, 125_490_000),
    "resnet110": PublishedSize(32, 1_727_962, 252_890_000),
    "resnet18": PublishedSize(224, 11_689_512, 1_814_000_000),
    "resnet34": PublishedSize(224, 21_797_672, 3_664_000_000),
    "resnet50": PublishedSize(224, 25_557_032, 4_089_000_000),
    "resnet101": PublishedSize(224, 44_549_160, 7_801_000_000),
    "resnet152": PublishedSize(224, 60_192_808, 11_514_000_000),
}
"""Sizes that others state. For the ImageNet networks: from torchvision, with its weights (the MACs of the ResNets are
rounded to a million). For the CIFAR networks: from reference implementations, because the papers round."""


def find_published(config: Config, image_size: tuple[int, int]) -> PublishedSize | None:
    """Returns the published size of exactly this network for this height and width of images, or None."""
    for name, size in PUBLISHED.items():
        if _state_stem_width(PRESETS[name]) == _state_stem_width(config) and image_size == (size.image, size.image):
            return size
    return None


def _state_stem_width(config: Config) -> Config:
    """Replaces `init_features = 0` by the number of channels that it means, twice the growth rate."""
    if not isinstance(config, DenseNetConfig):
        return config
    return config.model_copy(update={"init_features": config.stem_features})

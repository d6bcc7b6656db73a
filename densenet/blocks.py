"""The DenseNet paper's equations as modules (Huang et al. 2017, arXiv 1608.06993, section 3).

    x_l = H_l([x_0, x_1, ..., x_{l-1}])      equation 2: a layer sees all features before it
    H_l = BN . ReLU . Conv1x1 . BN . ReLU . Conv3x3      bottleneck layer (DenseNet-B)
    a transition maps m channels to floor(theta * m) and halves height and width      compression (DenseNet-C)

A layer order is a permutation of norm, act and conv, read as *pre* . conv . *post*.
Modules carry torchvision's names, so that state dicts are interchangeable.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from itertools import chain

import torch
from torch import Tensor, nn

from densenet.options import Checkpoint, LayerOrder
from densenet.recompute import recompute

PARTS = 3
"""Modules of one convolution in any order: norm, activation, convolution."""


def norm_act(parts: list[str], channels: int, suffix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """The named norm and activation among `parts`, in their order."""
    for part in parts:
        if part == "norm":
            yield f"norm{suffix}", nn.BatchNorm2d(channels)
        else:
            yield f"relu{suffix}", nn.ReLU(inplace=True)


def pre(order: LayerOrder, channels: int, suffix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """What stands before the convolution. A ReLU that comes first must not write over features others read."""
    parts = order.split("-")
    for index, (name, module) in enumerate(norm_act(parts[: parts.index("conv")], channels, suffix)):
        yield name, nn.ReLU() if index == 0 and isinstance(module, nn.ReLU) else module


def post(order: LayerOrder, channels: int, suffix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """What stands after the convolution."""
    parts = order.split("-")
    yield from norm_act(parts[parts.index("conv") + 1 :], channels, suffix)


def convolution(order: LayerOrder, conv: nn.Conv2d, suffix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """One convolution between its pre and post: every part once, `(N, in, H, W) -> (N, out, H', W')`."""
    yield from pre(order, conv.in_channels, suffix)
    yield f"conv{suffix}", conv
    yield from post(order, conv.out_channels, suffix)


class DenseLayer(nn.Sequential):
    """H_l of equation 2, a list of `(N, C_i, H, W)` -> `(N, k, H, W)`.

    With a bottleneck (`bn_size` > 0) a 1x1 convolution to `bn_size * k` channels comes before the 3x3 one.
    """

    def __init__(
        self, in_channels: int, growth_rate: int, bn_size: int, order: LayerOrder, checkpoint: Checkpoint
    ) -> None:
        convs = []
        if bn_size:
            convs.append(nn.Conv2d(in_channels, bn_size * growth_rate, kernel_size=1, bias=False))
            in_channels = bn_size * growth_rate
        convs.append(nn.Conv2d(in_channels, growth_rate, kernel_size=3, padding=1, bias=False))
        parts = (convolution(order, conv, str(number)) for number, conv in enumerate(convs, 1))
        super().__init__(OrderedDict(chain.from_iterable(parts)))
        self.checkpoint = checkpoint

    def first(self, *features: Tensor) -> Tensor:
        """The concatenation and the first convolution: what torchvision's `memory_efficient` recomputes."""
        x = torch.cat(features, 1)
        for module in list(self)[:PARTS]:
            x = module(x)
        return x

    def rest(self, x: Tensor) -> Tensor:
        """The second convolution, where there is one."""
        for module in list(self)[PARTS:]:
            x = module(x)
        return x

    def whole(self, *features: Tensor) -> Tensor:
        """H_l([x_0, ..., x_{l-1}])."""
        return self.rest(self.first(*features))

    def forward(self, features: list[Tensor]) -> Tensor:
        """A list of `(N, C_i, H, W)` -> `(N, k, H, W)`."""
        if self.checkpoint == "layer":
            return recompute(self, self.whole, *features)
        if self.checkpoint == "bottleneck":
            return self.rest(recompute(self, self.first, *features))
        return self.whole(*features)


class DenseBlock(nn.ModuleDict):
    """Layers that each see all features before them, `(N, C, H, W) -> (N, C + layers * k, H, W)`."""

    def __init__(
        self,
        layers: int,
        in_channels: int,
        growth_rate: int,
        bn_size: int,
        order: LayerOrder,
        checkpoint: Checkpoint,
    ) -> None:
        super().__init__(
            {
                f"denselayer{index + 1}": DenseLayer(
                    in_channels + index * growth_rate, growth_rate, bn_size, order, checkpoint
                )
                for index in range(layers)
            }
        )
        self.checkpoint = checkpoint

    def whole(self, x: Tensor) -> Tensor:
        """[x_0, x_1, ..., x_layers]."""
        features = [x]
        for layer in self.values():
            features.append(layer(features))
        return torch.cat(features, 1)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W) -> (N, C + layers * k, H, W)`."""
        return recompute(self, self.whole, x) if self.checkpoint == "block" else self.whole(x)


class Transition(nn.Sequential):
    """Between two blocks: a 1x1 convolution that compresses, and a 2x2 average pool.

    `(N, m, H, W) -> (N, floor(theta * m), H // 2, W // 2)`
    """

    def __init__(self, in_channels: int, out_channels: int, order: LayerOrder) -> None:
        conv = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        super().__init__(OrderedDict(convolution(order, conv)))
        self.add_module("pool", nn.AvgPool2d(kernel_size=2, stride=2))

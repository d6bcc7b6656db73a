"""The DenseNet paper's equations as modules (Huang et al. 2017, arXiv 1608.06993, section 3).

    x_l = H_l([x_0, x_1, ..., x_(l-1)])      equation 2: a layer sees all features before it
    x_l = H_l(x_(l-1)) + x_(l-1)             equation 1: a ResNet's layer, here `connectivity = "sum"`
    H_l = BN . ReLU . Conv1x1 . BN . ReLU . Conv3x3      bottleneck layer (DenseNet-B)
    a transition maps m channels to floor(theta * m) and halves height and width      compression (DenseNet-C)

A layer order is a permutation of norm, act and conv. The parts before conv are called *pre*, those after it *post*.
Modules have torchvision's names, so that state dicts are interchangeable.
"""

# No `from __future__ import annotations` here: TorchScript evaluates the annotations of the methods that it ignores.
from collections import OrderedDict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from densenet.config import DenseNetConfig
from densenet.options import ACTIVATIONS, NORMS
from densenet.recompute import recompute

Part = tuple[str, nn.Module]


def conv2d(config: DenseNetConfig, inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Makes a convolution, `(N, inputs, H, W) -> (N, outputs, H / stride, W / stride)`, rounded up.

    It has a bias only if the network has no norms.
    """
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=NORMS[config.norm] is None)


def norm_act(config: DenseNetConfig, parts: Iterable[str], channels: int, suffix: str, inplace: bool) -> Iterator[Part]:
    """Yields the norm and the activation among `parts`, in their order.

    `inplace`: whether the first of them may overwrite its input, because no other module reads it. The second always
    may.
    """
    for part in parts:
        if part == "act":
            yield f"{config.activation}{suffix}", ACTIVATIONS[config.activation](inplace)
        elif norm := NORMS[config.norm]:
            yield f"norm{suffix}", norm(channels, config.norm_groups)
        else:
            continue
        inplace = True


def pre(config: DenseNetConfig, channels: int, suffix: str) -> Iterator[Part]:
    """Yields the modules before a convolution."""
    parts = config.layer_order.split("-")
    yield from norm_act(config, parts[: parts.index("conv")], channels, suffix, inplace=False)


def post(config: DenseNetConfig, channels: int, suffix: str) -> Iterator[Part]:
    """Yields the modules after a convolution."""
    parts = config.layer_order.split("-")
    yield from norm_act(config, parts[parts.index("conv") + 1 :], channels, suffix, inplace=True)


def convolution(config: DenseNetConfig, middle: nn.Conv2d, suffix: str, dropped: bool) -> Iterator[Part]:
    """Yields *pre*, conv, dropout if there is one, and *post*, `(N, in, H, W) -> (N, out, H, W)`."""
    yield from pre(config, middle.in_channels, suffix)
    yield f"conv{suffix}", middle
    if config.dropout and dropped:
        yield f"drop{suffix}", nn.Dropout(config.dropout)
    yield from post(config, middle.out_channels, suffix)


class DenseLayer(nn.Sequential):
    """H_l, a list of `(N, C_i, H, W)` -> `(N, k, H, W)`, or `(N, C, H, W)` if features are added or replaced.

    With a bottleneck (`bn_size` > 0), a 1x1 convolution to `bn_size * k` channels comes before the 3x3 convolution.
    """

    def __init__(self, config: DenseNetConfig, in_channels: int, growth_rate: int) -> None:
        out_channels = config.layer_width(growth_rate, in_channels)
        hidden = config.bn_size * growth_rate
        everywhere = config.dropout_place == "convolution"
        if hidden:
            first = OrderedDict(convolution(config, conv2d(config, in_channels, hidden, 1), "1", everywhere))
            second = OrderedDict(convolution(config, conv2d(config, hidden, out_channels, 3), "2", dropped=True))
        else:
            first = OrderedDict(convolution(config, conv2d(config, in_channels, out_channels, 3), "1", dropped=True))
            second = OrderedDict()
        super().__init__(first | second)
        self.parts_of_first = len(first)
        self.checkpoint = config.checkpoint

    def first_convolution(self, features: list[Tensor]) -> Tensor:
        """Concatenates and runs the first convolution: torchvision's `memory_efficient` recomputes this part."""
        x = concatenate(features)
        for index, part in enumerate(self):
            if index < self.parts_of_first:
                x = part(x)
        return x

    def second_convolution(self, x: Tensor) -> Tensor:
        """Runs the second convolution with its norm and activation, if the layer has one."""
        for index, part in enumerate(self):
            if index >= self.parts_of_first:
                x = part(x)
        return x

    def whole(self, features: list[Tensor]) -> Tensor:
        """Computes H_l([x_0, ..., x_(l-1)])."""
        return self.second_convolution(self.first_convolution(features))

    @torch.jit.unused
    def recomputed(self, features: list[Tensor]) -> Tensor:
        """Computes the same as `whole`, but keeps some or no intermediate results for the backward pass."""
        if self.checkpoint == "layer":
            return recompute(self, self.whole, features)
        return self.second_convolution(recompute(self, self.first_convolution, features))

    def forward(self, features: list[Tensor]) -> Tensor:
        """A list of `(N, C_i, H, W)` -> `(N, k, H, W)`, or `(N, C, H, W)` if features are added or replaced."""
        recomputes = self.checkpoint == "layer" or self.checkpoint == "bottleneck"
        if recomputes and (not torch.jit.is_scripting() or torch.is_grad_enabled()):  # type: ignore[attr-defined]
            return self.recomputed(features)
        return self.whole(features)


class DenseBlock(nn.ModuleDict):
    """Layers that each see all features before them, `(N, C, H, W) -> (N, C + layers * k, H, W)`.

    If features are added or replaced instead of concatenated: `(N, C, H, W) -> (N, C, H, W)`.
    """

    def __init__(self, config: DenseNetConfig, layers: int, in_channels: int, growth_rate: int) -> None:
        super().__init__()
        self.connectivity = config.connectivity
        self.checkpoint = config.checkpoint
        self.out_channels = in_channels
        for number in range(1, layers + 1):
            self[f"denselayer{number}"] = DenseLayer(config, self.out_channels, growth_rate)
            if config.connectivity == "concat":
                self.out_channels += growth_rate

    def whole(self, x: Tensor) -> Tensor:
        """Computes [x_0, x_1, ..., x_layers] concatenated, or their sum, or the last of them."""
        features = [x]
        for layer in self.values():
            new = layer(features)
            if self.connectivity == "concat":
                features = features + [new]  # noqa: RUF005, TorchScript does not compile [*features, new]
            elif self.connectivity == "sum":
                features = [features[0] + new]
            else:
                features = [new]
        return concatenate(features)

    @torch.jit.unused
    def recomputed(self, x: Tensor) -> Tensor:
        """Computes the same as `whole`, but keeps no intermediate results for the backward pass."""
        return recompute(self, self.whole, x)

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W) -> (N, C + layers * k, H, W)`, or `(N, C, H, W)` if features are added or replaced."""
        recomputes = self.checkpoint == "block"
        if recomputes and (not torch.jit.is_scripting() or torch.is_grad_enabled()):  # type: ignore[attr-defined]
            return self.recomputed(x)
        return self.whole(x)


def concatenate(features: list[Tensor]) -> Tensor:
    """Concatenates channels: a list of `(N, C_i, H, W)` -> `(N, sum of C_i, H, W)`. A single tensor is not copied."""
    return features[0] if len(features) == 1 else torch.cat(features, 1)


class Transition(nn.Sequential):
    """The layers between two blocks: a 1x1 convolution that compresses, and a 2x2 average pool.

    `(N, m, H, W) -> (N, floor(theta * m), H // 2, W // 2)`
    """

    def __init__(self, config: DenseNetConfig, in_channels: int) -> None:
        middle = conv2d(config, in_channels, config.transition_width(in_channels), 1)
        super().__init__(OrderedDict(convolution(config, middle, "", config.dropout_place == "convolution")))
        self.out_channels = middle.out_channels
        self.add_module("pool", nn.AvgPool2d(kernel_size=2, stride=2))

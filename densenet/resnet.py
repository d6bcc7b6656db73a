"""The ResNet, DenseNet's baseline: x_l = H_l(x_(l-1)) + x_(l-1), equation 1 of the DenseNet paper.

Sizes and shortcuts are from He et al. 2016a (arXiv 1512.03385). The orders of the parts of a unit are from
He et al. 2016b (arXiv 1603.05027, Figure 4). Modules have torchvision's names.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import torch.nn.functional as F
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn

from densenet.options import Config, Init, Stem, initialise

Order = Literal[
    "original",
    "norm-after-addition",
    "act-before-addition",
    "act-only-pre-activation",
    "full-pre-activation",
]
"""Figure 4 (a) to (e) of He et al. 2016b: where a unit's norms and activations stand."""

PLACES: dict[str, tuple[str, str, str, str]] = {
    "original": ("", "norm act", "norm", "act"),
    "norm-after-addition": ("", "norm act", "", "norm act"),
    "act-before-addition": ("", "norm act", "norm act", ""),
    "act-only-pre-activation": ("act", "norm", "norm", ""),
    "full-pre-activation": ("norm act", "", "", ""),
}
"""For each order, the parts before each convolution, after each but the last, after the last, after the addition."""

IMAGENET_STAGES: dict[str, dict[int, tuple[int, ...]]] = {
    "basic": {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)},
    "bottleneck": {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)},
}
"""Units in each stage by depth (He et al. 2016a, Table 1)."""


class ResNetConfig(Config):
    """The fields of a ResNet. The defaults are the paper's ResNet-20 for CIFAR; presets give the ImageNet networks."""

    family: Literal["resnet"] = "resnet"
    """The name of this family in a grid."""

    stem: Stem = "cifar"
    """cifar: three stages of 16, 32 and 64 channels (He et al. 2016a, section 4.2). imagenet: four stages of 64 to
    512."""

    block: Literal["basic", "bottleneck"] = "basic"
    """basic: two 3x3 convolutions. bottleneck: 1x1, 3x3 and 1x1, the last with four times the stage's channels (He et
    al. 2016a, Figure 5). Its 3x3 convolution has the stride, as in torchvision."""

    depth: int = 20
    """Weighted layers. With the cifar stem 6n + 2 (basic: 20, 32, 44, 56 and 110 in Table 6) or 9n + 2 (bottleneck).
    With the imagenet stem 18 or 34 (basic), 50, 101 or 152 (bottleneck)."""

    shortcut: Literal["pad", "projection"] = "pad"
    """What happens where a unit changes the shape (He et al. 2016a, section 3.3). pad: option A, subsampled and padded
    with zeros, the paper's choice for CIFAR. projection: option B, a 1x1 convolution, its choice for ImageNet."""

    order: Order = "original"
    """Where norms and activations stand in a unit (He et al. 2016b, Figure 4). The best of that paper is
    full-pre-activation."""

    init: Init = "fan-out"
    """The width of He's normal distribution. fan-out: as the authors' Lua code (fb.resnet.torch) and torchvision's
    ResNets. With fan-in the first convolution of ResNet-50 has 21 times as much variance."""

    width: float = Field(default=1.0, gt=0, le=100)
    """Multiplies the channels of stem and stages, rounded. It is a real number, so that a size can be matched."""

    in_channels: int = Field(default=3, gt=0, le=10_000)
    """Channels of the image."""

    num_classes: int = Field(default=10, gt=0, le=1_000_000)
    """Outputs of the classifier."""

    @field_validator("depth")
    @classmethod
    def _depth_fits(cls, depth: int, info: ValidationInfo) -> int:
        if not {"stem", "block"} <= info.data.keys():
            return depth
        stem, block = info.data["stem"], info.data["block"]
        if stem == "imagenet" and depth not in IMAGENET_STAGES[block]:
            allowed = "; ".join(f"{', '.join(map(str, depths))} ({kind})" for kind, depths in IMAGENET_STAGES.items())
            raise ValueError(f"with the imagenet stem and {block} blocks, that is no depth; allowed are {allowed}")
        step = 6 if block == "basic" else 9
        if stem == "cifar" and (not step + 2 <= depth <= 2000 or (depth - 2) % step):
            lower = min(max(step + 2, depth - (depth - 2) % step), 2000 - 1998 % step - step)
            raise ValueError(
                f"Input should be {step}n + 2 from {step + 2} to 2000; the nearest are {lower} and {lower + step}"
            )
        return depth

    @property
    def stages(self) -> tuple[int, ...]:
        """Units in each stage."""
        if self.stem == "imagenet":
            return IMAGENET_STAGES[self.block][self.depth]
        return ((self.depth - 2) // (6 if self.block == "basic" else 9),) * 3

    @property
    def stage_widths(self) -> tuple[int, ...]:
        """Channels of each stage, before a bottleneck's last convolution multiplies them by four."""
        first = 16 if self.stem == "cifar" else 64
        return tuple(max(1, round(first * 2**stage * self.width)) for stage in range(len(self.stages)))


class ResidualUnit(nn.Module):
    """H(x) + shortcut(x), `(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)`, rounded up.

    The parts run in the order of the configuration: `shared` feeds both paths, `residual` is the residual path, and
    `after` follows the addition. If the shortcut is a projection, both paths share the pre-activation. The network's
    `first` unit has none before its first convolution, because the stem ends with it (He et al. 2016b, Figure 5 and
    appendix).
    """

    def __init__(self, config: ResNetConfig, in_channels: int, width: int, stride: int, first: bool) -> None:
        super().__init__()
        before, between, last, after = (parts.split() for parts in PLACES[config.order])
        basic = config.block == "basic"
        kernels, strides = ((3, 3), (stride, 1)) if basic else ((1, 3, 1), (1, stride, 1))
        self.out_channels = width if basic else 4 * width
        widths = (in_channels, *[width] * (len(kernels) - 1), self.out_channels)
        steps: list[list[str]] = []
        for number, (kernel, step, (inputs, outputs)) in enumerate(
            zip(kernels, strides, pairwise(widths), strict=True), 1
        ):
            ahead = [] if first and number == 1 else self._norm_act(before, number, inputs)
            self.add_module(f"conv{number}", nn.Conv2d(inputs, outputs, kernel, step, kernel // 2, bias=False))
            behind = self._norm_act(last if number == len(kernels) else between, number, outputs)
            steps += [ahead, [f"conv{number}", *behind]]
        self.after = self._norm_act(after, len(kernels), self.out_channels)
        # an activation at the start of a unit must not overwrite its input, which the shortcut reads too
        self.relu = nn.ReLU(inplace=before != ["act"])
        self.stride, self.added = stride, self.out_channels - in_channels
        self.downsample = None
        if config.shortcut == "projection" and (stride > 1 or self.added):
            self.downsample = nn.Sequential(nn.Conv2d(in_channels, self.out_channels, 1, stride, bias=False))
            if "norm" in last:  # the shortcut is normalised if the residual path ends with a norm
                self.downsample.append(nn.BatchNorm2d(self.out_channels))
        self.shared = steps.pop(0) if self.downsample else []
        self.residual = [name for names in steps for name in names]

    def _norm_act(self, parts: list[str], number: int, channels: int) -> list[str]:
        """Adds the norm under torchvision's name, and returns the names of the norm and the activation."""
        if "norm" in parts:
            self.add_module(f"bn{number}", nn.BatchNorm2d(channels))
        return [f"bn{number}" if part == "norm" else "relu" for part in parts]

    def _run(self, names: list[str], x: Tensor) -> Tensor:
        for name in names:
            x = getattr(self, name)(x)
        return x

    def _shortcut(self, x: Tensor) -> Tensor:
        """Returns x itself, or x mapped to the new shape by option A or option B."""
        if self.downsample is not None:
            projected: Tensor = self.downsample(x)
            return projected
        if self.stride == 1 and not self.added:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))

    def forward(self, x: Tensor) -> Tensor:
        """`(N, in_channels, H, W) -> (N, out_channels, H / stride, W / stride)`, rounded up."""
        x = self._run(self.shared, x)
        return self._run(self.after, self._run(self.residual, x) + self._shortcut(x))


class ResNet(nn.Module):
    """A ResNet maps images to class scores, `(N, in_channels, H, W) -> (N, num_classes)`.

    Convolutions are initialised as in He et al. 2015.
    """

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.stage_widths[0]
        if config.stem == "cifar":
            self.conv1 = nn.Conv2d(config.in_channels, channels, 3, padding=1, bias=False)
        else:
            self.conv1 = nn.Conv2d(config.in_channels, channels, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1) if config.stem == "imagenet" else nn.Identity()
        self.stages: list[str] = []
        for stage, (units, width) in enumerate(zip(config.stages, config.stage_widths, strict=True)):
            layer = nn.Sequential()
            for index in range(units):
                stride = 2 if stage and index == 0 else 1
                unit = ResidualUnit(config, channels, width, stride, first=not stage and not index)
                layer.append(unit)
                channels = unit.out_channels
            self.stages.append(f"layer{stage + 1}")
            self.add_module(self.stages[-1], layer)
        before = PLACES[config.order][0].split()
        self.head = nn.Sequential()  # with pre-activation, the norm and activation after the last sum
        if "norm" in before:
            self.head.append(nn.BatchNorm2d(channels))
        if "act" in before:
            self.head.append(nn.ReLU(inplace=True))
        self.fc = nn.Linear(channels, config.num_classes)
        for module in self.modules():
            initialise(module, config.init)

    def forward(self, images: Tensor) -> Tensor:
        """`(N, in_channels, H, W) -> (N, num_classes)`."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        for stage in self.stages:
            x = getattr(self, stage)(x)
        scores: Tensor = self.fc(self.head(x).mean((-2, -1)))
        return scores

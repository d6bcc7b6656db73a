"""The CIFAR ResNet, DenseNet's baseline (He et al. 2016, arXiv 1512.03385, section 4.2)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from pydantic import Field, field_validator
from torch import Tensor, nn

from densenet.options import Config


class ResNetConfig(Config):
    """The fields of a CIFAR ResNet: a stem and three stages of n basic blocks."""

    family: Literal["resnet"] = "resnet"
    """Names this family in a grid."""

    depth: int = 20
    """Weighted layers, 6n + 2: 20, 32, 44, 56, 110 in the paper (Table 6)."""

    width: float = Field(default=1.0, gt=0, le=100)
    """Multiplies the stages' 16, 32 and 64 channels, rounded; a real number, so that a size can be matched."""

    in_channels: int = Field(default=3, gt=0, le=10_000)
    """Channels of the image."""

    num_classes: int = Field(default=10, gt=0, le=1_000_000)
    """Outputs of the classifier."""

    @field_validator("depth")
    @classmethod
    def _six_n_plus_two(cls, depth: int) -> int:
        if not 8 <= depth <= 2000 or (depth - 2) % 6:
            lower = min(max(8, depth - (depth - 2) % 6), 1994)
            raise ValueError(f"Input should be 6n + 2 from 8 to 2000; the nearest are {lower} and {lower + 6}")
        return depth

    @property
    def stage_widths(self) -> tuple[int, int, int]:
        """Channels of the three stages."""
        first, second, third = (max(1, round(base * self.width)) for base in (16, 32, 64))
        return first, second, third


class BasicBlock(nn.Module):
    """Two 3x3 convolutions added to a parameter-free shortcut (option A), `(N, C, H, W) -> (N, C', H', W')`."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.added_channels = out_channels - in_channels

    def forward(self, x: Tensor) -> Tensor:
        """`(N, C, H, W) -> (N, C', H / stride, W / stride)`."""
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        shortcut = x[:, :, :: self.stride, :: self.stride]
        sum_: Tensor = self.relu(residual + F.pad(shortcut, (0, 0, 0, 0, 0, self.added_channels)))
        return sum_


class ResNet(nn.Module):
    """Images to class scores, `(N, in_channels, H, W) -> (N, num_classes)`."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        blocks = (config.depth - 2) // 6
        channels = config.stage_widths[0]
        self.conv1 = nn.Conv2d(config.in_channels, channels, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        stages: list[nn.Sequential] = []
        for width in config.stage_widths:
            stage = nn.Sequential()
            for index in range(blocks):
                stride = 2 if stages and index == 0 else 1
                stage.append(BasicBlock(channels, width, stride))
                channels = width
            stages.append(stage)
        self.layer1, self.layer2, self.layer3 = stages
        self.fc = nn.Linear(channels, config.num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.fc.bias)

    def forward(self, images: Tensor) -> Tensor:
        """`(N, in_channels, H, W) -> (N, num_classes)`."""
        x = self.relu(self.bn1(self.conv1(images)))
        x = self.layer3(self.layer2(self.layer1(x)))
        scores: Tensor = self.fc(x.mean((-2, -1)))
        return scores

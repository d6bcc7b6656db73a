"""Group norm for any number of channels and any size of feature maps."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """A group norm that accepts groups with a single value, which torch refuses; its output is the bias."""

    def forward(self, input: Tensor) -> Tensor:
        """`(N, C, H, W) -> (N, C, H, W)`."""
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(channels: int, groups: int) -> nn.Module:
    """Makes a group norm (Wu and He 2018). At most `groups` groups: the largest number that divides the channels."""
    return GroupNorm(max(count for count in range(1, groups + 1) if channels % count == 0), channels)

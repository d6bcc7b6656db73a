"""Group norm as DenseNets need it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class GroupNorm(nn.GroupNorm):
    """torch's, which refuses the single value that a 1 x 1 map may leave to a group; here it becomes the bias."""

    def forward(self, input: Tensor) -> Tensor:
        """`(N, C, H, W) -> (N, C, H, W)`."""
        return torch.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)


def group_norm(channels: int, groups: int) -> nn.Module:
    """Group norm (Wu and He 2018) with the largest number of groups, not above `groups`, that divides the channels."""
    return GroupNorm(max(count for count in range(1, groups + 1) if channels % count == 0), channels)

"""The CIFAR ResNet against its paper's sizes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from densenet import ResNetConfig, build, count_params
from densenet.resnet import BasicBlock

PUBLISHED = {20: 269_722, 32: 464_154, 44: 658_586, 56: 853_018, 110: 1_727_962}  # option A, ten classes


@pytest.mark.parametrize("depth", PUBLISHED)
def test_published_params(depth):
    assert count_params(ResNetConfig(depth=depth)) == PUBLISHED[depth]


def closed_formula(config: ResNetConfig) -> int:
    """3x3 convolutions with their norms, and the classifier; shortcuts have no parameters."""
    blocks, inputs = (config.depth - 2) // 6, config.stage_widths[0]
    total = 9 * config.in_channels * inputs + 2 * inputs
    for width in config.stage_widths:
        for _ in range(blocks):
            total += 9 * inputs * width + 2 * width + 9 * width * width + 2 * width
            inputs = width
    return total + inputs * config.num_classes + config.num_classes


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([8, 14]), st.floats(0.05, 2.0), st.integers(1, 3), st.integers(1, 7))
def test_params_and_shapes_of_any_width(depth, width, channels, classes):
    config = ResNetConfig(depth=depth, width=width, in_channels=channels, num_classes=classes)
    network = build(config)
    assert sum(parameter.numel() for parameter in network.parameters()) == closed_formula(config)
    assert network(torch.randn(2, channels, 9, 9)).shape == (2, classes)


def test_option_a_subsamples_and_pads_with_zeros():
    block = BasicBlock(2, 5, stride=2).eval()
    torch.nn.init.zeros_(block.bn2.weight)
    x = torch.rand(1, 2, 4, 4)
    y = block(x)
    torch.testing.assert_close(y[:, :2], x[:, :, ::2, ::2])
    assert not y[:, 2:].any()


@pytest.mark.parametrize(("depth", "nearest"), [(21, "20 and 26"), (7, "8 and 14"), (-4, "8 and 14")])
def test_a_depth_that_does_not_fit_names_its_neighbours(depth, nearest):
    with pytest.raises(ValidationError, match=nearest):
        ResNetConfig(depth=depth)

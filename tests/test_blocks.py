"""The blocks against the paper's equations, written here a second time."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from densenet.blocks import DenseBlock, DenseLayer, Transition
from densenet.options import LayerOrder

ORDERS = get_args(LayerOrder)


def conv_params(order: str, inputs: int, outputs: int, kernel: int) -> int:
    """Weights of a convolution and the two vectors of the norm beside it."""
    normed = inputs if order.index("norm") < order.index("conv") else outputs
    return inputs * outputs * kernel**2 + 2 * normed


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bn_size", [0, 4])
def test_params_of_a_block_equal_the_closed_formula(order, bn_size):
    expected = 0
    for index in range(3):
        inputs, k = 16 + 8 * index, 8
        if bn_size:
            expected += conv_params(order, inputs, bn_size * k, 1) + conv_params(order, bn_size * k, k, 3)
        else:
            expected += conv_params(order, inputs, k, 3)
    block = DenseBlock(3, 16, 8, bn_size, order, "none")
    assert sum(parameter.numel() for parameter in block.parameters()) == expected


@pytest.mark.parametrize("order", ORDERS)
def test_every_convolution_has_one_norm_and_one_activation_in_the_order_asked_for(order):
    layer = DenseLayer(16, 8, 4, order, "none")
    kinds = {nn.BatchNorm2d: "norm", nn.ReLU: "act", nn.Conv2d: "conv"}
    assert "-".join(kinds[type(module)] for module in layer) == f"{order}-{order}"


def test_the_default_layer_is_the_papers_composite_function():
    layer = DenseLayer(6, 2, 4, "norm-act-conv", "none").double().eval()
    features = [torch.randn(2, 4, 5, 5).double(), torch.randn(2, 2, 5, 5).double()]
    x = torch.cat(features, 1)
    hidden = layer.conv1(torch.relu(layer.norm1(x)))
    expected = layer.conv2(torch.relu(layer.norm2(hidden)))
    torch.testing.assert_close(layer(features), expected)


def test_a_block_gives_its_input_first_and_then_every_layer_s_features():
    block = DenseBlock(2, 4, 3, 0, "norm-act-conv", "none").eval()
    x = torch.randn(2, 4, 5, 5)
    y = block(x)
    assert y.shape == (2, 10, 5, 5)
    torch.testing.assert_close(y[:, :4], x)
    first = block["denselayer1"]([x])
    torch.testing.assert_close(y[:, 4:7], first)
    torch.testing.assert_close(y[:, 7:], block["denselayer2"]([x, first]))


@pytest.mark.parametrize("order", ORDERS)
def test_a_block_leaves_its_input_as_it_was(order):
    block = DenseBlock(2, 4, 3, 2, order, "none")
    x = torch.randn(2, 4, 5, 5)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("order", ORDERS)
def test_a_transition_compresses_halves_and_pools_last(order):
    transition = Transition(10, 5, order)
    assert transition(torch.randn(2, 10, 7, 7)).shape == (2, 5, 3, 3)
    assert [name for name, _ in transition.named_children()][-1] == "pool"
    assert sum(p.numel() for p in transition.parameters()) == conv_params(order, 10, 5, 1)


@pytest.mark.parametrize("order", ORDERS)
def test_gradients_of_a_block_are_right_in_double_precision(order):
    torch.manual_seed(0)
    block = DenseBlock(2, 3, 2, 2, order, "none").double()
    x = torch.randn(2, 3, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))

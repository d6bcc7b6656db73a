"""The blocks against the paper's equations, written here a second time."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import nn

from densenet import DenseNetConfig
from densenet.blocks import DenseBlock, DenseLayer, Transition
from densenet.options import Connectivity, LayerOrder

ORDERS = get_args(LayerOrder)
CONNECTIVITIES = get_args(Connectivity)


def conv_params(order: str, inputs: int, outputs: int, kernel: int) -> int:
    """Weights of a convolution and the two vectors of the norm beside it."""
    normed = inputs if order.index("norm") < order.index("conv") else outputs
    return inputs * outputs * kernel**2 + 2 * normed


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("bn_size", [0, 4])
@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
def test_params_of_a_block_equal_the_closed_formula(order, bn_size, connectivity):
    expected, k = 0, 8
    for index in range(3):
        inputs, outputs = (16 + k * index, k) if connectivity == "concat" else (16, 16)
        if bn_size:
            expected += conv_params(order, inputs, bn_size * k, 1) + conv_params(order, bn_size * k, outputs, 3)
        else:
            expected += conv_params(order, inputs, outputs, 3)
    block = DenseBlock(DenseNetConfig(bn_size=bn_size, layer_order=order, connectivity=connectivity), 3, 16, k)
    assert sum(parameter.numel() for parameter in block.parameters()) == expected


@pytest.mark.parametrize("order", ORDERS)
def test_every_convolution_has_one_norm_and_one_activation_in_the_order_asked_for(order):
    layer = DenseLayer(DenseNetConfig(layer_order=order), 16, 8)
    kinds = {nn.BatchNorm2d: "norm", nn.ReLU: "act", nn.Conv2d: "conv"}
    assert "-".join(kinds[type(module)] for module in layer) == f"{order}-{order}"


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({}, "norm1 relu1 conv1 norm2 relu2 conv2"),
        ({"dropout": 0.2}, "norm1 relu1 conv1 norm2 relu2 conv2 drop2"),
        ({"dropout": 0.2, "dropout_place": "convolution"}, "norm1 relu1 conv1 drop1 norm2 relu2 conv2 drop2"),
        ({"dropout": 0.2, "bn_size": 0}, "norm1 relu1 conv1 drop1"),
        ({"dropout": 0.2, "layer_order": "conv-norm-act", "bn_size": 0}, "conv1 drop1 norm1 relu1"),
        ({"norm": "none", "activation": "gelu"}, "gelu1 conv1 gelu2 conv2"),
    ],
)
def test_a_layer_s_parts_by_name(fields, names):
    assert [name for name, _ in DenseLayer(DenseNetConfig(**fields), 16, 8).named_children()] == names.split()


def test_a_layer_s_group_norms_have_the_groups_asked_for():
    layer = DenseLayer(DenseNetConfig(norm="group", norm_groups=8), 16, 6)
    assert (layer.norm1.num_groups, layer.norm2.num_groups) == (8, 8)


@pytest.mark.parametrize(("place", "dropped"), [("layer", False), ("convolution", True)])
def test_a_transition_drops_only_where_every_convolution_does(place, dropped):
    transition = Transition(DenseNetConfig(dropout=0.1, dropout_place=place), 8)
    assert any(isinstance(module, nn.Dropout) for module in transition) == dropped


def test_a_convolution_has_a_bias_just_where_no_norm_shifts_it():
    for norm, biased in (("batch", False), ("group", False), ("none", True)):
        assert (DenseLayer(DenseNetConfig(norm=norm), 16, 8).conv1.bias is not None) == biased


def test_the_default_layer_is_the_paper_s_composite_function():
    layer = DenseLayer(DenseNetConfig(), 6, 2).double().eval()
    features = [torch.randn(2, 4, 5, 5).double(), torch.randn(2, 2, 5, 5).double()]
    x = torch.cat(features, 1)
    hidden = layer.conv1(torch.relu(layer.norm1(x)))
    expected = layer.conv2(torch.relu(layer.norm2(hidden)))
    torch.testing.assert_close(layer(features), expected)


def test_a_block_gives_its_input_first_and_then_every_layer_s_features():
    block = DenseBlock(DenseNetConfig(bn_size=0), 2, 4, 3).eval()
    x = torch.randn(2, 4, 5, 5)
    y = block(x)
    assert y.shape == (2, 10, 5, 5)
    torch.testing.assert_close(y[:, :4], x)
    first = block["denselayer1"]([x])
    torch.testing.assert_close(y[:, 4:7], first)
    torch.testing.assert_close(y[:, 7:], block["denselayer2"]([x, first]))


@pytest.mark.parametrize("bn_size", [0, 2])
def test_a_block_may_add_or_replace_instead(bn_size):
    x = torch.randn(2, 4, 5, 5)
    for connectivity, keep in (("sum", 1), ("none", 0)):
        block = DenseBlock(DenseNetConfig(bn_size=bn_size, connectivity=connectivity), 2, 4, 3).eval()
        one, two = block.values()
        first = one([x]) + keep * x
        torch.testing.assert_close(block(x), two([first]) + keep * first)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
@pytest.mark.parametrize("norm", ["batch", "none"])
def test_a_block_leaves_its_input_as_it_was(order, connectivity, norm):
    block = DenseBlock(DenseNetConfig(layer_order=order, connectivity=connectivity, norm=norm), 2, 4, 3)
    x = torch.randn(2, 4, 5, 5)
    before = x.clone()
    block(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("order", ORDERS)
def test_a_transition_compresses_halves_and_pools_last(order):
    transition = Transition(DenseNetConfig(layer_order=order), 10)
    assert transition(torch.randn(2, 10, 7, 7)).shape == (2, 5, 3, 3)
    assert [name for name, _ in transition.named_children()][-1] == "pool"
    assert sum(p.numel() for p in transition.parameters()) == conv_params(order, 10, 5, 1)


def test_a_stream_of_constant_width_is_doubled_by_a_transition():
    assert Transition(DenseNetConfig(connectivity="sum"), 10)(torch.randn(2, 10, 6, 6)).shape == (2, 20, 3, 3)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
def test_gradients_of_a_block_are_right_in_double_precision(order, connectivity):
    torch.manual_seed(0)
    config = DenseNetConfig(bn_size=2, layer_order=order, connectivity=connectivity)
    block = DenseBlock(config, 2, 3, 2).double()
    x = torch.randn(2, 3, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))


@pytest.mark.parametrize("fields", [{"norm": "group"}, {"norm": "none"}, {"activation": "silu"}, {"activation": "elu"}])
def test_gradients_of_other_norms_and_activations_are_right_too(fields):
    torch.manual_seed(0)
    block = DenseBlock(DenseNetConfig(bn_size=2, **fields), 2, 4, 2).double()
    x = torch.randn(2, 4, 3, 3, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(block, (x,))
    assert torch.autograd.gradcheck(Transition(DenseNetConfig(**fields), 4).double(), (x,))

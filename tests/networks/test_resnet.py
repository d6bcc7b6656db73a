"""The ResNets against their papers' sizes and equations, and against torchvision's."""

from __future__ import annotations

import copy
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
import torchvision
from conftest import step_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import nn

from densenet import PRESETS, ResNetConfig, build, count_params
from densenet.resnet import Order, ResidualUnit

ORDERS = get_args(Order)


def closed_formula(config: ResNetConfig) -> int:
    """Convolutions, each with its norm, shortcuts, and the classifier: from the papers' tables alone."""
    imagenet, basic = config.stem == "imagenet", config.block == "basic"
    units = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
    counts = units[config.depth] if imagenet else [(config.depth - 2) // (6 if basic else 9)] * 3
    widths = [max(1, round(base * config.width)) for base in ((64, 128, 256, 512) if imagenet else (16, 32, 64))]
    inputs = widths[0]
    total = (49 if imagenet else 9) * config.in_channels * inputs + 2 * inputs
    for stage, (count, width) in enumerate(zip(counts, widths, strict=True)):
        for unit in range(count):
            output = width if basic else 4 * width
            if basic:
                convs = [(9, inputs, width), (9, width, width)]
            else:
                convs = [(1, inputs, width), (9, width, width), (1, width, output)]
            if config.shortcut == "projection" and (inputs != output or (stage and not unit)):
                total += inputs * output
                total += 2 * output if config.order not in ("norm-after-addition", "full-pre-activation") else 0
            pre_activation = config.order == "full-pre-activation"
            for number, (kernel, a, b) in enumerate(convs):
                total += kernel * a * b
                if not (pre_activation and stage == unit == number == 0):  # the stem's norm serves
                    total += 2 * (a if pre_activation else b)
            inputs = output
    total += 2 * inputs if config.order == "full-pre-activation" else 0
    return total + inputs * config.num_classes + config.num_classes


configs = st.builds(
    ResNetConfig,
    block=st.just("basic"),
    depth=st.sampled_from([8, 14]),
    shortcut=st.sampled_from(["pad", "projection"]),
    order=st.sampled_from(ORDERS),
    width=st.floats(0.05, 1.5),
    in_channels=st.integers(1, 3),
    num_classes=st.integers(1, 7),
) | st.builds(
    ResNetConfig,
    block=st.just("bottleneck"),
    depth=st.sampled_from([11, 20]),
    shortcut=st.sampled_from(["pad", "projection"]),
    order=st.sampled_from(ORDERS),
    width=st.floats(0.05, 0.5),
)


@settings(max_examples=60, deadline=None)
@given(configs, st.integers(1, 9), st.integers(5, 9))
def test_any_valid_configuration_trains_every_parameter(config, height, width):
    network = build(config)
    scores = network(torch.randn(3, config.in_channels, height, width))
    assert scores.shape == (3, config.num_classes)
    (scores**2).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert sum(parameter.numel() for parameter in network.parameters()) == closed_formula(config)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("depth", [18, 50])
def test_params_of_imagenet_s_orders(order, depth):
    block = "basic" if depth == 18 else "bottleneck"
    config = ResNetConfig(stem="imagenet", depth=depth, block=block, shortcut="projection", order=order)
    assert count_params(config) == closed_formula(config)


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_preset_is_torchvision_s_network(name):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).double()
    ours = build(name).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(2, 3, 40, 33, dtype=torch.double)
    for train in (True, False):
        expected, found = (step_of(network, images, train) for network in (theirs, ours))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-10, msg=key)


FIGURE_4 = {
    "original": lambda u, x: F.relu(x + u.bn2(u.conv2(F.relu(u.bn1(u.conv1(x)))))),
    "norm-after-addition": lambda u, x: F.relu(u.bn2(x + u.conv2(F.relu(u.bn1(u.conv1(x)))))),
    "act-before-addition": lambda u, x: x + F.relu(u.bn2(u.conv2(F.relu(u.bn1(u.conv1(x)))))),
    "act-only-pre-activation": lambda u, x: x + u.bn2(u.conv2(F.relu(u.bn1(u.conv1(F.relu(x)))))),
    "full-pre-activation": lambda u, x: x + u.conv2(F.relu(u.bn2(u.conv1(F.relu(u.bn1(x)))))),
}
"""He et al. 2016b, Figure 4 (a) to (e), written out."""


@pytest.mark.parametrize("order", ORDERS)
def test_a_unit_is_the_paper_s_figure(order):
    torch.manual_seed(0)
    unit = ResidualUnit(ResNetConfig(order=order), 4, 4, 1, first=False).double()
    x = torch.randn(3, 4, 5, 5, dtype=torch.double)
    before = x.clone()
    torch.testing.assert_close(unit(x), FIGURE_4[order](unit, x))
    assert torch.equal(x, before), "the shortcut's input is left as it was"


def test_a_projection_shares_the_pre_activation():
    """He et al. 2016b, appendix: these projection shortcuts are also with pre-activation."""
    unit = ResidualUnit(ResNetConfig(order="full-pre-activation", shortcut="projection"), 4, 8, 2, first=False).double()
    assert unit.downsample is not None
    x = torch.randn(3, 4, 6, 6, dtype=torch.double)
    shared = F.relu(unit.bn1(x))
    expected = unit.downsample(shared) + unit.conv2(F.relu(unit.bn2(unit.conv1(shared))))
    torch.testing.assert_close(unit(x), expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("shortcut", ["pad", "projection"])
def test_gradients_of_a_unit_are_right_in_double_precision(order, shortcut):
    torch.manual_seed(0)
    unit = ResidualUnit(ResNetConfig(order=order, shortcut=shortcut), 2, 3, 2, first=False).double()
    x = torch.randn(2, 2, 4, 4, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(unit, (x,))


def test_option_a_subsamples_and_pads_with_zeros():
    unit = ResidualUnit(ResNetConfig(), 2, 5, stride=2, first=False).eval()
    torch.nn.init.zeros_(unit.bn2.weight)
    x = torch.rand(1, 2, 4, 4)
    y = unit(x)
    torch.testing.assert_close(y[:, :2], x[:, :, ::2, ::2])
    assert not y[:, 2:].any()


@pytest.mark.parametrize("init", ["fan-out", "fan-in"])
def test_convolutions_start_as_he_et_al_have_it(init):
    torch.manual_seed(0)
    network = build(ResNetConfig(depth=8, width=4.0, init=init))
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            fan = (module.out_channels if init == "fan-out" else module.in_channels) * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan) ** 0.5, rel=0.05), name


def test_weights_are_drawn_with_torchvision_s_variance():
    torch.manual_seed(0)
    ours, theirs = (dict(network.named_parameters()) for network in (build("resnet18"), torchvision.models.resnet18()))
    spread = {name: (ours[name].std() / theirs[name].std()).item() for name in theirs if theirs[name].dim() == 4}
    assert spread == pytest.approx(dict.fromkeys(spread, 1.0), rel=0.03)
    by_fan_in = build(PRESETS["resnet50"].model_copy(update={"init": "fan-in"}))
    ratio = (by_fan_in.conv1.weight.var() / build("resnet50").conv1.weight.var()).item()
    assert ratio == pytest.approx(64 / 3, rel=0.1), "21 times: 64 channels out, 3 in"


def test_an_identity_shortcut_copies_nothing():
    x = torch.randn(1, 4, 5, 5)
    assert ResidualUnit(ResNetConfig(), 4, 4, 1, first=False)._shortcut(x) is x


def test_a_pre_activation_network_ends_with_what_its_last_sum_is_owed():
    parts = {order: [type(module) for module in build(ResNetConfig(depth=8, order=order)).head] for order in ORDERS}
    assert parts.pop("full-pre-activation") == [nn.BatchNorm2d, nn.ReLU]
    assert parts.pop("act-only-pre-activation") == [nn.ReLU]
    assert all(head == [] for head in parts.values())


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"depth": 21}, "6n . 2 .* the nearest are 20 and 26"),
        ({"depth": 7}, "8 and 14"),
        ({"depth": -4}, "8 and 14"),
        ({"depth": 9999}, "1994 and 2000"),
        ({"depth": 110, "block": "bottleneck", "width": 0.0}, "greater than 0"),
        ({"depth": 163, "block": "bottleneck"}, "9n . 2 .* the nearest are 155 and 164"),
        ({"depth": 5000, "block": "bottleneck"}, "1991 and 2000"),
        ({"depth": 50, "stem": "imagenet"}, r"allowed are 18, 34 \(basic\); 50, 101, 152 \(bottleneck\)"),
        ({"depth": 18, "stem": "imagenet", "block": "bottleneck"}, r"allowed are 18, 34 \(basic\)"),
        ({"order": "pre-activation"}, "'full-pre-activation'"),
    ],
)
def test_invalid_fields_are_refused(fields, rule):
    with pytest.raises(ValidationError, match=rule):
        ResNetConfig(**fields)


@pytest.mark.parametrize("depth", [8, 2000, 11, 1991])
def test_the_nearest_depths_named_are_depths(depth):
    assert ResNetConfig(depth=depth, block="basic" if (depth - 2) % 6 == 0 else "bottleneck").depth == depth


@pytest.mark.parametrize("order", ORDERS)
def test_a_small_network_is_exported(order):
    network = build(ResNetConfig(depth=11, block="bottleneck", width=0.1, order=order, shortcut="projection")).eval()
    images = torch.randn(2, 3, 8, 8)
    exported = torch.export.export(network, (images,))
    torch.testing.assert_close(exported.module()(images), network(images))


def test_a_copy_and_a_state_dict_give_the_same_scores():
    torch.manual_seed(0)
    config = ResNetConfig(depth=8, width=0.25, order="full-pre-activation", shortcut="projection")
    network, again = build(config), build(config)
    images = torch.randn(2, 3, 8, 8)
    network(images)
    again.load_state_dict(load(save(network.state_dict())), strict=True)
    for other in (copy.deepcopy(network), again):
        assert torch.equal(other.eval()(images), network.eval()(images))

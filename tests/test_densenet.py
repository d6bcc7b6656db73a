"""DenseNet against published sizes, against torchvision's, and over random configurations."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from densenet import PRESETS, DenseNetConfig, build, count_params
from densenet.options import Checkpoint, LayerOrder

PUBLISHED = {
    "densenet-bc-100-12": 769_162,  # 0.8M in Huang et al. 2017, Table 2
    "densenet121": 7_978_856,  # torchvision's
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_params(name):
    assert count_params(PRESETS[name]) == PUBLISHED[name]


@pytest.mark.parametrize(
    ("config", "params"),
    [
        (DenseNetConfig(block_config=(12, 12, 12), bn_size=0, compression=1.0, init_features=16), 1_019_722),
        (DenseNetConfig(block_config=(41, 41, 41), growth_rate=24), 15_324_406),
        (DenseNetConfig(block_config=(31, 31, 31), growth_rate=40), 25_624_430),
    ],
    ids=["densenet-40-12", "densenet-bc-250-24", "densenet-bc-190-40"],
)
def test_params_of_the_papers_other_networks(config, params):
    assert count_params(config) == params


def test_layer_orders_of_bc_100_12_have_two_sizes():
    sizes = {order: count_params(DenseNetConfig(layer_order=order)) for order in get_args(LayerOrder)}
    before = [size for order, size in sizes.items() if order.index("norm") < order.index("conv")]
    after = [size for order, size in sizes.items() if order.index("norm") > order.index("conv")]
    assert before == [769_162] * 3
    assert after == [751_498] * 3


def test_torchvision_s_weights_give_torchvision_s_outputs_gradients_and_buffers():
    torch.manual_seed(0)
    theirs = torchvision.models.DenseNet(16, (2, 3), 32, num_classes=7).double()
    ours = build(DenseNetConfig(block_config=(2, 3), growth_rate=16, init_features=32, stem="imagenet", num_classes=7))
    ours = ours.double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(3, 3, 40, 40, dtype=torch.double)
    for train in (True, False):
        results = []
        for network in (theirs.train(train), ours.train(train)):
            network.zero_grad()
            scores = network(images)
            scores.logsumexp(1).sum().backward()
            gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
            results.append({"scores": scores, **gradients, **dict(network.named_buffers())})
        for name, value in results[0].items():
            torch.testing.assert_close(results[1][name], value, rtol=1e-10, atol=1e-10)


def test_a_growth_rate_per_block():
    network = build(DenseNetConfig(block_config=(2, 2), growth_rate=(4, 8), compression=1.0))
    assert network.classifier.in_features == 8 + 2 * 4 + 2 * 8


@pytest.mark.parametrize(
    ("theta", "channels", "kept"), [(0.29, 100, 29), (0.35, 180, 63), (0.5, 27, 13), (0.001, 9, 1)]
)
def test_a_transition_keeps_the_floor_of_theta_m(theta, channels, kept):
    config = DenseNetConfig(block_config=(1, 1), growth_rate=1, init_features=channels - 1, compression=theta)
    assert build(config).features.transition1.conv.out_channels == kept


@pytest.mark.parametrize("stem", ["cifar", "imagenet"])
def test_the_smallest_image_works_and_a_smaller_one_is_refused(stem):
    config = DenseNetConfig(block_config=(1, 1, 1), growth_rate=2, stem=stem)
    network = build(config).eval()
    size = config.smallest_image
    assert network(torch.randn(1, 3, size, size)).shape == (1, 10)
    with pytest.raises(ValueError, match=f"too small .* at least {size} x {size}"):
        network(torch.randn(1, 3, size, size - 1))


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"compression": 1.5}, "less than or equal to 1"),
        ({"compression": float("nan")}, "finite"),
        ({"growth_rate": 0}, "whole number above 0"),
        ({"growth_rate": (4, 8)}, "2 entries for 3 blocks"),
        ({"growth_rate": True}, "whole number above 0"),
        ({"block_config": ()}, "at least 1"),
        ({"layer_order": "norm-conv"}, "norm-act-conv"),
        ({"bn_size": 2.0}, "integer"),
        ({"grwoth_rate": 12}, "Extra inputs"),
    ],
)
def test_invalid_fields_are_refused(fields, rule):
    with pytest.raises(ValidationError, match=rule):
        DenseNetConfig(**fields)


configs = st.builds(
    DenseNetConfig,
    block_config=st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
    growth_rate=st.integers(1, 6),
    init_features=st.integers(0, 9),
    bn_size=st.integers(0, 4),
    compression=st.floats(0.01, 1.0),
    layer_order=st.sampled_from(get_args(LayerOrder)),
    checkpoint=st.sampled_from(get_args(Checkpoint)),
    in_channels=st.integers(1, 4),
    num_classes=st.integers(1, 12),
)


@settings(max_examples=40, deadline=None)
@given(configs)
def test_any_valid_configuration_trains_every_parameter(config):
    network = build(config)
    scores = network(torch.randn(2, config.in_channels, 8, 8))
    assert scores.shape == (2, config.num_classes)
    (scores**2).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert sum(parameter.numel() for parameter in network.parameters()) == count_params(config)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'densenet121'"):
        build("densenet12")

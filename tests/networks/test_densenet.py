"""DenseNet against the paper's formulas, against torchvision's, and over random configurations."""

from __future__ import annotations

import copy
import re
from math import floor
from typing import get_args

import pytest
import torch
import torchvision
from conftest import step_of
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.torch import load, save
from torch import nn

from densenet import DenseNet, build, count_params
from densenet.config import DenseNetConfig
from densenet.options import ACTIVATIONS, NORMS, Checkpoint, Connectivity, DropoutPlace, LayerOrder

ORDERS = get_args(LayerOrder)
CONNECTIVITIES = get_args(Connectivity)


def paper_params(config: DenseNetConfig) -> int:
    """Weights and biases of a DenseNet, from the paper's equations and numbers alone."""
    norm_first = config.layer_order.index("norm") < config.layer_order.index("conv")
    total = 0

    def add(inputs: int, outputs: int, kernel: int, normed: int) -> int:
        nonlocal total
        total += inputs * outputs * kernel**2 + (outputs if config.norm == "none" else 2 * normed)
        return outputs

    rates = config.growth_rate if isinstance(config.growth_rate, tuple) else [config.growth_rate] * 8
    stem = config.init_features or 2 * rates[0]
    if config.stem == "imagenet":
        m = add(config.in_channels, stem, 7, stem)
    else:
        m = add(config.in_channels, stem, 3, 0 if norm_first else stem)
    for number, (layers, k) in enumerate(zip(config.block_config, rates, strict=False)):
        if number:
            narrow = 2 * m if config.connectivity != "concat" else max(1, floor(config.compression * m + 1e-6))
            m = add(m, narrow, 1, m if norm_first else narrow)
        for _ in range(layers):
            out = k if config.connectivity == "concat" else m
            wide = config.bn_size * k
            if wide:
                add(m, wide, 1, m if norm_first else wide)
                add(wide, out, 3, wide if norm_first else out)
            else:
                add(m, out, 3, m if norm_first else out)
            m += k if config.connectivity == "concat" else 0
    if norm_first and config.norm != "none":
        total += 2 * m
    return total + m * config.num_classes + config.num_classes


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
@pytest.mark.parametrize("bn_size", [0, 4])
def test_every_parameter_is_used_and_counted_whatever_is_recomputed(order, connectivity, bn_size):
    for kind in get_args(Checkpoint):
        config = DenseNetConfig(
            block_config=(2, 1), growth_rate=3, layer_order=order, connectivity=connectivity, bn_size=bn_size,
            checkpoint=kind, num_classes=7,
        )  # fmt: skip
        torch.manual_seed(0)
        network = build(config)
        scores = network(torch.randn(3, 3, 8, 6))
        assert scores.shape == (3, 7)
        (scores**2).sum().backward()
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
            assert parameter.grad.any(), name
        assert sum(parameter.numel() for parameter in network.parameters()) == paper_params(config)


@pytest.mark.parametrize("order", ORDERS)
def test_the_formula_misses_every_norm_that_is_taken_out(order):
    config = DenseNetConfig(block_config=(1, 1), growth_rate=3, layer_order=order)
    norms = [name for name, module in build(config).named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 6, "one for every convolution"
    for name in norms:
        network = build(config)
        network.set_submodule(name, nn.Identity())
        assert sum(parameter.numel() for parameter in network.parameters()) < paper_params(config), name


def test_layer_orders_of_bc_100_12_have_two_sizes():
    sizes = {order: count_params(DenseNetConfig(layer_order=order)) for order in ORDERS}
    before = [size for order, size in sizes.items() if order.index("norm") < order.index("conv")]
    after = [size for order, size in sizes.items() if order.index("norm") > order.index("conv")]
    assert before == [769_162] * 3
    assert after == [751_498] * 3


@pytest.mark.parametrize(
    ("fields", "blocks"),
    [
        ({"depth": 100}, (16, 16, 16)),
        ({"depth": 40, "bn_size": 0}, (12, 12, 12)),
        ({"depth": 7, "bn_size": 0}, (1, 1, 1)),
        ({"depth": 190}, (31, 31, 31)),
        ({"depth": 169, "stem": "imagenet"}, (6, 12, 32, 32)),
        ({"depth": 264, "stem": "imagenet"}, (6, 12, 64, 48)),
    ],
)
def test_the_paper_s_depth_is_a_block_config(fields, blocks):
    by_depth = DenseNetConfig(**fields)
    by_blocks = DenseNetConfig(block_config=blocks, **{key: fields[key] for key in fields if key != "depth"})
    assert by_depth.block_config == blocks
    assert by_depth == by_blocks, "one network, one configuration"
    assert by_depth.depth == by_blocks.depth == fields["depth"]
    assert by_depth.model_dump() == by_blocks.model_dump()
    assert "depth" not in by_depth.model_dump(), "block_config says it"


def test_without_bottlenecks_the_imagenet_blocks_are_less_deep():
    assert DenseNetConfig(stem="imagenet", block_config=(6, 12, 24, 16), bn_size=0).depth == 58 + 5


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        (
            {"depth": 41},
            "6n . 4, three blocks of n layers with bottlenecks, from 10 to 6004; the nearest are 40 and 46",
        ),
        ({"depth": 41, "bn_size": 0}, "3n . 4, .* without bottlenecks, from 7 to 3004; the nearest are 40 and 43"),
        ({"depth": 1}, "the nearest are 10 and 16"),
        ({"depth": 0}, "greater than 0"),
        ({"depth": 9999}, "the nearest are 5998 and 6004"),
        ({"depth": 122, "stem": "imagenet"}, "depth is one of 121, 161, 169, 201, 264; else give block_config"),
        ({"depth": 121, "stem": "imagenet", "bn_size": 0}, "else give block_config"),
        ({"depth": 40, "block_config": (16, 16, 16)}, "say the same thing: give one of them"),
        ({"compression": 1.5}, "less than or equal to 1"),
        ({"compression": float("nan")}, "finite"),
        ({"growth_rate": 0}, "whole number above 0"),
        ({"growth_rate": (4, 8)}, "2 entries for 3 blocks"),
        ({"growth_rate": (4, 8), "depth": 40}, "2 entries for 3 blocks"),
        ({"growth_rate": True}, "whole number above 0"),
        ({"block_config": ()}, "at least 1"),
        ({"layer_order": "norm-conv"}, "norm-act-conv"),
        ({"connectivity": "add"}, "'concat', 'sum' or 'none'"),
        ({"norm": "layer"}, "allowed are 'batch', 'group', 'none'"),
        ({"activation": "rleu"}, "did you mean 'relu'"),
        ({"dropout": 1.0}, "less than 1"),
        ({"dropout_place": "everywhere"}, "'layer' or 'convolution'"),
        ({"norm_groups": 0}, "greater than 0"),
        ({"bn_size": 2.0}, "integer"),
        ({"grwoth_rate": 12}, "Extra inputs"),
    ],
)
def test_invalid_fields_are_refused(fields, rule):
    with pytest.raises(ValidationError, match=rule):
        DenseNetConfig(**fields)


SMALL = {"block_config": (2, 3), "growth_rate": 16, "init_features": 32, "stem": "imagenet", "num_classes": 7}


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_torchvision_s_weights_give_torchvision_s_outputs_gradients_and_buffers(dropout):
    torch.manual_seed(0)
    theirs = torchvision.models.DenseNet(16, (2, 3), 32, num_classes=7, drop_rate=dropout).double()
    ours = build(DenseNetConfig(**SMALL, dropout=dropout)).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = torch.randn(3, 3, 40, 40, dtype=torch.double)
    for train in (True, False):
        expected, found = (step_of(network, images, train) for network in (theirs, ours))
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("implementation", ["textbook", "normalize-once"])
def test_a_published_file_with_the_older_names_is_read(implementation):
    """`denselayer1.norm.1.weight`, and without the counters of batches that PyTorch did not have yet."""
    theirs = torchvision.models.DenseNet(16, (2, 3), 32, num_classes=7)
    older = {
        re.sub(r"(denselayer\d+\.(?:norm|conv))([12]\.)", r"\1.\2", name): tensor
        for name, tensor in theirs.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    assert "features.denseblock2.denselayer3.norm.2.running_mean" in older
    for prefix in ("", "0."):
        ours = build(DenseNetConfig(**SMALL, implementation=implementation))
        module = torch.nn.Sequential(ours) if prefix else ours
        module.load_state_dict({prefix + name: tensor for name, tensor in older.items()}, strict=True)
        assert all(torch.equal(tensor, ours.state_dict()[name]) for name, tensor in theirs.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        ours.load_state_dict({"features.denseblock1.denselayer1.norm.3.weight": torch.zeros(1)})


@pytest.mark.parametrize("name", ["densenet121", "densenet161", "densenet169", "densenet201"])
def test_a_preset_is_torchvision_s_network(name):
    torch.manual_seed(0)
    theirs = torchvision.models.get_model(name, weights=None).double()
    ours = build(name).double()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    assert list(theirs.state_dict()) == list(ours.state_dict())
    images = torch.randn(2, 3, 33, 33, dtype=torch.double)
    for train in (True, False):
        expected, found = (step_of(network, images, train) for network in (theirs, ours))
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-10, msg=key)


@pytest.mark.parametrize(
    ("order", "stem", "head"),
    [
        ("norm-act-conv", "conv0", "norm5 relu5"),
        ("act-norm-conv", "conv0", "relu5 norm5"),
        ("norm-conv-act", "conv0 relu0", "norm5"),
        ("act-conv-norm", "conv0 norm0", "relu5"),
        ("conv-norm-act", "conv0 norm0 relu0", ""),
        ("conv-act-norm", "conv0 relu0 norm0", ""),
    ],
)
def test_stem_and_head_complete_the_order(order, stem, head):
    network = build(DenseNetConfig(block_config=(1,), growth_rate=2, layer_order=order))
    names = " ".join(name for name, _ in network.features.named_children())
    assert names.split() == [*stem.split(), "denseblock1", *head.split()]


CYCLES = (
    ("norm-act-conv", "act-conv-norm", "conv-norm-act"),
    ("norm-conv-act", "conv-act-norm", "act-norm-conv"),
)  # fmt: skip
"""Orders that differ only in where a cycle of norm, act and conv begins."""


@pytest.mark.parametrize("bn_size", [0, 4])
def test_six_layer_orders_are_two_networks_before_the_first_step(bn_size):
    """To the last bit, without transitions: a norm does the same for all readers until it has learnt something."""
    images, found = torch.randn(8, 3, 16, 16), []
    for cycle in CYCLES:
        scores = []
        for order in cycle:
            torch.manual_seed(0)
            config = DenseNetConfig(growth_rate=6, block_config=(3,), bn_size=bn_size, layer_order=order)
            scores.append(DenseNet(config).train()(images))
        assert torch.equal(scores[0], scores[1])
        assert torch.equal(scores[0], scores[2])
        found.append(scores[0])
    assert not torch.allclose(found[0], found[1], atol=0.1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"growth_rate": 12}, {"growth_rate": (12, 12, 12)}),
        ({}, {"norm_groups": 8}),
        ({}, {"dropout_place": "convolution"}),
        ({"connectivity": "sum"}, {"connectivity": "sum", "compression": 0.25}),
        ({"depth": 100}, {}),
    ],
)
def test_one_network_has_one_configuration(one, other):
    assert DenseNetConfig(**one) == DenseNetConfig(**other)
    assert DenseNetConfig(**one).model_dump() == DenseNetConfig(**other).model_dump()


def test_convolutions_start_as_he_et_al_have_it():
    torch.manual_seed(0)
    network = build(DenseNetConfig(block_config=(1, 1), growth_rate=64, norm="none"))
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.in_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.05), name
            assert not module.bias.any(), name
    assert not network.classifier.bias.any()


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
    assert network(torch.randn(1, 3, size, size + 2)).shape == (1, 10)
    for height, width in ((size, size - 1), (size - 1, size)):
        with pytest.raises(ValueError, match=f"{height} x {width} pixels is too small .* at least {size} x {size}"):
            network(torch.randn(1, 3, height, width))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("connectivity", CONNECTIVITIES)
def test_a_small_network_is_exported(order, connectivity):
    network = build(DenseNetConfig(block_config=(1, 1), growth_rate=2, layer_order=order, connectivity=connectivity))
    images = torch.randn(2, 3, 8, 8)
    exported = torch.export.export(network.eval(), (images,))
    torch.testing.assert_close(exported.module()(images), network(images))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("fields", [{}, {"connectivity": "sum", "dropout": 0.1}, {"stem": "imagenet", "norm": "group"}])
def test_torch_jit_scripts_a_densenet(fields):
    network = build(DenseNetConfig(block_config=(2, 2), growth_rate=4, **fields)).eval()
    scripted = torch.jit.script(network)
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(scripted(images), network(images))
    with pytest.raises(torch.jit.Error, match=r"of 0 x 16 pixels is too small"):
        scripted(torch.zeros(1, 3, 0, 16))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("checkpoint", ["bottleneck", "layer", "block"])
def test_torch_jit_scripts_a_network_that_recomputes_for_inference(checkpoint):
    """As of torchvision's `memory_efficient`: what would need a gradient is refused."""
    network = build(DenseNetConfig(block_config=(2, 2), growth_rate=4, checkpoint=checkpoint)).eval()
    scripted, images = torch.jit.script(network), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(scripted(images), network(images))
    with pytest.raises(torch.jit.Error, match="recomputed"):
        scripted(images)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_torch_jit_scripts_the_default_densenet():
    network = build(DenseNetConfig()).eval()
    images = torch.randn(1, 3, 8, 8)
    torch.testing.assert_close(torch.jit.script(network)(images), network(images))


def test_a_copy_and_a_state_dict_give_the_same_scores():
    torch.manual_seed(0)
    network = build(DenseNetConfig(block_config=(1, 1), growth_rate=4))
    images = torch.randn(2, 3, 8, 8)
    network(images)
    network.eval()
    again = build(DenseNetConfig(block_config=(1, 1), growth_rate=4)).eval()
    again.load_state_dict(load(save(network.state_dict())), strict=True)
    for other in (copy.deepcopy(network), again):
        assert torch.equal(other(images), network(images))


valid = st.fixed_dictionaries(
    {},
    optional={
        "block_config": st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple),
        "growth_rate": st.integers(1, 6),
        "init_features": st.integers(0, 9),
        "bn_size": st.integers(0, 4),
        "compression": st.floats(0.01, 1.0),
        "layer_order": st.sampled_from(ORDERS),
        "norm": st.sampled_from(list(NORMS)),
        "norm_groups": st.integers(1, 9),
        "activation": st.sampled_from(list(ACTIVATIONS)),
        "connectivity": st.sampled_from(CONNECTIVITIES),
        "dropout": st.floats(0, 0.5),
        "dropout_place": st.sampled_from(get_args(DropoutPlace)),
        "stem": st.sampled_from(["cifar", "imagenet"]),
        "checkpoint": st.sampled_from(get_args(Checkpoint)),
        "in_channels": st.integers(1, 4),
        "num_classes": st.integers(1, 12),
    },
)


@settings(max_examples=60, deadline=None)
@given(valid, st.integers(1, 3), st.integers(1, 3))
def test_any_valid_configuration_trains_every_parameter(fields, high, wide):
    config = DenseNetConfig(**{"block_config": (1, 2), "growth_rate": 3, **fields})
    network = build(config)
    size = config.smallest_image
    scores = network(torch.randn(3, config.in_channels, size + high, size + wide))
    assert scores.shape == (3, config.num_classes)
    (scores**2).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert sum(parameter.numel() for parameter in network.parameters()) == count_params(config) == paper_params(config)


anything = st.one_of(
    st.integers(-3, 12), st.floats(), st.booleans(), st.text(max_size=6), st.none(), st.lists(st.integers(-1, 9)),
    st.sampled_from([*ORDERS, *CONNECTIVITIES, *NORMS, *ACTIVATIONS, "layer", "block", "imagenet"]),
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([*DenseNetConfig.model_fields, "grwoth_rate"]), anything, max_size=3))
def test_any_configuration_is_refused_clearly_or_works(fields):
    try:
        config = DenseNetConfig(**{"block_config": (1,), **fields})
    except ValidationError:
        return  # which names the field, the value and what is allowed, as is tested above
    network = build(config).eval()
    size = config.smallest_image
    assert network(torch.randn(1, config.in_channels, size, size)).shape == (1, config.num_classes)

"""Recomputation changes memory, and neither gradients nor buffers by a single bit."""

from __future__ import annotations

from contextlib import nullcontext
from typing import get_args

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ablations.profiling.memory import LiveStorage
from densenet import DenseNetConfig, build
from densenet.options import Checkpoint, Connectivity, LayerOrder
from densenet.recompute import DiscardedBuffers, recompute

KINDS = [kind for kind in get_args(Checkpoint) if kind != "none"]


def step(checkpoint: str, autocast: bool, **fields) -> dict[str, torch.Tensor]:
    """Everything that a training step leaves behind, the state of the random numbers too."""
    torch.manual_seed(0)
    network = build(DenseNetConfig(block_config=(2, 2), growth_rate=4, checkpoint=checkpoint, **fields))
    images = torch.randn(4, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        scores = network(images)
    scores.float().logsumexp(1).sum().backward()
    gradients = {f"gradient of {name}": p.grad for name, p in network.named_parameters()}
    return {
        "scores": scores.detach(),
        "random": torch.random.get_rng_state(),
        **gradients,
        **dict(network.named_buffers()),
    }


def assert_recomputation_changes_nothing(autocast: bool, **fields):
    plain = step("none", autocast, **fields)
    for kind in KINDS:
        recomputed = step(kind, autocast, **fields)
        assert plain.keys() == recomputed.keys()
        for name, value in plain.items():
            assert torch.equal(value, recomputed[name]), (kind, name)
    return plain


@pytest.mark.parametrize("order", get_args(LayerOrder))
@pytest.mark.parametrize("bn_size", [0, 4])
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_gradients_and_buffers_are_those_of_the_plain_step(order, bn_size, autocast):
    plain = assert_recomputation_changes_nothing(autocast, layer_order=order, bn_size=bn_size)
    assert int(plain["features.denseblock1.denselayer1.norm1.num_batches_tracked"]) == 1


@pytest.mark.parametrize("connectivity", get_args(Connectivity))
@pytest.mark.parametrize("place", ["layer", "convolution"])
@pytest.mark.parametrize("autocast", [False, True], ids=["fp32", "bf16"])
def test_dropout_and_connectivity_do_not_matter(connectivity, place, autocast):
    plain = assert_recomputation_changes_nothing(autocast, connectivity=connectivity, dropout=0.3, dropout_place=place)
    undropped = step("none", autocast, connectivity=connectivity)
    assert not torch.equal(plain["scores"], undropped["scores"]), "dropout drops"


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_that_is_kept_is_recomputed_once_more(kind):
    def after_two_backwards(checkpoint: str) -> list[torch.Tensor]:
        torch.manual_seed(0)
        network = build(DenseNetConfig(block_config=(2, 2), growth_rate=4, checkpoint=checkpoint, dropout=0.2))
        scores = network(torch.randn(4, 3, 8, 8)).logsumexp(1).sum()
        scores.backward(retain_graph=True)
        scores.backward()
        gradients = [parameter.grad for parameter in network.parameters() if parameter.grad is not None]
        assert len(gradients) == len([*network.parameters()])
        return [*gradients, *network.buffers()]

    assert all(torch.equal(a, b) for a, b in zip(after_two_backwards("none"), after_two_backwards(kind), strict=True))


def test_the_more_is_recomputed_the_less_is_alive_after_a_forward_pass():
    def alive(checkpoint: str) -> int:
        network = build(DenseNetConfig(block_config=(6, 6), growth_rate=8, checkpoint=checkpoint))
        with LiveStorage() as live:
            scores = network(torch.randn(4, 3, 8, 8))
        assert scores.requires_grad
        return live.bytes

    none, bottleneck, layer, block = map(alive, ("none", "bottleneck", "layer", "block"))
    assert bottleneck < 0.8 * none
    assert layer < 0.8 * bottleneck
    assert block < layer


def test_random_numbers_are_replayed():
    module = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 8))
    x = torch.randn(4, 8)
    gradients = []
    for function in (module, lambda inputs: recompute(module, module, inputs)):
        module.zero_grad()
        torch.manual_seed(1)
        function(x).sum().backward()
        gradients.append([parameter.grad.clone() for parameter in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_buffers_come_back_even_after_an_error():
    norm = nn.BatchNorm2d(2)
    mean = norm.running_mean
    with pytest.raises(ValueError, match="expected 4D input"), DiscardedBuffers(nn.Sequential(norm)):
        nn.Sequential(norm, nn.Flatten(), norm)(torch.randn(4, 2, 3, 3))
    assert norm.running_mean is mean
    assert torch.equal(mean, torch.zeros(2))
    assert int(norm.num_batches_tracked) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize(
    "context", [torch.no_grad, torch.inference_mode, nullcontext], ids=["no", "inference", "frozen"]
)
def test_where_no_gradient_is_needed_the_network_is_the_plain_one(kind, training, context, monkeypatch):
    """The same operators, outputs and buffers; nothing is prepared for a backward pass."""
    monkeypatch.setattr("densenet.recompute.checkpoint", lambda *arguments, **options: pytest.fail("recomputed"))

    def infer(checkpoint: str) -> tuple[list[str], list[torch.Tensor]]:
        torch.manual_seed(0)
        network = build(DenseNetConfig(block_config=(2, 2), growth_rate=4, checkpoint=checkpoint, dropout=0.2))
        network.train(training).requires_grad_(context is not nullcontext)
        images = torch.randn(4, 3, 8, 8)
        with Operators() as operators, context():
            scores = network(images)
        return operators.names, [scores, *network.buffers()]

    (names, plain), (others, found) = infer("none"), infer(kind)
    assert names == others
    assert len(names) > 10
    assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))


@pytest.mark.parametrize("which", ["parameter", "images"])
def test_one_gradient_is_enough_to_recompute(which):
    calls: list[Tensor] = []
    module = nn.Linear(8, 8)
    module.requires_grad_(which == "parameter")

    def count(x: Tensor) -> Tensor:
        calls.append(x)
        return torch.sigmoid(module(x))

    recompute(module, count, torch.randn(4, 8, requires_grad=which == "images")).sum().backward()
    assert len(calls) == 2


class Operators(TorchDispatchMode):
    """The names of all operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))

"""One step: the schedules' formulas, the optimizer, clipping, smoothing, the average of the weights."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from ablations.config import TrainConfig
from ablations.training.loop import make_network
from ablations.training.step import (
    learning_rate,
    make_average,
    make_optimizer,
    make_scaler,
    prepare,
    prepare_images,
    score,
    training_step,
    update_average,
)
from densenet import DenseNetConfig, normalize_once

CPU = torch.device("cpu")
SMALL = DenseNetConfig(block_config=(1, 1), growth_rate=4, in_channels=1)

COMPILES = pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
"""For tests that use PyTorch's compiler: that of torch 2.11 loads TorchScript."""


def test_the_step_schedule_is_the_paper_s():
    config = TrainConfig(epochs=300, learning_rate=0.1)
    rates = {epoch: learning_rate(config, epoch * 782, 300 * 782, 782) for epoch in (0, 149, 150, 224, 225, 299)}
    assert rates == pytest.approx({0: 0.1, 149: 0.1, 150: 0.01, 224: 0.01, 225: 0.001, 299: 0.001})


def test_the_cosine_schedule_warms_up_and_falls_to_zero():
    config = TrainConfig(epochs=10, learning_rate=1.0, schedule="cosine", warmup_epochs=2.0)
    rates = [learning_rate(config, step, 50, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[30] == pytest.approx(0.5)
    assert rates[49] == pytest.approx((1 + math.cos(math.pi * 39 / 40)) / 2)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_one_cycle_is_pytorch_s():
    config = TrainConfig(schedule="one-cycle", learning_rate=0.4)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.4, total_steps=50, cycle_momentum=False)
    for step in range(50):
        assert learning_rate(config, step, 50, 5) == pytest.approx(theirs.get_last_lr()[0], rel=1e-9)
        optimizer.step()
        theirs.step() if step < 49 else None


@pytest.mark.parametrize("total", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("schedule", ["step", "cosine", "one-cycle", "constant"])
def test_a_schedule_of_a_few_steps_has_a_rate_too(schedule, total):
    rates = [learning_rate(TrainConfig(schedule=schedule), step, total, total) for step in range(total)]
    assert all(0 <= rate <= 0.1 for rate in rates)
    assert max(rates) > 0


@pytest.mark.parametrize("schedule", ["step", "cosine", "constant"])
def test_every_schedule_but_one_cycle_warms_up(schedule):
    config = TrainConfig(epochs=10, schedule=schedule, warmup_epochs=2.0)
    assert [learning_rate(config, step, 50, 5) for step in range(10)] == pytest.approx(
        [0.1 * (step + 1) / 11 for step in range(10)]
    )


def test_norms_and_biases_may_be_left_undecayed():
    network = make_network(SMALL, 0, CPU)
    all_of_them, rest = make_optimizer(network, TrainConfig(decay_norms_and_biases=False)).param_groups
    assert (all_of_them["weight_decay"], rest["weight_decay"]) == (1e-4, 0.0)
    assert {parameter.dim() for parameter in rest["params"]} == {1}
    count = len(all_of_them["params"]) + len(rest["params"])
    assert count == len(list(network.parameters()))
    assert len(make_optimizer(network, TrainConfig()).param_groups) == 1


def one_step(**fields):
    """Weights before and after a step, its gradients, and what it gave."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 12))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    config = TrainConfig(weight_decay=0.0, **fields)
    images, labels = torch.randn(6, 1, 2, 2), torch.tensor([0, 1, 2, 3, 4, 11])
    result = training_step(network, make_optimizer(network, config), images, labels, config)
    return network, before, result, images, labels


def test_the_gradient_is_clipped_to_its_norm_and_reported_before():
    network, _, (_, _, norm), *_ = one_step(clip_norm=0.01)
    clipped = torch.cat([parameter.grad.flatten() for parameter in network.parameters()]).norm()
    free = one_step(clip_norm=0.0)
    assert norm > 0.1
    assert clipped == pytest.approx(0.01, rel=1e-3)
    assert free[2][2] == norm


def test_smoothed_labels_are_what_is_minimised():
    _, before, (loss, scores, _), images, labels = one_step(label_smoothing=0.1)
    expected = images.flatten(1) @ before[0].T + before[1]
    torch.testing.assert_close(scores, expected)
    target = torch.full((6, 12), 0.1 / 12)
    target[torch.arange(6), labels] += 0.9
    torch.testing.assert_close(loss, -(target * expected.log_softmax(1)).sum(1).mean())


def test_adamw_takes_momentum_as_its_first_beta():
    optimizer = make_optimizer(make_network(SMALL, 0, CPU), TrainConfig(optimizer="adamw", momentum=0.8))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.999)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}


def test_the_average_is_the_closed_formula():
    network = torch.nn.Linear(1, 1, bias=False)
    average = make_average(network, TrainConfig(ema=0.75))
    for step, value in enumerate((1.0, 2.0, 3.0)):
        torch.nn.init.constant_(network.weight, value)
        update_average(average, network, 0.75 if step else 0.0)
    assert average.weight.item() == pytest.approx(0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 3)


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_on_cuda_the_optimizer_is_one_kernel(optimizer):
    config = TrainConfig(optimizer=optimizer)
    assert make_optimizer(make_network(SMALL, 0, torch.device("cuda")), config).defaults["fused"]


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_on_a_cpu_the_optimizer_is_torch_s_default(optimizer):
    assert make_optimizer(make_network(SMALL, 0, CPU), TrainConfig(optimizer=optimizer)).defaults["fused"] is None


def test_fp16_scales_the_loss_and_skips_a_step_whose_gradient_is_not_finite():
    config = TrainConfig(precision="fp16")
    network = prepare(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)), config)
    optimizer, scaler = make_optimizer(network, config), make_scaler(config, CPU)
    images, labels = torch.randn(2, 1, 2, 2), torch.tensor([0, 2])
    narrow = torch.nn.functional.cross_entropy(score(network, images, config), labels)
    gradients = torch.autograd.grad(narrow, list(network.parameters()))
    loss, scores, norm = training_step(network, optimizer, images, labels, config, scaler)
    assert (loss.dtype, scores.dtype) == (torch.float32, torch.float32)
    assert norm.item() == pytest.approx(sum(each.square().sum().item() for each in gradients) ** 0.5, rel=1e-2)
    before, scale = network[1].weight.detach().clone(), scaler.get_scale()
    _, _, norm = training_step(network, optimizer, images * torch.inf, labels, config, scaler)
    assert not norm.isfinite()
    assert torch.equal(network[1].weight, before)
    assert scaler.get_scale() == scale / 2


@pytest.mark.gpu
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_on_cuda_fp16_skips_a_step_whose_gradient_is_not_finite(optimizer):
    config, device = TrainConfig(precision="fp16", optimizer=optimizer), torch.device("cuda")
    network = prepare(make_network(SMALL, 0, device), config).train()
    optimizer, scaler = make_optimizer(network, config), make_scaler(config, device)
    images, labels = torch.randn(8, 1, 8, 8, device=device), torch.zeros(8, dtype=torch.long, device=device)
    _, _, norm = training_step(network, optimizer, images, labels, config, scaler)
    assert norm.isfinite()
    before, scale = network.classifier.weight.detach().clone(), scaler.get_scale()
    _, _, norm = training_step(network, optimizer, images * torch.inf, labels, config, scaler)
    assert not norm.isfinite()
    assert torch.equal(network.classifier.weight, before)
    assert scaler.get_scale() == scale / 2


@pytest.mark.gpu
@pytest.mark.parametrize("implementation", ["textbook", "normalize-once"])
@pytest.mark.parametrize("checkpoint", ["none", "bottleneck"])
def test_cuda_computes_what_the_cpu_computes(implementation, checkpoint, monkeypatch):
    monkeypatch.setattr(normalize_once, "SMALL", 0)
    config = TrainConfig(precision="fp64")
    model = DenseNetConfig(block_config=(2, 2), growth_rate=4, implementation=implementation, checkpoint=checkpoint)
    images, labels = torch.randn(8, 3, 16, 16, dtype=torch.double), torch.randint(10, (8,))
    found = []
    for device in (CPU, torch.device("cuda")):
        network = prepare(make_network(model, 0, device), config).train()
        loss, scores, norm = training_step(
            network, make_optimizer(network, config), images.to(device), labels.to(device), config
        )
        found.append([each.cpu() for each in (loss, scores, norm, *network.state_dict().values())])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there, here, rtol=1e-9, atol=1e-9)


@pytest.mark.gpu
@COMPILES
def test_on_cuda_a_compiled_step_is_the_same_function():
    found = []
    for compiled in (False, True):
        config, device = TrainConfig(), torch.device("cuda")
        torch.manual_seed(0)
        network = prepare(make_network(SMALL, 0, device), config).train()
        if compiled:
            network.compile()
        images, labels = torch.randn(8, 1, 8, 8).to(device), torch.zeros(8, dtype=torch.long, device=device)
        found.append(training_step(network, make_optimizer(network, config), images, labels, config))
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there, here, rtol=1e-3, atol=1e-4)


@pytest.mark.gpu
@COMPILES
@pytest.mark.parametrize("checkpoint", ["none", "bottleneck"])
def test_on_cuda_normalize_once_compiled_in_one_piece_is_the_textbook_s_function(checkpoint, monkeypatch):
    monkeypatch.setattr(normalize_once, "SMALL", 0)
    config, device, found = TrainConfig(precision="fp64", memory_format="channels_last"), torch.device("cuda"), []
    images, labels = torch.randn(8, 3, 16, 16, dtype=torch.double), torch.randint(10, (8,))
    for fields in ({}, {"implementation": "normalize-once", "checkpoint": checkpoint}):
        model = DenseNetConfig(block_config=(2, 2), growth_rate=4, **fields)
        network = prepare(make_network(model, 0, device), config).train()
        optimizer = make_optimizer(network, config)
        if fields:
            network.compile(fullgraph=True)
        loss, scores, norm = training_step(
            network, optimizer, prepare_images(images.to(device), config), labels.to(device), config
        )
        found.append([loss, scores, norm, *network.state_dict().values()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)

"""Training: the schedule's formulas, separate random streams, exactness, and a golden run."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ablations.config import PROTOCOL, DataConfig, TrainConfig
from ablations.data import load
from ablations.train import Diverged, evaluate, initialised, learning_rate, stream, train, weights_hash
from densenet import DenseNetConfig, ResNetConfig

CPU = torch.device("cpu")
SMALL = DenseNetConfig(block_config=(1, 1), growth_rate=4, in_channels=1)
GOLDEN = Path(__file__).parent / "golden" / "training.json"


def silent(epoch: float, loss: float) -> None:
    pass


def outcome(model=SMALL, seed=0, limit=200, **fields):
    data = load(DataConfig(train_limit=limit))
    network = initialised(model, seed, CPU)
    return train(network, data, TrainConfig(**{"epochs": 2, "batch_size": 32, **fields}), seed, silent)


def test_the_step_schedule_is_the_paper_s():
    config = TrainConfig(epochs=300, learning_rate=0.1)
    rates = {epoch: learning_rate(config, epoch * 782, 782) for epoch in (0, 149, 150, 224, 225, 299)}
    assert rates == pytest.approx({0: 0.1, 149: 0.1, 150: 0.01, 224: 0.01, 225: 0.001, 299: 0.001})


def test_the_cosine_schedule_warms_up_and_falls_to_zero():
    config = TrainConfig(epochs=10, learning_rate=1.0, schedule="cosine", warmup_epochs=2.0)
    rates = [learning_rate(config, step, 5) for step in range(50)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert rates[10] == 1.0
    assert rates[30] == pytest.approx(0.5)
    assert rates[49] == pytest.approx((1 + math.cos(math.pi * 39 / 40)) / 2)
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    assert replace(outcome(), history=()) == replace(outcome(), history=())
    assert outcome().weights != outcome(seed=1).weights


@pytest.mark.parametrize("kind", ["bottleneck", "layer", "block"])
def test_recomputation_changes_no_bit_of_a_trained_network(kind):
    plain = outcome().weights
    assert outcome(SMALL.model_copy(update={"checkpoint": kind})).weights == plain


def test_the_architecture_does_not_move_the_data(monkeypatch):
    seen: dict[str, list] = {}
    for name, model in (("densenet", SMALL), ("resnet", ResNetConfig(depth=8, width=0.25, in_channels=1))):
        batches = seen.setdefault(name, [])
        original = torch.nn.functional.cross_entropy

        def spy(scores, labels, batches=batches, original=original):
            batches.append(labels.tolist())
            return original(scores, labels)

        monkeypatch.setattr(F, "cross_entropy", spy)
        outcome(model)
        monkeypatch.undo()
    assert seen["densenet"] == seen["resnet"]


def test_streams_of_a_seed_differ():
    assert len({stream(seed, purpose) for seed in range(20) for purpose in ("initialisation", "order")}) == 40


def test_a_plain_loop_gives_the_same_weights():
    """The recipe once more, written in plain PyTorch."""
    data = load(DataConfig(train_limit=200))
    network = initialised(SMALL, 3, CPU)
    order = torch.Generator().manual_seed(stream(3, "order"))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    mean, std = data.train_images.float().mean(), data.train_images.float().std(correction=0)
    network.train()
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = (0.1, 0.1, 0.01, 0.001)[epoch]
        permutation = torch.randperm(200, generator=order)
        for start in range(0, 200, 32):
            batch = permutation[start : start + 32]
            optimizer.zero_grad()
            images = (data.train_images[batch].float() - mean) / std
            F.cross_entropy(network(images), data.train_labels[batch]).backward()
            optimizer.step()
    ours = initialised(SMALL, 3, CPU)
    train(ours, data, TrainConfig(epochs=4, batch_size=32), 3, silent)
    for (name, theirs), own in zip(network.state_dict().items(), ours.state_dict().values(), strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-3, atol=1e-4, msg=name)


def test_history_and_progress_tell_the_course():
    seen = []
    data = load(DataConfig(train_limit=64))
    network = initialised(SMALL, 0, CPU)
    result = train(network, data, TrainConfig(epochs=3), 0, lambda epoch, loss: seen.append((epoch, loss)))
    assert [epoch.epoch for epoch in result.history] == [1, 2, 3]
    assert seen == [(epoch.epoch, epoch.train_loss) for epoch in result.history]
    assert all(0 <= epoch.train_accuracy <= 100 and epoch.seconds > 0 for epoch in result.history)


def test_a_loss_that_is_no_number_names_its_step():
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) at step \d+, in epoch 1"):
        outcome(learning_rate=1e30)


def test_a_network_that_breaks_in_its_last_step_has_diverged():
    with pytest.raises(Diverged, match=r"the loss on the test images is (nan|inf) after the last step"):
        outcome(learning_rate=1e30, epochs=1, limit=32)


def test_accuracy_is_the_share_of_right_answers():
    data = load(DataConfig())

    class Constant(torch.nn.Module):
        def forward(self, images):
            return F.one_hot(torch.full((len(images),), 3), 10).float()

    accuracy, loss = evaluate(Constant(), data, data.test_images, data.test_labels)
    assert accuracy == pytest.approx(100 * 36 / 360)
    assert loss == pytest.approx(math.log(9 + math.e) - 0.1, abs=1e-5)


def test_the_hash_covers_buffers():
    network = initialised(SMALL, 0, CPU)
    before = weights_hash(network)
    network.features.norm5.running_mean += 1
    assert weights_hash(network) != before


def test_the_golden_training():
    """Other results than these need another protocol number: old records would be taken for new ones."""
    golden = json.loads(GOLDEN.read_text())
    assert golden["protocol"] == PROTOCOL
    result = outcome(epochs=4)
    assert [epoch.train_loss for epoch in result.history] == pytest.approx(golden["train_loss"], rel=2e-3)
    assert result.test_accuracy == pytest.approx(golden["test_accuracy"], abs=1.0)

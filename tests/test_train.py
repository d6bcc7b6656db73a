"""Training: the schedule's formulas, separate random streams, exactness, and a golden run."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ablations import train as module
from ablations.augmentation import random_numbers
from ablations.config import PROTOCOL, DataConfig, TrainConfig
from ablations.data import load
from ablations.train import (
    Diverged,
    TimedOut,
    averaged,
    calibration_error,
    evaluate,
    initialised,
    learning_rate,
    optimizer_for,
    stream,
    train,
    training_step,
    update_average,
    weights_hash,
)  # fmt: skip
from densenet import DenseNetConfig, ResNetConfig

CPU = torch.device("cpu")
SMALL = DenseNetConfig(block_config=(1, 1), growth_rate=4, in_channels=1)
GOLDEN = Path(__file__).parent / "golden" / "training.json"


def silent(epoch: float, loss: float) -> None:
    pass


def outcome(model=SMALL, seed=0, limit=200, validation=0, variation=DataConfig(), **fields):  # noqa: B008, it is frozen
    data = load(DataConfig(train_limit=limit, validation=validation))
    network = initialised(model, seed, CPU)
    length = {} if fields.keys() & {"epochs", "steps"} else {"epochs": 2}
    return train(network, data, variation, TrainConfig(**length, batch_size=32, **fields), seed, silent)


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


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    first, again = outcome(), outcome()
    assert (first.weights, first.test) == (again.weights, again.test)
    assert outcome().weights != outcome(seed=1).weights


@pytest.mark.parametrize("kind", ["bottleneck", "layer", "block"])
def test_recomputation_changes_no_bit_of_a_trained_network(kind):
    plain = outcome().weights
    assert outcome(SMALL.model_copy(update={"checkpoint": kind})).weights == plain


@pytest.fixture
def inputs(monkeypatch):
    """The checksum of every batch, images and labels, that reaches a training step."""
    seen: list[str] = []
    original = module.training_step

    def spy(network, optimizer, images, labels, config):
        seen.append(hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest())
        return original(network, optimizer, images, labels, config)

    monkeypatch.setattr(module, "training_step", spy)
    return seen


def test_the_architecture_does_not_move_the_batches(inputs):
    batches = []
    for model in (
        SMALL,
        SMALL.model_copy(update={"dropout": 0.3, "layer_order": "conv-norm-act"}),
        ResNetConfig(depth=8, width=0.25, in_channels=1),
    ):
        inputs.clear()
        outcome(model, variation=DataConfig(augmentation="standard"))
        batches.append(list(inputs))
    assert batches[0] == batches[1] == batches[2]
    assert len(set(batches[0])) == len(batches[0]) == 14, "seven an epoch, all different"


def test_every_seed_and_epoch_has_batches_of_its_own(inputs):
    outcome(variation=DataConfig(augmentation="standard"))
    first = list(inputs)
    outcome(seed=1, variation=DataConfig(augmentation="standard"))
    assert set(first).isdisjoint(inputs[14:])


def test_streams_of_a_seed_differ():
    assert len({stream(seed, purpose) for seed in range(20) for purpose in ("initialisation", "order")}) == 40


@pytest.mark.parametrize("augmentation", ["none", "standard"])
def test_the_recipe_in_plain_pytorch_gives_the_same_losses_step_by_step(augmentation, monkeypatch):
    ours: list[float] = []
    original = module.training_step

    def spy(*arguments):
        result = original(*arguments)
        ours.append(float(result[0]))
        return result

    monkeypatch.setattr(module, "training_step", spy)
    model = DenseNetConfig(block_config=(2, 2), growth_rate=6, in_channels=1)
    outcome(model, seed=3, variation=DataConfig(augmentation=augmentation), epochs=4, precision="fp64")

    data = load(DataConfig(train_limit=200))
    network = initialised(model, 3, CPU).double().train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    order = torch.Generator().manual_seed(stream(3, "order"))
    mean, std = data.train.images.float().mean(), data.train.images.float().std(correction=0)
    plain = []
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = (0.1, 0.1, 0.01, 0.001)[epoch]
        for batch in torch.randperm(200, generator=order).split(32):
            images = (data.train.images[batch].double() - mean) / std
            if augmentation == "standard":
                numbers = random_numbers(stream(3, f"augmentation {epoch}"), batch, 3)
                for place, (down, right, mirror) in enumerate(numbers.T.tolist()):
                    padded = F.pad(images[place], (4, 4, 4, 4))
                    window = padded[:, down % 9 :, right % 9 :][:, :8, :8]
                    images[place] = (
                        window if mirror % 2 == 0 else padded.flip(2)[:, down % 9 :, 8 - right % 9 :][:, :8, :8]
                    )
            loss = F.cross_entropy(network(images), data.train.labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            plain.append(loss.item())
    assert len(ours) == len(plain) == 28
    assert ours == pytest.approx(plain, abs=1e-6)


def test_history_and_progress_tell_the_course():
    seen = []
    data = load(DataConfig(train_limit=64))
    network = initialised(SMALL, 0, CPU)
    result = train(
        network, data, DataConfig(), TrainConfig(epochs=3), 0, lambda epoch, loss: seen.append((epoch, loss))
    )
    assert [epoch.epoch for epoch in result.history] == [1, 2, 3]
    assert seen == [(epoch.epoch, epoch.train_loss) for epoch in result.history]
    assert all(0 <= epoch.train_accuracy <= 100 and epoch.seconds > 0 for epoch in result.history)
    assert all(epoch.images == 64 and epoch.gradient_norm > 0 for epoch in result.history)
    assert result.history[0].validation_loss is result.history[0].test_loss is None


def test_a_loss_that_is_no_number_names_its_step():
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) at step \d+, in epoch 1"):
        outcome(learning_rate=1e30)


def test_a_network_that_breaks_in_its_last_step_has_diverged():
    with pytest.raises(Diverged, match=r"the loss on the test images is (nan|inf) after epoch 1"):
        outcome(learning_rate=1e30, epochs=1, limit=32)


def test_accuracy_is_the_share_of_right_answers():
    data = load(DataConfig())

    class Constant(torch.nn.Module):
        def forward(self, images):
            return F.one_hot(torch.full((len(images),), 3), 10).float()

    found = evaluate(Constant(), data, data.test, TrainConfig())
    assert found.accuracy == pytest.approx(100 * 36 / 360)
    assert found.per_class_accuracy == (0, 0, 0, 100, 0, 0, 0, 0, 0, 0)
    assert found.top5_accuracy is None, "of ten classes it says little"
    assert found.loss == pytest.approx(math.log(9 + math.e) - 0.1, abs=1e-5)


def test_validation_and_test_curves_at_their_interval():
    result = outcome(validation=50, epochs=5, evaluation_interval=2)
    assert [epoch.validation_accuracy is not None for epoch in result.history] == [False, True, False, True, True]
    assert result.history[-1].validation_accuracy == result.validation.accuracy
    assert all(epoch.test_accuracy is None for epoch in result.history)
    curve = outcome(epochs=2, test_curve=True).history
    assert [epoch.test_accuracy is not None for epoch in curve] == [True, True]
    assert curve[0].validation_accuracy is None
    assert outcome(epochs=2).validation is None


def test_looking_at_curves_changes_nothing():
    plain = outcome(SMALL.model_copy(update={"dropout": 0.2}), validation=50)
    looked = outcome(SMALL.model_copy(update={"dropout": 0.2}), validation=50, test_curve=True)
    assert plain.weights == looked.weights
    assert plain.test == looked.test


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


def test_a_number_of_steps_ends_in_mid_epoch():
    result = outcome(steps=10)
    assert result.steps == 10
    assert [epoch.images for epoch in result.history] == [200, 96]
    assert result.history[1].learning_rate == pytest.approx(0.001), "the schedule has run its whole course"


def test_a_last_batch_may_be_dropped(inputs):
    result = outcome(last_batch="drop", epochs=2)
    assert [epoch.images for epoch in result.history] == [192, 192]
    assert result.steps == len(inputs) == 12


def test_norms_and_biases_may_be_left_undecayed():
    network = initialised(SMALL, 0, CPU)
    all_of_them, rest = optimizer_for(network, TrainConfig(decay_norms_and_biases=False)).param_groups
    assert (all_of_them["weight_decay"], rest["weight_decay"]) == (1e-4, 0.0)
    assert {parameter.dim() for parameter in rest["params"]} == {1}
    count = len(all_of_them["params"]) + len(rest["params"])
    assert count == len(list(network.parameters()))
    assert len(optimizer_for(network, TrainConfig()).param_groups) == 1


def one_step(**fields):
    """Weights before and after a step, its gradients, and what it gave."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 12))
    before = [parameter.detach().clone() for parameter in network.parameters()]
    config = TrainConfig(weight_decay=0.0, **fields)
    images, labels = torch.randn(6, 1, 2, 2), torch.tensor([0, 1, 2, 3, 4, 11])
    result = training_step(network, optimizer_for(network, config), images, labels, config)
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
    optimizer = optimizer_for(initialised(SMALL, 0, CPU), TrainConfig(optimizer="adamw", momentum=0.8))
    assert isinstance(optimizer, torch.optim.AdamW)
    assert optimizer.defaults["betas"] == (0.8, 0.999)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {1e-4}


def test_the_average_of_the_weights_is_what_is_tested():
    result = outcome(ema=0.9, epochs=2)
    network = initialised(SMALL, 0, CPU)
    average = averaged(network, TrainConfig(ema=0.9))
    assert result.network.features.conv0.weight.shape == average.features.conv0.weight.shape
    assert result.weights != outcome(epochs=2).weights
    assert result.history[0].train_loss == outcome(epochs=2).history[0].train_loss, "the training is the same"


def test_the_average_is_the_closed_formula():
    network = torch.nn.Linear(1, 1, bias=False)
    average = averaged(network, TrainConfig(ema=0.75))
    for step, value in enumerate((1.0, 2.0, 3.0)):
        torch.nn.init.constant_(network.weight, value)
        update_average(average, network, 0.75 if step else 0.0)
    assert average.weight.item() == pytest.approx(0.75 * (0.75 * 1 + 0.25 * 2) + 0.25 * 3)


@pytest.mark.parametrize("fields", [{"precision": "bf16"}, {"precision": "fp64"}, {"memory_format": "channels_last"}])
def test_precision_and_memory_format_change_little(fields):
    plain, other = outcome(epochs=1), outcome(epochs=1, **fields)
    if "precision" in fields:
        assert other.weights != plain.weights
    assert other.history[0].train_loss == pytest.approx(plain.history[0].train_loss, rel=0.03)
    dtype = torch.float64 if fields.get("precision") == "fp64" else torch.float32
    assert other.network.classifier.weight.dtype == dtype


def test_channels_last_is_how_weights_and_images_lie(monkeypatch):
    original, seen = module.training_step, []

    def spy(network, optimizer, images, labels, config):
        seen.append((images, network.features.denseblock1.denselayer1.conv2.weight))
        return original(network, optimizer, images, labels, config)

    monkeypatch.setattr(module, "training_step", spy)
    data = load(DataConfig(name="random", shape=(3, 8, 8), classes=4, size=8))
    network = initialised(SMALL.model_copy(update={"in_channels": 3}), 0, CPU)
    train(network, data, DataConfig(), TrainConfig(epochs=1, memory_format="channels_last"), 0, silent)
    for tensor in seen[0]:
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()


def test_bf16_is_what_is_evaluated_too():
    data = load(DataConfig(train_limit=64))
    network = initialised(SMALL, 0, CPU)
    plain, rounded = (evaluate(network, data, data.test, TrainConfig(precision=p)).loss for p in ("fp32", "bf16"))
    assert plain != rounded
    assert plain == pytest.approx(rounded, rel=0.05)


def test_smoothing_is_for_training_alone():
    data = load(DataConfig(train_limit=64))
    network = initialised(SMALL, 0, CPU)
    smoothed = evaluate(network, data, data.test, TrainConfig(label_smoothing=0.3))
    assert smoothed.loss == evaluate(network, data, data.test, TrainConfig()).loss


@pytest.mark.parametrize("schedule", ["step", "cosine", "constant"])
def test_every_schedule_but_one_cycle_warms_up(schedule):
    config = TrainConfig(epochs=10, schedule=schedule, warmup_epochs=2.0)
    assert [learning_rate(config, step, 50, 5) for step in range(10)] == pytest.approx(
        [0.1 * (step + 1) / 11 for step in range(10)]
    )


def test_the_average_covers_buffers_and_is_updated_once_a_step():
    network = initialised(SMALL, 0, CPU)
    data = load(DataConfig(train_limit=64))
    result = train(network, data, DataConfig(), TrainConfig(steps=3, batch_size=32, ema=0.5), 0, silent)
    again, average, weights = initialised(SMALL, 0, CPU).train(), None, []
    optimizer = optimizer_for(again, TrainConfig())
    order = torch.Generator().manual_seed(stream(0, "order"))
    batches = [batch for _ in range(2) for batch in torch.randperm(64, generator=order).split(32)][:3]
    for step, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = learning_rate(TrainConfig(), step, 3, 2)
        images = data.normalise(data.train.images[batch])
        training_step(again, optimizer, images, data.train.labels[batch], TrainConfig())
        weights.append({name: value.clone() for name, value in again.state_dict().items()})
    for name, found in result.network.state_dict().items():
        first, second, third = (each[name] for each in weights)
        average = third if not found.is_floating_point() else 0.25 * first + 0.25 * second + 0.5 * third
        torch.testing.assert_close(found, average, msg=name)


def test_a_gradient_that_overflows_has_diverged():
    network = initialised(SMALL.model_copy(update={"norm": "none"}), 0, CPU)
    data = load(DataConfig(train_limit=64))
    torch.nn.init.constant_(network.classifier.weight, 1e30)
    with pytest.raises(Diverged, match=r"the (gradient's norm|loss) is (inf|nan) at step \d, in epoch 1"):
        train(network, data, DataConfig(), TrainConfig(epochs=1, clip_norm=1.0, learning_rate=1e-30), 0, silent)


def test_compile_is_asked_for(monkeypatch):
    called = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: called.append(self))
    outcome(epochs=1, compile=True)
    assert len(called) == 1


def test_a_time_limit_ends_a_training():
    with pytest.raises(TimedOut, match=r"longer than train\.time_limit = 1e-06 seconds: it was at step 1 of 14"):
        outcome(time_limit=1e-6)


def test_dropout_has_a_stream_of_its_own():
    dropped = SMALL.model_copy(update={"dropout": 0.2})
    first = outcome(dropped, epochs=1)
    assert first.weights == outcome(dropped, epochs=1).weights
    assert first.weights != outcome(epochs=1).weights
    assert weights_hash(initialised(dropped, 0, CPU)) == weights_hash(initialised(SMALL, 0, CPU))


def test_calibration_error_by_hand():
    scores = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]]).log()
    right = torch.tensor([True, False, True, True])
    # two at 0.9, half of them right; two at 0.6, all of them right
    assert calibration_error(scores, right) == pytest.approx(100 * (2 * 0.4 + 2 * 0.4) / 4)
    assert calibration_error(torch.tensor([[9e9, 0.0]]), torch.tensor([True])) == 0


def test_top_five_where_there_are_more_than_ten_classes():
    data = load(DataConfig(name="random", shape=(1, 2, 2), classes=12, size=24))

    class Falling(torch.nn.Module):
        def forward(self, images):
            return -torch.arange(12.0).expand(len(images), -1)

    found = evaluate(Falling(), data, data.test, TrainConfig())
    assert found.accuracy == pytest.approx(100 * (data.test.labels == 0).sum().item() / 24)
    assert found.top5_accuracy == pytest.approx(100 * (data.test.labels < 5).sum().item() / 24)


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
    assert result.test.accuracy == pytest.approx(golden["test_accuracy"], abs=1.0)

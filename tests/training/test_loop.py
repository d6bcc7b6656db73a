"""Training: separate random streams, exactness, and a golden run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from ablations.config import PROTOCOL, DataConfig, TrainConfig
from ablations.data.augmentation import random_numbers
from ablations.data.dataset import load
from ablations.training import loop as module
from ablations.training.evaluation import evaluate
from ablations.training.events import Epoch, Progress
from ablations.training.loop import Diverged, derive_seed, hash_weights, make_network, train
from ablations.training.step import learning_rate, make_average, make_optimizer, training_step
from densenet import DenseNetConfig, ResNetConfig

CPU = torch.device("cpu")
SMALL = DenseNetConfig(block_config=(1, 1), growth_rate=4, in_channels=1)
GOLDEN = Path(__file__).parent.parent / "golden" / "training.json"


def silent(event: Progress | Epoch) -> None:
    pass


def outcome(model=SMALL, seed=0, limit=200, validation=0, variation=DataConfig(), **fields):  # noqa: B008, it is frozen
    data = load(DataConfig(train_limit=limit, validation=validation))
    network = make_network(model, seed, CPU)
    length = {} if fields.keys() & {"epochs", "steps"} else {"epochs": 2}
    return train(network, data, variation, TrainConfig(**length, batch_size=32, **fields), seed, silent)


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

    def spy(network, optimizer, images, labels, config, scaler):
        seen.append(hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest())
        return original(network, optimizer, images, labels, config, scaler)

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
    assert len({derive_seed(seed, purpose) for seed in range(20) for purpose in ("initialisation", "order")}) == 40


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
    network = make_network(model, 3, CPU).double().train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4, nesterov=True)
    order = torch.Generator().manual_seed(derive_seed(3, "order"))
    mean, std = data.train.images.float().mean(), data.train.images.float().std(correction=0)
    plain = []
    for epoch in range(4):
        optimizer.param_groups[0]["lr"] = (0.1, 0.1, 0.01, 0.001)[epoch]
        for batch in torch.randperm(200, generator=order).split(32):
            images = (data.train.images[batch].double() - mean) / std
            if augmentation == "standard":
                numbers = random_numbers(derive_seed(3, f"augmentation {epoch}"), batch, 3)
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


def test_observers_are_told_the_course():
    """At every epoch's end how far it is, and then the line of the history."""
    seen: list[Progress | Epoch] = []
    data = load(DataConfig(train_limit=64, validation=64))
    network = make_network(SMALL, 0, CPU)
    result = train(network, data, DataConfig(), TrainConfig(epochs=3), 0, seen.append)
    assert [epoch.epoch for epoch in result.history] == [1, 2, 3]
    told = [(Progress(epoch.epoch, epoch.train_loss), epoch) for epoch in result.history]
    assert seen == [event for pair in told for event in pair]
    assert all(epoch.validation_accuracy is not None for epoch in result.history)
    assert all(0 <= epoch.train_accuracy <= 100 and epoch.seconds > 0 for epoch in result.history)
    assert all(epoch.images == 64 and epoch.gradient_norm > 0 for epoch in result.history)
    assert result.history[0].test_loss is None
    assert outcome().history[0].validation_loss is None


def test_a_loss_that_is_no_number_names_its_step():
    with pytest.raises(Diverged, match=r"the loss is (nan|inf) at step \d+, in epoch 1"):
        outcome(learning_rate=1e30)


def test_a_network_that_breaks_in_its_last_step_has_diverged():
    with pytest.raises(Diverged, match=r"the loss on the test images is (nan|inf) after epoch 1"):
        outcome(learning_rate=1e30, epochs=1, limit=32)


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


def test_a_number_of_steps_ends_in_mid_epoch():
    result = outcome(steps=10)
    assert result.steps == 10
    assert [epoch.images for epoch in result.history] == [200, 96]
    assert result.history[1].learning_rate == pytest.approx(0.001), "the schedule has run its whole course"


def test_a_last_batch_may_be_dropped(inputs):
    result = outcome(last_batch="drop", epochs=2)
    assert [epoch.images for epoch in result.history] == [192, 192]
    assert result.steps == len(inputs) == 12


def test_the_average_of_the_weights_is_what_is_tested():
    result = outcome(ema=0.9, epochs=2)
    network = make_network(SMALL, 0, CPU)
    average = make_average(network, TrainConfig(ema=0.9))
    assert result.network.features.conv0.weight.shape == average.features.conv0.weight.shape
    assert result.weights != outcome(epochs=2).weights
    assert result.history[0].train_loss == outcome(epochs=2).history[0].train_loss, "the training is the same"


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

    def spy(network, optimizer, images, labels, config, scaler):
        seen.append((images, network.features.denseblock1.denselayer1.conv2.weight))
        return original(network, optimizer, images, labels, config, scaler)

    monkeypatch.setattr(module, "training_step", spy)
    data = load(DataConfig(name="random", shape=(3, 8, 8), classes=4, size=8))
    network = make_network(SMALL.model_copy(update={"in_channels": 3}), 0, CPU)
    train(network, data, DataConfig(), TrainConfig(epochs=1, memory_format="channels_last"), 0, silent)
    for tensor in seen[0]:
        assert tensor.is_contiguous(memory_format=torch.channels_last)
        assert not tensor.is_contiguous()


def test_the_average_covers_buffers_and_is_updated_once_a_step():
    network = make_network(SMALL, 0, CPU)
    data = load(DataConfig(train_limit=64))
    result = train(network, data, DataConfig(), TrainConfig(steps=3, batch_size=32, ema=0.5), 0, silent)
    again, average, weights = make_network(SMALL, 0, CPU).train(), None, []
    optimizer = make_optimizer(again, TrainConfig())
    order = torch.Generator().manual_seed(derive_seed(0, "order"))
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
    network = make_network(SMALL.model_copy(update={"norm": "none"}), 0, CPU)
    data = load(DataConfig(train_limit=64))
    torch.nn.init.constant_(network.classifier.weight, 1e30)
    with pytest.raises(Diverged, match=r"the (gradient's norm|loss) is (inf|nan) at step \d, in epoch 1"):
        train(network, data, DataConfig(), TrainConfig(epochs=1, clip_norm=1.0, learning_rate=1e-30), 0, silent)


def test_compile_is_asked_for(monkeypatch):
    called = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: called.append(self))
    outcome(epochs=1, compile=True)
    assert len(called) == 1


class Reads(TorchDispatchMode):
    """Counts what makes a program wait for its device: the value of a tensor, or how many there are of something."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("fields", [{}, {"clip_norm": 1.0, "ema": 0.9, "label_smoothing": 0.1, "precision": "bf16"}])
def test_nothing_is_read_from_the_device_between_steps_or_batches(fields, monkeypatch):
    """As many reads for 2 steps as for 14; the test images are in six batches each time."""
    monkeypatch.setattr(module.Stopwatch, "now", lambda watch: 0.0)  # no second passes, after which progress is shown
    found = []
    for limit in (64, 448):
        data, network = load(DataConfig(train_limit=limit)), make_network(SMALL, 0, CPU)
        config = TrainConfig(epochs=1, batch_size=32, **fields)
        with Reads() as reads:
            train(network, data, DataConfig(augmentation="cutout"), config, 0, silent)
        found.append(reads.count)
    assert found[0] == found[1] > 0
    with Reads() as reads:
        evaluate(network, data, data.test.subset(torch.arange(64)), config)
    assert 0 < reads.count < found[0]
    few = reads.count
    with Reads() as reads:
        evaluate(network, data, data.test, config)
    assert reads.count == few


def test_dropout_has_a_stream_of_its_own():
    dropped = SMALL.model_copy(update={"dropout": 0.2})
    first = outcome(dropped, epochs=1)
    assert first.weights == outcome(dropped, epochs=1).weights
    assert first.weights != outcome(epochs=1).weights
    assert hash_weights(make_network(dropped, 0, CPU)) == hash_weights(make_network(SMALL, 0, CPU))


def test_the_hash_covers_buffers():
    network = make_network(SMALL, 0, CPU)
    before = hash_weights(network)
    network.features.norm5.running_mean += 1
    assert hash_weights(network) != before


def test_the_hash_is_that_of_the_bytes_of_every_tensor():
    network = torch.nn.BatchNorm1d(2)
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + b"\0" + tensor.numpy().tobytes())
    assert hash_weights(network) == digest.hexdigest()


def test_the_golden_training():
    """Other results than these need another protocol number: old records would be taken for new ones."""
    golden = json.loads(GOLDEN.read_text())
    assert golden["protocol"] == PROTOCOL
    result = outcome(epochs=4)
    assert [epoch.train_loss for epoch in result.history] == pytest.approx(golden["train_loss"], rel=2e-3)
    assert result.test.accuracy == pytest.approx(golden["test_accuracy"], abs=1.0)

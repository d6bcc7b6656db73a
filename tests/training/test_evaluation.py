"""What a network is worth: accuracy, loss and calibration by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from ablations.config import DataConfig, TrainConfig
from ablations.data.dataset import load
from ablations.training.checkpoint import StopRequested
from ablations.training.evaluation import calibration_error, evaluate
from ablations.training.loop import make_network
from densenet import DenseNetConfig

CPU = torch.device("cpu")
SMALL = DenseNetConfig(block_config=(1, 1), growth_rate=4, in_channels=1)


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


def test_bf16_is_what_is_evaluated_too():
    data = load(DataConfig(train_limit=64))
    network = make_network(SMALL, 0, CPU)
    plain, rounded = (evaluate(network, data, data.test, TrainConfig(precision=p)).loss for p in ("fp32", "bf16"))
    assert plain != rounded
    assert plain == pytest.approx(rounded, rel=0.05)


def test_smoothing_is_for_training_alone():
    data = load(DataConfig(train_limit=64))
    network = make_network(SMALL, 0, CPU)
    smoothed = evaluate(network, data, data.test, TrainConfig(label_smoothing=0.3))
    assert smoothed.loss == evaluate(network, data, data.test, TrainConfig()).loss


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


def test_an_evaluation_that_is_asked_to_stop_stops():
    data = load(DataConfig())
    with pytest.raises(StopRequested):
        evaluate(make_network(SMALL, 0, CPU), data, data.test, TrainConfig(), lambda: True)


@pytest.mark.parametrize("classes", [2, 10, 16, 17, 300])
def test_each_image_s_outcome_and_mistake_is_told(classes):
    """Decoded by hand: a bit an image, most significant first, and hexadecimal digits for each wrong one's class."""
    data = load(DataConfig(name="random", shape=(1, 4, 4), classes=classes, size=333))
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, classes))
    found = evaluate(network, data, data.test, TrainConfig())
    predicted = network(data.normalise(data.test.images)).argmax(1)
    right = (predicted == data.test.labels).tolist()
    bits = f"{int(found.outcomes, 16):0{4 * len(found.outcomes)}b}"
    assert [bit == "1" for bit in bits[:333]] == right
    assert set(bits[333:]) <= {"0"}
    assert found.accuracy == 100 * bits.count("1") / 333
    digits = len(hex(classes - 1)) - 2
    taken_for = [int(found.mistakes[at : at + digits], 16) for at in range(0, len(found.mistakes), digits)]
    assert taken_for == [each for each, rightly in zip(predicted.tolist(), right, strict=True) if not rightly]

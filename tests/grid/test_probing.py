"""Networks that take two images and not one: told before any job, where a batch of one image will come."""

from __future__ import annotations

import re

import pytest
import torch
from conftest import write_grid

from ablations.grid.probing import check_own_network, find_ignored, refuse_one_image
from ablations.grid.problems import GridError
from ablations.grid.reader import read
from densenet import DenseNetConfig, OwnConfig

SMALL = """\
[base]
model.block_config = [1, 1, 1, 1]
model.growth_rate = 4
data.train_limit = 33
train.batch_size = 16
train.epochs = 1

[study.k]
model.growth_rate = [4, 6]
"""
"""Its maps are 1 x 1 at the end, and 33 images leave one for the third batch."""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            [],
            r"^  base\.train\.last_batch = 'keep': this network cannot be trained on one image .* train\.last_batch = ",
        ),
        (["train.batch_size=1"], r"^  base\.train\.batch_size = 1: .* give 2 or more"),
        (['model.implementation="normalize-once"'], r"^  base\.train\.last_batch"),
    ],
)
def test_a_batch_of_one_image_is_told_before_any_job(tmp_path, settings, message):
    with pytest.raises(GridError) as caught:
        read(write_grid(tmp_path, SMALL), settings)
    first, *others = str(caught.value).splitlines()[1:]
    assert re.search(message, first)
    assert not others, "told once, with the base"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["data.train_limit=34"],
            r"^  base\.train\.last_batch = 'keep': .* leave a process one for the last batch: give",
        ),
        (
            ["train.batch_size=2", "data.train_limit=34"],
            r"^  base\.train\.batch_size = 2: .* batches of 2 give a process one: give 4 or more",
        ),
        (["train.batch_size=32"], r"^  base\.train\.processes = 2: the last batch of an epoch has 1 image, and each"),
        (["train.batch_size=1"], r"^  base\.train: processes = 2 is more than the batch_size = 1 images of a batch"),
        (["train.compile=true"], r"^  base\.train: processes = 2 does not go with compile: leave one or the other out"),
        (["train.cuda_graph=true"], r"^  base\.train: processes = 2 does not go with cuda_graph: leave"),
        (
            ["train.loss=torch.nn.functional:cross_entropy"],
            r"processes = 2 does not go with the loss torch.*no mean over",
        ),
        (
            ["train.batch_norm=all", "model.implementation=normalize-once", "data.train_limit=64"],
            r"^  base\.train\.batch_norm = 'all': normalize-once has the statistics of its process's share: give",
        ),
        (
            ["train.batch_norm=all", "train.processes=1"],
            r"^  base\.train: batch_norm = \"all\" needs processes = 2 or more",
        ),
        (["train.nodes=2"], r"^  base\.train\.nodes = 2: unknown key"),
    ],
)
def test_what_several_processes_cannot_share_is_told_before_any_job(tmp_path, settings, message):
    with pytest.raises(GridError) as caught:
        read(write_grid(tmp_path, SMALL), ["train.processes=2", *settings])
    assert re.search(message, str(caught.value).splitlines()[1])


@pytest.mark.parametrize(
    "setting", ['train.last_batch="drop"', "train.batch_size=11", "train.steps=2", "model.block_config=[1, 1]"]
)
def test_where_no_batch_of_one_image_comes_there_is_no_error(tmp_path, setting):
    read(write_grid(tmp_path, SMALL), [setting])


def test_trials_are_checked_with_their_own_images(tmp_path):
    tune = "[tune]\nseeds = [9]\nvalidation = 7\ntrain.learning_rate = [0.1, 0.2]\n"
    text = tune + SMALL.replace("data.train_limit = 33", "data.train_limit = 40")
    read(write_grid(tmp_path, text))
    with pytest.raises(GridError, match=r"tune\.train\.batch_size = 1: .* give 2 or more"):
        read(write_grid(tmp_path, text.replace("train.learning_rate = [0.1, 0.2]", "train.batch_size = [1, 8]")))


def test_a_network_that_drops_the_axis_of_one_image_is_told(tmp_path, monkeypatch):
    (tmp_path / "squeezing.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, in_channels, num_classes):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(64 * in_channels, num_classes)\n"
        "    def forward(self, images):\n"
        "        return self.layer(images.flatten(1)).squeeze()\n"
    )
    monkeypatch.chdir(tmp_path)
    text = SMALL.replace("model.block_config = [1, 1, 1, 1]\nmodel.growth_rate = 4", 'model.family = "squeezing:Net"')
    with pytest.raises(GridError, match=r"it returns \(10,\) in place of scores \(1, 10\)"):
        read(write_grid(tmp_path, text.replace("model.growth_rate = [4, 6]", "train.learning_rate = [0.1, 0.2]")))


@pytest.mark.parametrize("classes", [5, 1000])
def test_a_network_with_other_classes_than_the_data_is_told(tmp_path, monkeypatch, classes):
    name = f"stubborn_{classes}"
    (tmp_path / f"{name}.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, in_channels, num_classes):\n"
        f"        super().__init__(nn.Flatten(), nn.Linear(64, {classes}))\n"
    )
    monkeypatch.chdir(tmp_path)
    text = SMALL.replace("[study.k]\nmodel.growth_rate = [4, 6]", f"[study.k]\nmodel.family = ['{name}:Net']")
    text = text.replace("train_limit = 33", "train_limit = 32")
    with pytest.raises(GridError, match=rf"gives {classes} scores for 10 classes"):
        read(write_grid(tmp_path, text))


@pytest.mark.parametrize(
    ("layer", "problem"),
    [("LazyLinear(num_classes)", "has lazy layers"), ("Identity()", "has no parameter that is trained")],
)
def test_a_network_without_weights_to_train_is_told(tmp_path, monkeypatch, layer, problem):
    name = f"weightless_{layer[:4].lower()}"
    (tmp_path / f"{name}.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self, in_channels, num_classes):\n"
        f"        super().__init__(nn.Flatten(), nn.{layer})\n"
    )
    monkeypatch.chdir(tmp_path)
    text = SMALL.replace("[study.k]\nmodel.growth_rate = [4, 6]", f"[study.k]\nmodel.family = ['{name}:Net']")
    with pytest.raises(GridError, match=problem):
        read(write_grid(tmp_path, text.replace("train_limit = 33", "train_limit = 32")))


def test_the_random_state_stays_as_it_is():
    before = torch.random.get_rng_state()
    assert refuse_one_image(DenseNetConfig(block_config=[1, 1], growth_rate=4), (8, 8), training=True) == ""
    assert torch.equal(torch.random.get_rng_state(), before)


class Odd(torch.nn.Module):
    """A user's network with a fault that no training would show."""

    def __init__(self, in_channels, num_classes, fault):
        super().__init__()
        self.listed = [torch.nn.Linear(9, 9)] if fault == "listed" else []
        self.middle = torch.nn.LazyLinear(9) if fault == "lazy" else torch.nn.Linear(9 * in_channels, 9)
        self.last = torch.nn.Linear(9, 5 if fault == "five" else num_classes)
        if fault == "frozen":
            self.requires_grad_(False)
        self.fault = fault

    def forward(self, images):
        features = self.middle(images.flatten(1))
        for layer in self.listed:
            features = layer(features)
        if self.fault == "error":
            raise RuntimeError("as usual")
        if self.fault == "dropout":
            features = torch.nn.functional.dropout(features)
        scores = self.last(features)
        return scores.softmax(1) if self.fault == "softmax" else scores


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("listed", "Odd computes with 90 weights that are no parameters of it"),
        ("lazy", "Odd has lazy layers"),
        ("five", "Odd gives 5 scores for 10 classes"),
        ("frozen", "Odd has no parameter that is trained"),
        ("softmax", "Odd gives probabilities in place of scores"),
        ("dropout", "Odd gives other scores when it is tested on the same images again"),
    ],
)
def test_a_user_s_network_that_would_not_be_trained_as_it_seems_is_refused(fault, message):
    with pytest.raises(ValueError, match=message):
        check_own_network(OwnConfig(family=f"{__name__}:Odd", in_channels=1, fault=fault), (3, 3), "cross-entropy")


def test_a_loss_of_the_user_s_may_want_probabilities():
    network = OwnConfig(family=f"{__name__}:Odd", in_channels=1, fault="softmax")
    check_own_network(network, (3, 3), "torch.nn.functional:nll_loss")


def make_odd(fault="none", **more):
    """A function in the way of timm's `create_model`, which hands its arguments on."""
    return Odd(more.get("in_chans", 3), more.get("num_classes", 10), fault)


@pytest.mark.parametrize(
    ("names", "ignored"),
    [
        ({"channels_as": "in_chans"}, []),
        ({"channels_as": ""}, []),
        ({}, ["in_channels"]),
        ({"channels_as": "in_chans", "classes_as": "clases"}, ["clases"]),
        ({"channels_as": "fault"}, []),
        ({"channels_as": "in_chans", "widht": 3}, ["widht"]),
    ],
)
def test_an_argument_that_a_maker_takes_and_ignores_is_found(names, ignored):
    assert find_ignored(OwnConfig(family=f"{__name__}:make_odd", **names)) == ignored


def test_an_ignored_argument_is_told_with_the_grid(tmp_path):
    text = f"base.train.epochs = 1\n[[study.k.variant]]\nname = 'odd'\nmodel.family = '{__name__}:make_odd'\n"
    notes = read(write_grid(tmp_path, f"{text}model.widht = 3\n")).notes
    assert sum("has the same layers and params without it: is the name right?" in note for note in notes) == 1
    assert sum("make_odd ignores in_channels: its network is the same" in note for note in notes) == 1


@pytest.mark.parametrize("fault", ["none", "error"])
def test_other_networks_are_left_to_their_jobs_and_change_no_random_state(fault):
    before = torch.get_rng_state()
    check_own_network(OwnConfig(family=f"{__name__}:Odd", in_channels=1, fault=fault), (3, 3), "cross-entropy")
    assert torch.equal(torch.get_rng_state(), before)

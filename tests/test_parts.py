"""Parts that are written elsewhere: found, checked, part of the identity, and used by a training."""

from __future__ import annotations

import importlib
import re
import sys

import pytest
import torch
from conftest import MACHINE, context
from pydantic import ValidationError
from typer.testing import CliRunner

from ablations.cli import app
from ablations.config import DataConfig, RunConfig, TrainConfig, Variant, find_sources, variant_fields
from ablations.data.augmentation import augment
from ablations.data.dataset import load
from ablations.execution import job
from ablations.execution.driver import describe_other_grid
from ablations.grid.model import list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.problems import GridError
from ablations.grid.reader import read
from ablations.parts import find_part, fingerprint_parts, is_own
from ablations.storage import records
from ablations.training.loop import train
from ablations.training.step import compute_loss, learning_rate, make_optimizer
from densenet import DenseNetConfig, build

NAME = "parts_of_mine"

PARTS = """\
import torch

def stripes(root="none"):
    labels = torch.arange(40) % 2
    pattern = (torch.arange(8) % 2 * 255).byte().expand(8, 8)
    images = torch.stack([pattern if label else pattern.T for label in labels])
    return {"train": (images[:30], labels[:30]), "test": (images[30:].numpy(), labels[30:].tolist())}

def noise(images, generator):
    return images ^ torch.randint(8, images.shape, dtype=torch.uint8, generator=generator)

def squares(scores, labels):
    return (scores.softmax(1) - torch.nn.functional.one_hot(labels, scores.shape[1])).square().sum(1).mean()

def falling(step, steps):
    return 1 - step / steps

def nothing(*more, **named):
    return None

FACTOR = 2
"""

COUNTING = """
def counting(scores, labels):
    return scores.sum(1)

class Counting(torch.optim.SGD):
    def step(self):
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter]["step"] = self.state[parameter].get("step", 0) + 1
"""

GRID = f"""\
seeds = [0]
speed_rounds = 0
base.model.block_config = [1, 1]
base.model.growth_rate = 4
base.data.name = "{NAME}:stripes"
base.data.augmentation = "{NAME}:noise"
base.train.schedule = "{NAME}:falling"
base.train.epochs = 1
base.train.batch_size = 10
[study.loss]
train.loss = ["cross-entropy", "{NAME}:squares"]
[study.optimizer]
variant = [{{ name = "RMSprop", train.optimizer = "torch.optim:RMSprop", train.learning_rate = 0.001 }}]
"""


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """The folder that one works in, with a module of parts; and a function that edits the module."""
    path = tmp_path / f"{NAME}.py"
    path.write_text(PARTS)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    yield path
    sys.modules.pop(NAME, None)


def test_a_name_with_a_colon_is_one_of_a_part(parts):
    assert is_own(f"{NAME}:noise")
    assert not is_own("standard")
    assert find_part(f"{NAME}:falling")(1, 4) == 0.75


@pytest.mark.parametrize(
    ("kind", "fields", "rule"),
    [
        (TrainConfig, {"optimizer": "sdg"}, "Input should be 'sgd' or 'adamw'"),
        (TrainConfig, {"loss": f"{NAME}:suqares"}, "has no suqares; did you mean 'squares'?"),
        (TrainConfig, {"loss": f"{NAME}.squares"}, f"should be 'cross-entropy'; .* is written '{NAME}:squares'"),
        (TrainConfig, {"loss": f"{NAME}.squares:x"}, f"squares in the module {NAME} is written {NAME}:squares"),
        (TrainConfig, {"loss": f"{NAME}:FACTOR"}, "FACTOR is a int; a function or a class is needed"),
        (TrainConfig, {"loss": f"{NAME}:squares", "label_smoothing": 0.1}, "label_smoothing belongs to cross-entropy"),
        (TrainConfig, {"schedule": "no_such_module:x"}, "no_such_module cannot be imported"),
        (DataConfig, {"augmentation": 3}, "Input should be 'none', 'standard'"),
    ],
)
def test_what_is_no_part_is_refused(parts, kind, fields, rule):
    with pytest.raises(ValidationError, match=rule):
        kind(**fields)


def test_the_code_of_a_part_and_not_its_comments_is_part_of_the_identity(parts):
    names = {"optimizer": "torch.optim:RMSprop", "loss": f"{NAME}:squares"}
    variant = Variant(DenseNetConfig(), DataConfig(), TrainConfig(**names))
    first = variant_fields(variant, "0")["sources"]
    assert first == find_sources(RunConfig(variant, 0)) == fingerprint_parts(*names.values())
    assert first["torch"] == torch.__version__.partition("+")[0]
    parts.write_text(f"# a comment\n{PARTS}")
    assert variant_fields(variant, "0")["sources"] == first
    parts.write_text(PARTS.replace("FACTOR = 2", "FACTOR = 3"))
    assert variant_fields(variant, "0")["sources"] != first
    assert "sources" not in variant_fields(Variant(DenseNetConfig(), DataConfig(), TrainConfig()), "0")


@pytest.mark.parametrize("name", [f"{NAME}:noise", "randaugment", "trivialaugment", "resized-crop"])
def test_an_augmentation_depends_on_seed_epoch_and_image_alone(parts, name):
    data, config = load(DataConfig(name=f"{NAME}:stripes")), DataConfig(augmentation=name)
    batches = list(torch.arange(30).split(10))
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = [*augment(data, batches, 5, config)]
    assert torch.equal(torch.get_rng_state(), before), "no other random choice depends on it"
    assert [each.shape for each in first] == [(10, 1, 8, 8)] * 3
    torch.manual_seed(2)
    assert torch.equal(next(augment(data, batches[1:], 5, config)), first[1])
    assert not torch.equal(next(augment(data, batches[1:], 6, config)), first[1])


def test_parts_that_give_something_else_are_told(parts):
    none, network, scores = f"{NAME}:nothing", build(DenseNetConfig(block_config=[1, 1])), torch.zeros(2, 3)
    with pytest.raises(TypeError, match=r"a loss is a tensor with one number, \(\); .*:nothing gave a NoneType"):
        compute_loss(scores, torch.tensor([0, 1]), TrainConfig(loss=none))
    with pytest.raises(TypeError, match=r"nothing gave a NoneType; a torch\.optim\.Optimizer is needed"):
        make_optimizer(network, TrainConfig(optimizer=none))
    data = load(DataConfig(name=f"{NAME}:stripes"))
    with pytest.raises(TypeError, match=r"as it gets them, torch.uint8 \(30, 1, 8, 8\); .*:nothing gave a NoneType"):
        next(augment(data, [torch.arange(30)], 0, DataConfig(augmentation=none)))


def test_a_schedule_and_an_optimizer_of_the_user_s(parts):
    config = TrainConfig(schedule=f"{NAME}:falling", optimizer="torch.optim:RMSprop", learning_rate=0.4, momentum=0.5)
    assert [learning_rate(config, step, 4, 2) for step in range(4)] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    optimizer = make_optimizer(build(DenseNetConfig(block_config=[1, 1])), config)
    assert isinstance(optimizer, torch.optim.RMSprop)
    assert (optimizer.defaults["momentum"], optimizer.param_groups[0]["weight_decay"]) == (0.5, 1e-4)


@pytest.mark.parametrize(
    ("old", "new", "wrong"),
    [
        (
            f"{NAME}:falling",
            f"{NAME}:nothing",
            "base.train.schedule = '.*': TypeError: a schedule gives a number from 0 on",
        ),
        (f"{NAME}:noise", f"{NAME}:nothing", "base.data.augmentation = .*TypeError: an augmentation gives images"),
        (
            "torch.optim:RMSprop",
            f"{NAME}:nothing",
            r"study.optimizer.variant\[0\].train.optimizer.*Optimizer is needed",
        ),
        (
            "epochs = 1",
            'epochs = 1\nbase.train.mix = "mixup"',
            r"study.loss.train.loss = .*RuntimeError: one_hot.*, at parts_of_mine\.py:13 in squares$",
        ),
        (f"{NAME}:squares", f"{NAME}:counting", "study.loss.train.loss = .*a loss is a tensor with one number"),
        (f"{NAME}:squares", "torch.nn:MSELoss", "torch.nn:MSELoss is a class; a function of scores and classes"),
        ("torch.optim:RMSprop", f"{NAME}:Counting", "keeps step as plain numbers in its state"),
    ],
)
def test_parts_that_do_not_work_are_told_before_any_job(parts, tmp_path, old, new, wrong):
    parts.write_text(PARTS + COUNTING)
    (tmp_path / "grid.toml").write_text(GRID.replace(old, new))
    with pytest.raises(GridError) as caught:
        read(tmp_path / "grid.toml")
    assert len(caught.value.problems) == 1
    assert re.search(wrong, str(caught.value)), caught.value


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_mixed_images_are_trained_on_and_repeat(parts, mix):
    data, config = load(DataConfig(name=f"{NAME}:stripes")), TrainConfig(epochs=1, batch_size=10, mix=mix)
    found = [
        train(build_seeded(), data, DataConfig(), each, 0)
        for each in (config, config, TrainConfig(epochs=1, batch_size=10))
    ]
    assert found[0].weights == found[1].weights != found[2].weights


def build_seeded():
    torch.manual_seed(0)
    return build(DenseNetConfig(block_config=[1, 1], growth_rate=4, in_channels=1, num_classes=2))


@pytest.mark.slow
def test_an_edited_part_is_named_where_it_makes_another_grid(parts, tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    folder = tmp_path / "r"
    make_manifest(read(tmp_path / "grid.toml"), MACHINE, folder).write(folder)
    assert describe_other_grid(folder, make_manifest(read(tmp_path / "grid.toml"), MACHINE, folder)) == ""
    parts.write_text(PARTS.replace("FACTOR = 2", "FACTOR = 3"))
    said = describe_other_grid(folder, make_manifest(read(tmp_path / "grid.toml"), MACHINE, folder))
    assert said == (
        f"{folder} holds another grid (the code of {NAME} was edited); 3 of its 3 runs would leave the tables: choose "
        "another folder with --out"
    )
    told = CliRunner().invoke(app, ["plan", str(tmp_path / "grid.toml"), "--out", str(folder), "--counts-only"])
    assert f"Note: {said}." in told.stderr.replace("\n", " ").replace("  ", " ")


def test_a_grid_of_own_parts_runs_until_one_is_edited(parts, tmp_path):
    (tmp_path / "grid.toml").write_text(GRID)
    jobs = list_jobs(read(tmp_path / "grid.toml"), MACHINE)
    runs = [each for each in jobs if each.kind == "run"]
    assert len({each.id for each in runs}) == 3
    assert all(each.fields["sources"] for each in runs)
    assert job.execute(runs[1], tmp_path, {}, context()) == "done"
    assert records.load(tmp_path)[0][runs[1].id]["config"]["sources"] == runs[1].fields["sources"]
    parts.write_text(PARTS.replace("FACTOR = 2", "FACTOR = 3"))
    assert job.execute(runs[2], tmp_path, {}, context()) == "failed"
    reason = records.load_attempts(tmp_path)[runs[2].id][0]["reason"]
    assert "parts_of_mine was changed while the grid ran: run the grid again" in reason

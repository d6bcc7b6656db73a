"""Kept weights give the network back."""

from __future__ import annotations

import json

import pytest
import torch
from conftest import MACHINE, TINY, context, record_of, write_grid
from safetensors.torch import save_file

import ablations
from ablations.config import DataConfig
from ablations.data.dataset import load
from ablations.execution import job
from ablations.grid.model import list_jobs
from ablations.grid.reader import read
from ablations.storage import records
from ablations.training import weights
from ablations.training.evaluation import evaluate
from ablations.training.loop import hash_weights
from ablations.training.weights import NotWeights, load_model, read_description, write
from densenet import OwnConfig, build


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
def test_a_kept_network_is_the_one_that_was_tested(tmp_path, precision):
    text = TINY.replace(
        "train.epochs = 1", f'train.epochs = 1\ntrain.keep_weights = true\ntrain.precision = "{precision}"'
    )
    grid = read(write_grid(tmp_path, text.replace("growth_rate = 4", "growth_rate = [4, 6]")))
    run = next(each for each in list_jobs(grid, MACHINE) if each.kind == "run")
    assert job.execute(run, tmp_path, {}, context()) == "done"
    record = records.load(tmp_path)[0][run.id]
    path = tmp_path / "weights" / f"{run.id}.safetensors"
    network = ablations.load_model(path)
    assert not network.training
    data = load(grid.base.data)
    found = evaluate(network, data, data.test, grid.base.train)
    assert found.accuracy == record["deterministic"]["test_accuracy"]
    assert found.loss == record["deterministic"]["test_loss"]
    beside = read_description(path)
    assert beside["model"]["growth_rate"] == [4, 6]
    assert beside["job"] == json.loads(json.dumps(run.fields))
    assert beside["data"]["mean"] == pytest.approx(data.mean.flatten().tolist(), abs=1e-4)


def test_kept_weights_are_those_of_the_record(tmp_path, tiny):
    data, config = load(DataConfig(train_limit=20)), tiny.base.model
    first, second = build(config), build(config)
    runs = [each for each in list_jobs(tiny, MACHINE) if each.kind == "run"][:2]
    paths = [tmp_path / "weights" / f"{run.id}.safetensors" for run in runs]
    for run, path, network in zip(runs, paths, (first, second), strict=True):
        write(path, network, config, data, {})
        record = record_of(run, 90.0, 1.0)
        record["deterministic"]["weights"] = hash_weights(network)
        records.publish(tmp_path, record)
    path = paths[0]
    load_model(path)
    path.write_bytes(paths[1].read_bytes())
    with pytest.raises(NotWeights, match="not those of its record"):
        load_model(path)
    (tmp_path / "elsewhere").write_bytes(path.read_bytes())
    load_model(tmp_path / "elsewhere")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    (tmp_path / "elsewhere").write_bytes(content)
    with pytest.raises(NotWeights, match="not those of its description"):
        load_model(tmp_path / "elsewhere")
    (tmp_path / "records" / f"{runs[0].id}.json").write_text("{}")
    with pytest.raises(NotWeights, match="damaged"):
        load_model(path)


def test_without_being_asked_nothing_is_kept(tmp_path, tiny):
    run = next(each for each in list_jobs(tiny, MACHINE) if each.kind == "run")
    job.execute(run, tmp_path, {}, context())
    assert not (tmp_path / "weights").exists()


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    save_file({"x": torch.zeros(1)}, tmp_path / "b")
    save_file({"x": torch.zeros(1)}, tmp_path / "c", {"model": '{"family": "resnet"}', "data": "{}", "job": "{}"})
    save_file({}, tmp_path / "d", {"model": '{"family": "resnett"}', "data": "{}", "job": "{}"})
    save_file({}, tmp_path / "e", {"model": '"x"', "data": "{}", "job": "{}"})
    save_file({}, tmp_path / "f", {"model": '{"family": 3}', "data": "{}", "job": "{}"})
    for name in ("nothing", "a", "b", "c", "d", "e", "f"):
        with pytest.raises(NotWeights, match=f"{tmp_path / name}"):
            load_model(tmp_path / name)


class Tied(torch.nn.Module):
    """A user's network, two of whose layers are one."""

    def __init__(self, in_channels, num_classes):
        super().__init__()
        self.a = torch.nn.Linear(in_channels * 64, num_classes)
        self.b = torch.nn.Linear(in_channels * 64, num_classes)
        self.b.weight = self.a.weight

    def forward(self, images):
        return self.a(images.flatten(1)) + self.b(images.flatten(1))


def test_a_network_outside_the_package_is_imported_only_when_that_is_allowed(tmp_path, monkeypatch):
    data = load(DataConfig(train_limit=20))
    config = OwnConfig(family=f"{__name__}:Tied", in_channels=1)
    write(tmp_path / "w", build(config), config, data, {})
    with pytest.raises(NotWeights, match=r"test_weights:Tied, outside this package: own_code=True imports it"):
        load_model(tmp_path / "w")
    network = load_model(tmp_path / "w", own_code=True)
    assert type(network).__name__ == "Tied"
    monkeypatch.setattr(weights, "describe_source", lambda model: {"network_modules": {"parts": ["1"]}})
    with pytest.raises(NotWeights, match=r"has changed since it was trained: .*parts"):
        load_model(tmp_path / "w", own_code=True)
    assert network.b.weight is network.a.weight

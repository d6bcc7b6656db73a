"""A pickle that would leave a trace is offered as every file that is read: none is ever unpickled."""

from __future__ import annotations

import io
import pickle
import shutil
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from conftest import MACHINE, TINY, write_grid
from typer.testing import CliRunner

import ablations
from ablations.cli import app
from ablations.config import CostConfig, DataConfig, TrainConfig
from ablations.data import dataset
from ablations.data.images import DataError
from ablations.grid.model import list_jobs
from ablations.grid.problems import GridError
from ablations.grid.reader import read
from ablations.profiling import memory
from ablations.storage.paths import cache_folder
from ablations.training.checkpoint import CheckpointStore, State
from ablations.training.loop import make_network
from ablations.training.step import make_optimizer
from ablations.training.weights import NotWeights
from densenet import DenseNetConfig

SMALL = DenseNetConfig(block_config=(1,), growth_rate=4, in_channels=1)


class Canary:
    """Unpickled, it sings."""

    def __reduce__(self):
        return (Path.touch, (Path("canary-was-unpickled"),))


def torch_file():
    content = io.BytesIO()
    torch.save(Canary(), content)
    return content.getvalue()


EGGS = {"a pickle": pickle.dumps(Canary()), "a file of torch.save": torch_file()}


@pytest.fixture(params=EGGS)
def egg(request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield EGGS[request.param]
    assert not Path("canary-was-unpickled").exists()
    with suppress(Exception):
        pickle.loads(EGGS["a pickle"])
    assert Path("canary-was-unpickled").exists(), "the canary can sing"


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_as_a_grid(egg, tmp_path):
    (tmp_path / "grid.toml").write_bytes(egg)
    with pytest.raises(GridError):
        read(tmp_path / "grid.toml")
    assert call("run", tmp_path / "grid.toml", "--out", tmp_path / "out").exit_code == 2


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "svhn", "fashion-mnist"])
def test_as_any_file_of_a_published_data_set(name, egg, tmp_path):
    for path in PUBLISHED:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(egg)
    with pytest.raises(DataError):
        dataset.load(DataConfig(name=name, root=str(tmp_path)))


PUBLISHED = [
    "cifar-10-python.tar.gz",
    "cifar-100-python.tar.gz",
    *(f"cifar-10-batches-py/{name}" for name in ("batches.meta", "test_batch", "data_batch_1", "data_batch_5")),
    *(f"cifar-100-python/{name}" for name in ("meta", "train", "test")),
    *(f"{part}_32x32.mat" for part in ("train", "test")),
    *(f"{part}-images-idx3-ubyte" for part in ("train", "t10k")),
    *(f"{part}-labels-idx1-ubyte.gz" for part in ("train", "t10k")),
]


def test_as_a_table_and_as_an_image(egg, tmp_path):
    for part in ("train", "test"):
        (tmp_path / f"{part}.parquet").write_bytes(egg)
        (tmp_path / part / "cat").mkdir(parents=True)
        (tmp_path / part / "cat" / "1.jpg").write_bytes(egg)
    for name in ("parquet", "imagefolder"):
        with pytest.raises(DataError):
            dataset.load(DataConfig(name=name, root=str(tmp_path), image_size=8))


def test_as_anything_in_the_cache(egg, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    small = CostConfig(SMALL, (8, 8), TrainConfig(batch_size=8))
    before = dataset.load(DataConfig()).train.images, memory.predict(small)
    kept = [path for path in cache_folder().rglob("*") if path.is_file()]
    assert {path.suffix for path in kept} == {".safetensors", ".json"}
    for path in kept:
        path.write_bytes(egg)
    assert torch.equal(dataset.load(DataConfig()).train.images, before[0])
    assert memory.predict(small) == before[1]


def test_as_anything_in_a_results_folder(egg, results, tiny):
    for job in list_jobs(tiny, MACHINE)[:2]:
        (results / "records" / f"{job.id}.json").write_bytes(egg)
        (results / "attempts").mkdir(exist_ok=True)
        (results / "attempts" / f"{job.id}-1.json").write_bytes(egg)
    assert len(ablations.load(results).damaged) == 2
    assert call("status", results).exit_code == 0
    (results / "jobs.json").write_bytes(egg)
    for arguments in (["status", results], ["report", results], ["cite", results, "growth_rate", "8", "test_accuracy"]):
        assert call(*arguments).exit_code == 2
    (results / ".lock").write_bytes(egg)
    assert call("run", write_grid(results.parent), "--out", results, "--device", "cpu").exit_code == 2
    shutil.rmtree(results / "records")


def test_as_a_checkpoint(egg, tmp_path):
    network = make_network(SMALL, 0, torch.device("cpu"))
    state = State(network, None, make_optimizer(network, TrainConfig()), torch.Generator().get_state())
    store = CheckpointStore(tmp_path, "job", {})
    store.write(state.dump(), (0, 0))
    for path in store.paths:
        path.write_bytes(egg)
    store.restore(state)
    assert state.resumes == 0


def test_as_weights_and_as_a_report(egg, tmp_path):
    (tmp_path / "w.safetensors").write_bytes(egg)
    with pytest.raises(NotWeights):
        ablations.load_model(tmp_path / "w.safetensors")
    (tmp_path / "report.md").write_bytes(egg)
    assert call("check", tmp_path / "report.md").exit_code in (0, 2)


def test_as_a_value_on_the_command_line(egg, tmp_path):
    path = write_grid(tmp_path, TINY)
    with pytest.raises(GridError):
        read(path, [f"train.epochs={egg.decode('latin-1')}"])

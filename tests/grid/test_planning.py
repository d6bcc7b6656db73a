"""Plans: every job of a plan comes back as the job that it was, wherever it is started."""

from __future__ import annotations

import shutil
import sys

import pytest
from conftest import MACHINE, TINY, write_grid, write_images

from ablations.cli import SHIPPED
from ablations.config import identity
from ablations.data.dataset import load
from ablations.grid.model import list_jobs
from ablations.grid.planning import job_of, make_manifest
from ablations.grid.reader import read
from ablations.storage.manifest import Manifest

NOISE = ['data.root=""', 'data.name="random"', "data.shape=[3,32,32]", "data.classes=10", "data.size=6000"]


@pytest.mark.parametrize("grid", ["presets", "cifar10-cpu", "cifar10-paper"])
def test_every_job_of_the_shipped_grids_comes_back_from_its_plan(grid, tmp_path):
    found = read(SHIPPED / f"{grid}.toml", NOISE if grid.startswith("cifar10") else ())
    make_manifest(found, MACHINE, tmp_path).write(tmp_path)
    plan = Manifest.read(tmp_path)
    for job in list_jobs(found, MACHINE):
        assert job_of(plan, tmp_path, job.id) == job


def test_data_is_found_again_when_it_moves_with_the_results(tmp_path, monkeypatch):
    fields = write_images(tmp_path / "here" / "images", 4).replace(str(tmp_path), "..")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    text = TINY.replace('data.name = "digits"\ndata.train_limit = 100', f"{fields}\ntrain.keep_weights = true")
    found = read(write_grid(tmp_path, text))
    make_manifest(found, MACHINE, tmp_path / "here" / "results").write(tmp_path / "here" / "results")
    shutil.move(tmp_path / "here", tmp_path / "there")
    monkeypatch.chdir("/")
    folder = tmp_path / "there" / "results"
    job = job_of(Manifest.read(folder), folder, list_jobs(found, MACHINE)[-1].id)
    assert load(job.config.variant.data).checksum == job.fields["data"]["checksum"]
    assert job.config.variant.train.keep_weights
    assert str(tmp_path) not in (folder / "jobs.json").read_text()


def test_what_cannot_be_started_is_told(tiny, tmp_path):
    plan = make_manifest(tiny, MACHINE, tmp_path)
    with pytest.raises(ValueError, match="cannot run job 0000: it is none of its 8; `ablate run` plans the grid anew"):
        job_of(plan, tmp_path, "0000")
    first = plan.jobs[0]
    with pytest.raises(ValueError, match="older version"):
        job_of(plan.model_copy(update={"configurations": {}}), tmp_path, first.id)
    other = plan.model_copy(update={"machine": {**MACHINE, "threads": 7}})
    with pytest.raises(ValueError, match="was planned by another version"):
        job_of(other, tmp_path, first.id)


def test_a_cost_whose_fields_have_changed_is_not_measured_under_its_old_id(tmp_path):
    """An older version hashed the costs of networks that recompute without saying when they recompute."""
    grid = read(write_grid(tmp_path, TINY.replace("model.growth_rate = [4, 8]", 'model.checkpoint = ["layer"]')))
    plan = make_manifest(grid, MACHINE, tmp_path).model_dump(mode="json")
    entry = next(each for each in plan["jobs"] if each["name"] == "growth_rate layer")
    fields = plan["configurations"][entry["configuration"]]["identity"]
    del fields["recomputed"]
    entry["id"] = identity({"kind": "cost", "config": fields, "machine": MACHINE})
    with pytest.raises(ValueError, match="was planned by another version"):
        job_of(Manifest.model_validate(plan), tmp_path, entry["id"])


def test_a_network_that_cannot_be_imported_is_named(tmp_path, monkeypatch):
    """A planned job of a user's own class, started from another folder than the class's."""
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "separable_network.py").write_text(
        "import torch\n\n\nclass Net(torch.nn.Linear):\n"
        "    def __init__(self, in_channels, num_classes):\n        super().__init__(in_channels, num_classes)\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "here")
    text = TINY.replace("model.block_config = [1, 1]\nmodel.growth_rate = 4", 'model.family = "separable_network:Net"')
    text = text.replace("model.growth_rate = [4, 8]", "train.learning_rate = [0.1, 0.2]")
    grid = read(write_grid(tmp_path, text))
    plan = make_manifest(grid, MACHINE, tmp_path)
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "separable_network")
    with pytest.raises(ValueError, match=r"cannot be made from its plan: .*separable_network"):
        job_of(plan, tmp_path, plan.jobs[0].id)

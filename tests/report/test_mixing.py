"""Results of a network that was edited between them are set aside, and said so everywhere."""

from __future__ import annotations

import importlib
import sys

import pytest
from conftest import MACHINE, record_of, study_of, texts_of, write_grid
from typer.testing import CliRunner

from ablations.cli import app
from ablations.grid.model import list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read
from ablations.report.frames import find_causes, load, unpack_outcomes
from ablations.report.mixing import Source, find_mixed
from ablations.report.survey import list_retryable, survey
from ablations.report.tables import make_study_table
from ablations.storage import records

GRID = """\
seeds = [0, 1]
speed_rounds = 6
base.model.block_config = [1, 1]
base.model.growth_rate = 4
base.train.epochs = 1
[study.network]
variant = [{ name = "own", model.family = "mixed_network:Net" }]
"""

NET = """\
import torch
class Net(torch.nn.Sequential):
    def __init__(self, in_channels, num_classes):
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(in_channels * 64, num_classes))
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Makes a results folder in which each job of the user's class has the source that `source_of` gives its name."""
    (tmp_path / "mixed_network.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    importlib.invalidate_caches()
    grid = read(write_grid(tmp_path, GRID))

    def make(source_of):
        folder = tmp_path / "r"
        make_manifest(grid, MACHINE, folder).write(folder)
        for job in list_jobs(grid, MACHINE):
            record = record_of(job, 90.0, 1.0)
            if job.name.startswith("network own"):
                record["environment"]["network_modules"] = {"mixed_network": [source_of(job)]}
            records.publish(folder, record)
        return folder

    yield make
    del sys.modules["mixed_network"]


def test_runs_of_two_sources_are_not_averaged(make):
    folder = make(lambda job: "new" if job.name.endswith("seed 1") else "old")
    frames = load(folder)
    cells = dict(
        zip(("level", "n", "accuracy"), texts_of(make_study_table(study_of(frames, "network")))[1], strict=False)
    )
    assert cells == {"level": "own", "n": "0", "accuracy": "2 of 2 mixed"}
    assert study_of(frames, "network").others[0].lost == 0
    [cause] = find_causes(frames)
    assert cause["reason"] == "mixed_network:Net was edited between its runs (mixed_network): they are of two networks"
    assert (len(cause["jobs"]), list_retryable([cause]), survey(folder).find_causes()) == (4, [], [cause])
    assert [*unpack_outcomes(frames).index] == [], "no run of the base has outcomes here"
    told = CliRunner().invoke(app, ["status", str(folder)]).output
    assert "mixed" in told
    assert "was edited between its runs" in " ".join(told.split())


def test_a_measurement_of_another_source_is_set_aside_alone(make):
    frames = load(make(lambda job: "old" if "seed" in job.name else "new"))
    own = study_of(frames, "network").others[0]
    assert (own.n, own.cost_status, [*frames.speeds.status]) == (2, "mixed", ["mixed"])
    assert [cause["reason"] for cause in find_causes(frames)] == [
        "mixed_network:Net was edited after its first results (mixed_network): measure it again"
    ]


def test_one_source_is_no_mixture(make):
    frames = load(make(lambda job: "same"))
    assert find_causes(frames) == []
    assert study_of(frames, "network").others[0].n == 2


def test_the_modules_of_both_sides_do_not_hide_an_edit_and_make_none():
    both = {"network_modules": {"one": ["a"], "two": ["b"]}}
    run = Source("1", "run", ("one:Net",), {"network_modules": {"one": ["a"]}})
    assert find_mixed([run, Source("2", "speed", ("one:Net", "two:Net"), both)]) == {}
    edited = Source("1", "run", ("one:Net",), {"network_modules": {"one": ["x"]}})
    assert [*find_mixed([edited, Source("2", "speed", ("one:Net", "two:Net"), both)])] == ["2"]

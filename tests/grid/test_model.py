"""What a valid grid needs: variants, jobs, and the manifest that reports are made from."""

from __future__ import annotations

from conftest import MACHINE, TINY, write_grid

from ablations.grid.model import list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read


def test_equal_variants_of_two_studies_run_once(tmp_path):
    text = TINY + "[study.again]\nmodel.growth_rate = [8]\n[study.rate]\ntrain.learning_rate = [0.1, 0.05]\n"
    found = list_jobs(read(write_grid(tmp_path, text)), MACHINE)
    assert len({job.id for job in found}) == len(found)
    assert sum(job.kind == "run" for job in found) == 3 * 3
    assert sum(job.kind == "cost" for job in found) == 2, "a learning rate costs nothing"
    assert [job.kind for job in found] == ["cost"] * 2 + ["run"] * 9


def test_a_cost_belongs_to_its_machine_and_a_run_does_not(tiny):
    here, there = list_jobs(tiny, MACHINE), list_jobs(tiny, {**MACHINE, "device_name": "Another"})
    for a, b in zip(here, there, strict=True):
        assert (a.id == b.id) == (a.kind == "run")


def test_the_manifest_holds_no_path_and_is_the_same_every_time(tmp_path, tiny):
    plan = make_manifest(tiny, MACHINE, tmp_path)
    assert plan == make_manifest(read(write_grid(tmp_path)), MACHINE, tmp_path)
    assert str(tmp_path) not in str(plan)

"""jobs.json: what is written is read again, and what is no plan is told."""

from __future__ import annotations

import pytest
from conftest import MACHINE

from ablations.grid.planning import make_manifest
from ablations.storage import files, records
from ablations.storage.manifest import NAME, Manifest, NotResults


def test_a_plan_is_read_as_it_was_written(tiny, tmp_path):
    plan = make_manifest(tiny, MACHINE, tmp_path)
    plan.write(tmp_path)
    assert Manifest.read(tmp_path) == plan
    assert [level.label for level in plan.levels("growth_rate")] == ["4", "8"]
    assert plan.study("growth_rate").question == "What does a wider layer buy?"


def test_a_plan_of_an_older_version_is_read_too(tiny, tmp_path):
    """Without what its jobs are made from."""
    old = make_manifest(tiny, MACHINE, tmp_path).model_dump(mode="json", exclude={"configurations"})
    for job in old["jobs"]:
        del job["configuration"]
    files.write(tmp_path / NAME, records.seal(old))
    assert [job.name for job in Manifest.read(tmp_path).jobs][:2] == ["base", "growth_rate 8"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plan: plan.pop("variants"), "was made by another version: it has no 'variants'"),
        (lambda plan: plan.update(title=3), "was made by another version: title: Input should be a valid string"),
        (
            lambda plan: plan["jobs"][0].update(kind="dream"),
            "jobs.0.kind: Input should be 'cost', 'speed', 'tuning' or 'run'",
        ),
        (lambda plan: plan.update(more=1), "more: Extra inputs are not permitted"),
    ],
)
def test_what_is_no_plan_is_told(tiny, tmp_path, change, said):
    plan = make_manifest(tiny, MACHINE, tmp_path).model_dump(mode="json")
    change(plan)
    files.write(tmp_path / NAME, records.seal(plan))
    with pytest.raises(NotResults) as error:
        Manifest.read(tmp_path)
    assert said in str(error.value)
    assert "`ablate run` with the grid of this folder makes it anew" in str(error.value)


def test_a_damaged_and_a_missing_plan_are_told(tmp_path):
    with pytest.raises(NotResults, match=r"there is no jobs\.json"):
        Manifest.read(tmp_path)
    (tmp_path / NAME).write_text("{}")
    with pytest.raises(NotResults, match="is damaged: there is no checksum"):
        Manifest.read(tmp_path)

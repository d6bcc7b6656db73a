"""jobs.json: what is written is read again, and what is no plan is told."""

from __future__ import annotations

import shutil

import pytest
from conftest import MACHINE

from ablations.grid.planning import make_manifest
from ablations.storage import files, records
from ablations.storage.manifest import NAME, Manifest, NotResults, list_foreign


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


def sealed(plan, folder, change):
    """A plan that somebody changed and sealed again."""
    content = plan.model_dump(mode="json")
    change(content)
    files.write(folder / NAME, records.seal(content))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda plan: plan["studies"][0].update(name="../../X"), "a study's name is"),
        (lambda plan: plan["studies"][0]["levels"][0].update(label=r"\input{x}"), "a level's label"),
        (lambda plan: plan["studies"][0].update(question="a\nb"), "no line of printable characters"),
        (lambda plan: plan["studies"][0].update(levels=[]), "levels"),
        (lambda plan: plan["studies"][0]["levels"][0].update(is_base=False), "has not one base"),
        (lambda plan: plan["studies"][0]["levels"][0].update(variant="0" * 16), "variant 0000000000000000 is missing"),
        (lambda plan: plan["studies"][0]["levels"][0].update(tuned_as="0" * 16), "tuning of variant"),
        (lambda plan: plan.update(studies=[]), "studies"),
        (lambda plan: plan["studies"].append(plan["studies"][0]), "a name stands more than once"),
        (lambda plan: plan["jobs"].append(plan["jobs"][0]), "an id stands more than once"),
        (lambda plan: plan["jobs"][0].update(id="../../x"), "is no id"),
        (lambda plan: plan.update(jobs=[]), "there is no run"),
        (lambda plan: plan["jobs"].append(plan["jobs"][-1] | {"id": "0" * 16}), "a run stands more than once"),
        (lambda plan: plan["jobs"].pop(), "a level has not one run for each seed"),
        (lambda plan: plan.update(machine={}), "it has no device"),
        (lambda plan: plan.update(title="\x1b[31m"), "title: Value error, it is no line"),
    ],
)
def test_a_plan_that_was_sealed_again_is_checked_like_a_grid(tiny, tmp_path, change, said):
    sealed(make_manifest(tiny, MACHINE, tmp_path), tmp_path, change)
    with pytest.raises(NotResults, match=said):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("part", ["records", "tables", "figures"])
def test_no_part_of_a_results_folder_may_be_a_link(results, tmp_path, part):
    (tmp_path / "elsewhere").mkdir()
    if (results / part).exists():
        (results / part).rename(results / "moved")
    (results / part).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(NotResults, match=f"{part} must not be a link"):
        Manifest.read(results)


def test_a_folder_is_taken_if_it_is_empty_or_ours(results, tmp_path):
    other = tmp_path / "other"
    assert list_foreign(other) == []
    (other / "records").mkdir(parents=True)
    (other / ".lock").touch()
    assert list_foreign(other) == []
    for name in ("grid.toml", "runs.csv", "jobs.json", ".my.vacation.photo.tmp"):
        (other / name).write_text("mine")
    assert list_foreign(other) == [".my.vacation.photo.tmp", "grid.toml", "jobs.json", "runs.csv"]
    (other / ".lock").write_text("mine")
    assert ".lock" in list_foreign(other)
    (results / "notes.txt").write_text("mine")
    assert list_foreign(results) == []
    (results / "jobs.json").unlink()
    assert list_foreign(results) == [], "its records are ours"
    shutil.rmtree(results / "records")
    assert list_foreign(results) == ["grid.toml", "notes.txt"]

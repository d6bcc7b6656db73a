"""Tidy frames from a results folder whose numbers are known."""

from __future__ import annotations

import doctest
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import MACHINE, TINY, fabricate, record_of, write_grid

import ablations
import ablations.report.frames
from ablations.grid.model import list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read
from ablations.report.frames import _make_exact_frame, find_causes, load, select_study, unpack_outcomes
from ablations.report.survey import survey
from ablations.storage import records
from ablations.storage.manifest import NotResults


def test_a_growth_rate_is_a_column(results):
    runs = ablations.load(results).runs
    assert runs["model.growth_rate"].tolist() == [4, 8] * 3
    assert runs.seed.tolist() == [0, 0, 1, 1, 2, 2]
    assert runs.test_accuracy.tolist() == [90.5, 92.0, 91.0, 93.5, 91.5, 93.5]
    assert runs.status.unique().tolist() == ["done"]


def test_frames_join_by_variant(results):
    frames = ablations.load(results)
    assert set(frames.studies.variant) == set(frames.variants.variant) == set(frames.costs.variant)
    assert frames.costs.params.tolist() == [1000, 2000]
    assert frames.history.seconds.tolist() == [2.5] * 6
    assert frames.studies.level.tolist() == ["4", "8"]
    assert frames.studies.is_base.tolist() == [True, False]


def test_missing_failed_and_damaged_are_three_things(tmp_path, tiny):
    fabricate(tmp_path / "r", tiny, skip=("base, seed 0", "base, seed 1"))
    run = next(job for job in list_jobs(tiny, MACHINE) if job.name == "base, seed 1")
    records.note_attempt(tmp_path / "r", {"id": run.id, "name": run.name, "status": "oom", "reason": "MemoryError: "})
    broken = next(job for job in list_jobs(tiny, MACHINE) if job.name == "base, seed 2")
    path = tmp_path / "r" / "records" / f"{broken.id}.json"
    path.write_bytes(path.read_bytes().replace(b"91.5", b"99.5"))
    frames = ablations.load(tmp_path / "r")
    base = frames.runs[frames.runs["model.growth_rate"] == 4]
    assert base.status.tolist() == ["missing", "oom", "missing"]
    assert base.reason.tolist() == ["", "MemoryError: ", ""]
    assert frames.damaged == (path,)


@pytest.mark.parametrize("content", [None, "", "[]", "{}"])
def test_a_folder_without_results_is_told(tmp_path, content):
    if content is not None:
        (tmp_path / "jobs.json").write_text(content)
    with pytest.raises(NotResults, match=r"jobs\.json"):
        ablations.load(tmp_path)


def test_nothing_that_reads_results_loads_torch():
    code = (
        "import sys, ablations.cli, ablations.report.page, ablations.report.citations; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_damaged_jobs_json_is_told(results):
    path = results / "jobs.json"
    path.write_bytes(path.read_bytes().replace(b'"growth_rate"', b'"growth_gate"'))
    with pytest.raises(NotResults, match=r"jobs\.json is damaged: its checksum does not match; delete it, and"):
        ablations.load(results)


def test_the_examples_of_the_docstring_hold(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    found = doctest.testmod(ablations.report.frames)
    assert (found.attempted, found.failed) == (5, 0)


def test_outcomes_are_a_row_per_run_and_a_column_per_image(tmp_path, tiny):
    folder = tmp_path / "r"
    fabricate(folder, tiny, skip=("base, seed 0", "growth_rate 8, seed 2"))
    right = np.arange(360) % 3 == 0
    for job in list_jobs(tiny, MACHINE):
        if job.name in ("base, seed 0", "growth_rate 8, seed 2"):
            record = record_of(job, 100 / 3, 1.0)
            told = right if job.name == "base, seed 0" else ~right
            record["deterministic"] |= {
                "test_outcomes": records.pack_bits(told),
                "test_mistakes": "7" * int((~told).sum()),
            }
            records.publish(folder, record)
    frames = load(folder)
    found = unpack_outcomes(frames)
    assert found.shape == (2, 360)
    base, wide = frames.studies.variant
    assert found.loc[(base, 0)].tolist() == right.tolist()
    assert not (found.loc[(wide, 2)] & found.loc[(base, 0)]).any()
    assert not {"test_outcomes", "test_mistakes"} & set(frames.tables()["runs"]), "too long for a table"


def test_images_of_two_data_sets_are_not_one_table(tmp_path):
    grid = read(write_grid(tmp_path, TINY + "[study.data]\ndata.validation = [0.0, 0.1]\n"))
    folder = tmp_path / "r"
    make_manifest(grid, MACHINE, folder).write(folder)
    for job in (job for job in list_jobs(grid, MACHINE) if job.kind == "run"):
        record = record_of(job, 90.0, 1.0)
        record["deterministic"] |= {"test_outcomes": "ff" * 45, "validation_outcomes": "ff", "validation_mistakes": "0"}
        records.publish(folder, record)
    frames = load(folder)
    assert unpack_outcomes(frames).shape == (9, 360), "other training images, the same test images"
    assert not [name for name in frames.tables()["runs"] if "outcomes" in name or "mistakes" in name]
    frames.variants.loc[0, "data"] = "another"
    with pytest.raises(ValueError, match="several data sets"):
        unpack_outcomes(frames)


def test_results_without_outcomes_have_none(results):
    assert unpack_outcomes(load(results)).shape[0] == 0


COMPARED = TINY.replace("speed_rounds = 0", "speed_rounds = 6")


def test_a_comparison_of_speed_is_a_row_with_ratios_and_intervals(tmp_path):
    """The level takes twice the base's time in the first round, and 1 % more in every later one: 2.00 to 2.10."""
    fabricate(tmp_path / "r", read(write_grid(tmp_path, COMPARED)))
    frames = load(tmp_path / "r")
    base, wide = frames.studies.variant
    (row,) = frames.speeds.to_dict("records")
    assert (row["variant"], row["base"], row["status"], row["rounds"]) == (wide, base, "done", 6)
    assert row["latency_step_seconds_ratio"] == pytest.approx(2.05)
    assert row["latency_step_seconds_low"] == pytest.approx(2.0)
    assert row["latency_step_seconds_high"] == pytest.approx(2.1)
    assert row["train_images_per_second_low"] == pytest.approx(1 / 2.1)
    assert row["inference_images_per_second_high"] == pytest.approx(1 / 2.0)
    assert (row["disturbed"], row["device_name"]) == ("", MACHINE["device_name"])
    assert frames.tables()["speeds"].equals(frames.speeds)
    assert frames.speeds.rounds.dtype == "Int64"
    assert list(frames.jobs()) == ["runs", "costs", "speeds"]


def test_a_comparison_is_disturbed_if_half_of_its_rounds_are(tmp_path):
    grid = read(write_grid(tmp_path, COMPARED))
    fabricate(tmp_path / "r", grid, skip=("growth_rate 8 against base",))
    job = next(job for job in list_jobs(grid, MACHINE) if job.kind == "speed")
    record = record_of(job, 0.0, 2.0)
    rounds = record["measured"]["rounds"]
    for number, side in ((0, "base"), (2, "level"), (5, "base")):
        rounds[number][side]["train_disturbed"] = "other processes used 0.9 cores"
    for number, side in ((0, "base"), (0, "level"), (5, "base")):
        rounds[number][side]["latency_disturbed"] = "the host took 12 % of the time"
    records.publish(tmp_path / "r", record)
    (row,) = load(tmp_path / "r").speeds.to_dict("records")
    said = "3 of 6 rounds were disturbed, for example: other processes used 0.9 cores"
    assert (row["train_images_per_second_disturbed"], row["latency_step_seconds_disturbed"]) == (said, "")
    assert row["disturbed"] == said


def test_a_comparison_without_a_record_is_missing_or_has_failed(tmp_path):
    grid = read(write_grid(tmp_path, COMPARED))
    fabricate(tmp_path / "r", grid, skip=("growth_rate 8 against base",))
    assert load(tmp_path / "r").speeds[["status", "reason"]].to_numpy().tolist() == [["missing", ""]]
    job = next(job for job in list_jobs(grid, MACHINE) if job.kind == "speed")
    records.note_attempt(tmp_path / "r", {"id": job.id, "name": job.name, "status": "oom", "reason": "MemoryError: "})
    frames = load(tmp_path / "r")
    assert frames.speeds.train_images_per_second_ratio.isna().all()
    assert (frames.speeds.disturbed == "").all()
    assert find_causes(frames) == [
        {"status": "oom", "reason": "MemoryError: ", "jobs": ["speed growth_rate 8 against base"]}
    ]


def test_variants_that_share_costs_share_a_comparison_and_each_has_a_row(tmp_path):
    text = COMPARED + "\n[study.rates]\nmodel.growth_rate = [4, 8]\ntrain.learning_rate = [0.1, 0.2]\n"
    grid = read(write_grid(tmp_path, text))
    fabricate_without_accuracy(tmp_path / "r", grid)
    frames = load(tmp_path / "r")
    assert sum(job.kind == "speed" for job in list_jobs(grid, MACHINE)) == 1
    assert len(frames.speeds) == 2
    assert frames.speeds.id.nunique() == 1
    assert len(select_study(frames, "growth_rate").speeds) == 1
    assert len(frames.jobs()["speeds"]) == 1


def fabricate_without_accuracy(folder, grid):
    make_manifest(grid, MACHINE, folder).write(folder)
    for job in (job for job in list_jobs(grid, MACHINE) if job.kind != "run"):
        records.publish(folder, record_of(job, 0.0, 2.0))


def test_results_without_comparisons_have_an_empty_frame(results):
    frames = load(results)
    assert frames.speeds.empty
    assert {"variant", "base", "train_images_per_second_ratio", "disturbed"} <= set(frames.speeds)
    assert "speeds" not in frames.tables()
    assert "speeds" not in frames.jobs()


def test_large_whole_numbers_stay_exact_where_other_rows_have_none():
    frame = _make_exact_frame([{"a": 2**53 + 1, "b": 1, "c": 2**70, "d": True, "e": 0.0}, {}])
    assert frame.loc[0].to_dict() == {"a": 2**53 + 1, "b": 1, "c": 2**70, "d": True, "e": 0.0}
    assert [*map(str, (frame.b.dtype, frame.e.dtype))] == ["Int64", "float64"], "CSV files have 1 and 0.0"


def test_variants_that_share_a_cost_count_it_once(tmp_path):
    """Variants that are trained for one epoch and for two have one cost."""
    grid = read(write_grid(tmp_path, f"{TINY}[study.epochs]\ntrain.epochs = [1, 2]\n"))
    make_manifest(grid, MACHINE, tmp_path / "r").write(tmp_path / "r")
    for job in list_jobs(grid, MACHINE):
        records.publish(tmp_path / "r", record_of(job, 90.0, 1.0))
    frames = load(tmp_path / "r")
    assert (len(frames.costs), len(frames.jobs()["costs"]), len(survey(tmp_path / "r").states["costs"])) == (3, 2, 2)


def test_a_trial_that_two_variants_share_is_one_job(results):
    frames = load(results)
    trial = pd.DataFrame([{"id": "a", "status": "done"}, {"id": "b", "status": "done"}, {"id": "a", "status": "done"}])
    assert [*replace(frames, tuning=trial).jobs()["tuning"].id] == ["a", "b"]

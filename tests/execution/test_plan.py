"""Plans: what is missing, how long it takes, and what does not fit."""

from __future__ import annotations

import io

import pytest
from conftest import MACHINE, TINY, fabricate, record_of, write_grid
from rich.console import Console

from ablations.execution import estimate as estimates
from ablations.execution import plan as plans
from ablations.grid.model import list_jobs, list_trials
from ablations.grid.reader import read
from ablations.storage import files, records


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """Plans a grid on the machine that made-up records come from."""
    for module in (plans, estimates):
        monkeypatch.setattr(module, "describe_machine", lambda device: MACHINE)
    monkeypatch.setattr(estimates, "cache_folder", lambda: tmp_path / "cache")

    def call(grid, folder=tmp_path / "nothing", counts_only=False, workers=1):
        return plans.plan(grid, folder, ["cpu"] * workers, counts_only, Console(file=io.StringIO()))

    return call


def test_everything_is_missing_where_there_is_nothing(tiny, planned):
    found = planned(tiny, counts_only=True)
    assert (found["runs"], found["missing_runs"], found["costs"], found["missing_costs"]) == (6, 6, 2, 2)
    base, wide = found["variants"]
    assert base["levels"] == ["growth_rate 4"]
    assert base["change"]["params"] == 0
    assert wide["change"]["params"] == pytest.approx(wide["params"] / base["params"] - 1)
    assert "seconds" not in found
    assert "predicted_train_peak_memory_bytes" not in base


def test_what_is_on_record_is_neither_counted_nor_missing(tiny, results, planned, monkeypatch):
    monkeypatch.setattr(plans.counts, "count", lambda config: pytest.fail("counted"))
    found = planned(tiny, results)
    assert (found["missing_runs"], found["missing_costs"], found["seconds"]) == (0, 0, 0.0)
    assert found["variants"][0]["params"] == 1000, "the record's"


def test_disturbed_measurements_are_counted(results, tiny, planned):
    assert planned(tiny, results, counts_only=True)["disturbed"] == 1


def test_time_comes_from_costs_on_record(tmp_path, tiny, planned):
    fabricate(tmp_path / "r", tiny, skip=[job.name for job in list_jobs(tiny, MACHINE) if job.kind == "run"])
    found = planned(tiny, tmp_path / "r")
    assert (found["missing_runs"], found["timed_by"]) == (6, "costs on record")
    # 1,000 and 500 images a second in training, 4,000 and 2,000 in inference; two batches of 64, then 360 test images
    assert found["seconds"] == pytest.approx(3 * (128 / 1000 + 360 / 4000) + 3 * (128 / 500 + 360 / 2000))
    assert (found["seconds_low"], found["seconds_high"]) == pytest.approx((found["seconds"], 1.5 * found["seconds"]))
    assert planned(tiny, tmp_path / "r", workers=2)["seconds"] == pytest.approx(found["seconds"] / 2)


def test_time_comes_from_trainings_on_record(tmp_path, tiny, planned):
    """They are those of the same network if there are any, else those of other networks: each took 3 seconds."""
    fabricate(tmp_path / "r", tiny, skip=("growth_rate 8, seed 0", "growth_rate 8, seed 2"))
    found = planned(tiny, tmp_path / "r")
    assert (found["missing_runs"], found["timed_by"]) == (2, "trainings on record, with costs on record")
    assert (found["seconds"], found["seconds_low"], found["seconds_high"]) == pytest.approx((6.0, 5.4, 6.6))
    assert planned(tiny, tmp_path / "r", workers=2)["seconds"] == pytest.approx(3.0)
    fabricate(tmp_path / "q", tiny, skip=[f"growth_rate 8, seed {seed}" for seed in range(3)])
    ratio = 3.0 / (128 / 1000 + 360 / 4000)
    wide = 3 * (128 / 500 + 360 / 2000) * ratio
    found = planned(tiny, tmp_path / "q")
    assert (found["seconds"], found["seconds_high"]) == pytest.approx((wide, 1.2 * wide))


def test_trainings_of_another_machine_tell_nothing_of_this_one(tmp_path, tiny, planned):
    def elsewhere(job, record):
        if job.kind == "run":
            record["environment"]["device_name"] = "Another"

    fabricate(tmp_path / "r", tiny, skip=("growth_rate 8, seed 0",), edit=elsewhere)
    found = planned(tiny, tmp_path / "r")
    assert found["seconds"] == pytest.approx(128 / 500 + 360 / 2000)


def test_the_same_grid_has_the_same_estimate_each_time(tiny, planned, monkeypatch):
    times = iter([(0.01, 0.001), (0.02, 0.002)])
    monkeypatch.setattr(estimates, "_calibrate", lambda config, device: next(times))
    assert planned(tiny)["seconds"] == planned(tiny)["seconds"]


def test_without_costs_the_base_is_timed_and_scaled_by_macs(tiny, planned, monkeypatch):
    monkeypatch.setattr(estimates, "_calibrate", lambda config, device: (0.01, 0.001))
    found = planned(tiny)
    base, wide = found["variants"]
    ratio = wide["macs"] / base["macs"]
    runs = 3 * (128 * 0.01 + 360 * 0.001) * (1 + ratio)
    costs = 2 * estimates.COST_SECONDS + estimates.COST_STEPS * 64 * (0.01 + 0.001) * (1 + ratio)
    assert found["seconds"] == pytest.approx(runs + costs)
    assert found["timed_by"] == "a calibration on the base, scaled by MACs"


def test_comparisons_of_speed_are_counted_and_take_time(tmp_path, planned, monkeypatch):
    monkeypatch.setattr(estimates, "_calibrate", lambda config, device: (0.01, 0.001))
    grid = read(write_grid(tmp_path, TINY.replace("speed_rounds = 0", "speed_rounds = 6")))
    folder = tmp_path / "r"
    fabricate(folder, grid, skip=("growth_rate 8 against base",))
    found = planned(grid, folder)
    assert (found["speeds"], found["missing_speeds"], found["missing_runs"], found["missing_costs"]) == (1, 1, 0, 0)
    rates = (1 + 2) * (1 / 1000 + 1 / 4000)  # of the base and of the level, which takes twice the time
    assert found["seconds"] == pytest.approx(6 * (2 * estimates.SPEED_SECONDS + estimates.SPEED_STEPS * 64 * rates))
    fabricate(folder, grid)
    assert planned(grid, folder)["missing_speeds"] == 0


def test_evaluations_take_time_too(tmp_path, planned, monkeypatch):
    monkeypatch.setattr(estimates, "_calibrate", lambda config, device: (0.0, 1.0))
    text = TINY.replace("train.epochs = 1", "train.epochs = 5\ntrain.evaluation_interval = 2\ndata.validation = 50")
    found = planned(read(write_grid(tmp_path, text.replace("[4, 8]", "[4]").replace("[0, 1, 2]", "[0]"))))
    assert found["seconds"] == pytest.approx(3 * 50 + 360 + estimates.COST_SECONDS + estimates.COST_STEPS * 64)


def test_variants_that_differ_in_training_alone_share_a_cost(tmp_path, planned):
    text = TINY.replace("model.growth_rate = [4, 8]", "train.learning_rate = [0.1, 0.01]")
    grid = read(write_grid(tmp_path, text))
    assert (planned(grid)["costs"], planned(grid)["missing_costs"]) == (1, 1)
    files.write(tmp_path / "r" / "jobs.json", b"{}")
    for job in list_jobs(grid, MACHINE):
        if job.kind == "cost":
            records.publish(tmp_path / "r", record_of(job, 0.0, 1.0))
    found = planned(grid, tmp_path / "r")
    assert (found["missing_runs"], found["missing_costs"], found["timed_by"]) == (6, 0, "costs on record")
    assert all(entry["train_peak_memory_bytes"] == 10 * 2**20 for entry in found["variants"])


def test_what_has_failed_is_not_missing_since_it_is_not_run_again(tiny, tmp_path, planned):
    run = next(job for job in list_jobs(tiny, MACHINE) if job.kind == "run")
    records.note_attempt(tmp_path / "r", {"id": run.id, "name": run.name, "status": "timeout", "reason": ""})
    found = planned(tiny, tmp_path / "r", counts_only=True)
    assert (found["missing_runs"], found["failed"]) == (5, {"timeout": 1})


def test_a_base_that_cannot_be_run_is_said_and_the_others_are_counted(tmp_path, planned, monkeypatch):
    def refuse(config, *device):
        if config.model.norm == "batch":
            raise ValueError("no step of this network can be made")
        return predict(config)

    predict = plans.memory.predict
    monkeypatch.setattr(plans.memory, "predict", refuse)
    monkeypatch.setattr(estimates, "Subject", refuse)
    grid = read(write_grid(tmp_path, TINY.replace("model.growth_rate = [4, 8]", 'model.norm = ["batch", "group"]')))
    found = planned(grid)
    base, group = found["variants"]
    assert base["prediction_failed"] == "ValueError: no step of this network can be made"
    assert base["place"].startswith("test_plan.py:")
    assert base["params"] == group["params"]
    assert (found["seconds"], found["timed_by"]) == (None, "nothing: the base could not be timed")


def test_what_does_not_fit_is_said(tiny, planned, monkeypatch):
    monkeypatch.setattr(plans, "measure_memory", lambda: 10_000)
    entry = planned(tiny)["variants"][0]
    assert "needs more than the 0.0 GiB" in entry["does_not_fit"]


def test_the_calibration_is_in_seconds_per_image(tiny):
    import torch

    config = tiny.cost(tiny.base)
    train, infer = estimates._calibrate(config, torch.device("cpu"))
    assert 0 < infer < train < 1


def test_both_phases_are_counted_and_timed(tmp_path, planned, monkeypatch):
    monkeypatch.setattr(estimates, "_calibrate", lambda config, device: (0.01, 0.001))
    text = TINY.replace("[0, 1, 2]", "[0]").replace("model.growth_rate = [4, 8]", "model.growth_rate = [4]")
    text += "[tune]\ntrain.learning_rate = [0.1, 0.2]\nseeds = [9, 10]\nvalidation = 40\ntrain.epochs = 3\n"
    grid = read(write_grid(tmp_path, text))
    found = planned(grid)
    assert (found["tuning_runs"], found["missing_tuning_runs"], found["runs"], found["missing_runs"]) == (4, 4, 1, 1)
    trials = 4 * (3 * 2 * 64 * 0.01 + 3 * 40 * 0.001)  # 100 images are two batches; no test image
    runs = 2 * 64 * 0.01 + 360 * 0.001
    costs = estimates.COST_SECONDS + estimates.COST_STEPS * 64 * (0.01 + 0.001)
    assert found["seconds"] == pytest.approx(trials + runs + costs)
    folder = tmp_path / "r"
    for each in list_trials(grid, *grid.tuned):
        record = record_of(each, 0.0, 1.0)
        record["deterministic"] = {"validation_accuracy": 100 * each.config.variant.train.learning_rate}
        records.publish(folder, record)
    found = planned(grid, folder)
    assert (found["missing_tuning_runs"], found["missing_runs"]) == (0, 1)
    assert found["seconds"] == pytest.approx(runs * 4.0 / (trials / 4) + costs), "the trials took 4 seconds each"

"""One value's journey: a growth rate from a TOML file to a cell of a LaTeX table, through the command line."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

import pytest
from conftest import TINY, write_grid, write_images


@pytest.mark.slow  # the tutorial's test goes the same way
def test_from_a_grid_file_to_a_latex_cell(tmp_path):
    grid = write_grid(tmp_path, TINY.replace("[0, 1, 2]", "[7]").replace("[4, 8]", "[4, 6]"))
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "ablations", "run", str(grid), "--out", str(folder), "--workers", "2"]
    run = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert str(folder / "tables") in run.stdout

    manifest = json.loads((folder / "jobs.json").read_text())
    (level,) = [level for level in manifest["studies"][0]["levels"] if level["label"] == "6"]
    (job,) = [job for job in manifest["jobs"] if job["variant"] == level["variant"] and job["kind"] == "run"]
    record = json.loads((folder / "records" / f"{job['id']}.json").read_text())
    assert record["config"]["model"]["growth_rate"] == 6
    accuracy = record["deterministic"]["test_accuracy"]

    with (folder / "runs.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["model.growth_rate"] == "6"]
    assert float(row["test_accuracy"]) == accuracy
    assert row["seed"] == "7"

    table = (folder / "tables" / "growth_rate.tex").read_text()
    assert f"\n{{}}6 & \\num{{1}} & \\num{{{accuracy:.2f}}} & " in table
    assert r"\csname ablate:\detokenize{growth_rate:6:test_accuracy}" in (folder / "numbers.tex").read_text()
    assert f"{{{accuracy:.2f}}}" in (folder / "numbers.tex").read_text()

    again = subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True)
    assert "Nothing to train" in again.stdout
    assert (folder / "tables" / "growth_rate.tex").read_text() == table


@pytest.mark.slow  # each part has a test of its own
def test_a_folder_too_large_for_memory_is_trained_from_its_files(tmp_path):
    images = write_images(tmp_path / "images", 4)
    text = TINY.replace('data.name = "digits"\ndata.train_limit = 100', images).replace("[0, 1, 2]", "[0]")
    grid, folder = write_grid(tmp_path, text.replace("[4, 8]", "[4]") + "\n"), tmp_path / "out"
    command = [sys.executable, "-m", "ablations", "run", str(grid), "--out", str(folder), "--device", "cpu"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    with (folder / "runs.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["train_images"], row["test_images"], row["status"]) == ("8", "8", "done")

"""What is committed under results/ is what its records say, byte by byte, whatever has been edited since."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ablations.report import page as report
from ablations.report.frames import load
from ablations.report.plotting import style
from ablations.report.plotting.drawn import NAME
from ablations.report.results import analyse

ROOT = Path(__file__).parents[2]
LISTED = subprocess.run(["git", "ls-files", "results/*/jobs.json"], cwd=ROOT, capture_output=True, text=True)
FOLDERS = sorted((ROOT / line).parent for line in LISTED.stdout.splitlines())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_results_are_rebuilt_byte_for_byte(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(style, "_BACKENDS", {"svg": style._BACKENDS["svg"]})  # what is compared
    copy = tmp_path / folder.name
    for name in ("jobs.json", "grid.toml"):
        copy.mkdir(exist_ok=True)
        shutil.copy(folder / name, copy)
    for name in ("records", "attempts"):
        if (folder / name).exists():
            shutil.copytree(folder / name, copy / name)
    report.write(analyse(load(copy)))
    kept = (path for path in folder.rglob("*") if path.suffix not in (".png", ".pdf") and path.name != NAME)
    for path in filter(Path.is_file, kept):
        assert (copy / path.relative_to(folder)).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_committed_records_name_nothing_of_the_machine_that_made_them(folder):
    for path in folder.rglob("*.*"):
        if path.suffix in (".json", ".csv", ".md", ".tex", ".toml"):
            assert not re.search("/(home|root|tmp|Users)/", path.read_text()), path.name


def test_there_are_committed_results():
    assert "digits-cpu" in [folder.name for folder in FOLDERS]

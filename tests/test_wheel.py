"""A wheel holds all that the commands need: they run from it, away from the repository."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
from conftest import ROOT, write_grid


def ablate(installed, folder, *arguments):
    """The output of the installed command, called in another folder, which must succeed."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    command = [installed / "bin" / "ablate", *arguments]
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_it_holds_every_file_of_the_packages(installed):
    def files(folder):
        found = {path.relative_to(folder) for name in ("ablations", "densenet") for path in (folder / name).rglob("*")}
        return {path for path in found if path.suffix and path.suffix not in (".so", ".pyc")}

    assert files(installed) == files(ROOT)


def test_it_lists_the_grids(installed, tmp_path):
    shipped = ", ".join(sorted(path.stem for path in (ROOT / "ablations" / "grids").glob("*.toml")))
    assert f"Grids: {shipped}\n" in ablate(installed, tmp_path, "list")


def test_it_plans_a_grid(installed, tmp_path):
    assert "6 runs of 2 variants" in ablate(installed, tmp_path, "plan", str(write_grid(tmp_path)), "--counts-only")


@pytest.mark.parametrize("options", [("--only", "tables"), pytest.param((), marks=pytest.mark.slow)])
def test_it_rebuilds_a_report(installed, tmp_path, options):
    committed, folder = ROOT / "results" / "digits-cpu", tmp_path / "digits-cpu"
    folder.mkdir()
    for name in ("grid.toml", "jobs.json"):
        shutil.copy(committed / name, folder)
    shutil.copytree(committed / "records", folder / "records")
    ablate(installed, folder, "report", ".", *options)
    assert options or (folder / "report.html").read_text().count("<table") > 1
    tables = [path.relative_to(committed) for path in (committed / "tables").iterdir()]
    assert [path for path in tables if (folder / path).read_bytes() != (committed / path).read_bytes()] == []

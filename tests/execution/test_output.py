"""Where the output goes: a full disk or a closed pipe is one sentence or none, and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.parametrize("command", [pytest.param("list", marks=pytest.mark.slow), "status {}"])
def test_a_full_disk_behind_the_output_is_one_sentence(command, results):
    called = f"{sys.executable} -m ablations {command.format(results)}"
    full = subprocess.run(["bash", "-c", f"{called} > /dev/full"], capture_output=True, text=True)
    assert (full.returncode, full.stderr.count("\n")) == (2, 1)
    assert full.stderr.endswith("No space left on device\n")
    piped = subprocess.run(["bash", "-c", f"{called} | head -0"], capture_output=True, text=True)
    assert piped.stderr == ""


def test_a_log_has_whole_lines_and_no_drawings_whatever_a_service_asks_for():
    surroundings = {**os.environ, "FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "COLUMNS": "20"}
    command = [sys.executable, "-m", "ablations", "plan", "a-grid-that-is-not-there"]
    done = subprocess.run(command, env=surroundings, capture_output=True, text=True)
    assert (done.returncode, done.stderr.count("\n"), "\x1b" in done.stderr) == (2, 1, False)


def test_a_working_folder_that_was_deleted_is_told(tmp_path):
    place = tmp_path / "gone"
    place.mkdir()
    main = "import densenet_ablations; densenet_ablations.main()"
    called = f'cd {place} && rmdir {place} && {sys.executable} -c "{main}"'
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", called], env=surroundings, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "The folder that you work in was deleted: change to another one.\n")

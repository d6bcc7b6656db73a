"""Where the output goes: a full disk or a closed pipe is one sentence or none, and never a traceback."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize("command", ["list", "status {}"])
def test_a_full_disk_behind_the_output_is_one_sentence(command, results):
    called = f"{sys.executable} -m ablations {command.format(results)}"
    full = subprocess.run(["bash", "-c", f"{called} > /dev/full"], capture_output=True, text=True)
    assert (full.returncode, full.stderr.count("\n")) == (2, 1)
    assert full.stderr.endswith("No space left on device\n")
    piped = subprocess.run(["bash", "-c", f"{called} | head -0"], capture_output=True, text=True)
    assert piped.stderr == ""

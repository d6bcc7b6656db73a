"""`make gpu`: its parts, how they stop and go on, and all of them without a GPU."""

from __future__ import annotations

import json
import subprocess
import sys

import gpu
import pytest


def test_a_device_names_its_files():
    assert gpu.slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"


def test_a_part_is_stopped_at_the_end_of_its_time_and_its_output_is_kept(tmp_path, capsys):
    asleep = "import time; print('begun', flush=True); time.sleep(60)"
    assert gpu.run(gpu.Part("asleep", [sys.executable, "-c", asleep]), tmp_path / "log", 2) == -15
    assert (tmp_path / "log").read_text() == "begun\n"
    assert capsys.readouterr().out.startswith("asleep: exit code -15 after ")


def test_a_part_has_its_own_environment(tmp_path):
    command = [sys.executable, "-c", "import os, sys; sys.exit(int(os.environ['CODE']))"]
    assert gpu.run(gpu.Part("coded", command, {"CODE": "7"}), tmp_path / "log", 60) == 7


@pytest.mark.slow
def test_all_parts_run_without_a_gpu_and_are_not_repeated(tmp_path):
    command = [sys.executable, "tests/gpu.py", "--device", "cpu", "--grid", "quick", "--results", str(tmp_path)]
    first = subprocess.run([*command, "--minutes", "4"], cwd=gpu.ROOT, capture_output=True, text=True)
    codes = json.loads((tmp_path / "gpu" / "done.json").read_text())
    assert (first.returncode, list(codes)) == (0, ["tests", "steps", "costs", "compiled", "grid"]), first.stdout
    assert codes.pop("grid") in (0, gpu.STOPPED)
    again = subprocess.run([*command, "--minutes", "0.05"], cwd=gpu.ROOT, capture_output=True, text=True)
    assert [line for line in again.stdout.splitlines() if line.endswith("done before")] == [
        f"{name}: done before" for name in codes
    ]

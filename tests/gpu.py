"""`make gpu`: verifies the suite on this machine's GPU, and measures there what the pages say of a CPU.

The parts run one after another: the tests that need a GPU; training steps beside torchvision's and timm's; the cost of
every published network, measured beside predicted; and a grid for the time that is left. Each part keeps what it has as
it goes, in `results/`, so the same command goes on where it was stopped. `--device cpu` tries the parts without a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ablations.environment import describe_versions

ROOT = Path(__file__).parent.parent
STOPPED = 75
"""The exit code of `ablate run` when it was stopped and keeps its state."""


TESTS = [f"tests/{name}" for name in ("data", "training", "profiling", "execution")]
"""The folders of tests that need a GPU."""

BENCH = ["tests/test_bench.py", "tests/test_bench_suite.py"]
"""What is compared with others on a GPU too."""


@dataclass(frozen=True)
class Part:
    """A command."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    fine: Sequence[int] = (0,)
    """The exit codes after which it need not run again."""


def slug(name: str) -> str:
    """The name of a device for files: `nvidia-h100-80gb-hbm3`."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def list_parts(device: str, grid: str, jobs: int, results: Path) -> list[Part]:
    """The parts, in the order in which they run."""
    name = slug(describe_versions(torch.device(device))["device_name"])
    python, small = [sys.executable, "-m"], device == "cpu"
    chosen = {"DEVICE": device} | ({"BATCH": "2", "ROUNDS": "1"} if small else {})
    bench = [*python, "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "-m", "bench", *BENCH]
    steps = "test_training_step and textbook and bottleneck" if small else "not compile"
    presets = ["quick", "--no-costs", "--seeds", "0", "--set", "train.epochs=1"] if small else ["presets"]
    shared = ["--jobs-per-device", str(jobs)] if jobs > 1 else []
    run = [*python, "ablations", "run"]
    benchmarks = results / "benchmarks"
    benchmarks.mkdir(parents=True, exist_ok=True)
    return [
        Part("tests", [*python, "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", *TESTS], fine=(0, 5)),
        Part("steps", [*bench, "-k", steps, f"--benchmark-json={benchmarks / name}.json"], chosen),
        Part("costs", [*run, *presets, "--device", device, "--out", str(results / f"presets-{name}")]),
        Part(
            "compiled",
            [*bench, "-k", steps if small else "compile", f"--benchmark-json={benchmarks / name}-compiled.json"],
            chosen,
        ),
        Part("grid", [*run, grid, "--device", device, *shared, "--out", str(results / f"{Path(grid).stem}-{name}")]),
    ]


def run(part: Part, log: Path, seconds: float) -> int:
    """Runs a part with its output on the terminal and in a file, and stops it after some seconds. Returns its code."""
    began = time.monotonic()
    environment = {**os.environ, **part.environment, "PYTHONUNBUFFERED": "1"}
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            part.command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(max(1.0, seconds))
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                code = process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                code = process.wait()
    tail = log.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()[-1:]
    print(f"{part.name}: exit code {code} after {time.monotonic() - began:.0f} s: {' '.join(tail)[:200]}", flush=True)
    return code


def main() -> None:
    """Runs the parts that have not been done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--grid", default="cifar10", help="the grid for the time that is left")
    parser.add_argument("--jobs-per-device", type=int, default=4, help="how many of its trainings share the GPU")
    parser.add_argument("--minutes", type=float, default=25)
    parser.add_argument("--results", type=Path, default=ROOT / "results")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch finds no CUDA device here. `make gpu DEVICE=cpu` tries the parts without one.")
    jobs = given.jobs_per_device if given.device == "cuda" else 1
    end, folder = time.monotonic() + 60 * given.minutes, given.results / "gpu"
    folder.mkdir(parents=True, exist_ok=True)
    done = folder / "done.json"
    codes = json.loads(done.read_text()) if done.exists() else {}
    for part in list_parts(given.device, given.grid, jobs, given.results.absolute()):
        if codes.get(part.name) in part.fine:
            print(f"{part.name}: done before", flush=True)
        elif (left := end - time.monotonic()) > 0:
            codes[part.name] = run(part, folder / f"{part.name}.log", left)
            done.write_text(json.dumps(codes))
    sys.exit(0 if all(code in (*(0, 5), STOPPED) for code in codes.values()) else 1)


if __name__ == "__main__":
    main()

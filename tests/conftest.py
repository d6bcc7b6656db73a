"""What tests share: one thread, a cache of their own, a small grid, and results made up by hand."""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from multiprocessing.util import Finalize
from pathlib import Path

os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="ablations-tests-")
os.environ["TMPDIR"] = os.environ["XDG_CACHE_HOME"]  # locks too: no test waits for those of another process

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from ablations import environment
from ablations.execution.engine import Context
from ablations.grid.model import Grid, Job, list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read
from ablations.report.formats import render_cell
from ablations.report.frames import Frames
from ablations.report.results import StudyResult, analyse
from ablations.report.tables import Table
from ablations.storage import files, records

ROOT = Path(__file__).parent.parent
MACHINE = {"device": "cpu", "device_name": "Test processor", "threads": 1, "torch": "2.99.0"}

TINY = """\
title = "Tiny"
seeds = [0, 1, 2]
speed_rounds = 0

[base]
model.block_config = [1, 1]
model.growth_rate = 4
data.name = "digits"
data.train_limit = 100
train.epochs = 1

[study.growth_rate]
question = "What does a wider layer buy?"
model.growth_rate = [4, 8]
"""


def pytest_configure() -> None:
    torch.set_num_threads(1)
    tempfile.tempdir = None  # asked for anew
    # after multiprocessing has cleaned up its own folder in it
    Finalize(None, shutil.rmtree, [os.environ["TMPDIR"], True], exitpriority=-1000)
    hypothesis.settings.register_profile("same every time", derandomize=True, deadline=None)
    hypothesis.settings.load_profile("same every time")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device; this machine has none"))


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_generate_machine_info() -> dict:
    """What a published benchmark says of its machine: no name, no path, no user."""
    packages = [name for name in ("torchvision", "timm") if find_spec(name)]
    versions = environment.describe_versions(torch.device(os.environ.get("DEVICE", "cpu")))
    return {key: versions[key] for key in ("device_name", "threads", "torch", "python")} | {
        name: version(name) for name in packages
    }


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_generate_commit_info() -> dict:
    return environment.describe_code()


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_json(output_json: dict) -> None:
    """Seconds of each round stay, to the microsecond, in the order in which they were measured."""
    for each in output_json["benchmarks"]:
        del each["options"]
        each["stats"]["data"] = [round(seconds, 6) for seconds in each["stats"]["data"]]


def write_grid(folder: Path, text: str = TINY) -> Path:
    path = folder / "tiny.toml"
    path.write_text(text)
    return path


def write_images(folder: Path, each: int) -> str:
    """A folder of noise, too large for the memory that its fields allow; gives the fields."""
    generator = np.random.default_rng(0)
    for part, name, number in itertools.product(("train", "test"), ("cat", "dog"), range(each)):
        path = folder / part / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (170, 160, 3), dtype=np.uint8)).save(path)
    fields = f'data.name = "imagefolder"\ndata.root = "{folder}"\ndata.image_size = 160\ndata.memory_limit = 1'
    return f"{fields}\ntrain.batch_size = 4"


def context(stopping=lambda: False, started: float = 0.0) -> Context:
    """What an engine gives to a task, for a task that is called here. Its measurements are made in forks of this
    process.
    """
    return Context("cpu", started or time.monotonic(), lambda message: None, lambda place: None, stopping, "fork")


def record_of(job, accuracy: float, scale: float) -> dict:
    """A made-up record; run accuracies and cost scale are the caller's."""
    environment = {
        **MACHINE,
        "python": "3.11.0",
        "precision": "fp32",
        "commit": "0123456789ab",
        "fingerprint": "00ff00ff00ff00ff",
    }
    if job.kind == "run":
        epoch = {"epoch": 1, "train_loss": 0.5, "train_accuracy": 80.0, "learning_rate": 0.001, "images": 100}
        deterministic = {
            "test_accuracy": accuracy,
            "test_loss": 0.25,
            "train_images": 100,
            "test_images": 360,
            "weights": job.id * 4,
            "history": [epoch],
        }
        measured = {"epoch_seconds": [2.5], "seconds": 3.0}
    elif job.kind == "speed":
        deterministic = {}
        sides = {"base": 1.0, "level": scale}
        measured = {
            "rounds": [
                {side: speed_of(factor * (1 + number / 100 * (side == "level"))) for side, factor in sides.items()}
                for number in range(job.config.rounds)
            ],
            "seconds": 8.0,
        }
    else:
        deterministic = {
            "params": int(1000 * scale),
            "macs": int(2_000_000 * scale),
            "flops": int(4_000_000 * scale),
            "activations": int(3000 * scale),
            "counters_agree": True,
            "fvcore_total": int(2_100_000 * scale),
            "fvcore_uncounted": ["aten::mean"],
            "predicted_train_peak_memory_bytes": int(9 * 2**20 * scale),
            "predicted_inference_peak_memory_bytes": int(2 * 2**20 * scale),
        }
        measured = {
            "train_peak_memory_bytes": int(10 * 2**20 * scale),
            "inference_peak_memory_bytes": int(3 * 2**20 * scale),
            "train_images_per_second": 1000.0 / scale,
            "train_step_relative_iqr": 0.05,
            "inference_images_per_second": 4000.0 / scale,
            "inference_step_relative_iqr": 0.1,
            "latency_step_seconds": 0.002 * scale,
            "latency_step_relative_iqr": 0.03,
            "train_disturbed": "",
            "inference_disturbed": "" if scale == 1 else "other processes used 0.9 cores",
            "latency_disturbed": "",
            "seconds": 4.0,
        }
    return {
        "id": job.id,
        "kind": job.kind,
        "config": job.fields,
        "deterministic": deterministic,
        "measured": measured,
        "environment": environment,
    }


def speed_of(scale: float) -> dict:
    """A made-up measurement of one side of a round: `scale` times the seconds of the base."""
    return {
        "train_step_seconds": 0.064 * scale,
        "train_images_per_second": 1000.0 / scale,
        "train_disturbed": "",
        "inference_step_seconds": 0.016 * scale,
        "inference_images_per_second": 4000.0 / scale,
        "inference_disturbed": "",
        "latency_step_seconds": 0.002 * scale,
        "latency_disturbed": "",
    }


ACCURACY = {"base": [90.5, 91.0, 91.5], "growth_rate 8": [92.0, 93.5, 93.5]}
"""By variant and seed: the wider layer gains 2 points.

The variances over the seeds are 0.25 and 0.75, together 0.5 with 4 degrees of freedom. With t = 2.776445, half the 95 %
interval of the gain is 2.776445 sqrt(0.5 * 2 / 3) = 1.602981 points.
"""


def fabricate(
    folder: Path,
    grid: Grid,
    skip: tuple[str, ...] = (),
    lost: tuple[str, ...] = (),
    edit: Callable[[Job, dict], None] = lambda job, record: None,
) -> None:
    """A results folder whose numbers are known by hand.

    Jobs named in `skip` have no record, and those in `lost` diverged; `edit` may change a record before it is written.
    """
    make_manifest(grid, MACHINE, folder).write(folder)
    files.write(folder / "grid.toml", grid.text.encode())
    for job in list_jobs(grid, MACHINE):
        if job.name in lost:
            attempt = {"id": job.id, "name": job.name, "status": "diverged", "reason": "the loss is not a number"}
            records.note_attempt(folder, attempt)
        if job.name in (*skip, *lost):
            continue
        name, _, seed = job.name.partition(", seed ")
        record = record_of(job, ACCURACY[name][int(seed)] if seed else 0.0, 1.0 if name == "base" else 2.0)
        edit(job, record)
        records.publish(folder, record)


@pytest.fixture(autouse=True)
def _path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restores the places of modules: a command looks beside the grid that it is given."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that publishes a state dict as weights of torchvision, and gives the place where PyTorch keeps them.

    The folder of PyTorch's hub is new and empty, and the file is downloaded from this machine.
    """
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def write(weights, state: dict[str, torch.Tensor]) -> Path:
        content = io.BytesIO()
        torch.save(state, content)
        name = f"trained-{hashlib.sha256(content.getvalue()).hexdigest()[:8]}.pth"
        (tmp_path / name).write_bytes(content.getvalue())
        monkeypatch.setattr(weights, "_value_", replace(weights.value, url=(tmp_path / name).as_uri()))
        return tmp_path / "torch" / "hub" / "checkpoints" / name

    return write


@pytest.fixture
def tiny(tmp_path: Path) -> Grid:
    return read(write_grid(tmp_path))


@pytest.fixture
def results(tmp_path: Path, tiny: Grid) -> Path:
    folder = tmp_path / "results"
    fabricate(folder, tiny)
    return folder


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but this project in it, installed from a wheel, without compiled kernels.

    The wheel is built from a copy: a `build` folder would keep files that are gone from the sources.
    """
    sources, wheels, target = (tmp_path_factory.mktemp(name) for name in ("sources", "wheels", "installed"))
    for name in ("ablations", "densenet"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    for name in ("densenet_ablations.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    build = [*pip, "wheel", "--no-index", "--no-deps", "--no-build-isolation", "--wheel-dir", wheels, sources]
    subprocess.run(build, check=True, env={**os.environ, "CC": "false", "CXX": "false"})
    (wheel,) = wheels.iterdir()
    subprocess.run([*pip, "install", "--no-index", "--no-deps", "--target", target, wheel], check=True)
    return target


def step_of(network: torch.nn.Module, images: torch.Tensor, train: bool) -> dict[str, torch.Tensor]:
    """Scores, every gradient and every buffer after a step in train or eval mode, always from the same random state."""
    torch.manual_seed(0)
    network.train(train).zero_grad()
    scores = network(images)
    scores.logsumexp(1).sum().backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {"scores": scores.detach(), **gradients, **dict(network.named_buffers())}


def welch_half(one: list[float], other: list[float]) -> float:
    """Half the 95 % interval of the difference of two means whose levels share no variance (Welch 1947)."""
    terms = [float(np.var(each, ddof=1)) / len(each) for each in (one, other)]
    squares = (term**2 / (len(each) - 1) for term, each in zip(terms, (one, other), strict=True))
    return float(stats.t.ppf(0.975, sum(terms) ** 2 / sum(squares))) * sum(terms) ** 0.5


def study_of(frames: Frames, name: str = "growth_rate") -> StudyResult:
    """One study of results."""
    return analyse(frames).study(name)


def texts_of(table: Table) -> list[tuple[str, ...]]:
    """The cells of a table as they are read, a tuple for each row."""
    return [tuple(map(render_cell, row.cells)) for row in table.rows]

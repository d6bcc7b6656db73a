"""Executes one job and publishes its record: the only place where a failure becomes a status."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ablations.config import CostConfig, RunConfig
from ablations.data.dataset import load
from ablations.data.images import DataError
from ablations.environment import settings, versions
from ablations.grid.model import Job
from ablations.profiling import cost, counts, memory
from ablations.storage import records
from ablations.storage.files import StorageError
from ablations.training import weights
from ablations.training.checkpoint import Shelf, Stopped
from ablations.training.evaluation import Evaluation
from ablations.training.loop import Diverged, initialised, train
from ablations.training.stopwatch import Stopwatch
from densenet import source_of

Tell = Callable[..., None]
"""`tell("progress", epochs done, loss)` and `tell("kept")`."""

Stopping = Callable[[], bool]


def execute(
    job: Job,
    folder: Path,
    code: Mapping[str, str],
    device_name: str,
    tell: Tell,
    stopping: Stopping = lambda: False,
    started: float | None = None,
) -> str:
    """Runs a job on a device, one thread on a CPU, and publishes its record or notes its failure; gives its status.

    Its seconds count from when its process was `started`, in `time.monotonic()`. A run goes on from its checkpoint;
    `stopped` is the status of one that left another. Raises StorageError for a results folder that cannot be written:
    that is no failure of the job.
    """
    torch.set_num_threads(1)
    device = torch.device(device_name)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
        torch.cuda.set_device(device)
    made_with = {**versions(device), "fingerprint": code.get("fingerprint")}
    shelf = Shelf(folder, job.id, made_with, written=partial(tell, "kept"))
    watch = Stopwatch(started, device.type == "cuda")
    try:
        records.publish(folder, _record(job, shelf, device, code, tell, stopping, watch))
    except Stopped:
        return "stopped"
    except StorageError:
        raise
    except Exception as error:  # whatever a network or its data may raise is a row, not the end of the grid
        if stopping():  # and its readers may have been told to end too
            return "stopped"
        if READER_DIED in str(error):
            raise SystemExit(f"{job.name}: {error}") from None  # as if the whole process had
        records.note_attempt(folder, failure(job, error))
        return status_of(error)
    shelf.clear()
    return "done"


def _record(
    job: Job,
    shelf: Shelf,
    device: torch.device,
    code: Mapping[str, str],
    tell: Tell,
    stopping: Stopping,
    watch: Stopwatch,
) -> dict[str, Any]:
    watch.lap("start")
    if isinstance(job.config, RunConfig):
        model, training = job.config.variant.model, job.config.variant.train
        deterministic, measured, exact = _run(job, job.config, shelf, device, tell, stopping, watch)
    else:
        model, training, exact = job.config.model, job.config.train, {}
        deterministic, measured = _cost(job.config, device)
    watch.lap("rest")
    measured["seconds"] = sum(watch.parts.values())
    if job.kind != "cost":
        measured |= {f"{part}_seconds": seconds for part, seconds in watch.parts.items()}
    return {
        "id": job.id,
        "kind": job.kind,
        "config": job.fields,
        "deterministic": deterministic,
        "measured": measured,
        "environment": {**settings(device, training), **exact, **code, **source_of(model)},
    }


READER_DIED = "DataLoader worker (pid"
"""What PyTorch says when a process that reads images was killed."""

NO_MEMORY = (
    "out of memory",  # CUDA, its driver and its allocator
    "ALLOC_FAILED",  # cuBLAS, cuDNN
    "can't allocate memory",  # torch's allocator on a CPU
    "Cannot allocate memory",  # the system
    "not enough memory",
)
"""What errors say that are no MemoryError and mean one."""


def status_of(error: BaseException) -> str:
    """oom, diverged or failed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "oom"
    if isinstance(error, RuntimeError | OSError) and any(words in str(error) for words in NO_MEMORY):
        return "oom"
    return "diverged" if isinstance(error, Diverged) else "failed"


def failure(job: Job, error: BaseException) -> dict[str, Any]:
    """The note of a failure: status, reason, traceback without the paths of this machine."""
    lines = [f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in traceback.extract_tb(error.__traceback__)]
    reason = f"{type(error).__name__}: {error}"
    return {"id": job.id, "name": job.name, "status": status_of(error), "reason": reason, "traceback": lines}


def loss(job: Job, status: str, reason: str) -> dict[str, Any]:
    """The note of a job that could not tell itself what happened to it."""
    return {"id": job.id, "name": job.name, "status": status, "reason": reason, "traceback": []}


Values = dict[str, Any]


def _run(
    job: Job,
    config: RunConfig,
    shelf: Shelf,
    device: torch.device,
    tell: Tell,
    stopping: Stopping,
    watch: Stopwatch,
) -> tuple[Values, Values, Values]:
    """What a training gives, what depends on the machine, and whether an interruption changes a bit of it."""
    variant = config.variant
    data = load(variant.data).to(device)
    watch.lap("data")
    if data.checksum != job.fields["data"]["checksum"]:
        raise DataError(
            f"{data.label} has changed on disk since the job was planned: run the grid again to plan new jobs"
        )
    tuning = job.kind == "tuning"
    if tuning:  # what is chosen must know nothing of the test images: they are not there
        data = replace(data, test=data.test.subset(torch.arange(0)))
    network = initialised(variant.model, config.seed, device)
    progress = partial(tell, "progress")
    own = replace(shelf, source=source_of(variant.model))
    outcome = train(network, data, variant.data, variant.train, config.seed, progress, own, stopping, watch, not tuning)
    if variant.train.keep_weights:
        weights.write(
            shelf.folder / "weights" / f"{job.id}.safetensors", outcome.network, variant.model, data, job.fields
        )
    history = [asdict(epoch) for epoch in outcome.history]
    seconds = [epoch.pop("seconds") for epoch in history]
    values = {
        **_named("test", outcome.test),
        **_named("validation", outcome.validation),
        "train_images": len(data.train),
        "validation_images": len(data.validation) if data.validation else 0,
        **({} if tuning else {"test_images": len(data.test)}),
        "steps": outcome.steps,
        "weights": outcome.weights,
        "data": data.described(),
        "history": history,
    }
    exact = (device.type == "cpu" or variant.train.deterministic) and not outcome.mixed
    measured = {"epoch_seconds": seconds, "resumes": outcome.resumes}
    return values, measured, {"exact_resume": exact}


def _named(part: str, evaluation: Evaluation | None) -> Values:
    """An evaluation's values under names of their own, `test_accuracy` and so on."""
    return {} if evaluation is None else {f"{part}_{name}": value for name, value in asdict(evaluation).items()}


def _cost(config: CostConfig, device: torch.device) -> tuple[Values, Values]:
    """What a variant needs as counted and predicted, and as measured."""
    return {**counts.counted(config), **memory.predicted(config)}, cost.measured(config, device)

"""Executes one job and publishes its record: the only place where a failure becomes a status."""

from __future__ import annotations

import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ablations import cost as costs
from ablations import records, weights
from ablations.config import CostConfig, RunConfig
from ablations.data import load
from ablations.environment import settings
from ablations.grid import Job
from ablations.sources import DataError
from ablations.train import Diverged, Evaluation, Progress, TimedOut, initialised, train
from densenet import source_of


def execute(job: Job, folder: Path, device_name: str, code: dict[str, str], progress: Progress) -> str:
    """Runs a job on a device, one thread on a CPU, and publishes its record or notes its failure; gives its status."""
    torch.set_num_threads(1)
    device = torch.device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        records.publish(folder, _record(job, folder, device, code, progress))
    except Exception as error:  # whatever a network or its data may raise is a row, not the end of the grid
        records.note_attempt(folder, failure(job, error))
        return status_of(error)
    return "done"


def _record(job: Job, folder: Path, device: torch.device, code: dict[str, str], progress: Progress) -> dict[str, Any]:
    start = time.perf_counter()
    if isinstance(job.config, RunConfig):
        model, training = job.config.variant.model, job.config.variant.train
        deterministic, measured = _run(job, job.config, folder, device, progress)
    else:
        model, training = job.config.model, job.config.train
        deterministic, measured = _cost(job.config, device)
    return {
        "id": job.id,
        "kind": job.kind,
        "config": job.fields,
        "deterministic": deterministic,
        "measured": {**measured, "seconds": time.perf_counter() - start},
        "environment": {**settings(device, training), **code, **source_of(model)},
    }


def status_of(error: BaseException) -> str:
    """oom, timeout, diverged or failed."""
    no_memory = "can't allocate memory" in str(error)  # what the CPU's allocator says, as a RuntimeError
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or no_memory:
        return "oom"
    if isinstance(error, TimedOut):
        return "timeout"
    return "diverged" if isinstance(error, Diverged) else "failed"


def failure(job: Job, error: BaseException) -> dict[str, Any]:
    """The note of a failure: status, reason, traceback without the paths of this machine."""
    lines = [f"{Path(f.filename).name}:{f.lineno} in {f.name}" for f in traceback.extract_tb(error.__traceback__)]
    reason = f"{type(error).__name__}: {error}"
    return {"id": job.id, "name": job.name, "status": status_of(error), "reason": reason, "traceback": lines}


def death(job: Job, reason: str) -> dict[str, Any]:
    """The note of a job whose process died."""
    return {"id": job.id, "name": job.name, "status": "failed", "reason": f"its process was {reason}", "traceback": []}


Values = dict[str, Any]


def _run(job: Job, config: RunConfig, folder: Path, device: torch.device, progress: Progress) -> tuple[Values, Values]:
    """What a training gives, and what depends on the machine."""
    variant = config.variant
    data = load(variant.data).to(device)
    if data.checksum != job.fields["data"]["checksum"]:
        raise DataError(f"{data.label} has changed since the job was made: start again, and it gets jobs of its own")
    network = initialised(variant.model, config.seed, device)
    outcome = train(network, data, variant.data, variant.train, config.seed, progress)
    if variant.train.keep_weights:
        weights.write(folder / "weights" / f"{job.id}.safetensors", outcome.network, variant.model, data, job.fields)
    history = [asdict(epoch) for epoch in outcome.history]
    seconds = [epoch.pop("seconds") for epoch in history]
    values = {
        **_named("test", outcome.test),
        **_named("validation", outcome.validation),
        "train_images": len(data.train),
        "validation_images": len(data.validation) if data.validation else 0,
        "test_images": len(data.test),
        "steps": outcome.steps,
        "weights": outcome.weights,
        "data": data.described(),
        "history": history,
    }
    return values, {"epoch_seconds": seconds}


def _named(part: str, evaluation: Evaluation | None) -> Values:
    """An evaluation's values under names of their own, `test_accuracy` and so on."""
    return {} if evaluation is None else {f"{part}_{name}": value for name, value in asdict(evaluation).items()}


def _cost(config: CostConfig, device: torch.device) -> tuple[Values, Values]:
    """What a variant needs as counted and predicted, and as measured."""
    return {**costs.counted(config), **costs.predicted(config)}, costs.measured(config, device)

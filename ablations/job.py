"""Executes one job and publishes its record: the only place where a failure becomes a status."""

from __future__ import annotations

import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ablations import cost as costs
from ablations import records
from ablations.config import CostConfig, RunConfig
from ablations.data import DataError, load
from ablations.environment import settings
from ablations.grid import Job
from ablations.train import Diverged, Progress, initialised, train


def execute(job: Job, folder: Path, device_name: str, code: dict[str, str], progress: Progress) -> str:
    """Runs a job on a device, one thread on a CPU, and publishes its record or notes its failure; gives its status."""
    torch.set_num_threads(1)
    device = torch.device(device_name)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        records.publish(folder, _record(job, device, code, progress))
    except Exception as error:  # whatever a network or its data may raise is a row, not the end of the grid
        records.note_attempt(folder, failure(job, error))
        return status_of(error)
    return "done"


def _record(job: Job, device: torch.device, code: dict[str, str], progress: Progress) -> dict[str, Any]:
    start = time.perf_counter()
    if isinstance(job.config, RunConfig):
        deterministic, measured = _run(job.config, job.fields["data"]["checksum"], device, progress)
    else:
        deterministic, measured = _cost(job.config, device)
    return {
        "id": job.id,
        "kind": job.kind,
        "config": job.fields,
        "deterministic": deterministic,
        "measured": {**measured, "seconds": time.perf_counter() - start},
        "environment": {**settings(device), **code},
    }


def status_of(error: BaseException) -> str:
    """oom, diverged or failed."""
    no_memory = "can't allocate memory" in str(error)  # what the CPU's allocator says, as a RuntimeError
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or no_memory:
        return "oom"
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


def _run(config: RunConfig, checksum: str, device: torch.device, progress: Progress) -> tuple[Values, Values]:
    """What a training gives, and what depends on the machine."""
    variant = config.variant
    data = load(variant.data).to(device)
    if data.checksum != checksum:
        raise DataError(f"{data.label} has changed since the job was made: start again, and it gets jobs of its own")
    network = initialised(variant.model, config.seed, device)
    outcome = train(network, data, variant.train, config.seed, progress)
    values = asdict(outcome)
    seconds = [epoch.pop("seconds") for epoch in values["history"]]
    return {"train_images": len(data.train_labels), **values}, {"epoch_seconds": seconds}


def _cost(config: CostConfig, device: torch.device) -> tuple[Values, Values]:
    """What a variant needs as counted and predicted, and as measured."""
    return {**costs.counted(config), **costs.predicted(config)}, costs.measured(config, device)

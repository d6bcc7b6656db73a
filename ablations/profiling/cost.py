"""Measures what a variant needs: params, MACs, activations, memory and throughput.

Memory is taken in one loop and time in another. Two sources stand beside each other wherever there are two:
MACs from torch's dispatcher and from fvcore's trace, which must agree; on a CPU, peak memory from the storages that
are alive and from the allocator's trace; and as predicted from a step on tensors without storage, which stays in a
column of its own.
"""

from __future__ import annotations

import gc
from typing import Any

import torch

from ablations.config import CostConfig
from ablations.profiling.memory import PROBES, _cpu_peaks, _cuda_peaks
from ablations.profiling.subject import Subject
from ablations.profiling.timing import timed

SECONDS = {"train": 3.0, "inference": 1.5, "latency": 0.75}
"""The most that is spent on the repeats of each kind of step."""


def measured(cost: CostConfig, device: torch.device) -> dict[str, Any]:
    """Peak memory and throughput on a device that nothing else uses.

    With `compile`, `train_compile_seconds` is what a process's first training step takes beyond a usual one: less where
    torch's cache on disk has the code already.
    """
    first = timed(Subject(cost, device).train, device, 0.0, warmup=0, fewest=1).median if cost.train.compile else 0.0
    peaks = _cuda_peaks if device.type == "cuda" else _cpu_peaks
    values: dict[str, Any] = {}
    for name, probe in PROBES.items():
        gc.collect()  # what an earlier probe left behind must not be freed in the middle of this one
        held, found = peaks(probe, cost, device)
        values |= {f"{name}_peak_{kind}": value for kind, value in found.items()}
        if name == "train":
            # what is left: gradients are mostly not yet alive when activations are at their most
            left = found["memory_bytes"] - held["weights_bytes"] - held["optimizer_bytes"]
            values |= {**held, "activations_bytes": left}
    values |= _throughput(cost, device)
    if cost.train.compile:
        values["train_compile_seconds"] = first - values["train_step_seconds"]
    return values


def _throughput(cost: CostConfig, device: torch.device) -> dict[str, Any]:
    """Seconds of a training step and its phases, of inference at the batch size, and of one image alone."""
    subject, alone = Subject(cost, device), Subject(cost, device, batch_size=1)
    steps = {"train": subject.train, "inference": subject.infer, "latency": alone.infer}
    values: dict[str, Any] = {}
    for name, step in steps.items():
        timing = timed(step, device, SECONDS[name])
        values[f"{name}_step_seconds"] = timing.median
        values[f"{name}_step_relative_iqr"] = timing.relative_iqr
        values[f"{name}_repeats"] = len(timing.seconds)
        values[f"{name}_stopped_by"] = timing.stopped_by
        values[f"{name}_disturbed"] = timing.disturbed
        if name == "train":
            values |= {f"train_{phase}_seconds": seconds for phase, seconds in timing.phases.items() if phase != "rest"}
        if name != "latency":
            values[f"{name}_images_per_second"] = cost.batch_size / timing.median
    return values

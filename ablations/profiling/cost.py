"""Measures the memory and the time of a variant on a device, in two separate loops.

Peak memory on a CPU has two sources: the storages that are alive, and the trace of the allocator. The prediction from a
step on tensors without storage has its own column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

from ablations.config import CostConfig
from ablations.profiling.counts import known_values
from ablations.profiling.memory import measure_memory
from ablations.profiling.subject import Subject
from ablations.profiling.timing import Timing, measure_time
from ablations.training.distributed import ALONE, Group

TRAIN_SECONDS, INFERENCE_SECONDS, LATENCY_SECONDS = 3.0, 1.5, 0.75
"""The most seconds for the repeats of each kind of step."""

StoppedBy = Literal["precision", "budget"]


@dataclass(frozen=True)
class Speed:
    """Seconds of a training step and its phases, of inference at the batch size, and of inference on one image.

    Each has the interquartile range of its repeats relative to their median, the number of repeats, the reason why they
    ended, and reasons not to trust the measurement (empty if there are none).
    """

    train_step_seconds: float
    train_step_relative_iqr: float
    train_repeats: int
    train_stopped_by: StoppedBy
    train_disturbed: str
    train_forward_seconds: float | None
    train_backward_seconds: float | None
    train_optimizer_seconds: float | None
    """None for a CUDA graph, whose phases cannot be told apart."""

    train_images_per_second: float
    inference_step_seconds: float
    inference_step_relative_iqr: float
    inference_repeats: int
    inference_stopped_by: StoppedBy
    inference_disturbed: str
    inference_images_per_second: float
    latency_step_seconds: float
    latency_step_relative_iqr: float
    latency_repeats: int
    latency_stopped_by: StoppedBy
    latency_disturbed: str
    train_compile_seconds: float | None = None
    """The additional seconds of the first training step, if the network is compiled."""


def measure(cost: CostConfig, device: torch.device, group: Group = ALONE) -> dict[str, Any]:
    """Measures the `Memory` and the `Speed` of a variant on a device that nothing else uses.

    The processes of a group train together. Inference is measured in process 0 alone, with the whole batch; the others
    get an empty result.

    With `compile`, `train_compile_seconds` is smaller if torch's cache on disk already contains the code.
    """
    first = _time_first_step(cost, device) if cost.train.compile else None
    memory = measure_memory(cost, device, group)
    speed = _measure_speed(cost, device, first, group)
    return {**known_values(memory), **known_values(speed)} if speed else {}


def _time_first_step(cost: CostConfig, device: torch.device) -> float:
    return measure_time(Subject(cost, device).train, device, 0.0, warmup=0, fewest=1).median


def _measure_speed(cost: CostConfig, device: torch.device, first: float | None, group: Group) -> Speed | None:
    subject, alone = Subject(cost, device, group=group), Subject(cost, device, batch_size=1)
    train = subject.time_training(device, TRAIN_SECONDS)
    if train is None:
        return None
    if group.size > 1:
        subject = Subject(cost, device)
    inference: Timing = measure_time(subject.infer, device, INFERENCE_SECONDS)
    latency: Timing = measure_time(alone.infer, device, LATENCY_SECONDS)
    return Speed(
        train_step_seconds=train.median,
        train_step_relative_iqr=train.relative_iqr,
        train_repeats=len(train.seconds),
        train_stopped_by=train.stopped_by,
        train_disturbed=train.disturbed,
        train_forward_seconds=train.phases.get("forward"),
        train_backward_seconds=train.phases.get("backward"),
        train_optimizer_seconds=None if cost.train.cuda_graph else train.phases["optimizer"],
        train_images_per_second=cost.batch_size / train.median,
        inference_step_seconds=inference.median,
        inference_step_relative_iqr=inference.relative_iqr,
        inference_repeats=len(inference.seconds),
        inference_stopped_by=inference.stopped_by,
        inference_disturbed=inference.disturbed,
        inference_images_per_second=cost.batch_size / inference.median,
        latency_step_seconds=latency.median,
        latency_step_relative_iqr=latency.relative_iqr,
        latency_repeats=len(latency.seconds),
        latency_stopped_by=latency.stopped_by,
        latency_disturbed=latency.disturbed,
        train_compile_seconds=None if first is None else first - train.median,
    )

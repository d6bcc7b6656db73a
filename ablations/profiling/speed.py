"""Compares the speed of two variants in rounds, which each measure both of them shortly after each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from ablations.config import CostConfig, SpeedConfig
from ablations.profiling.subject import Subject
from ablations.profiling.timing import measure_time
from ablations.training.distributed import ALONE, Group

TRAIN_SECONDS, INFERENCE_SECONDS, LATENCY_SECONDS = 0.3, 0.15, 0.1
"""The seconds for the repeats of each kind of step. They are short, because rounds differ more than the steps of one
round."""

WARMUP_STEPS, FEWEST_REPEATS = 3, 5

Measured = dict[str, Any]


def measure_rounds(config: SpeedConfig, measure: Callable[[str, CostConfig], Measured]) -> list[dict[str, Measured]]:
    """Measures the base and the level in every round, and returns the measurements in their order.

    `measure` gets a name for the measurement, and what is measured. Odd rounds begin with the base and even rounds with
    the level, so that a drift of the machine within a round makes neither of them faster.
    """
    sides = {"base": config.base, "level": config.level}
    rounds = []
    for number in range(1, config.rounds + 1):
        order = ("base", "level") if number % 2 else ("level", "base")
        rounds.append({side: measure(f"the {side} in round {number}", sides[side]) for side in order})
    return rounds


def measure_speed(cost: CostConfig, device: torch.device, group: Group = ALONE) -> Measured:
    """Measures the seconds of a training step, of inference at the batch size and of inference on one image.

    The process should be new, because the memory that earlier work has left changes times by some percent. The
    processes of a group train together. The rest is measured in process 0, and the others get an empty result.
    """
    subject, alone = Subject(cost, device, group=group), Subject(cost, device, batch_size=1)
    train = subject.time_training(device, TRAIN_SECONDS, WARMUP_STEPS, FEWEST_REPEATS)
    if train is None:
        return {}
    if group.size > 1:
        subject = Subject(cost, device)
    inference, latency = (
        measure_time(step, device, seconds, WARMUP_STEPS, FEWEST_REPEATS)
        for step, seconds in ((subject.infer, INFERENCE_SECONDS), (alone.infer, LATENCY_SECONDS))
    )
    return {
        "train_step_seconds": train.median,
        "train_images_per_second": cost.batch_size / train.median,
        "train_disturbed": train.disturbed,
        "inference_step_seconds": inference.median,
        "inference_images_per_second": cost.batch_size / inference.median,
        "inference_disturbed": inference.disturbed,
        "latency_step_seconds": latency.median,
        "latency_disturbed": latency.disturbed,
    }

"""Estimates how long the missing jobs of a grid take: from earlier jobs on record where there are any."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import numpy as np
import torch

from ablations.config import CostConfig, RunConfig, SpeedConfig, Variant, cost_fields, count_processes, identity
from ablations.environment import describe_code, describe_machine, describe_networks
from ablations.grid.model import Grid, Job, cost_id
from ablations.profiling.subject import Subject
from ablations.profiling.timing import measure_time
from ablations.storage import files, records
from ablations.storage.paths import cache_folder

CALIBRATION_SECONDS = 2.0
"""The most seconds that timing each kind of step of the base may take, if a variant has no cost on record."""

COST_SECONDS, COST_STEPS = 5.0, 20
"""The assumed work of measuring a variant without a record: seconds, and steps of training and of inference."""

SPEED_SECONDS, SPEED_STEPS = 0.8, 8
"""The assumed work of measuring one side of a comparison of speed in one round, which has its own process."""

BY_COSTS, BY_CALIBRATION = (1.0, 1.5), (1.0, 2.0)
"""The range of a training's time, divided by what steps take alone on an idle machine: as measured for its cost, or as
timed for the base. Workers slow each other down, and so does other load."""

ALIKE, OTHERS = 0.1, 0.2
"""The least half of the range around what earlier trainings took: of the same network, or of others."""

Rates = dict[str, tuple[float, float]]
"""The seconds of training and of inference per image, by the id of a cost without its machine."""


@dataclass
class Estimate:
    """Seconds of the missing jobs, with a range."""

    seconds: float | None = 0.0
    """The most likely time; None if it cannot be estimated."""

    low: float = 0.0
    high: float = 0.0
    by: str = ""
    """The source of the estimate."""

    def add(self, seconds: float, factors: tuple[float, float, float]) -> None:
        """Adds a job: its seconds times the factors for the range's lower end, the most likely time, the upper end."""
        self.low += seconds * factors[0]
        self.seconds = (self.seconds or 0.0) + seconds * factors[1]
        self.high += seconds * factors[2]


@dataclass
class _Experience:
    """How long earlier jobs took, divided by what was assumed: by kind and network."""

    ratios: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def note(self, kind: str, network: str, ratio: float) -> None:
        self.ratios.setdefault((kind, network), []).append(ratio)

    def judge(self, kind: str, network: str, otherwise: tuple[float, float]) -> tuple[float, float, float]:
        """Returns the factors for the range of a job: its lower end, the most likely time, its upper end."""
        alike = self.ratios.get((kind, network), [])
        if alike:
            middle = median(alike)
            return min(*alike, (1 - ALIKE) * middle), middle, max(*alike, (1 + ALIKE) * middle)
        every = [ratio for (each, _), found in self.ratios.items() if each == kind for ratio in found]
        if every:
            low, middle, high = map(float, np.percentile(every, [10, 50, 90]))
            return min(low, (1 - OTHERS) * middle), middle, max(high, (1 + OTHERS) * middle)
        return otherwise[0], 1.0, otherwise[1]


def estimate(
    grid: Grid,
    entries: Sequence[Mapping[str, Any]],
    costs: Mapping[str, Any],
    slots: Sequence[str],
    unmeasured: Sequence[str],
    others: Sequence[Job],
    earlier: Iterable[tuple[Job, Mapping[str, Any]]],
) -> Estimate:
    """Returns the seconds of the missing jobs.

    Args:
        grid: with the values that tuning has chosen.
        entries: the variants with their MACs and the number of missing runs, the base first.
        costs: the records of costs by the id of the variant.
        slots: the devices of the workers.
        unmeasured: the variants whose costs are missing.
        others: the missing trials and comparisons of speed.
        earlier: jobs with their records.

    """
    device = torch.device(slots[0])
    rates = {_network(grid.cost(grid.variants[name])): _rates(record) for name, record in costs.items()}
    guessed = [entry for entry in entries if entry["variant"] not in costs and "macs" in entry]
    if not unmeasured and not others and not any(entry["missing_runs"] for entry in entries):
        guessed = []
    by, usual = "costs on record", BY_COSTS
    if guessed:
        try:
            calibrated = _recall_calibration(grid.cost(grid.base), device)
        except Exception:  # the base cannot run, which its own entry reports
            return Estimate(None, by="nothing: the base could not be timed")
        base_macs = entries[0].get("macs") or float("nan")
        for entry in guessed:
            share = entry["macs"] / base_macs
            config = grid.cost(grid.variants[entry["variant"]])
            rates[_network(config)] = calibrated[0] * share / count_processes(config), calibrated[1] * share
        by = "a calibration on the base, scaled by MACs" + (", and costs on record" if costs else "")
        usual = BY_CALIBRATION
    learned = _learn(grid, rates, earlier, describe_machine(device))
    trained = any(kind == "run" for kind, _ in learned.ratios)
    found = Estimate(by=("trainings on record, with " if trained else "") + by)
    for entry in entries:
        variant = grid.variants[entry["variant"]]
        network = _network(grid.cost(variant))
        if network in rates:
            share = variant.train.processes / len(slots)
            seconds = entry["missing_runs"] * _run_seconds(grid, variant, *rates[network]) * share
            found.add(seconds, learned.judge("run", network, usual))
    for name in unmeasured:
        config = grid.cost(grid.variants[name])
        found.add(_cost_seconds(config, rates), learned.judge("cost", "", (0.5, 2.0)))
    for job in others:
        if isinstance(job.config, SpeedConfig):
            found.add(_speed_seconds(job.config, rates), learned.judge("speed", "", (0.5, 2.0)))
        elif isinstance(job.config, RunConfig) and (network := _network(grid.cost(job.config.variant))) in rates:
            share = count_processes(job.config) / len(slots)
            seconds = _run_seconds(grid, job.config.variant, *rates[network], tested=False) * share
            found.add(seconds, learned.judge("run", network, usual))
    return found


def _learn(
    grid: Grid, rates: Rates, earlier: Iterable[tuple[Job, Mapping[str, Any]]], machine: Mapping[str, Any]
) -> _Experience:
    """Compares what earlier jobs took on this machine with what is assumed."""
    found = _Experience()
    for job, record in earlier:
        there, measured = record["environment"], record["measured"]
        seconds = measured.get("seconds", 0.0) - measured.get("start_seconds", 0.0)  # the first job starts slowly
        if seconds <= 0 or any(there.get(key) != machine[key] for key in ("device", "device_name")):
            continue
        if isinstance(job.config, SpeedConfig):
            found.note("speed", "", seconds / _speed_seconds(job.config, rates))
        elif isinstance(job.config, CostConfig):
            found.note("cost", "", seconds / _cost_seconds(job.config, rates))
        elif (network := _network(grid.cost(job.config.variant))) in rates:
            assumed = _run_seconds(grid, job.config.variant, *rates[network], tested=job.kind == "run")
            if assumed > 0:
                found.note("run", network, seconds / assumed)
    return found


def _network(config: CostConfig) -> str:
    """Returns the id of a cost without its machine."""
    return cost_id(config, {})


def _rates(record: Mapping[str, Any]) -> tuple[float, float]:
    """Returns the measured seconds of training and of inference per image."""
    measured = record["measured"]
    return 1 / measured["train_images_per_second"], 1 / measured["inference_images_per_second"]


def _recall_calibration(config: CostConfig, device: torch.device) -> tuple[float, float]:
    """Returns the calibration of earlier calls for this network, code and machine, or makes it.

    It is kept in the cache, so that the same grid has the same estimate each time.
    """
    code = {"code": describe_code()["fingerprint"], "networks": describe_networks(config)}
    key = identity({"timed": cost_fields(config), "machine": describe_machine(device), **code})
    path = cache_folder() / "timings" / f"{key}.json"
    with suppress(OSError, ValueError, KeyError):
        kept = records.unseal(files.read(path))
        return float(kept["train"]), float(kept["inference"])
    train, inference = _calibrate(config, device)
    with suppress(OSError):
        files.write(path, records.seal({"train": train, "inference": inference}))
    return train, inference


def _calibrate(config: CostConfig, device: torch.device) -> tuple[float, float]:
    """Returns the seconds of training and of inference per image.

    They are those of the fastest step: other load makes a step slower, and never faster.
    """
    subject = Subject(config, device)
    train, infer = (
        min(measure_time(step, device, CALIBRATION_SECONDS, warmup=1, fewest=3).seconds)
        for step in (subject.train, subject.infer)
    )
    return train / config.batch_size, infer / config.batch_size


def _cost_seconds(config: CostConfig, rates: Rates) -> float:
    return COST_SECONDS + COST_STEPS * config.batch_size * sum(rates.get(_network(config), (0.0, 0.0)))


def _speed_seconds(config: SpeedConfig, rates: Rates) -> float:
    return sum(
        config.rounds * (SPEED_SECONDS + SPEED_STEPS * side.batch_size * sum(rates.get(_network(side), (0.0, 0.0))))
        for side in (config.level, config.base)
    )


def _run_seconds(grid: Grid, variant: Variant, train: float, infer: float, tested: bool = True) -> float:
    """Returns the seconds of one training and its evaluations."""
    data, config = grid.datasets[variant.data], variant.train
    steps = config.total_steps(data.train_images)
    epochs = math.ceil(steps / config.steps_per_epoch(data.train_images))
    evaluations = math.ceil(epochs / config.evaluation_interval)  # the last epoch is always evaluated
    looked_at = evaluations * data.validation_images
    looked_at += (evaluations if config.test_curve else 1) * data.test_images if tested else 0
    return steps * config.batch_size * train + looked_at * infer

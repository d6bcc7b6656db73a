"""Predicts what a grid needs before anything is trained: sizes, memory, missing jobs, and their time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track

from ablations.config import CostConfig, Variant
from ablations.environment import describe_machine
from ablations.execution.changes import describe_edited, find_outdated
from ablations.execution.estimate import estimate
from ablations.grid.model import Choices, Grid, list_cost_ids, list_jobs
from ablations.grid.planning import list_awaited
from ablations.grid.tuning import choose
from ablations.limits import measure_memory
from ablations.metrics import METRICS
from ablations.profiling import counts, memory
from ablations.storage import records
from ablations.storage.disturbance import describe_disturbance
from densenet import find_published
from densenet.sources import find_place

Row = dict[str, Any]
"""A variant of a plan: values by the keys of METRICS, and notes."""


def plan(grid: Grid, folder: Path, slots: list[str], counts_only: bool, console: Console) -> dict[str, Any]:
    """Compares a grid with a results folder, and predicts its needs on the workers' devices.

    With `counts_only`, it predicts neither memory nor time. Raises SourceChanged if a user's network is not the one of
    earlier runs.
    """
    device = torch.device(slots[0])
    if device.type == "cpu":
        torch.set_num_threads(1)  # as in the workers
    whole = records.load(folder)[0] if folder.is_dir() else {}
    failed = records.load_attempts(folder) if folder.is_dir() else {}
    where = describe_machine(device)
    choices = choose(grid, whole, failed)
    everything, settled = list_jobs(grid, where, choices), grid.settle(choices)
    edited = describe_edited(everything, whole)
    for outdated in find_outdated(everything, whole, folder):
        del whole[outdated]
    todo = [job for job in everything if job.id not in whole and job.id not in failed]
    waiting = list_awaited(settled)
    given_up = {name for name, each in settled.variants.items() if _has_failed(choices, grid, each)}
    missing = Counter([job.variant for job in todo if job.kind == "run"])
    missing += Counter(run.variant for run in waiting if run.variant not in given_up)
    ids = list_cost_ids(settled, where)
    recorded = {name: whole[cost_id] for name, cost_id in ids.items() if cost_id in whole}
    entries: list[Row] = []
    for variant_id, variant in track(settled.variants.items(), "Counting", console=console, transient=True):
        levels = [f"{study.name} {level.label}" for study in settled.studies for level in study.levels
                  if level.variant == variant]  # fmt: skip
        numbers = _numbers(settled.cost(variant), recorded.get(variant_id), counts_only)
        size = find_published(variant.model, grid.datasets[variant.data].image_size)
        beside = {"published": {"params": size.params, "macs": size.macs}} if size else {}
        entries.append(
            {"variant": variant_id, "levels": levels, **numbers, **beside, "missing_runs": missing[variant_id]}
        )
    for entry in entries:
        entry["change"] = {
            key: entry[key] / entries[0][key] - 1
            for key, metric in METRICS.items()
            if metric.planned and key in entry and entries[0].get(key)
        }
    trials = [job for job in todo if job.kind == "tuning"]
    speeds = [job for job in todo if job.kind == "speed"]
    unmeasured = [job.variant for job in todo if job.kind == "cost"]
    known = {job.id for job in everything if job.kind == "cost"}  # other costs depend on tuning
    unmeasured += [name for name, cost in ids.items() if cost not in known and name not in given_up]
    lost = Counter(failed[job.id][-1]["status"] for job in everything if job.id in failed and job.id not in whole)
    result: dict[str, Any] = {
        "title": grid.title,
        "failed": dict(sorted(lost.items())),
        "edited": edited,
        "runs": sum(job.kind == "run" for job in everything) + len(waiting),
        "tuning_runs": sum(job.kind == "tuning" for job in everything),
        "costs": len(set(ids.values())),
        "speeds": sum(job.kind == "speed" for job in everything),
        "variants": entries,
        "missing_runs": missing.total(),
        "missing_tuning_runs": len(trials),
        "missing_costs": len(unmeasured),
        "missing_speeds": len(speeds),
        "disturbed": len({job.id for job in everything if job.id in whole and describe_disturbance(whole[job.id])}),
    }
    if not counts_only:
        _warn_of_memory(entries, device)
        earlier = ((job, whole[job.id]) for job in everything if job.id in whole)
        time = estimate(settled, entries, recorded, slots, unmeasured, [*trials, *speeds], earlier)
        result |= {"seconds": time.seconds, "seconds_low": time.low, "seconds_high": time.high, "timed_by": time.by}
        result["workers"] = len(slots)
    return result


def _has_failed(choices: Choices, grid: Grid, variant: Variant) -> bool:
    """Returns whether the tuning chose nothing for a variant, so that its runs are not started."""
    choice = choices.get(grid.followed(variant)) if variant.tuning is not None else None
    return choice is not None and choice.status == "failed"


def _numbers(config: CostConfig, record: Mapping[str, Any] | None, counts_only: bool) -> Row:
    """Returns the values on record, or else all that can be counted; if something fails, the reason and the line."""
    if record is not None:
        values = {**record["deterministic"], **record["measured"]}
    else:
        values = {}
        try:
            values = counts.count(config)
            values |= {} if counts_only else memory.predict(config)
        except (Exception, SystemExit) as error:  # a network may raise anything on these images
            values["prediction_failed" if values else "failed"] = f"{type(error).__name__}: {error}"
            values |= {"place": place} if (place := find_place(error)) else {}
    kept = [key for key in METRICS if METRICS[key].of == "cost" and key in values]
    beside = ("params_total", "failed", "prediction_failed", "place")
    return {key: values[key] for key in (*kept, *beside) if key in values}


def _warn_of_memory(entries: list[Row], device: torch.device) -> None:
    there = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else measure_memory()
    for entry in entries:
        if entry.get("predicted_train_peak_memory_bytes", 0) > there:
            entry["does_not_fit"] = (
                f"its training step needs more than the {there / 2**30:,.1f} GiB of this {device.type}"
            )

"""Works a grid off into a results folder: what is missing is run, what is done is left alone."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from ablations import engine, job, records
from ablations.config import RunConfig
from ablations.display import Work, show
from ablations.environment import code, machine
from ablations.grid import Grid, Job, jobs, manifest
from ablations.tidy import NotResults, read_manifest

PRELOAD = ("ablations.job", "sklearn.datasets", "torch._dynamo")
"""Loaded once in the server that workers are forked from."""


class WrongFolder(ValueError):
    """The results folder cannot take this grid."""


@dataclass(frozen=True)
class Outcome:
    """What a call of `work` found and did."""

    total: int
    done_before: int
    executed: int
    damaged: tuple[Path, ...]
    """Where damaged records were moved to."""


def devices(device: str, workers: int) -> list[str]:
    """One entry per worker: every core, or every GPU; `workers` = 0 takes all there are. Raises ValueError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        count = torch.cuda.device_count()
        if workers > count or not count:
            raise ValueError(f"{workers or 'all'} workers on cuda: this machine has {count} GPUs that torch can use")
        return [f"cuda:{index}" for index in range(workers or count)]
    return ["cpu"] * (workers or len(os.sched_getaffinity(0)))


def work(grid: Grid, folder: Path, slots: Sequence[str], retry: Collection[str], console: Console) -> Outcome:
    """Runs every job that has no record; those that failed only where `retry` names their status.

    Raises WrongFolder for a folder that holds another grid or cannot be written.
    """
    torch.set_num_threads(1)  # as in the workers, so that costs are named rightly
    refuse(grid, slots)
    where = machine(torch.device(slots[0]))
    todo = jobs(grid, where)
    _prepare(grid, folder, manifest(grid, where), {each.id for each in todo})
    whole, damaged = records.load(folder)
    moved = tuple(records.set_aside(path) for path in damaged)
    attempts = records.load_attempts(folder)
    left = [
        each
        for each in todo
        if each.id not in whole and (each.id not in attempts or attempts[each.id][-1]["status"] in retry)
    ]
    if left:
        _execute(left, grid, folder, slots, console)
    return Outcome(len(todo), sum(each.id in whole for each in todo), len(left), moved)


def refuse(grid: Grid, slots: Sequence[str]) -> None:
    """Raises ValueError for what these devices cannot do."""
    if slots[0] == "cpu" and any(variant.train.precision == "tf32" for variant in grid.variants().values()):
        raise ValueError("train.precision = 'tf32' needs a CUDA device; on this one fp32, bf16 and fp64 are allowed")


def _prepare(grid: Grid, folder: Path, table: Mapping[str, Any], ids: Collection[str]) -> None:
    if (folder / "jobs.json").exists():
        try:
            before = read_manifest(folder)
        except NotResults as error:
            raise WrongFolder(f"{error}; move the folder away, or choose another with --out") from None
        runs = {entry["id"] for entry in before["jobs"] if entry["kind"] == "run"}
        lost = len(runs - set(ids))
        if lost:  # growing is fine: more levels, studies, seeds
            difference = "; ".join(_differences(before, table)[:5]) or "other studies"
            raise WrongFolder(
                f"{folder} holds another grid ({difference}); {lost} of its {len(runs)} runs would leave the tables: "
                "choose another folder with --out"
            )
    try:
        records.write(folder / "jobs.json", records.pretty(table))
        records.write(folder / "grid.toml", grid.text.encode())
    except OSError as error:
        raise WrongFolder(f"{folder} cannot be written: {error.strerror}; choose another with --out") from None


def _differences(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What tells two grids apart: title, seeds and the base's fields."""
    old, new = ({**grid, **next(iter(grid["variants"].values()))["fields"]} for grid in (there, here))
    keys = ["title", "seeds", *dict.fromkeys(key for key in (*old, *new) if "." in key)]
    return [f"{key} {old.get(key)!r} there, {new.get(key)!r} here" for key in keys if old.get(key) != new.get(key)]


def _execute(left: Sequence[Job], grid: Grid, folder: Path, slots: Sequence[str], console: Console) -> None:
    by_id = {each.id: each for each in left}
    works = {each.id: Work(each.name, each.kind, _epochs(each, grid)) for each in left}
    tasks = [engine.Task(each.id, _call, (each, folder, code()), exclusive=each.kind == "cost") for each in left]
    for event in show(console, engine.run(tasks, slots, PRELOAD), works, len(slots)):
        if event.kind == "died":
            records.note_attempt(folder, job.death(by_id[event.task.key], event.detail[0]))


def _epochs(each: Job, grid: Grid) -> float:
    """How many epochs a run has; 0 for a cost."""
    if not isinstance(each.config, RunConfig):
        return 0
    training, images = each.config.variant.train, len(grid.datasets[each.config.variant.data].train)
    return training.total_steps(images) / training.steps_per_epoch(images)


def _call(each: Job, folder: Path, made_by: dict[str, str], device: str, progress: engine.Progress) -> str:
    return job.execute(each, folder, device, made_by, progress)

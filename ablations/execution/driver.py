"""Runs the jobs of a grid that have no record yet, and stores their results in a results folder."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from ablations import signals
from ablations.config import RunConfig
from ablations.environment import describe_code, describe_networks
from ablations.execution.changes import find_outdated, set_outdated_aside
from ablations.execution.display import Work, show
from ablations.execution.engine import Broken, Engine, Finished, Lost, Task
from ablations.execution.inline import InlineEngine
from ablations.execution.job import describe_loss, execute, job_machine
from ablations.execution.local import LocalEngine
from ablations.grid.model import Choice, Grid, Job, list_jobs
from ablations.grid.planning import list_awaited, make_manifest
from ablations.grid.tuning import choose
from ablations.storage import files, locks, manifest, records
from ablations.storage.manifest import MEASUREMENTS, Manifest, NotResults
from ablations.storage.paths import cache_folder
from ablations.training.checkpoint import FOLDER, CheckpointStore
from densenet.options import lookup

PRELOAD = ("ablations.execution.job", "sklearn.datasets", "torch._dynamo")
"""Modules that the server loads once, before it forks the workers."""


ENGINES: dict[str, Callable[[Sequence[str], Mapping[str, Any]], Engine]] = {
    "local": lambda devices, machine: LocalEngine(devices, machine, PRELOAD),
    "inline": lambda devices, machine: InlineEngine(devices[0], machine),
}
"""Engines by name. A new engine needs a file like `local.py` and an entry here."""


def make_engine(name: str, devices: Sequence[str]) -> Engine:
    """Makes the engine of this name, with one worker per device. Raises ValueError for an unknown name."""
    return lookup("engine", name, ENGINES)(devices, job_machine(devices[0]))


class WrongFolder(ValueError):
    """The results folder cannot take this grid."""


@dataclass(frozen=True)
class GridOutcome:
    """The results of a call of `work`."""

    total: int
    done_before: int
    executed: int
    damaged: tuple[Path, ...]
    """The new paths of damaged records, which were moved."""

    stopped: bool
    """Whether it was stopped before all jobs were finished."""


def list_devices(device: str, workers: int) -> list[str]:
    """Returns one device per worker: every core, or every GPU. `workers` = 0 takes all of them. Raises ValueError."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        count = torch.cuda.device_count()
        if workers > count or not count:
            raise ValueError(f"{workers or 'all'} workers on cuda: this machine has {count} GPUs that torch can use")
        return [f"cuda:{index}" for index in range(workers or count)]
    return ["cpu"] * (workers or len(os.sched_getaffinity(0)))


def work(grid: Grid, folder: Path, engine: Engine, retry: Collection[str], console: Console) -> GridOutcome:
    """Runs every job without a record. Runs jobs that failed before only if `retry` contains their status.

    SIGTERM, SIGHUP and Ctrl-C stop it early, after every training has saved its state. A second Ctrl-C stops it at
    once. Raises WrongFolder if the folder holds another grid, FolderInUse if another process works on the folder,
    SourceChanged if a user's network is not the one of earlier runs, StorageError if the folder cannot be written.
    """
    where = engine.machine
    refuse(grid, str(where["device"]))
    with locks.lock_folder(folder):
        whole, damaged = records.load(folder)
        outdated = find_outdated(list_jobs(grid, where, _choose(grid, folder)), whole, folder)
        _prepare(grid, folder, make_manifest(grid, where, folder, _choose(grid, folder)))
        set_outdated_aside(folder, outdated)
        moved = tuple(records.set_aside(path) for path in damaged)
        for each in whole:  # the process that published the record may have died before this
            CheckpointStore(folder, each, {}).clear()
        first = _list_left(grid, folder, where, retry, (*MEASUREMENTS, "tuning")) if grid.tuned else []
        stopped = bool(first) and _execute(first, grid, folder, engine, console)
        make_manifest(grid, where, folder, _choose(grid, folder)).write(folder)
        find_outdated(list_jobs(grid, where, _choose(grid, folder)), records.load(folder)[0], folder)  # as it is now
        tried = {each.id for each in first}
        then = [] if stopped else [job for job in _list_left(grid, folder, where, retry) if job.id not in tried]
        stopped = stopped or (bool(then) and _execute(then, grid, folder, engine, console))
        choices = _choose(grid, folder)
        ids = [
            *(job.id for job in list_jobs(grid, where, choices)),
            *(run.id for run in list_awaited(grid.settle(choices))),
        ]
        files.sweep(folder)
        files.sweep(cache_folder())
    return GridOutcome(len(ids), sum(each in whole for each in ids), len(first) + len(then), moved, stopped)


def _choose(grid: Grid, folder: Path) -> dict[str, Choice]:
    """Returns the values that the folder's records choose for the variants that are tuned."""
    return choose(grid, records.load(folder)[0], records.load_attempts(folder))


def _list_left(
    grid: Grid,
    folder: Path,
    where: Mapping[str, Any],
    retry: Collection[str],
    kinds: Collection[str] = (*MEASUREMENTS, "tuning", "run"),
) -> list[Job]:
    """Lists the jobs of these kinds that have no record. Includes failed jobs only if `retry` contains their status."""
    whole, attempts = records.load(folder)[0], records.load_attempts(folder)
    return [
        each
        for each in list_jobs(grid, where, choose(grid, whole, attempts))
        if each.kind in kinds
        and each.id not in whole
        and (each.id not in attempts or attempts[each.id][-1]["status"] in retry)
    ]


def refuse(grid: Grid, device: str) -> None:
    """Raises ValueError if this kind of device, `cpu` or `cuda`, cannot run the grid."""
    trained = [job.config.variant.train for job in list_jobs(grid, {}) if isinstance(job.config, RunConfig)]
    if device == "cpu" and any(training.precision == "tf32" for training in trained):
        raise ValueError("train.precision = 'tf32' needs a CUDA device; on this one fp32, bf16 and fp64 are allowed")


def _prepare(grid: Grid, folder: Path, plan: Manifest) -> None:
    if (folder / manifest.NAME).exists():
        try:
            before = Manifest.read(folder)
        except NotResults as error:
            raise WrongFolder(f"{error}; move the folder away, or choose another with --out") from None
        runs = _list_declared(before)
        lost = len(runs - _list_declared(plan))
        if lost:  # a grid may grow: more levels, studies, seeds
            difference = "; ".join(_differences(before, plan)[:5]) or "other studies"
            raise WrongFolder(
                f"{folder} holds another grid ({difference}); {lost} of its {len(runs)} runs would leave the tables: "
                "choose another folder with --out"
            )
    files.sweep(folder)
    kept = ["weights"] if any(variant.train.keep_weights for variant in grid.variants.values()) else []
    for place in ("records", "attempts", FOLDER, *kept):
        files.probe(folder / place)
    plan.write(folder)
    files.write(folder / "grid.toml", grid.text.encode())


def _list_declared(plan: Manifest) -> set[tuple[str, int | None, bool]]:
    """Returns the trainings that a grid asks for, for any choice of the tuning: levels with their seeds, and trials."""
    levels = {
        (level.declared, seed, level.tuned_as is not None)
        for study in plan.studies
        for level in study.levels
        for seed in study.seeds
    }
    trials = {(trial, None, True) for entry in plan.tuning for each in entry.candidates for trial in each.trials}
    return levels | trials


def _differences(there: Manifest, here: Manifest) -> list[str]:
    """Lists the differences between two grids: title, seeds, tuning, and the fields of the base."""
    old, new = (
        {"title": plan.title, "seeds": list(plan.seeds), "tune": _tuned_over(plan)}
        | next(iter(plan.variants.values())).fields
        for plan in (there, here)
    )
    chosen = {f"train.{name}" for plan in (there, here) for entry in plan.tuning for name in entry.values}
    keys = [key for key in dict.fromkeys([*old, *new]) if key not in chosen]
    return [f"{key} {old.get(key)!r} there, {new.get(key)!r} here" for key in keys if old.get(key) != new.get(key)]


def _tuned_over(plan: Manifest) -> dict[str, Any]:
    """Returns how the first tuned variant of a grid is tuned: its values, schedule, seeds and validation images."""
    told = {"values", "schedule", "seeds", "validation_images"}
    return next((entry.model_dump(mode="json", include=told) for entry in plan.tuning), {})


def _execute(left: Sequence[Job], grid: Grid, folder: Path, engine: Engine, console: Console) -> bool:
    """Runs the jobs. Returns whether it was stopped before all of them were finished. Raises StorageError."""
    by_id = {each.id: each for each in left}
    works = {each.id: Work(each.name, each.kind, _count_epochs(each, grid)) for each in left}
    tasks = [
        Task(
            each.id,
            execute,
            (replace(each, source=describe_networks(each.config)), folder, describe_code()),
            exclusive=each.kind in MEASUREMENTS,
            stoppable=each.kind not in MEASUREMENTS,
            limit=grid.time_limit,
        )
        for each in left
    ]
    ended = 0
    with _listen_for_stop() as stopping, closing(engine.run(tasks, stopping)) as events:
        for event in show(console, events, works, engine.slots):
            if isinstance(event, Lost):
                records.note_attempt(folder, describe_loss(by_id[event.task.key], event.status, event.reason))
            if isinstance(event, Broken):
                raise event.error
            ended += isinstance(event, Finished | Lost)
    return ended < len(left)


@contextmanager
def _listen_for_stop() -> Iterator[Callable[[], bool]]:
    """A context that yields a function, which returns whether a signal has requested a stop.

    A second Ctrl-C interrupts at once.
    """
    asked: list[int] = []
    before: dict[signal.Signals, Any] = {}

    def ask(number: int, frame: FrameType | None) -> None:
        if asked and number == signal.SIGINT and callable(before[signal.SIGINT]):
            before[signal.SIGINT](number, frame)
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield lambda: False
        return
    before |= signals.handle_stop_signals(ask)
    try:
        yield lambda: bool(asked)
    finally:
        for heard, handler in before.items():
            signal.signal(heard, handler)


def _count_epochs(each: Job, grid: Grid) -> float:
    """Returns the number of epochs of a run; 0 for a measurement."""
    if not isinstance(each.config, RunConfig):
        return 0
    training, images = each.config.variant.train, grid.datasets[each.config.variant.data].train_images
    return training.total_steps(images) / training.steps_per_epoch(images)

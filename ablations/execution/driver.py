"""Runs the jobs of a grid that have no record yet, and stores their results in a results folder."""

from __future__ import annotations

import errno
import resource
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
from ablations.config import RunConfig, count_processes
from ablations.environment import describe_code, describe_networks
from ablations.execution.changes import EDITED, describe_edited, find_outdated, list_failed, set_outdated_aside
from ablations.execution.display import Board, Work, show
from ablations.execution.engine import (
    Broken,
    Cluster,
    Engine,
    Event,
    Finished,
    Lost,
    Restarted,
    Started,
    Stopped,
    Task,
    Told,
    Waiting,
)
from ablations.execution.inline import InlineEngine
from ablations.execution.job import describe_loss, describe_purpose, execute, fetch_weights, job_machine
from ablations.execution.local import LocalEngine
from ablations.execution.ray import RayEngine
from ablations.execution.seat import PRELOAD, Order, read_options
from ablations.execution.slurm import SlurmEngine
from ablations.execution.submissions import FOLDER as SLURM
from ablations.execution.submissions import list_submissions
from ablations.grid.model import Choice, Choices, Grid, Job, list_jobs, number_jobs
from ablations.grid.planning import list_awaited, make_manifest
from ablations.grid.tuning import choose
from ablations.limits import count_cores
from ablations.metrics import count_of
from ablations.storage import files, locks, manifest, records
from ablations.storage.disturbance import list_disturbed
from ablations.storage.journal import Note, open_journal
from ablations.storage.manifest import MEASUREMENTS, Manifest, NotResults, list_foreign
from ablations.storage.paths import cache_folder
from ablations.storage.sources import take_source
from ablations.training.checkpoint import FOLDER, CheckpointStore
from ablations.training.events import Epoch
from densenet.options import lookup

ENGINES: dict[str, Callable[[Sequence[str], Mapping[str, Any]], Engine]] = {
    "local": lambda devices, machine: LocalEngine(devices, machine, PRELOAD),
    "inline": lambda devices, machine: InlineEngine(devices[0], machine),
}
"""Engines of this machine by name. A new engine needs a file like `local.py` and an entry here."""

CLUSTERS: dict[str, Callable[[Order], Cluster]] = {"ray": RayEngine, "slurm": SlurmEngine}
"""Engines for clusters by name. A new one needs a file like `ray.py` and an entry here."""


def make_engine(name: str, devices: Sequence[str]) -> Engine:
    """Makes the engine of this machine of this name, with one worker per device. Raises ValueError for another name."""
    return lookup("engine", name, ENGINES)(devices, job_machine(devices[0]))


@contextmanager
def open_engine(name: str, order: Order) -> Iterator[Engine]:
    """A context with the engine of this name. Raises ValueError for an unknown name, and for what it cannot do."""
    lookup("engine", name, {**ENGINES, **CLUSTERS})
    if name in CLUSTERS:
        _refuse_foreign(order.folder)
        with closing(CLUSTERS[name](order)) as cluster:
            yield cluster
    else:
        read_options(name, order.options, {})
        yield make_engine(name, list_devices(order.device, order.seats, order.jobs_per_device))


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

    unmeasured: int = 0
    """The costs and speeds that are missing because this call measures none."""

    elsewhere: int = 0
    """The missing jobs that belong to other shards."""

    awaited: int = 0
    """The runs whose variants are not tuned yet."""

    edited: str = ""
    """What is on record of networks that were edited since; empty if there are none."""


@dataclass(frozen=True)
class Shard:
    """A part of the jobs of a plan. Each job belongs to exactly one of the parts, which its number decides."""

    number: int = 1
    """From 1 to `count`."""

    count: int = 1

    @classmethod
    def read(cls, text: str) -> Shard:
        """Reads `3/8`. Raises ValueError."""
        number, _, count = text.partition("/")
        if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise ValueError(
                f"--shard {text}: two numbers are needed: 3/8 is the third of eight parts, 8/8 the last one"
            )
        return cls(int(number), int(count))

    def take(self, grid: Grid, machine: Mapping[str, Any], choices: Choices) -> set[str]:
        """Returns the ids of the jobs of this part. The numbers of jobs of two parts differ by 1 at most.

        So do those of each kind. With tuning, this holds for all jobs that need no choice, and about for the others.
        """
        numbers = number_jobs(grid, machine, choices)
        return {job for job, number in numbers.items() if number % self.count == self.number - 1}


DISTURBED = "disturbed"
"""What `retry` contains if measurements that were disturbed are to be made again."""

RUNS_FOLLOW = "runs follow when all trials are done"
"""What is said when all jobs are finished that need no choice of tuning."""

WHOLE = Shard()
"""All jobs."""


def list_devices(device: str, workers: int, jobs_per_device: int = 1) -> list[str]:
    """Returns the device of each worker: every core, or every GPU `jobs_per_device` times. Raises ValueError.

    `workers` = 0 takes all of them.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise ValueError(f"--device {device}: allowed are auto, cpu, cuda")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda":
        count = torch.cuda.device_count()
        most = count * jobs_per_device
        if workers > most or not count:
            each = f" for {jobs_per_device} jobs each" if jobs_per_device > 1 else ""
            gpus = f"{count} GPUs that torch can use{each}"
            raise ValueError(f"{workers or 'all'} workers on cuda: this machine has {gpus}")
        return [f"cuda:{index % count}" for index in range(workers or most)]
    if jobs_per_device > 1:
        raise ValueError(f"--jobs-per-device {jobs_per_device} is for GPUs: on a CPU, --workers says how many jobs run")
    return ["cpu"] * (workers or count_cores())


def work(
    grid: Grid,
    folder: Path,
    engine: Engine,
    retry: Collection[str],
    console: Console,
    source: Path | None = None,
    measure: bool = True,
    shard: Shard = WHOLE,
) -> GridOutcome:
    """Runs every job without a record. Runs jobs that failed before only if `retry` contains their status.

    If `retry` contains DISTURBED, it also makes disturbed measurements again, whose old records stay until the new ones
    are there. With EDITED it also runs all jobs of an edited network, even those that failed. With `measure` False it
    measures neither costs nor speeds. It does only the jobs of its shard.

    Stop signals and Ctrl-C stop it early, after every training has saved its state. A second Ctrl-C stops it at
    once. `source` is the grid's file, which is never changed, even if it is the one in the results folder. Raises
    WrongFolder if the folder holds another grid or files of something else, FolderInUse if another process works on the
    folder, SourceChanged if a user's network is not the one of earlier runs, ValueError for trained weights that cannot
    be downloaded, StorageError if the folder cannot be written, or is renamed or removed meanwhile.
    """
    where = engine.machine
    refuse(grid, str(where["device"]), engine.widest)
    _allow_files(engine.slots if isinstance(engine, LocalEngine) else 0)
    _refuse_foreign(folder)
    with locks.lock_folder(folder) as check_place:
        _refuse_handed_over(folder, engine)
        whole, damaged = _survey(folder)
        choices = _choose(grid, whole, folder)
        jobs, own = list_jobs(grid, where, choices), shard.take(grid, where, choices)
        outdated = find_outdated(jobs, whole, folder, EDITED in retry)
        measurements = [job.id for job in jobs if job.kind in MEASUREMENTS and job.id in own and job.id not in outdated]
        disturbed = list_disturbed(folder, measurements) if DISTURBED in retry and measure else []
        whole = {name: found for name, found in whole.items() if name not in {*outdated, *disturbed}}
        find_outdated(jobs, whole, folder)  # refused before any record is moved
        again = [*disturbed, *outdated, *(list_failed(jobs, folder) if EDITED in retry else ())]
        _prepare(grid, folder, make_manifest(grid, where, folder, _choose(grid, whole, folder)), source)
        set_outdated_aside(folder, outdated)
        moved = tuple(records.set_aside(path) for path in damaged)
        for each in {path.stem for path in (folder / FOLDER).iterdir()} & whole.keys():
            CheckpointStore(folder, each, {}).clear()  # the process that published the record died before this
        early = _list_left(grid, whole, folder, where, retry, again) if grid.tuned else []
        kinds = ("tuning", *(MEASUREMENTS if measure else ()))
        first = [job for job in early if job.id in own and job.kind in kinds]
        stopped = bool(first) and _execute(first, grid, folder, engine, console, check_place, RUNS_FOLLOW)
        known = _survey(folder)[0] if first else whole
        check_place()
        choices = _choose(grid, known, folder)
        make_manifest(grid, where, folder, choices).write(folder)
        find_outdated(list_jobs(grid, where, choices), known, folder)  # as the sources are now
        tried = {each.id for each in first}
        left = [job for job in _list_left(grid, known, folder, where, retry, again) if job.id not in tried]
        own = shard.take(grid, where, choices)
        mine = [job for job in left if job.id in own]
        then = [] if stopped else [job for job in mine if measure or job.kind not in MEASUREMENTS]
        unmeasured = 0 if measure else sum(job.kind in MEASUREMENTS for job in mine)
        stopped = stopped or (bool(then) and _execute(then, grid, folder, engine, console, check_place))
        choices = _choose(grid, known, folder)
        awaited, jobs = list_awaited(grid.settle(choices)), list_jobs(grid, where, choices)
        ids, edited = [*(job.id for job in jobs), *(run.id for run in awaited)], describe_edited(jobs, known)
        files.sweep(folder)
        files.sweep(cache_folder())
    done = sum(each in whole for each in ids)
    tried_all, elsewhere = len(first) + len(then), len(left) - len(mine)
    return GridOutcome(len(ids), done, tried_all, moved, stopped, unmeasured, elsewhere, len(awaited), edited)


def _allow_files(workers: int) -> None:
    """Raises this process's limit of open files to what its workers need. Raises OSError if the system allows fewer."""
    needed = FILES + FILES_OF_A_WORKER * workers
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        what = f"{needed} open files are needed for {count_of(workers, 'worker')}"
        reason = f"{what}, and the limit (`ulimit -n`) is {hard}: raise it"
        raise OSError(errno.EMFILE, f"{reason}, or take fewer --workers")
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))


FILES, FILES_OF_A_WORKER = 12, 3
"""Files that a driver has open at once, and those that it has open for each worker."""


def _refuse_foreign(folder: Path) -> None:
    """Raises WrongFolder if a folder holds files of something else, which results would replace."""
    foreign = list_foreign(folder)
    if foreign:
        named = ", ".join(foreign[:3]) + " and more" * (len(foreign) > 3)
        raise WrongFolder(f"{folder} holds no results, but {named}: choose an empty or a new folder with --out")


def _refuse_handed_over(folder: Path, engine: Engine) -> None:
    """Raises WrongFolder if Slurm has jobs of this folder, which another engine would do a second time."""
    left = 0 if isinstance(engine, SlurmEngine) else len(list_submissions(folder))
    if left:
        adopt = "`ablate run` with --engine slurm adopts them, and `ablate status` says how far they are"
        forget = f"if Slurm has none of them any more, delete {folder / SLURM}"
        raise WrongFolder(f"{folder}: jobs of this folder were handed over to Slurm; {adopt}; {forget}")


Known = dict[str, dict[str, Any]]
"""The jobs that have a record, by id: the sources of the user's network, and of a trial the accuracy that it gave."""


def _survey(folder: Path) -> tuple[Known, list[Path]]:
    """Returns the jobs that have a record, and the paths of damaged records. Reads them one by one to save memory."""
    known: Known = {}
    damaged = []
    for found in records.iterate(folder):
        if found.record is None:
            damaged.append(found.path)
            continue
        known[found.record["id"]] = {"environment": take_source(found.record["environment"])}
        if found.record["kind"] == "tuning":
            accuracy = found.record["deterministic"]["validation_accuracy"]
            known[found.record["id"]]["deterministic"] = {"validation_accuracy": accuracy}
    return known, damaged


def _choose(grid: Grid, known: Known, folder: Path) -> dict[str, Choice]:
    """Returns the values that the folder's records choose for the variants that are tuned."""
    return choose(grid, known, records.load_attempts(folder)) if grid.tuned else {}


def _list_left(
    grid: Grid,
    known: Known,
    folder: Path,
    where: Mapping[str, Any],
    retry: Collection[str],
    again: Collection[str],
) -> list[Job]:
    """Lists the jobs that have no record. Includes failed jobs only if `retry` contains their status, or `again` them.

    `again` are the ids of jobs whose records are to be replaced.
    """
    attempts = records.load_attempts(folder)
    return [
        replace(each, again=each.id in again)
        for each in list_jobs(grid, where, choose(grid, known, attempts))
        if each.id not in known
        and (each.id in again or each.id not in attempts or attempts[each.id][-1]["status"] in retry)
    ]


def refuse(grid: Grid, device: str, widest: int) -> None:
    """Raises ValueError if this kind of device, `cpu` or `cuda`, cannot run the grid.

    `widest` is the number of workers that one job can have together.
    """
    trained = [job.config.variant.train for job in list_jobs(grid, {}) if isinstance(job.config, RunConfig)]
    most = max((each.processes for each in trained), default=1)
    if most > widest:
        there = count_of(widest, "worker")
        more = f"--workers {most} starts as many on a CPU" if device == "cpu" else "each needs a GPU of this machine"
        more += f". A cluster's seats have as many with --with num_cpus={most} or num_gpus={most}"
        raise ValueError(f"train.processes = {most} needs {most} workers at a time, and this is {there}: {more}")
    if device == "cpu":
        only = {f"train.precision = '{each.precision}'" for each in trained if each.precision in ("tf32", "fp16")}
        only |= {"train.cuda_graph = true" for each in trained if each.cuda_graph}
        only |= {"train.batch_norm = 'all'" for each in trained if each.batch_norm == "all"}
        if only:
            allowed = "; without one, precisions are fp32, bf16 and fp64" if "precision" in str(only) else ""
            raise ValueError(f"{' and '.join(sorted(only))} needs a CUDA device, and there is none here{allowed}")


def _prepare(grid: Grid, folder: Path, plan: Manifest, source: Path | None) -> None:
    if (folder / manifest.NAME).exists():
        try:
            difference = describe_other_grid(folder, plan)
        except NotResults as error:
            raise WrongFolder(f"{error}; move the folder away, or choose another with --out") from None
        if difference:
            raise WrongFolder(difference)
    files.sweep(folder)
    kept = ["weights"] if any(variant.train.keep_weights for variant in grid.variants.values()) else []
    for place in ("records", "attempts", FOLDER, *kept):
        files.probe(folder / place)
    plan.write(folder)
    kept_grid = folder / "grid.toml"
    if source is None or not kept_grid.exists() or not source.samefile(kept_grid):
        files.write(kept_grid, grid.text.encode())


def describe_other_grid(folder: Path, plan: Manifest) -> str:
    """Returns why a plan cannot take a results folder; empty if it can. A grid may grow: more levels, studies, seeds.

    Raises NotResults if the folder has no results, or a damaged plan.
    """
    before = Manifest.read(folder)
    runs = _list_declared(before)
    lost = len(runs - _list_declared(plan))
    if not lost:
        return ""
    difference = "; ".join(_differences(before, plan)[:5]) or "other studies"
    left = f"{lost} of its {count_of(len(runs), 'run')} would leave the tables: choose another folder with --out"
    return f"{folder} holds another grid ({difference}); {left}"


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
    """Lists the differences between two grids: title, seeds, tuning, the fields of the base, and edited parts."""
    old, new = (
        {"title": plan.title, "seeds": list(plan.seeds), "tune": _tuned_over(plan)}
        | next(iter(plan.variants.values())).fields
        for plan in (there, here)
    )
    chosen = {f"train.{name}" for plan in (there, here) for entry in plan.tuning for name in entry.values}
    keys = [key for key in dict.fromkeys([*old, *new]) if key not in chosen]
    fields = [f"{key} {old.get(key)!r} there, {new.get(key)!r} here" for key in keys if old.get(key) != new.get(key)]
    before, now = (_list_sources(plan) for plan in (there, here))
    edited = sorted(name for name in before.keys() & now.keys() if before[name] != now[name])
    return fields + [f"the code of {name} was edited" for name in edited]


def _list_sources(plan: Manifest) -> dict[str, str]:
    """Returns the fingerprints of all parts of the user's in a plan, by module."""
    every = [entry.identity.get("sources", {}) for entry in plan.configurations.values()]
    return {name: each for sources in every for name, each in sources.items()}


def _tuned_over(plan: Manifest) -> dict[str, Any]:
    """Returns how the first tuned variant of a grid is tuned: its values, schedule, seeds and validation images."""
    told = {"values", "schedule", "seeds", "validation_images"}
    return next((entry.model_dump(mode="json", include=told) for entry in plan.tuning), {})


def _execute(
    left: Sequence[Job],
    grid: Grid,
    folder: Path,
    engine: Engine,
    console: Console,
    check_place: Callable[[], None],
    then: str = "nothing to go",
) -> bool:
    """Runs the jobs. Returns whether it was stopped before all of them were finished.

    At each event, `check_place` notices that the folder was renamed or replaced. `then` is said when all are finished.
    Raises StorageError, and ValueError for trained weights that cannot be downloaded.
    """
    fetch_weights(left, lambda text: console.print(text, highlight=False))
    by_id = {each.id: each for each in left}
    board = Board({each.id: Work(each.name, each.kind, _count_epochs(each, grid)) for each in left}, then)
    tasks = [
        Task(
            each.id,
            execute,
            (replace(each, source=describe_networks(each.config)), folder, describe_code()),
            exclusive=each.kind in MEASUREMENTS,
            stoppable=each.kind not in MEASUREMENTS,
            limit=grid.time_limit,
            purpose=describe_purpose(each, folder),
            folder=folder,
            slots=count_processes(each.config),
        )
        for each in left
    ]
    ended = 0
    with (
        open_journal(folder) as note,
        _listen_for_stop() as stopping,
        closing(engine.run(tasks, stopping)) as events,
    ):
        for event in show(console, events, board, engine.slots):
            check_place()
            if isinstance(event, Lost):
                records.note_attempt(folder, describe_loss(by_id[event.task.key], event.status, event.reason))
            _note_event(note, event, by_id[event.task.key], folder)
            if isinstance(event, Broken):
                raise event.error
            ended += isinstance(event, Finished | Lost)
    return ended < len(left)


def _note_event(note: Note, event: Event, job: Job, folder: Path) -> None:
    """Adds an event of a job to the journal, if it is one for those who follow the grid from outside."""
    who = {"kind": job.kind, "name": job.name}
    match event:
        case Started():
            note("started", job.id, **who)
        case Waiting(others=others):
            note("waiting", job.id, **who, others=others)
        case Told(message=Epoch() as epoch):
            keys = ("epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "seconds")
            note("epoch", job.id, **who, **{key: getattr(epoch, key) for key in keys})
        case Restarted(reason=reason):
            note("restarted", job.id, **who, reason=reason)
        case Finished(status="done"):
            note("finished", job.id, **who)
        case Finished(status=status) | Lost(status=status):
            failure = records.read_last_attempt(folder, job.id) or {}
            note("failed", job.id, **who, status=status, reason=failure.get("reason", ""))
        case Stopped():
            note("stopped", job.id, **who)


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

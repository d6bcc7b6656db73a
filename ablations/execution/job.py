"""Execution of one job, which publishes its record. This is the only place where an exception becomes a status."""

from __future__ import annotations

import errno
import os
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ablations.config import CostConfig, RunConfig, SpeedConfig, count_processes, find_sources, models_of
from ablations.data.dataset import load
from ablations.data.images import DataError
from ablations.environment import (
    describe_code,
    describe_machine,
    describe_networks,
    describe_settings,
    describe_versions,
)
from ablations.execution.changes import SourceChanged, list_classes, refuse_changed
from ablations.execution.engine import MOST_DEATHS, Context, Stopping
from ablations.execution.fresh import Abandoned, Killed, call_fresh
from ablations.execution.together import Failed, call_together
from ablations.grid.model import Job
from ablations.grid.planning import job_of
from ablations.grid.probing import check_own_network
from ablations.profiling import cost, counts, memory, speed
from ablations.storage import records
from ablations.storage.files import StorageError
from ablations.storage.manifest import MEASUREMENTS, Manifest
from ablations.storage.sources import list_changed
from ablations.storage.turns import Purpose, lock_devices
from ablations.training import weights
from ablations.training.checkpoint import CheckpointStore, StopRequested
from ablations.training.distributed import ALONE, Group
from ablations.training.evaluation import Evaluation
from ablations.training.events import Progress
from ablations.training.loop import Diverged, make_network, train
from ablations.training.stopwatch import Stopwatch
from densenet import list_trained
from densenet.pretrained import fetch, is_here
from densenet.sources import describe_frame, find_place

Fields = dict[str, Any]


def execute(job: Job, folder: Path, code: Mapping[str, str], context: Context) -> str:
    """Runs a job on a device, with one thread on a CPU.

    Publishes its record or notes its failure, and returns its status.

    A run resumes from its checkpoint. The status `stopped` means that it saved a new one. The context receives the
    messages of the training and each written checkpoint. Raises StorageError if the results folder cannot be written,
    and OSError for another fault of the machine, which is no failure of the job.
    """
    torch.set_num_threads(1)
    together = job.kind != "speed" and count_processes(job.config) > 1
    if not together and job.kind != "speed":  # others have own processes, and one that uses CUDA cannot be forked
        _set_up(torch.device(context.device))
    try:
        record = (_compute_together if together else _compute)(job, folder, code, context)
        if job.kind == "speed":  # its processes load the source anew
            _check_source(job)
        if not folder.is_dir():  # it must not come back with this record alone
            raise StorageError(errno.ENOENT, "is not there any more: it was renamed or removed", str(folder))
        (records.republish if job.again else records.publish)(folder, record)
    except (StopRequested, Abandoned):
        return "stopped"
    except OSError as error:
        if isinstance(error, StorageError) or error.errno in FAULTS_OF_THE_MACHINE:
            raise
        return _note_failure(job, folder, error, context)
    except Exception as error:  # a network or its data may raise anything: the job fails, and the grid goes on
        return _note_failure(job, folder, error, context)
    CheckpointStore(folder, job.id, {}).clear()
    return "done"


def _compute(job: Job, folder: Path, code: Mapping[str, str], context: Context, group: Group = ALONE) -> Fields:
    """Does the work of a job, or this process's share of it, and returns its record."""
    device = torch.device(context.devices[group.rank])
    store = CheckpointStore(folder, job.id, {}, job.fields, written=context.kept)
    if job.kind != "speed":
        backend = {"backend": group.backend} if group.size > 1 else {}
        made = {**describe_versions(device), "fingerprint": code.get("fingerprint"), **backend}
        store = replace(store, environment=made)
    watch = Stopwatch(context.started, device.type == "cuda")
    source = _check_source(job)
    return _record(job, replace(store, source=source), device, code, context, watch, group)


def _compute_together(job: Job, folder: Path, code: Mapping[str, str], context: Context) -> Fields:
    """Does the work of a job in several processes, and returns the record of the first one.

    Raises StopRequested, StorageError, FailedElsewhere, and SystemExit if a process died, as if this one had.
    """

    def work(group: Group) -> Fields | None:
        own = replace(context, stopping=group.stopping)
        own = own if not group.rank else replace(own, give_way=lambda settle: 0.0)
        _set_up(torch.device(context.devices[group.rank]))
        try:
            record = _compute(job, folder, code, own, group)
        except StopRequested:
            return None
        return {} if group.rank else record

    try:
        record: Fields | None = call_together(work, context.devices, _describe_error, context.stopping)
    except Killed as error:
        raise SystemExit(f"{job.name}: {error}") from None
    except Failed as error:
        if "fault" in error.failure:
            raise StorageError(*error.failure["fault"]) from None
        raise FailedElsewhere(*error.failure["failed"]) from None
    if record is None:
        raise StopRequested
    return record


class FailedElsewhere(RuntimeError):
    """Work in another process failed. The message says why, and for a measurement which one."""

    def __init__(self, status: str, reason: str, traceback: Fields) -> None:
        super().__init__(reason)
        self.status, self.traceback = status, traceback


def _describe_error(error: Exception) -> Fields:
    """Describes an error for another process: a fault of the machine, or a failure of the job."""
    if isinstance(error, OSError) and (isinstance(error, StorageError) or error.errno in FAULTS_OF_THE_MACHINE):
        return {"fault": [error.errno, error.strerror, error.filename]}
    return {"failed": [status_of(error), f"{type(error).__name__}: {error}", describe_traceback(error)]}


FAULTS_OF_THE_MACHINE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOLCK)
"""Errors that every other job would have too: the disk or /dev/shm is full, or too many files are open."""


def _note_failure(job: Job, folder: Path, error: Exception, context: Context) -> str:
    """Notes the failure of a job and returns its status."""
    if context.stopping():  # the processes that read data may have received the same signal
        return "stopped"
    if READER_DIED in str(error):
        raise SystemExit(f"{job.name}: {error}") from None  # as if this whole process had died
    records.note_attempt(folder, describe_failure(job, error))
    return status_of(error)


def _check_source(job: Job) -> dict[str, Any]:
    """Returns the source of the user's networks as this process has loaded it, before it may be edited.

    Raises SourceChanged if a network or another part was edited since the grid was started.
    """
    sides = [job.fields, *(job.fields[side] for side in ("level", "base") if side in job.fields)]
    planned = {module: each for side in sides for module, each in side.get("sources", {}).items()}
    if planned and (now := find_sources(job.config)) != planned:
        edited = ", ".join(sorted(name for name in planned | now if planned.get(name) != now.get(name)))
        raise SourceChanged(f"{edited} was changed while the grid ran: run the grid again, and it makes new jobs")
    found = describe_networks(job.config)
    changed = list_changed(job.source, found) if job.source else []
    if changed:
        names = " and ".join(list_classes(job))
        raise SourceChanged(f"{names} was changed while the grid ran ({', '.join(changed)}): run the grid again")
    return found


def fetch_weights(jobs: Iterable[Job], say: Callable[[str], None]) -> None:
    """Downloads the trained weights that jobs start from, as far as they are not on this machine.

    Raises ValueError that names all that cannot be downloaded, or are not what torchvision publishes.
    """
    models = [model for job in jobs for model in models_of(job.config)]
    needed = {str(each): each for model in models for each in list_trained(model).values()}
    problems = []
    for name, each in sorted(needed.items()):
        if not is_here(each):
            say(f"Downloading the weights {name}")
        try:
            fetch(each)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("\n".join(problems))


def execute_planned(
    folder: Path, job_id: str, device: str, started: float, stopping: Stopping, say: Callable[[str], None]
) -> str:
    """Runs one job of a results folder, using only the plan on disk, and returns its status.

    Raises NotResults and StorageError for the folder, ValueError for a job that does not exist, must be measured on
    another machine, has a user's network that was edited since other runs of it were made, or starts from weights that
    cannot be downloaded.
    """
    plan = Manifest.read(folder)
    job = job_of(plan, folder, job_id)
    path = folder / "records" / f"{job_id}.json"
    if path.exists():
        records.read(path)  # raises an error for a damaged record
        say(f"{job.name} is on record already")
        return "done"
    if list_classes(job):  # else the records need not be read
        refuse_changed(job, records.load(folder)[0], folder)
    place = torch.device(choose_device(device))
    devices = _list_devices(str(place), job)
    here = job_machine(str(place))
    if job.kind in MEASUREMENTS and here != plan.machine:
        there = ", ".join(f"{key} {value}" for key, value in plan.machine.items() if here[key] != value)
        raise ValueError(f"{job.name} is to be measured on another machine ({there}); here it would be another job")

    fetch_weights([job], say)

    def tell(message: object) -> None:
        if isinstance(message, Progress):
            say(f"{job.name}: epoch {message.epochs:.1f}, loss {message.loss:.3f}")

    def wait(others: str) -> None:
        say(f"waiting for the device, used by {others}")

    with lock_devices(devices, job.kind in MEASUREMENTS, wait, describe_purpose(job, folder)) as turn:
        give_way, (first, *more) = partial(turn.give_way, stopping=stopping), devices
        context = Context(
            first, started + turn.waited, tell, lambda state: None, stopping, give_way=give_way, more=tuple(more)
        )
        try:
            status = execute(job, folder, describe_code(), context)
        except SystemExit as error:  # a network may end its process, and a dead reader of images does
            raise ValueError(f"{job.name}: its process was ended ({error})") from None
    failure = records.read_last_attempt(folder, job_id) if status not in ("done", "stopped") else None
    say(f"{job.name}: {status}" + (f": {failure['reason']}" if failure else ""))
    if failure and failure.get("place"):
        say(f"  at {failure['place']}")
    return status


def _list_devices(first: str, job: Job) -> list[str]:
    """Lists the devices for the processes of a job. Raises ValueError for several processes on GPUs."""
    count = count_processes(job.config)
    if count > 1 and first != "cpu":  # this process has used CUDA, and cannot be forked
        raise ValueError(f"{job.name} has {count} processes, and needs a worker of `ablate run` for each of its GPUs")
    return [first] * count


def describe_purpose(job: Job, folder: Path) -> Purpose:
    """Returns the use of a device by a job, for those who wait for it."""
    return Purpose(f"{job.kind} {job.name}", str(folder.resolve()))


def job_machine(device: str) -> dict[str, Any]:
    """Describes the machine that a measurement by a job on this device depends on: `execute` uses one thread."""
    return {**describe_machine(torch.device(device)), "threads": 1}


def choose_device(name: str) -> str:
    """Returns `cpu` or, for example, `cuda:0`; for `auto`, CUDA if torch can use it.

    Raises ValueError for other devices.
    """
    if name == "auto":
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    found = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if name.replace("cuda", "cuda:0") not in found and name not in found:
        raise ValueError(f"device {name}: this machine has {', '.join(found)}")
    return "cuda:0" if name == "cuda" else name


def _record(
    job: Job,
    store: CheckpointStore,
    device: torch.device,
    code: Mapping[str, str],
    context: Context,
    watch: Stopwatch,
    group: Group,
) -> Fields:
    watch.lap("start")
    if isinstance(job.config, RunConfig):
        training = job.config.variant.train
        deterministic, measured, exact = _run(job, job.config, store, device, context, watch, group)
    elif isinstance(job.config, SpeedConfig):
        training, exact = job.config.level.train, {}
        deterministic, measured = {}, {"rounds": _compare(job.config, context)}
    else:
        training, exact = job.config.train, {}
        deterministic, measured = _cost(job.config, device, group)
    watch.lap("rest")
    measured["seconds"] = sum(watch.parts.values())
    if job.kind not in MEASUREMENTS:
        measured |= {f"{part}_seconds": seconds for part, seconds in watch.parts.items()}
    return {
        "id": job.id,
        "kind": job.kind,
        "config": job.fields,
        "deterministic": deterministic,
        "measured": measured,
        "environment": {
            **describe_settings(device, training),
            **group.describe(training),
            **exact,
            **code,
            **store.source,
        },
    }


READER_DIED = "DataLoader worker (pid"
"""A part of PyTorch's error message when a process that reads images was killed."""

NO_MEMORY = (
    "out of memory",  # CUDA, its driver and its allocator
    "ALLOC_FAILED",  # cuBLAS, cuDNN
    "can't allocate memory",  # torch's allocator on a CPU
    "Cannot allocate memory",  # the system
    "not enough memory",
)
"""Parts of error messages that mean that memory is full, of errors that are not a MemoryError."""


def status_of(error: BaseException) -> str:
    """Returns the status of a failure: `oom`, `diverged` or `failed`."""
    if isinstance(error, FailedElsewhere):
        return error.status
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "oom"
    if isinstance(error, RuntimeError | OSError) and any(words in str(error) for words in NO_MEMORY):
        return "oom"
    return "diverged" if isinstance(error, Diverged) else "failed"


def describe_failure(job: Job, error: BaseException) -> dict[str, Any]:
    """Returns the note of a failure: status, reason, traceback and place without paths of this machine."""
    if isinstance(error, FailedElsewhere):
        return {**describe_loss(job, error.status, str(error)), **error.traceback}
    return {**describe_loss(job, status_of(error), f"{type(error).__name__}: {error}"), **describe_traceback(error)}


def describe_traceback(error: BaseException) -> dict[str, Any]:
    """Returns the lines of the traceback, and as `place` the user's own line where it failed: see `find_place`."""
    frames = traceback.extract_tb(error.__traceback__)
    return {"traceback": [*map(describe_frame, frames)], "place": find_place(error)}


def describe_loss(job: Job, status: str, reason: str) -> dict[str, Any]:
    """Returns the note of a job that ended without a status of its own."""
    return {"id": job.id, "name": job.name, "status": status, "reason": reason, "traceback": [], "place": ""}


def _set_up(device: torch.device) -> None:
    """Prepares this process to compute on a device, with one thread on a CPU."""
    torch.set_num_threads(1)
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs this to be deterministic
        torch.cuda.set_device(device)


def _run(
    job: Job,
    config: RunConfig,
    store: CheckpointStore,
    device: torch.device,
    context: Context,
    watch: Stopwatch,
    group: Group,
) -> tuple[Fields, Fields, Fields]:
    """Trains a network. Returns its results, the measurements, and whether a resume would give the same bits.

    Raises DataError if the data set has changed since the job was planned, and ValueError for a user's network that
    would not be trained as it seems to.
    """
    variant = config.variant
    data = load(variant.data).to(device)
    watch.lap("data")
    if data.checksum != job.fields["data"]["checksum"]:
        raise DataError(
            f"{data.label} has changed on disk since the job was planned: run the grid again to plan new jobs"
        )
    tuning = job.kind == "tuning"
    if tuning:  # the choice of values must not depend on the test images, so they are removed
        data = replace(data, test=data.test.subset(torch.arange(0)))
    check_own_network(variant.model, data.image_size, variant.train.loss)
    network = make_network(variant.model, config.seed, device)
    settle = partial(torch.cuda.synchronize, device) if device.type == "cuda" else lambda: None

    def stopping() -> bool:
        watch.skip(context.give_way(settle))
        return context.stopping()

    outcome = train(
        network,
        data,
        variant.data,
        variant.train,
        config.seed,
        observe=context.tell,
        store=store,
        stopping=stopping,
        watch=watch,
        tested=not tuning,
        group=group,
    )
    if variant.train.keep_weights and not group.rank:
        weights.write(
            store.folder / "weights" / f"{job.id}.safetensors", outcome.network, variant.model, data, job.fields
        )
    history = [asdict(epoch) for epoch in outcome.history]
    seconds = [epoch.pop("seconds") for epoch in history]
    values = {
        **_named("test", outcome.test),
        **_named("validation", outcome.validation),
        "train_images": len(data.train),
        "validation_images": len(data.validation) if data.validation else 0,
        **({} if tuning else {"test_images": len(data.test)}),
        "steps": outcome.steps,
        "weights": outcome.weights,
        "data": data.described(),
        "history": history,
    }
    exact = (device.type == "cpu" or variant.train.deterministic) and not outcome.mixed
    measured: Fields = {"epoch_seconds": seconds, "resumes": outcome.resumes}
    if outcome.refused:
        measured["refused_checkpoints"] = list(outcome.refused)
    return values, measured, {"exact_resume": exact}


def _named(part: str, evaluation: Evaluation | None) -> Fields:
    """Returns the values of an evaluation with the part's name before theirs, for example `test_accuracy`."""
    return {} if evaluation is None else {f"{part}_{name}": value for name, value in asdict(evaluation).items()}


def _cost(config: CostConfig, device: torch.device, group: Group) -> tuple[Fields, Fields]:
    """Returns the counted and predicted costs of a variant, and the measured ones."""
    known = {} if group.rank else {**counts.count(config), **memory.predict(config)}
    return known, cost.measure(config, device, group)


def _compare(config: SpeedConfig, context: Context) -> list[Fields]:
    """Returns the measurements of each round, each made in a new process.

    Raises FailedElsewhere, Abandoned and StorageError.
    """

    def measure(name: str, side: CostConfig) -> Fields:
        for _ in range(MOST_DEATHS):
            try:
                found = call_fresh(_measure_side, (side, context.devices), context.method, context.stopping)
            except Killed as error:
                killed = str(error)
            else:
                if "fault" in found:
                    raise StorageError(*found["fault"])
                if "failed" in found:
                    status, reason, lines = found["failed"]
                    raise FailedElsewhere(status, f"{name}: {reason}", lines)
                return found
        raise FailedElsewhere("failed", f"{name}: {killed}, {MOST_DEATHS} times in a row", {})

    return speed.measure_rounds(config, measure)


def _measure_side(side: CostConfig, devices: tuple[str, ...]) -> Fields:
    """Returns the speed of a variant, or what `_describe_error` says of its failure."""

    def measure(group: Group) -> Fields:
        device = torch.device(devices[group.rank])
        _set_up(device)
        return speed.measure_speed(side, device, group)

    try:
        if side.train.processes > 1:
            return dict(call_together(measure, devices[: side.train.processes], _describe_error))
        device = torch.device(devices[0])
        _set_up(device)
        return speed.measure_speed(side, device)
    except Killed:
        raise
    except Failed as error:
        return dict(error.failure)
    except Exception as error:  # its network may raise anything, also what no other process can read
        return _describe_error(error)

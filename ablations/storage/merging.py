"""Merges results folders: records of several machines, or of several parts of one plan, are taken into one folder."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ablations.storage import files, locks, records
from ablations.storage.manifest import MEASUREMENTS, NAME, Manifest, NotResults, list_foreign
from ablations.storage.records import Record


@dataclass
class Merged:
    """What was taken from one folder."""

    source: Path
    added: list[str] = field(default_factory=list)
    """The ids of the records that were added."""

    present: list[str] = field(default_factory=list)
    """The ids of those that were already there."""

    different: list[str] = field(default_factory=list)
    """Those of `present` whose results are others than the ones that are there, which stay."""

    damaged: list[Path] = field(default_factory=list)
    """Records that are not as they were published. They are not taken."""

    foreign: Counter[str] = field(default_factory=Counter)
    """The records of jobs that the plan does not have, by kind. They are not taken."""

    failures: int = 0
    """The notes of failures that were added."""


def merge(sources: Sequence[Path], target: Path) -> list[Merged]:
    """Copies the records of the plan of `target` from other results folders. Nothing in `target` is replaced.

    A new folder gets the plan and the grid of the first source. Raises NotResults if a source is no results folder, or
    if `target` holds files of something else, FolderInUse, and StorageError.
    """
    plans = {source: _read_source(source, target) for source in dict.fromkeys(sources)}
    foreign = list_foreign(target)
    if foreign:
        raise NotResults(f"{target} holds no results, but {', '.join(foreign[:3])}: choose a new folder")
    with locks.lock_folder(target) as check_place:
        if not (target / NAME).exists():
            _copy_plan(next(iter(plans)), target)
        plan = Manifest.read(target)
        merged = []
        for source, theirs in plans.items():
            check_place()
            merged.append(_take(source, theirs, target, plan))
    return merged


def _read_source(source: Path, target: Path) -> Manifest:
    """Returns the plan of a source. Raises NotResults."""
    if source.is_dir() and target.is_dir() and source.samefile(target):
        raise NotResults(f"{source} cannot be merged into itself")
    return Manifest.read(source)


def _copy_plan(source: Path, target: Path) -> None:
    for name in ("grid.toml", NAME):  # the plan last: with it the folder is whole
        with suppress(FileNotFoundError):
            files.create(target / name, files.read(source / name))


def _take(source: Path, theirs: Manifest, target: Path, plan: Manifest) -> Merged:
    """Copies the records and notes of one source."""
    merged, known = Merged(source), set(_list_known(theirs, plan))
    for found in records.iterate(source):
        record = found.record
        if record is None:
            merged.damaged.append(found.path)
        elif record["id"] not in known and not _is_of_variant(record, plan):
            merged.foreign[record["kind"]] += 1
        else:
            _add(record, target, merged)
    there = records.load_attempts(target)
    for job, notes in records.load_attempts(source).items():
        if job in known and not (target / "records" / f"{job}.json").exists():
            for note in notes:
                if note not in there.get(job, ()):
                    records.note_attempt(target, note)
                    merged.failures += 1
    for job in {*merged.added, *merged.present} - {*merged.different}:
        with suppress(FileNotFoundError):
            name = f"weights/{job}.safetensors"
            files.create(target / name, files.read(source / name))
    return merged


def _add(record: Record, target: Path, merged: Merged) -> None:
    if records.publish(target, record):
        merged.added.append(record["id"])
        return
    merged.present.append(record["id"])
    with suppress(records.Damaged):  # `ablate status` tells of it
        there = records.read(target / "records" / f"{record['id']}.json")
        if there["deterministic"] != record["deterministic"]:
            merged.different.append(record["id"])


def _list_known(theirs: Manifest, plan: Manifest) -> Iterator[str]:
    """Yields the ids of the jobs that belong to a plan.

    They are its own. If the source has a plan of the same variants, they are also the ones that follow there from its
    tuning; measurements only of the same machine.
    """
    yield from (job.id for job in plan.jobs)
    if {level.declared for level in theirs.levels()} <= {level.declared for level in plan.levels()}:
        here = theirs.machine == plan.machine
        yield from (job.id for job in theirs.jobs if here or job.kind not in MEASUREMENTS)


def _is_of_variant(record: Record, plan: Manifest) -> bool:
    """Returns whether a record is a run of a variant of the plan, with any seed."""
    fields = {key: value for key, value in record["config"].items() if key != "seed"}
    return record["kind"] == "run" and records.identity(fields) in plan.variants

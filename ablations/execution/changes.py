"""Finds what was made with another source of a user's network than the one that lies there now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ablations.config import models_of
from ablations.environment import describe_networks
from ablations.grid.model import Job
from ablations.storage import records
from ablations.storage.manifest import MEASUREMENTS
from ablations.storage.sources import list_changed
from densenet import OwnConfig, describe_source

EDITED = "edited"
"""In `retry`: trainings and measurements of a user's network that was edited are made again."""


class SourceChanged(ValueError):
    """A user's network has changed since some of its runs were made."""


def find_outdated(jobs: Sequence[Job], whole: Mapping[str, Any], folder: Path, again: bool = False) -> list[str]:
    """Returns the ids of measurements whose network has changed, and of which no run is on record.

    With `again`, these are all jobs whose network has changed, also trainings. `whole` are the records by id. Raises
    SourceChanged if runs of the old network would stand beside new results.
    """
    changed = _find_changed(jobs, whole)
    if again:
        return list(changed)
    trained = [job for job in jobs if job.id in changed and job.kind not in MEASUREMENTS]
    names = {name for job in trained for name in list_classes(job)}
    left = [job for job in jobs if job.id not in whole and names & set(list_classes(job))]
    if left:
        said = _describe(names, [changed[job.id] for job in trained], folder)
        raise SourceChanged(f"{said}, or run all of them again with --retry {EDITED}")
    return [] if trained else list(changed)


def describe_edited(jobs: Sequence[Job], whole: Mapping[str, Any]) -> str:
    """Returns a sentence on trainings on record whose network has changed; empty if there are none."""
    changed = _find_changed(jobs, whole)
    trained = [job for job in jobs if job.id in changed and job.kind not in MEASUREMENTS]
    if not trained:
        return ""
    names = " and ".join(sorted({name for job in trained for name in list_classes(job)}))
    modules = ", ".join(sorted({module for job in trained for module in changed[job.id]}))
    count = "1 training on record was" if len(trained) == 1 else f"{len(trained)} trainings on record were"
    said = f"{names} has changed since {count} made ({modules}): tables show the old network"
    return f"{said}. `--retry {EDITED}` trains and measures the new one"


def _find_changed(jobs: Sequence[Job], whole: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the changed modules of each job on record whose network is the user's and has changed."""
    return {
        job.id: modules
        for job in jobs
        if job.id in whole
        and list_classes(job)
        and (modules := list_changed(whole[job.id]["environment"], describe_networks(job.config)))
    }


def list_failed(jobs: Sequence[Job], folder: Path) -> list[str]:
    """Returns the ids of the jobs of a user's networks that failed: another source may not fail."""
    attempts = records.load_attempts(folder)
    return [job.id for job in jobs if job.id in attempts and list_classes(job)]


def refuse_changed(job: Job, whole: Mapping[str, Any], folder: Path) -> None:
    """Raises SourceChanged if runs of this job's class are on record, and the class was another one then."""
    for model in models_of(job.config):
        if isinstance(model, OwnConfig):
            runs = [record for record in whole.values() if record["kind"] not in MEASUREMENTS]
            same = [record for record in runs if record["config"]["model"].get("family") == model.family]
            changed = [list_changed(record["environment"], describe_source(model)) for record in same]
            if any(changed):
                raise SourceChanged(_describe([model.family], [each for each in changed if each], folder))


def _describe(names: Iterable[str], changed: Sequence[Sequence[str]], folder: Path) -> str:
    modules = sorted({each for modules in changed for each in modules})
    return (
        f"{' and '.join(sorted(names))} has changed since its runs in {folder} were made ({len(changed)} on record; "
        f"changed: {', '.join(modules)}). Tables would mix the old network with the new one: undo the change, give the "
        "new class another name, or choose another folder with --out"
    )


def list_classes(job: Job) -> list[str]:
    """Returns the classes of the user's in a job, as `package.module:Class`."""
    return [model.family for model in models_of(job.config) if isinstance(model, OwnConfig)]


def set_outdated_aside(folder: Path, outdated: Sequence[str]) -> None:
    """Moves records of measurements to `outdated`/ beside them, so that they are made again. Raises StorageError."""
    for each in outdated:
        records.set_aside(folder / "records" / f"{each}.json", records.OUTDATED)

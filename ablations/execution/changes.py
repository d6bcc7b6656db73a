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


class SourceChanged(ValueError):
    """A user's network has changed since some of its runs were made."""


def find_outdated(jobs: Sequence[Job], whole: Mapping[str, Any], folder: Path) -> list[str]:
    """Returns the ids of measurements whose network has changed, and of which no run is on record.

    `whole` are the records by id. Raises SourceChanged if runs of the old network would stand beside new results.
    """
    own = [job for job in jobs if any(isinstance(model, OwnConfig) for model in models_of(job.config))]
    changed = {
        job.id: modules
        for job in own
        if job.id in whole and (modules := list_changed(whole[job.id]["environment"], describe_networks(job.config)))
    }
    trained = [job for job in own if job.id in changed and job.kind not in MEASUREMENTS]
    names = {name for job in trained for name in list_classes(job)}
    left = [job for job in own if job.id not in whole and names & set(list_classes(job))]
    if left:
        raise SourceChanged(_describe(names, [changed[job.id] for job in trained], folder))
    return [] if trained else list(changed)


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

"""Finds what was made with another source of a user's network than the one that lies there now."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ablations.config import models_of
from ablations.environment import describe_networks
from ablations.grid.model import Job
from ablations.storage import files
from ablations.storage.manifest import MEASUREMENTS
from ablations.storage.sources import list_changed
from densenet import OwnConfig

OUTDATED = "outdated"
"""The folder within records/ for measurements of a network whose source has changed. They are made again."""


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
        modules = sorted({each for job in trained for each in changed[job.id]})
        raise SourceChanged(
            f"{' and '.join(sorted(names))} has changed since {len(trained)} of its runs in {folder} were made "
            f"(changed: {', '.join(modules)}); {len(left)} of its jobs are left, and tables would mix the old network "
            "with the new one: undo the change, give the new class another name, or choose another folder with --out"
        )
    return [] if trained else list(changed)


def list_classes(job: Job) -> list[str]:
    """Returns the classes of the user's in a job, as `package.module:Class`."""
    return [model.family for model in models_of(job.config) if isinstance(model, OwnConfig)]


def set_outdated_aside(folder: Path, outdated: Sequence[str]) -> None:
    """Moves records of measurements to `outdated`/ beside them, so that they are made again. Raises StorageError."""
    for each in outdated:
        place = folder / "records"
        files.move(place / f"{each}.json", place / OUTDATED / f"{each}.json")

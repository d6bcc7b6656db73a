"""Copies the runs of a results folder into a tracker of experiments. The records stay the truth.

A run is copied with its configuration, its measures, its learning curve, and what made it. The costs of its variant are
measures of the run, too. A run that could not be trained is copied without measures of its own, with its status and its
reason. A run that was not tried yet is not copied, and neither are the trials of tuning.

A tracker keeps the id and the digest of each run. So a second export writes only runs that are new, that were half
written, or whose records say something else now.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import pandas as pd

from ablations.metrics import COSTS, METRICS
from ablations.report.frames import ENVIRONMENT, PACKED, Frames
from ablations.report.survey import UNTUNED
from ablations.storage import records

NOT_EXPORTED = ("missing", UNTUNED)
"""The statuses of runs that were never started."""

Values = dict[str, float]
"""Measures by the name of their field."""


@dataclass(frozen=True)
class Epoch:
    """One point of a learning curve."""

    number: int
    """The epochs that are done: 1, 2, ..."""

    before_end: float
    """Seconds from the end of this epoch to the end of the last one."""

    values: Values


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers get it."""

    id: str
    name: str
    """The level and the seed: `growth_rate 10, seed 0`."""

    level: str
    """The name without the seed."""

    status: str
    params: Mapping[str, Any]
    """Every field of the configuration by `section.key`, and the seed."""

    tags: Mapping[str, str]
    """What made the run, its level in each study, and other values that are text."""

    metrics: Values
    """What was measured after the last epoch, and the costs of its variant, in the units of the records."""

    curve: tuple[Epoch, ...]
    seconds: float
    """How long the training took; 0 if it has no result."""

    ended: float = field(compare=False)
    """When it ended, in seconds since 1970: records hold no dates, so this is the date of the record's file."""

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with everything that is copied, except for the date."""
        return records.identity({**asdict(self), "ended": None})

    @property
    def done(self) -> bool:
        """Whether the run has a result that tables show."""
        return self.status == "done"

    @property
    def rows(self) -> tuple[Epoch, ...]:
        """The learning curve, with `metrics` at its end."""
        last = self.curve[-1] if self.curve else Epoch(0, 0.0, {})
        return (*self.curve[:-1], replace(last, values={**last.values, **self.metrics}))

    def time_of(self, epoch: Epoch) -> float:
        """Returns when an epoch ended, in seconds since 1970."""
        return self.ended - epoch.before_end


class Tracker(Protocol):
    """A place of a tracker that takes runs."""

    place: str
    command: list[str]
    """The words of the command that shows or uploads what is there."""

    def find(self) -> dict[str, str]:
        """Returns the digest of each run that is there, by its id. A half-written run has an empty one."""
        ...

    def write(self, run: TrackedRun) -> None:
        """Writes a run whole, in the place of the one that is there."""
        ...

    def close(self) -> None:
        """Ends the use of the tracker."""
        ...


Outcome = Literal["added", "renewed", "present"]


def export(runs: Iterable[TrackedRun], tracker: Tracker) -> Iterator[tuple[TrackedRun, Outcome]]:
    """Copies runs into a tracker, one by one, and yields what was done for each.

    `added`: it was not there. `renewed`: it was there half, or with other values. `present`: it was there and is left
    as it is.
    """
    there = tracker.find()
    for run in runs:
        if there.get(run.id) == run.digest:
            yield run, "present"
            continue
        tracker.write(run)
        yield run, "renewed" if run.id in there else "added"


def list_runs(frames: Frames) -> Iterator[TrackedRun]:
    """Yields the runs that are copied, in the order of the plan."""
    manifest = frames.manifest
    costs = {row["variant"]: row for row in _list_rows(frames.costs)}
    places = frames.history.groupby(["variant", "seed"]).indices
    names = {job.id: job.name for job in manifest.jobs}
    levels: dict[str, dict[str, str]] = {}
    for study in manifest.studies:
        for level in study.levels:
            levels.setdefault(level.variant, {})[f"study.{study.name}"] = level.label
    for row in _list_rows(frames.runs):
        if row["status"] in NOT_EXPORTED:
            continue
        variant, place = row["variant"], (row["variant"], row["seed"])
        fields = {key: value for key, value in manifest.variants[variant].fields.items() if value is not None}
        own = {key: value for key, value in row.items() if key not in _KNOWN and key not in fields}
        cost = costs[variant] if costs[variant]["status"] == "done" else {}
        name = names[row["id"]].rpartition(", seed ")[0]
        tags = {"level": name, **levels[variant], "id": row["id"], "variant": variant}
        tags |= {key: _write(row[key]) for key in _TAGGED if row.get(key) not in (None, "")}
        yield TrackedRun(
            id=row["id"],
            name=names[row["id"]],
            level=name,
            status=row["status"],
            params={**fields, "seed": row["seed"]},
            tags={**tags, **_take_texts(own), **_describe_cost(cost)},
            metrics=_take_numbers(own) | _take_numbers({key: cost.get(key) for key in COSTS}),
            curve=_list_epochs(frames.history.iloc[places[place]]) if place in places else (),
            seconds=row.get("seconds", 0.0),
            ended=_find_end(frames.folder, row["id"]),
        )


def count_runs(frames: Frames) -> tuple[int, dict[str, int]]:
    """Returns how many runs are copied, and by status how many are not."""
    left = {status: number for status, number in Counter(frames.runs.status).items() if status in NOT_EXPORTED}
    return len(frames.runs) - sum(left.values()), left


def describe_metric(key: str) -> str:
    """Returns what a measure is, with its unit unless its name tells it; an empty text for an unknown one.

    >>> describe_metric("test_accuracy")
    'Test accuracy, %: share of test images classified rightly, after the last epoch'
    """
    metric = METRICS.get(key)
    if metric is None:
        return ""
    unit = f", {metric.unit}" if metric.unit and metric.scale == 1 else ""
    return f"{metric.label}{unit}: {metric.meaning}"


def pack(value: Any) -> str | float | bool:
    """Returns a value of a configuration as text, number or boolean: lists are written as JSON."""
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)


_TAGGED = ("status", "reason", "data", *ENVIRONMENT)
_KNOWN = {"variant", "seed", "id", *_TAGGED, *PACKED}


def _list_rows(frame: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """Yields the rows of a frame as dictionaries of Python's values, without those that are missing."""
    names = [*map(str, frame.columns)]
    for values in frame.astype(object).where(frame.notna(), None).itertuples(index=False, name=None):
        yield {name: value for name, value in zip(names, values, strict=True) if value is not None}


def _take_numbers(row: Mapping[str, Any]) -> Values:
    return {key: float(value) for key, value in row.items() if isinstance(value, int | float)}


def _take_texts(row: Mapping[str, Any]) -> dict[str, str]:
    return {key: value for key, value in row.items() if isinstance(value, str) and value}


def _write(value: Any) -> str:
    """Returns a value as text. Whole numbers stay whole where pandas made them real numbers."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _list_epochs(history: pd.DataFrame) -> tuple[Epoch, ...]:
    """Returns the learning curve of a run. The seconds of an epoch are named as in the records, `epoch_seconds`."""
    rows = [*_list_rows(history.drop(columns=["variant", "seed"]).rename(columns={"seconds": "epoch_seconds"}))]
    left = sum(row["epoch_seconds"] for row in rows)
    epochs = []
    for row in rows:
        left -= row["epoch_seconds"]
        number = int(row.pop("epoch"))
        epochs.append(Epoch(number, max(0.0, left), _take_numbers(row)))
    return tuple(epochs)


def _describe_cost(cost: Mapping[str, Any]) -> dict[str, str]:
    """Returns the machine and the code that measured a cost, and what disturbed it."""
    made = {f"cost.{key}": cost.get(key) for key in ("device_name", "commit")}
    return _take_texts(made | {each.disturbed: cost.get(each.disturbed) for each in COSTS.values() if each.disturbed})


def _find_end(folder: Path, job: str) -> float:
    """Returns the date of a record's file or, for a job without one, of the newest note of its failure."""
    path = folder / "records" / f"{job}.json"
    paths = [path] if path.exists() else [*(folder / "attempts").glob(f"{job}-*.json")]
    return max((each.stat().st_mtime for each in paths), default=0.0)

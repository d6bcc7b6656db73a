"""Measurements that other load disturbed, by what their records say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ablations.metrics import METRICS
from ablations.storage import records

_FIELDS = [metric.disturbed for metric in METRICS.values() if metric.timed]


def describe_disturbance(record: Mapping[str, Any]) -> str:
    """Returns why a cost or a comparison of speed is not to be trusted; empty if nothing disturbed it.

    It is the reason for its first measure of time that has one. A training has none.
    """
    measured = record["measured"]
    if record["kind"] == "speed":
        found = [describe_rounds(field, measured["rounds"]) for field in _FIELDS]
    else:
        found = [measured.get(field) or "" for field in _FIELDS] if record["kind"] == "cost" else []
    return next(filter(None, found), "")


def describe_rounds(field: str, rounds: Sequence[Mapping[str, Any]]) -> str:
    """Returns what disturbed a measure in at least half of the rounds: fewer only widen the interval of the median."""
    found = [each["base"][field] or each["level"][field] for each in rounds]
    reasons = [reason for reason in found if reason]
    if 2 * len(reasons) < len(rounds):
        return ""
    return f"{len(reasons)} of {len(rounds)} rounds were disturbed, for example: {reasons[0]}"


def list_disturbed(folder: Path, jobs: Iterable[str]) -> list[str]:
    """Lists those of the jobs whose record in a results folder is a disturbed measurement."""
    found = []
    for job in jobs:
        with suppress(FileNotFoundError, records.Damaged):
            if describe_disturbance(records.read(folder / "records" / f"{job}.json")):
                found.append(job)
    return found

"""The state of every job of a results folder, without its results: what `ablate status` tells. It needs no pandas."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ablations.metrics import count_of
from ablations.report.mixing import MIXED, Source, find_mixed, read_source
from ablations.storage import records
from ablations.storage.manifest import Fields, Manifest

UNTUNED = "untuned"
"""The status of a run whose variant's tuning failed. It has no configuration, so it cannot be trained."""

State = tuple[str | None, str, str]
"""A job's id, its status, and the reason of its failure."""


@dataclass(frozen=True)
class Survey:
    """The state of every job of a results folder, without its results: it is small, and read fast."""

    manifest: Manifest
    states: dict[str, list[State]]
    """The states by kind: tuning, runs, costs, speeds, as `Frames.jobs` has them."""

    made_by: Counter[tuple[Any, Any]]
    """How many of them were made by each commit and fingerprint."""

    damaged: tuple[Path, ...]
    others: tuple[Fields, ...]
    """The records of jobs that the grid does not have, with id, kind and config."""

    def find_causes(self) -> list[dict[str, Any]]:
        """Returns the failures by status and reason, as the function `find_causes` does."""
        trials = [state for state in self.states.get("tuning", []) if state[1] != "diverged"]
        parts = (self.states["costs"], self.states.get("speeds", []), trials, self.states["runs"])
        return group_causes(self.manifest, [state for part in parts for state in part])


def survey(folder: Path) -> Survey:
    """Reads the state of every job of a results folder. Raises NotResults if it has no results."""
    manifest = Manifest.read(folder)
    planned, made, others, damaged = {job.id for job in manifest.jobs}, {}, [], []
    sources: list[Source] = []
    for found in records.iterate(folder):
        if found.record is None:
            damaged.append(found.path)
        elif found.record["id"] in planned:
            sources += filter(None, [read_source(found.record)])
            made[found.record["id"]] = tuple(found.record["environment"].get(key) for key in ("commit", "fingerprint"))
        else:
            others.append({key: found.record[key] for key in ("id", "kind", "config")})
    attempts, untuned, mixed = records.load_attempts(folder), find_untuned(manifest), find_mixed(sources)

    def find_state(job: str | None, variant: str = "") -> State:
        if variant in untuned:
            return job, untuned[variant]["status"], untuned[variant]["reason"]
        if job in mixed:
            return job, MIXED, mixed[job]
        if job in made or job not in attempts:
            return job, "done" if job in made else "missing", ""
        return job, attempts[job][-1]["status"], attempts[job][-1]["reason"]

    costs = dict.fromkeys((each.cost, "" if each.cost else name) for name, each in manifest.variants.items())
    states = {
        "tuning": [
            find_state(trial)
            for trial in dict.fromkeys(
                each for one in manifest.tuning for part in one.candidates for each in part.trials
            )
        ],
        "runs": [find_state(job.id, job.variant) for job in manifest.jobs if job.kind == "run"],
        "costs": [find_state(cost, variant) for cost, variant in costs],
        "speeds": [find_state(job) for job in dict.fromkeys(level.speed for level in manifest.levels()) if job],
    }
    states = {kind: found for kind, found in states.items() if found or kind in ("runs", "costs")}
    by = Counter(made[job] for found in states.values() for job, status, _ in found if job and status == "done")
    return Survey(manifest, states, by, tuple(damaged), tuple(others))


def find_untuned(manifest: Manifest) -> dict[str, Fields]:
    """Returns status and reason of the runs of each variant whose tuning failed."""
    reasons = {entry.variant: entry.reason for entry in manifest.tuning if entry.status == "failed"}
    return {
        level.variant: {"status": UNTUNED, "reason": reasons[level.tuned_as]}
        for level in manifest.levels()
        if level.tuned_as in reasons
    }


def group_causes(manifest: Manifest, states: Iterable[State]) -> list[dict[str, Any]]:
    """Returns the failures among these states by status and reason, each with its jobs."""
    names = {job.id: f"{job.kind} {job.name}" for job in manifest.jobs}
    found: dict[tuple[str, str], dict[str, None]] = {}  # variants may share a cost: its job appears once
    for job, status, reason in states:
        if job and status not in ("done", "missing"):
            found.setdefault((status, reason), {})[names[job]] = None
    return [{"status": status, "reason": reason, "jobs": list(jobs)} for (status, reason), jobs in found.items()]


def describe_others(others: Sequence[Fields], manifest: Manifest) -> list[str]:
    """Returns what the records of jobs that the grid does not have are, and what to do with them."""
    known = set(manifest.variants)
    seeds, rest = set(), Counter[str]()
    for record in others:
        fields = dict(record["config"])
        seed = fields.pop("seed", None)
        if record["kind"] == "run" and seed is not None and records.identity(fields) in known:
            seeds.add(seed)
        else:
            rest[record["kind"]] += 1
    told = []
    if seeds:
        every = ",".join(map(str, sorted({*seeds, *manifest.seeds})))
        runs = count_of(len(others) - rest.total(), "record of a run", "records of runs")
        told.append(f"{runs} with other seeds than the grid's: `--seeds {every}` includes these seeds")
    counted = ", ".join(f"{number} {kind}" for kind, number in sorted(rest.items()))
    if counted:
        told.append(
            f"records of jobs that this grid does not have ({counted}): they count again for a grid that has them, and "
            "costs and speeds on the machine that measured them"
        )
    return told


def list_retryable(found: list[dict[str, Any]]) -> list[str]:
    """Returns the statuses of these failures for `--retry`.

    `untuned` runs follow from their trials, and `mixed` results are no failures of jobs.
    """
    return sorted({cause["status"] for cause in found} - {UNTUNED, MIXED})

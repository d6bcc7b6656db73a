"""The choice of values for each tuned variant, from the records of its trials: only by validation accuracy.

A candidate is one combination of the values that a grid lists. A trial is a training with a candidate and a seed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from ablations.config import TrainConfig, Tuning
from ablations.grid.model import Choice, Grid, Job, list_trials

Records = Mapping[str, Mapping[str, Any]]


def choose(grid: Grid, records: Records, attempts: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Choice]:
    """Returns the choice for each tuned variant, by its id.

    The candidate with the highest mean validation accuracy is chosen. If several have the same mean, the one whose
    values are nearest to the base's is chosen. A candidate that diverged cannot be chosen. If a trial failed in another
    way, or if all candidates diverged, there is no choice.
    """
    failures = {job: notes[-1] for job, notes in attempts.items() if job not in records}
    return {
        name: _choice(grid.base.train, variant.tuning, list_trials(grid, name), records, failures)
        for name, variant in grid.tuned.items()
        if variant.tuning is not None
    }


def _choice(base: TrainConfig, tuning: Tuning, trials: Sequence[Job], records: Records, failures: Records) -> Choice:
    candidates, seeds = tuning.candidates(), len(tuning.seeds)
    accuracies = [
        _mean_accuracy(trials[place * seeds : (place + 1) * seeds], records) for place in range(len(candidates))
    ]
    broken = [job for job in trials if job.id in failures and failures[job.id]["status"] != "diverged"]
    if broken:
        note = failures[broken[0].id]
        return Choice("failed", reason=f"its tuning failed ({broken[0].name}: {note['status']}, {note['reason']})")
    if any(job.id not in records and job.id not in failures for job in trials):
        return Choice("missing")
    possible = [place for place, accuracy in enumerate(accuracies) if accuracy is not None]
    if not possible:
        return Choice("failed", reason="its tuning failed (every candidate diverged)")
    best = min(possible, key=lambda place: (-(accuracies[place] or 0.0), _distance(base, candidates[place]), place))
    return Choice("chosen", candidates[best])


def _mean_accuracy(trials: Sequence[Job], records: Records) -> float | None:
    """Returns the mean validation accuracy of a candidate's trials, in %; None if a trial has no result."""
    if any(job.id not in records for job in trials):
        return None
    found = [records[job.id]["deterministic"]["validation_accuracy"] for job in trials]
    return round(statistics.fmean(found), 9)  # removes rounding errors of the sum


def _distance(base: TrainConfig, candidate: Mapping[str, Any]) -> float:
    """Returns the distance of a candidate from the base: the sum over its fields."""
    return sum(_apart(getattr(base, name), value) for name, value in candidate.items())


def _apart(base: Any, value: Any) -> float:
    """Returns the distance of two values: for positive numbers, the logarithm of their ratio.

    If the base is 0, the distance is the absolute value; in other cases without a logarithm, it is above 1000. For
    values that are not numbers it is 0 if they are equal, else 1.
    """
    if any(isinstance(each, bool) or not isinstance(each, int | float) for each in (base, value)):
        return float(value != base)
    if base > 0 and value > 0:
        return abs(math.log(value / base))
    return float(abs(value)) if base == 0 else 1000.0 + abs(value - base)

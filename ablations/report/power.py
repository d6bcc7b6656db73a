"""How large a change a grid will find, and how many seeds its margin needs: told before anything is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

import numpy as np

from ablations.metrics import count_of
from ablations.report.effects import list_contrasts
from ablations.report.results import Results
from ablations.report.statistics import POWER_WITHIN, Estimate, Family, Part, count_seeds, find_smallest
from ablations.storage.manifest import Manifest, StudyEntry


@dataclass(frozen=True)
class Spread:
    """How much accuracies vary."""

    seeds: float
    """The standard deviation of the accuracy over the seeds, in points."""

    images: float
    """The standard error that the choice of the test images gives to a difference, in points; 0 if it is unknown."""

    source: str
    """Where these numbers are from: `stated`, `12 earlier runs`."""


@dataclass(frozen=True)
class Forecast:
    """What a study will be able to find."""

    study: str
    comparisons: int
    seeds: int
    """The smallest number of seeds of its levels."""

    smallest: float | None
    """The smallest true change of a level that is found in about four cases of five, in points; None with one seed."""

    margin: float | None
    seeds_for_margin: float | None
    """The seeds with which a true change of 0 is found to be within the margin in about four cases of five; None if
    there is no margin, infinite if a thousand do not suffice."""

    spread: Spread


def measure_spread(results: Results, study: str) -> Spread | None:
    """Returns how much the finished runs of a study vary, or those of all studies if it has none; None without any."""
    known = [each for each in results.studies if each.conclusions.seed_sd is not None]
    used = [each.conclusions for each in known if each.name == study] or [each.conclusions for each in known]
    if not used:
        return None
    sd, image_error = (median([getattr(each, key) for each in used]) for key in ("seed_sd", "image_error"))
    runs = used[0].runs if len(used) == 1 else int((results.frames.runs.status == "done").sum())
    return Spread(sd, image_error, f"{runs} earlier runs")


def foresee(plan: Manifest, earlier: Results | None, sd: float | None) -> list[Forecast]:
    """Foresees what the studies of a plan will find, from a stated standard deviation or from earlier runs.

    A study is left out if neither is known, or if it has nothing to compare.
    """
    found = []
    for study in plan.studies:
        spread = Spread(sd, 0.0, "stated") if sd is not None else earlier and measure_spread(earlier, study.name)
        if spread and len(study.levels) > 1:
            found.append(_foresee_study(study, spread))
    return found


def _foresee_study(study: StudyEntry, spread: Spread) -> Forecast:
    comparisons, seeds = len(study.levels) - 1 + len(list_contrasts(study)), len(study.seeds)
    family = Family(np.full((comparisons, comparisons), 0.5) + 0.5 * np.eye(comparisons))  # all share the base

    def foresee_level(number: int) -> Estimate:
        over_seeds = Part(2 * spread.seeds**2 / number, len(study.levels) * (number - 1))
        return Estimate(0.0, over_seeds, Part(spread.images**2, 1000.0), Part(0.0, 1.0))

    margin = study.margin or None
    return Forecast(
        study.name,
        comparisons,
        seeds,
        find_smallest(foresee_level(seeds), family) if seeds > 1 else None,
        margin,
        count_seeds(foresee_level, family, margin, POWER_WITHIN) if margin else None,
        spread,
    )


def describe_forecast(each: Forecast) -> str:
    """Returns `layer_order: 3 seeds would find a change of 0.9 points in about four cases of five ...`."""
    number = count_of(each.comparisons, "comparison")
    if each.smallest is None:
        text = f"{each.study}, {number}: 1 seed finds nothing, because two or more give an interval"
    else:
        size = count_of(f"{each.smallest:.2g}", "point")
        text = f"{each.study}, {number}: {each.seeds} seeds would find a change of {size} in about four cases of five"
    if each.seeds_for_margin:
        enough = not math.isinf(each.seeds_for_margin)
        many = f"{each.seeds_for_margin} seeds" if enough else "more than 1000 seeds, or more test images"
        text += f"; to show that a change is within the margin of {each.margin:g} takes {many}"
    beside = "" if each.spread.images else ", on these test images: the choice of images adds to it"
    return f"{text} (sd {each.spread.seeds:.2g}, {each.spread.source}{beside})."

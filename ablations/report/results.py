"""The results of every study, level by level. They are computed once, and all reports read them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from ablations.metrics import BESIDE_ACCURACY, COSTS, METRICS, level_text
from ablations.report.comparison import (
    COLUMNS,
    Conclusions,
    Effect,
    Runs,
    Verdict,
    collect_runs,
    conclude,
    make_effects_frame,
)
from ablations.report.effects import list_contrasts
from ablations.report.errors import LevelErrors, compare_errors, make_errors_frame
from ablations.report.frames import Frames, describe_arithmetic, find_base, find_edges, list_tuned_fields, select_study
from ablations.report.statistics import compute_half_interval
from ablations.storage.manifest import Fields, Match, StudyEntry

OVERALL = "overall"
"""The name of the table over all variants."""

CHECKPOINT = "model.checkpoint"
"""The axis of studies that trade memory against time."""


@dataclass(frozen=True)
class CostResult:
    """The cost of a level in one measure. NaN means unknown."""

    value: float
    change: float
    """The cost relative to the base's, minus 1: `0.5` is 50 % more. For a measure of time it is the median over rounds
    that measured both in turn; NaN if there are none, or if they were disturbed."""

    low: float
    """The lower end of the interval of the change of a measure of time; NaN for other costs, which repeat exactly."""

    high: float
    spread: float
    """Relative interquartile range over repeated steps."""

    disturbed: bool

    @property
    def unchanged(self) -> bool:
        """Whether the interval of the change contains 0."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True)
class RunResult:
    """What the runs of a level give in one measure; NaN stands for what is not known."""

    mean: float
    sd: float


@dataclass(frozen=True)
class PublishedResult:
    """A level's test error in %, and its published one. NaN means unknown."""

    error: float
    low: float
    """The lower end of the 95 % t interval over the seeds."""

    high: float
    stated: float
    position: str
    """The position of the published error: `within`, `below` or `above` the interval, `no interval`, or empty."""


@dataclass(frozen=True)
class LevelResult:
    """One level of a study. Accuracies are in %, their changes in points. NaN means unknown."""

    level: str
    phrase: str
    """The name of the level within a sentence: `growth_rate 12`."""

    variant: str
    is_base: bool
    values: Fields
    """The fields that the level sets; empty in the table over all variants."""

    n: int
    """The number of finished seeds."""

    not_done: Mapping[str, int]
    """The number of runs by each other status."""

    lost: int
    """The number of runs that ended without a result."""

    images: int
    """The number of test images; 0 if it is unknown."""

    mean: float
    worst_mean: float
    """The mean accuracy if the lost runs count as 0 %."""

    sd: float
    difference: float
    """The change of the mean against the base, with its simultaneous 95 % interval from `low` to `high`."""

    low: float
    high: float
    p: float
    p_corrected: float
    smallest_difference: float
    """The smallest true difference that these runs would find in four cases of five."""

    seeds_for_change: float
    seeds_for_margin: float
    verdict: Verdict
    made_otherwise: tuple[str, ...]
    """What made these runs and not the base's: `commit 0123456789ab`, `torch 2.14.0`."""

    beside: Mapping[str, RunResult]
    """Other measures of the runs, by the names of METRICS."""

    cost_status: str
    costs: Mapping[str, CostResult]
    """By the names of METRICS."""

    doubt: str
    """Why its MACs may be wrong: `counters disagree`, `not counted: SCAN`; empty if nothing is known."""

    frozen: int
    """Parameters that are not trained, which `params` leaves out."""

    chosen: Fields
    """The values that tuning chose, by field: `{"train.learning_rate": 0.1}`."""

    edges: frozenset[str]
    """The fields whose chosen value is the least or the greatest of its list."""

    published: PublishedResult | None
    """None if the study has no published errors."""

    match: Match | None


@dataclass(frozen=True)
class StudyResult:
    """One study, or all variants as one study."""

    name: str
    question: str
    frames: Frames
    """The frames of this study only."""

    entry: StudyEntry | None
    """The study in the plan; None for all variants."""

    numbers: pd.DataFrame
    """A row per level: accuracy statistics, costs, `<cost>_change`, chosen values, published errors."""

    levels: tuple[LevelResult, ...]
    """The same as typed objects."""

    conclusions: Conclusions
    """What the runs tell of its levels, and of the main effects and interactions of a product."""

    margin: float | None
    """The largest difference, in points, that does not matter to the reader; None if none is stated."""

    tuned: tuple[str, ...]
    """The tuned fields of its levels."""

    errors: tuple[LevelErrors, ...] = ()
    """For each level, how far it errs as the base does; empty if no level can be compared."""

    @property
    def part(self) -> str:
        """The images that the accuracies are of: `test`, or `validation` in a study that chooses on them."""
        return self.frames.part

    @property
    def accuracy(self) -> str:
        """The name of the accuracy in METRICS."""
        return f"{self.part}_accuracy"

    @property
    def base(self) -> LevelResult:
        """The level that all others are compared with."""
        return next(level for level in self.levels if level.is_base)

    @property
    def others(self) -> list[LevelResult]:
        """All levels except the base."""
        return [level for level in self.levels if not level.is_base]

    @property
    def beside(self) -> list[str]:
        """The measures of runs, beside the accuracy, that any of its records has."""
        return [key for key in BESIDE_ACCURACY if key in self.numbers]

    @property
    def effects(self) -> tuple[Effect, ...]:
        """Main effects and interactions of a product study; empty for other studies."""
        return self.conclusions.effects

    def find_numbers(self, kind: str) -> pd.DataFrame:
        """Returns the numbers of a table that stands beside the study's own: `effects` or `errors`."""
        return make_effects_frame(self.effects) if kind == "effects" else make_errors_frame(self.errors)


@dataclass(frozen=True)
class Results:
    """All results of a results folder."""

    frames: Frames
    studies: tuple[StudyResult, ...]
    overall: StudyResult
    """Every variant once, by the first level that has it; the base first. Their changes are not tested."""

    def study(self, name: str) -> StudyResult:
        """Returns the study of this name. Raises KeyError."""
        return {study.name: study for study in self.studies}[name]


def analyse(frames: Frames) -> Results:
    """Computes every study of a results folder, and all variants as one study."""
    return Results(
        frames, tuple(_analyse_study(frames, entry) for entry in frames.manifest.studies), _analyse_all(frames)
    )


def _analyse_study(frames: Frames, entry: StudyEntry) -> StudyResult:
    own = select_study(frames, entry.name)
    levels = frames.studies[frames.studies.study == entry.name]
    tuned = list_tuned_fields(frames, entry.name)
    conclusions = conclude(levels, own.runs, list_contrasts(entry), entry.margin)
    numbers = _collect_numbers(own, conclusions.levels, tuned)
    stated = {level.label: level.published for level in entry.levels}
    if any(error is not None for error in stated.values()):
        rows = [_compare_published(row, stated.get(row["level"])) for row in numbers.to_dict("records")]
        numbers = pd.concat([numbers, pd.DataFrame(rows)], axis=1)
    runs = collect_runs(own.runs)
    results = _read_levels(numbers, own, runs, tuned, find_edges(frames, entry.name), entry)
    errors = compare_errors([(level.level, level.is_base, runs[level.variant]) for level in results])
    return StudyResult(
        entry.name, entry.question, own, entry, numbers, results, conclusions, entry.margin, tuple(tuned), errors
    )


def _analyse_all(frames: Frames) -> StudyResult:
    levels, base = frames.studies, find_base(frames)
    levels = levels.assign(is_base=levels.variant == base).drop_duplicates("variant")
    levels = levels.assign(level=levels.level.where(levels.is_base, levels.study + " " + levels.level))
    levels = levels.sort_values("is_base", ascending=False, kind="stable")
    tuned = list_tuned_fields(frames)
    conclusions = conclude(levels, frames.runs, test=False)  # changes are judged within the studies
    numbers = _collect_numbers(frames, conclusions.levels, tuned)
    results = _read_levels(numbers, frames, collect_runs(frames.runs), tuned, find_edges(frames), None)
    question = "What does every variant cost, and what does it buy?"
    return StudyResult(OVERALL, question, frames, None, numbers, results, conclusions, None, tuple(tuned))


def _collect_numbers(frames: Frames, levels: pd.DataFrame, tuned: list[str]) -> pd.DataFrame:
    """Adds costs, their changes and chosen values to the accuracies: a row per level."""
    beside = [
        *(metric.spread for metric in COSTS.values() if metric.spread),
        *(metric.disturbed for metric in COSTS.values() if metric.disturbed),
        *(name for name in ("uncounted", "params_total") if name in frames.costs),
    ]
    costs = frames.costs.reindex(columns=["variant", "status", *COSTS, *beside, "counters_agree"])
    costs = costs.rename(columns={"status": "cost_status"})
    base_id = levels.loc[levels.is_base, "variant"].iloc[0]
    numbers = levels
    for found in (_summarise_beside(frames.runs), costs, _collect_ratios(frames, base_id)):
        numbers = numbers.merge(found, on="variant", how="left")
    base = numbers[numbers.is_base].iloc[0]
    for key, metric in COSTS.items():
        numbers[key] = numbers[key].astype(float)
        if not metric.timed:
            numbers[f"{key}_change"] = numbers[key] / float(math.nan if base[key] is None else base[key]) - 1
    return numbers.merge(frames.variants[["variant", *tuned]], on="variant", how="left") if tuned else numbers


def _collect_ratios(frames: Frames, base: str) -> pd.DataFrame:
    """Returns the change of each measure of time against the base and its interval, by variant.

    A disturbed comparison has none.
    """
    pairs = frames.speeds[frames.speeds.base == base]
    found = {"variant": pairs.variant}
    for key, metric in COSTS.items():
        if metric.timed:
            calm = ~pairs[f"{key}_disturbed"].map(lambda reasons: isinstance(reasons, str) and reasons != "")
            for name, part in {"change": "ratio", "change_low": "low", "change_high": "high"}.items():
                found[f"{key}_{name}"] = (pairs[f"{key}_{part}"].astype(float) - 1).where(calm)
    return pd.DataFrame(found)


def _summarise_beside(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean and standard deviation (ddof = 1) of each other measure of the runs that any of them has, by variant."""
    done = runs[runs.status == "done"]
    found = {"variant": runs.variant.drop_duplicates()}
    for key in (key for key in BESIDE_ACCURACY if key in done):
        values = done[key].astype(float)
        if values.notna().any():
            of_variant = values.groupby(done.variant)
            found |= {key: found["variant"].map(of_variant.mean()), f"{key}_sd": found["variant"].map(of_variant.std())}
    return pd.DataFrame(found)


def _read_levels(
    numbers: pd.DataFrame,
    frames: Frames,
    runs: Mapping[str, Runs],
    tuned: list[str],
    edges: set[tuple[str, str]],
    entry: StudyEntry | None,
) -> tuple[LevelResult, ...]:
    """Converts the rows of a study's numbers to typed objects, and adds the plan's values of each level."""
    planned = {level.label: level for level in entry.levels} if entry else {}
    base = next(row["variant"] for row in numbers.to_dict("records") if row["is_base"])
    made = _describe_origins(frames.runs)
    keys = ("level", "variant", "is_base", "n", "lost", "mean", "sd", *COLUMNS, "cost_status")
    found = []
    for row in numbers.to_dict("records"):
        level = planned.get(row["level"])
        found.append(
            LevelResult(
                **{key: row[key] for key in keys},
                phrase=phrase_level(row["level"], {axis: level.values.get(axis) for axis in entry.axes})
                if level and entry
                else row["level"],
                values=level.values if level else {},
                not_done=runs[row["variant"]].not_done,
                images=runs[row["variant"]].test_set[1],
                worst_mean=runs[row["variant"]].worst_mean,
                made_otherwise=_list_others(made.get(row["variant"]), made.get(base)),
                beside={key: RunResult(row[key], row[f"{key}_sd"]) for key in BESIDE_ACCURACY if key in row},
                costs={key: _read_cost(row, key) for key in COSTS},
                frozen=_count_frozen(row.get("params_total"), row["params"]),
                doubt=_describe_doubt(row.get("uncounted"), row["counters_agree"]),
                chosen={field: row[field] for field in tuned if not pd.isna(row[field])},
                edges=frozenset(field for field in tuned if (row["variant"], field) in edges),
                published=_read_published(row),
                match=level.match if level else None,
            )
        )
    return tuple(found)


def _list_others(own: list[str] | None, base: list[str] | None) -> tuple[str, ...]:
    """Lists what made a level's runs and not the base's; nothing if one of them has no runs."""
    return tuple(each for each in own or () if base and each not in base)


def _count_frozen(total: Any, trained: float) -> int:
    return 0 if total is None or pd.isna(total) or math.isnan(trained) else int(total - trained)


def _describe_doubt(uncounted: object, counters_agree: object) -> str:
    if isinstance(uncounted, str):
        return f"not counted: {uncounted}"
    return "counters disagree" if counters_agree is False else ""


def _describe_origins(runs: pd.DataFrame) -> dict[str, list[str]]:
    """Returns by variant what made its finished runs: devices, vector instructions, torch versions, and commits.

    Commits with the same fingerprint of the code count as one.
    """
    columns = ["variant", "device_name", "arithmetic", "torch", "commit", "fingerprint"]
    done = runs[runs.status == "done"].reindex(columns=columns)
    same = done.drop_duplicates("fingerprint").set_index("fingerprint").commit
    done = done.assign(
        commit=done.fingerprint.map(same), arithmetic=done.arithmetic.map(describe_arithmetic, na_action="ignore")
    )
    words = {"device_name": "device ", "arithmetic": "", "torch": "torch ", "commit": "commit "}
    return {
        str(variant): [f"{word}{each}" for column, word in words.items() for each in part[column].dropna().unique()]
        for variant, part in done.groupby("variant", sort=False)
    }


def phrase_level(label: str, values: Fields) -> str:
    """Returns the name of a level within a sentence, from its label and its values on the study's axes.

    `conv-norm-act`, but `growth_rate 8`; in quotation marks if it contains a comma.
    """
    if label == ", ".join(map(level_text, values.values())):
        label = ", ".join(
            f"{axis.rpartition('.')[2]} {level_text(value)}" if len(values) > 1 or _needs_axis(value) else str(value)
            for axis, value in values.items()
        )
    return f"“{label}”" if "," in label else label


def _needs_axis(value: object) -> bool:
    """Returns whether a value needs the name of its axis to be understood: a number, a list, `none`."""
    return not isinstance(value, str) or value in ("none", "true", "false")


def mark_base(level: str, is_base: bool) -> str:
    """Returns a level's label, with a mark on the base."""
    return f"{level} (base)" if is_base and level != "base" else level


def _read_cost(row: Mapping[Any, Any], key: str) -> CostResult:
    metric = METRICS[key]
    spread, flag = row.get(metric.spread), row.get(metric.disturbed)
    return CostResult(
        row[key],
        row[f"{key}_change"],
        row.get(f"{key}_change_low", math.nan),
        row.get(f"{key}_change_high", math.nan),
        math.nan if spread is None else spread,
        isinstance(flag, str) and flag != "",
    )


def _compare_published(row: Mapping[Any, Any], stated: float | None) -> dict[str, Any]:
    """Returns a level's test error with the 95 % t interval over its seeds, and the position of the published error."""
    error, half = 100 - row["mean"], compute_half_interval(row["sd"], row["n"])
    half = math.nan if row["sd"] <= 1e-9 else half  # equal seeds do not show how far others would vary
    low, high = float(np.clip(error - half, 0, 100)), float(np.clip(error + half, 0, 100))  # NaN stays NaN
    if stated is None:
        where = ""
    elif math.isnan(half):
        where = "no interval"
    else:
        near = [round(number, 9) for number in (low, stated, high)]  # equal seeds give an interval of one number
        where = "within" if near == sorted(near) else "below" if stated < low else "above"
    known = math.nan if stated is None else float(stated)
    return {"error": error, "error_low": low, "error_high": high, "published_error": known, "published_is": where}


def _read_published(row: Mapping[Any, Any]) -> PublishedResult | None:
    columns = ("error", "error_low", "error_high", "published_error", "published_is")
    return PublishedResult(*(row[name] for name in columns)) if "published_error" in row else None

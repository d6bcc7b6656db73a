"""Converts `tune` tables to tunings, and applies them to levels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Literal

from pydantic import ValidationError

from ablations.config import TrainConfig, Tuning
from ablations.grid.model import Level, Study
from ablations.grid.problems import NOTHING, Findings, describe, quote
from ablations.grid.schema import TUNE_OF_A_STUDY, TuneTable
from ablations.grid.variants import ALTERNATIVES, VariantReader, lay_over

UNTUNABLE = ("keep_weights", "checkpoint_seconds", "test_curve", "evaluation_interval")
"""Fields of a training that do not change its result."""


def count_trials(table: TuneTable | Literal["base", False] | None) -> int:
    """Returns how many trainings a `tune` table needs for one variant; 0 for anything else."""
    if not isinstance(table, TuneTable):
        return 0
    return len(table.seeds) * math.prod(len(values) for values in table.train.values() if isinstance(values, list))


def read_seeds(findings: Findings, where: str, seeds: Sequence[int]) -> tuple[int, ...]:
    """Returns the seeds without repetitions. Adds a note if a seed is listed twice."""
    unique = tuple(dict.fromkeys(seeds))
    if len(unique) < len(seeds):
        findings.notes.append(f"{where} are listed more than once and count once: {list(unique)}")
    return unique


def read_tuning(variants: VariantReader, prefix: str, table: TuneTable) -> Tuning | None:
    """Reads the tuning of a table, and checks each of its values together with the base.

    Returns None if it is not valid.
    """
    findings, base = variants.findings, variants.base["train"]
    axes = {name: values for name, values in table.train.items() if isinstance(values, list)}
    schedule = {name: value for name, value in table.train.items() if name not in axes}
    for name in ("keep_weights", "test_curve"):
        if name in schedule:
            rule = "a trial keeps no weights and has no test images"
            findings.add(f"{prefix}.train.{name}", schedule[name], rule)
    for name, values in axes.items():
        if name in UNTUNABLE:
            rule = "cannot be tuned: it does not change the result"
            findings.add(f"{prefix}.train.{quote(name)}", values, rule)
        for value in values:
            own = {name: value}
            variants.check(TrainConfig, f"{prefix}.train", lay_over(base, {**schedule, **own}), own)
    variants.check(TrainConfig, f"{prefix}.train", lay_over(base, schedule), schedule)
    if math.prod(map(len, axes.values())) < 2 and not findings.has(f"{prefix}.train"):
        rule = "needs lists of train.* to choose from, two values or more in all: train.learning_rate = [0.03, 0.1]"
        findings.add(prefix, NOTHING, rule)
    if findings.has(prefix):
        return None
    listed = tuple((name, tuple(values)) for name, values in axes.items())
    seeds = read_seeds(findings, f"{prefix}.seeds", table.seeds)
    return Tuning(listed, seeds, float(table.validation), tuple(schedule.items()))


def read_study_tuning(
    variants: VariantReader,
    prefix: str,
    own: TuneTable | Literal["base", False] | None,
    common: Tuning | None,
) -> tuple[Tuning | None, bool]:
    """Returns the tuning of a study's levels, and whether they follow the base."""
    if isinstance(own, TuneTable):
        return read_tuning(variants, f"{prefix}.tune", own), False
    if own == "base" and common is None and not variants.findings.has("tune"):
        variants.findings.add(f"{prefix}.tune", own, TUNE_OF_A_STUDY)
    return None if own is False else common, own == "base"


def tune_level(variants: VariantReader, prefix: str, level: Level, tuning: Tuning | None, follows: bool) -> Level:
    """Returns the level with its tuning, or as one that follows the base. Reports problems."""
    if tuning is None:
        return level
    chosen = [name for name, _ in tuning.axes]
    chosen += [ALTERNATIVES[name] for name in chosen if name in ALTERNATIVES]
    fixed = [name for name, _ in tuning.schedule if name not in ("epochs", "steps")]  # trials may be shorter than runs
    for name in (each for each in (*chosen, *fixed) if f"train.{each}" in level.values):
        does = "chooses" if name in chosen else "fixes for its trials"
        rule = f"level {level.label} sets what tune {does}: give the study tune = false, or a tune of its own"
        variants.findings.add(f"{prefix}.train.{name}", level.values[f"train.{name}"], rule)
        return level
    if not _check_candidates(variants, prefix, level, tuning):
        return level
    return replace(level, variant=replace(level.variant, tuning=tuning, follows_base=follows and not level.is_base))


def _check_candidates(variants: VariantReader, prefix: str, level: Level, tuning: Tuning) -> bool:
    """Returns whether the level can be trained with each candidate, in a trial and in a run. Reports problems."""
    for candidate in tuning.candidates():
        try:
            trained = (tuning.trial(level.variant, candidate), level.variant.settle(candidate))
        except ValidationError as error:
            where = f"{prefix} {level.label}, tuned with {candidate}"
            for detail in error.errors():
                variants.findings.add(where, NOTHING, describe(detail, TrainConfig.model_fields))
            return False
        for each, fields in zip(trained, ({**dict(tuning.schedule), **candidate}, candidate), strict=True):
            dataset = variants.load(f"{prefix}, tuned", each.data)
            if dataset is None or not variants.check_length(
                f"{prefix}.tune.train", each.train, fields, fields, dataset
            ):
                return False
            if not variants.check_batches(f"{prefix}.tune.train", each.model, each.train, dataset):
                return False
    return True


def keep_seeds_apart(findings: Findings, studies: Iterable[Study], common: Tuning | None) -> None:
    """Reports seeds that trials and runs share: the tuning would choose on a seed that is then part of the result."""
    studies = list(studies)
    reported = {seed for study in studies for seed in study.seeds}
    for study in studies:
        for tuning in dict.fromkeys(level.variant.tuning for level in study.levels):
            both = sorted(reported & set(tuning.seeds)) if tuning is not None else []
            if both:
                rule = f"study {study.name} is tuned with seeds that are reported too: give the tuning others"
                where = "tune.seeds" if tuning == common else f"study.{study.name}.tune.seeds"
                findings.add(where, both, rule)
    if common is not None and not any(level.variant.tuning == common for each in studies for level in each.levels):
        findings.notes.append("no study is tuned as [tune] says: each has a tune of its own, or tune = false")

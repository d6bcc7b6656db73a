"""Solves a field of a network so that a count comes nearest to a target."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache

from pydantic import ValidationError

from ablations.config import DataConfig, Variant
from ablations.grid.model import Level
from ablations.grid.schema import MatchTable
from ablations.grid.variants import VariantReader
from ablations.metrics import MATCHED
from ablations.storage.manifest import Match
from densenet import Config, count_macs, count_params

MATCHABLE = ("width", "growth_rate", "init_features")
"""Fields that never lower the number of parameters or of multiply-accumulates when they grow."""


UNREACHABLE = 25
"""The largest difference between count and target, in percent of the target, that counts as a match."""


def find_nearest(
    model: Config, key: str, target: int, count_of: Callable[[Config], int] = count_params
) -> tuple[Config, int]:
    """Finds the value of the field `key` for which the count comes nearest to `target`.

    Returns the model and its count.

    The count must not fall as the field grows. For a real field, the shortest decimal that gives this count is taken.
    """
    real = isinstance(getattr(model, key), float)

    def at(value: float) -> Config | None:
        try:
            return type(model).model_validate({**model.model_dump(), key: value if real else int(value)})
        except ValidationError:
            return None

    @cache
    def count(value: float) -> float:
        config = at(value)
        return math.inf if config is None else count_of(config)

    low: float = 1e-3 if real else 1
    high = low
    while count(high) < target:
        low, high = high, 2 * high
    while high - low > (1e-5 * high if real else 1):  # widths are rounded: steps of the count are above 0.007 apart
        middle = (low + high) / 2 if real else (low + high) // 2
        low, high = (middle, high) if count(middle) <= target else (low, middle)
    value = min((low, high), key=lambda candidate: abs(count(candidate) - target))
    if real:
        value = next(short for places in range(1, 16) if count(short := round(value, places)) == count(value))
    config = at(value)
    return (model, count_of(model)) if config is None else (config, int(count(value)))


def match_level(variants: VariantReader, where: str, level: Level, table: MatchTable, base: Variant) -> Level:
    """Solves the field that a `match` table names, and returns the new level. Reports what cannot be solved."""
    findings, measure, path = variants.findings, table.measure, table.path
    section, _, key = path.partition(".")
    model = level.variant.model
    numbers = [name for name in MATCHABLE if name in type(model).model_fields]
    if section != "model" or key not in numbers:
        allowed = ", ".join(f"model.{name}" for name in numbers) or "none: it has no such field"
        rule = f"must name a number of this model; allowed are {allowed}"
        findings.add(f"{where}.match.{measure}", path, rule)
        return level
    if path in level.values:
        findings.add(f"{where}.{path}", level.values[path], f"match solves {path}: leave one of them out")

    def count(config: Config, data: DataConfig = level.variant.data) -> int:
        dataset = variants.datasets[data]
        if measure == "params" or dataset is None:
            return count_params(config)
        return count_macs(config, dataset.image_size)

    try:
        target = table.target or count(base.model, base.data)
        solved, reached = find_nearest(model, key, target, count)
    except Exception as error:  # a network written elsewhere may raise anything
        findings.add(f"{where}.match.{measure}", path, f"cannot be counted: {type(error).__name__}: {error}")
        return level
    value, name = getattr(solved, key), MATCHED[measure]
    off = 100 * (reached - target) / target
    said = f"{path} = {value} comes nearest, with {reached:,}"
    if abs(off) > UNREACHABLE:
        findings.add(f"{where}.match.{measure}", path, f"{target:,} {name} are out of reach; {said}")
    elif abs(off) > 1:
        findings.notes.append(f"{level.label}: {said} {name}, {off:+.1f} % off")
    variant = replace(level.variant, model=solved)
    match = Match(measure=measure, field=path, value=value, target=target, reached=reached)
    return replace(
        level,
        values={**level.values, path: value},
        variant=variant,
        is_base=variants.are_equal(variant, base),
        match=match,
    )

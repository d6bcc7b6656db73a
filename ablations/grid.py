"""A valid grid: studies, levels, variants, and the jobs that they need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ablations.config import (
    NOT_IDENTITY,
    CostConfig,
    DataConfig,
    RunConfig,
    Variant,
    cost_fields,
    identity,
    variant_fields,
)
from ablations.data import Dataset
from densenet import Config, DenseNetConfig

Table = dict[str, Any]


@dataclass(frozen=True)
class Match:
    """A field solved so that a count of the variant comes nearest to the base's."""

    measure: str
    """params or macs."""

    field: str
    value: float
    target: int
    reached: int


@dataclass(frozen=True)
class Level:
    """One row of a study."""

    label: str
    values: Table
    """The fields that this level sets, `{"model.growth_rate": 12}`."""

    variant: Variant
    is_base: bool
    match: Match | None = None


@dataclass(frozen=True)
class Study:
    """One question and its levels."""

    name: str
    question: str
    axes: tuple[str, ...]
    levels: tuple[Level, ...]


@dataclass(frozen=True)
class Job:
    """One run or one cost: what an engine schedules."""

    id: str
    kind: str
    """run or cost."""

    name: str
    variant: str
    config: RunConfig | CostConfig
    fields: Table
    """The configuration as hashed and recorded."""


@dataclass(frozen=True)
class Grid:
    """A valid grid."""

    title: str
    seeds: tuple[int, ...]
    base: Variant
    studies: tuple[Study, ...]
    datasets: Mapping[DataConfig, Dataset]
    text: str
    """The file as it was read, and what was laid over it."""

    notes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """What of the command line was laid over the file."""

    time_limit: float = 0.0
    """Seconds that one job may take in one go; 0 = as long as it takes."""

    def checksum(self, variant: Variant) -> str:
        """Of the variant's data."""
        return self.datasets[variant.data].checksum

    def cost(self, variant: Variant) -> CostConfig:
        """What is measured of a variant."""
        return CostConfig(variant.model, self.datasets[variant.data].image_size, variant.train.of_a_step)

    def variants(self) -> dict[str, Variant]:
        """All variants by id, in the grid's order; equal ones of two studies once, the base first."""
        levels = [self.base, *(level.variant for study in self.studies for level in study.levels)]
        return {self.variant_id(variant): variant for variant in levels}

    def variant_id(self, variant: Variant) -> str:
        """The identity of a variant and its data."""
        return identity(variant_fields(variant, self.checksum(variant)))


def jobs(grid: Grid, machine: Mapping[str, Any]) -> list[Job]:
    """Costs first, then runs seed by seed, so that an early stop leaves whole comparisons.

    `machine` is part of a cost's identity, and not of a run's.
    """
    names, variants = _names(grid), grid.variants()
    costs: dict[str, Job] = {}
    runs: list[Job] = []
    for variant_id, variant in variants.items():
        config = grid.cost(variant)
        job_id = _cost_id(config, machine)
        costs.setdefault(job_id, Job(job_id, "cost", names[variant_id], variant_id, config, cost_fields(config)))
    for seed in grid.seeds:
        for variant_id, variant in variants.items():
            fields = {**variant_fields(variant, grid.checksum(variant)), "seed": seed}
            job_id = identity({"kind": "run", "config": fields})
            name = f"{names[variant_id]}, seed {seed}"
            runs.append(Job(job_id, "run", name, variant_id, RunConfig(variant, seed), fields))
    return [*costs.values(), *runs]


def manifest(grid: Grid, machine: Mapping[str, Any]) -> Table:
    """jobs.json: the grid as resolved, which is all that reporting needs beside the records."""
    return {
        "title": grid.title,
        "seeds": list(grid.seeds),
        "machine": dict(machine),
        "options": list(grid.options),
        "variants": {
            variant_id: {
                "cost": _cost_id(grid.cost(variant), machine),
                "data": grid.datasets[variant.data].label,
                "fields": _all_fields(variant),
            }
            for variant_id, variant in grid.variants().items()
        },
        "studies": [_study_entry(grid, study) for study in grid.studies],
        "jobs": [
            {"id": job.id, "kind": job.kind, "name": job.name, "variant": job.variant, "seed": job.fields.get("seed")}
            for job in jobs(grid, machine)
        ],
    }


def cost_ids(grid: Grid, machine: Mapping[str, Any]) -> dict[str, str]:
    """The cost of each variant; those that differ in training alone share one."""
    return {name: _cost_id(grid.cost(variant), machine) for name, variant in grid.variants().items()}


def _cost_id(config: CostConfig, machine: Mapping[str, Any]) -> str:
    return identity({"kind": "cost", "config": cost_fields(config), "machine": dict(machine)})


def _study_entry(grid: Grid, study: Study) -> Table:
    return {
        "name": study.name,
        "question": study.question,
        "axes": list(study.axes),
        "levels": [
            {
                "label": level.label,
                "values": level.values,
                "variant": grid.variant_id(level.variant),
                "is_base": level.is_base,
                "match": None if level.match is None else vars(level.match),
            }
            for level in study.levels
        ],
    }


def _all_fields(variant: Variant) -> Table:
    """Every field of a variant, defaults too, as `section.key`; where the data lay is left out."""
    sections: dict[str, Config] = {"model": variant.model, "data": variant.data, "train": variant.train}
    return {
        f"{section}.{key}": value
        for section, config in sections.items()
        for key, value in {
            **config.model_dump(mode="json", exclude=NOT_IDENTITY.get(type(config))),
            **({"depth": config.depth} if isinstance(config, DenseNetConfig) else {}),  # which block_config implies
        }.items()
    }


def _names(grid: Grid) -> dict[str, str]:
    """How a variant is called while it is worked on: by the first level that has it."""
    names = {grid.variant_id(grid.base): "base"}
    for study in grid.studies:
        for level in study.levels:
            names.setdefault(grid.variant_id(level.variant), f"{study.name} {level.label}")
    return names

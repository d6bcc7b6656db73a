"""A valid grid: studies, levels, variants, and the jobs that they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

from ablations.config import (
    CostConfig,
    DataConfig,
    RunConfig,
    Variant,
    cost_fields,
    identity,
    variant_fields,
)
from ablations.data.dataset import DatasetInfo
from ablations.metrics import level_text
from ablations.storage.manifest import (
    Match,
)

SECTIONS = ("model", "data", "train")

TomlTable = dict[str, Any]


@dataclass(frozen=True)
class Level:
    """One row of a study."""

    label: str
    values: TomlTable
    """The fields that this level sets, `{"model.growth_rate": 12}`."""

    variant: Variant
    is_base: bool
    match: Match | None = None
    published: float | None = None
    """Test error in % that was published for it."""


@dataclass(frozen=True)
class Study:
    """One question and its levels."""

    name: str
    question: str
    axes: tuple[str, ...]
    levels: tuple[Level, ...]
    seeds: tuple[int, ...]
    published_source: str = ""
    """Where the published errors stand."""


@dataclass(frozen=True)
class Job:
    """One cost, one trial of the tuning, or one run: what an engine schedules."""

    id: str
    kind: Literal["cost", "tuning", "run"]
    """cost, tuning (a trial, from which a value is chosen) or run (a training that is reported)."""

    name: str
    variant: str
    config: RunConfig | CostConfig
    fields: TomlTable
    """The configuration as hashed and recorded."""


@dataclass(frozen=True)
class Choice:
    """What tuning a variant has come to."""

    status: Literal["chosen", "missing", "failed"]
    fields: TomlTable = field(default_factory=dict)
    """What was chosen, `{"learning_rate": 0.1}`."""

    reason: str = ""
    """Why nothing could be chosen."""


UNDECIDED = Choice("missing")

Choices = Mapping[str, Choice]
"""What tuning has come to, by the id of the tuned variant."""


@dataclass(frozen=True)
class Grid:
    """A valid grid."""

    title: str
    seeds: tuple[int, ...]
    base: Variant
    studies: tuple[Study, ...]
    datasets: Mapping[DataConfig, DatasetInfo]
    text: str
    """The file as it was read, and what was laid over it."""

    notes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """What of the command line was laid over the file."""

    time_limit: float = 0.0
    """Seconds that one job may take in one go; 0 = as long as it takes."""

    def checksum(self, variant: Variant) -> str:
        """The checksum of the variant's data."""
        return self.datasets[variant.data].checksum

    def cost(self, variant: Variant) -> CostConfig:
        """What is measured of a variant; before it is tuned, with the base's fields."""
        return CostConfig(variant.model, self.datasets[variant.data].image_size, variant.train.of_a_step)

    def levels(self) -> list[Level]:
        """The levels of all studies, the bases first."""
        return sorted((level for study in self.studies for level in study.levels), key=lambda level: not level.is_base)

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """All variants by id, the base first, then in the grid's order; equal ones of two studies once."""
        return {self.variant_id(level.variant): level.variant for level in self.levels()}

    @cached_property
    def names(self) -> dict[str, str]:
        """How each variant is called while it is worked on, by its id: by the first level that has it."""
        names = {self.variant_id(self.base): "base"}
        for study in self.studies:
            for level in study.levels:
                names.setdefault(self.variant_id(level.variant), f"{study.name} {level.label}")
        return names

    def variant_id(self, variant: Variant) -> str:
        """The identity of a variant and its data."""
        return identity(variant_fields(variant, self.checksum(variant)))

    @cached_property
    def seeds_of(self) -> dict[str, tuple[int, ...]]:
        """The seeds of each variant, by its id: those of all studies that it is in."""
        found: dict[str, dict[int, None]] = {}
        for study in self.studies:
            for level in study.levels:
                found.setdefault(self.variant_id(level.variant), {}).update(dict.fromkeys(study.seeds))
        return {variant: tuple(seeds) for variant, seeds in found.items()}

    @cached_property
    def tuned(self) -> dict[str, Variant]:
        """The variants that are tuned, by id; those that follow the base are not."""
        return {name: each for name, each in self.variants.items() if each.tuning is not None and not each.follows_base}

    def followed(self, variant: Variant) -> str:
        """The id of the variant whose tuning decides for this one: itself, or the base."""
        return self.variant_id(self.base if variant.follows_base else variant)

    def settle(self, choices: Choices) -> Grid:
        """The grid with what was chosen; variants without a choice stay as they are."""

        def settled(variant: Variant) -> Variant:
            choice = choices.get(self.followed(variant)) if variant.tuning is not None else None
            return variant.settle(choice.fields) if choice is not None and choice.status == "chosen" else variant

        studies = tuple(
            replace(study, levels=tuple(replace(level, variant=settled(level.variant)) for level in study.levels))
            for study in self.studies
        )
        return replace(self, base=settled(self.base), studies=studies)


def list_jobs(grid: Grid, machine: Mapping[str, Any], choices: Choices | None = None) -> list[Job]:
    """Costs first, then trials, then runs seed by seed, so that an early stop leaves whole comparisons.

    A run is there as soon as its variant is tuned, and so is a cost that depends on what was chosen. `machine` is part
    of a cost's identity, and not of a run's.
    """
    settled = grid.settle(choices or {})
    names, variants, seeds_of = settled.names, settled.variants, settled.seeds_of
    costs: dict[str, Job] = {}
    runs: list[Job] = []
    for variant_id, variant in variants.items():
        if cost_is_known(variant):
            config = settled.cost(variant)
            job_id = cost_id(config, machine)
            costs.setdefault(job_id, Job(job_id, "cost", names[variant_id], variant_id, config, cost_fields(config)))
    for seed in dict.fromkeys(seed for study in grid.studies for seed in study.seeds):
        for variant_id, variant in variants.items():
            if variant.tuning is None and seed in seeds_of[variant_id]:
                runs.append(_training(settled, "run", f"{names[variant_id]}, seed {seed}", variant_id, variant, seed))
    trials = {job.id: job for variant_id in grid.tuned for job in list_trials(grid, variant_id)}
    return [*costs.values(), *trials.values(), *runs]


def list_trials(grid: Grid, variant_id: str) -> list[Job]:
    """The trials of one variant: a training with each candidate and each of the tuning's seeds."""
    variant = grid.tuned[variant_id]
    name = grid.names[variant_id]
    return [
        _training(grid, "tuning", f"{name}, {trial_label(candidate)}, seed {seed}", variant_id, trial, seed)
        for candidate, trial, seed in _trials(variant)
    ]


def _trials(variant: Variant) -> Iterator[tuple[TomlTable, Variant, int]]:
    if variant.tuning is not None:
        for candidate in variant.tuning.candidates():
            for seed in variant.tuning.seeds:
                yield candidate, variant.tuning.trial(variant, candidate), seed


def trial_label(candidate: Mapping[str, Any]) -> str:
    """`learning_rate 0.1, weight_decay 0.0001`."""
    return ", ".join(f"{name} {level_text(value)}" for name, value in candidate.items())


def _training(
    grid: Grid, kind: Literal["tuning", "run"], name: str, variant_id: str, variant: Variant, seed: int
) -> Job:
    fields = {**variant_fields(variant, grid.checksum(variant)), "seed": seed}
    job_id = identity({"kind": kind, "config": fields})
    return Job(job_id, kind, name, variant_id, RunConfig(variant, seed), fields)


def list_cost_ids(grid: Grid, machine: Mapping[str, Any]) -> dict[str, str]:
    """The cost of each variant; those that differ in training alone share one."""
    return {name: cost_id(grid.cost(variant), machine) for name, variant in grid.variants.items()}


def cost_is_known(variant: Variant) -> bool:
    """Whether every candidate of an untuned variant costs the same."""
    tuning = variant.tuning
    steps = [] if tuning is None else [variant.train.with_fields(each).of_a_step for each in tuning.candidates()]
    return all(step == variant.train.of_a_step for step in steps)


def cost_id(config: CostConfig, machine: Mapping[str, Any]) -> str:
    """The id of the job that measures this cost on this machine."""
    return identity({"kind": "cost", "config": cost_fields(config), "machine": dict(machine)})

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
    SpeedConfig,
    Variant,
    cost_fields,
    identity,
    speed_fields,
    variant_fields,
)
from ablations.data.dataset import DatasetInfo
from ablations.metrics import level_text
from ablations.storage.manifest import JobKind, Match
from densenet import without_weights

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
    """Its published test error, in %."""


@dataclass(frozen=True)
class Study:
    """One question and its levels."""

    name: str
    question: str
    axes: tuple[str, ...]
    levels: tuple[Level, ...]
    seeds: tuple[int, ...]
    published_source: str = ""
    """The source of the published errors."""

    speed_rounds: int = 0
    """The rounds in which the speed of each level is compared with the base's; 0: it is not compared."""

    margin: float | None = None
    """The largest difference of accuracy that does not matter, in points; None if none is stated."""

    choose_on: Literal["test", "validation"] = "test"
    """The images on which the levels are compared."""

    @property
    def base(self) -> Variant:
        """The variant of the level that all others are compared with."""
        return next(level.variant for level in self.levels if level.is_base)


@dataclass(frozen=True)
class Job:
    """One cost, one comparison of speed, one trial of the tuning, or one run, which an engine schedules."""

    id: str
    kind: JobKind
    """cost, speed (of a level and its base), tuning (a trial, which helps to choose a value) or run (a training that is
    reported)."""

    name: str
    variant: str
    config: RunConfig | CostConfig | SpeedConfig
    fields: TomlTable
    """The configuration that is hashed and recorded."""

    source: TomlTable = field(default_factory=dict)
    """The source of a user's network when the job was started by a grid; empty if it need not be compared."""

    again: bool = False
    """Whether its record takes the place of an older one, which stays until then."""


@dataclass(frozen=True)
class Choice:
    """The result of tuning a variant."""

    status: Literal["chosen", "missing", "failed"]
    fields: TomlTable = field(default_factory=dict)
    """The chosen values, for example `{"learning_rate": 0.1}`."""

    reason: str = ""
    """The reason why nothing could be chosen."""


UNDECIDED = Choice("missing")

Choices = Mapping[str, Choice]
"""The results of tuning, by the id of the tuned variant."""


@dataclass(frozen=True)
class Grid:
    """A valid grid."""

    title: str
    seeds: tuple[int, ...]
    base: Variant
    studies: tuple[Study, ...]
    datasets: Mapping[DataConfig, DatasetInfo]
    text: str
    """The text of the file, with the settings of the command line added as a comment."""

    notes: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    """The settings of the command line that replace parts of the file."""

    time_limit: float = 0.0
    """The most seconds that one job may take without an interruption; 0 = no limit."""

    def checksum(self, variant: Variant) -> str:
        """Returns the checksum of the variant's data."""
        return self.datasets[variant.data].checksum

    def cost(self, variant: Variant) -> CostConfig:
        """Returns the configuration of the variant's cost. Before the variant is tuned, it has the base's fields."""
        return CostConfig(
            without_weights(variant.model), self.datasets[variant.data].image_size, variant.train.of_a_step
        )

    def levels(self) -> list[Level]:
        """Returns the levels of all studies, the bases first."""
        return sorted((level for study in self.studies for level in study.levels), key=lambda level: not level.is_base)

    @cached_property
    def variants(self) -> dict[str, Variant]:
        """All variants by id, the base first, then in the order of the grid.

        Equal variants of two studies appear once.
        """
        return {self.variant_id(level.variant): level.variant for level in self.levels()}

    @cached_property
    def names(self) -> dict[str, str]:
        """The name of each variant in progress displays, by id: the first level that has this variant."""
        names = {self.variant_id(self.base): "base"}
        for study in self.studies:
            for level in study.levels:
                names.setdefault(self.variant_id(level.variant), f"{study.name} {level.label}")
        return names

    def variant_id(self, variant: Variant) -> str:
        """Returns the id of a variant and its data."""
        return identity(variant_fields(variant, self.checksum(variant)))

    @cached_property
    def seeds_of(self) -> dict[str, tuple[int, ...]]:
        """The seeds of each variant, by id: the seeds of all studies that contain it."""
        found: dict[str, dict[int, None]] = {}
        for study in self.studies:
            for level in study.levels:
                found.setdefault(self.variant_id(level.variant), {}).update(dict.fromkeys(study.seeds))
        return {variant: tuple(seeds) for variant, seeds in found.items()}

    @cached_property
    def tuned(self) -> dict[str, Variant]:
        """The variants that are tuned, by id, without those that follow the base."""
        return {name: each for name, each in self.variants.items() if each.tuning is not None and not each.follows_base}

    def followed(self, variant: Variant) -> str:
        """Returns the id of the variant whose tuning decides for this one: the variant itself, or the base."""
        return self.variant_id(self.base if variant.follows_base else variant)

    def settle(self, choices: Choices) -> Grid:
        """Returns the grid with the chosen values. Variants without a choice stay as they are."""

        def settled(variant: Variant) -> Variant:
            choice = choices.get(self.followed(variant)) if variant.tuning is not None else None
            return variant.settle(choice.fields) if choice is not None and choice.status == "chosen" else variant

        studies = tuple(
            replace(study, levels=tuple(replace(level, variant=settled(level.variant)) for level in study.levels))
            for study in self.studies
        )
        return replace(self, base=settled(self.base), studies=studies)


def list_jobs(grid: Grid, machine: Mapping[str, Any], choices: Choices | None = None) -> list[Job]:
    """Lists costs and speeds first, then trials, then runs seed by seed: an early stop leaves complete comparisons.

    A run is listed as soon as its variant is tuned, and so is a cost that depends on the chosen values. `machine` is
    part of the ids of costs and speeds, but not of a run's.
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
    speeds = {job.id: job for job in list_speeds(settled, machine).values()}
    return [*costs.values(), *speeds.values(), *trials.values(), *runs]


def number_jobs(grid: Grid, machine: Mapping[str, Any], choices: Choices) -> dict[str, int]:
    """Returns the number of each job by its id, counted from 0. The machine and the choices of tuning do not change it.

    Jobs that need no choice come first, in the order of `list_jobs`. The others follow in the order of the grid, found
    by kind and name. A comparison of speed that tuning has named otherwise has the first of these numbers.
    """
    numbers = {job.id: number for number, job in enumerate(list_jobs(grid, machine))}
    first = len(numbers)
    later = {place: number for number, place in enumerate(dict.fromkeys(_list_later(grid)), first)}
    for job in list_jobs(grid, machine, choices) if choices else ():
        numbers.setdefault(job.id, later.get((job.kind, job.name), first))
    return numbers


def _list_later(grid: Grid) -> Iterator[tuple[str, str]]:
    """Yields kind and name of each job that follows from tuning."""
    open_ = {name: variant for name, variant in grid.variants.items() if variant.tuning is not None}
    for name, variant in open_.items():
        if not cost_is_known(variant):
            yield "cost", grid.names[name]
    for study in grid.studies:
        for level in study.levels if study.speed_rounds else ():
            if not level.is_base and not (cost_is_known(level.variant) and cost_is_known(study.base)):
                yield "speed", _name_pair(grid, (grid.variant_id(level.variant), grid.variant_id(study.base)))
    for seed in dict.fromkeys(seed for study in grid.studies for seed in study.seeds):
        yield from (("run", f"{grid.names[name]}, seed {seed}") for name in open_ if seed in grid.seeds_of[name])


def list_speeds(settled: Grid, machine: Mapping[str, Any]) -> dict[tuple[str, str], Job]:
    """Returns the job that compares the speed of a level with its base's, by the ids of the two variants.

    Pairs with the same costs share a job, with the most rounds that a study asks for. A level with the cost of its base
    has no job, and neither has one whose cost depends on values that are not chosen yet.
    """
    costs = list_cost_ids(settled, machine)
    shared: dict[tuple[str, str], Job] = {}
    jobs: dict[tuple[str, str], Job] = {}
    for study in sorted(settled.studies, key=lambda study: -study.speed_rounds):
        for level in study.levels if study.speed_rounds and cost_is_known(study.base) else ():
            pair = settled.variant_id(level.variant), settled.variant_id(study.base)
            measured = costs[pair[0]], costs[pair[1]]
            if cost_is_known(level.variant) and measured[0] != measured[1] and pair not in jobs:
                config = SpeedConfig(settled.cost(level.variant), settled.cost(study.base), study.speed_rounds)
                jobs[pair] = shared.setdefault(measured, _comparison(settled, pair, config, machine))
    return jobs


def _comparison(settled: Grid, pair: tuple[str, str], config: SpeedConfig, machine: Mapping[str, Any]) -> Job:
    fields = speed_fields(config)
    job_id = identity({"kind": "speed", "config": fields, "machine": dict(machine)})
    return Job(job_id, "speed", _name_pair(settled, pair), pair[0], config, fields)


def _name_pair(grid: Grid, pair: tuple[str, str]) -> str:
    return " against ".join(grid.names[variant] for variant in pair)


def list_trials(grid: Grid, variant_id: str) -> list[Job]:
    """Lists the trials of one variant: a training with each candidate and each seed of the tuning."""
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
    """Returns the candidate as text, for example `learning_rate 0.1, weight_decay 0.0001`."""
    return ", ".join(f"{name} {level_text(value)}" for name, value in candidate.items())


def _training(
    grid: Grid, kind: Literal["tuning", "run"], name: str, variant_id: str, variant: Variant, seed: int
) -> Job:
    fields = {**variant_fields(variant, grid.checksum(variant)), "seed": seed}
    job_id = identity({"kind": kind, "config": fields})
    return Job(job_id, kind, name, variant_id, RunConfig(variant, seed), fields)


def list_cost_ids(grid: Grid, machine: Mapping[str, Any]) -> dict[str, str]:
    """Returns the id of each variant's cost.

    Variants share a cost if they differ only in fields that change no step.
    """
    return {name: cost_id(grid.cost(variant), machine) for name, variant in grid.variants.items()}


def cost_is_known(variant: Variant) -> bool:
    """Returns whether all candidates of an untuned variant have the same cost."""
    tuning = variant.tuning
    steps = [] if tuning is None else [variant.train.with_fields(each).of_a_step for each in tuning.candidates()]
    return all(step == variant.train.of_a_step for step in steps)


def cost_id(config: CostConfig, machine: Mapping[str, Any]) -> str:
    """Returns the id of the job that measures this cost on this machine."""
    return identity({"kind": "cost", "config": cost_fields(config), "machine": dict(machine)})

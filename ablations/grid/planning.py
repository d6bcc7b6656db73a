"""Converts a grid to the plan of a results folder, and an entry of the plan back to a job."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ablations.config import (
    CostConfig,
    DataConfig,
    RunConfig,
    SpeedConfig,
    TrainConfig,
    Variant,
    beside_identity,
    cost_fields,
    identity,
    speed_fields,
    unhashed_fields,
)
from ablations.grid.model import (
    SECTIONS,
    UNDECIDED,
    Choice,
    Choices,
    Grid,
    Job,
    Study,
    TomlTable,
    cost_id,
    cost_is_known,
    list_jobs,
    list_speeds,
    list_trials,
)
from ablations.storage.manifest import (
    MEASUREMENTS,
    CandidateEntry,
    ConfigurationEntry,
    JobEntry,
    LevelEntry,
    Manifest,
    StudyEntry,
    TuningEntry,
    VariantEntry,
)
from densenet import Config, DenseNetConfig, model_family


def make_manifest(grid: Grid, machine: Mapping[str, Any], folder: Path, choices: Choices | None = None) -> Manifest:
    """Makes the plan of a results folder: the resolved grid, and the configuration of each job."""
    choices = choices or {}
    settled = grid.settle(choices)
    todo, speeds = list_jobs(grid, machine, choices), list_speeds(settled, machine)
    configurations = {job.id: _configuration(job, folder) for job in todo}
    names = {job: identity(entry.model_dump(mode="json")) for job, entry in configurations.items()}
    return Manifest(
        title=grid.title,
        seeds=grid.seeds,
        machine=dict(machine),
        options=grid.options,
        variants={
            variant_id: VariantEntry(
                cost=cost_id(settled.cost(variant), machine) if cost_is_known(variant) else None,
                data=grid.datasets[variant.data].label,
                fields=_all_fields(variant),
            )
            for variant_id, variant in settled.variants.items()
        },
        studies=tuple(_study_entry(grid, *pair, speeds) for pair in zip(grid.studies, settled.studies, strict=True)),
        tuning=tuple(_tuning_entry(grid, settled, name, choices.get(name, UNDECIDED)) for name in grid.tuned),
        jobs=(*(_job_entry(job, names[job.id]) for job in todo), *list_awaited(settled)),
        configurations={names[job]: entry for job, entry in configurations.items()},
    )


def job_of(manifest: Manifest, folder: Path, job_id: str) -> Job:
    """Makes a job again from the plan of a results folder.

    Raises ValueError if the plan does not contain the job, or if another version planned it.
    """
    entry = {job.id: job for job in manifest.jobs}.get(job_id)
    made_from = manifest.configurations.get(entry.configuration) if entry is not None else None
    if entry is None or made_from is None:
        why = (
            "is not tuned yet, or was planned by an older version" if entry else f"is none of its {len(manifest.jobs)}"
        )
        raise ValueError(f"{folder} cannot run job {job_id}: it {why}; `ablate run` plans the grid anew")
    fields = made_from.identity if entry.seed is None else {**made_from.identity, "seed": entry.seed}
    try:
        config = _config_of(made_from, entry.seed, folder)
    except ValidationError as error:
        said = "; ".join(detail["msg"].removeprefix("Value error, ") for detail in error.errors())
        raise ValueError(f"{folder}: job {job_id} cannot be made from its plan: {said}") from None
    measured = entry.kind in MEASUREMENTS
    own = {"kind": entry.kind, "config": fields} | ({"machine": manifest.machine} if measured else {})
    if identity(own) != job_id or (measured and _measured_fields(config) != fields):
        raise ValueError(f"{folder}: job {job_id} was planned by another version; `ablate run` plans the grid anew")
    return Job(job_id, entry.kind, entry.name, entry.variant, config, fields)


def _configuration(job: Job, folder: Path) -> ConfigurationEntry:
    """Returns the configuration of a job: the fields of its identity, and those that change no result."""
    if not isinstance(job.config, RunConfig):
        return ConfigurationEntry(identity=job.fields)
    variant = job.config.variant
    beside = {"data": unhashed_fields(variant.data), "train": unhashed_fields(variant.train)}
    if variant.data.root:
        beside["data"]["root"] = os.path.relpath(Path(variant.data.root).expanduser().absolute(), folder.absolute())
    fields = {key: value for key, value in job.fields.items() if key != "seed"}
    return ConfigurationEntry(identity=fields, beside={section: each for section, each in beside.items() if each})


def _measured_fields(config: RunConfig | CostConfig | SpeedConfig) -> TomlTable | None:
    """Returns the fields of a cost or a speed as this version hashes them."""
    if isinstance(config, RunConfig):
        return None
    return speed_fields(config) if isinstance(config, SpeedConfig) else cost_fields(config)


def _config_of(entry: ConfigurationEntry, seed: int | None, folder: Path) -> RunConfig | CostConfig | SpeedConfig:
    if "rounds" in entry.identity:
        level, base = (_cost_config(entry.identity[side]) for side in ("level", "base"))
        return SpeedConfig(level, base, entry.identity["rounds"])
    if seed is None:
        return _cost_config(entry.identity)
    sections = {key: {**entry.identity[key], **entry.beside.get(key, {})} for key in SECTIONS if key in entry.identity}
    model, train = _model_of(sections["model"]), TrainConfig.model_validate(sections["train"])
    data = {key: value for key, value in sections["data"].items() if key != "checksum"}
    if data.get("root"):
        data["root"] = os.path.normpath(folder / data["root"])
    return RunConfig(Variant(model, DataConfig.model_validate(data), train), seed)


def _cost_config(fields: TomlTable) -> CostConfig:
    height, width = fields["image_size"]
    return CostConfig(_model_of(fields["model"]), (height, width), TrainConfig.model_validate(fields["train"]))


def _model_of(fields: TomlTable) -> Config:
    return model_family(fields.get("family", ""))[0].model_validate(fields)


def _job_entry(job: Job, configuration: str) -> JobEntry:
    own = {key: getattr(job, key) for key in ("id", "kind", "name", "variant")}
    return JobEntry(**own, seed=job.fields.get("seed"), configuration=configuration)


def list_awaited(settled: Grid) -> list[JobEntry]:
    """Lists the runs of variants that are not tuned yet.

    They have no configuration, so no record can have their ids.
    """
    names, seeds_of = settled.names, settled.seeds_of
    return [
        JobEntry(
            id=identity({"kind": "awaited", "variant": name, "seed": seed}),
            kind="run",
            name=f"{names[name]}, seed {seed}",
            variant=name,
            seed=seed,
        )
        for name, variant in settled.variants.items()
        if variant.tuning is not None
        for seed in seeds_of[name]
    ]


def _tuning_entry(grid: Grid, settled: Grid, variant_id: str, choice: Choice) -> TuningEntry:
    variant = grid.tuned[variant_id]
    tuning, trials = variant.tuning, list_trials(grid, variant_id)
    assert tuning is not None
    seeds = len(tuning.seeds)
    return TuningEntry(
        variant=variant_id,
        becomes=settled.variant_id(variant.settle(choice.fields) if choice.status == "chosen" else variant),
        name=grid.names[variant_id],
        values={name: list(values) for name, values in tuning.axes},
        ends={name: _ends(name, values) for name, values in tuning.axes},
        base={name: getattr(grid.base.train, name) for name, _ in tuning.axes},
        schedule=dict(tuning.schedule),
        seeds=tuning.seeds,
        validation_images=grid.datasets[tuning.trial(variant, {}).data].validation_images,
        candidates=tuple(
            CandidateEntry(
                fields=candidate, trials=tuple(job.id for job in trials[place * seeds : (place + 1) * seeds])
            )
            for place, candidate in enumerate(tuning.candidates())
        ),
        status=choice.status,
        chosen=choice.fields or None,
        reason=choice.reason,
    )


def _ends(name: str, values: Sequence[Any]) -> list[Any]:
    """Returns the least and the greatest of a list of numbers, each only if the field allows values beyond it."""
    if len(values) < 2 or not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return []
    return [end for end, sign in ((min(values), -1), (max(values), 1)) if _is_allowed(name, _beyond(end, sign))]


def _beyond(end: float, sign: int) -> float:
    """Returns the next integer, or a slightly larger or smaller real number."""
    return end + sign * (1 if isinstance(end, int) else max(1e-6 * abs(end), 1e-12))


def _is_allowed(name: str, value: Any) -> bool:
    try:
        TrainConfig.model_validate({name: value})
    except ValidationError:
        return False
    return True


def _study_entry(grid: Grid, study: Study, settled: Study, speeds: Mapping[tuple[str, str], Job]) -> StudyEntry:
    base = grid.variant_id(settled.base)
    variants = [grid.variant_id(level.variant) for level in settled.levels]
    return StudyEntry(
        name=study.name,
        question=study.question,
        axes=study.axes,
        seeds=study.seeds,
        published_source=study.published_source,
        margin=study.margin,
        choose_on=study.choose_on,
        levels=tuple(
            LevelEntry(
                label=level.label,
                values=level.values,
                variant=variant,
                is_base=level.is_base,
                match=level.match,
                published=level.published,
                declared=grid.variant_id(replace(level.variant, tuning=None, follows_base=False)),
                tuned_as=None if level.variant.tuning is None else grid.followed(level.variant),
                follows_base=level.variant.follows_base,
                speed=speeds[variant, base].id if (variant, base) in speeds else None,
            )
            for level, variant in zip(study.levels, variants, strict=True)
        ),
    )


def _all_fields(variant: Variant) -> TomlTable:
    """Returns every field of a variant as `section.key`, including defaults, but without the place of the data.

    A field that tuning has not chosen yet is None.
    """
    sections: dict[str, Config] = {"model": variant.model, "data": variant.data, "train": variant.train}
    open_ = {} if variant.tuning is None else {f"train.{name}": None for name, _ in variant.tuning.axes}
    return {
        f"{section}.{key}": value
        for section, config in sections.items()
        for key, value in {
            **config.model_dump(mode="json", exclude=beside_identity(type(config))),
            **({"depth": config.depth} if isinstance(config, DenseNetConfig) else {}),  # follows from block_config
        }.items()
    } | open_

"""From records to tidy data frames. Reads only jobs.json, records/ and attempts/, and needs no torch.

>>> import ablations
>>> frames = ablations.load("results/digits-cpu")
>>> sorted(frames.runs.status.unique())
['done']
>>> wide = frames.studies.query("study == 'growth_rate' and level == '10'").variant
>>> len(frames.runs[frames.runs.variant.isin(wide)].test_accuracy)
3
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from ablations.metrics import METRICS
from ablations.report.mixing import MIXED, find_mixed, read_source
from ablations.report.ratios import compare_rounds
from ablations.report.survey import find_untuned, group_causes
from ablations.storage import records
from ablations.storage.disturbance import describe_rounds
from ablations.storage.manifest import Fields, Manifest, VariantEntry
from ablations.storage.paths import expand


@dataclass(frozen=True)
class Frames:
    """A results folder as data frames, joined by `variant`."""

    folder: Path
    manifest: Manifest

    runs: pd.DataFrame
    """A row per run: variant, seed, status, reason, test_accuracy, ..., the fields of its variant."""

    costs: pd.DataFrame
    """A row per variant and device: variant, status, reason, params, macs, ..."""

    history: pd.DataFrame
    """A row per run and epoch."""

    variants: pd.DataFrame
    """A row per variant with every field, including defaults."""

    studies: pd.DataFrame
    """A row per study and level: study, level, variant, is_base."""

    tuning: pd.DataFrame
    """A row per tuned variant, candidate and seed: variant, name, seed, status, reason, validation_accuracy, whether
    the candidate was chosen, and its fields, such as train.learning_rate. Empty if nothing is tuned."""

    speeds: pd.DataFrame
    """A row per level and base whose speeds are compared: variant, base (a variant too), status, reason, rounds, and
    for each measure of time `<measure>_ratio`, `_low` and `_high`, level / base in the unit of the measure, and
    `_disturbed`, which says why not to trust them or is empty. `disturbed` has the first of these reasons. The frame is
    empty if no speeds are compared."""

    damaged: tuple[Path, ...]
    """Records that are not as they were published. They count as missing."""

    part: Literal["test", "validation"] = "test"
    """What the columns `test_...` of `runs` are about: the validation images in a study that chooses on them."""

    others: tuple[Fields, ...] = ()
    """The records of jobs that the grid does not have, with id, kind and config: nothing else is read from them."""

    def __repr__(self) -> str:
        """Returns `Frames('results/mine': 6 of 6 runs, 2 of 2 costs; growth_rate)`."""
        frames = {name: frame for name, frame in self.jobs().items() if len(frame)}
        parts = [f"{(frame.status == 'done').sum()} of {len(frame)} {name}" for name, frame in frames.items()]
        studies = ", ".join(study.name for study in self.manifest.studies)
        return f"Frames({str(self.folder)!r}: {', '.join(parts)}; {studies})"

    def jobs(self) -> dict[str, pd.DataFrame]:
        """Returns the frames with a row per job: id, status, reason, commit, ...

        Variants that share a cost or a trial have one row of it. Tuning and speeds are left out if they are empty.
        """
        tuning = {"tuning": _drop_shared(self.tuning)} if len(self.tuning) else {}
        speeds = {"speeds": self.speeds.drop_duplicates("id")} if len(self.speeds) else {}
        return {**tuning, "runs": self.runs, "costs": _drop_shared(self.costs), **speeds}

    def tables(self) -> dict[str, pd.DataFrame]:
        """Returns the frames by the name of their CSV file, without packed columns.

        Tuning and speeds are left out if they are empty.
        """
        beside = [name for name in ("tuning", "speeds") if len(getattr(self, name))]
        names = ("runs", "costs", "history", "variants", "studies", *beside)
        return {name: getattr(self, name).drop(columns=PACKED, errors="ignore") for name in names}


def _drop_shared(frame: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows without those of jobs that have a row already."""
    return frame[frame.id.isna() | ~frame.id.duplicated()]


def load(folder: str | Path) -> Frames:
    """Reads the frames of a results folder. Raises NotResults if it has no results."""
    folder = expand(folder)
    manifest = Manifest.read(folder)
    planned, whole, others, damaged = {job.id for job in manifest.jobs}, {}, [], []
    for found in records.iterate(folder):  # one by one: a record is much larger than its rows
        if found.record is None:
            damaged.append(found.path)
        elif found.record["id"] in planned:
            whole[found.record["id"]] = _digest(found.record)
        else:
            others.append({key: found.record[key] for key in ("id", "kind", "config")})
    attempts = records.load_attempts(folder)
    mixed = find_mixed(each["source"] for each in whole.values() if each["source"])
    for job, reason in mixed.items():
        whole[job]["row"] |= {"status": MIXED, "reason": reason}
    variants = _make_exact_frame([{"variant": name, **_flatten(entry)} for name, entry in manifest.variants.items()])
    untuned = find_untuned(manifest)
    runs = [
        _make_row(job.kind, job.variant, job.seed, job.id, whole, attempts) | untuned.get(job.variant, {})
        for job in manifest.jobs
        if job.kind == "run"
    ]
    return Frames(
        folder,
        manifest,
        _hide_tests(pd.DataFrame(runs).merge(variants, on="variant", validate="many_to_one"), manifest),
        pd.DataFrame(_list_costs(manifest, whole, attempts)),
        _hide_tests(pd.DataFrame(_list_epochs(manifest, whole), columns=[*_HISTORY]), manifest),
        variants,
        pd.DataFrame(
            [
                {"study": study.name, "level": level.label, "variant": level.variant, "is_base": level.is_base}
                for study in manifest.studies
                for level in study.levels
            ]
        ),
        _list_trials(manifest, whole, attempts),
        _list_speeds(manifest, whole, attempts),
        tuple(damaged),
        others=tuple(others),
    )


def _hide_tests(rows: pd.DataFrame, manifest: Manifest) -> pd.DataFrame:
    """Empties the columns of the test for variants that are compared on validation images alone."""
    shown = {level.variant for study in manifest.studies if study.choose_on == "test" for level in study.levels}
    hidden = ~rows.variant.isin(shown)
    names = [name for name in rows.columns.astype(str) if name.startswith("test_")]
    return rows.assign(**{name: rows[name].mask(hidden) for name in names}) if hidden.any() else rows


def _take_validation(runs: pd.DataFrame) -> pd.DataFrame:
    """Puts the columns of the validation in the place of those of the test."""
    names = [*runs.columns.astype(str)]
    kept = runs.drop(columns=[name for name in names if name.startswith("test_")])
    taken = [name for name in names if name.startswith("validation_")]
    return kept.rename(columns={name: name.replace("validation_", "test_", 1) for name in taken})


PACKED = [
    *(f"{part}_{name}" for part in ("test", "validation") for name in ("outcomes", "mistakes", "per_class_accuracy")),
    "arithmetic",
]
"""Columns of `runs` that no CSV file has: those with a value for every image or class, as
`ablations.training.evaluation.Evaluation` explains, and the instructions that a run was computed with."""


def unpack_outcomes(frames: Frames) -> pd.DataFrame:
    """Returns which test images each run classified correctly: a row per run, by (variant, seed), a column per image.

    Runs without a result or without this value are left out. Raises ValueError for runs of several data sets, whose
    images are not the same.
    """
    runs = frames.runs[frames.runs.status == "done"].reindex(
        columns=["variant", "seed", "test_images", "test_outcomes"]
    )
    runs = runs.dropna(subset=["test_outcomes"])
    data = frames.variants[frames.variants.variant.isin(runs.variant)].data.unique()
    if len(data) > 1:
        raise ValueError(f"these runs are of several data sets ({', '.join(data)}): take the frames of one study")
    outcomes = zip(runs.test_outcomes, runs.test_images, strict=True)
    rows = [records.unpack_bits(packed, int(images)) for packed, images in outcomes]
    return pd.DataFrame(rows, index=pd.MultiIndex.from_frame(runs[["variant", "seed"]]), dtype=bool)


def find_trials(frames: Frames, study: str) -> pd.DataFrame:
    """Returns the trials of a study's levels: level, is_base, and the columns of `Frames.tuning`.

    Levels that take the values of the base are left out.
    """
    names = {entry.variant: entry.name for entry in frames.manifest.tuning}
    levels = [
        {"level": level.label, "is_base": level.is_base, "name": names[level.tuned_as]}
        for level in frames.manifest.levels(study)
        if level.tuned_as and not level.follows_base
    ]
    frame = pd.DataFrame(levels, columns=["level", "is_base", "name"])
    return frame.merge(frames.tuning, on="name") if levels else frame


def list_tuned_fields(frames: Frames, study: str | None = None) -> list[str]:
    """Lists the fields that are tuned in a study, or in any study: `train.learning_rate`."""
    levels = {level.tuned_as for level in frames.manifest.levels(study)}
    entries = [entry for entry in frames.manifest.tuning if study is None or entry.variant in levels]
    return list(dict.fromkeys(f"train.{name}" for entry in entries for name in entry.values))


def find_edges(frames: Frames, study: str | None = None) -> set[tuple[str, str]]:
    """Returns the pairs of variant and field whose chosen value is the least or greatest of its list.

    A value beyond which the field allows no other does not count. Levels that take the values of the base are left out.
    """
    tuned = {level.variant: level.tuned_as for level in reversed(frames.manifest.levels(study))
             if level.tuned_as and not level.follows_base}  # fmt: skip
    entries = {entry.variant: entry for entry in frames.manifest.tuning}
    return {
        (variant, f"train.{name}")
        for variant, subject in tuned.items()
        for name, ends in entries[subject].ends.items()
        if (chosen := entries[subject].chosen) and chosen[name] in ends
    }


def find_base(frames: Frames) -> str:
    """Returns the variant that most studies have as their base.

    Studies that are tuned in their own way have another one.
    """
    return str(frames.studies[frames.studies.is_base].variant.value_counts(sort=False).idxmax())


def select_study(frames: Frames, study: str) -> Frames:
    """Returns the frames of one study only: its variants, trained with its seeds."""
    variants = frames.studies.variant[frames.studies.study == study]
    parts = {name: getattr(frames, name) for name in ("runs", "costs", "history", "variants", "speeds")}
    own = {name: part[part.variant.isin(variants)] for name, part in parts.items()}
    seeds = frames.manifest.study(study).seeds
    own |= {name: own[name][own[name].seed.isin(seeds)] for name in ("runs", "history")}
    own["speeds"] = own["speeds"][own["speeds"].base.isin(variants)]
    part = frames.manifest.study(study).choose_on
    if part == "validation":
        own["runs"] = _take_validation(own["runs"])
    return replace(frames, **own, part=part)


def find_causes(frames: Frames) -> list[dict[str, Any]]:
    """Returns the failures by status and reason, with their jobs, in the order of the grid."""
    trials = frames.tuning.reindex(columns=["id", "status", "reason"])
    trials = trials[trials.status != "diverged"]  # a diverged trial is a result: its candidate cannot be chosen
    failed = [
        frame[~frame.status.isin(["done", "missing"])] for frame in (frames.costs, frames.speeds, trials, frames.runs)
    ]
    rows = [row for frame in failed for row in frame.to_dict("records")]
    return group_causes(frames.manifest, [(row["id"], row["status"], row["reason"]) for row in rows])


_HISTORY = (
    "variant", "seed", "epoch", "train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "test_loss",
    "test_accuracy", "learning_rate", "gradient_norm", "images", "seconds", "images_per_second",
)  # fmt: skip


ENVIRONMENT = (
    "device", "device_name", "threads", "torch", "python", "precision", "exact_resume", "commit", "fingerprint",
)  # fmt: skip
"""What made a record: these columns of `runs` and `costs` are text, except for the number of threads."""


_ARITHMETIC = ("device", "instructions", "extensions", "limits")
"""What chooses among instructions that round differently: the same seed gives other bits with others."""


def describe_arithmetic(packed: str) -> str | None:
    """Returns the column `arithmetic` in words: `instructions AVX512, MKL_CBWR=AVX2`; None if a record has none."""
    _, instructions, _, limits = json.loads(packed)
    words = [f"instructions {instructions}"] if instructions else []
    return ", ".join([*words, *(f"{name}={value}" for name, value in (limits or {}).items())]) or None


def _flatten(entry: VariantEntry) -> Fields:
    fields = {key: json.dumps(value) if isinstance(value, list) else value for key, value in entry.fields.items()}
    return {"data": entry.data, **fields}


def _make_exact_frame(rows: Sequence[Fields]) -> pd.DataFrame:
    """Makes a frame whose whole numbers stay exact where other rows lack them: pandas would make them real numbers."""
    names = dict.fromkeys(name for row in rows for name in row)
    return pd.DataFrame({name: _make_column([row.get(name) for row in rows]) for name in names})


def _make_column(values: list[Any]) -> pd.Series:
    known = [value for value in values if value is not None]
    if known == values or not all(isinstance(value, int) and not isinstance(value, bool) for value in known):
        return pd.Series(values)
    return pd.Series(values, dtype="Int64" if all(abs(value) < 2**63 for value in known) else object)


def _digest(record: Fields) -> Fields:
    """Returns what is shown of a record: its values for a row, and the table of its epochs or rounds."""
    deterministic, measured = record["deterministic"], record["measured"]
    fixed = ("variant", "seed", "id", "status", "reason", "name")
    scalars = {
        key: value
        for key, value in (*deterministic.items(), *measured.items())
        if isinstance(value, int | float | str) and key not in fixed
    }
    row = {"status": "done", **scalars, **{key: record["environment"].get(key) for key in ENVIRONMENT}}
    row["data_checksum"] = record["config"].get("data", {}).get("checksum")
    if operators := deterministic.get("uncounted"):
        row["uncounted"] = ", ".join(operators)
    digest: Fields = {"row": row, "source": read_source(record)}
    if record["kind"] == "run":
        row["first_epoch_loss"] = next((epoch["train_loss"] for epoch in deterministic.get("history", ())), None)
        epochs = zip(deterministic.get("history", ()), measured.get("epoch_seconds", ()), strict=True)
        row |= {key: json.dumps(value) for key, value in deterministic.items() if key.endswith("_per_class_accuracy")}
        row["arithmetic"] = json.dumps([record["environment"].get(key) for key in _ARITHMETIC])
        digest["epochs"] = [_list_epoch(*each) for each in epochs]
    if record["kind"] == "speed":
        digest["rounds"] = measured["rounds"]
    return digest


def _list_epoch(epoch: Fields, seconds: float) -> tuple[Any, ...]:
    """Returns the values of an epoch in the order of the columns of `Frames.history`, from the third on."""
    rate = epoch["images"] / seconds if "images" in epoch else None
    return (*map(epoch.get, _HISTORY[2:-2]), seconds, rate)


def _make_row(kind: str, variant: str, seed: int | None, job: str | None, whole: Fields, attempts: Fields) -> Fields:
    """Returns status, values and environment of a job: from its record, else from its last failure, else missing."""
    row: Fields = {"variant": variant, "seed": seed, "id": job, "status": "missing", "reason": ""}
    row |= {key: None for key, metric in METRICS.items() if metric.of == kind}
    if job in whole:
        row |= whole[job]["row"]
    elif job in attempts:
        last = attempts[job][-1]
        row |= {"status": last["status"], "reason": last["reason"]}
    return row


def _list_trials(manifest: Manifest, whole: Fields, attempts: Fields) -> pd.DataFrame:
    rows = []
    for entry in manifest.tuning:
        for candidate in entry.candidates:
            fields = {f"train.{name}": value for name, value in candidate.fields.items()}
            for seed, trial in zip(entry.seeds, candidate.trials, strict=True):
                row = _make_row("tuning", entry.becomes, seed, trial, whole, attempts)
                shown = {key: row.get(key) for key in _TUNING}
                rows.append({"name": entry.name, **fields, **shown, "chosen": candidate.fields == entry.chosen})
    return _make_exact_frame(rows)


_PARTS = tuple(f"{part}_seconds" for part in ("start", "data", "step", "evaluation", "checkpoint", "rest"))


_TUNING = ("variant", "seed", "id", "status", "reason", "validation_accuracy", "validation_loss", "seconds", *_PARTS,
           *ENVIRONMENT)  # fmt: skip


def _list_costs(manifest: Manifest, whole: Fields, attempts: Fields) -> list[Fields]:
    """Lists the costs on the machine of jobs.json.

    Variants that differ only in the length of training share a record.
    """
    rows, untuned = [], find_untuned(manifest)
    for variant, entry in manifest.variants.items():
        row = _make_row("cost", variant, None, entry.cost, whole, attempts)
        del row["seed"]
        rows.append(row | untuned.get(variant, {}) if entry.cost is None else row)
    return rows


_TIMED = {key: metric for key, metric in METRICS.items() if metric.timed}

_SPEEDS = (
    "variant", "base", "id", "status", "reason", "rounds",
    *(f"{key}_{part}" for key in _TIMED for part in ("ratio", "low", "high", "disturbed")),
    "disturbed", "commit", "fingerprint", "device_name", "torch",
)  # fmt: skip


def _list_speeds(manifest: Manifest, whole: Fields, attempts: Fields) -> pd.DataFrame:
    """Lists the comparisons of speed on the machine of jobs.json, one for each pair of a level and a base."""
    jobs = {
        (level.variant, base.variant): level.speed
        for study in manifest.studies
        for base in study.levels
        for level in study.levels
        if base.is_base and level.speed is not None
    }
    undisturbed = dict.fromkeys((name for name in _SPEEDS if name.endswith("disturbed")), "")
    rows = []
    for (variant, base), job in jobs.items():
        found = _compare(whole[job]) if job in whole else undisturbed
        rows.append({"base": base, **_make_row("speed", variant, None, job, whole, attempts), **found})
    ratios = [name for name in _SPEEDS if name.endswith(("_ratio", "_low", "_high"))]
    return pd.DataFrame(rows, columns=[*_SPEEDS]).astype({"rounds": "Int64", **dict.fromkeys(ratios, float)})


def _compare(record: Fields) -> Fields:
    """Returns the ratios of a comparison, level / base, and what disturbed it."""
    rounds: list[Fields] = record["rounds"]
    row: Fields = {"rounds": len(rounds)}
    for key, metric in _TIMED.items():
        level, base = ([each[side][key] for each in rounds] for side in ("level", "base"))
        ratio = compare_rounds(level, base)
        row |= {f"{key}_ratio": ratio.median, f"{key}_low": ratio.low, f"{key}_high": ratio.high}
        row[f"{key}_disturbed"] = describe_rounds(metric.disturbed, rounds)
    return {**row, "disturbed": next(filter(None, (row[f"{key}_disturbed"] for key in _TIMED)), "")}


def _list_epochs(manifest: Manifest, whole: Fields) -> list[tuple[Any, ...]]:
    return [
        (job.variant, job.seed, *epoch)
        for job in manifest.jobs
        if job.kind == "run" and job.id in whole
        for epoch in whole[job.id]["epochs"]
    ]

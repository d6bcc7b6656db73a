"""jobs.json: the plan of a results folder. Reports need only the plan and the records, jobs need only the plan.

Variants, jobs and configurations have ids of sixteen hexadecimal digits. All other parts refer to these ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ablations.storage import files, journal, locks, records
from ablations.storage.schema import check_label, check_study_name, describe

NAME = "jobs.json"

Fields = dict[str, Any]
"""Values by name."""


def _check_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it is no line of printable characters")
    return text


Line = Annotated[str, AfterValidator(_check_line)]
"""A line of printable characters."""

JobKind = Literal["cost", "speed", "tuning", "run"]
"""The kinds of jobs: a cost, a comparison of speed, a trial of the tuning, or a run."""

MEASUREMENTS: tuple[JobKind, ...] = ("cost", "speed")
"""The kinds of jobs that measure a device. Nothing may run beside them, and the machine is part of their ids."""


class NotResults(ValueError):
    """The folder holds no results."""


class Entry(BaseModel):
    """A part of jobs.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Match(Entry):
    """A field that is solved so that a count of the variant comes nearest to the base's."""

    measure: Literal["params", "macs"]
    field: Line
    value: int | float
    target: int
    reached: int


class LevelEntry(Entry):
    """One row of a study."""

    label: Annotated[str, AfterValidator(check_label)]
    values: dict[Line, Any]
    """The fields that this level sets, `{"model.growth_rate": 12}`."""

    variant: str
    """The id of the variant with the chosen values, or without a choice, as the grid declares it."""

    is_base: bool
    match: Match | None = None
    published: int | float | None = None
    """Its published test error, in %."""

    declared: str
    """The id of the variant without tuning: it identifies the level for all choices of the tuning."""

    tuned_as: str | None = None
    """The id of the variant whose tuning decides for this level, itself or the base; None without tuning."""

    follows_base: bool = False
    """Whether it takes the values that are chosen for the base."""

    speed: str | None = None
    """The id of the job that compares its speed with the base's; None if they are not compared."""


class StudyEntry(Entry):
    """One question and its levels."""

    name: Annotated[str, AfterValidator(check_study_name)]
    question: Line
    axes: tuple[Line, ...]
    seeds: tuple[int, ...]
    published_source: Line = ""
    """The source of the published errors."""

    margin: float | None = None
    """The largest difference of accuracy, in points, that does not matter; None if none is stated."""

    choose_on: Literal["test", "validation"] = "test"
    """The images on which the levels are compared."""

    levels: Annotated[tuple[LevelEntry, ...], Field(min_length=1)]


class VariantEntry(Entry):
    """A configuration without its seed."""

    cost: str | None
    """The id of the job that measures its cost; None if this depends on values that are not chosen yet."""

    data: Line
    """The name of its data set, for readers."""

    fields: dict[Line, Any]
    """Every field as `section.key`, including defaults; null for a field that tuning has not chosen yet."""


class CandidateEntry(Entry):
    """One combination of the values that tuning chooses from."""

    fields: dict[Line, Any]
    trials: tuple[str, ...]
    """The ids of its trials, one for each seed."""


class TuningEntry(Entry):
    """A variant that is tuned: its values, its trials, and the choice."""

    variant: str
    becomes: str
    """The id of the variant with the chosen values."""

    name: Line
    values: dict[Line, list[Any]]
    ends: dict[Line, list[Any]]
    """The least and the greatest value of each list of numbers, each only if the field allows values beyond it."""

    base: Fields
    schedule: Fields
    seeds: tuple[int, ...]
    validation_images: int
    candidates: tuple[CandidateEntry, ...]
    status: Literal["chosen", "missing", "failed"]
    chosen: dict[Line, Any] | None
    reason: str


class JobEntry(Entry):
    """One cost, one comparison of speed, one trial of the tuning, or one run."""

    id: str
    kind: JobKind
    name: Line
    variant: str
    seed: int | None
    configuration: str = ""
    """Its entry in `configurations`; empty for a run whose variant is not tuned yet."""


class ConfigurationEntry(Entry):
    """The configuration of a job."""

    identity: Fields
    """The fields that are hashed and recorded. Together with the seed and the kind of the job, they determine its
    id."""

    beside: dict[str, Fields] = {}
    """Fields that change no result, by section: what is saved, and the place of the data relative to the results
    folder."""


class Manifest(Entry):
    """jobs.json."""

    title: Line
    seeds: tuple[int, ...]
    machine: Fields
    """The machine on which costs and speeds are measured, which is part of their ids."""

    options: tuple[Line, ...]
    """The settings of the command line that replace parts of the grid file."""

    variants: dict[str, VariantEntry]
    studies: Annotated[tuple[StudyEntry, ...], Field(min_length=1)]
    tuning: tuple[TuningEntry, ...]
    jobs: tuple[JobEntry, ...]
    configurations: dict[str, ConfigurationEntry] = {}
    """Empty in folders of older versions, whose jobs cannot be started one by one."""

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads the plan of a results folder.

        Raises NotResults if it is missing or damaged, or if a part of the folder is a link.
        """
        _refuse_links(folder)
        path = folder / NAME
        again = "delete it, and `ablate run` with the grid of this folder makes it anew"
        try:
            plan = cls.model_validate(records.unseal(files.read(path)))
            for problem in _find_contradictions(plan):
                raise ValueError(problem)
            return plan
        except FileNotFoundError:
            raise NotResults(
                f"{folder} holds no results: there is no {NAME}, which `ablate run` writes when it has planned its grid"
            ) from None
        except ValidationError as error:
            raise NotResults(f"{path} was made by another version: {describe(error)}; {again}") from None
        except (ValueError, RecursionError, LookupError, TypeError) as error:
            raise NotResults(f"{path} is damaged: {error}; {again}") from None
        except OSError as error:
            raise NotResults(str(error)) from None

    def write(self, folder: Path) -> None:
        """Replaces the plan of a results folder. Raises StorageError."""
        files.write(folder / NAME, records.seal(self.model_dump(mode="json")))

    def study(self, name: str) -> StudyEntry:
        """Returns the study of this name. Raises KeyError."""
        return {study.name: study for study in self.studies}[name]

    def levels(self, study: str | None = None) -> list[LevelEntry]:
        """Returns the levels of one study, or of all studies."""
        return [level for each in self.studies if study in (None, each.name) for level in each.levels]


PARTS = ("records", "attempts", "checkpoints", "weights", "slurm", "tables", "figures")
"""The folders in a results folder."""


def list_foreign(folder: Path) -> list[str]:
    """Lists what lies in a folder that is no results folder. Empty if `ablate run` may take the folder.

    A results folder is known by a plan that was sealed by this suite, or by a record or a note of a failure. Whatever
    else lies in such a folder, and files in folders of our names, are left as they are.
    """
    if not folder.is_dir() or _is_known(folder):
        return []
    return sorted(path.name for path in folder.iterdir() if not _is_own(path))


def _is_known(folder: Path) -> bool:
    _refuse_links(folder)
    with suppress(ValueError, OSError):
        return bool(records.unseal(files.read(folder / NAME)))
    return any(each.record for each in records.iterate(folder)) or bool(records.load_attempts(folder))


def _is_own(path: Path) -> bool:
    known = path.name in PARTS[:5] or files.TEMPORARY.fullmatch(path.name) is not None
    return known or locks.is_lock(path) or journal.is_journal(path)


def _refuse_links(folder: Path) -> None:
    """Raises NotResults if a part of a results folder is a link: what is written there would land somewhere else."""
    links = [name for name in PARTS if (folder / name).is_symlink()]
    if links:
        raise NotResults(
            f"{folder}: {', '.join(links)} must not be a link, because results stay within their folder; make a link "
            "to the whole folder instead"
        )


def _find_contradictions(plan: Manifest) -> Iterator[str]:
    """Yields what a part of the plan says of another part that is not so."""
    jobs = {job.id: job for job in plan.jobs}
    tuned = {entry.variant for entry in plan.tuning}
    if len(jobs) < len(plan.jobs):
        yield "jobs: an id stands more than once"
    if not any(job.kind == "run" for job in plan.jobs):
        yield "jobs: there is no run"
    if not isinstance(plan.machine.get("device"), str) or not str(plan.machine).isprintable():
        yield "machine: it has no device, or values that are no printable text"
    ids = [*plan.variants, *jobs, *plan.configurations]
    yield from (f"{each!r} is no id" for each in ids if not re.fullmatch("[0-9a-z]{1,64}", each))  # it names files
    used = [*(level.variant for level in plan.levels()), *(job.variant for job in plan.jobs if job.kind == "run")]
    yield from (f"variant {name} is missing" for name in _list_missing(used, plan.variants))
    followed = [level.tuned_as for level in plan.levels() if level.tuned_as]
    yield from (f"the tuning of variant {name} is missing" for name in _list_missing(followed, tuned))
    if len({study.name.lower() for study in plan.studies}) < len(plan.studies):
        yield "studies: a name stands more than once"
    pairs = [(job.variant, job.seed) for job in plan.jobs if job.kind == "run"]
    runs = set(pairs)
    if len(runs) < len(pairs):
        yield "jobs: a run stands more than once"
    for study in plan.studies:
        if any((level.variant, seed) not in runs for level in study.levels for seed in study.seeds):
            yield f"study {study.name}: a level has not one run for each seed"
        if sum(level.is_base for level in study.levels) != 1:
            yield f"study {study.name} has not one base"
        if len({level.label for level in study.levels}) < len(study.levels):
            yield f"study {study.name}: a label stands more than once"
    for entry in plan.tuning:
        if (entry.status == "chosen") != (entry.chosen is not None):
            yield f"the tuning of {entry.name}: its status is {entry.status}, and it has another choice"
        fields = [*(each.fields for each in entry.candidates), *([entry.chosen] if entry.chosen else [])]
        if any(each.keys() != entry.values.keys() for each in (*fields, entry.ends, entry.base)):
            yield f"the tuning of {entry.name}: its parts tune different fields"
        if any(len(each.trials) != len(entry.seeds) for each in entry.candidates):
            yield f"the tuning of {entry.name}: a candidate has not one trial for each seed"


def _list_missing(names: Iterable[str], known: Iterable[str]) -> list[str]:
    return sorted(set(names) - set(known))

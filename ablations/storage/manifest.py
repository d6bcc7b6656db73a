"""jobs.json: the plan of a results folder. Reports need only the plan and the records, jobs need only the plan.

Variants, jobs and configurations have ids of sixteen hexadecimal digits. All other parts refer to these ids.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ablations.storage import files, records

NAME = "jobs.json"

Fields = dict[str, Any]
"""Values by name."""


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
    field: str
    value: int | float
    target: int
    reached: int


class LevelEntry(Entry):
    """One row of a study."""

    label: str
    values: Fields
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

    name: str
    question: str
    axes: tuple[str, ...]
    seeds: tuple[int, ...]
    published_source: str = ""
    """The source of the published errors."""

    margin: float | None = None
    """The largest difference of accuracy, in points, that does not matter; None if none is stated."""

    levels: tuple[LevelEntry, ...]


class VariantEntry(Entry):
    """A configuration without its seed."""

    cost: str | None
    """The id of the job that measures its cost; None if this depends on values that are not chosen yet."""

    data: str
    """The name of its data set, for readers."""

    fields: Fields
    """Every field as `section.key`, including defaults; null for a field that tuning has not chosen yet."""


class CandidateEntry(Entry):
    """One combination of the values that tuning chooses from."""

    fields: Fields
    trials: tuple[str, ...]
    """The ids of its trials, one for each seed."""


class TuningEntry(Entry):
    """A variant that is tuned: its values, its trials, and the choice."""

    variant: str
    becomes: str
    """The id of the variant with the chosen values."""

    name: str
    values: dict[str, list[Any]]
    ends: dict[str, list[Any]]
    """The least and the greatest value of each list of numbers, each only if the field allows values beyond it."""

    base: Fields
    schedule: Fields
    seeds: tuple[int, ...]
    validation_images: int
    candidates: tuple[CandidateEntry, ...]
    status: Literal["chosen", "missing", "failed"]
    chosen: Fields | None
    reason: str


class JobEntry(Entry):
    """One cost, one comparison of speed, one trial of the tuning, or one run."""

    id: str
    kind: JobKind
    name: str
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

    title: str
    seeds: tuple[int, ...]
    machine: Fields
    """The machine on which costs and speeds are measured, which is part of their ids."""

    options: tuple[str, ...]
    """The settings of the command line that replace parts of the grid file."""

    variants: dict[str, VariantEntry]
    studies: tuple[StudyEntry, ...]
    tuning: tuple[TuningEntry, ...]
    jobs: tuple[JobEntry, ...]
    configurations: dict[str, ConfigurationEntry] = {}
    """Empty in folders of older versions, whose jobs cannot be started one by one."""

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads the plan of a results folder. Raises NotResults if it is missing or damaged."""
        path = folder / NAME
        again = "delete it, and `ablate run` with the grid of this folder makes it anew"
        try:
            return cls.model_validate(records.unseal(files.read(path)))
        except FileNotFoundError:
            raise NotResults(f"{folder} holds no results: there is no {NAME}; `ablate run` makes one") from None
        except ValidationError as error:
            raise NotResults(f"{path} was made by another version: {_first(error)}; {again}") from None
        except ValueError as error:
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


def _first(error: ValidationError) -> str:
    """Returns the first error as text: `it has no variants`, `jobs.3.kind: Input should be ...`."""
    detail = error.errors()[0]
    place = ".".join(map(str, detail["loc"]))
    return f"it has no {place!r}" if detail["type"] == "missing" else f"{place}: {detail['msg']}"

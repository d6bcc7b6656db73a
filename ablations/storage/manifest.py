"""jobs.json: the plan of a results folder. With the records it is all that reporting needs, and all that a job needs.

A variant, a job and a configuration are named by an id of sixteen hexadecimal digits; everything else refers to them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from ablations.storage import files, records

NAME = "jobs.json"

Fields = dict[str, Any]
"""Values by name."""


class NotResults(ValueError):
    """A folder that holds no results."""


class Entry(BaseModel):
    """A part of jobs.json."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Match(Entry):
    """A field solved so that a count of the variant comes nearest to the base's."""

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
    """The variant with what was chosen for it; without a choice, as the grid declares it."""

    is_base: bool
    match: Match | None = None
    published: int | float | None = None
    """Test error in % that was published for it."""

    declared: str
    """The variant without its tuning: what the level is, whatever tuning chooses."""

    tuned_as: str | None = None
    """The variant whose tuning decides for this level: itself or the base; None where nothing is tuned."""

    follows_base: bool = False
    """Whether it takes what is chosen for the base."""


class StudyEntry(Entry):
    """One question and its levels."""

    name: str
    question: str
    axes: tuple[str, ...]
    seeds: tuple[int, ...]
    published_source: str = ""
    """Where the published errors stand."""

    levels: tuple[LevelEntry, ...]


class VariantEntry(Entry):
    """A configuration without its seed."""

    cost: str | None
    """The job that measures what it costs; None where that depends on what is yet to be chosen."""

    data: str
    """The name of its data set, for readers."""

    fields: Fields
    """Every field, defaults too, as `section.key`; null where tuning has yet to choose."""


class CandidateEntry(Entry):
    """One combination of the values that are tuned over."""

    fields: Fields
    trials: tuple[str, ...]
    """Its trainings, a job for each seed."""


class TuningEntry(Entry):
    """A variant that is tuned: over what, by which trials, and what was chosen."""

    variant: str
    becomes: str
    """The variant with what was chosen."""

    name: str
    values: dict[str, list[Any]]
    ends: dict[str, list[Any]]
    """The first and the last value of each list of numbers, where the field allows values beyond it."""

    base: Fields
    schedule: Fields
    seeds: tuple[int, ...]
    validation_images: int
    candidates: tuple[CandidateEntry, ...]
    status: Literal["chosen", "missing", "failed"]
    chosen: Fields | None
    reason: str


class JobEntry(Entry):
    """One cost, one trial of the tuning, or one run."""

    id: str
    kind: Literal["cost", "tuning", "run"]
    name: str
    variant: str
    seed: int | None
    configuration: str = ""
    """Its entry in `configurations`; empty for a run whose variant is not tuned yet."""


class ConfigurationEntry(Entry):
    """What a job is made from."""

    identity: Fields
    """The fields that are hashed and recorded; with the seed and the kind of the job they give its id."""

    beside: dict[str, Fields] = {}
    """Fields that change no result, by section: what is kept, and where the data lies, seen from the results folder."""


class Manifest(Entry):
    """jobs.json."""

    title: str
    seeds: tuple[int, ...]
    machine: Fields
    """What costs are measured on, and so a part of their ids."""

    options: tuple[str, ...]
    """What of the command line was laid over the grid file."""

    variants: dict[str, VariantEntry]
    studies: tuple[StudyEntry, ...]
    tuning: tuple[TuningEntry, ...]
    jobs: tuple[JobEntry, ...]
    configurations: dict[str, ConfigurationEntry] = {}
    """Empty in folders of older versions, whose jobs cannot be started one by one."""

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The plan of a results folder. Raises NotResults where there is none, or a damaged one."""
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
        """The study of this name. Raises KeyError."""
        return {study.name: study for study in self.studies}[name]

    def levels(self, study: str | None = None) -> list[LevelEntry]:
        """The levels of one study, or of all."""
        return [level for each in self.studies if study in (None, each.name) for level in each.levels]


def _first(error: ValidationError) -> str:
    """The first thing that is wrong: `it has no variants`, `jobs.3.kind: Input should be ...`."""
    detail = error.errors()[0]
    place = ".".join(map(str, detail["loc"]))
    return f"it has no {place!r}" if detail["type"] == "missing" else f"{place}: {detail['msg']}"

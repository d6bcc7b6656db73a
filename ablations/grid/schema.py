"""The structure of a grid file: its tables, their keys and the allowed values. Editors get it as a JSON Schema."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    GetJsonSchemaHandler,
    PlainValidator,
    ValidationError,
    WithJsonSchema,
    WrapValidator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, ErrorDetails

from ablations.config import DataConfig, TrainConfig
from ablations.data.registry import DATASETS
from ablations.grid.model import SECTIONS, TomlTable
from ablations.grid.problems import NOTHING, Findings, describe, quote
from ablations.storage.schema import STUDY_NAME, check_study_name
from densenet import PART, PRESETS, Config, DenseNetConfig, OwnConfig, ResNetConfig, TorchvisionConfig

FEWEST_ROUNDS = 6
"""The fewest rounds that give a 95 % interval: the true median of n rounds lies between the smallest and the largest of
them with probability 1 - 2 / 2^n."""


def state(rule: str) -> WrapValidator:
    """Make a validator that reports this one rule for any error in the value or within it."""

    def check(value: Any, validate: Any) -> Any:
        try:
            return validate(value)
        except ValidationError:
            raise ValueError(rule) from None

    return WrapValidator(check)


def _join_lines(text: str) -> str:
    line = " ".join(text.split())
    if not line.isprintable():
        raise ValueError("not printable")
    return line


def _check_share_or_number(images: float) -> float:
    if images >= 1 and images % 1:
        raise ValueError("neither a share nor a whole number")
    return images


def _check_rounds(rounds: int) -> int:
    if 0 < rounds < FEWEST_ROUNDS:
        raise ValueError("too few")
    return rounds


def _check_different(values: Any) -> Any:
    if isinstance(values, list) and (not values or any(values.count(value) > 1 for value in values)):
        raise ValueError("must be a list of different values, at least one")
    return values


def list_properties(config: type[Config]) -> dict[str, TomlTable]:
    """Return the JSON Schema of each field, with the names of the data sets, which DataConfig lacks."""
    properties: dict[str, TomlTable] = config.model_json_schema()["properties"]
    if config is DataConfig:
        properties["name"]["anyOf"] = [{"enum": list(DATASETS)}, {"pattern": PART}]
    return properties


@dataclass(frozen=True)
class SectionFields:
    """Describes the fields of a section for editors. The configurations check them when they are made."""

    configs: tuple[type[Config], ...]
    form: Literal["level", "axis", "either"] = "level"
    """Whether a field has one level, a list of levels, or either."""

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> TomlTable:
        fields: dict[str, list[TomlTable]] = {}
        for config in self.configs:
            for name, schema in list_properties(config).items():
                fields.setdefault(name, []).append(schema)
        if DenseNetConfig in self.configs:
            text = "A published network; a table that names one starts from its fields."
            fields["preset"] = [{"title": "Preset", "description": text, "enum": list(PRESETS)}]
        properties = {name: self._write(_unite(schemas)) for name, schemas in fields.items()}
        return {"type": "object", "properties": properties, "additionalProperties": OwnConfig in self.configs}

    def _write(self, level: TomlTable) -> TomlTable:
        if self.form == "level":
            return level
        about: TomlTable = {key: level[key] for key in ("title", "description") if key in level}
        axis: TomlTable = {**about, "type": "array", "items": level, "minItems": 1}
        return axis if self.form == "axis" else {**about, "anyOf": [level, axis]}


def _unite(schemas: list[TomlTable]) -> TomlTable:
    """Return one schema for a field that several kinds of networks have."""
    different = [schema for number, schema in enumerate(schemas) if schema not in schemas[:number]]
    if len(different) == 1:
        return different[0]
    texts = dict.fromkeys(schema["description"] for schema in different)
    return {"title": schemas[0]["title"], "description": "\n\n".join(texts), "anyOf": different}


NETWORKS = (DenseNetConfig, ResNetConfig, TorchvisionConfig, OwnConfig)

StudyName = Annotated[str, AfterValidator(check_study_name), WithJsonSchema({"pattern": f"^{STUDY_NAME}$"})]
Line = Annotated[str, AfterValidator(_join_lines), state("must be text of printable characters")]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Seeds = Annotated[
    list[Seed],
    Field(min_length=1),
    state("must be a list of whole numbers from 0 to 2147483647, at least one"),
]
Seconds = Annotated[
    float,
    Field(ge=0),
    state("must be a number of seconds above 0 that one job may take in one go, or 0 for as long as it takes"),
]
Images = Annotated[
    float,
    Field(gt=0),
    AfterValidator(_check_share_or_number),
    state("must be the images to choose on, cut from the training set: a share below 1, or a whole number"),
]
Rounds = Annotated[
    int,
    Field(ge=0, le=1000),
    AfterValidator(_check_rounds),
    state(
        "must be 0, to compare no speed, or a whole number of rounds from 6 to 1000: the speeds of fewer than 6 rounds "
        "give no 95 % interval"
    ),
    WithJsonSchema({"anyOf": [{"const": 0}, {"type": "integer", "minimum": 6, "maximum": 1000}]}),
]
Margin = Annotated[
    float,
    Field(ge=0, le=100),
    state("must be the largest difference of accuracy that does not matter, in points from 0 to 100; 0 = none"),
]
Percent = Annotated[float, Field(ge=0, le=100), state("must be a test error in %, from 0 to 100")]
VariantName = Annotated[
    str,
    AfterValidator(_join_lines),
    Field(min_length=1, max_length=100),
    state("a variant needs a name of 1 to 100 printable characters"),
]
Axis = Annotated[list[Any], Field(min_length=1), state("an axis is a list of levels, at least one")]

ModelLevels = Annotated[TomlTable, SectionFields(NETWORKS)]
DataLevels = Annotated[TomlTable, SectionFields((DataConfig,))]
TrainLevels = Annotated[TomlTable, SectionFields((TrainConfig,))]


class MatchTable(Config):
    """A field that is solved so that the network has as many params or MACs as the base."""

    params: str | None = None
    """The field that is solved for equal params, for example `model.width`."""

    macs: str | None = None
    """The field that is solved for equal multiply-accumulates."""

    target: int | None = Field(default=None, gt=0)
    """The count to reach, instead of the base's."""

    @model_validator(mode="after")
    def _solves_for_one_count(self) -> MatchTable:
        if (self.params is None) == (self.macs is None):
            raise ValueError("params or macs")
        return self

    @property
    def measure(self) -> Literal["params", "macs"]:
        """The count that becomes equal."""
        return "macs" if self.params is None else "params"

    @property
    def path(self) -> str:
        """The field that is solved, `model.width`."""
        return self.params or self.macs or ""


Match = Annotated[
    MatchTable,
    state(
        'must read match.params = "model.FIELD" or match.macs = "model.FIELD", '
        "and may have match.target, a whole number above 0 instead of the base's"
    ),
]


class BaseTable(Config):
    """The fields of every variant, unless the variant changes them."""

    model: ModelLevels = Field(default={})
    """The network."""

    data: DataLevels = Field(default={})
    """The images."""

    train: TrainLevels = Field(default={})
    """The training."""


class VariantTable(Config):
    """A level by its name, with its changes of the base. Without changes it is the base."""

    name: VariantName = Field(examples=["ResNet-20"])
    """The level's label, by which it is cited."""

    match: Match | None = None
    """A field that is solved for equal params or MACs."""

    model: ModelLevels = Field(default={})
    """Its changes of the network."""

    data: DataLevels = Field(default={})
    """Its changes of the images."""

    train: TrainLevels = Field(default={})
    """Its changes of the training."""


class TuneTable(Config):
    """How fields of the training are chosen for each variant, on validation images."""

    train: Annotated[
        dict[str, Annotated[Any, AfterValidator(_check_different)]], SectionFields((TrainConfig,), form="either")
    ] = Field(default={})
    """Lists of values to choose from, and single values for the trials only, for example fewer epochs."""

    seeds: Seeds = Field(examples=[[100]])
    """Seeds of the trials only, never of reported runs."""

    validation: Images = Field(examples=[0.1])
    """Images that are taken from the training set to choose on: a share below 1, or a whole number."""


TUNE_OF_A_STUDY = (
    "must be a table as [tune], or false for a study that is not tuned, "
    'or, in a grid that has [tune], "base" for one that takes what is chosen for the base'
)


def _check_tune(value: Any) -> TuneTable | Literal["base", False]:
    if isinstance(value, dict):
        return TuneTable.model_validate(value)
    if value == "base":
        return "base"
    if value is not False:
        raise ValueError(TUNE_OF_A_STUDY)
    return False


class StudyTable(Config):
    """One question with its levels: all combinations of the axes, or levels by name."""

    question: Line = ""
    """The question that the study answers."""

    base: BaseTable | None = None
    """Changes of the grid's base that hold for the base of this study, and for all its levels."""

    seeds: Seeds | None = None
    """Seeds of its runs, instead of the grid's."""

    speed_rounds: Rounds | None = None
    """Rounds in which the speed of its levels is compared with the base's, instead of the grid's."""

    margin: Margin | None = None
    """The largest difference of accuracy that does not matter, in points, instead of the grid's."""

    tune: (
        Annotated[
            TuneTable | Literal["base", False],
            PlainValidator(_check_tune, json_schema_input_type=TuneTable | Literal["base", False]),
        ]
        | None
    ) = None
    """The study's own tuning; false: not tuned; "base": its levels take the values that are chosen for the base."""

    choose_on: Literal["test", "validation"] = "test"
    """The images on which the levels are compared. validation: the best level is named, and no test accuracy of this
    study is shown, so that nothing is chosen on the test images."""

    match: Match | None = None
    """A field that is solved in every level but the base, for equal params or MACs."""

    variant: list[VariantTable] = Field(default=[], min_length=1)
    """Levels by name, each under its own [[study.NAME.variant]]."""

    published: dict[str, Percent] = Field(default={})
    """Published test errors in %, by the label of the level."""

    published_source: Line = ""
    """The source of the published errors."""

    model: Annotated[dict[str, Axis], SectionFields(NETWORKS, form="axis")] = Field(default={})
    """Axes of the network: for each field a list of levels."""

    data: Annotated[dict[str, Axis], SectionFields((DataConfig,), form="axis")] = Field(default={})
    """Axes of the images."""

    train: Annotated[dict[str, Axis], SectionFields((TrainConfig,), form="axis")] = Field(default={})
    """Axes of the training."""

    @property
    def axes(self) -> dict[str, list[Any]]:
        """The levels of each axis, `{"model.growth_rate": [4, 8]}`."""
        return {f"{section}.{key}": each for section in SECTIONS for key, each in getattr(self, section).items()}


class GridFile(Config):
    """A grid: one base, and studies that each vary a part of it."""

    title: Line = ""
    """The title of the report."""

    seeds: Seeds = Field(default=[0])
    """Seeds of the runs: each variant is trained once with each seed."""

    time_limit: Seconds = 0.0
    """The most seconds that one job may take without an interruption; 0 = no limit."""

    speed_rounds: Rounds = 6
    """Rounds in which the speed of each level is compared with its base's: each round measures both, one after the
    other, in new processes. 0: speeds are not compared. 1 to 5 rounds give no 95 % interval."""

    margin: Margin = 0.0
    """The largest difference of accuracy that does not matter, in points: a level within it is called equivalent to the
    base. 0: none, so that no level is called equivalent."""

    tune: TuneTable | None = None
    """How fields of the training are chosen for each variant."""

    base: BaseTable = BaseTable()
    """The fields of every variant, unless the variant changes them."""

    study: dict[StudyName, StudyTable] = Field(
        default={}, json_schema_extra={"minProperties": 1, "additionalProperties": False}
    )
    """The studies by name, [study.NAME]."""


def make_schema() -> TomlTable:
    """Make the JSON Schema of a grid file, for editors.

    Each field of `model` allows the values of any kind of network. Other fields are allowed too, as arguments of
    networks written elsewhere. `ablate plan` checks rules that the schema cannot express, such as fields that exclude
    each other.
    """
    schema = GridFile.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "required": ["study"]}


def check_shape(table: TomlTable, findings: Findings) -> GridFile:
    """Return the grid file of a parsed table. Reports everything that is wrong with its structure.

    Wrong parts are left out, so that the rest can be checked. A wrong required value is replaced by its example.
    """
    while True:
        try:
            return GridFile.model_validate(table)
        except ValidationError as error:
            table = copy.deepcopy(table)
            for detail in error.errors(include_url=False):
                _report(detail, findings)
                _leave_out(table, _place(detail))


def _place(detail: ErrorDetails) -> list[str | int]:
    """Return the keys and the numbers in lists that lead to an error."""
    place = list(detail["loc"])
    return place[:-1] if place[-1] == "[key]" else place


def _report(detail: ErrorDetails, findings: Findings) -> None:
    place, given = _place(detail), detail["input"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{quote(part)}" for part in place)[1:]
    fields = _fields_beside(place)
    rule = describe(detail, list(fields))
    if detail["type"] == "missing":
        name = str(place[-1])
        rule = f"is missing, for example {name} = {json.dumps(_example(fields[name]))}"
    elif detail["type"] in ("list_type", "too_short"):
        rule = f"must be tables, each headed [[{key}]]"
    absent = detail["type"] == "missing" or len(place) < len(detail["loc"])
    findings.add(key, NOTHING if absent else given, rule)


def _fields_beside(place: list[str | int]) -> dict[str, FieldInfo]:
    """Return the fields of the table that contains a place; none within model, data and train."""
    names = [part for part in place[:-1] if isinstance(part, str)]
    if not names:
        return GridFile.model_fields
    if len(names) == 2 and names[0] == "study":
        return StudyTable.model_fields
    tables: dict[str | int, type[Config]] = {"base": BaseTable, "tune": TuneTable, "variant": VariantTable}
    return tables[names[-1]].model_fields if names[-1] in tables else {}


def _example(field: FieldInfo) -> Any:
    return (field.examples or [None])[0]


def _leave_out(table: Any, place: list[Any]) -> None:
    """Remove the key at a place, or the list that contains the place. A required key gets its example."""
    while isinstance(place[-1], int):
        place = place[:-1]
    *outer, key = place
    for part in outer:
        if isinstance(table, dict) and part not in table:
            return  # it was removed with its table
        table = table[part]
    fields = _fields_beside(place)
    if key in fields and fields[key].is_required():
        table[key] = _example(fields[key])
    else:
        table.pop(key, None)

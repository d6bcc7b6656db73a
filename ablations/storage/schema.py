"""The form of stored files, which is checked on every read: a results folder may come from anywhere.

Reports read the fields that are named here. All other fields of a record may have any value.
"""

from __future__ import annotations

import re
from typing import Any

from pydantic import ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, SchemaValidator, core_schema

from ablations.metrics import METRICS

STUDY_NAME = "[A-Za-z0-9][A-Za-z0-9_-]{0,63}"
"""The names of studies, which name files."""

RESERVED = ("pareto", "overall")
"""Names of figures and tables over all studies, which studies cannot have."""

UNCITABLE = re.compile(r"[\\{}%#~^$<>]|--")
"""Characters with a meaning in LaTeX or in comments. A level is cited by its label, which must not contain them."""

ID = "[0-9a-f]{16}"
"""The ids of variants, jobs and configurations."""

STATUSES = ("failed", "oom", "diverged", "timeout")
"""The statuses of a job that could not be done."""


def check_study_name(name: str) -> str:
    """Returns the name. Raises ValueError if a study cannot have it."""
    if name.lower() in RESERVED:
        raise ValueError(f"this name is taken by a figure or a table over all studies: {', '.join(RESERVED)}")
    if not re.fullmatch(STUDY_NAME, name):
        raise ValueError("a study's name is 1 to 64 letters, digits, '_' and '-': it names files")
    return name


def check_label(label: str) -> str:
    """Returns the label. Raises ValueError if a level cannot have it."""
    if not 0 < len(label) <= 200 or not label.isprintable():
        raise ValueError("a level's label has 1 to 200 printable characters")
    if UNCITABLE.search(label):
        raise ValueError(r"a level's label, by which it is cited, has none of \ { } % # ~ ^ $ < > and --")
    return label


def describe(error: ValidationError) -> str:
    """Returns the first error as text: `it has no 'variants'`, `jobs.3.kind: Input should be ...`."""
    detail = error.errors()[0]
    place = ".".join(map(str, detail["loc"]))
    if detail["type"] == "missing":
        return f"it has no {place!r}"
    return f"{place}: {detail['msg']}" if place else detail["msg"]


def _number(least: float = -1e300, most: float = 1e300, above: float | None = None) -> CoreSchema:
    """Describes a finite number that is no boolean."""
    return core_schema.union_schema(
        [
            core_schema.float_schema(ge=least, le=most, gt=above, strict=True),
            core_schema.int_schema(ge=int(least), le=int(most), gt=None if above is None else int(above), strict=True),
        ],
        mode="left_to_right",
    )


def _table(required: dict[str, CoreSchema], optional: dict[str, CoreSchema] | None = None) -> CoreSchema:
    """Describes a table. Its other fields are not looked at."""
    fields = {name: core_schema.typed_dict_field(each, required=False) for name, each in (optional or {}).items()}
    fields |= {name: core_schema.typed_dict_field(schema) for name, schema in required.items()}
    return core_schema.typed_dict_schema(fields)


def _or_null(schema: CoreSchema) -> CoreSchema:
    return core_schema.nullable_schema(schema)


_NUMBER, _POSITIVE, _PERCENT = _number(), _number(above=0), _number(0, 100)
_COUNT = core_schema.int_schema(ge=0, le=10**15, strict=True)
_LINE = core_schema.str_schema(pattern=r"^[^\x00-\x1f\x7f]*$", strict=True)
_BITS = core_schema.str_schema(pattern=r"^([0-9a-f]{2})*$", strict=True)
_SCALAR = core_schema.union_schema([_LINE, core_schema.bool_schema(strict=True), _NUMBER], mode="left_to_right")

_PARTS = ("train", "validation", "test")
_EPOCH = _table(
    {"epoch": _COUNT},
    {
        "images": _COUNT,
        **{f"{part}_loss": _or_null(_NUMBER) for part in _PARTS},
        **{f"{part}_accuracy": _or_null(_NUMBER) for part in _PARTS},
        "learning_rate": _or_null(_NUMBER),
        "gradient_norm": _or_null(_NUMBER),
    },
)  # fmt: skip
_COUNTS = {f"{part}_images": _COUNT for part in _PARTS}
_OUTCOMES = {f"{part}_outcomes": _or_null(_BITS) for part in ("validation", "test")}
_METRICS = {key: _or_null(_NUMBER) for key in METRICS} | {
    **{metric.spread: _or_null(_NUMBER) for metric in METRICS.values() if metric.spread},
    **{metric.disturbed: _or_null(_LINE) for metric in METRICS.values() if metric.disturbed},
    "counters_agree": _or_null(core_schema.bool_schema(strict=True)),
    "seconds": _or_null(_NUMBER),
}
_SIDE = _table(
    {key: _POSITIVE for key, metric in METRICS.items() if metric.timed}
    | {metric.disturbed: _LINE for metric in METRICS.values() if metric.timed}
)
_NAMES = ("device", "device_name", "torch", "python", "precision", "exact_resume", "commit", "fingerprint")
_MODULES = core_schema.dict_schema(_LINE, core_schema.list_schema(_LINE, strict=True), strict=True)
_ENVIRONMENT = {key: _or_null(_SCALAR) for key in _NAMES} | {
    "threads": _or_null(_COUNT),
    "limits": _or_null(core_schema.dict_schema(_LINE, _SCALAR, strict=True)),
    "network_source": _or_null(_LINE),
    "network_modules": _or_null(_MODULES),
    "network_files": _or_null(_MODULES),
}


def _record(kind: str, deterministic: CoreSchema, measured: CoreSchema) -> CoreSchema:
    return _table(
        {
            "id": core_schema.str_schema(pattern=f"^{ID}$", strict=True),
            "kind": core_schema.literal_schema([kind]),
            "config": _table({}, {"data": _table({}, {"checksum": _or_null(_LINE)})}),
            "deterministic": deterministic,
            "measured": measured,
            "environment": _table({}, _ENVIRONMENT),
        }
    )


def _training(kind: str, accuracy: str, share: CoreSchema) -> CoreSchema:
    """Describes the record of a training: its epochs, and the bits of its images."""
    history = {"history": core_schema.list_schema(_EPOCH, strict=True)}
    seconds = {"epoch_seconds": core_schema.list_schema(_POSITIVE, strict=True)}
    schema = _record(
        kind,
        _table({accuracy: share}, {**_METRICS, **_COUNTS, **_OUTCOMES, **history}),
        _table({}, {**_METRICS, **seconds}),
    )
    return core_schema.no_info_after_validator_function(_check_lengths, schema)


def _check_lengths(record: dict[str, Any]) -> dict[str, Any]:
    values, measured = record["deterministic"], record["measured"]
    if len(values.get("history", ())) != len(measured.get("epoch_seconds", ())):
        raise PydanticCustomError("lengths", "history and epoch_seconds have different lengths")
    for part in ("validation", "test"):
        bits = values.get(f"{part}_outcomes")
        images = values.get(f"{part}_images", 0 if part == "test" else None)
        if bits is not None and images is not None and len(bits) != 2 * -(-images // 8):
            raise PydanticCustomError("lengths", f"{part}_outcomes has another length than its images")
    return record


_RATES = dict.fromkeys(("train_images_per_second", "inference_images_per_second"), _POSITIVE)
_ROUNDS = core_schema.list_schema(_table({"level": _SIDE, "base": _SIDE}), min_length=1, strict=True)

RECORD = SchemaValidator(
    core_schema.tagged_union_schema(
        {
            "run": _training("run", "test_accuracy", _PERCENT),
            "tuning": _training("tuning", "validation_accuracy", _NUMBER),
            "cost": _record("cost", _table({}, _METRICS), _table(_RATES, _METRICS)),
            "speed": _record("speed", _table({}, _METRICS), _table({"rounds": _ROUNDS}, _METRICS)),
        },
        discriminator="kind",
    )
)
"""The fields of a record that reports read."""

NOTE = SchemaValidator(
    core_schema.typed_dict_schema(
        {
            "id": core_schema.typed_dict_field(core_schema.str_schema(pattern=f"^{ID}$", strict=True)),
            "status": core_schema.typed_dict_field(core_schema.literal_schema(list(STATUSES))),
            "reason": core_schema.typed_dict_field(core_schema.str_schema(strict=True)),
        },
        extra_behavior="allow",
    )
)
"""The note of a failure."""

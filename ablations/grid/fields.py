"""Every field of a grid in words: its default, what is allowed, and the docstring that stands under it in the code."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ablations.config import DataConfig, TrainConfig
from ablations.grid.schema import GridFile, StudyTable, TuneTable, list_properties
from densenet import PART, Config, DenseNetConfig, OwnConfig, ResNetConfig, TorchvisionConfig

KINDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


@dataclass(frozen=True)
class Field:
    """A field in words."""

    name: str
    default: str
    """As JSON; empty where there is none, or where it only stands for "not given"."""

    allowed: str
    meaning: str


def list_fields(config: type[Config]) -> list[Field]:
    """Lists the fields of a configuration."""
    return [
        Field(name, _default(each), describe_values(each), " ".join(each.get("description", "").split()))
        for name, each in list_properties(config).items()
    ]


def list_sections() -> list[tuple[str, list[Field]]]:
    """Lists the parts of a grid file, each with its fields, as `ablate fields` prints them."""
    return [
        ("a grid", [each for each in list_fields(GridFile) if each.name not in ("tune", "base", "study")]),
        ("study.NAME", [each for each in list_fields(StudyTable) if each.name not in ("model", "data", "train")]),
        ("tune", list_fields(TuneTable)),
        ("model of a densenet", list_fields(DenseNetConfig)),
        ("model of a resnet", list_fields(ResNetConfig)),
        ("model of torchvision", list_fields(TorchvisionConfig)),
        ("model of your own", list_fields(OwnConfig)),
        ("data", list_fields(DataConfig)),
        ("train", list_fields(TrainConfig)),
    ]


def describe_values(schema: dict[str, Any]) -> str:
    """Returns the values that a field's JSON Schema allows, in words."""
    if "anyOf" in schema:
        return ", or ".join(describe_values(each) for each in schema["anyOf"] if each.get("type") != "null")
    if schema.get("pattern") == PART:
        return "`package.module:name`"
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        item = schema.get("items", {})
        return (
            f"list of {describe_values(item).replace('number', 'numbers', 1).replace('table', 'tables')}"
            if item
            else "list"
        )
    if schema.get("type") == "object" or "$ref" in schema:
        return "table"
    bounds = [f"{words} {schema[key]:,}" for key, words in BOUNDS.items() if key in schema and schema[key] < 2**31]
    return " ".join([KINDS.get(schema.get("type", ""), "any value"), " and ".join(bounds)]).strip()


def _default(schema: dict[str, Any]) -> str:
    value = schema.get("default")
    unset = value in (None, {}, []) or (value == 0 and "exclusiveMinimum" in schema)
    return "" if "default" not in schema or unset else json.dumps(value)

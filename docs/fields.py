"""Writes the generated parts of the pages in this folder: what the code itself says of its fields, names and measures.

A generated part stands between the marks `<!-- generated NAME -->` and `<!-- /generated -->`. Run
`python docs/fields.py` after a change of a field or its docstring; a test fails where a page is out of date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ablations.config import DataConfig, TrainConfig
from ablations.data.registry import DATASETS
from ablations.metrics import METRICS
from densenet import PRESETS, Config, DenseNetConfig, OwnConfig, ResNetConfig, TorchvisionConfig
from densenet.options import ACTIVATIONS, NORMS

FOLDER = Path(__file__).parent
MARK = re.compile(r"(<!-- generated (\w+) -->\n).*?(<!-- /generated -->)", re.DOTALL)
KINDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true`, `false`"}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}


def allowed(schema: dict[str, Any]) -> str:
    """The values that a field's JSON Schema allows, in words."""
    if "anyOf" in schema:
        return ", or ".join(map(allowed, schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        item = schema.get("items", {})
        return f"list of {allowed(item).replace('number', 'numbers', 1)}" if item else "list"
    bounds = [f"{words} {schema[key]:,}" for key, words in BOUNDS.items() if key in schema and schema[key] < 2**31]
    return " ".join([KINDS.get(schema.get("type", ""), "any value"), " and ".join(bounds)]).strip()


def default(schema: dict[str, Any]) -> str:
    """A field's default; empty where there is none, or where it only stands for "not given"."""
    value = schema.get("default")
    unset = value == 0 and "exclusiveMinimum" in schema
    return "" if "default" not in schema or unset else f"`{json.dumps(value)}`"


def fields(config: type[Config]) -> str:
    """The table of a configuration's fields, each with the docstring that stands under it in the code."""
    rows = [
        (f"`{name}`", default(schema), allowed(schema), " ".join(schema.get("description", "").split()))
        for name, schema in config.model_json_schema()["properties"].items()
    ]
    return table(("Field", "Default", "Allowed", "Meaning"), rows)


def metrics() -> str:
    """The table of the measures that tables, figures and citations know."""
    rows = [(f"`{key}`", metric.head, metric.meaning, metric.better) for key, metric in METRICS.items()]
    return table(("Key", "Heading", "Meaning", "Better"), rows)


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    heads = tuple(heads)
    lines = [heads, (":--",) * len(heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def names(entries: Iterable[str]) -> str:
    """Names in one line."""
    return ", ".join(f"`{name}`" for name in entries) + "\n"


PARTS: dict[str, Callable[[], str]] = {
    "DataConfig": lambda: fields(DataConfig),
    "TrainConfig": lambda: fields(TrainConfig),
    "DenseNetConfig": lambda: fields(DenseNetConfig),
    "ResNetConfig": lambda: fields(ResNetConfig),
    "TorchvisionConfig": lambda: fields(TorchvisionConfig),
    "OwnConfig": lambda: fields(OwnConfig),
    "norms": lambda: names(NORMS),
    "activations": lambda: names(ACTIVATIONS),
    "presets": lambda: names(PRESETS),
    "datasets": lambda: names(DATASETS),
    "metrics": metrics,
}
"""The generated parts by the name in their mark."""


def generate(page: str) -> str:
    """The page with its generated parts written anew."""
    return MARK.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}{match[3]}", page)


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.md")):
        path.write_text(generate(path.read_text()))

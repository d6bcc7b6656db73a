"""Writes the generated parts of the pages in this folder: what the code itself says of its fields, names and measures.

A generated part stands between the marks `<!-- generated NAME -->` and `<!-- /generated -->`. Run
`python docs/fields.py` after a change of a field or its docstring; a test fails where a page is out of date.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import ablations
import densenet
from ablations.config import DataConfig, TrainConfig
from ablations.data.registry import DATASETS
from ablations.grid.fields import list_fields
from ablations.metrics import METRICS
from densenet import PRESETS, Config, DenseNetConfig, OwnConfig, ResNetConfig, TorchvisionConfig
from densenet.options import ACTIVATIONS, NORMS

FOLDER = Path(__file__).parent
MARK = re.compile(r"(<!-- generated (\w+) -->\n).*?(<!-- /generated -->)", re.DOTALL)


def fields(config: type[Config]) -> str:
    """The table of a configuration's fields, each with the docstring that stands under it in the code."""
    found = list_fields(config)
    rows = [(f"`{each.name}`", f"`{each.default}`" * bool(each.default), each.allowed, each.meaning) for each in found]
    return table(("Field", "Default", "Allowed", "Meaning"), rows)


def metrics() -> str:
    """The table of the measures that tables, figures and citations know."""
    rows = [(f"`{key}`", metric.head, metric.meaning, metric.better) for key, metric in METRICS.items()]
    return table(("Key", "Heading", "Meaning", "Better"), rows)


def public_names() -> str:
    """The table of the public functions, classes and names, each with the first sentence of its docstring."""
    found = [f"{package.__name__}.{name}" for package in (ablations, densenet) for name in package.__all__]
    return table(("Name", "What it is"), ((f"`{name}`", describe(name)) for name in [*found, *MORE]))


MORE = (
    "ablations.report.frames.Frames", "ablations.report.frames.unpack_outcomes", "ablations.session.CommandFailed",
    "ablations.session.Stopped",
)  # fmt: skip
"""Public names of modules within the packages."""


def describe(name: str) -> str:
    """The first sentence of the docstring of a function or a class, or of the text that stands under a name."""
    module, _, own = name.rpartition(".")
    part = getattr(importlib.import_module(module), own)
    if callable(part):
        text = inspect.getdoc(part) or ""
    else:
        sources = (path.read_text() for path in sorted((FOLDER.parent / module).glob("*.py")))
        pattern = rf'^{own}\b[^\n]* = .*?^"""(.*?)"""'
        text = next(match[1] for source in sources if (match := re.search(pattern, source, re.DOTALL | re.MULTILINE)))
    return " ".join(re.split(r"(?<=\.)(?<!al\.)\s", text.partition("\n\n")[0] + " ")[0].split())


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
    "names": public_names,
}
"""The generated parts by the name in their mark."""


def generate(page: str) -> str:
    """The page with its generated parts written anew."""
    return MARK.sub(lambda match: f"{match[1]}{PARTS[match[2]]()}{match[3]}", page)


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.md")):
        path.write_text(generate(path.read_text()))

"""The problems of a grid, which are reported all at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import ErrorDetails

from ablations.metrics import count_of
from densenet.options import suggestion


@dataclass(frozen=True)
class Problem:
    """One problem of a grid: where it is, what was given, and what is allowed."""

    key: str
    given: Any
    rule: str

    def __str__(self) -> str:
        given = "" if self.given is NOTHING else f" = {shorten(show(self.given))}"
        return escape(f"{shorten(self.key, 200)}{given}: {shorten(self.rule, 4000)}")


NOTHING = object()


@dataclass
class Findings:
    """The findings while a grid is read: notes, and problems without repetitions."""

    problems: dict[str, Problem] = field(default_factory=dict)
    """Problems by their text."""

    notes: list[str] = field(default_factory=list)

    def add(self, key: str, given: Any, rule: str) -> None:
        """Add a problem, unless it was found before."""
        problem = Problem(key, given, rule)
        self.problems.setdefault(str(problem), problem)

    def has(self, *keys: str) -> bool:
        """Return whether there is a problem at one of these keys, or below one of them."""
        below = tuple(key + mark for key in keys for mark in ".[")
        return any(problem.key in keys or problem.key.startswith(below) for problem in self.problems.values())

    def sort(self, table: dict[str, Any]) -> list[Problem]:
        """Return the problems in the order of the file: by its tables, and by the tables within them."""
        places = [""]
        for key, value in table.items():
            places.append(quote(key))
            places += [f"{quote(key)}.{quote(inner)}" for inner in value] if isinstance(value, dict) else []

        def place(problem: Problem) -> int:
            parts = re.findall(r'(?:[^."]|"(?:[^"\\]|\\.)*")+', problem.key)
            names = (".".join(parts[:2]), parts[0] if parts else "", "")
            return next(places.index(name) for name in names if name in places)

        return sorted(self.problems.values(), key=place)


class GridError(ValueError):
    """All problems of a grid."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source, self.problems = source, tuple(problems)
        first = f"{escape(source)}: {count_of(len(problems), 'problem')}, nothing was run"
        super().__init__("\n".join([first, *(f"  {problem}" for problem in problems)]))


def describe(detail: ErrorDetails, names: Iterable[str]) -> str:
    """Return the rule that an error of pydantic breaks. `names` are the keys that are allowed in its table."""
    given, rule = detail["input"], detail["msg"].replace("Input should", "should")
    if detail["type"] == "extra_forbidden":
        return f"unknown key{suggestion(str(detail['loc'][-1]), names)}; allowed are {', '.join(names)}"
    if detail["type"] == "literal_error" and isinstance(given, str):
        return rule + suggestion(given, re.findall(r"'([^']*)'", detail["ctx"]["expected"]))
    if detail["type"] == "tuple_type":
        return "should be a list; as one level of an axis, a list in the list: [[3, 3, 3]]"
    if detail["type"] in ("dict_type", "model_type"):
        return "must be a table"
    return rule.removeprefix("Value error, ")


def show(value: Any) -> str:
    """Return a value as Python writes it."""
    try:
        return repr(value)
    except ValueError:  # seeds may come from the command line
        return "a whole number of thousands of digits"


def quote(key: str) -> str:
    """Return a key as TOML writes it."""
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def escape(text: str) -> str:
    """Replace control characters and other invisible characters by their codes."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def shorten(text: str, length: int = 80) -> str:
    """Cut a text that is longer than `length`."""
    return text if len(text) <= length else text[: length - 3] + "..."

"""What is wrong with a grid, told all at once."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a grid: where, what was given, what is allowed."""

    key: str
    given: Any
    rule: str

    def __str__(self) -> str:
        given = "" if self.given is NOTHING else f" = {shorten(shown(self.given))}"
        return printable(f"{shorten(self.key, 200)}{given}: {shorten(self.rule, 4000)}")


NOTHING = object()


class GridError(ValueError):
    """Everything wrong with a grid."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source, self.problems = source, tuple(problems)
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        first = f"{printable(source)}: {count}, nothing was run"
        super().__init__("\n".join([first, *(f"  {problem}" for problem in problems)]))


def shown(value: Any) -> str:
    """A value as Python writes it."""
    try:
        return repr(value)
    except ValueError:  # seeds may come from elsewhere than a file
        return "a whole number of thousands of digits"


def quoted(key: str) -> str:
    """A key as TOML writes it."""
    return key if re.fullmatch("[A-Za-z0-9_-]+", key) else json.dumps(key, ensure_ascii=False)


def printable(text: str) -> str:
    """Control characters, and what no terminal shows, by their codes."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def shorten(text: str, length: int = 80) -> str:
    """The text, cut where it is too long."""
    return text if len(text) <= length else text[: length - 3] + "..."

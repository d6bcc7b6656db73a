"""Writes a table as TOML, so that a grid made in Python is kept and read as any other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any


def write_toml(table: Mapping[str, Any]) -> str:
    """Writes a table as TOML, a line for each value.

    Raises TypeError for a value that TOML does not have, and for a key that is no text.

    >>> print(write_toml({"seeds": [0, 1], "study": {"k": {"model.growth_rate": [4, 8]}}}), end="")
    seeds = [0, 1]
    study.k.model.growth_rate = [4, 8]
    """
    return "".join(f"{path} = {_write_value(value, path)}\n" for path, value in _flatten(table, ""))


def _flatten(table: Mapping[str, Any], path: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        place = f"{path}.{_write_key(key)}" if path else _write_key(key)
        if isinstance(value, Mapping) and value:
            yield from _flatten(value, place)
        else:
            yield place, value


def _write_key(key: Any) -> str:
    """Writes a key, or a path of keys with dots, as a file would have it."""
    if not isinstance(key, str):
        raise TypeError(f"{key!r} is no key of a grid: text is needed")
    bare = all(part and part.isascii() and part.replace("_", "").replace("-", "").isalnum() for part in key.split("."))
    return key if bare else _write_text(key)


def _write_value(value: Any, path: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | os.PathLike):
        return _write_text(os.fspath(value))
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        pairs = [f"{place} = {_write_value(each, place)}" for place, each in _flatten(value, "")]
        return f"{{ {', '.join(pairs)} }}" if pairs else "{}"
    if isinstance(value, list | tuple | range):
        return f"[{', '.join(_write_value(each, path) for each in value)}]"
    rule = "a grid takes text, numbers, booleans, and lists and dictionaries of them"
    raise TypeError(f"{path} = {value!r} is a {type(value).__name__}: {rule}")


def _write_text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")

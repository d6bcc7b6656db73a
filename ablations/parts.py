"""Parts of a training that are written elsewhere: data set, augmentation, loss, optimizer and schedule.

Each of them is a function or a class by `package.module:name`, where a grid may also have a name of this suite. The
code of the module, and of every module of the user's that it imports, is part of the identity of each run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from densenet import PART, fingerprint_modules, load_part


@dataclass(frozen=True)
class OneOf:
    """Describes a field that is one of these names, or `package.module:name` of a part that is written elsewhere."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        names = core_schema.literal_schema(list(self.names))
        return core_schema.no_info_wrap_validator_function(_check, names)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(self.names)}, {"type": "string", "pattern": PART}]}


def _check(value: Any, validate: Callable[[Any], Any]) -> Any:
    """Returns a name that is known, or of a part that can be imported. Raises ValueError."""
    if not is_own(value):
        return validate(value)
    find_part(value)
    return value


def is_own(name: Any) -> bool:
    """Returns whether a name is that of a part that is written elsewhere."""
    return isinstance(name, str) and ":" in name


def find_part(name: str) -> Callable[..., Any]:
    """Imports a part. Raises ValueError if there is none of this name, or if it is neither a function nor a class."""
    part = load_part(name)
    if not callable(part):
        raise ValueError(f"{name} is a {type(part).__name__}; a function or a class is needed")
    found: Callable[..., Any] = part
    return found


def fingerprint_parts(*names: str) -> dict[str, str]:
    """Returns a fingerprint of each module that these parts come from, without those that are no parts.

    Comments, docstrings and white space do not change it. For an installed package it is the version.
    """
    found: dict[str, str] = {}
    for name in filter(is_own, names):
        modules = fingerprint_modules(find_part(name), name.partition(":")[0])
        found |= {module: prints[-1] for module, prints in modules.items()}
    return dict(sorted(found.items()))

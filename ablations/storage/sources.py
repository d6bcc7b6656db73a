"""The source of a network written elsewhere, as records and checkpoints hold it: whether two of them are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FILE = "the file of its class"

KEYS = ("network_modules", "network_source", "network_files")
"""The parts of an environment that tell the source of a user's network."""


def take_source(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what an environment tells of the source of a user's network; nothing for other networks."""
    return {key: environment[key] for key in KEYS if key in environment}


def list_changed(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Returns the modules and files of a user's network that differ between two environments; none if it is the same.

    A module has fingerprints of its file and of its code. It is the same if one of them is: comments do not matter, and
    another version of Python, which may give other fingerprints of code, does not matter either. Records of older
    versions know the file of the class alone. Files that arguments name are compared where both name them.
    """
    old, new = (each.get("network_modules") or {} for each in (there, here))
    changed = [name for name in old.keys() | new.keys() if not set(old.get(name, ())) & set(new.get(name, ()))]
    if not old or not new:
        changed = [] if there.get("network_source") == here.get("network_source") else [FILE]
    before, now = (each.get("network_files") or {} for each in (there, here))
    return sorted(changed) + sorted(name for name in before.keys() & now.keys() if before[name] != now[name])

"""The source of a network written elsewhere, as records and checkpoints hold it: whether two of them are the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FILE = "the file of its class"


def list_changed(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """Returns the modules of a user's network that differ between two environments; none if the networks are the same.

    A module has fingerprints of its file and of its code. It is the same if one of them is: comments do not matter, and
    another version of Python, which may give other fingerprints of code, does not matter either. Records of older
    versions know the file of the class alone.
    """
    old, new = there.get("network_modules"), here.get("network_modules")
    if not old or not new:
        return [] if there.get("network_source") == here.get("network_source") else [FILE]
    return sorted(name for name in old.keys() | new.keys() if not set(old.get(name, ())) & set(new.get(name, ())))

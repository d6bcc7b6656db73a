"""Finds results of a user's network that was edited between them, so that no table mixes two networks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ablations.storage.manifest import MEASUREMENTS, Fields
from ablations.storage.sources import list_changed, take_source

MIXED = "mixed"
"""The status of a result that stands for another source of a user's network than the results beside it."""


@dataclass(frozen=True)
class Source:
    """What a record tells of the source of a network that was written elsewhere."""

    job: str
    kind: str
    classes: tuple[str, ...]
    """The class, as `package.module:Class`; for a comparison of speed, those of both sides."""

    environment: Fields
    """The fingerprints of the modules."""


def read_source(record: Mapping[str, Any]) -> Source | None:
    """Returns the source of a record's networks; None if none of them was written elsewhere."""
    known = take_source(record["environment"])
    config = record["config"]
    sides = [config, *(config.get(side) for side in ("level", "base"))]
    models = [side.get("model") for side in sides if isinstance(side, Mapping)]
    families = [str(model.get("family")) for model in models if isinstance(model, Mapping)]
    classes = tuple(dict.fromkeys(family for family in families if ":" in family))
    return Source(record["id"], record["kind"], classes, known) if known and classes else None


def find_mixed(sources: Iterable[Source]) -> dict[str, str]:
    """Returns by job why its result cannot stand beside the others.

    Trainings of one class with different sources all have this reason, as nobody can tell which of them are wanted. A
    measurement has it if its source is not the trainings'.
    """
    by_class: dict[str, list[Source]] = {}
    for source in sources:
        for name in source.classes:
            by_class.setdefault(name, []).append(source)
    found: dict[str, str] = {}
    for name, group in by_class.items():
        ordered = sorted(group, key=lambda each: each.kind in MEASUREMENTS)
        first = ordered[0]
        trained = [each for each in group if each.kind not in MEASUREMENTS]
        edited = sorted({module for each in trained for module in _compare(first, each)})
        if edited:
            reason = f"{name} was edited between its runs ({', '.join(edited)}): they are of two networks"
            found |= {each.job: reason for each in group}
            continue
        for each in ordered:
            if changed := _compare(first, each):
                found[each.job] = f"{name} was edited after its first results ({', '.join(changed)}): measure it again"
    return found


def _compare(one: Source, other: Source) -> list[str]:
    """Lists the modules that differ. A comparison of speed holds modules of two networks: those of both count."""
    if "speed" not in (one.kind, other.kind):
        return list_changed(one.environment, other.environment)
    modules = [each.environment.get("network_modules") or {} for each in (one, other)]
    common = modules[0].keys() & modules[1].keys()
    kept = [
        {**each.environment, "network_modules": {name: own[name] for name in common}}
        for each, own in zip((one, other), modules, strict=True)
    ]
    return list_changed(*kept) if common else []

"""The main effects and interactions of a study that is the product of several axes, as contrasts of its levels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ablations.metrics import level_text
from ablations.storage.manifest import StudyEntry


@dataclass(frozen=True)
class Move:
    """A change from one level of an axis to another."""

    axis: str
    before: Any
    after: Any


@dataclass(frozen=True)
class Contrast:
    """A main effect (one move) or an interaction (two moves), as weights of the variants' mean accuracies.

    A main effect is the change from the base's level of an axis to another level, averaged over the levels of all other
    axes. An interaction is how much two changes along two axes, made together, differ from their sum.
    """

    moves: tuple[Move, ...]
    weights: Mapping[str, float]
    """By variant."""

    twins: tuple[tuple[tuple[str, str], ...], ...]
    """For each move, the pairs of variants that differ only by it. If no pair differs in its weights, the effect is
    exactly 0."""


def list_contrasts(study: StudyEntry) -> list[Contrast]:
    """Lists main effects and interactions of a product study; an empty list for other studies."""
    product = _find_product(study)
    return [] if product is None else [_make_contrast(product, changed) for changed in _list_changes(product)]


Combination = tuple[str, ...]
"""A level of each axis, as text."""


@dataclass(frozen=True)
class _Product:
    """A study with every combination of the levels of its axes."""

    axes: tuple[str, ...]
    levels: list[list[str]]
    """The levels of each axis."""

    reference: Combination
    """The cell that all others are compared with: the base, or the first level of each axis if the base is no cell."""

    variants: dict[Combination, str]
    values: dict[tuple[int, str], Any]
    """The value of a field, by the number of its axis and the text of the level."""


def _find_product(study: StudyEntry) -> _Product | None:
    """Returns the study's product; None if the study is not a product."""
    axes = study.axes
    cells = {tuple(level_text(level.values.get(axis)) for axis in axes): level for level in study.levels}
    inside = {cell: level for cell, level in cells.items() if not level.is_base}
    for each in (cells, inside):
        levels = [list(dict.fromkeys(cell[place] for cell in each)) for place in range(len(axes))]
        if len(axes) > 1 and min(map(len, levels)) > 1 and len(each) == math.prod(map(len, levels)):
            base = next((cell for cell, level in each.items() if level.is_base), None)
            variants = {cell: level.variant for cell, level in each.items()}
            values = {(place, cell[place]): level.values.get(axis)
                      for cell, level in each.items() for place, axis in enumerate(axes)}  # fmt: skip
            return _Product(axes, levels, base or tuple(texts[0] for texts in levels), variants, values)
    return None


def _list_changes(product: _Product) -> Iterator[dict[int, str]]:
    """Yields the changed levels of each effect: a level of one axis or of two that differs from the reference."""
    others = [
        [level for level in levels if level != own]
        for levels, own in zip(product.levels, product.reference, strict=True)
    ]
    for count in (1, 2):
        for axes in itertools.combinations(range(len(others)), count):
            for levels in itertools.product(*(others[axis] for axis in axes)):
                yield dict(zip(axes, levels, strict=True))


def _list_moves(product: _Product, changed: Mapping[int, str]) -> tuple[Move, ...]:
    values = product.values
    return tuple(
        Move(product.axes[place], values[place, product.reference[place]], values[place, to])
        for place, to in changed.items()
    )


def _make_contrast(product: _Product, changed: Mapping[int, str]) -> Contrast:
    """Returns the cells with all changes, minus those with one axis unchanged, and so on; averaged over other axes."""
    choices = [
        [changed[axis], product.reference[axis]] if axis in changed else levels
        for axis, levels in enumerate(product.levels)
    ]
    cells = list(itertools.product(*choices))
    share = 2 ** len(changed) / len(cells)
    signs = {cell: math.prod(1 if cell[axis] == to else -1 for axis, to in changed.items()) for cell in cells}
    twins = tuple(
        tuple((product.variants[cell], product.variants[_undo(product, cell, axis)]) for cell in cells)
        for axis in changed
    )
    weights = dict.fromkeys((product.variants[cell] for cell in cells), 0.0)
    for cell, sign in signs.items():
        weights[product.variants[cell]] += sign * share
    return Contrast(_list_moves(product, changed), weights, twins)


def _undo(product: _Product, cell: Combination, axis: int) -> Combination:
    return (*cell[:axis], product.reference[axis], *cell[axis + 1 :])

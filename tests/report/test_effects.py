"""Main effects and interactions as contrasts, worked by hand."""

from __future__ import annotations

import pandas as pd
import pytest

from ablations.report.comparison import conclude, make_effects_frame
from ablations.report.effects import list_contrasts
from ablations.storage.manifest import LevelEntry, StudyEntry


def level_of(label, values, variant, is_base):
    return LevelEntry(label=label, values=values, variant=variant, is_base=is_base, declared=variant)


def study_of(levels, axes=("one", "two")):
    return StudyEntry(name="both", question="", axes=axes, seeds=(0,), levels=tuple(levels))


def product_of(cells, base=("a", "x"), weights=lambda a, b, seed: f"{a}{b}{seed}"):
    """A study of two axes and its runs, from accuracies per cell and seed; None is a run that is missing."""
    levels = [level_of(f"{a}, {b}", {"one": a, "two": b}, f"{a}{b}", (a, b) == base) for a, b in cells]
    rows = [
        {
            "variant": f"{a}{b}", "seed": seed, "test_accuracy": value, "data_checksum": "0",
            "status": "missing" if value is None else "done", "weights": weights(a, b, seed),
        }
        for (a, b), values in cells.items()
        for seed, value in enumerate(values)
    ]  # fmt: skip
    return study_of(levels), pd.DataFrame(rows)


def effects(study, runs):
    levels = pd.DataFrame(
        [{"level": each.label, "variant": each.variant, "is_base": each.is_base} for each in study.levels]
    )
    return make_effects_frame(conclude(levels, runs, list_contrasts(study)).effects)


TWO_BY_TWO = {("a", "x"): [90, 92, 91], ("a", "y"): [92, 95, 92], ("b", "x"): [93, 91, 93], ("b", "y"): [97, 97, 98]}
"""Means 91, 93, 92 1/3 and 97 1/3."""


def test_effects_of_two_by_two_by_hand():
    found = effects(*product_of(TWO_BY_TWO))
    assert found[["effect", "axes", "levels"]].to_numpy().tolist() == [
        ["main", "one", "a -> b"], ["main", "two", "x -> y"], ["interaction", "one x two", "a -> b, x -> y"],
    ]  # fmt: skip
    assert found.difference.tolist() == pytest.approx([(4 / 3 + 13 / 3) / 2, (2 + 5) / 2, 13 / 3 - 4 / 3])
    assert found.n.tolist() == [3, 3, 3]


def test_weights_of_three_levels_are_means_over_the_other_axis():
    cells = {(a, b): [0, 1] for a in "abc" for b in "xy"}
    first, *_, last = list_contrasts(product_of(cells)[0])
    assert first.weights == {"bx": 0.5, "by": 0.5, "ax": -0.5, "ay": -0.5}
    assert [(move.axis, move.before, move.after) for move in last.moves] == [("one", "a", "c"), ("two", "x", "y")]
    assert last.weights == {"cy": 1.0, "cx": -1.0, "ay": -1.0, "ax": 1.0}


def test_an_effect_needs_two_seeds_of_each_of_its_cells():
    cells = {**TWO_BY_TWO, ("b", "y"): [97, None, None], ("a", "z"): [90, 95, 91], ("b", "z"): [90, 95, 92]}
    found = effects(*product_of(cells)).set_index("levels")
    assert (found.verdict == "no result").to_dict() == {
        "a -> b": True, "x -> y": True, "x -> z": False, "a -> b, x -> y": True, "a -> b, x -> z": False,
    }  # fmt: skip


def test_a_base_beside_the_product_and_what_is_none():
    study, runs = product_of(TWO_BY_TWO, base=None)
    levels = [*study.levels, level_of("base", {"one": "c", "two": "x"}, "ax", True)]
    assert effects(study_of(levels), runs).levels.tolist() == ["a -> b", "x -> y", "a -> b, x -> y"]
    assert list_contrasts(study_of(levels[1:])) == []
    assert list_contrasts(study_of(levels[1:], axes=("one",))) == []


def test_a_product_without_one_of_its_cells_is_none():
    """The cell that equals the base was left out: the others are no average over both axes."""
    study, _ = product_of(TWO_BY_TWO)
    assert list_contrasts(study_of([level for level in study.levels if level.label != "a, y"])) == []


def test_an_axis_that_changes_no_bit_is_identical_and_interacts_with_nothing():
    cells = {(a, b): TWO_BY_TWO["a", b] for a in "ab" for b in "xy"}
    found = effects(*product_of(cells, weights=lambda a, b, seed: f"{b}{seed}"))
    assert found.verdict.tolist() == ["identical", "undecided", "identical"]


def test_effects_are_in_the_family_of_their_study():
    """Three levels beside the base and three effects; without the effects, the levels are three."""
    study, runs = product_of(TWO_BY_TWO)
    levels = pd.DataFrame(
        [{"level": each.label, "variant": each.variant, "is_base": each.is_base} for each in study.levels]
    )
    alone, together = conclude(levels, runs), conclude(levels, runs, list_contrasts(study))
    assert (alone.family, together.family) == (3, 6)
    wider = together.levels.high - together.levels.low > alone.levels.high - alone.levels.low
    assert wider[1:].all()

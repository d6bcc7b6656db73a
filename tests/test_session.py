"""The command in a process of its own, for scripts and notebooks. The notebook on grids runs a whole one."""

from __future__ import annotations

import pytest

import ablations
from ablations.session import CommandFailed, list_options


def test_options_are_those_of_the_command_line():
    given = {"out": "a b", "seeds": [0, 1], "workers": 2, "counts_only": True, "retry": (), "device": "cpu", "x": False}
    settings = {"train.epochs": 3, "data.root": "x y", "model.block_config": (1, 2)}
    assert list_options(given, settings) == [
        "--out", "a b", "--seeds", "0,1", "--workers", "2", "--counts-only", "--device", "cpu",
        "--set", "train.epochs=3", "--set", 'data.root="x y"', "--set", "model.block_config=[1, 2]",
    ]  # fmt: skip


def test_a_wrong_grid_is_told_without_the_place_of_a_temporary_file():
    with pytest.raises(CommandFailed) as caught:
        ablations.plan({"base": {"train.epochs": 0}, "study": {"k": {"model.growth_rat": [4]}}})
    first, *rest = str(caught.value).splitlines()
    assert first == "the grid: 2 problems, nothing was run"
    assert len(rest) == 2


def test_a_dictionary_has_no_folder_of_its_own():
    with pytest.raises(ValueError, match="give its results folder as out"):
        ablations.run({"study": {"k": {"model.growth_rate": [4, 6]}}})

"""The command in a process of its own, for scripts and notebooks. The notebook on grids runs a whole one."""

from __future__ import annotations

import numpy as np
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


def test_what_is_wrong_is_told_once_also_where_the_output_is_shown(capsys):
    with pytest.raises(
        CommandFailed, match=r"^the grid: 1 problem, nothing was run\n  study: up to 8 jobs; at most 5 "
    ):
        ablations.run({"study": {"k": {"model.growth_rate": [4, 6]}}, "seeds": [0]}, "none", max_jobs=5)
    assert capsys.readouterr().out == "Planning the grid ...\n"


def test_an_interruption_says_what_is_kept(tmp_path, monkeypatch):
    """The first line that is shown interrupts."""

    def interrupt(*texts, **more):
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupt)
    with pytest.raises(KeyboardInterrupt, match=r"^Stopped while it was planning: no job was begun\."):
        ablations.run("quick", tmp_path / "none", costs=False, shard="1/2")
    assert not (tmp_path / "none").exists()


def test_a_dictionary_has_no_folder_of_its_own():
    with pytest.raises(ValueError, match="give its results folder as out"):
        ablations.run({"study": {"k": {"model.growth_rate": [4, 6]}}})


@pytest.mark.parametrize("seeds", [3, "01", [], [0.5], ["a"]])
def test_seeds_are_a_list_of_whole_numbers(seeds):
    with pytest.raises(ValueError, match=r"a list of whole numbers is needed, for example seeds=\[0, 1, 2\]"):
        ablations.plan({"study": {"k": {"model.growth_rate": [4, 6]}}}, seeds=seeds)


def test_numbers_of_numpy_are_seeds_too():
    assert ablations._list_seeds(np.arange(2)) == [0, 1]

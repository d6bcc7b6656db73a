"""Figures: all three formats, deterministic, and drawn whatever is missing."""

from __future__ import annotations

import pandas as pd
import pytest
from conftest import fabricate

from ablations import figures, tidy


def test_every_figure_in_every_format_and_the_same_every_time(results, tmp_path, tiny):
    other = tmp_path / "again"
    fabricate(other, tiny)
    for folder in (results, other):
        paths = figures.write(tidy.load(folder))
        assert {path.name for path in paths} == {
            f"{name}.{suffix}" for name in ("growth_rate", "pareto", "curves") for suffix in ("svg", "pdf", "png")
        }
    for path in (results / "figures").iterdir():
        assert path.read_bytes() == (other / "figures" / path.name).read_bytes(), path.name


@pytest.mark.parametrize("skip", ["runs", "costs", "all"])
def test_what_is_missing_is_drawn_as_missing(tmp_path, tiny, skip):
    runs = [f"{name}, seed {seed}" for name in ("base", "growth_rate 8") for seed in range(3)]
    left_out = {"runs": runs, "costs": ["base", "growth_rate 8"], "all": [*runs, "base", "growth_rate 8"]}[skip]
    fabricate(tmp_path / "r", tiny, skip=tuple(left_out))
    assert len(figures.write(tidy.load(tmp_path / "r"))) == 9


def test_the_front_is_what_nothing_beats():
    points = pd.DataFrame({"x": [1, 2, 2, 3, 4], "mean": [90, 95, 94, 93, 96]})
    assert figures._front(points, more_is_better=False)["mean"].tolist() == [90, 95, 96]
    assert figures._front(points, more_is_better=True)["mean"].tolist() == [96]


@pytest.mark.parametrize(("value", "text"), [(49791, "49.8k"), (864, "864"), (9.53, "9.53"), (2e6, "2M"), (0, "0")])
def test_short_numbers(value, text):
    assert figures._short(value) == text

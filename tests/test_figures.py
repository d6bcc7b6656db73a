"""Figures: all three formats, deterministic, and drawn whatever is missing."""

from __future__ import annotations

import matplotlib
import pandas as pd
import pytest
from conftest import ACCURACY, TINY, fabricate, write_grid
from matplotlib.text import Text

from ablations import figures, tables, tidy
from ablations.reader import read


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


def texts(figure):
    return [text.get_text() for text in figure.findobj(Text)]


def test_an_effect_figure_shows_the_numbers_of_the_records(results):
    frames = tidy.load(results)
    figure = figures.effect(frames, tables.study_table(frames, "growth_rate"))
    accuracy, params, macs, memory, throughput = figure.axes
    assert [bar.get_width() for panel in (params, macs, memory, throughput) for bar in panel.patches] == [
        1000, 2000, 2, 4, 10, 20, 1000, 500,
    ]  # fmt: skip
    seeds = [x for points in accuracy.collections if len(points.get_offsets()) == 3 for x, _ in points.get_offsets()]
    assert seeds == [*ACCURACY["base"], *ACCURACY["growth_rate 8"]]
    assert figures._half_interval(0.8660254, 3) == pytest.approx(4.302653 * 0.5, rel=1e-6)


def test_what_is_missing_is_drawn_as_missing(tmp_path, tiny):
    fabricate(tmp_path / "r", tiny, skip=("growth_rate 8, seed 0", "growth_rate 8"))
    frames = tidy.load(tmp_path / "r")
    found = texts(figures.effect(frames, tables.study_table(frames, "growth_rate")))
    assert "8\n(1 missing)" in found
    assert found.count(" missing") == 4


def test_a_folder_without_records_can_be_drawn(tmp_path, tiny):
    names = ("base", "growth_rate 8")
    fabricate(tmp_path / "r", tiny, skip=(*names, *(f"{name}, seed {seed}" for name in names for seed in range(3))))
    frames = tidy.load(tmp_path / "r")
    assert "8\n(3 missing)" in texts(figures.effect(frames, tables.study_table(frames, "growth_rate")))
    assert texts(figures.pareto(frames)).count("nothing measured") == 4
    assert len(figures.write(frames)) == 9


def test_the_overview_shows_means(results):
    panel = figures.pareto(tidy.load(results)).axes[0]
    assert sorted(panel.collections[0].get_offsets().tolist()) == [[1000.0, 91.0], [2000.0, 93.0]]


def test_the_front_is_what_nothing_beats():
    points = pd.DataFrame({"x": [1, 2, 2, 3, 4], "mean": [90, 95, 94, 93, 96]})
    assert figures._front(points, more_is_better=False)["mean"].tolist() == [90, 95, 96]
    assert figures._front(points, more_is_better=True)["mean"].tolist() == [96]


def test_a_dollar_is_a_dollar(tmp_path):
    grid = read(write_grid(tmp_path, TINY.replace("What does a wider layer buy?", "Is $\\\\foo$ worth $10?")))
    fabricate(tmp_path / "r", grid)
    assert len(figures.write(tidy.load(tmp_path / "r"))) == 9


def test_a_reader_s_own_settings_change_no_figure(results, tmp_path):
    frames = tidy.load(results)
    before = {path: path.read_bytes() for path in figures.write(frames)}
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "svg.hashsalt": "x"}):
        assert {path: path.read_bytes() for path in figures.write(frames)} == before

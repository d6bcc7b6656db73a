"""How figures are drawn: names apart, ticks few, the same bytes every time."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.text import Text

from ablations.report.plotting import fonts, looks, style


def test_names_hide_no_other_name():
    crowd = pd.DataFrame({"x": [5, 5.1, 5.2, 5.0, 5.1], "y": [5, 5.1, 5.0, 5.2, 5.3], "name": "a rather long name"})
    with style.use_style():
        figure, panel = plt.subplots()
        panel.set(xlim=(0, 10), ylim=(0, 10))
        style.name_points(panel, crowd, crowd)
        figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in panel.texts]
    assert len(boxes) == 5
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    contents = []
    for name in ("a", "b"):
        with style.use_style():
            figure, axes = plt.subplots(figsize=(3.5, 2), layout="constrained")
            axes.plot([1, 2, 3])
            style.frame_figure(
                figure, looks.PAGE, "A title that is long enough to be broken into lines, which it is", ["Small print."]
            )
            paths = style.save(figure, tmp_path / name)
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert [path.suffix for path in paths] == [".svg", ".pdf", ".png"]


DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)
PROTANOPIA = np.array(
    [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
)
"""How linear RGB looks (Machado, Oliveira and Fernandes 2009, A physiologically-based model for simulation of color
vision deficiency, severity 1).
"""


def lab_of(colour, seen_by):
    """A colour as CIELAB, white D65."""
    part = np.array(to_rgb(colour))
    linear = np.where(part <= 0.04045, part / 12.92, ((part + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    share = to_xyz @ np.clip(seen_by @ linear, 0, 1) / [0.9505, 1, 1.089]
    x, y, z = np.where(share > 0.008856, np.cbrt(share), 7.787 * share + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("seen_by", [np.eye(3), DEUTERANOPIA, PROTANOPIA], ids=["all", "deuteranopia", "protanopia"])
@pytest.mark.parametrize("dark", [False, True])
def test_the_colours_of_levels_stay_apart(seen_by, dark):
    """Six levels, the base among them, differ by 29 at least, and eight by 25; 10 is a clear difference."""
    colours = [looks.ON_DARK[each] if dark else each for each in (looks.INK, *looks.HUES)]
    labs = [lab_of(each, seen_by) for each in colours]
    for number, least in ((6, 29), (8, 25)):
        assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(labs[:number], 2)) > least


def test_large_counts_have_a_prefix_and_scaled_units_none():
    with style.use_style():
        figure, (params, macs) = plt.subplots(1, 2)
        for axes, key in ((params, "params"), (macs, "macs")):
            axes.set_xlim(0, 50_000)
            style.set_ticks(axes, key, 2)
        figure.draw_without_rendering()
    assert [label.get_text() for label in params.get_xticklabels()][:2] == ["0", "25k"]
    assert [label.get_text() for label in macs.get_xticklabels()][:2] == ["0", "25,000"]
    plt.close(figure)


@pytest.mark.parametrize("prefix", [False, True])
def test_ticks_that_are_close_have_digits_enough(prefix):
    with style.use_style():
        figure, axes = plt.subplots()
        axes.set_xlim(14.03141, 14.03143)
        style.set_ticks(axes, "params" if prefix else "macs", 5)
        figure.draw_without_rendering()
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert len({*labels}) == len(labels) > 2
    assert "14.03142" in labels
    plt.close(figure)


def test_names_that_are_cut_stay_apart():
    long = "a level whose name is longer than a figure has room for"
    names = [f"{long}, one", f"{long}, two", "short", f"{long}, one"]
    found = style.shorten_apart(names, 20)
    assert found == ["a level whose…r, one", "a level whose…r, two", "short", "a level whose…r, one"]
    assert style.shorten_apart(["x" * 40, "short"]) == ["x" * 33 + "…", "short"]


def test_long_names_are_cut():
    assert style.shorten("x" * 40) == "x" * 33 + "…"
    assert style.shorten("short") == "short"


def test_letters_that_no_font_has_are_found_and_drawn_without_a_warning(monkeypatch):
    monkeypatch.setattr(fonts, "FALLBACKS", ())
    assert fonts.find_missing_letters("k = 3 深 ≈ β é 深") == "深"
    plain = [letter for letter in map(chr, range(2**16)) if letter.isprintable() and looks.PLAIN.fullmatch(letter)]
    assert len(plain) > 300
    assert fonts.find_missing_letters("".join(plain)) == ""
    with style.use_style():
        figure, _ = plt.subplots()
        figure.text(0, 0, "深")
        figure.draw_without_rendering()
    plt.close(figure)

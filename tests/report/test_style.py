"""How figures are drawn: names apart, ticks few, the same bytes every time."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.text import Text

from ablations.report.plotting import style


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
                figure, "A title that is long enough to be broken into lines, which it is", ["Small print."]
            )
            paths = style.save(figure, tmp_path / name)
        contents.append([path.read_bytes() for path in paths])
    assert contents[0] == contents[1]
    assert [path.suffix for path in paths] == [".svg", ".pdf", ".png"]


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


def test_long_names_are_cut():
    assert style.shorten("x" * 40) == "x" * 33 + "…"
    assert style.shorten("short") == "short"


def test_letters_that_no_font_has_are_found_and_drawn_without_a_warning(monkeypatch):
    monkeypatch.setattr(style, "FALLBACKS", ())
    assert style.find_missing_letters("k = 3 深 ≈ β é 深") == "深"
    with style.use_style():
        figure, _ = plt.subplots()
        figure.text(0, 0, "深")
        figure.draw_without_rendering()
    plt.close(figure)

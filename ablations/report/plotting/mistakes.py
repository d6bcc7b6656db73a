"""Do the levels of a study err on the same images and classes as the base?"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ablations.report.captions import describe_provenance
from ablations.report.errors import LevelErrors
from ablations.report.plotting import style
from ablations.report.plotting.levels import choose_levels, colour_levels, say_left_out
from ablations.report.plotting.looks import GREY, INK, NARROW, PAGE, WIDE, Look
from ablations.report.plotting.style import REFERENCE
from ablations.report.results import StudyResult, mark_base

MOST_LEVELS = 30
"""The most levels in the figure. The small print states how many are left out."""

RANGE = (-0.2, 1.5)
"""The widest range of the shared errors' panel."""

LEAST_RANGE = 5.0
"""The change of a class, in points, that has the darkest colour, if no change is larger: small ones stay pale."""


def draw(study: StudyResult, look: Look = PAGE) -> Figure:
    """Draws error consistencies, shared errors with intervals, and the changes of the classes' accuracies.

    There is no room for the classes in a column.
    """
    rows = choose_levels(colour_levels(study.numbers), MOST_LEVELS)
    of = {each.level: each for each in study.errors}
    errors = [of[level] for level in rows.level]
    count = max(len(each.classes) for each in errors)
    width = look.width or WIDE
    panels = 3 if count and width > NARROW else 2
    size = (width, 0.24 * len(rows) + 0.42)
    figure, axes = plt.subplots(
        1, panels, figsize=size, sharey=True, layout="constrained", width_ratios=[1, 1, 2.6][:panels]
    )
    _draw_consistency(axes[0], rows, errors)
    cut = _draw_shared(axes[1], rows, errors)
    if panels == 3:
        _draw_classes(axes[2], errors, count)
    names = [mark_base(*pair) for pair in zip(rows.level, rows.is_base, strict=True)]
    labels = [textwrap.fill(name, 28) for name in style.shorten_apart(names, 56)]
    axes[0].set_yticks(range(len(rows)), labels)
    for text, is_base in zip(axes[0].get_yticklabels(), rows.is_base, strict=True):
        text.set(color=INK, fontweight="bold" if is_base else "normal")
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    small = (
        "Error consistency: Cohen's kappa of right and wrong of two runs with different seeds on the same images.",
        "Shared errors: the correlation over the images of the chances that a run of the level and one of the base are "
        "right; 1: the same images are hard for both. Intervals hold for all levels together, over images and seeds.",
        "Some reach beyond the panel." if cut else "",
        "Classes, by number: change of accuracy in points; bold: its interval over the seeds does not contain 0, for "
        "all classes and levels."
        if panels == 3
        else "",
        say_left_out(study.numbers, rows),
        describe_provenance(study.frames, (), ["runs"]),
    )
    question = f"Do the levels of {study.name} err on the same images?"
    style.frame_figure(figure, look, question, small, _make_key())
    return figure


def _draw_consistency(axes: Axes, rows: pd.DataFrame, errors: Sequence[LevelErrors]) -> None:
    for place, (each, colour) in enumerate(zip(errors, rows.colour, strict=True)):
        axes.scatter(each.own, place, marker="|", s=60, linewidth=1.2, color=colour, zorder=3)
        if not each.is_base:
            axes.scatter(each.with_base, place, marker="o", s=20, color=colour, zorder=3)
    base = next(each.own for each in errors if each.is_base)
    axes.axvline(base, **REFERENCE)
    axes.set(xlabel="Error consistency", ylabel="")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4))
    axes.grid(False, axis="y")


def _draw_shared(axes: Axes, rows: pd.DataFrame, errors: Sequence[LevelErrors]) -> bool:
    """Draws the shared errors with their intervals. Returns whether an interval is cut by the panel."""
    axes.axvline(1, **REFERENCE)
    for place, (each, colour) in enumerate(zip(errors, rows.colour, strict=True)):
        axes.hlines(place, each.low, each.high, colors=colour, linewidth=1)
        told_apart = each.high < 1 or each.low > 1
        axes.scatter(each.shared, place, marker="o", s=20, linewidth=1, edgecolors=colour,
                     facecolors=colour if told_apart else "white", zorder=3)  # fmt: skip
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, RANGE[0]), min(high, RANGE[1]))
    axes.set(xlabel="Shared errors", ylabel="")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4))
    axes.grid(False, axis="y")
    return any(each.low < RANGE[0] or each.high > RANGE[1] for each in errors)


def _draw_classes(axes: Axes, errors: Sequence[LevelErrors], count: int) -> None:
    """Draws a table of the changes, red for losses and blue for gains."""
    values = np.array([[change.value for change in each.classes] or [math.nan] * count for each in errors])
    most = np.nanmax([LEAST_RANGE, *np.abs(values).flat])
    colours = plt.get_cmap("RdBu")
    look: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6, "in_layout": False}
    axes.imshow(values, cmap=colours, vmin=-most, vmax=most, aspect="auto")
    for place, each in enumerate(errors):
        for number, change in enumerate(each.classes):
            if math.isnan(change.value):
                continue
            ink = "#FEFEFE" if abs(change.value) > 0.65 * most else "#1B1B1B"
            weight = "bold" if change.different else "normal"
            text = f"{round(change.value, 1) + 0.0:+.1f}".replace("-", "\N{MINUS SIGN}")
            axes.text(number, place, text, color=ink, fontweight=weight, **look)
    axes.set_xticks(range(count))
    axes.set(xlabel="Change by class (points)", ylabel="")
    axes.grid(False)


def _make_key() -> list[Artist]:
    return [
        style.make_dot("|", GREY, "two runs of the level"),
        style.make_dot("o", GREY, "a run of the level and one of the base"),
        Line2D([], [], color=GREY, linewidth=1, label="95 % interval"),
        style.make_dot("o", GREY, "1 is within it", markerfacecolor="white"),
    ]

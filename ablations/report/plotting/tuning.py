"""Validation accuracy over the values that a study is tuned over."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ablations.metrics import count_of, level_text
from ablations.report.captions import describe_provenance, explain_tuning
from ablations.report.frames import find_trials
from ablations.report.plotting import style
from ablations.report.plotting.levels import colour_levels, name_axis
from ablations.report.plotting.looks import GREY, NARROW, PAGE, WIDE, Look
from ablations.report.results import StudyResult, mark_base

MOST_PANELS = 9
"""The most panels in the figure. The small print states how many combinations there are."""


def draw(study: StudyResult, look: Look = PAGE) -> Figure:
    """Draws validation accuracy against the tuned values, with a line per level and filled marks for chosen values.

    The first field with several values is the horizontal axis. Every combination of the other fields has a panel.
    """
    found = find_trials(study.frames, study.name)
    fields = [field for field in study.tuned if found[field].nunique() > 1]
    along, others = fields[0], fields[1:]
    panels = list(itertools.product(*(found[field].unique() for field in others)))
    width = look.width or (NARROW if len(panels) == 1 else WIDE)
    per_line = min(3 if width == WIDE else 1, len(panels))
    lines = -(-len(panels[:MOST_PANELS]) // per_line)
    figure, grid = plt.subplots(lines, per_line, figsize=(width, 2.3 * lines), sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    rows = colour_levels(study.numbers)
    for panel in grid.flat[len(panels) :]:
        panel.set_axis_off()
    for panel, combination in zip(grid.flat, panels, strict=False):
        own = found[(found[others] == list(combination)).all(axis=1)] if others else found
        _draw_panel(panel, own, along, rows)
        named = (f"{name_axis(field)} = {level_text(value)}" for field, value in zip(others, combination, strict=True))
        panel.set_title("\n".join(named))
    for panel in grid[:, 0]:
        panel.set_ylabel("Validation accuracy (%)")
    waiting = int((found.status == "missing").sum())
    small = (
        explain_tuning(study.frames, study.name).strip(),
        _count_above_base(found[found.level.isin(rows.level[rows.distinct])], fields),
        f"Missing: {waiting} of {count_of(len(found), 'trial')}." if waiting else "",
        "Grey: other levels." if not rows.distinct.all() else "",
        f"The first {MOST_PANELS} of {len(panels)} combinations are shown." if len(panels) > MOST_PANELS else "",
        describe_provenance(replace(study.frames, tuning=found), (), ["tuning"]),
    )
    title = f"Is the order of the levels of {study.name} the same at every {name_axis(along).replace('_', ' ')}?"
    style.frame_figure(figure, look, title, small, _make_key(found, rows), handlelength=2.6)
    return figure


def _count_above_base(found: pd.DataFrame, fields: list[str]) -> str:
    """Returns at how many candidates each level is more accurate than the base, where both have results."""
    base = found.level[found.is_base].iloc[0]
    accuracy = found.assign(y=found.validation_accuracy.astype(float)).groupby([*fields, "level"]).y
    means = accuracy.agg(lambda y: y.mean(skipna=False)).unstack("level")
    both = {level: means[[base, level]].dropna() for level in found.level.unique() if level != base}
    parts = [f"{level} {int((pair[level] > pair[base]).sum())} of {len(pair)}"
             for level, pair in both.items() if len(pair)]  # fmt: skip
    return f"Values at which a level lies above the base: {'; '.join(parts)}." if parts else ""


def _draw_panel(panel: Axes, found: pd.DataFrame, along: str, rows: pd.DataFrame) -> None:
    values = found[along].unique().tolist()  # Python's own numbers
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    places = dict(zip(values, values if numbers else range(len(values)), strict=True))
    crosses: Counter[float] = Counter()
    for row in rows.sort_values("distinct").itertuples():
        own = found[found.level == row.level]
        own = own.assign(x=own[along].map(places).astype(float), y=own.validation_accuracy.astype(float))
        means = own.groupby("x").agg(y=("y", lambda y: y.mean(skipna=False)), chosen=("chosen", "any")).reset_index()
        look: dict[str, Any] = {"color": row.colour, "zorder": 3 if row.distinct else 1}
        dashes: Any = (0, row.dashes) if row.dashes else "solid"
        panel.plot(means.x, means.y, linestyle=dashes, linewidth=1.2 if row.distinct else 0.6, **look)
        if own.seed.nunique() > 1:
            panel.scatter(own.x, own.y, s=4, alpha=0.6, linewidth=0, **look)
        for chosen, part in means.groupby("chosen"):
            panel.scatter(part.x, part.y, s=22, linewidth=1, edgecolors=str(row.colour),
                          facecolors=row.colour if chosen else "white", zorder=4 if row.distinct else 2)  # fmt: skip
        broken = own.x[own.status == "diverged"].drop_duplicates()
        crosses.update(broken)  # those of several levels stand above each other
        heights = [0.05 * crosses[x] - 0.02 for x in broken]
        panel.scatter(broken, heights, marker="x", s=18, transform=panel.get_xaxis_transform(), **look)
    panel.set_xlabel(name_axis(along).replace("_", " ").capitalize())
    if found.validation_accuracy.isna().all():
        style.say_empty(panel, "nothing tuned yet")
    elif numbers and min(values) > 0 and max(values) >= 8 * min(values):
        panel.set_xscale("log")
    panel.set_xticks([places[value] for value in values], [level_text(value) for value in values])
    panel.xaxis.set_minor_locator(ticker.NullLocator())


def _make_key(found: pd.DataFrame, rows: pd.DataFrame) -> list[Artist]:
    """Makes a legend: a line per level with its own colour, and the meaning of the marks."""
    key: list[Artist] = []
    own = rows[rows.distinct & rows.level.isin(found.level)]
    names = [mark_base(*pair) for pair in zip(own.level, own.is_base, strict=True)]
    labels = style.shorten_apart(names, style.LEGEND)
    for row, label in zip(own.to_dict("records"), labels, strict=True):
        dashes: Any = (0, row["dashes"]) if row["dashes"] else "solid"
        key.append(Line2D([], [], color=row["colour"], linestyle=dashes, linewidth=1.2, label=label))
    key.append(style.make_dot("o", GREY, "chosen"))
    if (found.status == "diverged").any():
        key.append(style.make_dot("x", GREY, "diverged"))
    return key

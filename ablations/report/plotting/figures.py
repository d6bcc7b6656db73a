"""Frames become figures: SVG, PDF and PNG per study, and accuracy against each cost over all of them.

A study `x` has `x` (accuracy and costs by level), `x.curves`, and where it fits `x.map` (two axes or more), `x.trade`
(checkpointing) and `x.tuning`. All are drawn at the width at which they are printed: a page's text or one of two
columns.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ablations.metrics import METRICS, level_text
from ablations.report.frames import Frames, base_of, of_study, trials, tuned_fields
from ablations.report.plotting import style as drawing
from ablations.report.plotting.style import (
    BLANK,
    DASHES,
    GREY,
    HUES,
    INK,
    LIGHT,
    MARKERS,
    NARROW,
    NOTE,
    PALE,
    REFERENCE,
    WIDE,
    WRONG,
)
from ablations.report.statistics import half_interval
from ablations.report.tables import (
    DISTURBED,
    SPREAD,
    StudyTable,
    called,
    provenance,
    published_caption,
    study_table,
    tuning_caption,
)

PANELS = ("params", "macs", "train_peak_memory_bytes", "train_images_per_second")
"""The costs that stand beside the accuracy."""

CURVES = {
    "train_loss": "Training loss (nats)",
    "validation_accuracy": "Validation accuracy (%)",
    "test_accuracy": "Test accuracy (%)",
}
"""What is drawn over the epochs, where it was recorded."""

CHECKPOINT = "model.checkpoint"
"""The axis whose studies have a memory-time trade."""


ROWS, GROUPS, MAPS = 60, 12, 9
"""The most levels of an effect plot, lines of a trade and panels of a map; what is left out is said."""


def write(frames: Frames) -> list[Path]:
    """Draws every figure of a results folder; gives the paths."""
    paths: list[Path] = []
    with drawing.style():
        for study, names in stems(frames).items():
            own = of_study(frames, study) if study else frames
            table = study_table(own, study) if study else None
            for name in names:
                figure = DRAWN[name.removeprefix(study)](own, table) if table else pareto(frames)
                paths += drawing.save(figure, frames.folder / "figures" / name)
    return paths


def stems(frames: Frames) -> dict[str, list[str]]:
    """The names of each study's figures without their suffix, effect plot first; under "" those over all studies."""
    names = {}
    for study in frames.manifest.studies:
        kinds = ["", ".curves"]
        kinds += [".map"] if len(study.axes) > 1 else []
        kinds += [".trade"] if CHECKPOINT in study.axes else []
        kinds += [".tuning"] if trials(frames, study.name).level.nunique() > 1 else []
        names[study.name] = [study.name + kind for kind in kinds]
    return {**names, "": ["pareto"]}


# The levels that a figure shows


def _shown(numbers: pd.DataFrame, most: int) -> pd.DataFrame:
    """All levels, or the base and those of the highest mean accuracy, in the grid's order."""
    best = numbers.sort_values(["is_base", "mean"], ascending=False, kind="stable").index[:most]
    return numbers.loc[sorted(best)]


def _left_out(numbers: pd.DataFrame, shown: pd.DataFrame) -> str:
    """What `_shown` left out, for the small print."""
    rest = numbers.drop(shown.index)
    if rest.empty:
        return ""
    bad = int((rest.not_done != "").sum())
    return (
        f"Shown are the base and the {len(shown) - 1} most accurate of the other {len(numbers) - 1} levels; the table "
        f"has all{f' ({bad} of those not shown have runs that are not done)' if bad else ''}."
    )


def _styled(numbers: pd.DataFrame) -> pd.DataFrame:
    """With the colour and dashes that each level has in every figure of its study, and whether the colour is its own.

    The base is black and solid, and so stays visible below what coincides with it; beyond what hues can tell apart, the
    most accurate have one, the others are grey.
    """
    told = _shown(numbers, 1 + len(HUES))
    hues = dict(zip(told.level[~told.is_base], HUES, strict=False))
    dashes = dict(zip(hues, DASHES, strict=False))
    return numbers.assign(
        told=numbers.index.isin(told.index),
        colour=[INK if row.is_base else hues.get(row.level, LIGHT) for row in numbers.itertuples()],
        dashes=[dashes.get(level, ()) for level in numbers.level],
    )


# Accuracy and costs by level


def effect(frames: Frames, table: StudyTable) -> Figure:
    """One study: accuracy by level with the seeds as points and 95 % intervals, and four costs beside it."""
    rows = _shown(_styled(table.numbers), ROWS)
    labels = [_row_label(row) for row in rows.to_dict("records")]
    line = min(0.3, max(0.17, 6 / len(rows)))
    heights = [line + 0.1 * label.count("\n") for label in labels]
    ends = list(itertools.accumulate(heights))
    rows = rows.assign(place=np.subtract(ends, np.divide(heights, 2)), height=heights)
    figure, axes = plt.subplots(
        1, 1 + len(PANELS), figsize=(WIDE, ends[-1] + 0.42), sharey=True, layout="constrained",
        width_ratios=[2.6, *[1] * len(PANELS)],
    )  # fmt: skip
    _accuracy_panel(axes[0], frames, rows)
    for panel, key in zip(axes[1:], PANELS, strict=True):
        _cost_panel(panel, rows, key)
    axes[0].set_yticks(rows.place, labels)
    for text, row in zip(axes[0].get_yticklabels(), rows.itertuples(), strict=True):
        text.set(color=WRONG if row.not_done else INK, fontweight="bold" if row.is_base else "normal")
    axes[0].set_ylim(ends[-1], 0)
    disturbed = rows.reindex(columns=[DISTURBED["train_images_per_second"]]).map(_is_text).any(axis=None)
    small = (
        "Percentages are changes against the base.",
        "Colours are those of the learning curves; grey is not named there." if len(rows) > 1 + len(HUES) else "",
        "† Disturbed by other load, or unsteady." if disturbed else "",
        published_caption(frames, table.name),
        _left_out(table.numbers, rows),
        provenance(frames),
    )
    drawing.frame(figure, table.question or table.name, small, _effect_key(rows, axes[0].get_xlim()[1] > 100))
    return figure


def _row_label(row: dict[Any, Any]) -> str:
    """The level, and below it what is not done."""
    label = textwrap.fill(called(row), 28, max_lines=3, placeholder="…")
    return f"{label}\n({row['not_done']})" if row["not_done"] else label


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _accuracy_panel(axes: Axes, frames: Frames, rows: pd.DataFrame) -> None:
    seeds = frames.runs.loc[frames.runs.status == "done", ["variant", "test_accuracy"]].merge(rows, on="variant")
    if len(seeds):
        group = seeds.groupby("variant")
        spread = (group.cumcount() + 0.5) / group.variant.transform("size") - 0.5  # equal seeds lie apart
        sns.scatterplot(
            x=seeds.test_accuracy.astype(float), y=seeds.place + 0.55 * spread * seeds.height, hue=seeds.level,
            palette=dict(zip(rows.level, rows.colour, strict=True)), s=9, alpha=0.6, linewidth=0, legend=False, ax=axes,
        )  # fmt: skip
    _means_and_intervals(axes, rows[rows.n > 0])
    for row in rows[rows.n == 0].itertuples():
        axes.text(0.5, row.place, row.not_done, transform=axes.get_yaxis_transform(), color=WRONG, ha="center",
                  va="center", fontsize=6.5, bbox=BLANK)  # fmt: skip
    if "published_error" in rows:
        axes.scatter(100 - rows.published_error, rows.place, marker="x", s=16, linewidth=1, color=INK, zorder=4)
    base = rows.loc[rows.is_base, "mean"].iloc[0]
    if not math.isnan(base):
        axes.axvline(base, **REFERENCE)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -0.5), min(high, 100.5))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6) if rows.n.any() else ticker.NullLocator())
    axes.set(xlabel=METRICS["test_accuracy"].head, ylabel="")
    axes.grid(False, axis="y")


def _means_and_intervals(axes: Axes, rows: pd.DataFrame) -> None:
    half = rows["mean"] * 0 + [half_interval(sd, n) for sd, n in zip(rows.sd, rows.n, strict=True)]
    axes.hlines(rows.place, rows["mean"] - half, rows["mean"] + half, colors=rows.colour, linewidth=1)
    for end in (rows["mean"] - half, rows["mean"] + half):
        axes.scatter(end, rows.place, marker="|", s=12, color=rows.colour, linewidth=1)
    for verdict, part in rows.groupby("verdict"):
        marker, filled = MARKS[str(verdict)]
        axes.scatter(part["mean"], part.place, marker=marker, s=20, linewidth=1, edgecolors=part.colour,
                     facecolors=part.colour if filled else "white", zorder=3)  # fmt: skip


MARKS = {"base": ("D", True), "resolved": ("o", True), "not resolved": ("o", False), "identical": ("s", False),
         "no data": ("^", False), "no pairs": ("^", False)}  # fmt: skip
"""Shape of a mean by its verdict, and whether it is filled."""

VERDICTS = {
    "base": "base",
    "resolved": "difference from the base resolved",
    "not resolved": "not resolved",
    "identical": "identical weights",
    "no data": "not comparable",
    "no pairs": "not comparable",
}


def _effect_key(rows: pd.DataFrame, cut: bool) -> list[Artist]:
    """Only what is there."""
    there = rows[rows.n > 0]
    if there.empty:
        return []
    bar = "mean, 95 % t interval" + (", cut at 100 %" if cut else "")
    key: list[Artist] = [
        Line2D([], [], linestyle="", marker="o", markersize=3, color=GREY, alpha=0.6, label="seed"),
        Line2D([], [], color=GREY, linewidth=1, label=bar),
    ]
    for verdict, (marker, filled) in MARKS.items():
        if verdict in set(there.verdict):
            face = GREY if filled else "white"
            key.append(drawing.dot(marker, GREY, VERDICTS[verdict], markerfacecolor=face))
    if "published_error" in there and there.published_error.notna().any():
        key.append(drawing.dot("x", INK, "published"))
    return key


def _cost_panel(axes: Axes, rows: pd.DataFrame, key: str) -> None:
    """A bar behind each number, its change against the base beside it."""
    metric = METRICS[key]
    values = rows[key] / metric.scale
    axes.barh(rows.place, values.fillna(0), color=PALE, height=0.78 * rows.height, linewidth=0)
    style: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 6}
    style |= {"in_layout": False}  # they stay within the panel: nothing to measure
    for value, row in zip(values, rows.to_dict("records"), strict=True):
        if math.isnan(value):
            status = "not measured" if row["cost_status"] == "done" else str(row["cost_status"])
            axes.text(0.04, row["place"], status, color=WRONG, **style)
            continue
        mark = "†" if _is_text(row.get(DISTURBED.get(key))) else ""
        axes.text(0.04, row["place"], _number(key, value) + mark, color=INK, **style)
        axes.text(0.97, row["place"], _change(row, key), color=GREY, ha="right", **style)
    axes.set_xlim(0, 1.04 * (values.max() if values.notna().any() else 1))
    axes.set_xlabel("\n".join(textwrap.wrap(metric.head, 16)))
    drawing.ticks(axes, key, 2)
    if values.isna().all():
        axes.xaxis.set_major_locator(ticker.NullLocator())
    axes.grid(False)


def _number(key: str, value: float) -> str:
    """The number as in the tables, shortened where a count is too long."""
    text = METRICS[key].format(value)
    return text if len(text) < 10 else ticker.EngFormatter(places=1, sep="")(value)


def _change(row: dict[Any, Any], key: str) -> str:
    """`-12 %`; beyond tenfold `×12`; nothing for the base, or where the base has no number."""
    change = row[f"{key}_change"]
    if row["is_base"] or math.isnan(change):
        return ""
    if change >= 9.995:
        return f"×{change + 1:,.0f}"
    places = 0 if key in SPREAD or change == 0 or abs(change) >= 0.0995 else 1
    return f"{100 * change:{'+' if change else ''}.{places}f} %".replace("-", "−")


# Learning curves


def curves(frames: Frames, table: StudyTable) -> Figure:
    """Loss and accuracies of one study over the epochs, bands from the lowest to the highest seed."""
    rows = _styled(table.numbers)
    own = frames.history[frames.history.variant.isin(rows.variant)]
    keys = [key for key in CURVES if own[key].notna().any()] or ["train_loss"]
    width = NARROW if len(keys) == 1 else WIDE
    figure, axes = plt.subplots(1, len(keys), figsize=(width, 2.1), layout="constrained", squeeze=False)
    for panel, key in zip(axes.flat, keys, strict=True):
        _curve_panel(panel, own, key, rows)
    named = f"Named are the base and the {rows.told.sum() - 1} levels of the highest final test accuracy."
    absent = [f"{row.level} ({row.not_done})" for row in rows[~rows.told & (rows.n == 0)].itertuples()]
    small = (
        "Lines: means over seeds; bands: from the lowest to the highest seed.",
        "" if rows.told.all() else named,
        f"Without a curve: {_some(absent)}." if absent else "",
        provenance(frames),
    )
    key_lines = _curve_key(rows, set(own.variant))
    drawing.frame(figure, f"How do the levels of {table.name} learn?", small, key_lines, handlelength=2.6)
    return figure


def _curve_panel(panel: Axes, own: pd.DataFrame, key: str, rows: pd.DataFrame) -> None:
    data = own.dropna(subset=[key]).groupby(["variant", "epoch"])[key].agg(["mean", "min", "max"]).astype(float)
    if data.empty:
        drawing.say_empty(panel, "nothing trained yet")
    else:
        _lines_and_bands(
            panel, data.reset_index().merge(rows[["variant", "level", "told", "colour"]], on="variant"), rows
        )
        low, high = data["min"].min(), data["max"].max()
        if key == "train_loss" and 0 < 10 * low <= high:
            panel.set_yscale("log")
            drawing.log_ticks(panel.yaxis, high / low, ticker.StrMethodFormatter("{x:g}"))
        panel.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True, min_n_ticks=1))
    panel.set(xlabel="Epoch", ylabel=CURVES[key])


def _lines_and_bands(panel: Axes, data: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Grey lines for levels that are not told apart; above them bands, and lines with dashes."""
    others = [part[["epoch", "mean"]].to_numpy() for _, part in data[~data.told].groupby("variant")]
    panel.add_collection(LineCollection(others, colors=LIGHT, linewidths=0.6))
    told = data[data.told]
    for _, part in told.groupby("variant"):
        panel.fill_between(part.epoch, part["min"], part["max"], color=part.colour.iloc[0], alpha=0.15, linewidth=0)
    order = [level for level in rows.level[rows.told] if level in set(told.level)]
    dots = {"marker": "o", "markersize": 2.5, "markeredgewidth": 0} if data.epoch.nunique() <= 15 else {}
    sns.lineplot(
        told, x="epoch", y="mean", hue="level", hue_order=order, style="level", style_order=order,
        palette=dict(zip(rows.level, rows.colour, strict=True)),
        dashes=dict(zip(rows.level, rows.dashes, strict=True)),
        estimator=None, linewidth=1.2, legend=False, ax=panel, **dots,
    )  # fmt: skip


def _curve_key(rows: pd.DataFrame, trained: set[str]) -> list[Artist]:
    """A line per level that has its own colour; a cross for one without a curve."""
    key: list[Artist] = []
    for row in rows[rows.told].to_dict("records"):
        label = drawing.short(called(row))
        label += " (identical)" if row["verdict"] == "identical" else ""
        label += f" ({row['not_done']})" if row["not_done"] else ""
        dashes: Any = (0, row["dashes"]) if row["dashes"] else "solid"
        line = Line2D([], [], color=row["colour"], linestyle=dashes, linewidth=1.2, label=label)
        key.append(line if row["variant"] in trained else drawing.dot("x", WRONG, label))
    others = int((~rows.told).sum())
    return [*key, Line2D([], [], color=LIGHT, linewidth=0.6, label=f"{others} other levels")] if others else key


# Heat map of a product


def heat_map(frames: Frames, table: StudyTable) -> Figure:
    """A product study: mean accuracy by its first two axes, a panel for each combination of the others."""
    cells, axes_of = _cells(frames, table)
    down, across, *others = axes_of
    if len(axes_of[across]) > max(12, len(axes_of[down])):
        down, across = across, down
    panels = list(itertools.product(*(axes_of[axis] for axis in others)))
    width, per_line, cell, noted = _map_size(cells, len(axes_of[down]), len(axes_of[across]), len(panels))
    lines = -(-len(panels[:MAPS]) // per_line)
    body = lines * (cell * len(axes_of[down]) + (0.62 if others else 0.5))
    figure, grid = plt.subplots(lines, per_line, figsize=(width, body), squeeze=False, layout="constrained")
    scale = Normalize(cells["mean"].min(), cells["mean"].max()) if cells["mean"].notna().any() else Normalize(0, 100)
    for panel in grid.flat[len(panels[:MAPS]) :]:
        panel.set_axis_off()
    for panel, combination in zip(grid.flat, panels, strict=False):
        own = cells[(cells[others] == list(combination)).all(axis=1)] if others else cells
        _map_panel(panel, own, (down, axes_of[down]), (across, axes_of[across]), scale, noted)
        panel.set_title("\n".join(f"{_leaf(axis)} = {value}" for axis, value in zip(others, combination, strict=True)))
    mappable = ScalarMappable(scale, "cividis")
    bar = figure.colorbar(mappable, ax=grid, label="Mean test\naccuracy (%)", fraction=0.05)
    bar.outline.set_visible(False)
    bar.ax.set_visible(bool(cells.n.any()))
    bar.ax.tick_params(length=0)
    drawing.frame(figure, table.question or table.name, _map_print(frames, cells, len(panels), noted), _map_key(cells))
    return figure


def _cells(frames: Frames, table: StudyTable) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """A row per level with a column per axis, and the values of each axis; a base off the product is left out."""
    entry = frames.manifest.study(table.name)
    axes = entry.axes
    values = pd.DataFrame(
        [{"level": each.label, **{axis: level_text(each.values.get(axis)) for axis in axes}} for each in entry.levels]
    )
    cells = table.numbers.merge(values, on="level")
    varied = cells[~cells.is_base] if len(cells) > 1 else cells
    of = {axis: list(dict.fromkeys(varied[axis])) for axis in axes}
    on = [all(row[axis] in of[axis] for axis in axes) for row in cells.to_dict("records")]
    order = {axis: list(dict.fromkeys(cells[on][axis])) for axis in axes}
    return cells[on].astype({"mean": float}), order


def _leaf(axis: str) -> str:
    return axis.partition(".")[2]


def _map_size(cells: pd.DataFrame, down: int, across: int, panels: int) -> tuple[float, int, float, bool]:
    """Width of the figure, panels beside each other, height of a cell, and whether its numbers have room."""
    width = NARROW if panels == 1 and across <= 5 else WIDE
    per_line = max(1, min(panels, 3, int((width - 0.8) / (0.48 * across + 0.5))))
    noted = ((width - 0.8) / per_line - 0.5) / across >= 0.4 and down <= 30
    text = 0.12 + 0.09 * max(_note(row).count("\n") + 1 for row in cells.to_dict("records"))
    return width, per_line, max(0.24, text) if noted else min(0.2, 7 / down), noted


def _note(row: dict[Any, Any]) -> str:
    """Mean, standard deviation, and what is not done."""
    show = METRICS["test_accuracy"].show
    lines = [show(row["mean"])] if row["n"] else []
    lines += [f"± {show(row['sd'])}"] if row["n"] > 1 else []
    lines += [f"n = {row['n']}"] if row["n"] and row["not_done"] else []
    return "\n".join([*lines, *(row["not_done"].split(", ") if row["not_done"] else [])])


def _map_panel(
    panel: Axes, cells: pd.DataFrame, down: tuple[str, list[str]], across: tuple[str, list[str]], scale: Normalize,
    noted: bool,
) -> None:  # fmt: skip
    means = cells.pivot_table(index=down[0], columns=across[0], values="mean", dropna=False, observed=False)
    means = means.reindex(index=down[1], columns=across[1]).astype(float)
    sns.heatmap(means, cmap="cividis", vmin=scale.vmin, vmax=scale.vmax, cbar=False, ax=panel,
                linewidths=0.5 if noted else 0)  # fmt: skip
    panel.set(xlabel=_leaf(across[0]), ylabel=_leaf(down[0]))
    panel.tick_params(axis="y", rotation=0)
    panel.tick_params(axis="x", rotation=90 if max(map(len, across[1])) > 9 and len(across[1]) > 3 else 0)
    for row in cells.to_dict("records"):
        x, y = across[1].index(row[across[0]]), down[1].index(row[down[0]])
        if not row["n"]:
            panel.add_patch(Rectangle((x, y), 1, 1, facecolor="white", edgecolor=WRONG, hatch="////", linewidth=0))
        if noted:
            _annotate(panel, x + 0.5, y + 0.5, row, scale)
        if row["is_base"]:
            panel.add_patch(
                Rectangle((x, y), 1, 1, fill=False, edgecolor=HUES[1], linewidth=1.8, clip_on=False, zorder=4)
            )


def _annotate(panel: Axes, x: float, y: float, row: dict[Any, Any], scale: Normalize) -> None:
    """Light on dark cells, dark on light ones; a status on white."""
    dark = row["n"] and scale(row["mean"]) < 0.55
    colour = "white" if dark else INK if row["n"] else WRONG
    panel.text(x, y, _note(row), ha="center", va="center", fontsize=6, color=colour, bbox=None if row["n"] else BLANK,
               linespacing=1.05)  # fmt: skip


def _map_print(frames: Frames, cells: pd.DataFrame, panels: int, noted: bool) -> tuple[str, ...]:
    partial = int(((cells.n > 0) & (cells.not_done != "")).sum())
    return (
        "Cells: mean ± standard deviation over seeds." if noted else "The table has the numbers.",
        f"{partial} cells are means of fewer seeds than were asked for." if partial and not noted else "",
        f"The first {MAPS} of {panels} combinations are shown." if panels > MAPS else "",
        "" if cells.is_base.any() else "The base lies outside the map.",
        provenance(frames),
    )


def _map_key(cells: pd.DataFrame) -> list[Artist]:
    key: list[Artist] = []
    if cells.is_base.any():
        key.append(Rectangle((0, 0), 1, 1, fill=False, edgecolor=HUES[1], linewidth=1.5, label="base"))
    if (cells.n == 0).any():
        key.append(
            Rectangle((0, 0), 1, 1, facecolor="white", edgecolor=WRONG, hatch="////", linewidth=0, label="no result")
        )
    return key


# Memory against time


def trade(frames: Frames, table: StudyTable) -> Figure:
    """Checkpointing: peak memory against the time of a training step, levels of equal other axes joined."""
    points = _steps(frames, table)
    groups = list(dict.fromkeys(points.group))
    looks = list(zip(groups[:GROUPS], itertools.cycle(HUES), itertools.cycle(MARKERS), strict=False))
    known = points[points.group.isin(groups[:GROUPS])].dropna(subset=["x", "y"])
    unknown = points[points.x.isna() | points.y.isna()]
    absent = [f"{row.level} ({row.cost_status})" for row in unknown.itertuples()]
    figure, axes = plt.subplots(figsize=(NARROW, 2.7), layout="constrained")
    for group, colour, marker in looks:
        part = known[known.group == group].sort_values(["x", "y"])
        axes.hlines(part.y, part.x - part.iqr / 2, part.x + part.iqr / 2, colors=colour, linewidth=0.6, alpha=0.7)
        sns.lineplot(x=part.x, y=part.y, sort=False, estimator=None, color=colour, marker=marker, markersize=4.5,
                     linewidth=0.8, markeredgewidth=0, ax=axes)  # fmt: skip
    axes.set(xlabel="Time of a training step (ms)", ylabel=METRICS["train_peak_memory_bytes"].head)
    axes.margins(0.14)
    _against_base(axes, known)
    small = (
        "Bars: interquartile range of the step's time.",
        f"Not measured: {_some(absent)}." if absent else "",
        f"The first {GROUPS} of {len(groups)} lines are shown." if len(groups) > GROUPS else "",
        provenance(frames),
    )
    key = [Line2D([], [], color=colour, marker=marker, markersize=4.5, linewidth=0.8, label=group)
           for group, colour, marker in looks if group]  # fmt: skip
    drawing.frame(figure, table.question or table.name, small, key)
    axes.text(0.02, 0.02, drawing.name_points(axes, known, known), transform=axes.transAxes, fontsize=6, color=GREY)
    return figure


def _steps(frames: Frames, table: StudyTable) -> pd.DataFrame:
    """Per level: x the milliseconds of a step, y its peak memory, the name of its point and its group."""
    entry = frames.manifest.study(table.name)
    rows = table.numbers.merge(frames.variants[["variant", "train.batch_size"]], on="variant")
    x = 1e3 * rows["train.batch_size"] / rows.train_images_per_second
    values = [level.values for level in entry.levels]
    others = [axis for axis in entry.axes if axis != CHECKPOINT]
    return rows.assign(
        x=x,
        y=rows.train_peak_memory_bytes / METRICS["train_peak_memory_bytes"].scale,
        iqr=x * rows[SPREAD["train_images_per_second"]].astype(float).fillna(0),
        name=[level_text(each.get(CHECKPOINT, "base")) for each in values],
        group=[", ".join(f"{_leaf(axis)} = {level_text(each.get(axis))}" for axis in others) for each in values],
    )


def _against_base(axes: Axes, points: pd.DataFrame) -> None:
    """Scales above and to the right that count in the base's time and memory."""
    if points.empty:
        drawing.say_empty(axes, "nothing measured")
    for row in points[points.is_base].itertuples():
        x, y = float(row.x), float(row.y)
        above = axes.secondary_xaxis("top", functions=_scaled(x))
        right = axes.secondary_yaxis("right", functions=_scaled(y))
        above.set_xlabel("× the base's time")
        right.set_ylabel("× the base's memory")
        for axis in (above.xaxis, right.yaxis):
            axis.set_major_locator(ticker.MaxNLocator(5))
            axis.set_tick_params(length=0, labelsize=6.5)
        axes.axvline(x, **REFERENCE)
        axes.axhline(y, **REFERENCE)


def _scaled(unit: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    return (lambda value: value / unit, lambda value: value * unit)


def _some(names: Sequence[str], most: int = 6) -> str:
    return "; ".join(map(drawing.short, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


# What tuning found


def tuning(frames: Frames, table: StudyTable) -> Figure:
    """Validation accuracy against the values that the levels were tuned over, a line per level; the chosen ones filled.

    The first field that has several values lies along the axis; of more fields, every combination has a panel.
    """
    found = trials(frames, table.name)
    fields = [field for field in tuned_fields(frames, table.name) if found[field].nunique() > 1]
    along, others = fields[0], fields[1:]
    panels = list(itertools.product(*(found[field].unique() for field in others)))
    lines, width = -(-len(panels[:MAPS]) // 3), NARROW if len(panels) == 1 else WIDE
    figure, grid = plt.subplots(lines, min(3, len(panels)), figsize=(width, 2.3 * lines), sharey=True, squeeze=False,
                                layout="constrained")  # fmt: skip
    rows = _styled(table.numbers)
    for panel in grid.flat[len(panels) :]:
        panel.set_axis_off()
    for panel, combination in zip(grid.flat, panels, strict=False):
        own = found[(found[others] == list(combination)).all(axis=1)] if others else found
        _tuning_panel(panel, own, along, rows)
        named = (f"{_leaf(field)} = {level_text(value)}" for field, value in zip(others, combination, strict=True))
        panel.set_title("\n".join(named))
    for panel in grid[:, 0]:
        panel.set_ylabel("Validation accuracy (%)")
    waiting = int((found.status == "missing").sum())
    small = (
        tuning_caption(frames, table.name).strip(),
        _above_base(found[found.level.isin(rows.level[rows.told])], fields),
        f"{waiting} of {len(found)} trials are missing." if waiting else "",
        "Grey: other levels." if not rows.told.all() else "",
        f"The first {MAPS} of {len(panels)} combinations are shown." if len(panels) > MAPS else "",
        provenance(frames),
    )
    drawing.frame(figure, f"Is the order of the levels the same at every {_leaf(along).replace('_', ' ')}?", small,
                  _tuning_key(found, rows), handlelength=2.6)  # fmt: skip
    return figure


def _above_base(found: pd.DataFrame, fields: list[str]) -> str:
    """At how many candidates each level is more accurate than the base, of those that both have results for."""
    base = found.level[found.is_base].iloc[0]
    accuracy = found.assign(y=found.validation_accuracy.astype(float)).groupby([*fields, "level"]).y
    means = accuracy.agg(lambda y: y.mean(skipna=False)).unstack("level")
    both = {level: means[[base, level]].dropna() for level in found.level.unique() if level != base}
    parts = [f"{drawing.short(level)} {int((pair[level] > pair[base]).sum())} of {len(pair)}"
             for level, pair in both.items() if len(pair)]  # fmt: skip
    return f"Values at which a level lies above the base: {'; '.join(parts)}." if parts else ""


def _tuning_panel(panel: Axes, found: pd.DataFrame, along: str, rows: pd.DataFrame) -> None:
    values = found[along].unique().tolist()  # Python's own numbers
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    places = dict(zip(values, values if numbers else range(len(values)), strict=True))
    for row in rows.sort_values("told").itertuples():
        own = found[found.level == row.level]
        own = own.assign(x=own[along].map(places).astype(float), y=own.validation_accuracy.astype(float))
        means = own.groupby("x").agg(y=("y", lambda y: y.mean(skipna=False)), chosen=("chosen", "any")).reset_index()
        style: dict[str, Any] = {"color": row.colour, "zorder": 3 if row.told else 1}
        dashes: Any = (0, row.dashes) if row.dashes else "solid"
        panel.plot(means.x, means.y, linestyle=dashes, linewidth=1.2 if row.told else 0.6, **style)
        if own.seed.nunique() > 1:
            panel.scatter(own.x, own.y, s=4, alpha=0.6, linewidth=0, **style)
        for chosen, part in means.groupby("chosen"):
            panel.scatter(part.x, part.y, s=22, linewidth=1, edgecolors=row.colour,
                          facecolors=row.colour if chosen else "white", zorder=4 if row.told else 2)  # fmt: skip
        broken = own[own.status == "diverged"]
        panel.scatter(broken.x, [0.03] * len(broken), marker="x", s=18, transform=panel.get_xaxis_transform(), **style)
    panel.set_xlabel(_leaf(along).replace("_", " ").capitalize())
    if found.validation_accuracy.isna().all():
        drawing.say_empty(panel, "nothing tuned yet")
    elif numbers and min(values) > 0 and max(values) >= 8 * min(values):
        panel.set_xscale("log")
    panel.set_xticks([places[value] for value in values], [level_text(value) for value in values])
    panel.xaxis.set_minor_locator(ticker.NullLocator())


def _tuning_key(found: pd.DataFrame, rows: pd.DataFrame) -> list[Artist]:
    """A line per level that has a colour, and what the marks mean."""
    key: list[Artist] = []
    for row in rows[rows.told & rows.level.isin(found.level)].to_dict("records"):
        dashes: Any = (0, row["dashes"]) if row["dashes"] else "solid"
        label = drawing.short(called(row))
        key.append(Line2D([], [], color=row["colour"], linestyle=dashes, linewidth=1.2, label=label))
    key.append(drawing.dot("o", GREY, "chosen"))
    if (found.status == "diverged").any():
        key.append(drawing.dot("x", GREY, "diverged"))
    return key


# Accuracy against costs


def pareto(frames: Frames) -> Figure:
    """Accuracy against each cost: families told apart, the best for their price joined and named."""
    data = _means(frames)
    figure, axes = plt.subplots(2, 2, figsize=(WIDE, 4.6), sharey=True, layout="constrained")
    families = list(dict.fromkeys(frames.variants["model.family"]))
    markers = dict(zip(families, itertools.cycle(MARKERS), strict=False))
    palette = dict(zip(families, itertools.cycle(HUES), strict=False))
    fronts = [_pareto_panel(panel, data, key, markers, palette) for panel, key in zip(axes.flat, PANELS, strict=True)]
    key: list[Artist] = [drawing.dot(markers[each], palette[each], each) for each in families]
    key.append(Line2D([], [], color=GREY, linewidth=0.8, label="front: nothing is both cheaper and more accurate"))
    if data.partial.any():
        key.append(drawing.dot("o", GREY, "not all of its seeds", markerfacecolor="white"))
    drawing.frame(figure, "What does accuracy cost?", (*_pareto_print(frames, data), provenance(frames)), key)
    for panel, (front, points) in zip(axes.flat, fronts, strict=True):
        panel.set_title(drawing.name_points(panel, front, points), **NOTE)
    return figure


def _pareto_panel(
    panel: Axes, data: pd.DataFrame, key: str, markers: dict[str, str], palette: dict[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draws one cost; gives its front and all its points."""
    metric = METRICS[key]
    panel.set_title(" ", **NOTE)  # room for it
    points = data.dropna(subset=[key, "mean"])
    points = points.assign(x=points[key] / metric.scale, y=points["mean"])
    front = _front(points, metric.better == "higher")
    panel.set(xlabel=metric.head, ylabel=f"Mean {METRICS['test_accuracy'].head.lower()}")
    if points.empty:
        drawing.say_empty(panel, "nothing measured")
        return front, points
    for part, alpha in ((points.drop(front.index), 0.5), (front, 1)):
        for family, own in part.groupby("family"):
            sns.scatterplot(own, x="x", y="y", marker=markers[str(family)], color=palette[str(family)], s=18,
                            linewidth=0.3, alpha=alpha, ax=panel)  # fmt: skip
    partial = points[points.partial]
    panel.scatter(partial.x, partial.y, s=4, color="white", linewidth=0, zorder=3)
    panel.plot(front.x, front.y, color=GREY, linewidth=0.8, zorder=0.9)
    panel.set(xlabel=metric.head, ylabel=f"Mean {METRICS['test_accuracy'].head.lower()}")
    panel.margins(0.08, 0.15)  # room for names
    if points.x.min() > 0 and points.x.max() >= 20 * points.x.min():
        panel.set_xscale("log")
        plain = ticker.EngFormatter(sep="") if metric.scale == 1 else ticker.StrMethodFormatter("{x:,g}")
        drawing.log_ticks(panel.xaxis, points.x.max() / points.x.min(), plain)
    else:
        drawing.ticks(panel, key, 5)
    return front, points


def _pareto_print(frames: Frames, data: pd.DataFrame) -> tuple[str, ...]:
    absent = data[data["mean"].isna() | data[list(PANELS)].isna().any(axis=1)]
    return (
        "Means over seeds; differences along a front may be unresolved.",
        f"Not in every panel, for lack of runs or costs: {_some(list(absent.name))}." if len(absent) else "",
    )


def _means(frames: Frames) -> pd.DataFrame:
    """Per variant: family, name, n, mean accuracy and costs."""
    done = frames.runs[frames.runs.status == "done"].astype({"test_accuracy": float})
    means = done.groupby("variant").test_accuracy.agg(["mean", "count"]).rename(columns={"count": "n"})
    costs = frames.costs[["variant", *PANELS]].astype(dict.fromkeys(PANELS, float))
    data = frames.variants[["variant", "model.family"]].rename(columns={"model.family": "family"})
    data = data.merge(means, on="variant", how="left").merge(costs, on="variant").fillna({"n": 0})
    names, planned = _names(frames), frames.runs.groupby("variant").size()
    return data.assign(name=data.variant.map(names).fillna("base"), partial=data.n < data.variant.map(planned))


def _names(frames: Frames) -> dict[str, str]:
    """A variant is called by the first level that has it; bare values with their study."""
    names = {base_of(frames): "base"}
    for study in frames.manifest.studies:
        for level in study.levels:
            prefix = f"{study.name} " if study.axes or level.is_base else ""
            names.setdefault(level.variant, f"{prefix}{level.label}")
    return names


def _front(points: pd.DataFrame, more_is_better: bool) -> pd.DataFrame:
    """The variants than which none is both cheaper and more accurate, cheapest first."""
    ordered = points.astype({"mean": float}).sort_values(["x", "mean"], ascending=[not more_is_better, False])
    return ordered[ordered["mean"] > ordered["mean"].cummax().shift(fill_value=-math.inf)]


DRAWN = {"": effect, ".curves": curves, ".map": heat_map, ".trade": trade, ".tuning": tuning}
"""How a study's figure is drawn, by what its name ends in."""

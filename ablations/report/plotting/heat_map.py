"""Accuracy of every combination of a product study."""

from __future__ import annotations

import itertools
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ablations.metrics import level_text
from ablations.report.captions import describe_provenance
from ablations.report.plotting import style
from ablations.report.plotting.levels import name_axis
from ablations.report.plotting.looks import NARROW, PAGE, WIDE, WRONG, Look
from ablations.report.plotting.style import BLANK
from ablations.report.printing import print_accuracy
from ablations.report.results import StudyResult

MOST_PANELS = 9
"""The most panels in the figure. The small print states how many combinations there are."""

FRAME, WRITING = "#D55E00", ("#FEFEFE", "#1B1B1B")
"""The colours of the base's frame, and of text on dark and on light cells. They are the same on a dark page."""


def draw(study: StudyResult, look: Look = PAGE) -> Figure:
    """Draws a product study: mean accuracy by its first two axes, with a panel for each combination of the others."""
    cells, axes_of = _place_levels(study)
    down, across, *others = axes_of
    if len(axes_of[across]) > max(12, len(axes_of[down])):
        down, across = across, down
    panels = list(itertools.product(*(axes_of[axis] for axis in others)))
    size = len(axes_of[down]), len(axes_of[across])
    width = look.width or (NARROW if len(panels) == 1 and size[1] <= 5 else WIDE)
    per_line, cell, noted = _choose_size(cells, width, *size, len(panels))
    lines = -(-len(panels[:MOST_PANELS]) // per_line)
    body = lines * (cell * len(axes_of[down]) + (0.62 if others else 0.5))
    figure, grid = plt.subplots(lines, per_line, figsize=(width, body), squeeze=False, layout="constrained")
    scale = Normalize(cells["mean"].min(), cells["mean"].max()) if cells["mean"].notna().any() else Normalize(0, 100)
    for panel in grid.flat[len(panels[:MOST_PANELS]) :]:
        panel.set_axis_off()
    for panel, combination in zip(grid.flat, panels, strict=False):
        own = cells[(cells[others] == list(combination)).all(axis=1)] if others else cells
        _draw_panel(panel, own, (down, axes_of[down]), (across, axes_of[across]), scale, noted)
        panel.set_title(
            "\n".join(f"{name_axis(axis)} = {value}" for axis, value in zip(others, combination, strict=True))
        )
    mappable = ScalarMappable(scale, "cividis")
    bar = figure.colorbar(mappable, ax=grid, label=f"Mean {study.part}\naccuracy (%)", fraction=0.05)
    bar.outline.set_visible(False)
    bar.ax.set_visible(bool(cells.n.any()))
    bar.ax.tick_params(length=0)
    style.frame_figure(
        figure, look, study.question or study.name, _say_more(study, cells, len(panels), noted), _make_key(cells)
    )
    return figure


def _place_levels(study: StudyResult) -> tuple[pd.DataFrame, dict[str, list[str]]]:
    """Returns a row per level with a column per axis, and the values of each axis; no base outside the product."""
    axes = study.entry.axes if study.entry else ()
    values = pd.DataFrame(
        [
            {
                "level": level.level,
                "images": level.images,
                **{axis: level_text(level.values.get(axis)) for axis in axes},
            }
            for level in study.levels
        ]
    )
    cells = study.numbers.merge(values, on="level")
    varied = cells[~cells.is_base] if len(cells) > 1 else cells
    of = {axis: list(dict.fromkeys(varied[axis])) for axis in axes}
    on = [all(row[axis] in of[axis] for axis in axes) for row in cells.to_dict("records")]
    order = {axis: list(dict.fromkeys(cells[on][axis])) for axis in axes}
    return cells[on].astype({"mean": float}), order


def _choose_size(cells: pd.DataFrame, width: float, down: int, across: int, panels: int) -> tuple[int, float, bool]:
    """Returns the panels per line, the height of a cell, and whether numbers fit into cells."""
    per_line = max(1, min(panels, 3, int((width - 0.8) / (0.48 * across + 0.5))))
    noted = ((width - 0.8) / per_line - 0.5) / across >= 0.4 and down <= 30
    text = 0.12 + 0.09 * max(_spell_note(row).count("\n") + 1 for row in cells.to_dict("records"))
    return per_line, max(0.24, text) if noted else min(0.2, 7 / down), noted


def _spell_note(row: dict[Any, Any]) -> str:
    """Returns mean, standard deviation, and unfinished runs."""
    mean, sd = print_accuracy(row["mean"], row["sd"], row["images"])
    lines = [mean] if row["n"] else []
    lines += [f"± {sd}"] if sd else []
    lines += [f"n = {row['n']}"] if row["n"] and row["not_done"] else []
    return "\n".join([*lines, *filter(None, row["not_done"].split(", "))])


def _draw_panel(
    panel: Axes, cells: pd.DataFrame, down: tuple[str, list[str]], across: tuple[str, list[str]], scale: Normalize,
    noted: bool,
) -> None:  # fmt: skip
    means = cells.pivot_table(index=down[0], columns=across[0], values="mean", dropna=False, observed=False)
    means = means.reindex(index=down[1], columns=across[1]).astype(float)
    sns.heatmap(means, cmap="cividis", vmin=scale.vmin, vmax=scale.vmax, cbar=False, ax=panel,
                linewidths=0.5 if noted else 0)  # fmt: skip
    panel.set(xlabel=name_axis(across[0]), ylabel=name_axis(down[0]))
    panel.tick_params(axis="y", rotation=0)
    panel.tick_params(axis="x", rotation=90 if max(map(len, across[1])) > 9 and len(across[1]) > 3 else 0)
    for row in cells.to_dict("records"):
        x, y = across[1].index(row[across[0]]), down[1].index(row[down[0]])
        if not row["n"]:
            panel.add_patch(Rectangle((x, y), 1, 1, facecolor="white", edgecolor=WRONG, hatch="////", linewidth=0))
        if noted:
            _write_note(panel, x + 0.5, y + 0.5, row, scale)
        if row["is_base"]:
            panel.add_patch(
                Rectangle((x, y), 1, 1, fill=False, edgecolor=FRAME, linewidth=1.8, clip_on=False, zorder=4)
            )


def _write_note(panel: Axes, x: float, y: float, row: dict[Any, Any], scale: Normalize) -> None:
    """Writes light text on dark cells, dark text on light ones, and a status on white."""
    dark = row["n"] and scale(row["mean"]) < 0.55
    colour = (WRITING[0] if dark else WRITING[1]) if row["n"] else WRONG
    panel.text(
        x, y, _spell_note(row), ha="center", va="center", fontsize=6, color=colour, bbox=None if row["n"] else BLANK,
        linespacing=1.05,
    )  # fmt: skip


def _say_more(study: StudyResult, cells: pd.DataFrame, panels: int, noted: bool) -> tuple[str, ...]:
    partial = int(((cells.n > 0) & (cells.not_done != "")).sum())
    return (
        "Cells: mean ± standard deviation over seeds." if noted else "The table has the numbers.",
        f"{partial} cells are means of fewer seeds than were asked for." if partial and not noted else "",
        f"The first {MOST_PANELS} of {panels} combinations are shown." if panels > MOST_PANELS else "",
        "" if cells.is_base.any() else "The base lies outside the map.",
        describe_provenance(study.frames, (), ["runs"]),
    )


def _make_key(cells: pd.DataFrame) -> list[Artist]:
    key: list[Artist] = []
    if cells.is_base.any():
        key.append(Rectangle((0, 0), 1, 1, fill=False, edgecolor=FRAME, linewidth=1.5, label="base"))
    if (cells.n == 0).any():
        key.append(
            Rectangle((0, 0), 1, 1, facecolor="white", edgecolor=WRONG, hatch="////", linewidth=0, label="no result")
        )
    return key

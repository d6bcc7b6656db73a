"""Learning curves of the levels of a study."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ablations.report.captions import describe_provenance
from ablations.report.plotting import style
from ablations.report.plotting.levels import colour_levels, list_names
from ablations.report.plotting.looks import LIGHT, NARROW, PAGE, WIDE, WRONG, Look
from ablations.report.results import StudyResult, mark_base

CURVES = {
    "train_loss": "Training loss (nats)",
    "validation_accuracy": "Validation accuracy (%)",
    "test_accuracy": "Test accuracy (%)",
}
"""The values that are drawn over the epochs, if they were recorded."""


def draw(study: StudyResult, look: Look = PAGE) -> Figure:
    """Draws loss and accuracies of one study over the epochs, with bands from the lowest to the highest seed."""
    rows = colour_levels(study.numbers)
    own = study.frames.history[study.frames.history.variant.isin(rows.variant)]
    keys = [key for key in CURVES if own[key].notna().any()] or ["train_loss"]
    width = look.width or (NARROW if len(keys) == 1 else WIDE)
    lines = len(keys) if width == NARROW else 1
    size = (width, 2.1 * lines)
    figure, axes = plt.subplots(lines, len(keys) // lines, figsize=size, layout="constrained", squeeze=False)
    for panel, key in zip(axes.flat, keys, strict=True):
        _draw_panel(panel, own, key, rows)
    named = f"Named are the base and the {rows.distinct.sum() - 1} levels of the highest final {study.part} accuracy."
    absent = [f"{row.level} ({row.not_done})" for row in rows[~rows.distinct & (rows.n == 0)].itertuples()]
    small = (
        "Lines: means over seeds; bands: from the lowest to the highest seed.",
        "" if rows.distinct.all() else named,
        f"Without a curve: {list_names(absent)}." if absent else "",
        describe_provenance(study.frames, (), ["runs"]),
    )
    key_lines = _make_key(rows, set(own.variant))
    style.frame_figure(figure, look, f"How do the levels of {study.name} learn?", small, key_lines, handlelength=2.6)
    return figure


def _draw_panel(panel: Axes, own: pd.DataFrame, key: str, rows: pd.DataFrame) -> None:
    data = own.dropna(subset=[key]).groupby(["variant", "epoch"])[key].agg(["mean", "min", "max"]).astype(float)
    if data.empty:
        style.say_empty(panel, "nothing trained yet")
    else:
        _draw_lines(
            panel, data.reset_index().merge(rows[["variant", "level", "distinct", "colour"]], on="variant"), rows
        )
        low, high = data["min"].min(), data["max"].max()
        if key == "train_loss" and 0 < 10 * low <= high:
            panel.set_yscale("log")
            style.set_log_ticks(panel.yaxis, high / low, ticker.StrMethodFormatter("{x:g}"))
        panel.xaxis.set_major_locator(ticker.MaxNLocator(8, integer=True, min_n_ticks=1))
    panel.set(xlabel="Epoch", ylabel=CURVES[key])


def _draw_lines(panel: Axes, data: pd.DataFrame, rows: pd.DataFrame) -> None:
    """Draws grey lines for levels without their own colour, and above them bands and dashed lines for the others."""
    others = [part[["epoch", "mean"]].to_numpy() for _, part in data[~data.distinct].groupby("variant")]
    panel.add_collection(LineCollection(others, colors=LIGHT, linewidths=0.6))
    distinct = data[data.distinct]
    for _, part in distinct.groupby("variant"):
        panel.fill_between(part.epoch, part["min"], part["max"], color=part.colour.iloc[0], alpha=0.15, linewidth=0)
    order = [level for level in rows.level[rows.distinct] if level in set(distinct.level)]
    dots = {"marker": "o", "markersize": 2.5, "markeredgewidth": 0} if data.epoch.nunique() <= 15 else {}
    sns.lineplot(
        distinct, x="epoch", y="mean", hue="level", hue_order=order, style="level", style_order=order,
        palette=dict(zip(rows.level, rows.colour, strict=True)),
        dashes=dict(zip(rows.level, rows.dashes, strict=True)),
        estimator=None, linewidth=1.2, legend=False, ax=panel, **dots,
    )  # fmt: skip


def _make_key(rows: pd.DataFrame, trained: set[str]) -> list[Artist]:
    """Makes a legend: a line for each level with its own colour, or a cross if it has no curve."""
    key: list[Artist] = []
    own = rows[rows.distinct]
    names = [mark_base(*pair) for pair in zip(own.level, own.is_base, strict=True)]
    labels = style.shorten_apart(names, style.LEGEND)
    for row, label in zip(own.to_dict("records"), labels, strict=True):
        label += " (identical)" if row["verdict"] == "identical" else ""
        label += f" ({row['not_done']})" if row["not_done"] else ""
        dashes: Any = (0, row["dashes"]) if row["dashes"] else "solid"
        line = Line2D([], [], color=row["colour"], linestyle=dashes, linewidth=1.2, label=label)
        key.append(line if row["variant"] in trained else style.make_dot("x", WRONG, label))
    others = int((~rows.distinct).sum())
    return [*key, Line2D([], [], color=LIGHT, linewidth=0.6, label=f"{others} other levels")] if others else key

"""Accuracies of the levels of a study, their changes against the base with intervals, and costs beside them."""

from __future__ import annotations

import itertools
import math
import textwrap
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ablations.metrics import METRICS
from ablations.report.captions import describe_provenance, explain_published
from ablations.report.frames import Frames
from ablations.report.plotting import style
from ablations.report.plotting.levels import choose_levels, colour_levels, name_axis, say_left_out
from ablations.report.plotting.looks import GREY, HUES, INK, NARROW, PAGE, PALE, WIDE, WRONG, Look
from ablations.report.plotting.style import BLANK, REFERENCE
from ablations.report.results import StudyResult, mark_base

MOST_LEVELS = 60
"""The most levels in the figure. The small print states how many are left out."""


def draw(study: StudyResult, look: Look = PAGE) -> Figure:
    """Draws one study: accuracies with the seeds as points, changes with simultaneous intervals, and four costs.

    There is no room for the costs in a column.
    """
    frames = study.frames
    rows = choose_levels(colour_levels(study.numbers), MOST_LEVELS)
    labels = [_label_row(row) for row in rows.to_dict("records")]
    line = min(0.3, max(0.17, 6 / len(rows)))
    heights = [line + 0.1 * label.count("\n") for label in labels]
    ends = list(itertools.accumulate(heights))
    rows = rows.assign(place=np.subtract(ends, np.divide(heights, 2)), height=heights)
    width = look.width or WIDE
    costs = style.PANELS if width > NARROW else []
    figure, axes = plt.subplots(
        1, 2 + len(costs), figsize=(width, ends[-1] + 0.42), sharey=True, layout="constrained",
        width_ratios=[1.2, 1.6, *[1] * len(costs)],
    )  # fmt: skip
    _draw_accuracy(axes[0], frames, rows)
    cut = _draw_change(axes[1], rows, study.margin)
    for panel, key in zip(axes[2:], costs, strict=True):
        _draw_cost(panel, rows, key)
    axes[0].set_yticks(rows.place, labels)
    axes[0].set_ylabel(_name_axes(study))
    for text, row in zip(axes[0].get_yticklabels(), rows.itertuples(), strict=True):
        text.set(color=WRONG if row.lost or not row.n else INK, fontweight="bold" if row.is_base else "normal")
    axes[0].set_ylim(ends[-1], 0)
    disturbed = rows.reindex(columns=[METRICS["train_images_per_second"].disturbed]).map(_is_text).any(axis=None)
    images = f"{study.part} images"
    over = f"seeds and {images}" if study.conclusions.over_images else f"seeds, on these {images} only"
    small = (
        f"Intervals hold for all comparisons of the study together, over {over}." if study.conclusions.family else "",
        "Percentages are changes against the base.",
        "≈: the interval of the change contains 0." if _has_equal_speed(rows) else "",
        "Intervals with lost runs reach beyond the panel." if cut else "",
        "Colours are those of the learning curves; grey is not named there." if len(rows) > 1 + len(HUES) else "",
        "† Disturbed by other load, or unsteady." if disturbed else "",
        explain_published(study.frames, study.name),
        say_left_out(study.numbers, rows),
        describe_provenance(study.frames, style.PANELS),
    )
    style.frame_figure(figure, look, study.question or study.name, small, _make_key(rows, study.margin))
    return figure


def _has_equal_speed(rows: pd.DataFrame) -> bool:
    return any(_format_change(row, key) == "≈" for row in rows.to_dict("records") for key in style.PANELS)


def _label_row(row: dict[Any, Any]) -> str:
    """Returns the label of a level, with its unfinished runs on a second line."""
    label = textwrap.fill(mark_base(row["level"], row["is_base"]), 28, max_lines=3, placeholder="…")
    return f"{label}\n({row['not_done']})" if row["not_done"] else label


def _name_axes(study: StudyResult) -> str:
    """Returns the names of the axes if the labels are values that need them: `growth_rate` for `6` and `12`."""
    if study.entry is None or all(level.phrase.strip("“”") == level.level for level in study.levels):
        return ""
    return ",\n".join(map(name_axis, study.entry.axes))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _draw_accuracy(axes: Axes, frames: Frames, rows: pd.DataFrame) -> None:
    seeds = frames.runs.loc[frames.runs.status == "done", ["variant", "test_accuracy"]].merge(rows, on="variant")
    if len(seeds):
        group = seeds.groupby("variant")
        spread = (group.cumcount() + 0.5) / group.variant.transform("size") - 0.5  # so that equal seeds do not overlap
        sns.scatterplot(
            x=seeds.test_accuracy.astype(float), y=seeds.place + 0.55 * spread * seeds.height, hue=seeds.level,
            palette=dict(zip(rows.level, rows.colour, strict=True)), s=9, alpha=0.6, linewidth=0, legend=False, ax=axes,
        )  # fmt: skip
    there = rows[rows.n > 0]
    if len(there):
        axes.scatter(there["mean"], there.place, marker="|", s=60, linewidth=1.2, color=there.colour.tolist(), zorder=3)
    empty = rows[rows.n == 0]
    for place, not_done in zip(empty.place, empty.not_done, strict=True):
        axes.text(0.5, place, not_done, transform=axes.get_yaxis_transform(), color=WRONG, ha="center",
                  va="center", fontsize=6.5, bbox=BLANK)  # fmt: skip
    if "published_error" in rows:
        axes.scatter(100 - rows.published_error, rows.place, marker="x", s=16, linewidth=1, color=INK, zorder=4)
    base = rows.loc[rows.is_base, "mean"].iloc[0]
    if not math.isnan(base):
        axes.axvline(base, **REFERENCE)
    low, high = axes.get_xlim()
    axes.set_xlim(max(low, -0.5), min(high, 100.5))
    axes.xaxis.set_major_locator(ticker.MaxNLocator(3) if rows.n.any() else ticker.NullLocator())
    axes.set(xlabel=METRICS[f"{frames.part}_accuracy"].head, ylabel="")
    axes.grid(False, axis="y")


def _draw_change(axes: Axes, rows: pd.DataFrame, margin: float | None) -> bool:
    """Draws a forest plot of the changes. Returns whether an interval is cut by the panel."""
    axes.axvline(0, **REFERENCE)
    if margin:
        axes.axvspan(-margin, margin, color=PALE, linewidth=0, zorder=0)
    there = rows[rows.verdict.isin(list(MARKS))].dropna(subset=["difference"])
    known = there.dropna(subset=["low"])
    axes.hlines(known.place, known.low, known.high, colors=known.colour.tolist(), linewidth=1)
    for verdict, part in there.groupby("verdict"):
        marker, filled = MARKS[str(verdict)]
        axes.scatter(part.difference, part.place, marker=marker, s=20, linewidth=1, edgecolors=part.colour.tolist(),
                     facecolors=part.colour if filled else "white", zorder=3)  # fmt: skip
    whole = known[(known.lost == 0) & (rows.lost[rows.is_base].sum() == 0)]
    ends = [*whole.low, *whole.high, *there.difference, 0.0, *([-margin, margin] if margin else [])]
    space = 0.08 * (max(ends) - min(ends)) or 0.5
    low, high = min(ends) - space, max(ends) + space
    axes.set_xlim(low, high)
    axes.set(xlabel="Change (points)", ylabel="")
    axes.xaxis.set_major_locator(ticker.MaxNLocator(4) if len(there) else ticker.NullLocator())
    axes.grid(False, axis="y")
    return bool(((known.low < low) | (known.high > high)).any())


MARKS = {"different": ("o", True), "equivalent": ("D", False), "undecided": ("o", False), "identical": ("s", False)}
"""The marker of a change by its verdict, and whether it is filled."""


def _make_key(rows: pd.DataFrame, margin: float | None) -> list[Artist]:
    """Makes a legend for the marks that the figure contains."""
    there = rows[rows.n > 0]
    if there.empty:
        return []
    key: list[Artist] = [
        Line2D([], [], linestyle="", marker="o", markersize=3, color=GREY, alpha=0.6, label="seed"),
        style.make_dot("|", GREY, "mean"),
    ]
    if (there.low < there.high).any():
        key.append(Line2D([], [], color=GREY, linewidth=1, label="simultaneous 95 % interval"))
    for verdict, (marker, filled) in MARKS.items():
        if verdict in set(there.verdict):
            key.append(style.make_dot(marker, GREY, verdict, markerfacecolor=GREY if filled else "white"))
    if margin:
        key.append(Patch(color=PALE, label=f"within ±{margin:g} points"))
    if "published_error" in there and there.published_error.notna().any():
        key.append(style.make_dot("x", INK, "published"))
    return key


def _draw_cost(axes: Axes, rows: pd.DataFrame, key: str) -> None:
    """Draws a bar behind each number, with its change against the base beside it."""
    metric = METRICS[key]
    values = rows[key] / metric.scale
    axes.barh(rows.place, values.fillna(0), color=PALE, height=0.78 * rows.height, linewidth=0)
    look: dict[str, Any] = {"transform": axes.get_yaxis_transform(), "va": "center", "fontsize": 6}
    look |= {"in_layout": False}  # they stay within the panel, so the layout need not measure them
    for value, row in zip(values, rows.to_dict("records"), strict=True):
        if math.isnan(value):
            status = "not measured" if row["cost_status"] == "done" else str(row["cost_status"])
            axes.text(0.04, row["place"], status, color=WRONG, **look)
            continue
        mark = "†" if _is_text(row.get(metric.disturbed)) else ""
        axes.text(0.04, row["place"], _shorten_number(key, value) + mark, color=INK, **look)
        axes.text(0.97, row["place"], _format_change(row, key), color=GREY, ha="right", **look)
    axes.set_xlim(0, 1.04 * (values.max() if values.notna().any() else 1))
    axes.set_xlabel("\n".join(textwrap.wrap(metric.head, 16)))
    style.set_ticks(axes, key, 2)
    if values.isna().all():
        axes.xaxis.set_major_locator(ticker.NullLocator())
    axes.grid(False)


def _shorten_number(key: str, value: float) -> str:
    """Returns the number as in the tables, shortened if it is too long."""
    text = METRICS[key].format(value)
    return text if len(text) < 10 else ticker.EngFormatter(places=1, sep="")(value)


def _format_change(row: dict[Any, Any], key: str) -> str:
    """Returns `-12 %`, or `×12` above a factor of ten; `≈` for a speed whose interval contains the base's.

    Returns an empty text for the base, or if the change is unknown.
    """
    change = row[f"{key}_change"]
    if row["is_base"] or math.isnan(change):
        return ""
    if METRICS[key].timed and row[f"{key}_change_low"] <= 0 <= row[f"{key}_change_high"]:
        return "≈"
    if change >= 9.995:
        return f"×{change + 1:,.0f}"
    places = 0 if METRICS[key].timed or change == 0 or abs(change) >= 0.0995 else 1
    return f"{100 * change:{'+' if change else ''}.{places}f} %".replace("-", "−")

"""Memory against time: the effect of recomputation."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ablations.metrics import METRICS, level_text
from ablations.report.captions import describe_provenance
from ablations.report.plotting import style
from ablations.report.plotting.levels import list_names, name_axis
from ablations.report.plotting.looks import GREY, HUES, NARROW, PAGE, Look
from ablations.report.plotting.style import MARKERS, REFERENCE
from ablations.report.results import CHECKPOINT, StudyResult

MOST_LINES = 12
"""The most lines in the figure. The small print states how many there are."""


SHOWN = ("train_peak_memory_bytes", "train_images_per_second")
"""The costs in the figure."""


def draw(study: StudyResult, look: Look = PAGE) -> Figure:
    """Draws peak memory against the time of a step, with a line through levels that differ only in checkpointing."""
    points = _find_points(study)
    groups = list(dict.fromkeys(points.group))
    looks = list(zip(groups[:MOST_LINES], itertools.cycle(HUES), itertools.cycle(MARKERS), strict=False))
    known = points[points.group.isin(groups[:MOST_LINES])].dropna(subset=["x", "y"])
    unknown = points[points.x.isna() | points.y.isna()]
    absent = [f"{row.level} ({row.cost_status})" for row in unknown.itertuples()]
    figure, axes = plt.subplots(figsize=(look.width or NARROW, 2.7), layout="constrained")
    for group, colour, marker in looks:
        part = known[known.group == group].sort_values(["x", "y"])
        axes.hlines(part.y, part.x - part.iqr / 2, part.x + part.iqr / 2, colors=colour, linewidth=0.6, alpha=0.7)
        sns.lineplot(x=part.x, y=part.y, sort=False, estimator=None, color=colour, marker=marker, markersize=4.5,
                     linewidth=0.8, markeredgewidth=0, ax=axes)  # fmt: skip
    axes.set(xlabel="Time of a training step (ms)", ylabel=METRICS["train_peak_memory_bytes"].head)
    axes.margins(0.14)
    _add_base_scales(axes, known)
    small = (
        "Bars: interquartile range of the step's time.",
        "† Disturbed by other load, or unsteady." if known.disturbed.any() else "",
        f"Not measured: {list_names(absent)}." if absent else "",
        f"The first {MOST_LINES} of {len(groups)} lines are shown." if len(groups) > MOST_LINES else "",
        describe_provenance(study.frames, SHOWN, ["costs"]),
    )
    key = [Line2D([], [], color=colour, marker=marker, markersize=4.5, linewidth=0.8, label=group)
           for group, colour, marker in looks if group]  # fmt: skip
    style.frame_figure(figure, look, study.question or study.name, small, key)
    axes.text(0.02, 0.02, style.name_points(axes, known, known), transform=axes.transAxes, fontsize=6, color=GREY)
    return figure


def _find_points(study: StudyResult) -> pd.DataFrame:
    """Returns for each level: x (milliseconds of a step), y (peak memory), the name of its point, and its group."""
    rows = study.numbers.merge(study.frames.variants[["variant", "train.batch_size"]], on="variant")
    x = 1e3 * rows["train.batch_size"] / rows.train_images_per_second
    values = [level.values for level in study.levels]
    others = [axis for axis in (study.entry.axes if study.entry else ()) if axis != CHECKPOINT]
    disturbed = [level.costs["train_images_per_second"].disturbed for level in study.levels]
    return rows.assign(
        x=x,
        y=rows.train_peak_memory_bytes / METRICS["train_peak_memory_bytes"].scale,
        iqr=x * rows[METRICS["train_images_per_second"].spread].astype(float).fillna(0),
        disturbed=disturbed,
        name=[
            level_text(each.get(CHECKPOINT, "base")) + "†" * mark for each, mark in zip(values, disturbed, strict=True)
        ],
        group=[", ".join(f"{name_axis(axis)} = {level_text(each.get(axis))}" for axis in others) for each in values],
    )


def _add_base_scales(axes: Axes, points: pd.DataFrame) -> None:
    """Adds scales above and to the right, in units of the base's time and memory; none of a time that was disturbed."""
    if points.empty:
        style.say_empty(axes, "nothing measured")
    base = points[points.is_base]
    for x, y, disturbed in zip(base.x.astype(float), base.y.astype(float), base.disturbed, strict=True):
        right = axes.secondary_yaxis("right", functions=_scale_by(y))
        right.set_ylabel("× the base's memory")
        axes.axhline(y, **REFERENCE)
        scales: list[Axis] = [right.yaxis]
        if not disturbed:
            above = axes.secondary_xaxis("top", functions=_scale_by(x))
            above.set_xlabel("× the base's time")
            axes.axvline(x, **REFERENCE)
            scales.append(above.xaxis)
        for axis in scales:
            axis.set_major_locator(ticker.MaxNLocator(5))
            axis.set_tick_params(length=0, labelsize=6.5)


def _scale_by(unit: float) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    return (lambda value: value / unit, lambda value: value * unit)

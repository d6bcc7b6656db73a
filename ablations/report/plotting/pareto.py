"""Accuracy against each cost, over all variants."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ablations.metrics import METRICS
from ablations.report.captions import describe_provenance
from ablations.report.frames import Frames, find_base
from ablations.report.plotting import style
from ablations.report.plotting.levels import list_names
from ablations.report.plotting.looks import GREY, HUES, NARROW, PAGE, WIDE, Look
from ablations.report.plotting.style import MARKERS, NOTE
from ablations.report.results import Results


def draw(results: Results, look: Look = PAGE) -> Figure:
    """Draws accuracy against each cost, with a colour and marker for each family, and names along each front.

    Variants with other test images than the base are left out. A disturbed cost is drawn, but not on the front.
    """
    frames, data = results.frames, _collect_variants(results)
    across = 2 if (look.width or WIDE) > NARROW else 1
    size = (look.width or WIDE, 2.3 * (len(style.PANELS) // across))
    figure, axes = plt.subplots(len(style.PANELS) // across, across, figsize=size, sharey=True, layout="constrained")
    families = list(dict.fromkeys(frames.variants["model.family"]))
    markers = dict(zip(families, itertools.cycle(MARKERS), strict=False))
    palette = dict(zip(families, itertools.cycle(HUES), strict=False))
    fronts = [
        _draw_panel(panel, data, key, markers, palette) for panel, key in zip(axes.flat, style.PANELS, strict=True)
    ]
    key: list[Artist] = [style.make_dot(markers[each], palette[each], each) for each in families]
    key.append(Line2D([], [], color=GREY, linewidth=0.8, label="front: nothing is both cheaper and more accurate"))
    if data.partial.any():
        key.append(style.make_dot("o", GREY, "not all of its seeds", markerfacecolor="white"))
    if data[[f"{each}_disturbed" for each in style.PANELS]].any(axis=None):
        key.append(style.make_dot("x", GREY, "disturbed by other load, so not on the front"))
    drawn = [each for each, (_, points) in zip(style.PANELS, fronts, strict=True) if len(points)]
    small = (*_say_more(results, data), describe_provenance(frames, drawn))
    style.frame_figure(figure, look, "What does accuracy cost?", small, key)
    for panel, (front, points) in zip(axes.flat, fronts, strict=True):
        panel.set_title(style.name_points(panel, front, points), **NOTE)
    return figure


def _draw_panel(
    panel: Axes, data: pd.DataFrame, key: str, markers: dict[str, str], palette: dict[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Draws one cost. Returns its front and all its points."""
    metric = METRICS[key]
    panel.set_title(" ", **NOTE)  # reserves space for the note
    points = data.dropna(subset=[key, "mean"])
    points = points.assign(x=points[key] / metric.scale, y=points["mean"])
    disturbed = points[points[f"{key}_disturbed"]]
    front = _find_front(points.drop(disturbed.index), metric.better == "higher")
    panel.set(xlabel=metric.head, ylabel=f"Mean {METRICS['test_accuracy'].head.lower()}")
    if points.empty:
        style.say_empty(panel, "nothing measured")
        return front, points
    panel.scatter(disturbed.x, disturbed.y, marker="x", s=14, linewidth=0.8, color=GREY)
    for part, alpha in ((points.drop([*front.index, *disturbed.index]), 0.5), (front, 1)):
        for family, own in part.groupby("family"):
            sns.scatterplot(own, x="x", y="y", marker=markers[str(family)], color=palette[str(family)], s=18,
                            linewidth=0.3, alpha=alpha, ax=panel)  # fmt: skip
    partial = points[points.partial]
    panel.scatter(partial.x, partial.y, s=4, color="white", linewidth=0, zorder=3)
    panel.plot(front.x, front.y, color=GREY, linewidth=0.8, zorder=0.9)
    panel.set(xlabel=metric.head, ylabel=f"Mean {METRICS['test_accuracy'].head.lower()}")
    panel.margins(0.08, 0.15)  # space for names
    if points.x.max() - points.x.min() < 0.02 * points.x.max():
        panel.set_xlim(0.98 * points.x.min(), 1.02 * points.x.max())  # costs that are as good as equal
    if points.x.min() > 0 and points.x.max() >= 20 * points.x.min():
        panel.set_xscale("log")
        plain = ticker.EngFormatter(sep="") if metric.scale == 1 else ticker.StrMethodFormatter("{x:,g}")
        style.set_log_ticks(panel.xaxis, points.x.max() / points.x.min(), plain)
    else:
        style.set_ticks(panel, key, 5)
    return front, points


def _say_more(results: Results, data: pd.DataFrame) -> tuple[str, ...]:
    absent = data[data["mean"].isna() | data[list(style.PANELS)].isna().any(axis=1)]
    other = [level.phrase for level in results.overall.levels if level.verdict == "not comparable"]
    return (
        "Means over seeds; neighbours along a front may not differ.",
        f"Not in every panel, for lack of runs or costs: {list_names(list(absent.name))}." if len(absent) else "",
        f"Left out, for their data are not the base's: {list_names(other)}." if other else "",
    )


def _collect_variants(results: Results) -> pd.DataFrame:
    """Returns for each comparable variant: family, name, mean accuracy, costs, and whether each is disturbed."""
    names = _name_variants(results.frames)
    rows = [
        {
            "variant": level.variant,
            "name": names.get(level.variant, "base"),
            "mean": level.mean,
            "partial": bool(level.not_done),
            **{key: level.costs[key].value for key in style.PANELS},
            **{f"{key}_disturbed": level.costs[key].disturbed for key in style.PANELS},
        }
        for level in results.overall.levels
        if level.verdict != "not comparable"
    ]
    families = results.frames.variants[["variant", "model.family"]].rename(columns={"model.family": "family"})
    return families.merge(pd.DataFrame(rows), on="variant")


def _name_variants(frames: Frames) -> dict[str, str]:
    """Names each variant by the first level that has it, with the study's name if others have this label too."""
    names = {find_base(frames): "base"}
    levels = frames.manifest.levels()
    variants = {(level.label, level.variant) for level in levels}
    shared = Counter(label for label, _ in variants)
    for study in frames.manifest.studies:
        for level in study.levels:
            prefix = f"{study.name} " if study.axes or level.is_base or shared[level.label] > 1 else ""
            names.setdefault(level.variant, f"{prefix}{level.label}")
    return names


def _find_front(points: pd.DataFrame, more_is_better: bool) -> pd.DataFrame:
    """Returns the variants for which no other is both cheaper and more accurate, cheapest first."""
    ordered = points.astype({"mean": float}).sort_values(["x", "mean"], ascending=[not more_is_better, False])
    return ordered[ordered["mean"] > ordered["mean"].cummax().shift(fill_value=-math.inf)]

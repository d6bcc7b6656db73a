"""Frames become figures: SVG, PDF and PNG per study, learning curves, and accuracy against each cost."""

from __future__ import annotations

import io
import math
import textwrap
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # no window, whatever the machine has

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablations import records
from ablations.metrics import METRICS
from ablations.tables import StudyTable, provenance, study_table
from ablations.tidy import Frames

PANELS = ("params", "macs", "train_peak_memory_bytes", "train_images_per_second")
"""The costs that stand beside the accuracy in a study's figure."""

STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "svg.hashsalt": "densenet-ablations",
    "pdf.fonttype": 42,
    "figure.dpi": 100,
    "savefig.dpi": 200,
}
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#767676"
"""Of Okabe and Ito's colours, told apart by colour-blind readers."""


def write(frames: Frames) -> list[Path]:
    """Draws every figure of a results folder; gives the paths."""
    paths: list[Path] = []
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # a reader's own matplotlibrc changes no figure
        sns.set_theme(style="whitegrid", context="paper", rc=STYLE)
        for study in frames.manifest["studies"]:
            table = study_table(frames, study["name"])
            paths += _save(effect(frames, table), frames.folder / "figures" / table.name)
        paths += _save(pareto(frames), frames.folder / "figures" / "pareto")
        paths += _save(curves(frames), frames.folder / "figures" / "curves")
    return paths


def effect(frames: Frames, table: StudyTable) -> Figure:
    """One study: accuracy by level with the seeds as points and 95 % intervals, and four costs beside it."""
    rows = table.numbers
    labels = [
        textwrap.fill(str(level), 18) + (" *" if base else "")
        for level, base in zip(rows.level, rows.is_base, strict=True)
    ]
    lines = sum(label.count("\n") for label in labels)
    figure, axes = plt.subplots(
        1, 1 + len(PANELS), figsize=(9.5, 1.5 + 0.27 * (len(rows) + 0.6 * lines)), sharey=True, layout="constrained",
        width_ratios=[2.2, *[1] * len(PANELS)],
    )  # fmt: skip
    _accuracy_panel(axes[0], frames, table)
    for panel, key in zip(axes[1:], PANELS, strict=True):
        _cost_panel(panel, rows, key)
    axes[0].set_yticks(range(len(rows)), labels)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.suptitle(textwrap.fill(table.question or table.name, 100), fontsize=10, fontweight="bold")
    figure.supxlabel(_footnote(frames), fontsize=6, color=GREY)
    return figure


def _accuracy_panel(axes: Axes, frames: Frames, table: StudyTable) -> None:
    seeds = frames.runs[frames.runs.status == "done"]
    for place, row in enumerate(table.numbers.itertuples()):
        own = seeds[seeds.variant == row.variant]
        colour = ORANGE if row.is_base else BLUE
        if not len(own):
            axes.text(0.5, place, "failed" if row.failed else "missing", color=ORANGE, ha="center", va="center",
                      transform=axes.get_yaxis_transform())  # fmt: skip
            continue
        sns.stripplot(x=own.test_accuracy, y=[place] * len(own), orient="h", native_scale=True, jitter=False,
                      color=colour, alpha=0.45, size=4, ax=axes)  # fmt: skip
        axes.errorbar(
            row.mean, place, xerr=_half_interval(row.sd, row.n), fmt="D", markersize=4, capsize=3, color=colour
        )
        if row.failed or row.missing:
            axes.annotate(
                f" {row.failed + row.missing} not done", (row.mean, place), fontsize=6, va="bottom", color=ORANGE
            )
    metric = METRICS["test_accuracy"]
    axes.set_xlim(right=min(axes.get_xlim()[1], 100.5))
    axes.set_xlabel(f"{metric.head}\npoints: seeds; bar: 95 % t interval of the mean; *: base")
    axes.set_ylabel("")


def _half_interval(sd: float, n: int) -> float | None:
    from scipy import stats

    return float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n) if n > 1 else None


def _cost_panel(axes: Axes, rows: pd.DataFrame, key: str) -> None:
    metric = METRICS[key]
    values = rows[key] / metric.scale
    colours = [ORANGE if base else BLUE for base in rows.is_base]
    axes.barh(range(len(rows)), values.fillna(0), color=colours, alpha=0.75, height=0.62)
    for place, value in enumerate(values):
        text = " no cost" if math.isnan(value) else f" {_short(value)}"
        axes.text(0 if math.isnan(value) else value, place, text, va="center", fontsize=6.5)
    axes.set_xlim(0, 1.35 * (values.max() if values.notna().any() else 1))
    axes.set_xlabel(f"{metric.label}\n({metric.unit})" if metric.unit else metric.label)
    axes.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(2))
    axes.xaxis.set_major_formatter(lambda value, _: _short(value))
    axes.grid(False, axis="y")


def _short(value: float) -> str:
    """`50.1k`, `864`, `9.53`."""
    if value == 0:
        return "0"
    for bound, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= bound:
            return f"{value / (1e3 if suffix == 'k' else bound):.3g}{suffix}"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def pareto(frames: Frames) -> Figure:
    """Accuracy against each cost: families told apart, the best for their price joined."""
    data = _means(frames)
    figure, axes = plt.subplots(1, len(PANELS), figsize=(9.5, 3.1), sharey=True, layout="constrained")
    families = list(dict.fromkeys(frames.variants["model.family"]))
    markers = dict(zip(families, "osD^v<>Ph*X" * len(families), strict=False))
    palette = dict(zip(families, sns.color_palette("colorblind", len(families)), strict=True))
    for panel, key in zip(axes, PANELS, strict=True):
        metric = METRICS[key]
        points = data.dropna(subset=[key]).assign(x=lambda frame, k=key, m=metric: frame[k] / m.scale)
        if points.empty:
            panel.text(0.5, 0.5, "nothing measured", transform=panel.transAxes, ha="center", color=GREY)
            continue
        sns.scatterplot(points, x="x", y="mean", hue="model.family", style="model.family", hue_order=families,
                        markers=markers, palette=palette, s=24, ax=panel, legend=panel is axes[0])  # fmt: skip
        front = _front(points, metric.better == "higher")
        panel.plot(front.x, front["mean"], color=GREY, linewidth=1, zorder=0)
        panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(4))
        panel.xaxis.set_major_formatter(lambda value, _: _short(value))
        panel.set(xlabel=metric.head, ylabel=f"Mean {METRICS['test_accuracy'].head.lower()}")
        if panel.get_legend():
            panel.legend(title=None, fontsize=7)
    figure.suptitle("What does accuracy cost? One mark per variant; the line joins those that nothing beats on both",
                    fontsize=10, fontweight="bold")  # fmt: skip
    figure.supxlabel(_footnote(frames), fontsize=6, color=GREY)
    return figure


def _means(frames: Frames) -> pd.DataFrame:
    done = frames.runs[frames.runs.status == "done"]
    means = done.groupby("variant", sort=False).test_accuracy.mean().rename("mean").reset_index()
    costs = frames.costs[["variant", *PANELS]].astype(dict.fromkeys(PANELS, float))
    return means.merge(costs, on="variant").merge(frames.variants[["variant", "model.family"]], on="variant")


def _front(points: pd.DataFrame, more_is_better: bool) -> pd.DataFrame:
    """The variants than which none is both cheaper and more accurate, cheapest first."""
    ordered = points.astype({"mean": float}).sort_values(["x", "mean"], ascending=[not more_is_better, False])
    return ordered[ordered["mean"] > ordered["mean"].cummax().shift(fill_value=-math.inf)]


def curves(frames: Frames) -> Figure:
    """Training loss over the epochs, one panel per study, bands from the lowest to the highest seed."""
    studies = frames.manifest["studies"]
    columns = min(3, len(studies))
    lines = -(-len(studies) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(9.5, 0.5 + 2.7 * lines), squeeze=False, layout="constrained")
    for panel in axes.flat[len(studies) :]:
        panel.set_axis_off()
    for panel, study in zip(axes.flat, studies, strict=False):
        levels = frames.studies[frames.studies.study == study["name"]]
        data = frames.history.merge(levels, on="variant")
        if len(data):
            order = [level for level in levels.level if level in set(data.level)]
            style = {"linewidth": 1, "marker": "o", "markersize": 3, "markeredgewidth": 0, "palette": "colorblind"}
            encoding = {"x": "epoch", "y": "train_loss", "hue": "level", "hue_order": order}
            sns.lineplot(data, **encoding, **style, errorbar=("pi", 100), ax=panel)
            panel.set_yscale("log")
            panel.legend(title=None, fontsize=6)
        panel.set(title=study["name"], xlabel="Epoch", ylabel="Training loss (nats)")
        panel.xaxis.set_major_locator(matplotlib.ticker.MaxNLocator(integer=True, min_n_ticks=1))
    figure.suptitle(
        "How do the variants learn? Mean over seeds, band from lowest to highest", fontsize=10, fontweight="bold"
    )
    figure.supxlabel(_footnote(frames), fontsize=6, color=GREY)
    return figure


def _footnote(frames: Frames) -> str:
    return textwrap.fill(provenance(frames), 190)


def _save(figure: Figure, stem: Path) -> list[Path]:
    """SVG and PDF carry no date, so that the same records give the same bytes."""
    metadata: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once for all three
    paths = []
    for suffix, entries in metadata.items():
        content = io.BytesIO()
        figure.savefig(content, format=suffix, metadata=entries)
        paths.append(stem.with_name(f"{stem.name}.{suffix}"))
        records.write(paths[-1], content.getvalue())
    plt.close(figure)
    return paths

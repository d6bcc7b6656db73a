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
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablations import files
from ablations.metrics import METRICS
from ablations.tables import StudyTable, provenance, study_table
from ablations.tidy import Frames

PANELS = ("params", "macs", "train_peak_memory_bytes", "train_images_per_second")
"""The costs that stand beside the accuracy in a study's figure."""

STYLE: dict[str, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "text.parse_math": False,  # a dollar in a question is a dollar
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
        sns.set_theme(style="whitegrid", context="paper", font="DejaVu Sans", rc=STYLE)
        for study in frames.manifest["studies"]:
            table = study_table(frames, study["name"])
            paths += _save(effect(frames, table), frames.folder / "figures" / table.name)
        paths += _save(pareto(frames), frames.folder / "figures" / "pareto")
        paths += _save(curves(frames), frames.folder / "figures" / "curves")
    return paths


def effect(frames: Frames, table: StudyTable) -> Figure:
    """One study: accuracy by level with the seeds as points and 95 % intervals, and four costs beside it."""
    rows = table.numbers
    labels = [_row_label(row) for row in rows.to_dict("records")]
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


def _row_label(row: dict[Any, Any]) -> str:
    """The level, `*` for the base, and below it what is not done."""
    label = textwrap.fill(str(row["level"]), 24) + (" *" if row["is_base"] else "")
    return f"{label}\n({row['not_done']})" if row["not_done"] else label


def _accuracy_panel(axes: Axes, frames: Frames, table: StudyTable) -> None:
    seeds = frames.runs[frames.runs.status == "done"]
    for place, row in enumerate(table.numbers.itertuples()):
        own = seeds[seeds.variant == row.variant]
        colour = ORANGE if row.is_base else BLUE
        if not len(own):
            continue
        sns.stripplot(x=own.test_accuracy, y=[place] * len(own), orient="h", native_scale=True, jitter=False,
                      color=colour, alpha=0.45, size=4, ax=axes)  # fmt: skip
        axes.errorbar(
            row.mean, place, xerr=_half_interval(row.sd, row.n), fmt="D", markersize=4, capsize=3, color=colour
        )
    cut = axes.get_xlim()[1] > 100.5
    axes.set_xlim(right=100.5 if cut else None)
    bar = "95 % t interval of the mean" + (", cut at 100 %" if cut else "")
    axes.set_xlabel(f"{METRICS['test_accuracy'].head}\npoints: seeds; bar: {bar}; *: base")
    axes.set_ylabel("")


def _half_interval(sd: float, n: int) -> float | None:
    from scipy import stats

    return float(stats.t.ppf(0.975, n - 1)) * sd / math.sqrt(n) if n > 1 else None


def _cost_panel(axes: Axes, rows: pd.DataFrame, key: str) -> None:
    metric = METRICS[key]
    values = rows[key] / metric.scale
    colours = [ORANGE if base else BLUE for base in rows.is_base]
    axes.barh(range(len(rows)), values.fillna(0), color=colours, alpha=0.75, height=0.62)
    for place, (value, status) in enumerate(zip(values, rows.cost_status, strict=True)):
        text = f" {status}" if math.isnan(value) else f" {metric.format(value)}"
        axes.text(0 if math.isnan(value) else value, place, text, va="center", fontsize=6.5)
    axes.set_xlim(0, 1.6 * (values.max() if values.notna().any() else 1))
    axes.set_xlabel(f"{metric.label}\n({metric.unit})" if metric.unit else metric.label)
    _ticks(axes, key, 2)
    axes.grid(False, axis="y")


def _ticks(axes: Axes, key: str, most: int) -> None:
    """Few ticks, large counts as `40k`; a number that has a scaled unit gets no second prefix."""
    axes.xaxis.set_major_locator(ticker.MaxNLocator(most))
    plain = METRICS[key].scale != 1
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}") if plain else ticker.EngFormatter(sep=""))


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
        _ticks(panel, key, 4)
        panel.set(xlabel=metric.head, ylabel=f"Mean {METRICS['test_accuracy'].head.lower()}")
        if panel.get_legend():
            panel.legend(title=None, fontsize=7)
    figure.suptitle("What does accuracy cost? The line joins what nothing beats by mean; differences may be unresolved",
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
            _curve(panel, data, order)
        panel.set(title=study["name"], xlabel="Epoch", ylabel="Training loss (nats)")
        panel.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
    figure.suptitle(
        "How do the variants learn? Mean over seeds, band from lowest to highest", fontsize=10, fontweight="bold"
    )
    figure.supxlabel(_footnote(frames), fontsize=6, color=GREY)
    return figure


def _curve(panel: Axes, data: pd.DataFrame, order: list[str]) -> None:
    """The levels of one study; beyond eight, hues of one scale, since no palette has that many apart."""
    few = len(order) <= 8
    palette = sns.color_palette("colorblind" if few else "viridis", len(order))
    names = {level: " " + textwrap.shorten(level, 28, placeholder="...") for level in order}
    encoding = {"x": "epoch", "y": "train_loss", "hue": "level", "hue_order": order, "palette": palette}
    style = {"linewidth": 1, "marker": "o", "markersize": 3, "markeredgewidth": 0}
    sns.lineplot(data, **encoding, **style, errorbar=("pi", 100), ax=panel)
    if data.train_loss.max() >= 10 * data.train_loss.min():
        panel.set_yscale("log")
    panel.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    panel.yaxis.set_minor_formatter(ticker.NullFormatter())
    lines = panel.get_legend_handles_labels()[0]
    labels = [names[level] for level in order]
    panel.legend(lines, labels, fontsize=6 if few else 4, ncols=1 + len(order) // 13)


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
        files.write(paths[-1], content.getvalue())
    plt.close(figure)
    return paths

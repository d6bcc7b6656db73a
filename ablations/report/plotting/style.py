"""The style of figures: title and small print, legends, ticks, names beside points, files."""

from __future__ import annotations

import io
import itertools
import math
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # no window on any machine

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import ticker
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from ablations.metrics import METRICS
from ablations.report.plotting.fonts import list_fonts
from ablations.report.plotting.looks import GREY, INK, WRONG, Look
from ablations.storage import files

STYLE: dict[str, Any] = {
    "font.size": 7,
    "axes.titlesize": 7,
    "axes.labelsize": 7,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "legend.fontsize": 6.5,
    "axes.linewidth": 0.6,
    "grid.linewidth": 0.5,
    "axes.edgecolor": "#B0B0B0",
    "grid.color": "#DDDDDD",
    "hatch.linewidth": 0.5,
    "xtick.major.pad": 1,
    "ytick.major.pad": 1,
    "text.parse_math": False,  # a dollar sign in a question is not the start of a formula
    "svg.hashsalt": "densenet-ablations",
    "pdf.fonttype": 42,
    "text.hinting": "none",  # the same width of text in every format
    "figure.dpi": 72,  # a pixel is a point, as in SVG and PDF
}


PANELS = [key for key, metric in METRICS.items() if metric.panel]
"""The costs that are shown beside the accuracy."""


REFERENCE: dict[str, Any] = {"color": INK, "linewidth": 0.6, "linestyle": (0, (4, 3)), "zorder": 0.9}
"""The style of a line through the base."""


NOTE: dict[str, Any] = {"loc": "right", "fontsize": 6, "color": GREY, "pad": 2}
"""The style of a note above a panel."""


BLANK = {"facecolor": "white", "edgecolor": "none", "pad": 1}
"""The box behind text that would cover other marks."""


MARKERS = "osD^vPX*"


DASHES = ((3, 1), (1, 1), (5, 1, 1, 1), (5, 1, 1, 1, 1, 1), (2, 2), (6, 2), (3, 1, 1, 1))


@contextmanager
def use_style() -> Iterator[None]:
    """A context with the style of all figures. The user's own matplotlibrc has no effect."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        sns.set_theme(style="whitegrid", context="paper", rc={**STYLE, "font.family": list_fonts()})
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font")  # `find_missing_letters` tells it
            yield


def frame_figure(
    figure: Figure, look: Look, title: str, small: Sequence[str], handles: Sequence[Artist] = (), **legend: Any
) -> None:
    """Adds a title above, and legend and small print below a figure with the height of its panels; lays it out.

    A bare figure has only the legend.
    """
    width, body = figure.get_size_inches()
    text = "" if look.bare else textwrap.fill(title, round(12.6 * width))
    head = figure.text(0.5, 1, text, ha="center", va="top", fontsize=8, fontweight="bold", color=INK)
    note = "" if look.bare else textwrap.fill(" ".join(part for part in small if part), round(21 * width))
    foot = figure.text(0.06 / width, 0, note, va="bottom", fontsize=6, color=GREY)
    key = _add_legend(figure, handles, **legend) if handles else None
    above, below = (0.04, 0.04) if look.bare else (_measure_height(head) + 0.1, _measure_height(foot) + 0.08)
    between = _measure_height(key) if key else 0.0
    height = above + body + between + below
    figure.set_size_inches(width, height)
    head.set_y(1 - 0.04 / height)
    foot.set_y(0.04 / height)
    if key:
        key.set_bbox_to_anchor((0.5, below / height))
    engine = figure.get_layout_engine()
    assert engine
    engine.set(rect=(0.04 / width, (between + below) / height, 1 - 0.08 / width, body / height))  # type: ignore[call-arg]
    engine.execute(figure)
    figure.set_layout_engine("none")  # laid out once for all formats
    for axes in figure.axes:  # the last digits of the layout vary between calls
        box = np.round(axes.get_position(original=True).bounds, 6)
        axes.set_position((box[0], box[1], box[2], box[3]))
        axes.set_in_layout(True)


def _add_legend(figure: Figure, handles: Sequence[Artist], **options: Any) -> Any:
    """Adds one legend in as few lines as the width allows."""
    for columns in range(min(6, len(handles)), 0, -1):
        key = figure.legend(
            handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0), ncols=columns, frameon=False,
            borderaxespad=0, columnspacing=1.2, handletextpad=0.5, **options,
        )  # fmt: skip
        if columns == 1 or key.get_window_extent().width <= figure.bbox.width:
            break
        key.remove()
    return key


def _measure_height(artist: Artist) -> float:
    figure = artist.get_figure(root=True)
    assert figure
    return float(artist.get_window_extent().height / figure.dpi)


LEGEND = 48
"""The most letters of a name in a legend: so many fit into a column of a paper."""


def shorten(text: str, width: int = 34) -> str:
    """Shortens a text that is too long."""
    return text if len(text) <= width else text[: width - 1] + "…"


def shorten_apart(texts: Sequence[str], width: int = 34) -> list[str]:
    """Shortens texts that are too long, and keeps them apart: texts that begin alike keep their ends too.

    >>> shorten_apart(["growth_rate 12, compressed", "growth_rate 12, composed"], 16)
    ['growth_rat…essed', 'growth_rat…posed']
    """
    found = [shorten(text, width) for text in texts]
    alike = [text for text in dict.fromkeys(texts) if found.count(shorten(text, width)) > texts.count(text)]
    for end in range(width // 3, width - 1):
        cut = {text: f"{text[: width - 1 - end]}…{text[-end:]}" if len(text) > width else text for text in alike}
        if len({*cut.values()}) == len(alike):
            return [cut.get(text, short) for text, short in zip(texts, found, strict=True)]
    return [*texts]


class _Apart(ticker.Formatter):
    """Writes ticks with as few digits as keep them apart, 6 at least, and counts with a prefix: `40k`."""

    def __init__(self, prefix: bool) -> None:
        self.few = ticker.EngFormatter(sep="") if prefix else ticker.StrMethodFormatter("{x:,g}")

    def __call__(self, x: float, pos: int | None = None) -> str:
        return str(self.few(x, pos))

    def format_ticks(self, values: list[float]) -> list[str]:
        texts = [self(value) for value in values]
        for digits in range(7, 16):
            if len({*texts}) == len(values):
                break
            texts = [f"{value:,.{digits}g}" for value in values]
        return texts


def set_ticks(axes: Axes, key: str, most: int) -> None:
    """Sets few ticks, with large counts as `40k`. Numbers with a scaled unit get no second prefix."""
    axes.xaxis.set_major_locator(ticker.MaxNLocator(most))
    axes.xaxis.set_major_formatter(_Apart(prefix=METRICS[key].scale == 1))


def set_log_ticks(axis: Axis, ratio: float, form: ticker.Formatter) -> None:
    """Sets ticks at 1, 2, 5, 10, or only at powers of ten for many decades."""
    axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if ratio < 1000 else (1,)))
    axis.set_major_formatter(form)
    axis.set_minor_locator(ticker.NullLocator())


def say_empty(axes: Axes, text: str) -> None:
    """Writes into a panel why it is empty."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=WRONG)
    axes.grid(False)
    axes.tick_params(labelleft=False, labelbottom=False)


def make_dot(marker: str, colour: str, label: str, **options: Any) -> Line2D:
    """Makes a marker for a legend."""
    return Line2D([], [], linestyle="", marker=marker, markersize=4.5, color=colour, label=label, **options)


def save(figure: Figure, stem: Path) -> list[Path]:
    """Writes a figure as SVG, PDF and PNG without a date or a version, so that the same records give the same bytes.

    Returns the paths.

    The backends are called directly, because savefig draws every figure twice.
    """
    paths = []
    for suffix, (canvas, dpi, options) in _BACKENDS.items():
        content = io.BytesIO()
        figure.set_dpi(dpi)
        getattr(canvas(figure), f"print_{suffix}")(content, **options)
        paths.append(stem.with_name(f"{stem.name}.{suffix}"))
        files.write(paths[-1], content.getvalue())
    plt.close(figure)
    return paths


_BACKENDS: dict[str, tuple[type[FigureCanvasBase], int, dict[str, Any]]] = {
    "svg": (FigureCanvasSVG, 72, {"metadata": {"Date": None, "Creator": None}}),
    "pdf": (FigureCanvasPdf, 72, {"metadata": {"CreationDate": None, "Creator": None, "Producer": None}}),
    "png": (FigureCanvasAgg, 200, {"metadata": {"Software": None}}),
}


def name_points(panel: Axes, named: pd.DataFrame, points: pd.DataFrame) -> str:
    """Writes names beside points where they cover no other name and little else. Returns how many names do not fit."""
    if named.empty:
        return ""
    places = panel.transData.transform(points[["x", "y"]].to_numpy(float))
    drawn = np.vstack(
        [places] * 8 + [_trace_line(line.get_transform().transform(line.get_xydata())) for line in panel.lines]
    )
    taken: list[Bbox] = []
    short = shorten_apart(list(named.name), 30)
    for here, name in zip(panel.transData.transform(named[["x", "y"]].to_numpy(float)), short, strict=True):
        sample = panel.text(0, 0, name, fontsize=6)
        extent = sample.get_window_extent()
        sample.remove()
        box = _find_place(panel.bbox, here, (extent.width + 3, extent.height + 1.5), taken, drawn)
        if box:
            taken.append(box)
            drawn = np.vstack([drawn, _trace_leader(here, box)])
            _write_beside(panel, here, box, name, places)
    unnamed = len(named) - len(taken)
    return f"{unnamed} have no name here, for want of room" if unnamed else ""


def _trace_line(corners: Any) -> Any:
    """Returns points along a line, so close that no name fits between them."""
    parts = [
        a + np.linspace(0, 1, 2 + int(math.dist(a, b) / 3))[:, None] * (b - a) for a, b in itertools.pairwise(corners)
    ]
    return np.vstack(parts) if parts else np.empty((0, 2))


def _trace_leader(here: Any, box: Bbox) -> Any:
    """Returns points on the line from a point to the nearest point of a box."""
    return _trace_line([here, np.clip(here, box.min, box.max)])


def _find_place(panel: Bbox, here: Any, size: tuple[float, float], taken: Sequence[Bbox], drawn: Any) -> Bbox | None:
    """Finds a free box near a point, within the panel, that overlaps no other name and covers little of the drawing.

    Covering a data point counts like 48 points of distance. Returns None if there is no good place.
    """
    best: tuple[float, Bbox | None] = (75, None)
    for distance, step in itertools.product((5, 10, 16, 23, 32, 42, 54), range(16)):
        angle = math.pi / 4 + step * math.pi / 8
        across, up = math.cos(angle), math.sin(angle)
        x, y = here[0] + (distance + size[0] / 2) * across, here[1] + (distance + size[1] / 2) * up
        box = Bbox.from_bounds(x - size[0] / 2, y - size[1] / 2, *size)
        inside = panel.x0 <= box.x0 and box.x1 <= panel.x1 and panel.y0 <= box.y0 and box.y1 <= panel.y1
        if distance >= best[0] or not inside or box.count_overlaps(taken):
            continue
        way = _trace_leader(here, box)
        crossed = sum(each.count_contains(way) for each in taken)
        score = distance + 6 * box.padded(1.5).count_contains(drawn) + 25 * crossed
        best = min(best, (score, box), key=lambda pair: pair[0])
    return best[1]


def _write_beside(panel: Axes, here: Any, box: Bbox, name: str, places: Any) -> None:
    """Writes a name, with a thin line to its point if the point is far or another point is as near."""
    gap = _measure_gaps(box, here[None])[0]
    near = int((_measure_gaps(box, places) <= gap + 4).sum())  # including the point itself
    arrow = {"arrowstyle": "-", "color": GREY, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2}
    middle = np.array([(box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2])
    panel.annotate(
        name, xy=tuple(panel.transData.inverted().transform(here)), xytext=tuple(middle - here),
        textcoords="offset points", ha="center", va="center", fontsize=6, color=INK,
        arrowprops=arrow if gap > 8 or near > 1 else None,
    )  # fmt: skip


def _measure_gaps(box: Bbox, places: Any) -> Any:
    """Returns the distances of points from a box."""
    across = np.maximum(np.maximum(box.x0 - places[:, 0], places[:, 0] - box.x1), 0)
    up = np.maximum(np.maximum(box.y0 - places[:, 1], places[:, 1] - box.y1), 0)
    return np.hypot(across, up)

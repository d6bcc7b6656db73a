"""Draws figures, here or in processes of their own, and writes them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ablations.execution.fresh import Killed, call_all_fresh
from ablations.report.plotting import curves, effect, heat_map, mistakes, pareto, style, trade, tuning
from ablations.report.plotting.drawn import Drawing
from ablations.report.plotting.looks import Look
from ablations.report.results import Results, StudyResult

DRAWN: dict[str, Callable[[StudyResult, Look], Figure]] = {
    "": effect.draw, ".curves": curves.draw, ".map": heat_map.draw, ".trade": trade.draw, ".errors": mistakes.draw,
    ".tuning": tuning.draw,
}  # fmt: skip
"""The function that draws a figure of a study, by the kind of the figure."""

FEWEST, MOST = 4, 8
"""The fewest figures for which a process is started, because its start takes as long as two of them, and the most
processes."""


def draw(drawings: Sequence[Drawing], folder: Path, cores: int = 1) -> list[Path]:
    """Draws figures and writes them into a folder. Returns the paths.

    The bytes are the same for any number of cores. Raises StorageError.
    """
    processes = min(cores, MOST, len(drawings) // FEWEST)
    if processes < 2:
        return _draw_here(drawings, folder)
    alike = sorted(drawings, key=lambda each: each.kind)  # so that every process has its share of each kind
    parts = [(alike[first::processes], folder) for first in range(processes)]
    try:
        found = call_all_fresh(_draw_there, parts, "forkserver", lambda: False)
    except Killed:  # for want of memory, for example
        return _draw_here(drawings, folder)
    for outcome in found:
        if isinstance(outcome, Exception):
            raise outcome
    return [path for outcome in found if not isinstance(outcome, Exception) for path in outcome]


def _draw_there(drawings: Sequence[Drawing], folder: Path) -> list[Path] | Exception:
    """Draws in a process of its own. Returns an error, if there is one, for the process that wants the figures."""
    gc.freeze()  # what the server has loaded is no garbage, and takes long to search
    try:
        return _draw_here(drawings, folder)
    except Exception as error:
        return error


def _draw_here(drawings: Sequence[Drawing], folder: Path) -> list[Path]:
    with style.use_style():
        return [path for each in drawings for path in style.save(_make(each), folder / each.name)]


def _make(drawing: Drawing) -> Figure:
    if isinstance(drawing.shown, Results):
        return pareto.draw(drawing.shown, drawing.look)
    return DRAWN[drawing.kind](drawing.shown, drawing.look)

"""The figures of a results folder, which are drawn and written as SVG, PDF and PNG.

A study `x` has `x` (accuracy and costs by level) and `x.curves`, and if they apply, `x.map` (two axes or more),
`x.trade` (checkpointing) and `x.tuning`. All are drawn at the width at which they are printed: the text of a page, or
one of two columns. A new figure needs a module with a function `draw`, an entry in DRAWN, and a line in `list_stems`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from ablations.report.frames import find_trials
from ablations.report.plotting import curves, effect, heat_map, pareto, style, trade, tuning
from ablations.report.results import Results, StudyResult

DRAWN: dict[str, Callable[[StudyResult], Figure]] = {
    "": effect.draw, ".curves": curves.draw, ".map": heat_map.draw, ".trade": trade.draw, ".tuning": tuning.draw,
}  # fmt: skip
"""The function that draws a figure of a study, by the end of the figure's name."""


def write_figures(results: Results) -> list[Path]:
    """Draws every figure of a results folder. Returns the paths."""
    stems, folder = list_stems(results), results.frames.folder / "figures"
    paths: list[Path] = []
    with style.use_style():
        for study in results.studies:
            for stem in stems[study.name]:
                paths += style.save(DRAWN[stem.removeprefix(study.name)](study), folder / stem)
        for stem in stems[""]:
            paths += style.save(pareto.draw(results), folder / stem)
    return paths


def list_stems(results: Results) -> dict[str, list[str]]:
    """Returns the names of each study's figures without suffix, effect plot first. "" has those over all studies."""
    return {**{study.name: [study.name + kind for kind in _list_kinds(study)] for study in results.studies},
            "": ["pareto"]}  # fmt: skip


def _list_kinds(study: StudyResult) -> list[str]:
    axes = study.entry.axes if study.entry else ()
    kinds = ["", ".curves"]
    kinds += [".map"] if len(axes) > 1 else []
    kinds += [".trade"] if trade.CHECKPOINT in axes else []
    kinds += [".tuning"] if find_trials(study.frames, study.name).level.nunique() > 1 else []
    return kinds

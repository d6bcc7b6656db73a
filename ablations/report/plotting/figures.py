"""The figures of a results folder, which are drawn and written as SVG, PDF and PNG.

A study `x` has `x` (accuracy and costs by level) and `x.curves`, and if they apply, `x.map` (two axes or more),
`x.trade` (checkpointing) and `x.tuning`. All are drawn at the width at which they are printed: the text of a page, or
one of two columns. A new figure needs a module with a function `draw` of a study and a look, an entry in DRAWN, and a
line in `list_stems`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from matplotlib.figure import Figure

from ablations.report.frames import find_trials
from ablations.report.plotting import curves, effect, heat_map, pareto, style, trade, tuning
from ablations.report.results import Results, StudyResult

DRAWN: dict[str, Callable[[StudyResult, style.Look], Figure]] = {
    "": effect.draw, ".curves": curves.draw, ".map": heat_map.draw, ".trade": trade.draw, ".tuning": tuning.draw,
}  # fmt: skip
"""The function that draws a figure of a study, by the end of the figure's name."""


LOOKS = {
    "*": style.PAGE,
    "bare/*.column": style.Look(style.NARROW, bare=True),
    "bare/*.page": style.Look(style.WIDE, bare=True),
}
"""The looks of a figure, by the name of its file: `*` is its stem. The bare ones are for a paper."""


def write_figures(results: Results, bare: bool = False) -> list[Path]:
    """Draws every figure of a results folder, or with `bare` all of them without title and small print.

    Those are drawn twice, as wide as a column and as wide as a page. Returns the paths.
    """
    stems, folder = list_stems(results), results.frames.folder / "figures"
    paths: list[Path] = []
    with style.use_style():
        for name, look in LOOKS.items():
            if look.bare != bare:
                continue
            for study in results.studies:
                for stem in stems[study.name]:
                    figure = DRAWN[stem.removeprefix(study.name)](study, look)
                    paths += style.save(figure, folder / name.replace("*", stem))
            for stem in stems[""]:
                paths += style.save(pareto.draw(results, look), folder / name.replace("*", stem))
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

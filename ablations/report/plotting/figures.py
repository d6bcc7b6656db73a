"""The figures of a results folder, as SVG, PDF and PNG. Only those are drawn whose inputs have changed.

A study `x` has `x` (accuracy and costs by level) and `x.curves`, and if they apply, `x.map` (two axes or more),
`x.trade` (checkpointing), `x.errors` (enough wrong images) and `x.tuning`. All are drawn at the width at which they
are printed: the text of a page, or one of two columns. A new figure needs a module with a function `draw` of a study
and a look, an entry in DRAWN of `drawing.py`, and a line in `list_stems`.
"""

from __future__ import annotations

from pathlib import Path

from ablations.report.frames import find_trials
from ablations.report.plotting.drawn import SUFFIXES, Drawing, Drawn, fingerprint
from ablations.report.plotting.looks import NARROW, PAGE, WIDE, Look
from ablations.report.results import CHECKPOINT, Results, StudyResult
from ablations.storage import files

LOOKS = {
    "*": PAGE,
    "bare/*.column": Look(NARROW, bare=True),
    "bare/*.page": Look(WIDE, bare=True),
}
"""The looks of a figure, by the name of its file: `*` is its stem. The bare ones are for a paper."""


def write_figures(results: Results, bare: bool = False, cores: int = 1) -> list[Path]:
    """Makes every figure of a results folder, or with `bare` all of them without title and small print.

    Those are made twice, as wide as a column and as wide as a page. A figure that is there and shows the same values is
    not drawn again. On several cores, many figures are drawn by several processes. Returns the paths. Raises
    StorageError.
    """
    stems, folder = list_stems(results), results.frames.folder / "figures"
    parts = {study.name: study for study in results.studies}
    drawn, shows = Drawn(folder), {name: fingerprint(parts.get(name, results)) for name in stems}
    wanted = [
        (Drawing(pattern.replace("*", stem), stem.removeprefix(name), parts.get(name, results), look), shows[name])
        for pattern, look in LOOKS.items()
        if look.bare == bare
        for name in stems
        for stem in stems[name]
    ]
    changed = {each.name: shown for each, shown in wanted if not drawn.shows(each.name, shown)}
    if changed:
        from ablations.report.plotting.drawing import draw

        draw([each for each, _ in wanted if each.name in changed], folder, cores)
        drawn.note(changed)
    for study in results.studies:
        for pattern, look in LOOKS.items():
            if look.bare == bare and not study.errors:  # an older one: the records do not give it any more
                _remove(folder / pattern.replace("*", f"{study.name}.errors"))
    return [folder / f"{each.name}.{suffix}" for each, _ in wanted for suffix in SUFFIXES]


def _remove(stem: Path) -> None:
    for suffix in SUFFIXES:
        files.remove(stem.with_name(f"{stem.name}.{suffix}"))


def list_stems(results: Results) -> dict[str, list[str]]:
    """Returns the names of each study's figures without suffix, effect plot first. "" has those over all studies."""
    return {**{study.name: [study.name + kind for kind in _list_kinds(study)] for study in results.studies},
            "": ["pareto"]}  # fmt: skip


def _list_kinds(study: StudyResult) -> list[str]:
    axes = study.entry.axes if study.entry else ()
    kinds = ["", ".curves"]
    kinds += [".map"] if len(axes) > 1 else []
    kinds += [".trade"] if CHECKPOINT in axes else []
    kinds += [".errors"] if study.errors else []
    kinds += [".tuning"] if find_trials(study.frames, study.name).level.nunique() > 1 else []
    return kinds

r"""Compares the numbers that a text cites with the records, or writes them again from the records.

In Markdown or HTML, a mark is a comment before the cited text. The next comment `/ablate` ends the cited text:

    <!-- ablate results/digits-cpu growth_rate 10 test_accuracy -->97.1<!-- /ablate -->
    <!-- ablate results/digits-cpu growth_rate -->(the study's whole table)<!-- /ablate -->

In LaTeX, and in Markdown from which LaTeX is made, a macro prints the number, which is defined in `numbers.tex` of the
results folder:

    \input{results/digits-cpu/numbers}
    an accuracy of \ablate{growth_rate}{10}{test_accuracy}

The last `\input` before a macro that has its number counts, as in LaTeX. If the main file inputs `numbers.tex`, a
chapter without an `\input` names it in a comment: `% \input{FOLDER/numbers}`.
"""

from __future__ import annotations

import html
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ablations.metrics import METRICS
from ablations.report.captions import describe_provenance
from ablations.report.formats import render_macros, render_markdown
from ablations.report.frames import load
from ablations.report.marks import (
    Kind,
    Mark,
    defines,
    find_kind,
    find_latex_comments,
    find_marks,
    hide_code,
    read_text,
)
from ablations.report.neighbours import find_faults
from ablations.report.results import Results, analyse
from ablations.report.tables import shorten
from ablations.report.values import DERIVED, Values, collect_values
from ablations.storage import files

PUT_IN = re.compile(r"\\input\s*\{((?:[^{}]*/)?)numbers(?:\.tex)?\}")
PUT_IN_OTHERWISE = re.compile(
    r"\\@*(?:(?:input|include|InputIfFileExists|subfile)\b|(?:sub)?(?:import|inputfrom|includefrom)\*?\s*\{[^{}]*\})"
    r"\s*\{?[^\s{}]*(?<=[/{\"\s])numbers(?:\.tex)?(?![\w./-])"
)
r"""Commands that may put in numbers.tex: `\input A/numbers`, `\import{A/}{numbers}`, `\input{\place/numbers}`."""

WRAPPED = re.compile(r"\\(?:num|qty|SI|numprint|np|tablenum|fpeval|inteval)\s*(?:\[[^\]]*\]\s*)*\{[^}]*\Z")
OLD = re.compile(r"ablate\s+(.*)")


@dataclass(frozen=True)
class Citation:
    """One citation of a text."""

    path: Path
    line: int
    source: str
    cited: str
    recorded: str | None
    """The recorded number; None if the records have no such number."""

    problem: str
    """The reason why the cited number is wrong; empty if it is the recorded one."""


def find_value(results: Results, study: str, level: str, metric: str) -> str:
    """Returns one number as the tables print it, without its unit. Raises ValueError that lists the known names."""
    return _look_up(collect_values(results), study, level, metric)


def _look_up(cells: Values, study: str, level: str, metric: str) -> str:
    _require_known("study", study, (each for each, _, _ in cells))
    _require_known(f"level of {study}", level, (name for each, name, _ in cells if each == study))
    _require_known(f"metric of {study}, {level}", metric, (key for *place, key in cells if place == [study, level]))
    return cells[study, level, metric]


def describe(results: Results, study: str, level: str, metric: str) -> str:
    """Returns a value with its unit, meaning and provenance, and what disturbed its measurement.

    Raises ValueError for unknown names.
    """
    text, entry = find_value(results, study, level, metric), METRICS.get(metric)
    meaning = f"{entry.label}: {entry.meaning}" if entry else DERIVED.get(metric, f"train.{metric}, as tuning chose it")
    lines = [f"{text} {entry.unit if entry else ''}".rstrip(), meaning, *_say_disturbed(results, study, level, metric)]
    return "\n".join([*lines, describe_provenance(results.frames)])


def _say_disturbed(results: Results, study: str, level: str, metric: str) -> list[str]:
    """Returns a line with the reasons if a cost was disturbed; an empty list for other values."""
    found = next(each for each in results.study(study).levels if each.level == level)
    if metric not in found.costs or not found.costs[metric].disturbed:
        return []
    costs = results.frames.costs
    reasons = costs.loc[costs.variant == found.variant, METRICS[metric].disturbed].iloc[0]
    return [f"Disturbed, so do not rely on it: {reasons}."]


def make_marks(results: Results, study: str, level: str, metric: str) -> dict[str, str]:
    """Returns marks to paste into a text, by `markdown` and `latex`.

    The folder of a mark in Markdown is relative to the folder of its text. This mark is for a text in the current
    folder.
    """
    text = find_value(results, study, level, metric)
    source = shlex.join([results.frames.folder.as_posix(), study, level, metric])
    return {
        "markdown": f"<!-- ablate {source} -->{text}<!-- /ablate -->",
        "latex": _write_macro(study, level, metric),
    }


def _write_macro(*words: str) -> str:
    return r"\ablate" + "".join(f"{{{word}}}" for word in words)


def check(path: Path) -> list[Citation]:
    """Compares every citation of a text with the records that it names.

    Folders are relative to the folder of the text. Raises ValueError for a file of an unknown kind, and for a text that
    is not in UTF-8.
    """
    kind, text = find_kind(path), read_text(path)
    found = [_compare(path, text, kind, mark) for mark in find_marks(text, kind)]
    if kind == "latex":
        found += _refuse_old_marks(path, text)
    return sorted(found, key=lambda citation: citation.line)


def rewrite(path: Path) -> int:
    """Writes every cited number of a text in Markdown or HTML again. Returns how many have changed.

    Only a text that could be a recorded one is replaced: a number as it is printed, a verdict, a table. Marks without a
    source do not change. A macro contains no number: `ablate report` renews `numbers.tex`. The file keeps its mode, and
    a link its target. It is complete at any moment. Raises StorageError if it cannot be written.
    """
    kind = find_kind(path)
    text = renewed = read_text(path)
    changed = 0
    for mark in reversed(find_marks(text, kind)):
        citation = _compare(path, text, kind, mark)
        stale = citation.recorded is not None and not agree(citation.cited, citation.recorded)
        if mark.cited and citation.recorded is not None and stale and _is_printed(citation.cited, mark):
            changed += 1
            renewed = renewed[: mark.cited[0]] + citation.recorded + renewed[mark.cited[1] :]
    if changed:
        files.replace(path, renewed.encode())
    return changed


PRINTED = re.compile(r"[+\-\N{MINUS SIGN}]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?(e[+-]\d+)?|[A-Za-z][A-Za-z ]*|")


def _is_printed(cited: str, mark: Mark) -> bool:
    """Returns whether a cited text could be one that was recorded: a number, a verdict, nothing, or a whole table."""
    return len(mark.words) == 2 or bool(PRINTED.fullmatch(cited.strip()))


def agree(cited: str, recorded: str) -> bool:
    """Whether a cited text is the recorded one.

    Line ends and spaces make no difference, nor does typography: a true minus, the separator of thousands, entities of
    HTML.
    """
    return _simplify(cited) == _simplify(recorded)


def _simplify(text: str) -> list[str]:
    plain = html.unescape(text).replace("\N{MINUS SIGN}", "-")
    return re.sub(r"(?<=\d)[,\s](?=\d{3}(?!\d))", "", plain).split()


def _compare(path: Path, text: str, kind: Kind, mark: Mark) -> Citation:
    """Compares a mark, and the text beside it, with the records."""
    line, cited, recorded = text.count("\n", 0, mark.start) + 1, "", None
    source, problem = mark.source, mark.problem
    if mark.cited:
        cited = text[slice(*mark.cited)]
    if not problem and mark.cited:
        recorded, problem = _check_comment(path.parent, mark.words, cited)
    elif not problem:
        cited = text[mark.start : mark.end]
        source, recorded, problem = _check_macro(path.parent, text, kind, mark)
    faults = [problem] if problem else []
    if recorded is not None and len(mark.words) != 2:
        faults += find_faults(text, mark, kind, recorded, mark.words[-1])
    return Citation(path, line, source, cited, recorded, "; ".join(faults))


def _check_comment(folder: Path, words: Sequence[str], cited: str) -> tuple[str | None, str]:
    """Returns the recorded text, and the reason why the cited one is wrong."""
    try:
        recorded = _look_up_source(folder, words)
    except (ValueError, OSError) as error:
        return None, str(error)
    return recorded, "" if agree(cited, recorded) else "the records say otherwise"


def _check_macro(folder: Path, text: str, kind: Kind, mark: Mark) -> tuple[str, str | None, str]:
    """Returns the source of a macro with its folder, the number in numbers.tex, and the reason why it is wrong."""
    places = _list_inputs(text, kind, mark)
    if not places:
        problem = r"no \input{FOLDER/numbers} says where it is from; in a chapter, write it into a comment"
        return mark.source, None, problem
    if isinstance(places, str):
        return mark.source, None, places
    read = [(place, *_read_numbers(folder / place, mark.words)) for place in places]
    place, recorded, problem = next((each for each in read if each[1] is not None), read[0])
    if not problem and WRAPPED.search(text[max(0, mark.start - 200) : mark.start]):
        problem = r"\ablate gives text: \num would take its comma for a decimal point"
    return shlex.join([place or ".", *mark.words]), recorded, problem


def _list_inputs(text: str, kind: Kind, mark: Mark) -> list[str] | str:
    """Returns the folders whose numbers a macro may print, the last input first; or why that cannot be told."""
    searched = hide_code(text, kind)
    real = [(found.start(), found[1]) for found in PUT_IN.finditer(searched) if "\\" not in found[1]]
    others = {found.start() for found in PUT_IN_OTHERWISE.finditer(searched)} - {start for start, _ in real}
    if any(start < mark.start for start in others):
        return (
            r"numbers.tex is put in by another command before it, which is not followed: write \input{FOLDER/numbers}"
        )
    if defines(searched, "ablate"):
        return r"this text defines \ablate itself, so it may print something else than numbers.tex: take that out"
    if real:
        before = [folder for start, folder in reversed(real) if start < mark.start]
        return before or rf"\input{{{real[0][1]}numbers}} stands after it, so LaTeX does not know the number yet"
    comments = find_latex_comments(text) if kind == "latex" else ()
    said = [found[1] for _, comment in comments for found in PUT_IN.finditer(comment)]
    folders = list(dict.fromkeys(said))
    if len(folders) > 1:
        return (
            rf"comments name several numbers.tex, in {' and '.join(folders)}: leave the one that the main file inputs"
        )
    return folders


def _refuse_old_marks(path: Path, text: str) -> Iterator[Citation]:
    """Yields a citation with a problem for every mark of older versions, `% ablate FOLDER STUDY LEVEL METRIC`.

    A comment is one if it names a results folder, or four words of which the last is a metric. Others are prose.
    """
    for start, comment in find_latex_comments(text):
        found = OLD.fullmatch(comment.rpartition("%")[2].strip())
        words = _split_words(found[1]) if found else []
        if not words or not (_names_results(path.parent, words) or _ends_in_a_metric(words)):
            continue
        folder, *names = words if len(words) == 4 else ("FOLDER", "STUDY", "LEVEL", "METRIC")
        instead = rf"{_write_macro(*names)}, and once before it \input{{{folder}/numbers}}"
        problem = f"a comment cites no number any more: in its place and the number's write {instead}"
        yield Citation(path, text.count("\n", 0, start) + 1, " ".join(words), "", None, problem)


def _split_words(source: str) -> list[str]:
    try:
        return shlex.split(source)
    except ValueError:
        return source.split()


def _names_results(place: Path, words: Sequence[str]) -> bool:
    return os.path.exists(place / words[0] / "jobs.json")  # noqa: PTH110, which raises for a name that is too long


def _ends_in_a_metric(words: Sequence[str]) -> bool:
    return len(words) == 4 and words[3] in {*METRICS, *DERIVED}


def _read_numbers(folder: Path, words: Sequence[str]) -> tuple[str | None, str]:
    """Returns a number of numbers.tex, and the reason why it is wrong or out of date."""
    try:
        recorded = _look_up(_load_values(folder), *words)
        fresh = render_macros(_load_values(folder)) == read_text(folder / "numbers.tex")
    except (ValueError, OSError) as error:
        return None, str(error)
    return recorded, "" if fresh else f"{folder / 'numbers.tex'} is not of these records: `ablate report` renews it"


def _look_up_source(place: Path, words: Sequence[str]) -> str:
    if len(words) == 4:
        return _look_up(_load_values(place / words[0]), words[1], words[2], words[3])
    results = _load_results(place / words[0])
    _require_known("study", words[1], (study.name for study in results.studies))
    return f"\n\n{render_markdown(shorten(results.study(words[1])))}\n"


def _require_known(kind: str, name: str, names: Iterable[str]) -> None:
    known = dict.fromkeys(names)
    if name not in known:
        raise ValueError(f"unknown {kind}: {name!r}; the records have {', '.join(map(repr, known)) or 'none'}")


@cache
def _load_values(folder: Path) -> Values:
    return collect_values(_load_results(folder))


@cache
def _load_results(folder: Path) -> Results:
    return analyse(load(folder))

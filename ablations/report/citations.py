r"""Compares the numbers that a text cites with the records, or writes them again from the records.

In Markdown or HTML, a mark is a comment before the cited text. The next comment `/ablate` ends the cited text:

    <!-- ablate results/digits-cpu growth_rate 10 test_accuracy -->97.1<!-- /ablate -->
    <!-- ablate results/digits-cpu growth_rate -->(the study's whole table)<!-- /ablate -->

In LaTeX, in files named `.tex`, a macro prints the number, which is defined in `numbers.tex` of the results folder:

    \input{results/digits-cpu/numbers}
    an accuracy of \ablate{growth_rate}{10}{test_accuracy}

If the main file inputs `numbers.tex`, a chapter names it in a comment: `% \input{FOLDER/numbers}`.
"""

from __future__ import annotations

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
from ablations.report.results import Results, analyse
from ablations.report.tables import shorten
from ablations.report.values import DERIVED, Values, collect_values

COMMENT = re.compile(
    r"<!--\s*ablate\s+(?P<source>.*?)\s*-->(?P<cited>(?:(?!<!--\s*ablate\s).)*?)"
    r"(?P<end><!--\s*/ablate\s*-->|(?=<!--\s*ablate\s)|\Z)",
    re.DOTALL,
)
MACRO = re.compile(r"\\ablate\s*\{(.*?)\}\s*\{(.*?)\}\s*\{(.*?)\}", re.DOTALL)
PUT_IN = re.compile(r"\\input\s*\{(.*?)numbers(?:\.tex)?\}")
WRAPPED = re.compile(r"\\(?:num|qty|SI)\s*\{[^}]*\Z")


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


@dataclass(frozen=True)
class _Mark:
    """A mark in a text: its place and its source."""

    start: int
    end: int
    """The places where the cited number starts and ends in the text."""

    source: str
    problem: str
    """The reason why the mark is not valid; empty if it is valid."""

    closing: str
    """The text that must follow the number when it is written again."""


def find_value(results: Results, study: str, level: str, metric: str) -> str:
    """Returns one number as the tables print it, without its unit. Raises ValueError that lists the known names."""
    return _look_up(collect_values(results), study, level, metric)


def _look_up(cells: Values, study: str, level: str, metric: str) -> str:
    _require_known("study", study, (each for each, _, _ in cells))
    _require_known(f"level of {study}", level, (name for each, name, _ in cells if each == study))
    _require_known(f"metric of {study}, {level}", metric, (key for *place, key in cells if place == [study, level]))
    return cells[study, level, metric]


def describe(results: Results, study: str, level: str, metric: str) -> str:
    """Returns a value with its unit, meaning and provenance. Raises ValueError for unknown names."""
    text, entry = find_value(results, study, level, metric), METRICS.get(metric)
    meaning = f"{entry.label}: {entry.meaning}" if entry else DERIVED.get(metric, f"train.{metric}, as tuning chose it")
    return f"{text} {entry.unit if entry else ''}".rstrip() + f"\n{meaning}\n{describe_provenance(results.frames)}"


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

    Folders are relative to the folder of the text.
    """
    text = _read_text(path)
    if path.suffix == ".tex":
        found = [*_check_macros(path, text), *_refuse_old_marks(path, text)]
    else:
        found = [_compare(path, text, mark) for mark in _find_marks(text)]
    return sorted(found, key=lambda citation: citation.line)


def rewrite(path: Path) -> int:
    """Writes every cited number of a text in Markdown or HTML again. Returns how many have changed.

    Marks without a source do not change. A text in LaTeX contains no numbers: `ablate report` renews its `numbers.tex`.
    """
    text = renewed = _read_text(path)
    changed = 0
    for mark in reversed([] if path.suffix == ".tex" else list(_find_marks(text))):
        citation = _compare(path, text, mark)
        if citation.problem and citation.recorded is not None:
            changed += 1
            renewed = renewed[: mark.start] + citation.recorded + mark.closing + renewed[mark.end :]
    if changed:
        path.write_bytes(renewed.encode())  # in place, so that the file keeps its mode, and a link its target
    return changed


def _read_text(path: Path) -> str:
    """Reads a file's text, with its own line ends."""
    return path.read_bytes().decode()


def _find_marks(text: str) -> Iterator[_Mark]:
    """Yields the marks of a text, in their order."""
    for match in COMMENT.finditer(text):
        problem = "" if match["end"] else "the mark has no end: <!-- /ablate --> is missing"
        closing = "" if match["end"] else "<!-- /ablate -->"
        yield _Mark(*match.span("cited"), match["source"], problem, closing)


def _compare(path: Path, text: str, mark: _Mark) -> Citation:
    """Compares the number of a mark with the records."""
    line, cited = text.count("\n", 0, mark.start) + 1, text[mark.start : mark.end]
    if mark.problem:
        return Citation(path, line, mark.source, cited, None, mark.problem)
    try:
        recorded = _look_up_source(path.parent, shlex.split(mark.source))
    except ValueError as error:
        return Citation(path, line, mark.source, cited, None, str(error))
    same = cited.split() == recorded.split()
    return Citation(path, line, mark.source, cited, recorded, "" if same else "the records say otherwise")


def _check_macros(path: Path, text: str) -> Iterator[Citation]:
    r"""Yields a citation for every `\ablate{STUDY}{LEVEL}{METRIC}` of a LaTeX file, whose number is in numbers.tex."""
    found = PUT_IN.search(text)
    for match in MACRO.finditer(text):
        words = [" ".join(word.split()) for word in match.groups()]
        if re.search(r"(?<!\\)%", text[text.rfind("\n", 0, match.start()) + 1 : match.start()]):
            continue  # within a comment
        line, source, recorded = text.count("\n", 0, match.start()) + 1, shlex.join(words), None
        problem = r"no \input{FOLDER/numbers} says where it is from; in a chapter, write it into a comment"
        if found is not None:
            source = shlex.join([found[1] or ".", *words])
            recorded, problem = _read_numbers(path.parent / found[1], words)
        if not problem and WRAPPED.search(text[: match.start()]):
            problem = r"\ablate gives text: \num would take its comma for a decimal point"
        yield Citation(path, line, source, match[0], recorded, problem)


def _refuse_old_marks(path: Path, text: str) -> Iterator[Citation]:
    """Yields a citation with a problem for every mark of older versions, `% ablate FOLDER STUDY LEVEL METRIC`."""
    for number, line in enumerate(text.split("\n"), start=1):
        command, _, source = line.rpartition("%")[2].strip().partition(" ")
        if "%" in line and command == "ablate":
            problem = f"a comment cites no number any more: in its place and the number's write {_translate(source)}"
            yield Citation(path, number, source.strip(), "", None, problem)


def _translate(source: str) -> str:
    """Returns the LaTeX that replaces an old mark."""
    try:
        folder, study, level, metric = shlex.split(source)
    except ValueError:
        folder, study, level, metric = "FOLDER", "STUDY", "LEVEL", "METRIC"
    return rf"{_write_macro(study, level, metric)}, and once before it \input{{{folder}/numbers}}"


def _read_numbers(folder: Path, words: Sequence[str]) -> tuple[str | None, str]:
    """Returns a number of numbers.tex, and the reason why it is wrong or out of date."""
    try:
        recorded = _look_up(_load_values(folder), *words)
        fresh = render_macros(_load_values(folder)) == _read_text(folder / "numbers.tex")
    except (ValueError, OSError) as error:
        return None, str(error)
    return recorded, "" if fresh else f"{folder / 'numbers.tex'} is not of these records: `ablate report` renews it"


def _look_up_source(place: Path, words: Sequence[str]) -> str:
    if len(words) not in (2, 4):
        raise ValueError("a mark names FOLDER STUDY, or FOLDER STUDY LEVEL METRIC")
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

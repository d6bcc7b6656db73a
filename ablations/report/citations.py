r"""Numbers cited in a text stay true: marks that name their source, checked or written anew from the records.

In Markdown or HTML a mark is a comment before the cited text, and the next comment `/ablate` ends it:

    <!-- ablate results/digits-cpu growth_rate 10 test_accuracy -->97.1<!-- /ablate -->
    <!-- ablate results/digits-cpu growth_rate -->(the study's whole table)<!-- /ablate -->

In LaTeX, in files named `.tex`, it is a comment behind the cited number, to the end of the line:

    an accuracy of \num{97.1} % ablate results/digits-cpu growth_rate 10 test_accuracy

The number is written in plain digits, and, since the comment takes the line's end with it, a space stands before the
comment where a word follows. `\ablate{growth_rate}{10}{test_accuracy}` is a citation as well, by the `numbers.tex` that
the file puts in; a chapter that does not put it in itself names it in a comment, `% \input{FOLDER/numbers}`.
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
BEHIND = re.compile(r"^(?P<before>.*?)(?<!\\)(?:\\\\)*%\s*ablate\s+(?P<source>.+?)[ \t\r]*$", re.MULTILINE)
"""A comment in LaTeX, where `\\\\%` begins one and `\\%` does not."""

NUMBER = re.compile(r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?")
LAST = re.compile(rf"(?P<number>{NUMBER.pattern})(?:[}}$~.,;:)&\s]|\\[,% ]|\\points?)*\Z")
"""A number, and what may stand between it and its mark."""

NOT_PLAIN = re.compile(r"(?:[\w.,:^-]|\{,\}|\\,|\$-\$|−|(?:\+-|±|\\pm|\d)\s*)\Z")
"""What makes digits behind it a part of something else: of a number with a space, an exponent, a spread, a label."""

MACRO = re.compile(r"\\ablate\s*\{(.*?)\}\s*\{(.*?)\}\s*\{(.*?)\}", re.DOTALL)
PUT_IN = re.compile(r"\\input\s*\{(.*?)numbers(?:\.tex)?\}")
WRAPPED = re.compile(r"\\(?:num|qty|SI)\s*\{[^}]*\Z")


@dataclass(frozen=True)
class Citation:
    """One mark in a text."""

    path: Path
    line: int
    source: str
    cited: str
    recorded: str | None
    """What the records say; None where they have no such number."""

    problem: str
    """Empty where the cited number is the recorded one."""


@dataclass(frozen=True)
class _Mark:
    """Where a text cites, and what."""

    start: int
    end: int
    """Where the cited number starts and ends in the text."""

    source: str
    problem: str = ""
    """What makes it no mark."""

    closing: str = ""
    """What has to follow the number where it is written anew."""


def value(results: Results, study: str, level: str, metric: str) -> str:
    """One number as printed in the tables, without its unit. Raises ValueError naming what there is."""
    return _looked_up(collect_values(results), study, level, metric)


def _looked_up(cells: Values, study: str, level: str, metric: str) -> str:
    _known("study", study, (each for each, _, _ in cells))
    _known(f"level of {study}", level, (name for each, name, _ in cells if each == study))
    _known(f"metric of {study}, {level}", metric, (key for *place, key in cells if place == [study, level]))
    return cells[study, level, metric]


def describe(results: Results, study: str, level: str, metric: str) -> str:
    """A value with its unit, meaning and provenance."""
    text, entry = value(results, study, level, metric), METRICS.get(metric)
    meaning = f"{entry.label}: {entry.meaning}" if entry else DERIVED.get(metric, f"train.{metric}, as tuning chose it")
    return f"{text} {entry.unit if entry else ''}".rstrip() + f"\n{meaning}\n{describe_provenance(results.frames)}"


def marks(results: Results, study: str, level: str, metric: str) -> dict[str, str]:
    """Marks to paste into a text that lies in this directory, for the folder is relative to the text's own."""
    text = value(results, study, level, metric)
    source = shlex.join([results.frames.folder.as_posix(), study, level, metric])
    number = rf"\num{{{text.replace(',', '')}}} % ablate {source}"
    macro = rf"\ablate{{{study}}}{{{level}}}{{{metric}}}"  # a word has no mark of its own
    return {
        "markdown": f"<!-- ablate {source} -->{text}<!-- /ablate -->",
        "latex": number if NUMBER.fullmatch(text) else macro,
    }


def check(path: Path) -> list[Citation]:
    """Every mark of a text, compared with the records that it names; folders are relative to the text's own."""
    text = _text(path)
    found = [_citation(path, text, mark) for mark in _marks(path, text)]
    return sorted([*found, *_macros(path, text)], key=lambda citation: citation.line)


def rewrite(path: Path) -> int:
    """Writes every cited number anew from the records; gives how many changed. Marks without a source stay."""
    text = renewed = _text(path)
    changed = 0
    for mark in reversed(list(_marks(path, text))):
        citation = _citation(path, text, mark)
        if citation.problem and citation.recorded is not None:
            changed += 1
            renewed = renewed[: mark.start] + citation.recorded + mark.closing + renewed[mark.end :]
    if changed:
        path.write_bytes(renewed.encode())  # in place: the file keeps its mode, a link its target
    return changed


def _text(path: Path) -> str:
    """The file's text, with its own line ends."""
    return path.read_bytes().decode()


def _marks(path: Path, text: str) -> Iterator[_Mark]:
    """The marks of a text, in their order."""
    if path.suffix == ".tex":
        for match in BEHIND.finditer(text):
            yield _behind(match)
        return
    for match in COMMENT.finditer(text):
        problem = "" if match["end"] else "the mark has no end: <!-- /ablate --> is missing"
        closing = "" if match["end"] else "<!-- /ablate -->"
        yield _Mark(*match.span("cited"), match["source"], problem, closing)


def _behind(match: re.Match[str]) -> _Mark:
    """The number that a mark in LaTeX stands behind."""
    found, end = LAST.search(match["before"]), match.end("before")
    if found is None:
        return _Mark(end, end, match["source"], "no number stands before the mark")
    start, end = (match.start("before") + place for place in found.span("number"))
    lead = match["before"][: found.start("number")]
    if NOT_PLAIN.search(lead):
        return _Mark(start, end, match["source"], "what stands before the mark is no number in plain digits")
    if "," in found["number"] and WRAPPED.search(lead):
        return _Mark(start, end, match["source"], "within \\num a comma is a decimal point: leave it out")
    return _Mark(start, end, match["source"])


def _citation(path: Path, text: str, mark: _Mark) -> Citation:
    line, cited = text.count("\n", 0, mark.start) + 1, text[mark.start : mark.end]
    if mark.problem:
        return Citation(path, line, mark.source, cited, None, mark.problem)
    try:
        recorded = _recorded(path.parent, shlex.split(mark.source))
    except ValueError as error:
        return Citation(path, line, mark.source, cited, None, str(error))
    if path.suffix == ".tex" and "," not in cited:  # as in \num{49791}
        recorded = recorded.replace(",", "")
    same = cited.split() == recorded.split()
    return Citation(path, line, mark.source, cited, recorded, "" if same else "the records say otherwise")


def _macros(path: Path, text: str) -> Iterator[Citation]:
    r"""Every `\ablate{STUDY}{LEVEL}{METRIC}` of a LaTeX file; its number stands in the numbers.tex put in before."""
    found = PUT_IN.search(text)
    for match in MACRO.finditer(text) if path.suffix == ".tex" else ():
        words = [" ".join(word.split()) for word in match.groups()]
        if re.search(r"(?<!\\)%", text[text.rfind("\n", 0, match.start()) + 1 : match.start()]):
            continue  # within a comment
        line, source, recorded = text.count("\n", 0, match.start()) + 1, shlex.join(words), None
        problem = r"no \input{FOLDER/numbers} says where it is from; in a chapter, write it into a comment"
        if found is not None:
            source = shlex.join([found[1] or ".", *words])
            recorded, problem = _from_numbers(path.parent / found[1], words)
        if not problem and WRAPPED.search(text[: match.start()]):
            problem = r"\ablate gives text: \num would take its comma for a decimal point"
        yield Citation(path, line, source, match[0], recorded, problem)


def _from_numbers(folder: Path, words: Sequence[str]) -> tuple[str | None, str]:
    """A number as numbers.tex gives it, and what is wrong with that."""
    try:
        recorded = _looked_up(_cells(folder), *words)
        fresh = render_macros(_cells(folder)) == _text(folder / "numbers.tex")
    except (ValueError, OSError) as error:
        return None, str(error)
    return recorded, "" if fresh else f"{folder / 'numbers.tex'} is not of these records: `ablate report` renews it"


def _recorded(place: Path, words: Sequence[str]) -> str:
    if len(words) not in (2, 4):
        raise ValueError("a mark names FOLDER STUDY, or FOLDER STUDY LEVEL METRIC")
    if len(words) == 4:
        return _looked_up(_cells(place / words[0]), words[1], words[2], words[3])
    results = _results(place / words[0])
    _known("study", words[1], (study.name for study in results.studies))
    return f"\n\n{render_markdown(shorten(results.study(words[1])))}\n"


def _known(kind: str, name: str, names: Iterable[str]) -> None:
    known = dict.fromkeys(names)
    if name not in known:
        raise ValueError(f"unknown {kind}: {name!r}; the records have {', '.join(map(repr, known)) or 'none'}")


@cache
def _cells(folder: Path) -> Values:
    return collect_values(_results(folder))


@cache
def _results(folder: Path) -> Results:
    return analyse(load(folder))

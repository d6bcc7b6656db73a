r"""Numbers cited in a text stay true: marks that name their source, checked or written anew from the records.

In Markdown or HTML a mark is a comment before the cited text, and the next comment `/ablate` ends it:

    <!-- ablate results/digits-cpu growth_rate 10 test_accuracy -->97.1<!-- /ablate -->
    <!-- ablate results/digits-cpu growth_rate -->(the study's whole table)<!-- /ablate -->

In LaTeX, in files named `.tex`, it is a comment behind the cited number, to the end of the line:

    an accuracy of \num{97.1}% ablate results/digits-cpu growth_rate 10 test_accuracy

There, `\ablate{growth_rate}{10}{test_accuracy}` is a citation as well, by the `numbers.tex` that the file puts in.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ablations.metrics import METRICS
from ablations.tables import DERIVED, brief, citable, markdown, numbers_tex, provenance, study_table
from ablations.tidy import Frames, load

COMMENT = re.compile(
    r"<!-- ablate (?P<source>.*?) -->(?P<cited>(?:(?!<!-- ablate ).)*?)(?P<end><!-- /ablate -->|(?=<!-- ablate )|\Z)",
    re.DOTALL,
)
BEHIND = re.compile(r"^(?P<before>.*?)(?<!\\)% ?ablate (?P<source>.+?)\r?$", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])[+-]?\d[\d,]*(?:\.\d+)?")
MACRO = re.compile(r"\\ablate\{(.*?)\}\{(.*?)\}\{(.*?)\}")
PUT_IN = re.compile(r"^[^%\n]*\\input\{(.*?)numbers(?:\.tex)?\}", re.MULTILINE)


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
    """Of the cited number."""

    source: str
    problem: str = ""
    """What makes it no mark."""

    closing: str = ""
    """What has to follow the number where it is written anew."""


def value(frames: Frames, study: str, level: str, metric: str) -> str:
    """One number as printed in the tables, without its unit. Raises ValueError naming what there is."""
    return _looked_up(citable(frames), study, level, metric)


def _looked_up(cells: Mapping[tuple[str, str, str], str], study: str, level: str, metric: str) -> str:
    _known("study", study, (each for each, _, _ in cells))
    _known(f"level of {study}", level, (name for each, name, _ in cells if each == study))
    _known(f"metric of {study}, {level}", metric, (key for *place, key in cells if place == [study, level]))
    return cells[study, level, metric]


def describe(frames: Frames, study: str, level: str, metric: str) -> str:
    """A value with its unit, meaning and provenance."""
    text, entry = value(frames, study, level, metric), METRICS.get(metric)
    meaning = f"{entry.label}: {entry.meaning}" if entry else DERIVED[metric]
    return f"{text} {entry.unit if entry else ''}".rstrip() + f"\n{meaning}\n{provenance(frames)}"


def marks(frames: Frames, study: str, level: str, metric: str) -> dict[str, str]:
    """Marks to paste into a text that lies in this directory, for the folder is relative to the text's own."""
    text = value(frames, study, level, metric)
    source = shlex.join([frames.folder.as_posix(), study, level, metric])
    number = rf"\num{{{text.replace(',', '')}}}" if NUMBER.fullmatch(text) else text
    return {"markdown": f"<!-- ablate {source} -->{text}<!-- /ablate -->", "latex": f"{number}% ablate {source}"}


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
    """As it is, line ends too."""
    return path.read_bytes().decode()


def _marks(path: Path, text: str) -> Iterator[_Mark]:
    """The marks of a text, in their order."""
    if path.suffix == ".tex":
        for match in BEHIND.finditer(text):
            numbers = list(NUMBER.finditer(text, *match.span("before")))
            start, end = numbers[-1].span() if numbers else (match.end("before"),) * 2
            yield _Mark(start, end, match["source"], "" if numbers else "no number stands before the mark")
        return
    for match in COMMENT.finditer(text):
        problem = "" if match["end"] else "the mark has no end: <!-- /ablate --> is missing"
        closing = "" if match["end"] else "<!-- /ablate -->"
        yield _Mark(*match.span("cited"), match["source"], problem, closing)


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
    found = PUT_IN.search(text) if path.suffix == ".tex" else None
    if found is None:
        return
    folder = path.parent / found[1]
    for match in MACRO.finditer(text):
        line, source = text.count("\n", 0, match.start()) + 1, shlex.join([found[1] or ".", *match.groups()])
        try:
            recorded = _looked_up(_cells(folder), *match.groups())
            fresh = numbers_tex(_cells(folder)) == _text(folder / "numbers.tex")
            problem = "" if fresh else f"{folder / 'numbers.tex'} is not of these records: `ablate report` renews it"
        except (ValueError, OSError) as error:
            recorded, problem = None, str(error)
        yield Citation(path, line, source, match[0], recorded, problem)


def _recorded(place: Path, words: Sequence[str]) -> str:
    if len(words) not in (2, 4):
        raise ValueError("a mark names FOLDER STUDY, or FOLDER STUDY LEVEL METRIC")
    if len(words) == 4:
        return _looked_up(_cells(place / words[0]), words[1], words[2], words[3])
    frames = _frames(place / words[0])
    _known("study", words[1], (study["name"] for study in frames.manifest["studies"]))
    return f"\n\n{markdown(brief(study_table(frames, words[1])))}\n"


def _known(kind: str, name: str, names: Iterable[str]) -> None:
    known = dict.fromkeys(names)
    if name not in known:
        raise ValueError(f"unknown {kind}: {name!r}; the records have {', '.join(map(repr, known)) or 'none'}")


@cache
def _cells(folder: Path) -> dict[tuple[str, str, str], str]:
    return citable(_frames(folder))


@cache
def _frames(folder: Path) -> Frames:
    return load(folder)

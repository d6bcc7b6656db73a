"""Numbers cited in a text stay true: marks that name their source, checked or written anew from the records.

In Markdown or HTML a mark is a comment before the cited text, and the next comment `/ablate` ends it:

    <!-- ablate results/digits-cpu growth_rate 10 test_accuracy -->97.1<!-- /ablate -->
    <!-- ablate results/digits-cpu growth_rate -->(the study's whole table)<!-- /ablate -->
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ablations.metrics import METRICS
from ablations.tables import brief, citable, markdown, provenance, study_table
from ablations.tidy import Frames, load

MARK = re.compile(
    r"(<!-- ablate (?P<source>.*?) -->)(?P<cited>(?:(?!<!-- ablate ).)*?)(?P<end><!-- /ablate -->|(?=<!-- ablate )|\Z)",
    re.DOTALL,
)


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


def value(frames: Frames, study: str, level: str, metric: str) -> str:
    """One number as printed in the tables, without its unit. Raises ValueError naming what there is."""
    cells = citable(frames)
    _known("study", study, (each for each, _, _ in cells))
    _known(f"level of {study}", level, (name for each, name, _ in cells if each == study))
    _known(f"metric of {study}, {level}", metric, (key for *place, key in cells if place == [study, level]))
    return cells[study, level, metric]


def describe(frames: Frames, study: str, level: str, metric: str) -> str:
    """A value with its unit and provenance, and a mark to paste."""
    text, entry = value(frames, study, level, metric), METRICS[metric]
    mark = shlex.join([frames.folder.as_posix(), study, level, metric])
    return (
        f"{text} {entry.unit}".rstrip()
        + f"\n{entry.label}: {entry.meaning}\n{provenance(frames)}\n"
        + "A mark for a text that lies in this directory (the folder is relative to the text's own):\n"
        + f"<!-- ablate {mark} -->{text}<!-- /ablate -->"
    )


def check(path: Path) -> list[Citation]:
    """Every mark of a text, compared with the records that it names; folders are relative to the text's own."""
    text = _text(path)
    return [_citation(path, text, match) for match in MARK.finditer(text)]


def rewrite(path: Path) -> int:
    """Writes every cited number anew from the records; gives how many changed. Marks without a source stay."""
    changed = 0

    def renew(match: re.Match[str]) -> str:
        nonlocal changed
        citation = _citation(path, match.string, match)
        if not citation.problem or citation.recorded is None:
            return match.group(0)
        changed += 1
        return f"{match.group(1)}{citation.recorded}<!-- /ablate -->"

    text = MARK.sub(renew, _text(path))
    if changed:
        path.write_bytes(text.encode())  # in place: the file keeps its mode, a link its target
    return changed


def _text(path: Path) -> str:
    """As it is, line ends too."""
    return path.read_bytes().decode()


def _citation(path: Path, text: str, match: re.Match[str]) -> Citation:
    line, source, cited = text.count("\n", 0, match.start()) + 1, match["source"], match["cited"]
    if not match["end"]:
        return Citation(path, line, source, cited, None, "the mark has no end: <!-- /ablate --> is missing")
    try:
        recorded = _recorded(path.parent, shlex.split(source))
    except ValueError as error:
        return Citation(path, line, source, cited, None, str(error))
    same = cited.split() == recorded.split()
    return Citation(path, line, source, cited, recorded, "" if same else "the records say otherwise")


def _recorded(place: Path, words: Sequence[str]) -> str:
    if len(words) not in (2, 4):
        raise ValueError("a mark names FOLDER STUDY, or FOLDER STUDY LEVEL METRIC")
    frames = _frames(place / words[0])
    if len(words) == 4:
        return value(frames, words[1], words[2], words[3])
    _known("study", words[1], (study["name"] for study in frames.manifest["studies"]))
    return f"\n\n{markdown(brief(study_table(frames, words[1])))}\n"


def _known(kind: str, name: str, names: Iterable[str]) -> None:
    known = dict.fromkeys(names)
    if name not in known:
        raise ValueError(f"unknown {kind}: {name!r}; the records have {', '.join(map(repr, known)) or 'none'}")


@cache
def _frames(folder: Path) -> Frames:
    return load(folder)

r"""Compares the numbers that a text cites with the records, or writes them again from the records.

In Markdown or HTML, a mark is a comment before the cited text. The next comment `/ablate` ends the cited text:

    <!-- ablate results/digits-cpu growth_rate 10 test_accuracy -->97.1<!-- /ablate -->
    <!-- ablate results/digits-cpu growth_rate -->(the study's whole table)<!-- /ablate -->

In LaTeX, and in Markdown from which LaTeX is made, a macro prints the number, which is defined in `numbers.tex` of the
results folder:

    \input{results/digits-cpu/numbers}
    an accuracy of \ablate{growth_rate}{10}{test_accuracy}

The last `\input` before a macro that has its number counts, as in LaTeX. If the main file inputs `numbers.tex`, a
chapter without an `\input` names it in a comment: `% \input{FOLDER/numbers}`. Tables in LaTeX have two comments around
their numbers. A copied table or `numbers.tex` names its results folder, which is searched beside the text, in the
folders above, and in `results/` of each.
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

from ablations.metrics import COSTS, METRICS, count_of
from ablations.report.captions import describe_provenance, explain_tuning
from ablations.report.comparison import describe_not_done
from ablations.report.formats import (
    list_latex_parts,
    name_folder,
    render_latex,
    render_macros,
    render_markdown,
    render_numbers,
)
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
from ablations.report.results import OVERALL, Results, analyse
from ablations.report.tables import MORE, find_table, name_metrics
from ablations.report.values import DERIVED, Values, collect_values
from ablations.storage import files

PUT_IN = re.compile(r"\\input\s*\{((?:[^{}]*/)?)numbers(?:\.tex)?\}")
PUT_IN_OTHERWISE = re.compile(
    r"\\@*(?:(?:input|include|InputIfFileExists|subfile)\b|(?:sub)?(?:import|inputfrom|includefrom)\*?\s*\{[^{}]*\})"
    r"\s*\{?[^\s{}]*(?<=[/{\"\s])numbers(?:\.tex)?(?![\w./-])"
)
r"""Commands that may put in numbers.tex: `\input A/numbers`, `\import{A/}{numbers}`, `\input{\place/numbers}`."""

WRAPPED = re.compile(r"\\(?:num|qty|SI|numprint|np|tablenum|fpeval|inteval)\s*(?:\[[^\]]*\]\s*)*\{[^}]*\Z")
COPIED = re.compile(r"% Results folder: (.+)")
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
    return _find(collect_values(results), study, level, metric)


def _find(cells: Values, study: str, level: str, metric: str) -> str:
    _require_known("study", study, (each for each, _, _ in cells))
    _require_known(f"level of {study}", level, (name for each, name, _ in cells if each == study))
    known = [key for *place, key in cells if place == [study, level]]
    if metric in METRICS and metric not in known:
        reason = "it is not on record yet, or the study chooses on validation images"
        raise ValueError(f"{study}, {level} has no {metric} ({reason}); what can be cited is {', '.join(known)}")
    _require_known(f"metric of {study}, {level}", metric, known)
    return cells[study, level, metric]


def name_metric(results: Results, study: str, name: str) -> str:
    """Returns the metric that a name stands for, which may also be a column's name in tables."""
    return next((name_metrics(each).get(name, name) for each in results.studies if each.name == study), name)


@dataclass(frozen=True)
class CitedValue:
    """One value that can be cited, with what a reader must know of it."""

    value: str
    """As the tables print it, without its unit."""

    unit: str
    meaning: str
    disturbed: str
    """What disturbed its measurement; empty if nothing did."""

    seeds: str
    """How many seeds it is the mean of, and whose seeds are not all done; empty for a value that no run gives."""

    provenance: str

    def describe(self) -> str:
        """Returns the value and what a reader must know of it, line by line."""
        head = f"{self.value} {self.unit}".rstrip()
        return "\n".join(filter(None, [head, self.meaning, self.disturbed, self.seeds, self.provenance]))


def look_up(results: Results, study: str, level: str, metric: str) -> CitedValue:
    """Returns a value with its unit, meaning and provenance. Raises ValueError for unknown names."""
    text, entry = find_value(results, study, level, metric), METRICS.get(metric)
    meaning = f"{entry.label}: {entry.meaning}" if entry else DERIVED.get(metric, f"train.{metric}, as tuning chose it")
    disturbed = _say_disturbed(results, study, level, metric)
    seeds = " ".join(tell_seeds(results, study, level, metric))
    shown = [metric] if metric in COSTS else []
    frames = results.study(study).frames
    provenance = describe_provenance(frames, shown)
    if metric == "trial_accuracy":
        provenance = f"{explain_tuning(frames, study)}{describe_provenance(frames, (), ['tuning'])}"
    return CitedValue(text, entry.unit if entry else "", meaning, disturbed, seeds, provenance)


COMPARED = ("change", "change_low", "change_high", "p", "p_corrected", "verdict", "smallest_difference",
            "seeds_for_change", "seeds_for_margin")  # fmt: skip
"""Values of a comparison, of which the base has a part. The first three stand after the name of the accuracy."""

WITH_BASE = ("error_consistency", "shared_errors", "class_")
"""The beginnings of other values of which the base has a part."""


def tell_seeds(results: Results, study: str, level: str, metric: str) -> list[str]:
    """Returns of how many seeds a value is, then whose seeds are not all done; an empty list for what no run gives.

    An effect is of all levels.
    """
    known = metric in METRICS or metric in DERIVED
    if not known or metric in ("published_error", "trial_accuracy") or any(metric.startswith(key) for key in COSTS):
        return []
    found = results.study(study)
    own = [each for each in found.levels if each.level == level] or [*found.levels]
    number = min(each.n for each in own)
    compared = metric.removeprefix(f"{found.accuracy}_") in COMPARED or metric.startswith(WITH_BASE)
    base = [found.base] if compared and metric != "error_consistency_own" else []
    gaps = [
        f"{each.phrase} has {each.n} of {count_of(each.n + sum(each.not_done.values()), 'seed')} "
        f"({describe_not_done(each.not_done)})"
        for each in {each.level: each for each in [*own, *base]}.values()
        if each.not_done
    ]
    return [f"Of {count_of(number, 'seed')}.", *([f"Incomplete: {'; '.join(gaps)}."] if gaps else [])]


def _say_disturbed(results: Results, study: str, level: str, metric: str) -> str:
    """Returns a sentence with the reasons if a cost was disturbed; an empty text for other values."""
    found = next((each for each in results.study(study).levels if each.level == level), None)
    if not found or metric not in found.costs or not found.costs[metric].disturbed:
        return ""
    costs = results.frames.costs
    reasons = costs.loc[costs.variant == found.variant, METRICS[metric].disturbed].iloc[0]
    return f"Disturbed, so do not rely on it: {reasons}."


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


FORMATS = ("markdown", "latex", "csv")


def print_table(results: Results, name: str, columns: Sequence[str] | None, short: bool, form: str) -> str:
    """Returns a table as Markdown or LaTeX with its marks, for a text in the current folder, or its numbers as CSV.

    Raises ValueError for unknown names and formats.
    """
    if form not in FORMATS:
        raise ValueError(f"--format {form}: allowed are {', '.join(FORMATS)}")
    table, folder = find_table(results, name, columns, short), results.frames.folder.as_posix()
    if form == "latex":
        return render_latex(table, folder)
    if form == "markdown":
        source = shlex.join([folder, name, *table.choice])
        return f"<!-- ablate {source} -->\n\n{render_markdown(table)}\n<!-- /ablate -->\n"
    known = {OVERALL: results.overall.numbers}
    for study in results.studies:
        known |= {study.name: study.numbers, **{f"{study.name}.{kind}": study.find_numbers(kind) for kind in MORE}}
    return render_numbers(table, known[name]).decode()


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
    return mark.of_table or bool(PRINTED.fullmatch(cited.strip()))


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
        recorded, problem = _check_comment(path.parent, mark, cited, kind)
    elif not problem:
        cited = text[mark.start : mark.end]
        source, recorded, problem = _check_macro(path.parent, text, kind, mark)
    faults = [problem] if problem else []
    if recorded is not None and not mark.of_table:
        faults += find_faults(text, mark, kind, recorded, mark.words[-1])
    return Citation(path, line, source, cited, recorded, "; ".join(faults))


def _check_comment(place: Path, mark: Mark, cited: str, kind: Kind) -> tuple[str | None, str]:
    """Returns the recorded text, and the reason why the cited one is wrong.

    Of the parts of a table in LaTeX, it is the one with the most lines of the cited text.
    """
    try:
        folder = find_results(place, mark.words[0]) if kind == "latex" else place / mark.words[0]
        if not mark.of_table:
            texts = [_find(_load_values(folder), *mark.words[1:])]
        else:
            table = find_table(_load_results(folder), mark.words[1], *read_choice(mark.words[2:]))
            texts = list_latex_parts(table) if kind == "latex" else [f"\n\n{render_markdown(table)}\n"]
    except (ValueError, OSError) as error:
        return None, str(error)
    lines = {*map(str.strip, cited.split("\n"))}
    recorded = max(texts, key=lambda text: len(lines & {*map(str.strip, text.split("\n"))}))
    recorded = f"\n{recorded}" if kind == "latex" else recorded
    return recorded, "" if agree(cited, recorded) else "the records say otherwise"


def find_results(place: Path, name: str) -> Path:
    """Returns the results folder that a text in `place` names: beside it, or in a folder above it or its `results/`.

    Raises ValueError if there is none.
    """
    above = [each / part / name for each in place.resolve().parents for part in ("", "results")]
    for folder in (place / name, place / "results" / name, *above):
        if os.path.exists(folder / "jobs.json"):  # noqa: PTH110, which raises for a name that is too long
            return folder
    raise ValueError(
        f"no results folder {name!r} beside the text, in a folder above it, or in results/ of one of these"
    )


def read_choice(options: Sequence[str]) -> tuple[list[str] | None, bool]:
    """Returns the columns that a mark of a table names, and whether the table is short. Raises ValueError."""
    rest, columns, short = [*options], None, not options
    while rest:
        option = rest.pop(0)
        if option == "--columns" and rest:
            columns = rest.pop(0).split(",")
        elif option == "--short":
            short = True
        else:
            raise ValueError(f"{option}: a mark of a table allows --columns NAME,NAME and --short")
    return columns, short


def _check_macro(folder: Path, text: str, kind: Kind, mark: Mark) -> tuple[str, str | None, str]:
    """Returns the source of a macro with its folder, the number in numbers.tex, and the reason why it is wrong."""
    places = _list_inputs(text, kind, mark)
    if not places:
        problem = r"no \input{FOLDER/numbers} says where it is from; in a chapter, write it into a comment"
        return mark.source, None, problem
    if isinstance(places, str):
        return mark.source, None, places
    read = [_read_numbers(folder, place, mark.words) for place in places]
    place, recorded, problem = next((each for each in read if each[1] is not None), read[0])
    if not problem and WRAPPED.search(text[max(0, mark.start - 200) : mark.start]):
        problem = r"\ablate gives text: \num would take its comma for a decimal point"
    return shlex.join([place, *mark.words]), recorded, problem


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
        if not words or words[0] == "table" or not (_names_results(path.parent, words) or _ends_in_a_metric(words)):
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


def _read_numbers(place: Path, named: str, words: Sequence[str]) -> tuple[str, str | None, str]:
    """Returns the results folder of a numbers.tex, its number, and the reason why it is wrong or out of date."""
    path = place / named / "numbers.tex"
    folder, shown = place / named, named or "."
    try:
        text = read_text(path) if path.exists() else ""
        copied = COPIED.match(text)
        if copied and not (folder / "jobs.json").exists():
            folder = find_results(place, copied[1])
            shown = Path(os.path.relpath(folder, place)).as_posix()
        recorded = _find(_load_values(folder), *words)
        fresh = render_macros(_load_values(folder), name_folder(folder)) == text
    except (ValueError, OSError) as error:
        return shown, None, str(error)
    renew = f"copy it again from {shown}" if folder != place / named else "`ablate report` renews it"
    return shown, recorded, "" if fresh else f"{path} is not of these records: {renew}"


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

"""Everything that is derived from the records: tables, figures and one page that holds them all.

The page is `page.html.jinja`, filled in here: what each study answers in a sentence, what failed, how it was made.
"""

from __future__ import annotations

import hashlib
import math
import re
import shlex
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from ablations import figures, files, tables
from ablations.metrics import METRICS
from ablations.tidy import Frames

PARTS: dict[str, Callable[[Frames], list[Path]]] = {"tables": tables.write, "figures": figures.write}
"""What can be rebuilt alone."""

SHOWN = 3
"""Levels that an answer names in full, the largest changes first."""

EQUAL = 0.01
"""A share of the base's count within which costs are called equal."""

Row = Mapping[Any, Any]
"""A level's row of `StudyTable.numbers`, and its `name` in a sentence."""


def write(frames: Frames) -> list[Path]:
    """Rebuilds every table, figure and the page from the records; gives the paths."""
    paths = [path for part in PARTS.values() for path in part(frames)]
    page = frames.folder / "report.html"
    files.write(page, html(frames).encode())
    return [*paths, page]


def html(frames: Frames) -> str:
    """One self-contained page; the figures must have been drawn."""
    drawn = stems(frames)
    grid = frames.folder / "grid.toml"
    return _template().render(
        title=frames.manifest["title"] or _called(frames.folder),
        folder=_called(frames.folder),
        counts=counts(frames),
        studies=[_section(frames, study["name"], drawn[study["name"]]) for study in frames.manifest["studies"]],
        overall=[_figure(frames, stem, "all variants") for stem in drawn[""]],
        lost=_lost(frames),
        causes=[*causes(frames), *_missing(frames)],
        damaged=[path.relative_to(frames.folder).as_posix() for path in frames.damaged],
        retry=_retry(frames),
        provenance=tables.provenance(frames),
        reading=tables.caption(frames).removesuffix(tables.provenance(frames)),
        metrics=METRICS.values(),
        environment=environment(frames),
        commands=commands(frames),
        grid=files.read(grid).decode() if grid.exists() else "",
        checksums=checksums(frames.folder),
    )


@cache
def _template() -> Template:
    jinja = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    jinja.filters |= {"parted": _parted, "bound": _bound}
    return jinja.from_string(Path(__file__).with_name("page.html.jinja").read_text(encoding="utf-8"))


def _section(frames: Frames, name: str, drawn: Sequence[str]) -> dict[str, Any]:
    """What the page shows of one study."""
    table = tables.study_table(frames, name)
    return {
        "table": table,
        "bases": [place for place, is_base in enumerate(table.numbers.is_base) if is_base],
        "answer": answer(frames, table),
        "tally": _tally(table),
        "figures": [_figure(frames, stem, name) for stem in drawn],
    }


def _parted(cell: str) -> tuple[str, str]:
    """A cell's number and what stands beside it: `97.13`, `(-1.2 %)`."""
    match = re.fullmatch(r"(.+?) ([(\[].*[)\]])", cell)
    return (match[1], match[2]) if match else (cell, "")


def _bound(text: str) -> str:
    """No line begins with a percent sign."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _tally(table: tables.StudyTable) -> str:
    """`2 resolved, 3 not resolved`."""
    verdicts = Counter(table.numbers.verdict[~table.numbers.is_base.astype(bool)])
    return ", ".join(f"{number} {verdict}" for verdict, number in verdicts.items())


def stems(frames: Frames) -> dict[str, list[str]]:
    """The figures of each study by the stem of their files, and under the empty name those of all studies."""
    return {study["name"]: [study["name"]] for study in frames.manifest["studies"]} | {"": ["pareto", "curves"]}


KINDS = {
    "": "accuracy and costs by level", "curves": "learning curves", "map": "accuracy of every combination",
    "trade": "memory against time", "pareto": "accuracy against each cost",
}  # fmt: skip
"""What a figure shows, by the end of its stem, for those who do not see it."""


def _figure(frames: Frames, stem: str, subject: str) -> dict[str, Any]:
    """A figure of our own making, to stand inside the page; ids get its stem, so that none collide."""
    text = (frames.folder / "figures" / f"{stem}.svg").read_text(encoding="utf-8")
    text = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{stem}-", text[text.index("<svg") :])
    kind = KINDS.get(stem.removeprefix(subject).removeprefix("."), stem)
    svg = Markup(text)  # noqa: S704, drawn by figures.py from escaped text
    return {"svg": svg, "label": f"Figure of {subject}: {kind}"}


def answer(frames: Frames, table: tables.StudyTable) -> list[str]:
    """What the seeds carry of a study's question, and no more; the first sentence is the answer."""
    rows = _rows(frames, table)
    base, others = next(row for row in rows if row["is_base"]), [row for row in rows if not row["is_base"]]
    if not others:
        sentences = [f"There is nothing to compare {base['name']} with."]
    elif not base["n"]:
        sentences = [f"Nothing can be compared: {base['name']}, the base, has no result.", _span(others)]
    else:
        sentences = [*_accuracy(base, others), *_effects(frames, table), _span(others)]
    return [sentence for sentence in [*sentences, *_gaps(frames, rows)] if sentence]


def _rows(frames: Frames, table: tables.StudyTable) -> list[dict[Any, Any]]:
    """The rows of a study's numbers, each with the name of its level in a sentence."""
    axes = next(study["axes"] for study in frames.manifest["studies"] if study["name"] == table.name)
    return [row | {"name": _name(str(row["level"]), axes)} for row in table.numbers.to_dict("records")]


def _name(label: str, axes: Sequence[str]) -> str:
    """`conv-norm-act`, but `growth_rate 8`; in quotation marks where a comma would be mistaken for the sentence's."""
    parts = label.split(", ")
    if len(parts) == len(axes):
        keys = (axis.rpartition(".")[2] for axis in axes)
        label = ", ".join(
            f"{key} {part}" if len(axes) > 1 or re.match(r"[\d.+-]|(none|true|false)$", part) else part
            for key, part in zip(keys, parts, strict=True)
        )
    return f"“{label}”" if "," in label else label


def _accuracy(base: Row, others: Sequence[Row]) -> list[str]:
    """A sentence for each kind of verdict, what is resolved first."""
    by_verdict = {row["verdict"]: [each for each in others if each["verdict"] == row["verdict"]] for row in others}
    unresolved = by_verdict.get("not resolved", [])
    return [
        _resolved(base, by_verdict.get("resolved", [])),
        _identical(base, by_verdict.get("identical", [])),
        _unresolved([row for row in unresolved if row["pairs"] > 1], len(others)),
        _one_seed([row for row in unresolved if row["pairs"] == 1], len(others)),
        _no_data(by_verdict.get("no data", [])),
    ]


def _resolved(base: Row, rows: Sequence[Row]) -> str:
    """`Against 12: 24 gains 1.30 points (95 % 0.88–1.72) at +42 % MACs and +35 % params.`"""
    if not rows:
        return ""
    ordered = sorted(rows, key=lambda row: -abs(row["difference"]))
    changes = [
        f"{row['name']} {'gains' if row['difference'] > 0 else 'loses'} {_points(abs(row['difference']))} "
        f"(95 % {_interval(row)}){_price(row)}"
        for row in ordered[:SHOWN]
    ]
    if len(rows) > SHOWN:
        more = Counter("gain" if row["difference"] > 0 else "lose" for row in ordered[SHOWN:])
        changes.append("and " + _and([f"{number} more {verb}{'s' * (number == 1)}" for verb, number in more.items()]))
    return f"Against {base['name']}: {'; '.join(changes)}."


def _points(size: float) -> str:
    return f"{size:.2f} {'point' if f'{size:.2f}' == '1.00' else 'points'}"


def _interval(row: Row) -> str:
    """The sizes between which a resolved gain or loss lies."""
    low, high = sorted((abs(row["low"]), abs(row["high"])))
    return f"{low:.2f}–{high:.2f}"


def _price(row: Row) -> str:
    """` at equal MACs and −3 % params`: what else a level changes."""
    known = {"MACs": row["macs_change"], "params": row["params_change"]}
    changes = {name: change for name, change in known.items() if not math.isnan(change)}
    equal = [name for name, change in changes.items() if abs(change) <= EQUAL]
    parts = [f"{_percent(change)} {name}" for name, change in changes.items() if name not in equal]
    return " at " + _and([*([f"equal {_and(equal)}"] if equal else []), *parts]) if changes else ""


def _percent(change: float) -> str:
    """`+42 %`, with a true minus; 0 has no sign."""
    rounded = f"{100 * change:+.0f}".replace("-", "−")
    return f"{'0' if rounded[1:] == '0' else rounded} %"


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _identical(base: Row, rows: Sequence[Row]) -> str:
    """Levels that change the costs alone: `layer, with 52 % less peak memory in training and 24 % slower training`."""
    if not rows:
        return ""
    ordered = sorted(rows, key=lambda row: _known(row["train_peak_memory_bytes_change"]))
    levels = [row["name"] + _saving(base, row) for row in ordered[:SHOWN]]
    more = [f"and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
    seeds = _numbers([row["pairs"] for row in rows])
    return f"Results identical to those of {base['name']}, to the bit, {_with(seeds)}: {'; '.join([*levels, *more])}."


def _known(change: float) -> float:
    return 0.0 if math.isnan(change) else change


def _saving(base: Row, row: Row) -> str:
    """Memory and time against the base; time only where it differs by more than its own spread."""
    memory = _known(row["train_peak_memory_bytes_change"])
    speed = _known(row["train_images_per_second_change"])
    spread = max(_known(each["train_step_relative_iqr"] or 0.0) for each in (base, row))
    parts = []
    if abs(memory) > EQUAL:
        parts.append(f"{100 * abs(memory):.0f} % {'less' if memory < 0 else 'more'} peak memory in training")
    if abs(speed) > max(EQUAL, spread):
        parts.append(f"{100 * abs(speed):.0f} % {'slower' if speed < 0 else 'faster'} training")
    return f", with {_and(parts)}" if parts else ""


def _unresolved(rows: Sequence[Row], of: int) -> str:
    """`Not resolved with 3 seeds: ...`, and how far the largest change may reach."""
    if not rows:
        return ""
    largest = max(rows, key=lambda row: abs(row["difference"]))
    if math.isnan(largest["low"]):
        reach = "the same in every seed, which carries no interval"
    else:
        reach = f"95 % {_signed(largest['low'])} to {_signed(largest['high'])}"
        reach += f", not corrected for {of} comparisons" if largest["low"] * largest["high"] > 0 else ""
    change = f"{largest['name']}, {_signed(largest['difference'])} points ({reach})"
    seeds = _numbers([row["pairs"] for row in rows])
    return f"Not resolved {_with(seeds)}: the change in accuracy of {_which(rows, of, change)}."


def _one_seed(rows: Sequence[Row], of: int) -> str:
    """One pair has a difference and no interval: it decides nothing."""
    if not rows:
        return ""
    largest = max(rows, key=lambda row: abs(row["difference"]))
    change = f"{largest['name']}, {_signed(largest['difference'])} points"
    return f"One seed carries no interval, and so cannot resolve the change in accuracy of {_which(rows, of, change)}."


def _which(rows: Sequence[Row], of: int, largest: str) -> str:
    """The one level, or how many and the largest of them."""
    if len(rows) == 1:
        return largest
    every = "both" if of == 2 else f"all {of}"
    return f"{every if len(rows) == of else f'{len(rows)} of {of}'} levels; the largest is that of {largest}"


def _signed(points: float) -> str:
    return f"{points:+.2f}".replace("-", "−")


def _with(seeds: str) -> str:
    return f"with {seeds} {'seed' if seeds == '1' else 'seeds'}"


def _numbers(numbers: Sequence[int]) -> str:
    """`3`, or `2 to 3`."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _no_data(rows: Sequence[Row]) -> str:
    """Levels of which no seed is also the base's."""
    if not rows:
        return ""
    names = [row["name"] for row in rows[:SHOWN]] + ([f"{len(rows) - SHOWN} more"] if len(rows) > SHOWN else [])
    return f"No result to compare: {_and(names)}."


def _effects(frames: Frames, table: tables.StudyTable) -> list[str]:
    """Of a study of several axes, a sentence for each main effect and for the interaction."""
    return []


SPANS = {"macs": "MACs", "params": "params", "train_peak_memory_bytes": "peak memory in training"}
"""The costs whose span an answer gives, as they are written within a sentence."""


def _span(rows: Sequence[Row]) -> str:
    """What the levels cost, unless each is named with its price: `Costs against the base: MACs −84 % to +96 %.`"""
    by_price = [row for row in rows if row["verdict"] != "identical"]
    priced = len(by_price) <= SHOWN and all(row["verdict"] == "resolved" for row in by_price)
    changes = {name: [row[f"{key}_change"] for row in rows] for key, name in SPANS.items()}
    measured = {name: [each for each in those if not math.isnan(each)] for name, those in changes.items()}
    equal = [name for name, those in measured.items() if those and max(map(abs, those)) <= EQUAL]
    spans = [f"equal {_and(equal)}"] if equal else []
    spans += [f"{name} {_range(those)}" for name, those in measured.items() if those and name not in equal]
    if priced or not spans:
        return ""
    over = "" if len(rows) == 1 else " over all levels" if measured == changes else " over the levels measured"
    return f"Costs against the base{over}: {', '.join(spans)}."


def _range(changes: Sequence[float]) -> str:
    """`−84 % to +96 %`, or one of them where both are the same."""
    return " to ".join(dict.fromkeys(map(_percent, (min(changes), max(changes)))))


def _gaps(frames: Frames, rows: Sequence[Row]) -> list[str]:
    """`2 of 18 runs have no result: 1 diverged, 1 missing.`, and the same of costs."""
    runs = frames.runs.status[frames.runs.variant.isin([row["variant"] for row in rows])]
    costs = pd.Series([row["cost_status"] for row in rows])
    sentences = []
    for kind, statuses in (("runs", runs), ("measurements of costs", costs)):
        lost = Counter(sorted(status for status in statuses if status != "done"))
        if lost:
            reasons = ", ".join(f"{number} {status}" for status, number in lost.items())
            verb = "has" if lost.total() == 1 else "have"
            sentences.append(f"{lost.total()} of {len(statuses)} {kind} {verb} no result: {reasons}.")
    return sentences


def counts(frames: Frames) -> str:
    """`54 runs and 19 costs: 73 done.`"""
    jobs = len(frames.runs), len(frames.costs)
    statuses = [*frames.runs.status, *frames.costs.status]
    found = [f"{statuses.count(status)} {status}" for status in dict.fromkeys(sorted(statuses))]
    return f"{jobs[0]} runs and the costs of {jobs[1]} variants: {', '.join(found)}."


def failures(frames: Frames) -> list[str]:
    """What failed, and why, in the grid's order."""
    return [f"{name}: {row['status']}, {row['reason']}" for row, name in _bad(frames)]


def causes(frames: Frames) -> list[dict[str, Any]]:
    """What failed, by status and reason, with the jobs of each; in the grid's order."""
    found: dict[tuple[str, str], list[str]] = {}
    for row, name in _bad(frames):
        found.setdefault((row["status"], row["reason"]), []).append(name)
    return [{"status": status, "reason": reason, "jobs": jobs} for (status, reason), jobs in found.items()]


def _missing(frames: Frames) -> list[dict[str, Any]]:
    """What has not been run, as one cause."""
    jobs = [name for _, name in _with_status(frames, "missing")]
    return [{"status": "missing", "reason": "there is no record yet", "jobs": jobs}] if jobs else []


def _bad(frames: Frames) -> list[tuple[dict[str, Any], str]]:
    """Rows of what failed, with the jobs' names."""
    statuses = {*frames.runs.status, *frames.costs.status} - {"done", "missing"}
    return _with_status(frames, *statuses)


def _with_status(frames: Frames, *statuses: str) -> list[tuple[dict[str, Any], str]]:
    """Rows of jobs that ended so, with the jobs' names; each job once, costs first."""
    by_id = {job["id"]: job for job in frames.manifest["jobs"]}
    both = [frame[frame.status.isin(statuses)].to_dict("records") for frame in (frames.costs, frames.runs)]
    rows = {row["id"]: row for part in both for row in part}
    return [(row, f"{by_id[key]['kind']} {by_id[key]['name']}") for key, row in rows.items()]


def _lost(frames: Frames) -> str:
    """`2 failed, 1 missing`, by job; empty where every job is done and every record whole."""
    causes_ = [*causes(frames), *_missing(frames)]
    lost: Counter[str] = Counter()
    for cause in causes_:
        lost[cause["status"]] += len(cause["jobs"])
    parts = [f"{number} {status}" for status, number in lost.items()]
    return ", ".join([*parts, *([f"{len(frames.damaged)} damaged"] if frames.damaged else [])])


MADE = {
    "device_name": "Device", "device": "Kind of device", "threads": "Threads of a job", "torch": "torch",
    "python": "Python", "precision": "Precision", "commit": "Commit", "fingerprint": "Fingerprint of the sources",
}  # fmt: skip
"""What every record says of its making, and how the page calls it."""


def environment(frames: Frames) -> list[tuple[str, str]]:
    """What the records were made with; where they differ, how many of each."""
    parts = [frame[frame.status == "done"].reindex(columns=["id", *MADE]) for frame in (frames.costs, frames.runs)]
    made = pd.concat([part.astype(object) for part in parts]).drop_duplicates("id")
    found = []
    for key, name in MADE.items():
        values = Counter(f"{value:g}" if isinstance(value, float) else str(value) for value in made[key].dropna())
        if values:
            each = [f"{value} ({_records(number)})" for value, number in values.items()]
            found.append((name, ", ".join(each if len(values) > 1 else values)))
    return found


def commands(frames: Frames) -> list[str]:
    """What makes all of it again, and what makes this page from the records."""
    name = _called(frames.folder)
    device = frames.manifest["machine"]["device"]
    again = ["ablate", "run", f"{name}/grid.toml", "--out", f"{name}-again", "--device", device]
    return [shlex.join(again), shlex.join(["ablate", "report", name])]


def _called(folder: Path) -> str:
    """The folder's own name, from wherever it is looked at: the page is the same."""
    return folder.resolve().name


def _retry(frames: Frames) -> str:
    """What runs again what failed, or is missing; empty where nothing is."""
    if not _lost(frames):
        return ""
    name, statuses = _called(frames.folder), sorted({cause["status"] for cause in causes(frames)})
    retry = ["--retry", ",".join(statuses)] if statuses else []
    return shlex.join(["ablate", "run", f"{name}/grid.toml", "--out", name, *retry])


def checksums(folder: Path) -> list[dict[str, str]]:
    """SHA-256 of the plan and of all records, each with the command that prints it."""
    found = []
    for name in ("jobs.json", "grid.toml"):
        if (folder / name).exists():
            path = shlex.quote(f"{_called(folder)}/{name}")
            found.append({"of": name, "sha256": _sha256(files.read(folder / name)), "command": f"sha256sum {path}"})
    paths = sorted((folder / "records").glob("*.json"))
    lines = "".join(f"{_sha256(files.read(path))}  {path.name}\n" for path in paths)
    command = f"(cd {shlex.quote(f'{_called(folder)}/records')} && LC_ALL=C sha256sum *.json | sha256sum)"
    return [*found, {"of": _records(len(paths)), "sha256": _sha256(lines.encode()), "command": command}]


def _records(number: int) -> str:
    return f"{number:,} record{'s' * (number != 1)}"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()

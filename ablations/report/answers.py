"""What a study answers, in sentences that say what the seeds carry, and no more."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ablations.report import tables
from ablations.report.frames import Frames, at_the_end, tuned_fields

SHOWN = 3
"""Levels that an answer names in full, the largest changes first."""

EQUAL = 0.0005
"""A share of the base's count within which costs are called equal: what would be printed as 0.0 %."""

Row = Mapping[Any, Any]
"""A level's row of `StudyTable.numbers`, and its `name` in a sentence."""


def answer(frames: Frames, table: tables.StudyTable) -> list[str]:
    """What the seeds carry of a study's question, and no more; the first sentence is the answer."""
    rows = _rows(frames, table)
    base, others = next(row for row in rows if row["is_base"]), [row for row in rows if not row["is_base"]]
    if not others:
        sentences = [f"There is nothing to compare {base['name']} with."]
    elif not base["n"]:
        sentences = [f"Nothing can be compared: {base['name']}, the base, has no result.", _span(others)]
    else:
        sentences = [
            *_accuracy(base, others),
            *_effects(frames, table),
            _published(rows),
            _too_short(frames, rows, table),
            _span(others),
        ]
    return [sentence for sentence in [*sentences, *_gaps(frames, rows)] if sentence]


def _rows(frames: Frames, table: tables.StudyTable) -> list[dict[Any, Any]]:
    """The rows of a study's numbers, each with the name of its level in a sentence."""
    axes = frames.manifest.study(table.name).axes
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
        _no_pairs(by_verdict.get("no pairs", [])),
    ]


def _resolved(base: Row, rows: Sequence[Row]) -> str:
    """`Against 12: 24 gains 1.30 points (95 % 0.88–1.72) at +42 % MACs and +35 % params.`"""
    if not rows:
        return ""
    ordered = sorted(rows, key=lambda row: -abs(row["difference"]))
    changes = [
        f"{row['name']} {'gains' if row['difference'] > 0 else 'loses'} {_points(row)} "
        f"(95 % {_interval(row)}){_price(row)}"
        for row in ordered[:SHOWN]
    ]
    if len(rows) > SHOWN:
        more = Counter("gain" if row["difference"] > 0 else "lose" for row in ordered[SHOWN:])
        changes.append("and " + _and([f"{number} more {verb}{'s' * (number == 1)}" for verb, number in more.items()]))
    return f"Against {base['name']}: {'; '.join(changes)}."


def _points(row: Row) -> str:
    """`1.30 points`, with the digits that its interval carries."""
    size = f"{abs(row['difference']):.{_digits(row)}f}"
    return f"{size} {'point' if float(size) == 1 else 'points'}"


def _interval(row: Row) -> str:
    """The sizes between which a resolved gain or loss lies."""
    low, high = sorted((abs(row["low"]), abs(row["high"])))
    return f"{low:.{_digits(row)}f}–{high:.{_digits(row)}f}"


def _digits(row: Row) -> int:
    return tables.places((row["high"] - row["low"]) / 2)


def _price(row: Row) -> str:
    """` at equal MACs and −3 % params`: what else a level changes."""
    known = {"MACs": row["macs_change"], "params": row["params_change"]}
    changes = {name: change for name, change in known.items() if not math.isnan(change)}
    equal = [name for name, change in changes.items() if abs(change) <= EQUAL]
    parts = [f"{_percent(change)} {name}" for name, change in changes.items() if name not in equal]
    return " at " + _and([*([f"equal {_and(equal)}"] if equal else []), *parts]) if changes else ""


def _percent(change: float) -> str:
    """`+42 %`, with a true minus; 0 has no sign."""
    rounded = tables.signed(100 * change, 0 if abs(change) >= 0.01 else 1).replace("-", "−")
    return f"{'0' if not float(rounded[1:]) else rounded} %"


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
    """Memory and time against the base; time only where it is undisturbed and differs by more than its own spread."""
    memory = _known(row["train_peak_memory_bytes_change"])
    speed = _known(row["train_images_per_second_change"])
    spread = max(_known(each["train_step_relative_iqr"] or 0.0) for each in (base, row))
    parts = []
    if abs(memory) > 0.005:
        parts.append(f"{100 * abs(memory):.0f} % {'less' if memory < 0 else 'more'} peak memory in training")
    disturbed = any(each["train_disturbed"] for each in (base, row) if isinstance(each["train_disturbed"], str))
    if abs(speed) > max(0.01, spread) and not disturbed:
        time = 1 / (1 + speed) - 1
        parts.append(f"{100 * abs(time):.0f} % {'more' if time > 0 else 'less'} time a step")
    return f", with {_and(parts)}" if parts else ""


def _unresolved(rows: Sequence[Row], of: int) -> str:
    """`Not resolved with 3 seeds: ...`, and how far the largest change may reach."""
    if not rows:
        return ""
    largest = max(rows, key=lambda row: abs(row["difference"]))
    if math.isnan(largest["low"]):
        reach = "the same in every seed, which carries no interval"
    else:
        reach = f"95 % {_signed(largest, 'low')} to {_signed(largest, 'high')}"
        reach += f", not corrected for {of} comparisons" if largest["low"] * largest["high"] > 0 else ""
    change = f"{largest['name']}, {_signed(largest, 'difference')} points ({reach})"
    seeds = _numbers([row["pairs"] for row in rows])
    return f"Not resolved {_with(seeds)}: the change in accuracy of {_which(rows, of, change)}."


def _one_seed(rows: Sequence[Row], of: int) -> str:
    """One pair has a difference and no interval: it decides nothing."""
    if not rows:
        return ""
    largest = max(rows, key=lambda row: abs(row["difference"]))
    change = f"{largest['name']}, {_signed(largest, 'difference')} points"
    return f"One seed carries no interval, and so cannot resolve the change in accuracy of {_which(rows, of, change)}."


def _which(rows: Sequence[Row], of: int, largest: str) -> str:
    """The one level, or how many and the largest of them."""
    if len(rows) == 1:
        return largest
    every = "both" if of == 2 else f"all {of}"
    return f"{every if len(rows) == of else f'{len(rows)} of {of}'} levels; the largest is that of {largest}"


def _signed(row: Row, key: str) -> str:
    return tables.signed(row[key], _digits(row)).replace("-", "−")


def _with(seeds: str) -> str:
    return f"with {seeds} {'seed' if seeds == '1' else 'seeds'}"


def _numbers(numbers: Sequence[int]) -> str:
    """`3`, or `2 to 3`."""
    low, high = min(numbers), max(numbers)
    return str(low) if low == high else f"{low} to {high}"


def _no_data(rows: Sequence[Row]) -> str:
    """Levels of which no seed is also the base's."""
    return f"No result to compare: {_some(rows)}." if rows else ""


def _some(rows: Sequence[Row]) -> str:
    return _and([row["name"] for row in rows[:SHOWN]] + ([f"{len(rows) - SHOWN} more"] if len(rows) > SHOWN else []))


def _no_pairs(rows: Sequence[Row]) -> str:
    """Levels that have results, and none to pair with the base's."""
    verb = "shares" if len(rows) == 1 else "share"
    return f"Not comparable: {_some(rows)} {verb} no seed, device and torch version with the base." if rows else ""


def _effects(frames: Frames, table: tables.StudyTable) -> list[str]:
    """Which main effects and interactions of a study of several axes are resolved, the largest first."""
    found = tables.effects_table(frames, table.name)
    if found is None:
        return []
    rows = found.numbers.to_dict("records")
    resolved = sorted((row for row in rows if row["verdict"] == "resolved"), key=lambda row: -abs(row["difference"]))
    if not any(row["pairs"] for row in rows):
        return ["Main effects and interactions cannot be told: no seed has all the combinations that one needs."]
    if not resolved:
        seeds = _numbers([row["pairs"] for row in rows if row["pairs"]])
        return [f"No main effect and no interaction is resolved {_with(seeds)}."]
    more = [f"and {len(resolved) - SHOWN} more"] if len(resolved) > SHOWN else []
    return [f"On the average over the other axes: {'; '.join([*map(_effect, resolved[:SHOWN]), *more])}."]


def _effect(row: Row) -> str:
    """`growth_rate 4 → 8 gains 2.3 points (95 % 1.1–3.5)`, or what two changes together give beyond their sum."""
    names = [axis.rpartition(".")[2] for axis in row["axes"].split(" x ")]
    moves = row["levels"].replace("->", "→").split(", ")
    if len(moves) != len(names):  # a level has a comma of its own
        names, moves = [_and(names)], [row["levels"]]
    changes = [f"{name} {move}" for name, move in zip(names, moves, strict=True)]
    size = f"{_points(row)} (95 % {_interval(row)})"
    if row["effect"] == "main":
        return f"{changes[0]} {'gains' if row['difference'] > 0 else 'loses'} {size}"
    return f"{_and(changes)} together give {size} {'more' if row['difference'] > 0 else 'less'} than their sum"


def _published(rows: Sequence[Row]) -> str:
    """`Of 4 published errors 3 lie within the interval of the measured ones; above it: that of X.`, where any are."""
    stated = [row for row in rows if row.get("published_is")]
    of = {where: [row for row in stated if row["published_is"] == where] for where in ("within", "above", "below")}
    compared = [row for those in of.values() for row in those]
    errors = "1 published error" if len(compared) == 1 else f"{len(compared)} published errors"
    verb = "lies" if len(of["within"]) == 1 else "lie"
    parts = [f"Of {errors} {len(of['within'])} {verb} within the interval of the measured ones"] if compared else []
    parts += [f"{where} it: that of {_some(of[where])}" for where in ("above", "below") if of[where]]
    without = [row for row in stated if row not in compared]
    parts += (
        [f"{'without' if parts else 'Without'} an interval to compare: that of {_some(without)}"] if without else []
    )
    return f"{'; '.join(parts)}." if parts else ""


def _too_short(frames: Frames, rows: Sequence[Row], table: tables.StudyTable) -> str:
    """`The chosen learning_rate of 8 is the first or the last of its list: add values beyond it.`, where one is."""
    ends, fields = at_the_end(frames, table.name), tuned_fields(frames, table.name)
    found = {field: [row for row in rows if (row["variant"], field) in ends] for field in fields}
    return " ".join(
        f"The chosen {field.rpartition('.')[2]} of {_some(those)} is the first or the last of its list: "
        "add values beyond it."
        for field, those in found.items()
        if those
    )


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

"""The answer of each study, in sentences that claim no more than the seeds show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from ablations.metrics import METRICS, choose_places, format_signed, level_text
from ablations.report.results import LevelResult, StudyResult
from ablations.report.statistics import Effect

SHOWN = 3
"""The most levels that an answer names in full, the largest changes first."""

EQUAL = 0.0005
"""The largest change, as a share of the base's count, of costs that are called equal: it would be printed as 0.0 %."""

PHRASES = dict(sorted((metric.phrase, key) for key, metric in METRICS.items() if metric.phrase))
"""The costs that an answer names, in alphabetical order."""

Levels = Sequence[LevelResult]


def answer(study: StudyResult) -> list[str]:
    """Returns sentences on what the seeds show of a study's question. The first sentence is the answer."""
    base, others = study.base, study.others
    if not others:
        sentences = [f"There is nothing to compare {base.phrase} with."]
    elif not base.n:
        sentences = [f"Nothing can be compared: {base.phrase}, the base, has no result.", _tell_span(others)]
    else:
        sentences = [
            *_tell_changes(base, others),
            _tell_effects(study.effects),
            _tell_published(study.levels),
            _tell_edges(study),
            _tell_span(others),
        ]
    return [sentence for sentence in [*sentences, *_tell_gaps(study)] if sentence]


# Accuracy: a sentence for each kind of verdict


def _tell_changes(base: LevelResult, others: Levels) -> list[str]:
    """Returns a sentence for each verdict, resolved changes first."""
    by_verdict = {each.verdict: [level for level in others if level.verdict == each.verdict] for each in others}
    unresolved = by_verdict.get("not resolved", [])
    return [
        _tell_resolved(base, by_verdict.get("resolved", [])),
        _tell_identical(base, by_verdict.get("identical", [])),
        _tell_unresolved([level for level in unresolved if level.pairs > 1], len(others)),
        _tell_one_seed([level for level in unresolved if level.pairs == 1], len(others)),
        _tell_no_data(by_verdict.get("no data", [])),
        _tell_no_pairs(by_verdict.get("no pairs", [])),
    ]


def _tell_resolved(base: LevelResult, levels: Levels) -> str:
    """Returns `Against 12: 24 gains 1.30 points (95 % 0.88–1.72) at +42 % MACs and +35 % params.`"""
    if not levels:
        return ""
    ordered = sorted(levels, key=lambda level: -abs(level.difference))
    changes = [
        f"{level.phrase} {'gains' if level.difference > 0 else 'loses'} "
        f"{_say_size(level.difference, level.low, level.high)}{_say_price(level)}"
        for level in ordered[:SHOWN]
    ]
    if len(levels) > SHOWN:
        more = Counter("gain" if level.difference > 0 else "lose" for level in ordered[SHOWN:])
        changes.append("and " + _join([f"{number} more {verb}{'s' * (number == 1)}" for verb, number in more.items()]))
    return f"Against {base.phrase}: {'; '.join(changes)}."


def _say_size(difference: float, low: float, high: float) -> str:
    """Returns `1.30 points (95 % 0.88–1.72)`: a resolved gain or loss, with as many digits as its interval allows."""
    places = choose_places((high - low) / 2)
    ends = "–".join(f"{end:.{places}f}" for end in sorted((abs(low), abs(high))))
    return f"{_say_points(difference, places)} (95 % {ends})"


def _say_points(difference: float, places: int) -> str:
    size = round(abs(difference), places)
    return f"{size:.{places}f} {'point' if size == 1 else 'points'}"


def _say_price(level: LevelResult) -> str:
    """Returns ` at equal MACs and −3 % params`: the level's changes of counts."""
    counts = {phrase: level.costs[key].change for phrase, key in PHRASES.items() if METRICS[key].group == "counts"}
    changes = {phrase: change for phrase, change in counts.items() if not math.isnan(change)}
    equal = [phrase for phrase, change in changes.items() if abs(change) <= EQUAL]
    parts = [f"{_say_percent(change)} {phrase}" for phrase, change in changes.items() if phrase not in equal]
    return " at " + _join([*([f"equal {_join(equal)}"] if equal else []), *parts]) if changes else ""


def _say_percent(change: float) -> str:
    """Returns `+42 %`, with a true minus sign. 0 has no sign."""
    places = 0 if abs(change) >= 0.01 else 1
    text = format_signed(100 * change, places).replace("-", "−") if round(100 * change, places) else "0"
    return f"{text} %"


def _tell_identical(base: LevelResult, levels: Levels) -> str:
    """Returns a sentence on levels with identical results: `layer, with 52 % less peak memory in training`."""
    if not levels:
        return ""
    ordered = sorted(levels, key=lambda level: _or_zero(level.costs["train_peak_memory_bytes"].change))
    named = [level.phrase + _say_saving(base, level) for level in ordered[:SHOWN]]
    more = [f"and {len(levels) - SHOWN} more"] if len(levels) > SHOWN else []
    seeds = _say_seeds([level.pairs for level in levels])
    return f"Results identical to those of {base.phrase}, to the bit, {seeds}: {'; '.join([*named, *more])}."


def _or_zero(change: float) -> float:
    return 0.0 if math.isnan(change) else change


def _say_saving(base: LevelResult, level: LevelResult) -> str:
    """Returns changes of memory and time against the base.

    Time is named only if it was undisturbed and differs by more than its own spread.
    """
    memory = _or_zero(level.costs["train_peak_memory_bytes"].change)
    steps = [each.costs["train_images_per_second"] for each in (base, level)]
    speed, spread = _or_zero(steps[1].change), max(_or_zero(step.spread) for step in steps)
    parts = []
    if abs(memory) > 0.005:
        parts.append(f"{100 * abs(memory):.0f} % {'less' if memory < 0 else 'more'} peak memory in training")
    if abs(speed) > max(0.01, spread) and not any(step.disturbed for step in steps):
        time = 1 / (1 + speed) - 1
        parts.append(f"{100 * abs(time):.0f} % {'more' if time > 0 else 'less'} time a step")
    return f", with {_join(parts)}" if parts else ""


def _tell_unresolved(levels: Levels, of: int) -> str:
    """Returns `Not resolved with 3 seeds: ...`, with the interval of the largest change."""
    if not levels:
        return ""
    largest = max(levels, key=lambda level: abs(level.difference))
    if math.isnan(largest.low):
        reach = "the same in every seed, which gives no interval"
    else:
        reach = f"95 % {_say_signed(largest, largest.low)} to {_say_signed(largest, largest.high)}"
        reach += f", not corrected for {of} comparisons" if largest.low * largest.high > 0 else ""
    change = f"{largest.phrase}, {_say_signed(largest, largest.difference)} points ({reach})"
    seeds = _say_seeds([level.pairs for level in levels])
    return f"Not resolved {seeds}: the change in accuracy of {_say_which(levels, of, change)}."


def _tell_one_seed(levels: Levels, of: int) -> str:
    """Returns a sentence on levels with one pair, which has a difference but no interval, so nothing is resolved."""
    if not levels:
        return ""
    largest = max(levels, key=lambda level: abs(level.difference))
    which = _say_which(levels, of, f"{largest.phrase}, {_say_signed(largest, largest.difference)} points")
    return f"One seed gives no interval, so it cannot resolve the change in accuracy of {which}."


def _say_which(levels: Levels, of: int, largest: str) -> str:
    """Returns the only level, or the number of levels and the one with the largest change."""
    if len(levels) == 1:
        return largest
    every = "both" if of == 2 else f"all {of}"
    return f"{every if len(levels) == of else f'{len(levels)} of {of}'} levels; the largest is that of {largest}"


def _say_signed(level: LevelResult, value: float) -> str:
    """Returns `−0.50`, with as many digits as the level's interval allows."""
    return format_signed(value, choose_places((level.high - level.low) / 2)).replace("-", "−")


def _tell_no_data(levels: Levels) -> str:
    """Returns a sentence on levels without a result."""
    return f"No result to compare: {_name_some(levels)}." if levels else ""


def _tell_no_pairs(levels: Levels) -> str:
    """Returns a sentence on levels that have results, but no run that can be paired with one of the base."""
    verb = "shares" if len(levels) == 1 else "share"
    return (
        f"Not comparable: {_name_some(levels)} {verb} no seed, device and torch version with the base."
        if levels
        else ""
    )


# Effects, published errors, tuning


def _tell_effects(effects: Sequence[Effect]) -> str:
    """Returns a sentence on the resolved main effects and interactions of a product study, the largest first."""
    if not effects:
        return ""
    resolved = [effect for effect in effects if effect.verdict == "resolved"]
    resolved.sort(key=lambda effect: -abs(effect.difference.mean))
    pairs = [effect.difference.pairs for effect in effects if effect.difference.pairs]
    if not pairs:
        return "Main effects and interactions cannot be told: no seed has all the combinations that one needs."
    if not resolved:
        return f"No main effect and no interaction is resolved {_say_seeds(pairs)}."
    more = [f"and {len(resolved) - SHOWN} more"] if len(resolved) > SHOWN else []
    return f"On the average over the other axes: {'; '.join([*map(_say_effect, resolved[:SHOWN]), *more])}."


def _say_effect(effect: Effect) -> str:
    """Returns `growth_rate 4 → 8 gains 2.3 points (95 % 1.1–3.5)`, or the size of an interaction."""
    moves = [
        f"{move.axis.rpartition('.')[2]} {level_text(move.before)} → {level_text(move.after)}" for move in effect.moves
    ]
    change = effect.difference
    size = _say_size(change.mean, change.low, change.high)
    if len(moves) == 1:
        return f"{moves[0]} {'gains' if change.mean > 0 else 'loses'} {size}"
    return f"{_join(moves)} together give {size} {'more' if change.mean > 0 else 'less'} than their sum"


def _tell_published(levels: Levels) -> str:
    """Returns `Of 4 published errors 3 lie within the interval of the measured ones; above it: that of X.`"""
    at: dict[str, list[LevelResult]] = {"within": [], "above": [], "below": [], "no interval": []}
    for level in levels:
        if level.published and level.published.position:
            at[level.published.position].append(level)
    number = len(at["within"]) + len(at["above"]) + len(at["below"])
    parts = []
    if number:
        errors = "1 published error" if number == 1 else f"{number} published errors"
        verb = "lies" if len(at["within"]) == 1 else "lie"
        parts.append(f"Of {errors} {len(at['within'])} {verb} within the interval of the measured ones")
    parts += [f"{where} it: that of {_name_some(at[where])}" for where in ("above", "below") if at[where]]
    if at["no interval"]:
        without = "without" if parts else "Without"
        parts.append(f"{without} an interval to compare: that of {_name_some(at['no interval'])}")
    return f"{'; '.join(parts)}." if parts else ""


def _tell_edges(study: StudyResult) -> str:
    """Returns `The chosen learning_rate of 8 is the first or the last of its list: ...` for each such field."""
    found = {field: [level for level in study.levels if field in level.edges] for field in study.tuned}
    return " ".join(
        f"The chosen {field.rpartition('.')[2]} of {_name_some(levels)} is the first or the last of its list: "
        "add values beyond it."
        for field, levels in found.items()
        if levels
    )


# Costs, and what has no result


def _tell_span(levels: Levels) -> str:
    """Returns `Costs against the base: MACs −84 % to +96 %.`, unless every level was named with its costs."""
    by_price = [level for level in levels if level.verdict != "identical"]
    priced = len(by_price) <= SHOWN and all(level.verdict == "resolved" for level in by_price)
    changes = {phrase: [level.costs[key].change for level in levels] for phrase, key in PHRASES.items()}
    measured = {phrase: [each for each in those if not math.isnan(each)] for phrase, those in changes.items()}
    equal = [phrase for phrase, those in measured.items() if those and max(map(abs, those)) <= EQUAL]
    spans = [f"equal {_join(equal)}"] if equal else []
    spans += [f"{phrase} {_say_range(those)}" for phrase, those in measured.items() if those and phrase not in equal]
    if priced or not spans:
        return ""
    over = "" if len(levels) == 1 else " over all levels" if measured == changes else " over the levels measured"
    return f"Costs against the base{over}: {', '.join(spans)}."


def _say_range(changes: Sequence[float]) -> str:
    """Returns `−84 % to +96 %`, or one number if both are the same."""
    return " to ".join(dict.fromkeys(map(_say_percent, (min(changes), max(changes)))))


def _tell_gaps(study: StudyResult) -> list[str]:
    """Returns `2 of 18 runs have no result: 1 diverged, 1 missing.`, and such a sentence for costs."""
    costs = [level.cost_status for level in study.levels]
    sentences = []
    for kind, statuses in (("runs", list(study.frames.runs.status)), ("measurements of costs", costs)):
        lost = Counter(sorted(status for status in statuses if status != "done"))
        if lost:
            reasons = ", ".join(f"{number} {status}" for status, number in lost.items())
            verb = "has" if lost.total() == 1 else "have"
            sentences.append(f"{lost.total()} of {len(statuses)} {kind} {verb} no result: {reasons}.")
    return sentences


# Words


def _join(words: Sequence[str]) -> str:
    """Returns `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _name_some(levels: Levels) -> str:
    """Returns the first levels by name, and the number of other levels."""
    more = [f"{len(levels) - SHOWN} more"] if len(levels) > SHOWN else []
    return _join([level.phrase for level in levels[:SHOWN]] + more)


def _say_seeds(numbers: Sequence[int]) -> str:
    """Returns `with 3 seeds`, or `with 2 to 3 seeds`."""
    low, high = min(numbers), max(numbers)
    return f"with {low if low == high else f'{low} to {high}'} {'seed' if high == 1 else 'seeds'}"

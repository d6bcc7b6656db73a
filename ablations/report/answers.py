"""The answer of each study, in sentences that claim no more than the runs show."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from ablations.metrics import METRICS, choose_places, count_of, format_signed, level_text
from ablations.report.comparison import Effect
from ablations.report.printing import print_accuracy, print_change
from ablations.report.results import LevelResult, StudyResult
from ablations.report.statistics import MOST_SEEDS

SHOWN = 3
"""The most levels that an answer names in full, the largest changes first."""

EQUAL = 0.0005
"""The largest change, as a share of the base's count, of costs that are called equal: it would be printed as 0.0 %."""

PHRASES = dict(sorted((metric.phrase, key) for key, metric in METRICS.items() if metric.phrase))
"""The costs that an answer names, in alphabetical order."""

Levels = Sequence[LevelResult]


def answer(study: StudyResult) -> list[str]:
    """Returns sentences on what the runs show of a study's question. The first sentence is the answer."""
    base, others = study.base, study.others
    if not others:
        sentences = [f"There is nothing to compare {base.phrase} with."]
    elif not base.n:
        sentences = [f"Nothing can be compared: {base.phrase}, the base, has no result.", _tell_span(others)]
    else:
        sentences = [
            _tell_winner(study),
            *_tell_effects(study),
            *_tell_changes(study),
            _tell_lost(study.levels),
            _tell_origins(others),
            _tell_published(study.levels),
            _tell_edges(study),
            _tell_span(others),
        ]
    return [sentence for sentence in [*sentences, *tell_gaps(study)] if sentence]


# Accuracy: a sentence for each kind of verdict


def _tell_winner(study: StudyResult) -> str:
    """Returns the level that a study chooses on validation images; empty for a study that is tested."""
    if study.part == "test":
        return ""
    best = max((level for level in study.levels if level.n), key=lambda level: level.mean)
    mean = print_accuracy(best.mean, best.sd, best.images)[0]
    return f"Chosen on the validation images: {best.phrase}, with {mean} %. Its test accuracy is not shown here."


def _tell_changes(study: StudyResult) -> list[str]:
    """Returns a sentence for each verdict, different levels first."""
    by_verdict = {
        each.verdict: [level for level in study.others if level.verdict == each.verdict] for each in study.others
    }
    undecided = by_verdict.get("undecided", [])
    return [
        _tell_different(study, by_verdict.get("different", [])),
        _tell_identical(study.base, by_verdict.get("identical", [])),
        _tell_equivalent(study, by_verdict.get("equivalent", [])),
        *_tell_undecided(study, [level for level in undecided if not math.isnan(level.low)]),
        _tell_one_seed([level for level in undecided if math.isnan(level.low)], len(study.others)),
        _tell_no_result(by_verdict.get("no result", [])),
        _tell_not_comparable(by_verdict.get("not comparable", [])),
    ]


def _say_place(study: StudyResult) -> str:
    """Returns a restriction for results that do not tell of other test images."""
    return "" if study.conclusions.over_images else f", on these {study.part} images"


def _tell_different(study: StudyResult, levels: Levels) -> str:
    """Returns `Against 12: 24 gains 1.30 points (95 % 0.88–1.72) at +42 % MACs and +35 % params.`"""
    if not levels:
        return ""
    ordered = sorted(levels, key=lambda level: -abs(level.difference))
    changes = [
        f"{level.phrase} {'gains' if level.difference > 0 else 'loses'} "
        f"{_say_size(study, level.difference, level.low, level.high)}{_say_price(level)}"
        for level in ordered[:SHOWN]
    ]
    if len(levels) > SHOWN:
        more = Counter("gain" if level.difference > 0 else "lose" for level in ordered[SHOWN:])
        changes.append("and " + _join([f"{number} more {verb}{'s' * (number == 1)}" for verb, number in more.items()]))
    return f"Against {study.base.phrase}{_say_place(study)}: {'; '.join(changes)}."


def _say_size(study: StudyResult, value: float, low: float, high: float) -> str:
    """Returns `1.30 points (95 % 0.88–1.72)`, the size of a gain or loss, and whether it is within the margin."""
    size, *ends = (text.lstrip("+-") for text in print_change(value, low, high, study.base.images, study.margin))
    near, far = ends if value > 0 else reversed(ends)
    within = ", within the margin" if study.margin and max(abs(low), abs(high)) <= study.margin else ""
    return f"{size} {'point' if float(size) == 1 else 'points'} (95 % {near}–{far}{within})"


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
    named = [level.phrase + _say_saving(level) for level in ordered[:SHOWN]]
    more = [f"and {len(levels) - SHOWN} more"] if len(levels) > SHOWN else []
    seeds = _say_seeds([level.n for level in levels])
    return f"Results identical to those of {base.phrase}, to the bit, {seeds}: {'; '.join([*named, *more])}."


def _or_zero(change: float) -> float:
    return 0.0 if math.isnan(change) else change


def _say_saving(level: LevelResult) -> str:
    """Returns `, with 40 % less peak memory in training and 12 % more time a step (10–15)`.

    Time is named only if it was compared in undisturbed rounds and has changed.
    """
    memory, speed = _or_zero(level.costs["train_peak_memory_bytes"].change), level.costs["train_images_per_second"]
    parts = []
    if abs(memory) > 0.005:
        parts.append(f"{100 * abs(memory):.0f} % {'less' if memory < 0 else 'more'} peak memory in training")
    if not math.isnan(speed.low):
        changes = [1 / (1 + each) - 1 for each in (speed.change, speed.high, speed.low)]
        time, *ends = (f"{100 * abs(each):.0f}" for each in changes)
        near, far = ends if changes[0] > 0 else reversed(ends)
        word = "more" if changes[0] > 0 else "less"
        parts.append("about as much time a step" if speed.unchanged else f"{time} % {word} time a step ({near}–{far})")
    return f", with {_join(parts)}" if parts else ""


def _tell_equivalent(study: StudyResult, levels: Levels) -> str:
    """Returns `Equivalent to 12 within 0.5 points, with 5 seeds: 24, +0.05 points (95 % −0.20 to +0.30).`"""
    if not levels or study.margin is None:
        return ""
    named = [
        f"{level.phrase}, {_say_change(study, level.difference, level.low, level.high)}" for level in levels[:SHOWN]
    ]
    more = [f"and {len(levels) - SHOWN} more"] if len(levels) > SHOWN else []
    seeds = _say_seeds([study.base.n, *(level.n for level in levels)])
    return (
        f"Equivalent to {study.base.phrase} within {study.margin:g} points, {seeds}{_say_place(study)}: "
        f"{'; '.join([*named, *more])}."
    )


def _tell_undecided(study: StudyResult, levels: Levels) -> list[str]:
    """Returns `Undecided with 3 seeds: ...`, with the interval of the largest change, and what would decide it."""
    if not levels:
        return []
    largest = max(levels, key=lambda level: abs(level.difference))
    seeds = _say_seeds([study.base.n, *(level.n for level in levels)])
    size = _say_change(study, largest.difference, largest.low, largest.high)
    which = _say_which(levels, len(study.others), f"{largest.phrase}, {size}")
    return [f"Undecided {seeds}{_say_place(study)}: the change in accuracy of {which}.", _tell_power(study, levels)]


def _tell_power(study: StudyResult, levels: Levels) -> str:
    """Returns how large a change the runs of one level would find, and how many seeds its change or the margin needs.

    Without a margin it is the level with the largest change, else the one that needs the most seeds.
    """
    known = [level for level in levels if not math.isnan(level.smallest_difference)]
    if not known:
        return ""
    if study.margin:
        level = max(known, key=lambda level: level.seeds_for_margin)
        seeds, goal = level.seeds_for_margin, f"to show that it lies within the margin of {study.margin:g} takes"
    else:
        level = max(known, key=lambda level: abs(level.difference))
        seeds, goal = level.seeds_for_change, "to find one as large as was seen takes"
    size = f"{level.smallest_difference:.{choose_places(level.smallest_difference)}f}"
    found = f"A change of {level.phrase} by {size} points would be found in about four cases of five"
    if math.isnan(seeds):
        return f"{found}."
    enough = seeds <= MOST_SEEDS
    many = f"{seeds:.0f} seeds a level" if enough else f"more than {MOST_SEEDS:,} seeds, or more {study.part} images"
    return f"{found}; {goal} {many}."


def _say_change(study: StudyResult, change: float, low: float, high: float) -> str:
    """Returns `+0.50 points (95 % −0.25 to +1.25)`, with true minus signs."""
    texts = print_change(change, low, high, study.base.images, study.margin)
    value, start, end = (text.replace("-", "−") for text in texts)
    return f"{value} points (95 % {start} to {end})"


def _tell_one_seed(levels: Levels, of: int) -> str:
    """Returns a sentence on levels that have a difference but no interval, for they or the base have one seed."""
    if not levels:
        return ""
    largest = max(levels, key=lambda level: abs(level.difference))
    which = _say_which(levels, of, f"{largest.phrase}, {_say_signed(largest, largest.difference)} points")
    return f"Undecided, because one seed gives no interval: the change in accuracy of {which}."


def _say_which(levels: Levels, of: int, largest: str) -> str:
    """Returns the only level, or the number of levels and the one with the largest change."""
    if len(levels) == 1:
        return largest
    every = "both" if of == 2 else f"all {of}"
    return f"{every if len(levels) == of else f'{len(levels)} of {of}'} levels; the largest is that of {largest}"


def _say_signed(level: LevelResult, value: float) -> str:
    """Returns `−0.50`, with as many digits as the level's interval allows."""
    return format_signed(value, choose_places((level.high - level.low) / 2)).replace("-", "−")


def _tell_no_result(levels: Levels) -> str:
    """Returns `No result to compare: X (3 of 3 diverged).`"""
    if not levels:
        return ""
    named = [level.phrase + _say_not_done(level) for level in levels[:SHOWN]]
    more = [f"and {len(levels) - SHOWN} more"] if len(levels) > SHOWN else []
    return f"No result to compare: {'; '.join([*named, *more])}."


def _say_not_done(level: LevelResult) -> str:
    planned = sum(level.not_done.values())
    parts = [f"{number} of {planned} {status}" for status, number in level.not_done.items()]
    return f" ({', '.join(parts)})" if parts and not level.n else ""


def _tell_not_comparable(levels: Levels) -> str:
    """Returns a sentence on levels that have results, but on other test images than the base."""
    verb = "was" if len(levels) == 1 else "were"
    other = "trained or tested on other data than the base"
    return f"Not comparable: {_name_some(levels)} {verb} {other}." if levels else ""


def _tell_lost(levels: Levels) -> str:
    """Returns what the means of levels with lost runs would be if those runs counted as 0 %."""
    cut = [level for level in levels if level.lost and level.n]
    parts = [
        f"{level.lost} of {level.n + level.lost} of {level.phrase} "
        f"(as 0 %, they make its mean {print_accuracy(level.worst_mean, level.sd, level.images)[0]} % "
        f"instead of {print_accuracy(level.mean, level.sd, level.images)[0]} %)"
        for level in cut[:SHOWN]
    ]
    more = [f"and runs of {len(cut) - SHOWN} more levels"] if len(cut) > SHOWN else []
    return f"Runs without a result: {'; '.join([*parts, *more])}." if cut else ""


def _tell_origins(levels: Levels) -> str:
    """Returns what made the runs of levels and not the base's."""
    other = [level for level in levels if level.made_otherwise]
    parts = [f"{level.phrase} ({', '.join(level.made_otherwise)})" for level in other[:SHOWN]]
    more = [f"and {len(other) - SHOWN} more levels"] if len(other) > SHOWN else []
    return f"Not made as the base: {'; '.join([*parts, *more])}." if other else ""


# Effects, published errors, tuning


def _tell_effects(study: StudyResult) -> list[str]:
    """Returns sentences on a product study: its interactions first, then its main effects, and what the intervals hold.

    The largest of those that are not 0 are named.
    """
    known = [effect for effect in study.effects if effect.difference.verdict != "no result"]
    if not study.effects:
        return []
    if not known:
        return ["Main effects and interactions cannot be told: no combination that one needs has two seeds."]
    found = [effect for effect in known if effect.difference.verdict == "different"]
    found.sort(key=lambda effect: -abs(effect.difference.value))
    pairs, mains = ([each for each in found if len(each.moves) == number] for number in (2, 1))
    seeds, place = _say_seeds([effect.difference.n for effect in known]), _say_place(study)
    family = study.conclusions.family
    return [
        f"The axes interact{place}: {_name_effects(study, pairs)}."
        if pairs
        else f"No {'interaction differs' if mains else 'main effect and no interaction differs'} from 0 {seeds}.",
        "" if pairs else _tell_largest_interaction(study, known),
        f"On the average over the other axes{place}: {_name_effects(study, mains)}." if mains else "",
        f"These intervals hold for all {family} comparisons of the study together." if family > 1 else "",
    ]


def _name_effects(study: StudyResult, found: Sequence[Effect]) -> str:
    more = [f"and {len(found) - SHOWN} more"] if len(found) > SHOWN else []
    return "; ".join([*(_say_effect(study, effect) for effect in found[:SHOWN]), *more])


def _tell_largest_interaction(study: StudyResult, known: Sequence[Effect]) -> str:
    """Returns the largest of the interactions that may be 0, with its interval."""
    pairs = [effect for effect in known if len(effect.moves) == 2 and not math.isnan(effect.difference.value)]
    if not pairs:
        return ""
    largest = max(pairs, key=lambda effect: abs(effect.difference.value))
    if largest.difference.verdict == "identical":
        return "The axes do not interact: some of them change no result by a bit."
    change = largest.difference
    size = _say_change(study, change.value, change.low, change.high)
    return f"The largest interaction is that of {_join(_say_moves(largest))}: {size}."


def _say_moves(effect: Effect) -> list[str]:
    """Returns `growth_rate 4 → 8` for each axis."""
    return [
        f"{move.axis.rpartition('.')[2]} {level_text(move.before)} → {level_text(move.after)}" for move in effect.moves
    ]


def _say_effect(study: StudyResult, effect: Effect) -> str:
    """Returns `growth_rate 4 → 8 gains 2.3 points (95 % 1.1–3.5)`, or the size of an interaction."""
    moves, change = _say_moves(effect), effect.difference
    size = _say_size(study, change.value, change.low, change.high)
    if len(moves) == 1:
        return f"{moves[0]} {'gains' if change.value > 0 else 'loses'} {size}"
    return f"{_join(moves)} together give {size} {'more' if change.value > 0 else 'less'} than their sum"


def _tell_published(levels: Levels) -> str:
    """Returns `Of 4 published errors 3 lie within the interval of the measured ones; above it: that of X.`"""
    at: dict[str, list[LevelResult]] = {"within": [], "above": [], "below": [], "no interval": []}
    for level in levels:
        if level.published and level.published.position:
            at[level.published.position].append(level)
    number = len(at["within"]) + len(at["above"]) + len(at["below"])
    parts = []
    if number:
        errors = count_of(number, "published error")
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
    priced = len(by_price) <= SHOWN and all(level.verdict == "different" for level in by_price)
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


def tell_gaps(study: StudyResult) -> list[str]:
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
    return f"with {count_of(f'{low}' if low == high else f'{low} to {high}', 'seed')}"

r"""Judges the text beside a cited number: digits, signs and exponents that change it, and units that are not its own.

The text is judged as readers see it: `1**` before a mark is the digit 1, and `\,\text{GiB}` behind a macro is a unit.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable

from ablations.metrics import METRICS
from ablations.report.marks import Kind, Mark
from ablations.report.values import DERIVED

REACH = 300
"""Characters that are read on each side."""

# From the source of a text to what readers see

_INLINE = r"b|i|u|s|em|strong|span|sup|sub|small|big|code|tt|font|mark|kbd|var|wbr|nobr"
Rules = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
_HTML: Rules = (
    (r"(?s)<!--.*?-->", ""),
    (rf"(?i)</?(?:{_INLINE})(?:\s[^<>]*)?/?>", ""),
    (r"<[^<>]*>", "|"),
)
_COMMANDS = {
    **dict.fromkeys(("pm", "textpm"), "±"), **dict.fromkeys(("times", "cdot"), "×"), "textminus": "−",
    "thinspace": "\u2009", **dict.fromkeys(("mu", "textmu", "micro"), "µ"), "milli": "m", "kilo": "k", "mega": "M",
    "giga": "G", "kibi": "Ki", "mebi": "Mi", "gibi": "Gi", "byte": "B", "second": "s", "percent": "%",
    **dict.fromkeys(("emph", "ensuremath", "mbox", "hbox", "num", "unit", "si", "bfseries", "itshape", "bf", "it", "bm",
                     "underline", "uline", "relax", "null"), ""),
}  # fmt: skip
_COMMAND: Rules = (
    (r"\\[,;:]", "\u2009"),
    (r"\\[!/()]", ""),
    (r"\\([^\sA-Za-z])", r"\1"),
    (r"\\(?:text|cell|row)?color\s*(?:\[[^\]]*\])?\{[^{}]*\}", ""),
    (rf"\\({'|'.join(_COMMANDS)}|(?:text|math)[a-z]*)(?![A-Za-z])\s*", lambda match: _COMMANDS.get(match[1], "")),
    (r"\\[A-Za-z@]+\*?\s*(?:\[[^\[\]]*\]|\{[^{}]*\})*", "|"),  # unknown, with its arguments: \rotatebox{90}
)
_MARKDOWN: Rules = (*_COMMAND, (r"[*_`${}]|~~", ""))
_MACRO = r"\\ablate" + 3 * r"\s*\{[^{}]*\}"
_LATEX: Rules = (
    (r"(?<!\\)((?:\\\\)*)%[^\n]*(?:\n[ \t]*|\Z)", r"\1"),
    (_MACRO + ",", "0, "),  # in formulas, a comma between two numbers has a space
    ("," + _MACRO, ", 0"),
    (_MACRO, "0"),
    (r"\\\\|(?<!\\)&", "|"),
    (r"~", "\u00a0"),
    (r"\\ ", " "),
    *_COMMAND,
    (r"[${}]", ""),
)
_DASHES = ((r"---", "—"), (r"--", "–"), ("[\u00ad\u200b-\u200d\u2060\ufeff]", ""))


def _show(source: str, kind: Kind) -> str:
    """Returns what readers see, without fonts: `1**` is `1`. Where a cell or a block ends, stands `|`."""
    rules: dict[Kind, Rules] = {"markdown": (*_HTML, *_MARKDOWN), "html": _HTML, "latex": _LATEX}
    for pattern, replacement in rules[kind]:
        source = re.sub(pattern, replacement, source)
    shown = source if kind == "latex" else html.unescape(source)
    for pattern, sign in _DASHES:
        shown = re.sub(pattern, sign, shown)
    return shown


# Digits, signs and exponents

_DIGIT = r"[\d²³¹⁰⁴-⁹₀-₉¼-¾⅐-⅞]"
_JOIN = "[\u00a0\u2007\u2009\u200a\u202f]?"  # spaces that do not break a line: 1 000
_DASH = "-−–‐‑－⁻"
_BEFORE = re.compile(
    rf"(?:{_DIGIT}{_JOIN}|{_DIGIT}['’·]|[.,^]|\d[eE][+{_DASH}]?|\^[{_DASH}]|[+⁺]{_JOIN}|(?<![\w%)\]])[{_DASH}]"
    rf"|(?<![\w%)\]])(?<![\d%)\]]\s)[{_DASH}]{_JOIN})\Z"
)
_AFTER = re.compile(
    rf"{_JOIN}{_DIGIT}|[.,'’·]{_DIGIT}|[eE][+{_DASH}]?\d|\^[+{_DASH}]?\d|[⁻⁺]"
    rf"|\s*[×x·⋅]\s*[{_DASH}]?10(?:[\^⁻²³¹⁰⁴-⁹]|[{_DASH}]?\d?\b|0+\b)"
)
_PLUS_MINUS = re.compile(r"[±∓]\s*\Z")
_WORD_BEFORE, _WORD_AFTER = re.compile(rf"\w[{_DASH}]?\Z"), re.compile(r"\w+")


def find_faults(text: str, mark: Mark, kind: Kind, recorded: str, metric: str) -> list[str]:
    """Returns what is wrong beside a cited value: a text that changes it, or a unit that is not the metric's.

    A dash between two numbers is a range. A hyphen after a letter joins words. `±` may stand before a number that is
    neither a measure nor a change, such as a standard deviation.
    """
    cited = text[slice(*mark.cited)] if mark.cited else recorded
    before = _show(text[max(0, mark.start - REACH) : mark.start], kind) + cited[: len(cited) - len(cited.lstrip())]
    after = cited[len(cited.rstrip()) :] + _show(text[mark.end : mark.end + REACH], kind)
    number = bool(re.search(r"\d", recorded))
    left = (_BEFORE if number else _WORD_BEFORE).search(before)
    right = (_AFTER if number else _WORD_AFTER).match(after)
    spread = _PLUS_MINUS.search(before)
    if spread and (metric in METRICS or recorded.startswith(("+", "-"))):
        left = spread
    faults = []
    if left:
        faults.append(f"{before.split()[-1]!r} stands right before the cited text and changes it{APART}")
    if right:
        faults.append(f"{right[0].strip()!r} stands right after the cited text and changes it{APART}")
    if number and (wrong := _find_wrong_unit(after, metric, bool(spread))):
        faults.append(f"{wrong!r} stands after the number, {_state_unit(metric)}")
    return faults


APART = ": remove it, or put a space or a word between them"

# Units

_PREFIXES = {"k": "[kK]|thousand", "M": "M|million", "G": "G|billion", "T": "T|trillion"}
_NOUNS = {"MACs": r"MACs?|multiply-accumulates", "FLOPs": r"FLOPs?|FLOPS"}
_IMAGES = r"(?:images?|imgs?|samples)\s?(?:/|per)\s?"
SPELLINGS = {
    "points": r"(?:%|[Pp]er ?cent|percentage)[ -]?points?|points?(?! (?:to|at|out|towards?)\b)|pp|p\.p\.",
    "%": r"%|[Pp]er ?cent", "‰": "‰",
    "images/s": _IMAGES + r"(?:s|sec|seconds?)", "images/min": _IMAGES + r"(?:min|minutes?)",
    "ms": r"ms|msec|milliseconds?", "µs": r"[µμ]s|microseconds?", "ns": r"ns|nanoseconds?",
    "s": r"s|sec|secs|seconds", "min": r"min|minutes", "h": r"h|hours",
    "KiB": r"[Kk]iB|kibibytes?", "MiB": r"[Mm]iB|mebibytes?", "GiB": r"[Gg]iB|gibibytes?", "TiB": r"TiB|tebibytes?",
    "kB": r"[kK]B|kilobytes?", "MB": r"MB|[Mm]egabytes?", "GB": r"GB|[Gg]igabytes?", "TB": r"TB|terabytes?",
    "B": r"B|[Bb]ytes?", "Mb": r"Mb|Mbit|megabits?", "Gb": r"Gb|Gbit|gigabits?",
    **{prefix + noun: rf"(?:{words})[\s-]?(?:{nouns})"
       for prefix, words in _PREFIXES.items() for noun, nouns in _NOUNS.items()},
    **_NOUNS,
    **_PREFIXES,
}  # fmt: skip
"""The words that are judged as units, and how they are spelt. Other words after a number are not judged."""

_NAMES = {f"unit{index}": name for index, name in enumerate(SPELLINGS)}
UNIT = re.compile(
    r"(?:[^\S\n]|\n(?!\s*\n))*-?(?:"
    + "|".join(rf"(?P<{group}>{SPELLINGS[name]})" for group, name in _NAMES.items())
    + r")(?![A-Za-z0-9])(?:\s?(?P<rate>/(?:s|sec|min|h))\b)?"
)


def _find_wrong_unit(after: str, metric: str, spread: bool) -> str:
    """Returns the unit after a number, if it is not the metric's. In `97.13 ± 0.28 %` it is that of both numbers."""
    right, found = _list_units(metric), UNIT.match(after)
    if right and spread and metric.endswith("_sd"):
        right |= _list_units(metric.removesuffix("_sd"))
    return found[0].strip() if found and right and _name_unit(found) not in right else ""


def _name_unit(match: re.Match[str]) -> str:
    return next(name for group, name in _NAMES.items() if match[group]) + (match["rate"] or "")


def _list_units(metric: str) -> set[str]:
    """Returns the units that may stand after a metric's number; none if its unit is not known."""
    if metric in METRICS:
        entry = METRICS[metric]
        return {entry.unit, entry.unit + entry.label}
    known = sorted({*SPELLINGS, *(entry.unit for entry in METRICS.values() if entry.unit)}, key=len, reverse=True)
    found = re.findall(rf"\bin ({'|'.join(map(re.escape, known))})(?![A-Za-z0-9/])", DERIVED.get(metric, ""))
    return set(found[-1:])


def _state_unit(metric: str) -> str:
    """Returns half a sentence: `but its unit is MiB: write 'MiB', or no unit`."""
    unit = METRICS[metric].unit if metric in METRICS else "".join(_list_units(metric))
    return f"but its unit is {unit}: write {unit!r}, or no unit" if unit else f"but {metric} has no unit: remove it"

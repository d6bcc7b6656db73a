"""Frames become tables: CSV with every digit, Markdown and LaTeX as they are read. Same records, same bytes."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablations.metrics import MATCHED, METRICS, level_text
from ablations.report.frames import Frames, at_the_end, base_of, of_study, tuned_fields
from ablations.report.statistics import effects, half_interval, summary
from ablations.storage import files
from ablations.storage.manifest import LevelEntry, Match, StudyEntry, TuningEntry

CONFOUNDS = (
    "params", "macs", "activations", "train_peak_memory_bytes", "train_images_per_second",
    "inference_images_per_second",
)  # fmt: skip
"""Shown with their change against the base, so that a gain is not read without its price."""

SPREAD = {
    "train_images_per_second": "train_step_relative_iqr",
    "inference_images_per_second": "inference_step_relative_iqr",
    "latency_step_seconds": "latency_step_relative_iqr",
}
"""The relative interquartile range that stands beside a measure of time."""

DISTURBED = {
    "train_images_per_second": "train_disturbed",
    "inference_images_per_second": "inference_disturbed",
    "latency_step_seconds": "latency_disturbed",
}
"""What speaks against a measure of time; empty where nothing does."""


@dataclass(frozen=True)
class StudyTable:
    """One study: numbers for programs, cells for readers."""

    name: str
    question: str
    numbers: pd.DataFrame
    """A row per level: accuracy statistics, costs, and `<cost>_change`, the share of the base's."""

    heads: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    caption: str
    beside: tuple[str, ...] = ()
    """The heads that stand behind the verdict: fields that tuning chose, and published errors."""


def study_table(frames: Frames, study: str) -> StudyTable:
    """The table of one study, rows in the grid's order."""
    entry = frames.manifest.study(study)
    levels = frames.studies[frames.studies.study == study]
    return _table(of_study(frames, study), study, entry.question, levels, entry.levels)


def overall_table(frames: Frames) -> StudyTable:
    """Every variant once, by the first level that has it; the base first. One family of comparisons for Holm."""
    levels, base = frames.studies, base_of(frames)
    others = ", ".join(levels[levels.is_base & (levels.variant != base)].study)
    levels = levels.assign(is_base=levels.variant == base).drop_duplicates("variant")
    levels = levels.assign(level=levels.level.where(levels.is_base, levels.study + " " + levels.level))
    levels = levels.sort_values("is_base", ascending=False, kind="stable")
    table = _table(frames, OVERALL, "What does every variant cost, and what does it buy?", levels, [])
    own = f"Compare {others} within their own tables: they have another base. " if others else ""
    return replace(table, caption=f"{own}Here all variants are one family of comparisons. {table.caption}")


def effects_table(frames: Frames, study: str) -> StudyTable | None:
    """Main effects and interactions of a product study; None for any other."""
    entry = frames.manifest.study(study)
    numbers = effects(entry, frames.runs)
    if numbers.empty:
        return None
    cells = tuple(
        (row["axes"], row["levels"], str(row["pairs"]), _difference(row), row["verdict"])
        for row in numbers.to_dict("records")
    )
    question = f"{entry.question} Main effects and interactions".strip()
    return StudyTable(
        f"{study}.effects", question, numbers, _EFFECT_HEADS, cells, f"{_EFFECTS}{provenance(of_study(frames, study))}"
    )


_EFFECT_HEADS = ("Effect of", "From -> to", "n", "Change (points)", "Verdict")
_EFFECTS = (
    "A main effect is the change of accuracy along one axis, on the average over the levels of the others; an "
    "interaction, by how much changes along two axes together differ from their sum. Paired by seed, with 95 % t "
    "intervals in points; resolved: Holm-corrected p < 0.05 over all of these. "
)
OVERALL = "overall"


def _table(frames: Frames, name: str, question: str, levels: pd.DataFrame, entries: Sequence[LevelEntry]) -> StudyTable:
    costs = {key: metric for key, metric in METRICS.items() if metric.of == "cost"}
    shown = frames.costs.reindex(
        columns=["variant", "status", *costs, *SPREAD.values(), *DISTURBED.values(), "counters_agree"]
    )
    numbers = (
        summary(levels, frames.runs).merge(shown, on="variant", how="left").rename(columns={"status": "cost_status"})
    )
    base = numbers[numbers.is_base].iloc[0]
    seeds = int(base.n)
    for key in costs:
        numbers[key] = numbers[key].astype(float)
        numbers[f"{key}_change"] = numbers[key] / float(math.nan if base[key] is None else base[key]) - 1
    tuned = tuned_fields(frames, None if name == OVERALL else name)
    numbers = numbers.merge(frames.variants[["variant", *tuned]], on="variant", how="left") if tuned else numbers
    published = {each.label: each.published for each in entries}
    if any(error is not None for error in published.values()):
        numbers = pd.concat(
            [numbers, pd.DataFrame(_against_published(row, published) for row in _records(numbers))], axis=1
        )
    beside = (*map(field_name, tuned), *(PUBLISHED if "published_error" in numbers else ()))
    ends, matches = (
        at_the_end(frames, None if name == OVERALL else name),
        {each.label: each.match for each in entries},
    )
    heads = (
        "Level",
        "n",
        METRICS["test_accuracy"].head,
        "Change (points)",
        "Verdict",
        *beside,
        *(m.head for m in costs.values()),
    )
    cells = tuple(
        _cells(
            row | {"base_n": seeds},
            [*(_chosen(row, field, ends) for field in tuned), *_published_cells(row)],
            list(costs),
            matches.get(row["level"]),
        )
        for row in _records(numbers)
    )
    return StudyTable(name, question, numbers, heads, cells, caption(frames, name), beside)


def _records(numbers: pd.DataFrame) -> list[dict[Any, Any]]:
    return list(numbers.to_dict("records"))


PUBLISHED = ("Test error (%)", "Published error (%)", "Published is")
"""Heads of the columns of a study that states published errors."""


def _against_published(row: Mapping[Any, Any], published: Mapping[str, float | None]) -> dict[str, Any]:
    """A level's test error with the 95 % t interval of its seeds, and whether the published error lies within it."""
    error, stated, half = 100 - row["mean"], published.get(row["level"]), half_interval(row["sd"], row["n"])
    half = math.nan if row["sd"] <= 1e-9 else half  # equal seeds say nothing of how far others would lie
    low, high = float(np.clip(error - half, 0, 100)), float(np.clip(error + half, 0, 100))  # NaN stays NaN
    if stated is None:
        where = ""
    elif math.isnan(half):
        where = "no interval"
    else:
        near = [round(number, 9) for number in (low, stated, high)]  # equal seeds leave an interval of one number
        where = "within" if near == sorted(near) else "below" if stated < low else "above"
    known = math.nan if stated is None else float(stated)
    return {"error": error, "error_low": low, "error_high": high, "published_error": known, "published_is": where}


def _published_cells(row: Mapping[Any, Any]) -> list[str]:
    """`4.60 [4.41, 4.79]`, `4.51`, `within`."""
    if "published_error" not in row:
        return []
    digits = places((row["error_high"] - row["error_low"]) / 2)
    measured = "" if math.isnan(row["error"]) else f"{row['error']:.{digits}f}"
    if measured and not math.isnan(row["error_low"]):
        measured += f" [{row['error_low']:.{digits}f}, {row['error_high']:.{digits}f}]"
    stated = "" if math.isnan(row["published_error"]) else f"{row['published_error']:.2f}"
    return [measured, stated, row["published_is"]]


def field_name(path: str) -> str:
    """`train.learning_rate` as the head of a column: `Learning rate`."""
    return path.rpartition(".")[2].replace("_", " ").capitalize()


def _chosen(row: Mapping[Any, Any], path: str, ends: Collection[tuple[str, str]]) -> str:
    """What was chosen for a level: `0.3`, marked where its list ends there; empty before there is a choice."""
    value = row[path]
    if value is None or value != value:  # NaN
        return ""
    return level_text(value) + (" (end of its list)" if (row["variant"], path) in ends else "")


def _cells(row: dict[Any, Any], beside: Sequence[str], costs: Sequence[str], match: Match | None) -> tuple[str, ...]:
    level = called(row)
    if match:  # what is left over
        level += f" ({MATCHED[match.measure]} {100 * (match.reached / match.target - 1):+.1f} %)"
    change = _difference(row)
    if (
        change and not row["pairs"] == row["n"] == row["base_n"]
    ):  # with other seeds, the change is not the difference of the means
        change += f" ({row['pairs']} {'pair' if row['pairs'] == 1 else 'pairs'})"
    costs_ = (_cost(row, key) for key in costs)
    return (level, str(row["n"]), _accuracy(row), change, row["verdict"], *beside, *costs_)


def called(row: Mapping[Any, Any]) -> str:
    """A level, the base marked."""
    return f"{row['level']} (base)" if row["is_base"] and row["level"] != "base" else str(row["level"])


def places(spread: float) -> int:
    """Decimals that a number in % or points is printed with: two digits of its spread, and two decimals at most."""
    return min(2, max(0, 1 - math.floor(math.log10(spread)))) if spread > 0 else 2


def signed(value: float, digits: int) -> str:
    """`+1.30`; what rounds to nothing is `+0.00`, from whichever side."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def _accuracy(row: dict[Any, Any]) -> str:
    """`97.13 ± 0.28`, with what is not there."""
    digits = places(row["sd"])
    parts = [f"{row['mean']:.{digits}f}" + (f" ± {row['sd']:.{digits}f}" if row["n"] > 1 else "")] if row["n"] else []
    return ", ".join([*parts, *([row["not_done"]] if row["not_done"] else [])])


def _difference(row: dict[Any, Any]) -> str:
    """`-1.30 [-1.72, -0.88]`: mean and 95 % interval in points."""
    if math.isnan(row["difference"]):
        return ""
    digits = places((row["high"] - row["low"]) / 2)
    mean, low, high = (signed(row[key], digits) for key in ("difference", "low", "high"))
    return mean if math.isnan(row["low"]) else f"{mean} [{low}, {high}]"


def _cost(row: dict[Any, Any], key: str) -> str:
    if math.isnan(row[key]):
        return "" if row["cost_status"] == "done" else str(row["cost_status"])
    notes = []
    if key in CONFOUNDS and not row["is_base"] and not math.isnan(row[f"{key}_change"]):
        notes.append(f"{_change(row, key)} %")
    if key in SPREAD and not math.isnan(row[SPREAD[key]]):
        notes.append(f"IQR {100 * row[SPREAD[key]]:.1f} %")
    if key == "macs" and row["counters_agree"] is False:
        notes.append("counters disagree")
    if isinstance(row.get(DISTURBED.get(key)), str) and row[DISTURBED[key]]:
        notes.append("disturbed")
    return METRICS[key].show(row[key]) + (f" ({'; '.join(notes)})" if notes else "")


BRIEF = (
    "test_accuracy", "params", "macs", "train_peak_memory_bytes", "predicted_train_peak_memory_bytes",
    "train_images_per_second", "inference_images_per_second",
)  # fmt: skip
"""What a terminal and a README have room for."""


def brief(table: StudyTable) -> StudyTable:
    """The same table with fewer measures and without the costs' changes."""
    shown = {"Level", "n", "Change (points)", "Verdict", *table.beside, *(METRICS[key].head for key in BRIEF)}
    columns = [index for index, head in enumerate(table.heads) if head in shown]
    rows = ((row[0], *(_bare(row[index]) for index in columns[1:])) for row in table.cells)
    heads = tuple(table.heads[index] for index in columns)
    return replace(table, heads=heads, cells=tuple(rows), caption=table.caption.replace(_COSTS, ""))


def _bare(cell: str) -> str:
    """A cell without what stands beside its number, but for what speaks against it."""
    number, _, notes = cell.partition(" (")
    against = [note for note in ("disturbed", "counters disagree", "end of its list") if note in notes]
    return f"{number} ({'; '.join(against)})" if against else number


def caption(frames: Frames, study: str = OVERALL, costs: bool = True) -> str:
    """How to read the table of a study, or of all of them, and how its numbers came about."""
    parts = [_ACCURACY, tuning_caption(frames, study), published_caption(frames, study), _COSTS if costs else ""]
    return f"{''.join(parts)}{provenance(frames)}"


def published_caption(frames: Frames, study: str) -> str:
    """Where the published errors of a study, or of all, stand, and how they are compared; empty without any."""
    studies = [each for each in frames.manifest.studies if study in (OVERALL, each.name)]
    sources = [f"{each.name}: {each.published_source}" if study == OVERALL else each.published_source
               for each in studies if each.published_source]  # fmt: skip
    if not sources:
        return ""
    return (
        f"Published errors: {'; '.join(sources)}. Within: in the 95 % t interval of the measured error over the seeds; "
        "it does not show how much published runs vary. "
    )


def tuning_caption(frames: Frames, study: str = OVERALL) -> str:
    """How the fields that a study's levels are tuned over were chosen; empty where nothing is tuned."""
    said: dict[str, list[str]] = {}
    for each in frames.manifest.studies:
        if study in (OVERALL, each.name):
            said.setdefault(_tuned_how(frames, each), []).append(each.name)
    if len(said) == 1:
        return next(iter(said))
    return "".join(f"{', '.join(names)}: {text or 'not tuned. '}" for text, names in said.items())


def _tuned_how(frames: Frames, study: StudyEntry) -> str:
    subjects = {level.tuned_as for level in study.levels}
    chosen = dict.fromkeys(_chosen_from(entry) for entry in frames.manifest.tuning if entry.variant in subjects)
    follows = any(level.follows_base for level in study.levels)
    whom = "The levels take what was chosen for the base." if follows else "Every level was tuned alike."
    return f"{' '.join(chosen)} {whom} " if chosen else ""


def _chosen_from(entry: TuningEntry) -> str:
    """`Learning rate: chosen from 0.1, 0.3, 1.0 by the accuracy on 5,000 validation images (seed 100, epochs 4).`."""
    fields = "; ".join(
        f"{field_name(name)}: chosen from {', '.join(map(level_text, values))}" for name, values in entry.values.items()
    )
    seeds = f"seed{'s' * (len(entry.seeds) > 1)} {', '.join(map(str, entry.seeds))}"
    how = ", ".join([seeds, *(f"{name} {level_text(value)}" for name, value in entry.schedule.items())])
    images = f"{entry.validation_images:,} validation images, cut from the training set"
    return f"{fields}, by the accuracy on {images} ({how}); another seed might have chosen another value."


_ACCURACY = (
    "Accuracy of the last epoch, mean ± standard deviation (ddof = 1) over n seeds; change paired by seed, with its "
    "95 % t interval in points, not corrected for the number of comparisons; resolved: Holm-corrected p < 0.05; "
    "identical: the same weights to the bit. Runs of other devices or torch versions are not paired. "
)
_COSTS = (
    "Changes of costs are relative to the base; IQR: interquartile range over repeated steps, relative to their "
    "median, which says nothing of drift between variants. "
)


def provenance(frames: Frames) -> str:
    """Seeds, data, batch size, device, versions, commit: from the records alone."""
    runs, costs = (frame[frame.status == "done"] for frame in (frames.runs, frames.costs))
    if runs.empty and costs.empty:
        return "Nothing has been run yet."
    both = pd.concat([runs.reindex(columns=_MADE_WITH), costs.reindex(columns=_MADE_WITH)])
    made = {key: ", ".join(str(value) for value in both[key].dropna().unique()) for key in _MADE_WITH}
    threads = ", ".join(f"{float(number):g}" for number in made["threads"].split(", ") if number)
    threads = "1 thread" if threads == "1" else f"{threads} threads"
    tested = ", ".join(f"{int(n):,}" for n in runs.reindex(columns=["test_images"]).test_images.dropna().unique())
    counts = frames.runs.groupby("variant").size()
    seeds = " to ".join(dict.fromkeys(f"{number}" for number in (counts.min(), counts.max())))
    batches = ", ".join(map(str, frames.variants["train.batch_size"].dropna().unique()))
    flags = costs.reindex(columns=[*DISTURBED.values()]).astype(object)
    number = int(flags.map(lambda flag: isinstance(flag, str) and flag != "").any(axis=1).sum())
    disturbed = (
        f" ({number} of {len(costs)} were disturbed by other load, or unsteady, and are marked)" if number else ""
    )
    return (
        f"Data: {', '.join(frames.variants.data.unique())}{f', {tested} test images' if tested else ''}; "
        f"{seeds} {'seed' if seeds == '1' else 'seeds'}. {_MEMORY[made['device'] == 'cuda']} Memory and throughput at "
        f"batch size {batches}{disturbed}. Device: {made['device_name']}, {threads}; {made['precision']}; "
        f"torch {made['torch']}; commit {made['commit']}."
    )


_MADE_WITH = ["device", "device_name", "threads", "precision", "torch", "commit"]
_MEMORY = {
    True: "Peak memory is the CUDA allocator's.",
    False: "Peak memory is what tensors hold at most in one step, operators' workspace not included.",
}


def markdown(table: StudyTable) -> str:
    """The table in Markdown, its question above and its caption below."""
    lines = [f"**{_md(table.question or table.name)}**", "", _md_row(table.heads)]
    lines.append("|" + "|".join([" :-- ", *[" --: "] * (len(table.heads) - 1)]) + "|")
    lines += [_md_row(row) for row in table.cells]
    return "\n".join([*lines, "", f"*{_md(table.caption)}*", ""])


def latex(table: StudyTable) -> str:
    r"""The table in LaTeX, in panels and parts that fit a page; needs \usepackage{booktabs,siunitx}."""
    count = len(table.heads)
    first = 5 + len(table.beside)
    # accuracy before; counts; memory; throughput; latency
    starts = [start for start in (first, first + 4, first + 8, first + 10) if start < count]
    panels = [range(min(first, count)), *((0, *range(*bounds)) for bounds in itertools.pairwise([*starts, count]))]
    floats: list[list[str]] = []
    for rows in _pages(table.cells):
        parts = [_tabular(replace(table, cells=rows), panel) for panel in panels]
        together = max(1, ROOM // (PANEL + LINE * sum(map(_lines, rows))))
        groups = [parts[index : index + together] for index in range(0, len(parts), together)]
        floats += [_float(table, group, len(floats) + number) for number, group in enumerate(groups)]
    head = f"% Study {table.name}; made by `ablate report`; needs \\usepackage{{booktabs,siunitx}}."
    return "\n".join([head, *(line for each in floats for line in each)]) + "\n"


def _pages(cells: Sequence[tuple[str, ...]]) -> Iterator[tuple[tuple[str, ...], ...]]:
    """The rows, as many at once as a page has room for."""
    page: list[tuple[str, ...]] = []
    for row in cells:
        if page and PANEL + LINE * sum(map(_lines, [*page, row])) > ROOM:
            yield tuple(page)
            page = []
        page.append(row)
    yield tuple(page)


def _lines(row: Sequence[str]) -> int:
    """How many lines a row takes: as many as the name of its level needs."""
    return -(-len(row[0]) // LABEL) or 1


LABEL, LINE, PANEL, ROOM = 17, 10, 70, 430
"""Characters of a level in a line; points that a line takes, a panel without its lines, and all panels of a page: those
that do not fit go into a table of their own."""


def _float(table: StudyTable, tabulars: Sequence[Sequence[str]], number: int) -> list[str]:
    """One float; the first has the whole caption and the label, the others continue it."""
    first = number == 0
    text = _tex(f"{table.question} {table.caption if first else '(continued)'}")
    label = rf"\label{{tab:{table.name}}}" if first else ""
    return [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        r"\sisetup{separate-uncertainty=true, group-separator={,}, group-minimum-digits=4}",
        rf"\caption{{{text}}}{label}\medskip",
        *(line for tabular in tabulars for line in tabular),
        r"\end{table}",
    ]


def _tabular(table: StudyTable, columns: Sequence[int]) -> list[str]:
    """One panel; heads are broken where a unit or a condition begins."""
    heads = [re.sub(r"(, | \()", r"\\\\\1", _tex(table.heads[index])).replace(r"\\, ", r",\\") for index in columns]
    return [
        rf"\begin{{tabular}}{{@{{}}p{{0.22\linewidth}}{'r' * (len(columns) - 1)}@{{}}}}",
        r"\toprule",
        " & ".join(rf"\shortstack{{{head}}}" for head in heads) + r" \\",
        r"\midrule",
        *(
            "{}" + " & ".join((_numbers if index else _tex)(row[index]) for index in columns) + r" \\"
            for row in table.cells
        ),
        r"\bottomrule",
        r"\end{tabular}\par\medskip",
    ]


def _numbers(text: str) -> str:
    r"""A cell whose numbers are siunitx's: `97.13 ± 0.28` becomes `\\num{97.13 +- 0.28}`."""
    number = r"[+-]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?"
    parts = re.split(rf"(?<![\w.])({number}(?: ± {number})?)(?!\w)", text)
    return "".join(
        rf"\num{{{part.replace(',', '').replace('±', '+-')}}}" if place % 2 else _tex(part)
        for place, part in enumerate(parts)
    )


def csv(frame: pd.DataFrame, digits: str | None = None) -> bytes:
    """Every digit that tells one float from another, unless a format such as `%.10g` is given."""
    return bytes(frame.to_csv(index=False, lineterminator="\n", float_format=digits).encode())


def citable(frames: Frames) -> dict[tuple[str, str, str], str]:
    """Every cell that can be cited: (study, level, metric) -> the number as printed, without its unit.

    Metrics are those of METRICS, and what is derived from them: see DERIVED.
    """
    return {
        (study.name, str(row["level"]), key): text
        for study in frames.manifest.studies
        for row in study_table(frames, study.name).numbers.to_dict("records")
        for key, text in _citable(row).items()
    }


DERIVED = {
    "n": "seeds that are done",
    "pairs": "seeds that are done here and of the base, on the same device and torch version",
    "test_accuracy_sd": "standard deviation over the seeds (ddof = 1), in points",
    "test_accuracy_change": "change of the mean against the base, paired by seed, in points",
    "test_accuracy_change_low": "lower end of the change's 95 % t interval, in points",
    "test_accuracy_change_high": "upper end of the change's 95 % t interval, in points",
    "verdict": "whether the seeds resolve the change",
    "test_error": "100 % less the mean test accuracy, in %",
    "test_error_low": "lower end of the test error's 95 % t interval over the seeds, in %",
    "test_error_high": "upper end of the test error's 95 % t interval over the seeds, in %",
    "published_error": "test error that was published, in %",
    **{f"{key}_change": f"{METRICS[key].label}: change against the base, in %" for key in CONFOUNDS},
}
"""What else of a table can be cited, and what it means."""


def _citable(row: dict[Any, Any]) -> dict[str, str]:
    """The numbers of a row, as they are printed in its table."""
    spread, digits = places(row["sd"]), places((row["high"] - row["low"]) / 2)
    found = {"n": str(row["n"]), "pairs": str(row["pairs"]), "verdict": str(row["verdict"])}
    formats = {"mean": ("test_accuracy", f".{spread}f"), "sd": ("test_accuracy_sd", f".{spread}f")}
    found |= {key: format(row[name], form) for name, (key, form) in formats.items() if not math.isnan(row[name])}
    changes = {"difference": "", "low": "_low", "high": "_high"}
    found |= {
        f"test_accuracy_change{end}": signed(row[name], digits)
        for name, end in changes.items()
        if not math.isnan(row[name])
    }
    costs = [key for key, metric in METRICS.items() if metric.of == "cost" and not math.isnan(row[key])]
    found |= {key: METRICS[key].show(row[key]) for key in costs}
    changed = [key for key in costs if key in CONFOUNDS and not row["is_base"] and not math.isnan(row[f"{key}_change"])]
    found |= {f"{key}_change": _change(row, key) for key in changed}
    beside = {"test_error": "error", "test_error_low": "error_low", "test_error_high": "error_high"}
    beside |= {"published_error": "published_error"}
    width = places((row.get("error_high", math.nan) - row.get("error_low", math.nan)) / 2)
    found |= {key: f"{row[name]:.{2 if key == 'published_error' else width}f}" for key, name in beside.items()
              if not math.isnan(row.get(name, math.nan))}  # fmt: skip
    chosen = {str(name).partition(".")[2]: row[name] for name in row if str(name).startswith("train.")}
    return found | {key: level_text(value) for key, value in chosen.items() if value is not None and value == value}


def _change(row: dict[Any, Any], key: str) -> str:
    """A cost's change in %: time repeats to some percent, counts and bytes exactly."""
    return signed(100 * row[f"{key}_change"], 0 if key in SPREAD else 1)


def numbers_tex(cells: dict[tuple[str, str, str], str]) -> str:
    r"""Macros that give every cell: `\ablate{growth_rate}{12}{test_accuracy}`; a wrong name is an error in LaTeX."""
    lines = [
        r"% Made by `ablate report`. \ablate{STUDY}{LEVEL}{METRIC} gives a number as text, in the tables' unit:",
        r"% do not put it into \num, which takes a comma for a decimal point.",
        r"\newcommand{\ablate}[3]{\ifcsname ablate:\detokenize{#1:#2:#3}\endcsname"
        r"\csname ablate:\detokenize{#1:#2:#3}\endcsname"
        r"\else\errmessage{No number for study #1, level #2, metric #3}\fi}",
    ]
    for (study, level, key), text in cells.items():
        name = rf"ablate:\detokenize{{{study}:{level}:{key}}}"
        lines.append(rf"\expandafter\def\csname {name}\endcsname{{{_tex(text)}}}")
    return "\n".join(lines) + "\n"


def write(frames: Frames) -> list[Path]:
    """Writes the tidy CSV files, every study's tables, the one over all variants, numbers.tex; gives the paths."""
    contents: dict[Path, bytes] = {frames.folder / f"{name}.csv": csv(frame) for name, frame in frames.tables().items()}
    names = [study.name for study in frames.manifest.studies]
    tables = [each for name in names for each in (study_table(frames, name), effects_table(frames, name))]
    for table in [*tables, overall_table(frames)]:
        if table is not None:
            place = frames.folder / "tables"
            contents[place / f"{table.name}.csv"] = csv(table.numbers, "%.15g")
            contents[place / f"{table.name}.md"] = markdown(table).encode()
            contents[place / f"{table.name}.tex"] = latex(table).encode()
    contents[frames.folder / "numbers.tex"] = numbers_tex(citable(frames)).encode()
    for path, content in contents.items():
        files.write(path, content)
    return list(contents)


def _md(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)


def _md_row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(map(_md, cells)) + " |"


_GREEK = (
    "alpha", "beta", "gamma", "delta", "epsilon", "theta", "kappa", "lambda", "mu", "nu", "rho", "sigma", "tau", "phi",
    "omega",
)  # fmt: skip
_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "±": r"$\pm$", "×": r"$\times$", "<": r"$<$", ">": r"$>$",
    "−": "$-$", "→": r"$\to$", "≤": r"$\leq$", "≥": r"$\geq$", "|": r"\textbar{}",
    **{letter: rf"$\{name}$" for letter, name in zip("αβγδεθκλμνρστφω", _GREEK, strict=True)},
}  # fmt: skip


def _tex(text: str) -> str:
    escaped = "".join(_TEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaped)

"""From results to tables.

A table's cell is a value, not a text: `formats` writes it in Markdown, LaTeX, HTML and plain.

To add a table column, add a `Column` and a cell for each level in `make_study_table`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ablations.metrics import COSTS, MATCHED, METRICS, choose_places, format_signed, level_text
from ablations.report.captions import (
    describe_provenance,
    explain_briefly,
    explain_effects,
    explain_errors,
    explain_overall,
    explain_table,
    name_field,
)
from ablations.report.comparison import DECIDED, Effect
from ablations.report.errors import ClassChange, LevelErrors
from ablations.report.printing import print_accuracy, print_change, print_kappa, print_p, print_percent, print_shared
from ablations.report.results import OVERALL, CostResult, LevelResult, Results, StudyResult
from ablations.report.statistics import MOST_SEEDS


@dataclass(frozen=True)
class Number:
    """A number, and the text that is printed for it."""

    value: float
    text: str
    spread: str = ""
    """Its standard deviation as it is printed, if it has one."""


Words = tuple[str | Number, ...]
"""Text and numbers, in their order."""


@dataclass(frozen=True)
class Note:
    """A remark in parentheses."""

    words: Words
    lasting: bool = False
    """Whether a short table has it too, because readers need it to understand the number."""


@dataclass(frozen=True)
class Cell:
    """The content of one place of a table. Each part may be empty."""

    value: Words = ()
    lacks: tuple[Words, ...] = ()
    """What has no result and so is not in the value: `1 missing`, `oom`."""

    interval: tuple[Number, Number] | None = None
    """The 95 % interval of the value."""

    notes: tuple[Note, ...] = ()


@dataclass(frozen=True)
class Column:
    """The head of a column, and where the column is shown."""

    label: str
    unit: str = ""
    group: str = "accuracy"
    """The columns of a group share a panel in LaTeX."""

    brief: bool = True
    """Whether a short table has it too."""

    names_row: bool = False
    """Whether it tells which row this is, so that each panel in LaTeX has it."""

    key: str = ""
    """Its name for `--columns`; empty for a column that names a row."""

    @property
    def head(self) -> str:
        """Label and unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


@dataclass(frozen=True)
class Row:
    """A level or an effect: a cell for each column."""

    cells: tuple[Cell, ...]
    is_base: bool = False


@dataclass(frozen=True)
class Table:
    """The table of a study."""

    name: str
    question: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    caption: str
    choice: tuple[str, ...] = ()
    """The options with which a mark names this choice of columns; empty for the short table."""

    details: str = ""
    """How to read the table, in full; empty if the caption says it."""


LEVEL, SEEDS = Column("Level", names_row=True), Column("n", key="n")
CHANGE, VERDICT = Column("Change", "points", key="change"), Column("Verdict", key="verdict")
TESTS = (
    Column("p", group="tests", brief=False, key="p"),
    Column("p, corrected", group="tests", brief=False, key="p_corrected"),
    Column("Detectable change", "points", group="tests", brief=False, key="smallest_difference"),
    Column("Seeds for observed change", group="tests", brief=False, key="seeds_for_change"),
)
SEEDS_FOR_MARGIN = Column("Seeds for the margin", group="tests", brief=False, key="seeds_for_margin")
ACCURACY = Column(METRICS["test_accuracy"].label, METRICS["test_accuracy"].unit, key="accuracy")
PUBLISHED = (
    Column("Test error", "%", key="test_error"),
    Column("Published error", "%", key="published_error"),
    Column("Published is", key="published_is"),
)
"""The columns of a study with published errors."""

EFFECTS = (
    Column("Effect of", names_row=True), Column("From -> to", names_row=True), SEEDS, CHANGE, VERDICT, *TESTS,
)  # fmt: skip
"""The columns of a table of main effects and interactions."""

ERRORS = (
    LEVEL, SEEDS, Column("Error consistency with the base", key="error_consistency"),
    Column("Error consistency of its own runs", key="error_consistency_own"),
    Column("Shared errors", key="shared_errors"),
)  # fmt: skip
"""The first columns of a table of errors; one for each class follows."""


def make_study_table(study: StudyResult) -> Table:
    """Makes the table of a study, with rows in the order of the grid."""
    columns = (
        *(LEVEL, SEEDS, replace(ACCURACY, label=METRICS[study.accuracy].label), CHANGE, VERDICT),
        *(_make_column(key) for key in study.beside if METRICS[key].brief),
        *(Column(name_field(field), key=field.partition(".")[2]) for field in study.tuned),
        *(PUBLISHED if study.base.published else ()),
        *TESTS,
        *((SEEDS_FOR_MARGIN,) if study.margin else ()),
        *map(_make_column, COSTS),
        *(_make_column(key) for key in study.beside if not METRICS[key].brief),
    )
    rows = tuple(Row(tuple(_fill_row(study, level)), level.is_base) for level in study.levels)
    caption = _write_caption(study, [column.key for column in columns])
    return Table(study.name, study.question, columns, rows, caption, ("--columns", "all"))


def _make_column(key: str) -> Column:
    metric = METRICS[key]
    return Column(metric.label, metric.unit, metric.group, metric.brief, key=key)


def make_overall_table(results: Results, notes: bool = True) -> Table:
    """Makes the table of all variants. Accuracies are compared in the tables of the studies alone, as one family each.

    The caption names the studies whose base is another one than that of the costs here. Without `notes`, it does not
    explain what stands beside costs.
    """
    overall, frames = results.overall, results.frames
    caption = f"{explain_overall(results, notes)}{_warn_of_bases(results)}{describe_provenance(frames)}"
    table = make_study_table(overall)
    dropped = (CHANGE, VERDICT, *TESTS, SEEDS_FOR_MARGIN)
    kept = [place for place, column in enumerate(table.columns) if column not in dropped]
    rows = tuple(replace(row, cells=tuple(row.cells[place] for place in kept)) for row in table.rows)
    return replace(table, columns=tuple(table.columns[place] for place in kept), rows=rows, caption=caption)


def _warn_of_bases(results: Results) -> str:
    """Names the studies whose base is another one than that of the costs of all variants."""
    studies = results.frames.studies
    names = ", ".join(studies[studies.is_base & (studies.variant != results.overall.base.variant)].study)
    return f"Compare {names} within their own tables: they have another base. " if names else ""


def make_effects_table(study: StudyResult) -> Table | None:
    """Makes the table of main effects and interactions of a product study. Returns None for other studies."""
    if not study.effects:
        return None
    question = f"{study.question} Main effects and interactions".strip()
    caption = f"{explain_effects(study)}{describe_provenance(study.frames, (), ['runs'])}"
    rows = tuple(Row(_fill_effect(study, effect)) for effect in study.effects)
    return Table(f"{study.name}.effects", question, EFFECTS, rows, caption, ("--columns", "all"))


def make_errors_table(study: StudyResult) -> Table | None:
    """Makes the table of how far levels err as the base does. Returns None for a study without comparable errors."""
    if not study.errors:
        return None
    question = f"{study.question} Errors on the same images and classes".strip()
    count = max(len(each.classes) for each in study.errors)
    classes = [Column(f"Class {number}", "points", "classes", False, key=f"class_{number}") for number in range(count)]
    names = {level.level: _make_name_cell(study, level) for level in study.levels}
    rows = tuple(
        Row((names[each.level], *_fill_errors(each), *_fill_classes(each.classes, count)), each.is_base)
        for each in study.errors
    )
    columns = (*ERRORS, *classes)
    how = explain_errors([column.key for column in columns])
    caption = f"{how}{describe_provenance(study.frames, (), ['runs'])}"
    return Table(f"{study.name}.errors", question, columns, rows, caption, ("--columns", "all"))


MORE: dict[str, Callable[[StudyResult], Table | None]] = {"effects": make_effects_table, "errors": make_errors_table}
"""The tables that a study may have beside its own, by the ends of their names."""


def make_more_tables(study: StudyResult) -> dict[str, Table]:
    """Makes the tables of MORE that a study has, by the ends of their names."""
    return {kind: table for kind, make in MORE.items() if (table := make(study))}


def shorten(study: StudyResult) -> Table:
    """Makes a short table of a study for a terminal, a README or a paper: fewer measures, only the lasting notes."""
    table = make_study_table(study)
    brief = [column.key for column in table.columns if column.brief and column.key]
    return replace(choose_columns(table, brief, _write_caption(study, brief, False), notes=False), choice=())


def choose_columns(table: Table, keys: Sequence[str], caption: str, notes: bool = True) -> Table:
    """Returns a table with some columns in this order; without `notes`, with only the lasting notes.

    Raises ValueError for unknown columns, with those that the table has.
    """
    known = {column.key: place for place, column in enumerate(table.columns)}
    unknown = [key for key in keys if not key or key not in known]
    if unknown or not keys:
        allowed = ", ".join(filter(None, known))
        raise ValueError(f"unknown columns: {', '.join(map(repr, unknown)) or 'none'}; {table.name} has {allowed}")
    names = [place for place, column in enumerate(table.columns) if column.names_row]
    kept = [*names, *(known[key] for key in dict.fromkeys(keys))]
    clean = (lambda cell: cell) if notes else _drop_notes
    return replace(
        table,
        columns=tuple(table.columns[place] for place in kept),
        rows=tuple(replace(row, cells=tuple(clean(row.cells[place]) for place in kept)) for row in table.rows),
        caption=caption,
        choice=("--columns", ",".join(dict.fromkeys(keys)), *(() if notes else ("--short",))),
    )


def find_table(results: Results, name: str, columns: Sequence[str] | None = None, short: bool = True) -> Table:
    """Returns a table by its name, for a text: a study, one of MORE, or `overall`; the short one without `columns`.

    `columns` are the keys of columns, or the names of these values in citations, or `all`. With `short`, only the
    lasting notes are kept. Raises ValueError for unknown names.
    """
    studies = {study.name: study for study in results.studies}
    more = {table.name: (study, table) for study in results.studies for table in make_more_tables(study).values()}
    known = {**studies, **{each: study for each, (study, _) in more.items()}, OVERALL: results.overall}
    if name not in known:
        raise ValueError(f"unknown table: {name!r}; the records have {', '.join(map(repr, known))}")
    if name == OVERALL:
        table = make_overall_table(results, notes=not short)
    else:
        table = more[name][1] if name in more else make_study_table(studies[name])
    every = [column.key for column in table.columns if column.key and (column.brief or columns is not None)]
    keys = {metric: key for key, metric in name_metrics(known[name]).items()}
    chosen = every if columns is None or [*columns] == ["all"] else [keys.get(key, key) for key in columns]
    details = _write_caption(studies[name], chosen, not short) if name in studies else table.caption
    shown, of = [key for key in chosen if key in COSTS], ("runs", "costs") if name not in more else ("runs",)
    made = describe_provenance(known[name].frames, shown, of, brief=True)
    bases = _warn_of_bases(results) if name == OVERALL else ""
    own = name.endswith(".errors")
    how = explain_errors(chosen) if own else explain_briefly(known[name], chosen, not short)
    caption = f"{how}{bases}{made}"
    found = replace(choose_columns(table, chosen, caption, notes=not short), details=details)
    return replace(found, choice=()) if columns is None and short else found


def name_metrics(study: StudyResult) -> dict[str, str]:
    """Returns the names in citations of the columns that have other ones in tables: `accuracy` is `test_accuracy`."""
    return {"accuracy": study.accuracy, "change": f"{study.accuracy}_change"}


def _drop_notes(cell: Cell) -> Cell:
    return replace(cell, notes=tuple(note for note in cell.notes if note.lasting))


def _write_caption(study: StudyResult, keys: Collection[str], notes: bool = True) -> str:
    """Writes the caption of a study's table with these columns."""
    shown = [key for key in keys if key in COSTS]
    return f"{explain_table(study, keys, notes)}{describe_provenance(study.frames, shown)}"


def _fill_row(study: StudyResult, level: LevelResult) -> Iterator[Cell]:
    yield _make_name_cell(study, level)
    yield Cell((Number(level.n, str(level.n)),))
    yield _make_accuracy_cell(level)
    yield _make_change_cell(study, level)
    yield Cell((level.verdict,))
    yield from (_make_beside_cell(level, key) for key in study.beside if METRICS[key].brief)
    yield from (_make_chosen_cell(level, field) for field in study.tuned)
    yield from _make_published_cells(level)
    yield from _make_test_cells(level.p, level.p_corrected, level.smallest_difference, level.seeds_for_change)
    yield from (_make_count_cell(level.seeds_for_margin),) if study.margin else ()
    yield from (_make_cost_cell(level, key) for key in COSTS)
    yield from (_make_beside_cell(level, key) for key in study.beside if not METRICS[key].brief)


def _fill_effect(study: StudyResult, effect: Effect) -> tuple[Cell, ...]:
    moves: list[str | Number] = []
    for move in effect.moves:
        moves += [*([", "] if moves else []), *spell_value(move.before), " -> ", *spell_value(move.after)]
    change = effect.difference
    return (
        Cell((" x ".join(move.axis for move in effect.moves),)),
        Cell(tuple(moves)),
        Cell((Number(change.n, str(change.n)),)),
        _make_difference_cell(change.value, change.low, change.high, study),
        Cell((change.verdict,)),
        *_make_test_cells(change.p, change.p_corrected, change.smallest, change.seeds_for_change),
    )


def _fill_errors(errors: LevelErrors) -> tuple[Cell, ...]:
    """Makes cells such as `5`, `0.661`, `0.693`, `0.964 [0.945, 0.984]`."""
    with_base, own = (
        () if math.isnan(each) else (Number(each, print_kappa(each)),) for each in (errors.with_base, errors.own)
    )
    numbers = (errors.shared, errors.low, errors.high)
    shared, low, high = map(Number, numbers, print_shared(*numbers))
    return (
        Cell((Number(errors.n, str(errors.n)),)),
        Cell(with_base),
        Cell(own),
        Cell(() if math.isnan(shared.value) else (shared,), interval=None if math.isnan(low.value) else (low, high)),
    )


def _fill_classes(classes: Sequence[ClassChange], count: int) -> Iterator[Cell]:
    """Yields cells such as `-7.5 (different)`; empty ones for the base and for unknown changes."""
    for change in classes:
        value = () if math.isnan(change.value) else (Number(change.value, format_signed(change.value, 1)),)
        yield Cell(value, notes=(Note(("different",), lasting=True),) if change.different else ())
    yield from itertools.repeat(Cell(), count - len(classes))


def _make_test_cells(p: float, corrected: float, smallest: float, seeds: float) -> tuple[Cell, ...]:
    """Makes the cells of both p-values, of the smallest change found, and of the seeds that this change needs."""
    places = choose_places(smallest)
    return (
        *(Cell() if math.isnan(each) else Cell((Number(each, print_p(each)),)) for each in (p, corrected)),
        Cell() if math.isnan(smallest) else Cell((Number(smallest, f"{smallest:.{places}f}"),)),
        _make_count_cell(seeds),
    )


def _make_count_cell(number: float) -> Cell:
    if math.isnan(number):
        return Cell()
    if math.isinf(number):
        return Cell(("more than ", Number(MOST_SEEDS, f"{MOST_SEEDS:,}")))
    return Cell((Number(number, f"{number:.0f}"),))


def spell_value(value: Any) -> Words:
    """Returns a field's value as words, with its numbers as numbers, also in `8-16-32`."""
    if isinstance(value, list | tuple):
        parts = [spell_value(each) for each in value]
        return tuple(word for part in parts for word in ("-", *part))[1:]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return (Number(value, level_text(value)) if number else level_text(value),)


def _make_name_cell(study: StudyResult, level: LevelResult) -> Cell:
    """Makes the cell of a level's name, with a mark on the base and, after a match, the remaining difference."""
    notes = [Note(("base",), lasting=True)] if level.is_base and level.level != "base" else []
    if level.match:
        over = 100 * (level.match.reached / level.match.target - 1)
        notes.append(Note((f"{MATCHED[level.match.measure]} {over:+.1f} %",), lasting=True))
    values = [level.values.get(axis) for axis in (study.entry.axes if study.entry else ())]
    plain = len(values) == 1 and level_text(values[0]) == level.level
    return Cell(spell_value(values[0]) if plain else (level.level,), notes=tuple(notes))


def _make_accuracy_cell(level: LevelResult) -> Cell:
    """Makes a cell such as `97.13 ± 0.28, 1 of 3 diverged`, with what made these runs and not the base's."""
    planned = level.n + sum(level.not_done.values())
    lacks: tuple[Words, ...] = tuple(
        (Number(n, str(n)), " of ", Number(planned, str(planned)), f" {status}") for status, n in level.not_done.items()
    )
    notes = tuple(Note((made,), lasting=True) for made in level.made_otherwise)
    if math.isnan(level.mean):
        return Cell(lacks=lacks)
    mean, spread = print_accuracy(level.mean, level.sd, level.images)
    return Cell((Number(level.mean, mean, spread),), lacks, notes=notes)


def _make_beside_cell(level: LevelResult, key: str) -> Cell:
    """`1.234 ± 0.017`, another measure of the runs; empty where no record has it."""
    found, show = level.beside[key], METRICS[key].show
    if math.isnan(found.mean):
        return Cell()
    return Cell((Number(found.mean, show(found.mean), "" if math.isnan(found.sd) else show(found.sd)),))


def _make_change_cell(study: StudyResult, level: LevelResult) -> Cell:
    """Makes the cell of a change. Says so if lost runs widen its interval."""
    cell = _make_difference_cell(level.difference, level.low, level.high, study)
    if level.verdict not in DECIDED or math.isnan(level.low) or not (level.lost or study.base.lost):
        return cell
    return replace(cell, notes=(Note(("lost runs as 0 %",), lasting=True),))


def _make_difference_cell(value: float, low: float, high: float, study: StudyResult) -> Cell:
    """Makes a cell such as `-1.30 [-1.72, -0.88]`: change and 95 % interval in points; empty without a change."""
    if math.isnan(value):
        return Cell()
    texts = print_change(value, low, high, study.base.images, study.margin)
    value_, low_, high_ = (Number(number, text) for number, text in zip((value, low, high), texts, strict=True))
    return Cell((value_,), interval=None if math.isnan(low) else (low_, high_))


def _make_chosen_cell(level: LevelResult, field: str) -> Cell:
    """Makes the cell of a chosen value, with a mark at the end of its list; empty before a value is chosen."""
    if field not in level.chosen:
        return Cell()
    notes = (Note(("end of its list",), lasting=True),) if field in level.edges else ()
    return Cell(spell_value(level.chosen[field]), notes=notes)


def _make_published_cells(level: LevelResult) -> tuple[Cell, ...]:
    """Makes cells such as `4.60 [4.41, 4.79]`, `4.51`, `within`."""
    found = level.published
    if found is None:
        return ()
    places = choose_places((found.high - found.low) / 2)
    error, low, high = (Number(value, f"{value:.{places}f}") for value in (found.error, found.low, found.high))
    interval = None if math.isnan(found.error) or math.isnan(found.low) else (low, high)
    return (
        Cell(() if math.isnan(found.error) else (error,), interval=interval),
        Cell(() if math.isnan(found.stated) else (Number(found.stated, f"{found.stated:.2f}"),)),
        Cell((found.position,) if found.position else ()),
    )


def _make_cost_cell(level: LevelResult, key: str) -> Cell:
    """Makes a cell such as `1,234 (+3 %; IQR 5.0 %)`. Without a measurement, it has the reason."""
    cost, metric = level.costs[key], METRICS[key]
    if math.isnan(cost.value):
        return Cell() if level.cost_status == "done" else Cell(lacks=((level.cost_status,),))
    notes = []
    if metric.compared and not level.is_base and not math.isnan(cost.change):
        notes.append(Note(_spell_cost_change(key, cost)))
    if not math.isnan(cost.spread):
        notes.append(Note(("IQR ", Number(cost.spread, f"{100 * cost.spread:.1f}"), " %")))
    if key == "params" and level.frozen:
        notes.append(Note(("and ", Number(level.frozen, f"{level.frozen:,}"), " that are not trained"), lasting=True))
    if key == "macs" and level.doubt:
        notes.append(Note((level.doubt,), lasting=True))
    if cost.disturbed:
        notes.append(Note(("disturbed",), lasting=True))
    return Cell((Number(cost.value, metric.show(cost.value)),), notes=tuple(notes))


def _spell_cost_change(key: str, cost: CostResult) -> Words:
    """Returns `-1.2 %`; for a measure of time `-12 % [-14, -10]`, or `≈` if its interval contains 0."""
    if math.isnan(cost.low):
        return (Number(cost.change, print_percent(key, cost.change)), " %")
    if cost.unchanged:
        return ("≈",)
    change, low, high = (Number(each, print_percent(key, each)) for each in (cost.change, cost.low, cost.high))
    return (change, " % [", low, ", ", high, "]")

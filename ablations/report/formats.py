"""Tables and values as Markdown, LaTeX, CSV and plain text. The same records give the same bytes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import Any

import pandas as pd

from ablations.report.comparison import COLUMNS
from ablations.report.results import Results
from ablations.report.tables import (
    MORE,
    Cell,
    Column,
    Number,
    Row,
    Table,
    Words,
    find_table,
    make_more_tables,
    make_overall_table,
    make_study_table,
)
from ablations.report.values import Values, collect_values
from ablations.storage import files

# The parts of a cell, in the order in which they are read


def spell_lead(cell: Cell) -> Words:
    """Returns the value, and what has no result: `97.13 ± 0.28, 1 missing`."""
    parts = [part for part in (cell.value, *cell.lacks) if part]
    return tuple(word for part in parts for word in (", ", *part))[1:]


def spell_beside(cell: Cell) -> Words:
    """Returns what is printed beside the value: `[-1.72, -0.88] (lost runs as 0 %)`."""
    interval = ("[", cell.interval[0], ", ", cell.interval[1], "]") if cell.interval else ()
    notes = tuple(word for note in cell.notes for word in ("; ", *note.words))[1:]
    between = (" ",) if interval and notes else ()
    return (*interval, *between, *(("(", *notes, ")") if notes else ()))


def render_words(words: Words) -> str:
    """Returns the words as plain text: `97.13 ± 0.28`."""
    return "".join(word if isinstance(word, str) else _render_number(word) for word in words)


def _render_number(number: Number) -> str:
    return f"{number.text} ± {number.spread}" if number.spread else number.text


def spell_cell(cell: Cell) -> Words:
    """Returns all parts of a cell."""
    lead, beside = spell_lead(cell), spell_beside(cell)
    return (*lead, *((" ",) if lead and beside else ()), *beside)


def render_cell(cell: Cell) -> str:
    """Returns all parts of a cell as plain text: `-1.30 [-1.72, -0.88] (lost runs as 0 %)`."""
    return render_words(spell_cell(cell))


def find_sort_value(cell: Cell) -> str | None:
    """Returns the number by which a cell is sorted; None for words and for a cell without a value."""
    first = cell.value[0] if cell.value else None
    return spell_digits(first.value) if isinstance(first, Number) else None


def spell_digits(value: float) -> str:
    """Returns ten significant digits, or a whole number in full, as in `0.2416781941` and `123456789012`.

    Later digits of what is computed from the records depend on the processor, and nothing that is written should.
    """
    return f"{value:.15g}" if float(value).is_integer() else f"{value:.10g}"


# Markdown


def render_markdown(table: Table) -> str:
    """Writes a table in Markdown, with its question above and its caption below."""
    lines = [f"**{escape_markdown(table.question or table.name)}**", ""]
    lines.append(_render_markdown_row(column.head for column in table.columns))
    lines.append("|" + "|".join([" :-- ", *[" --: "] * (len(table.columns) - 1)]) + "|")
    lines += [_render_markdown_row(map(render_cell, row.cells)) for row in table.rows]
    more = f" How to read it: see tables/{table.name}.md in the results folder." if table.details else ""
    return "\n".join([*lines, "", f"*{escape_markdown(table.caption + more)}*", ""])


def escape_markdown(text: str) -> str:
    """Escapes all characters that have a meaning in Markdown."""
    return re.sub(r"([\\`*_{}\[\]<>|#])", r"\\\1", text)


def _render_markdown_row(texts: Iterable[str]) -> str:
    return "| " + " | ".join(map(escape_markdown, texts)) + " |"


# LaTeX


def render_latex(table: Table, folder: str = "") -> str:
    r"""Writes a table in LaTeX, in panels and parts that fit on a page. It needs \usepackage{booktabs,siunitx}.

    Marks around its numbers name the results folder, so that `ablate check` finds them in any text. Without `folder`,
    there are no marks.
    """
    floats: list[list[str]] = []
    for rows in _split_pages(table.rows):
        parts = [_render_tabular(replace(table, rows=rows), panel) for panel in _choose_panels(table, rows)]
        together = max(1, ROOM // (PANEL + LINE * sum(map(_count_lines, rows))))
        groups = [parts[index : index + together] for index in range(0, len(parts), together)]
        floats += [_render_float(table, group, len(floats) + number, folder) for number, group in enumerate(groups)]
    head = f"% Table {table.name}; made by `ablate`; needs \\usepackage{{booktabs,siunitx}}."
    lines = [line for each in floats for line in each]
    head = "\n% ".join([head, *wrap(table.details, 110)])
    return "\n".join([head, *_warn_of_unknown("".join(lines)), *lines]) + "\n"


def list_latex_parts(table: Table) -> list[str]:
    """Returns what stands between the marks of a table in LaTeX: the numbers of each float."""
    return MARKED.findall(render_latex(table, "."))


MARKED = re.compile(r"^% ablate table [^\n]*\n(.*?)^% /ablate$", re.DOTALL | re.MULTILINE)


def _choose_panels(table: Table, rows: Sequence[Row]) -> list[list[int]]:
    """Returns the numbers of the columns of each panel: as many groups as fit side by side, with the names of the rows.

    A group that is too wide alone is divided.
    """
    columns = table.columns
    names = [place for place, column in enumerate(columns) if column.names_row]
    others = [place for place in range(len(columns)) if place not in names]
    groups = [[*group] for _, group in groupby(others, key=lambda place: columns[place].group)]
    room = WIDTH - sum(_measure_column(columns[place], rows, place) for place in names)
    panels: list[list[int]] = []
    for group in groups:
        whole = sum(_measure_column(columns[place], rows, place) for place in group) <= room
        for part in [group] if whole else [[place] for place in group]:
            joined = [*(panels[-1] if panels else []), *part]
            if panels and sum(_measure_column(columns[place], rows, place) for place in joined) <= room:
                panels[-1] = joined
            else:
                panels.append([*part])
    return [[*names, *panel] for panel in panels or [[]]]


def _measure_column(column: Column, rows: Sequence[Row], place: int) -> float:
    """Returns about how many points a column is wide. The name of a level has a width of its own."""
    if place == 0:
        return 0.22 * WIDTH + GAP
    lines = [*_break_head(column), *(render_cell(row.cells[place]) for row in rows)]
    return LETTER * max(map(len, lines)) + GAP


def _split_pages(rows: Sequence[Row]) -> Iterator[tuple[Row, ...]]:
    """Yields as many rows at once as fit on a page."""
    page: list[Row] = []
    for row in rows:
        if page and PANEL + LINE * sum(map(_count_lines, [*page, row])) > ROOM:
            yield tuple(page)
            page = []
        page.append(row)
    yield tuple(page)


def _count_lines(row: Row) -> int:
    """Returns the lines that a row needs for the name of its level."""
    return -(-len(render_cell(row.cells[0])) // LABEL) or 1


HEAD, LABEL, LINE, PANEL, ROOM = 10, 17, 10, 70, 430
"""Characters of a line in a column's head and in a level's name. Points that a line needs, that a panel needs without
its lines, and that all panels of a page may need: the others go into another table."""

WIDTH, LETTER, GAP = 345, 4.3, 8
"""Points of a line of text in LaTeX's class `article`, of a letter in a table, and between two columns."""


def _render_float(table: Table, tabulars: Sequence[Sequence[str]], number: int, folder: str) -> list[str]:
    """Writes one float. The first has the label and the note below, the others continue it."""
    first = number == 0
    text = escape_latex((table.question or table.name) + ("" if first else " (continued)"))
    label = rf"\label{{tab:{table.name}}}" if first else ""
    lines = [line for tabular in tabulars for line in tabular]
    mark = [f"% ablate table {shlex.join([folder, table.name, *table.choice])}"] if folder else []
    return [
        r"\begin{table}",
        r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
        r"\sisetup{separate-uncertainty=true, retain-explicit-plus=true, group-separator={,}, group-minimum-digits=4}",
        rf"\caption{{{text}}}{label}\medskip",
        *([*mark, *lines, "% /ablate"] if mark else lines),
        *([rf"\parbox{{\linewidth}}{{\scriptsize {escape_latex(table.caption)}}}"] if first else []),
        r"\end{table}",
    ]


def _render_tabular(table: Table, places: Sequence[int]) -> list[str]:
    """Writes one panel. Heads are broken before a unit or a condition, and if they are long."""
    heads = [_render_head(table.columns[place]) for place in places]
    return [
        rf"\begin{{tabular}}{{@{{}}p{{0.22\linewidth}}{'r' * (len(places) - 1)}@{{}}}}",
        r"\toprule",
        " & ".join(rf"\shortstack{{{head}}}" for head in heads) + r" \\",
        r"\midrule",
        *(
            r"\raggedright{}" + " & ".join(_render_latex_cell(row, place) for place in places) + r" \\"
            for row in table.rows
        ),
        r"\bottomrule",
        r"\end{tabular}\par\medskip",
    ]


def _render_head(column: Column) -> str:
    return r"\\".join(map(escape_latex, _break_head(column)))


def _break_head(column: Column) -> list[str]:
    """Returns the lines of a head: it is broken before a unit and after a comma, and where it is long."""
    lines = [
        line
        for part in column.label.replace(", ", ",\n").split("\n")
        for line in wrap(part, HEAD, break_long_words=False)
    ]
    return [*lines, f"({column.unit})"] if column.unit else lines


def _render_latex_cell(row: Row, place: int) -> str:
    """Writes a cell in LaTeX. The name of a level is always text."""
    cell = row.cells[place]
    return render_latex_words(spell_cell(cell)) if place else escape_latex(render_cell(cell))


def render_latex_words(words: Words) -> str:
    r"""Writes words in LaTeX, with numbers in siunitx: `\num{97.13 +- 0.28}` for `97.13 ± 0.28`."""
    return "".join(escape_latex(word) if isinstance(word, str) else _render_siunitx(word) for word in words)


def _render_siunitx(number: Number) -> str:
    text = number.text.replace(",", "")
    return rf"\num{{{text} +- {number.spread}}}" if number.spread else rf"\num{{{text}}}"


def escape_latex(text: str) -> str:
    """Escapes all characters that have a meaning in LaTeX. A hyphen before a digit becomes a minus sign."""
    escaped = "".join(_TEX.get(character, character) for character in text)
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", escaped)


_GREEK = (
    "alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi",
    "pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega",
    "Gamma", "Delta", "Theta", "Lambda", "Xi", "Pi", "Sigma", "Phi", "Psi", "Omega",
)  # fmt: skip
_TEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$", "_": r"\_",
    "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "±": r"$\pm$", "×": r"$\times$", "<": r"$<$", ">": r"$>$",
    "−": "$-$", "→": r"$\to$", "≤": r"$\leq$", "≥": r"$\geq$", "≈": r"$\approx$", "≠": r"$\neq$", "∞": r"$\infty$",
    "√": r"$\surd$", "·": r"$\cdot$", "µ": r"$\mu$", "|": r"\textbar{}",
    **{letter: rf"$\{name}$" for letter, name in zip("αβγδεζηθικλμνξπρστυφχψωΓΔΘΛΞΠΣΦΨΩ", _GREEK, strict=True)},
}  # fmt: skip

_UNKNOWN = re.compile(r"[^\x00-\u017f‐-―‘’“”„†‡•…€" + re.escape("".join(_TEX)) + "]")
"""Characters that pdflatex does not know, for example Chinese ones."""


def _warn_of_unknown(text: str) -> list[str]:
    """Returns a comment that names the characters of a file in LaTeX which pdflatex does not know; none without any."""
    found = "".join(dict.fromkeys(_UNKNOWN.findall(text)))
    return [f"% pdflatex does not know {found}: use lualatex with a font that has it, or another label."] * bool(found)


def render_macros(values: Values, folder: str) -> str:
    r"""Writes macros that give every value: `\ablate{growth_rate}{12}{test_accuracy}`. Unknown names fail in LaTeX.

    `folder` is the name of the results folder, which a copy of the file tells.
    """
    lines = [
        f"% Results folder: {folder}",
        r"% Made by `ablate report`. \ablate{STUDY}{LEVEL}{METRIC} gives a number as text, in the tables' unit:",
        r"% do not put it into \num, which takes a comma for a decimal point.",
        r"\ifcsname ablate:macro\endcsname\else"  # a paper may put in the numbers of several folders
        r"\newcommand{\ablate}[3]{\ifcsname ablate:\detokenize{#1:#2:#3}\endcsname"
        r"\csname ablate:\detokenize{#1:#2:#3}\endcsname"
        r"\else\errmessage{No number for study #1, level #2, metric #3}\fi}"
        r"\expandafter\def\csname ablate:macro\endcsname{}\fi",
    ]
    for (study, level, key), text in values.items():
        name = rf"ablate:\detokenize{{{_escape_name(f'{study}:{level}:{key}')}}}"
        lines.append(rf"\expandafter\def\csname {name}\endcsname{{{escape_latex(text)}}}")
    return "\n".join([*_warn_of_unknown("".join(lines)), *lines]) + "\n"


def _escape_name(text: str) -> str:
    """Puts a backslash before all characters that would end a name in LaTeX or begin a command in it."""
    return re.sub(r"[\\{}%#^]", r"\\\g<0>", text)


# CSV, and all files together


def render_csv(frame: pd.DataFrame, digits: Callable[[Any], str] | None = None) -> bytes:
    """Writes a frame as CSV, with enough digits to restore every float, or as `digits` writes them.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    frame = frame.rename(columns=_disarm)
    for name in frame.columns[[dtype.kind not in "biufc" for dtype in frame.dtypes]]:
        texts = [_disarm(value) for value in frame[name]]
        if any(isinstance(text, str) and text.startswith("'") for text in texts):
            frame = frame.assign(**{name: pd.Series(texts, frame.index, dtype=object)})
    return bytes(frame.to_csv(index=False, lineterminator="\n", float_format=digits).encode())


def _disarm(value: Any) -> Any:
    """Puts an apostrophe before a text that begins like a formula. A number, also as text, stays as it is."""
    is_formula = isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r"))
    return f"'{value}" if is_formula and not re.fullmatch(r"[+-][\d.,e+\- ]*", value) else value


def render_numbers(table: Table, numbers: pd.DataFrame) -> bytes:
    """Writes the numbers behind a table's columns as CSV: means and deviations, intervals, changes."""
    own = {"accuracy": ["mean", "sd"], "change": ["difference", "low", "high"],
           "test_error": ["error", "error_low", "error_high"],
           "shared_errors": ["shared_errors", "shared_errors_low", "shared_errors_high"]}  # fmt: skip
    ends = ("", "_sd", "_change", "_change_low", "_change_high")
    names = ["level", "axes", "levels", "is_base"]
    for column in table.columns:
        names += own.get(column.key, [column.key + end for end in ends] + [f"train.{column.key}"])
    return render_csv(numbers[[name for name in dict.fromkeys(names) if name in numbers]], spell_digits)


def name_folder(folder: Path) -> str:
    """Returns a folder's own name, which is the same from any current folder; `?` stands for what UTF-8 cannot hold."""
    return folder.resolve().name.encode(errors="replace").decode()


def write_tables(results: Results) -> list[Path]:
    """Writes the tidy CSV files, the tables of all studies and of all variants, and numbers.tex. Returns the paths.

    Tables in LaTeX are the short ones.
    """
    folder = results.frames.folder
    contents = {folder / f"{name}.csv": render_csv(frame) for name, frame in results.frames.tables().items()}
    name = name_folder(folder)
    tables: list[tuple[Table, pd.DataFrame]] = []
    for study in results.studies:
        tables.append((make_study_table(study), study.numbers))
        tables += [(table, study.find_numbers(kind)) for kind, table in make_more_tables(study).items()]
    for table, numbers in [*tables, (make_overall_table(results), results.overall.numbers.drop(columns=COLUMNS))]:
        stem = folder / "tables" / table.name
        contents[stem.with_name(f"{table.name}.csv")] = render_csv(numbers, spell_digits)
        contents[stem.with_name(f"{table.name}.md")] = render_markdown(table).encode()
        contents[stem.with_name(f"{table.name}.tex")] = render_latex(find_table(results, table.name), name).encode()
    contents[folder / "numbers.tex"] = render_macros(collect_values(results), name).encode()
    for path, content in contents.items():
        files.write(path, content)
    for path in (folder / "tables" / f"{study.name}.{kind}.{suffix}" for study in results.studies for kind in MORE
                 for suffix in ("csv", "md", "tex")):  # fmt: skip
        if path not in contents:  # an older one: the records do not give it any more
            files.remove(path)
    return list(contents)

r"""Finds the marks of citations in a text: comments in Markdown and HTML, macros and tables in LaTeX.

Text that is almost a mark, such as `<!-- Ablate ...` or `\ablate{STUDY}{LEVEL}`, is found as a mark with a problem.
Code is not searched: there, a mark is an example for readers.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path
from typing import Literal

Kind = Literal["markdown", "html", "latex"]
KINDS: dict[str, Kind] = {
    **dict.fromkeys((".md", ".markdown", ".rmd", ".qmd"), "markdown"),
    **dict.fromkeys((".html", ".htm"), "html"),
    **dict.fromkeys((".tex", ".ltx", ".latex", ".rnw"), "latex"),
}
"""How a file is read, by its suffix. Capital letters make no difference."""

MARKDOWN_CODE = re.compile(
    r"(?P<comment><!--.*?-->)"
    r"|^[ \t>]*(?:(?:[-*+]|\d+[.)])[ \t]+)?(?P<fence>`{3,}|~{3,})(?P<raw>[ \t]*\{=)?[^`\n]*\n"
    r"(?:[^\n]*\n)*?[ \t>]*(?P=fence)[`~]*[ \t]*\r?$"
    r"|(?<![`\\])(?P<ticks>`+)(?!`)(?:(?!\n[ \t]*\r?\n).)+?(?<!`)(?P=ticks)(?!`)(?P<raw_span>\{=)?",
    re.DOTALL | re.MULTILINE,
)
"""Code in Markdown, and three things that only look so: comments, and raw LaTeX or HTML, which ends in `{=latex}`."""

LATEX_CODE = re.compile(
    r"(?<!\\)(?:\\\\)*(?P<comment>%[^\n]*)"
    r"|\\begin\s*\{(?P<name>[vV]erbatim\*?|lstlisting|minted|comment)\}.*?\\end\s*\{(?P=name)\}"
    r"|\\(?:verb\*?|lstinline)(?P<bar>[^\sA-Za-z{*])[^\n]*?(?P=bar)",
    re.DOTALL,
)
"""Comments and code in LaTeX."""

TAG = re.compile(r"<\s?!\s?[-–—]*+\s*+(?P<slash>[/\\]?)\s*+(?P<word>[^\W\d_]+)")
BODY = re.compile(r"(?P<source>(?:(?!<!--|-->).)*)(?P<end>-->)?", re.DOTALL)
BEGIN, END = re.compile(r"<!--\s*ablate(?=\s|-->)"), re.compile(r"<!--\s*/\s*ablate\s*-->")
COMMAND = re.compile(r"\\(?P<name>[A-Za-z@]+)")
ARGUMENT = re.compile(r"\s*[{\[]")
ARGUMENTS = re.compile(3 * r"\s*\{([^{}]*)\}")
DEFINES = re.compile(r"(?:ommand\*?\s*\{?|\\def|\\let)\s*\Z")
EXAMPLE = re.compile(r"<!--\s*ablate\s|\\ablate\s*\{")


@dataclass(frozen=True)
class Mark:
    """A mark in a text."""

    start: int
    end: int
    """The places where the mark starts and ends, with its comments."""

    source: str
    """What the mark names, as it is written."""

    cited: tuple[int, int] | None = None
    """The places where the cited text starts and ends; None for a macro and for a comment without an end."""

    words: tuple[str, ...] = ()
    """FOLDER TABLE and the choice of its columns, FOLDER STUDY LEVEL METRIC, or the three arguments of a macro."""

    problem: str = ""
    """The reason why the mark is not valid; empty if it is valid."""

    @property
    def of_table(self) -> bool:
        """Whether it cites a whole table."""
        return len(self.words) == 2 or any(word.startswith("--") for word in self.words[2:3])


def find_kind(path: Path) -> Kind:
    """Returns how a file is read. Raises ValueError for a file of an unknown kind."""
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"this kind of file is not read; a name must end in {', '.join(KINDS)}")
    return kind


def read_text(path: Path) -> str:
    """Reads a file's text, with its own line ends. Raises ValueError if it is not in UTF-8."""
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not text in UTF-8: save the file in UTF-8") from None
    if "\0" in text:
        raise ValueError("it is not text in UTF-8, perhaps in UTF-16: save the file in UTF-8")
    return text


def find_marks(text: str, kind: Kind) -> list[Mark]:
    """Returns the marks of a text, in their order."""
    searched = hide_code(text, kind)
    found = list(_find_comments(searched))
    if kind == "latex":
        wrong = r"a comment of Markdown is no mark in LaTeX: write \ablate{STUDY}{LEVEL}{METRIC}"
        found = [replace(mark, cited=None, problem=wrong) for mark in found] + [*_find_latex_tables(text)]
    if kind == "markdown":
        searched = re.sub(r"(?s)<!--.*?-->", _blank, searched)
    if kind != "html":
        found += _find_macros(searched)
    return sorted(found, key=lambda mark: mark.start)


def count_examples(text: str, kind: Kind) -> int:
    """Returns the number of marks that are not checked, because they stand in code or in a comment of LaTeX."""
    return len(EXAMPLE.findall(text)) - len(EXAMPLE.findall(hide_code(text, kind)))


def find_latex_comments(text: str) -> Iterator[tuple[int, str]]:
    """Yields the comments of a text in LaTeX, each with the place where it starts."""
    for match in LATEX_CODE.finditer(text):
        if match["comment"]:
            yield match.start("comment"), match["comment"]


def hide_code(text: str, kind: Kind) -> str:
    """Returns the text with spaces in the place of code. All other characters keep their places."""
    if kind == "latex":
        return LATEX_CODE.sub(_blank, text)
    if kind == "markdown":
        kept = ("comment", "raw", "raw_span")
        return MARKDOWN_CODE.sub(lambda match: match[0] if any(map(match.group, kept)) else _blank(match), text)
    return text


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\r\n]", " ", match[0])


def _resembles(word: str) -> bool:
    """Whether a word is `ablate`, perhaps misspelt: `Ablate`, `ablates`, `abalte`; but not `ablation` or `table`."""
    return SequenceMatcher(None, word.lower(), "ablate").ratio() > 0.8


def _find_comments(text: str) -> Iterator[Mark]:
    """Yields the marks `<!-- ablate SOURCE -->CITED<!-- /ablate -->`."""
    opened: Mark | None = None
    for tag in TAG.finditer(text):
        if tag["slash"] and (_resembles(tag["word"]) or tag["word"].lower().startswith("ablat")):
            end = END.match(text, tag.start())
            if opened:
                yield replace(opened, cited=(opened.end, tag.start()), end=end.end() if end else tag.end())
            if not end or not opened:
                yield _refuse(text, tag, "no mark begins before it" if end else "a mark ends with <!-- /ablate -->")
            opened = None
        elif _resembles(tag["word"]) and not tag["slash"]:
            if opened:
                yield _leave_open(opened)
            opened = _open(text, tag)
    if opened:
        yield _leave_open(opened)


def _open(text: str, tag: re.Match[str]) -> Mark:
    """Returns a mark that has no end yet, with the problem of its begin."""
    if not BEGIN.match(text, tag.start()):
        return _refuse(text, tag, "a mark begins with <!-- ablate and a space")
    body = BODY.match(text, tag.end())
    if not body or not body["end"]:
        return _refuse(text, tag, "the comment has no end: --> is missing")
    source, problem = body["source"].strip(), ""
    words: tuple[str, ...] = ()
    try:
        words = tuple(shlex.split(source))
    except ValueError:
        problem = "a quote has no end: write a name with an apostrophe in double quotes"
    mark = Mark(tag.start(), body.end(), source, None, words, problem)
    if not problem and len(words) != 4 and not mark.of_table:
        problem = "a mark names FOLDER STUDY, or FOLDER STUDY LEVEL METRIC; a name with spaces stands in quotes"
    return replace(mark, problem=problem)


def _leave_open(mark: Mark) -> Mark:
    return replace(mark, problem=mark.problem or "the mark has no end: <!-- /ablate --> is missing")


def _refuse(text: str, match: re.Match[str], problem: str) -> Mark:
    r"""Returns a mark that is not valid. Its source is the text around it: `<!-- Ablate results growth_rate`."""
    line = text[match.start() :].partition("\n")[0].partition("-->")
    shown = (line[0] + line[1]).strip()
    return Mark(match.start(), match.end(), shown if len(shown) <= 80 else f"{shown[:77]}...", problem=problem)


def _find_latex_tables(text: str) -> Iterator[Mark]:
    """Yields the marks of tables in LaTeX: a line `% ablate table FOLDER TABLE`, and `% /ablate` after the numbers."""
    opened: Mark | None = None
    for start, comment in find_latex_comments(text):
        said = comment.strip("% \t\r")
        if begin := re.fullmatch(r"ablate\s+table\s+(.+)", said):
            if opened:
                yield replace(opened, problem="the mark has no end: a line % /ablate is missing")
            opened = _open_table(start, start + len(comment), begin[1])
        elif re.fullmatch(r"/\s*ablate", said):
            end = start + len(comment)
            if opened:
                yield replace(opened, cited=(opened.end, start), end=end)
            else:
                yield Mark(start, end, comment.strip(), problem="no mark begins before it")
            opened = None
    if opened:
        yield replace(opened, problem="the mark has no end: a line % /ablate is missing")


def _open_table(start: int, end: int, source: str) -> Mark:
    try:
        mark = Mark(start, end, source, None, tuple(shlex.split(source)))
    except ValueError:
        return Mark(start, end, source, problem="a quote has no end")
    return mark if mark.of_table else replace(mark, problem="a mark of a table names FOLDER TABLE and its --columns")


def _find_macros(text: str) -> Iterator[Mark]:
    r"""Yields the marks `\ablate{STUDY}{LEVEL}{METRIC}`."""
    for command in COMMAND.finditer(text):
        name, arguments = command["name"], ARGUMENTS.match(text, command.end())
        if not _resembles(name) or _defined_at(text, command.start()):
            continue
        if name == "ablate" and arguments:
            words = tuple(" ".join(word.split()) for word in arguments.groups())
            yield Mark(command.start(), arguments.end(), shlex.join(words), None, words)
        elif name == "ablate":
            yield _refuse(text, command, r"three arguments are needed: \ablate{STUDY}{LEVEL}{METRIC}")
        elif ARGUMENT.match(text, command.end()) and not defines(text, name):
            problem = r"the macro's name is \ablate; if this is one of your own, give it another name"
            yield _refuse(text, command, problem)


def defines(text: str, name: str) -> bool:
    """Returns whether a text in LaTeX defines a command."""
    return any(_defined_at(text, match.start()) for match in re.finditer(rf"\\{name}\b", text))


def _defined_at(text: str, place: int) -> bool:
    return bool(DEFINES.search(text[max(0, place - 40) : place]))

"""The marks of a text: which are read, which are refused, and which are examples in code."""

from __future__ import annotations

from pathlib import Path

import pytest

from ablations.report.marks import count_examples, find_kind, find_marks

MARK = "<!-- ablate results growth_rate 8 params -->2,000<!-- /ablate -->"
MACRO = r"\ablate{growth_rate}{8}{params}"


def problems(text, kind):
    return [mark.problem for mark in find_marks(text, kind)]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        *((MARK.replace("<!-- ablate", begin), "a mark begins with <!-- ablate and a space") for begin in (
            "<!-- Ablate", "<!-- ablates", "<!--ABLATE", "<!-- abalte", "<!-- ablate:", "<!-- ablat", "<!--- ablate",
            "<!– ablate", "<! -- ablate", "<!-- ablate_", "<!-ablate", "<!-- ablated",
        )),
        *((MARK.replace("/ablate", end), "a mark ends with <!-- /ablate -->") for end in (
            "/Ablate", "/ablates", r"\ablate", "/ ablate ok", "/ablation", "/abalte",
        )),
        (MARK.replace("params -->", "params –>"), "the comment has no end"),
        (MARK.replace("params -->", "params >"), "the comment has no end"),
        ("<!-- ablate results growth_rate 8 params 2,000", "the comment has no end"),
        (MARK.replace("<!-- /ablate -->", ""), "the mark has no end"),
        (MARK.replace("/ablate", "end ablate"), "the mark has no end"),
        ("2,000<!-- /ablate -->", "no mark begins before it"),
        (MARK.replace("results growth_rate 8 params ", ""), "a mark names FOLDER STUDY"),
        (MARK.replace("8 params", "8"), "a mark names FOLDER STUDY"),
        (MARK.replace("8", "Bob's"), "a quote has no end"),
    ],
)  # fmt: skip
def test_a_comment_that_is_almost_a_mark_is_one_with_a_problem(text, problem):
    for kind in ("markdown", "html"):
        (found,) = filter(None, problems(text, kind))
        assert problem in found
        among = problems(f"{MARK} and {text}\n\nand {MARK}", kind)
        assert [*filter(None, among)] == [found]
        assert among[0] == among[-1] == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        *((text, "three arguments are needed") for text in (
            r"\ablate[x]{a}{b}{c}", r"\ablate{a}{b}", r"\ablate{a}{b} and {c}", r"\ablate", r"\ablate{a}{b}{c",
        )),
        *((text, r"the macro's name is \ablate") for text in (
            r"\Ablate{a}{b}{c}", r"\ablates{a}{b}{c}", r"\abalte {a}{b}{c}", r"\ABLATE[a]",
        )),
    ],
)  # fmt: skip
def test_a_macro_that_is_almost_a_mark_is_one_with_a_problem(text, problem):
    for kind in ("markdown", "latex"):
        (found,) = problems(text, kind)
        assert problem in found
        assert problems(f"{MACRO} and {text} and {MACRO}", kind) == ["", found, ""]


def test_a_comment_of_markdown_in_latex_is_refused():
    assert problems(MARK, "latex") == [
        r"a comment of Markdown is no mark in LaTeX: write \ablate{STUDY}{LEVEL}{METRIC}"
    ]


ORDINARY = [
    "<!-- ablation study -->", "<!-- table 1 -->", "<!-- able to -->", "<!-- late -->", "<!-- the ablate command -->",
    "<!doctype html>", "&lt;!-- ablate results growth_rate 8 params --&gt;", "ablate results <!-- TODO",
    r"\ablation{a}", r"\table{a}", r"\newcommand{\ablate}[3]{x}", r"\def\ablated{a} \ablated{b}",
    r"\newcommand{\ablated}[1]{#1} \ablated{b}", r"\ablates and", r"\oblate",
]  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_other_comments_and_macros_are_no_marks(text):
    for kind in ("markdown", "html", "latex"):
        assert problems(text, kind) == []
        assert problems(f"{MACRO if kind == 'latex' else MARK} {text}", kind) == [""]


@pytest.mark.parametrize(
    "text",
    [
        f"{MARK}", f"`x` {MARK} `y`", f"```\nx\n```\n{MARK}\n```\ny\n```", f"```{{=html}}\n{MARK}\n```",
        f"```{{=latex}}\n{MACRO}\n```", f"`{MACRO}`{{=latex}}", f"``` \n{MARK}", f"a ` b\n\n{MARK} c ` d",
        f"\\`{MARK}\\`", f"<!-- ` -->{MARK}<!-- ` -->", f"<!-- ``` -->\n{MARK}\n<!-- ``` -->", f"    {MARK}",
        f"> {MARK}", MARK.replace(" growth", "\n  growth"), MARK.replace("<!-- ablate", "<!--ablate"),
        f"- ```\n  x\n  ```\n{MARK}\n```\ny\n```", f"```a```\n{MARK}\n```b```", f"\ufeff{MARK}", f"x\r\n{MARK}\r\n",
        r"\ablate {a} {b}{c}",
    ],
)  # fmt: skip
def test_marks_of_markdown(text):
    assert problems(text, "markdown") == [""]
    assert count_examples(text, "markdown") == 0


@pytest.mark.parametrize(
    "text",
    [
        f"`{MARK}`", f"``a ` {MARK}``", f"```markdown\n{MARK}\n```", f"~~~\r\n{MARK}\r\n~~~\r\n",
        f"1. ```\n   {MARK}\n   ```", f"````\n```\n{MARK}\n```\n````", f"> ```\n> {MARK}\n> ```",
        f"```{{r}}\n{MACRO}\n```", f"a `{MACRO}`\nb",
    ],
)  # fmt: skip
def test_examples_in_code_are_no_marks(text):
    assert problems(f"{text}\n", "markdown") == []
    assert count_examples(f"{text}\n", "markdown") == 1


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (MACRO, 1), (f"5 \\% {MACRO}", 1), (f"\\\\ {MACRO}", 1), (f"% x\n{MACRO}", 1), (f"\\% {MACRO} % {MACRO}", 1),
        (f"\\\\% {MACRO}", 0), (f"\\begin{{verbatim}}\n{MACRO}\n\\end{{verbatim}}", 0), (f"\\verb|{MACRO}|", 0),
        (f"\\begin{{lstlisting}}% {MACRO}\n\\end{{lstlisting}}", 0), (f"% \\begin{{verbatim}}\n{MACRO}", 1),
        (f"\\verb|%| {MACRO}", 1), ("\\ablate{a}%\n{b}{c}", 1), ("\\ablate{a\nb}{c}{d}", 1),
    ],
)  # fmt: skip
def test_marks_of_latex(text, count):
    assert problems(text, "latex") == [""] * count


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.MD", "markdown"), ("a.Rmd", "markdown"), ("a.qmd", "markdown"), ("a.markdown", "markdown"), ("a.htm", "html"),
     ("a.HTML", "html"), ("a.TEX", "latex"), ("a.ltx", "latex"), ("a.Rnw", "latex"), ("a.b.tex", "latex")],
)  # fmt: skip
def test_the_kind_of_a_file_is_told_by_its_name(name, kind):
    assert find_kind(Path(name)) == kind


@pytest.mark.parametrize("name", ["a.rst", "a.ipynb", "a", ".md", "a.txt", "a.docx"])
def test_a_file_of_an_unknown_kind_is_refused(name):
    with pytest.raises(ValueError, match=r"this kind of file is not read; a name must end in \.md, \.markdown"):
        find_kind(Path(name))


def test_a_long_comment_of_spaces_takes_no_time():
    """Twenty thousand spaces: what looks at every pair of them takes minutes."""
    for text in ("<!--" + " " * 20_000, "<!-- ablate " + " " * 20_000 + "x", "<!-- ablate a b" + " " * 20_000 + "-->"):
        assert len(find_marks(text, "markdown")) <= 1

"""Citations: true ones pass, stale ones are named, and all can be renewed."""

from __future__ import annotations

import pytest

import ablations
from ablations.report import citations, tables


@pytest.fixture
def text(results, tmp_path):
    path = tmp_path / "paper.md"
    path.write_text(
        "Wide: <!-- ablate results growth_rate 8 test_accuracy -->93.00<!-- /ablate --> %,\n"
        "narrow: <!-- ablate results growth_rate 4 test_accuracy -->91.5<!-- /ablate --> %.\n"
    )
    return path


def test_a_stale_number_is_found_with_its_line(text):
    good, bad = citations.check(text)
    assert good.problem == ""
    assert (bad.line, bad.cited, bad.recorded) == (2, "91.5", "91.0")


def test_renewing_changes_what_is_stale_alone(text):
    before = text.read_text()
    assert citations.rewrite(text) == 1
    assert text.read_text() == before.replace("91.5", "91.0")
    assert not any(citation.problem for citation in citations.check(text))
    assert citations.rewrite(text) == 0


def test_a_whole_table_can_be_cited(text):
    text.write_text("<!-- ablate results growth_rate -->\n<!-- /ablate -->\n")
    assert citations.rewrite(text) == 1
    assert "| 8 | 3 | 93.00 ± 0.87 | +2.0 \\[+0.8, +3.2\\] | resolved |" in text.read_text()
    assert citations.check(text)[0].problem == ""


@pytest.mark.parametrize(
    ("mark", "problem"),
    [
        ("results growth_rat 8 test_accuracy", "unknown study: 'growth_rat'; the records have 'growth_rate'"),
        ("results growth_rate 9 test_accuracy", "unknown level of growth_rate: '9'; the records have '4', '8'"),
        (
            "results growth_rate 8 test_acuracy",
            "unknown metric of growth_rate, 8: 'test_acuracy'; the records have 'n', 'pairs', 'verdict',",
        ),
        ("nowhere growth_rate 8 test_accuracy", "holds no results"),
        ("results growth_rate 8", "a mark names FOLDER STUDY"),
    ],
)
def test_a_mark_without_a_source_is_a_problem(text, mark, problem):
    text.write_text(f"<!-- ablate {mark} -->1<!-- /ablate -->")
    assert problem in citations.check(text)[0].problem


def test_a_mark_without_an_end_is_a_problem(text):
    text.write_text("<!-- ablate results growth_rate 8 test_accuracy -->93.00")
    assert "has no end" in citations.check(text)[0].problem


def test_an_open_mark_swallows_nothing(text):
    prose = "One <!-- ablate results growth_rate 8 params -->1 and prose.\n\n"
    text.write_text(prose + "Two <!-- ablate results growth_rate 4 params -->7<!-- /ablate --> end.")
    assert citations.rewrite(text) == 1
    assert text.read_text() == prose + "Two <!-- ablate results growth_rate 4 params -->1,000<!-- /ablate --> end."
    assert [bool(citation.problem) for citation in citations.check(text)] == [True, False]


def test_a_value_comes_with_its_provenance(results):
    lines = citations.describe(ablations.load(results), "growth_rate", "8", "params").splitlines()
    assert lines[:2] == ["2,000", "Params: trainable parameters"]
    assert "commit 0123456789ab" in lines[2]
    lines = citations.describe(ablations.load(results), "growth_rate", "8", "test_accuracy_change").splitlines()
    assert lines[:2] == ["+2.0", "change of the mean against the base, paired by seed, in points"]


@pytest.mark.parametrize("metric", ["params", "test_accuracy", "test_accuracy_change_low", "params_change", "n"])
def test_the_marks_that_are_given_hold(metric, results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    marks = citations.marks(ablations.load("results"), "growth_rate", "8", metric)
    for name, mark in (("paper.md", marks["markdown"]), ("paper.tex", f"It is {marks['latex']}\nfine.")):
        (tmp_path / name).write_text(mark)
        (citation,) = citations.check(tmp_path / name)
        assert citation.problem == ""
        (tmp_path / name).write_text(mark.replace(citation.cited, "3"))
        assert citations.check(tmp_path / name)[0].problem == "the records say otherwise" or citation.cited == "3"
        citations.rewrite(tmp_path / name)
        assert (tmp_path / name).read_text() == mark


PAPER = r"""\input{results/numbers}
A wider layer reaches \num{93.00}\,\% % ablate results growth_rate 8 test_accuracy
with 1,900% ablate results growth_rate 8 params
nothing % ablate results growth_rate 8 macs
in a table & \num{92.00} \\%  ablate results growth_rate 8 test_accuracy
than \ablate{growth_rate}{4}{params}, or \ablate {growth_rate}{5}
{params}.  % \ablate{no}{such}{number}
"""


def test_a_latex_paper_is_checked_line_by_line(results, tmp_path):
    tables.write(ablations.load(results))
    (tmp_path / "paper.tex").write_text(PAPER)
    found = citations.check(tmp_path / "paper.tex")
    assert [(citation.line, citation.cited, citation.problem.partition(";")[0]) for citation in found] == [
        (2, "93.00", ""),
        (3, "1,900", "the records say otherwise"),
        (4, "", "no number stands before the mark"),
        (5, "92.00", "the records say otherwise"),
        (6, r"\ablate{growth_rate}{4}{params}", ""),
        (6, "\\ablate {growth_rate}{5}\n{params}", "unknown level of growth_rate: '5'"),
    ]
    (results / "numbers.tex").write_text("% of yesterday")
    assert "is not of these records" in citations.check(tmp_path / "paper.tex")[4].problem


def test_rewriting_keeps_line_ends_mode_and_links(text, tmp_path):
    text.write_bytes(text.read_text().replace("\n", "\r\n").encode())
    text.chmod(0o600)
    link = tmp_path / "link.md"
    link.symlink_to(text)
    assert citations.rewrite(link) == 1
    assert link.is_symlink()
    assert text.read_bytes().count(b"\r\n") == 2
    assert text.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "number",
    [
        "2{,}000", r"2\,000", r"\num{2 000}", "$-$2,000", "−2,000", r"\num{2e3}", r"\num{91.0 +- 2000}",
        r"\cref{tab:x-2000}", r"\num{2,000}", "2000 parameters",
    ],
)  # fmt: skip
def test_a_number_that_is_not_plain_is_never_rewritten(number, results, tmp_path):
    text = f"about {number} % ablate results growth_rate 8 params\n"
    (tmp_path / "paper.tex").write_text(text)
    assert citations.check(tmp_path / "paper.tex")[0].problem
    citations.rewrite(tmp_path / "paper.tex")
    assert (tmp_path / "paper.tex").read_text() == text


@pytest.mark.parametrize("number", ["2,000", r"\num{2000}", "$2000$", "2,000,", r"(2,000)", r"+2,000\%"])
def test_a_number_in_plain_digits_is_compared(number, results, tmp_path):
    (tmp_path / "paper.tex").write_text(f"about {number} % ablate results growth_rate 8 params\n")
    (citation,) = citations.check(tmp_path / "paper.tex")
    assert citation.problem == ("" if "+" not in number else "the records say otherwise")


def test_a_chapter_must_say_where_its_numbers_are_from(results, tmp_path):
    tables.write(ablations.load(results))
    (tmp_path / "chapter.tex").write_text(r"It has \ablate{growth_rate}{8}{params} parameters.")
    assert "no \\input{FOLDER/numbers} says" in citations.check(tmp_path / "chapter.tex")[0].problem
    (tmp_path / "chapter.tex").write_text("% \\input{results/numbers}\n" + r"\num{\ablate{growth_rate}{8}{params}}")
    assert "gives text" in citations.check(tmp_path / "chapter.tex")[0].problem

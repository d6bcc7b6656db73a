"""Citations: true ones pass, stale ones are named, and all can be renewed."""

from __future__ import annotations

import errno
import os

import pytest
from conftest import fabricate

from ablations.report import citations
from ablations.report.formats import write_tables
from ablations.report.frames import load
from ablations.report.results import analyse
from ablations.storage.files import StorageError


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
    assert (bad.line, bad.cited, bad.recorded) == (2, "91.5", "91.00")


def test_renewing_changes_what_is_stale_alone(text):
    before = text.read_text()
    assert citations.rewrite(text) == 1
    assert text.read_text() == before.replace("91.5", "91.00")
    assert not any(citation.problem for citation in citations.check(text))
    assert citations.rewrite(text) == 0


def test_a_whole_table_can_be_cited(text):
    text.write_text("<!-- ablate results growth_rate -->\n<!-- /ablate -->\n")
    assert citations.rewrite(text) == 1
    assert "| 8 | 3 | 93.00 ± 0.87 | +2.0 \\[+0.4, +3.6\\] | different |" in text.read_text()
    assert citations.check(text)[0].problem == ""


@pytest.mark.parametrize(
    ("mark", "problem"),
    [
        ("results growth_rat 8 test_accuracy", "unknown study: 'growth_rat'; the records have 'growth_rate'"),
        ("results growth_rate 9 test_accuracy", "unknown level of growth_rate: '9'; the records have '4', '8'"),
        (
            "results growth_rate 8 test_acuracy",
            "unknown metric of growth_rate, 8: 'test_acuracy'; the records have 'n', 'verdict', 'test_accuracy',",
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
    lines = citations.look_up(analyse(load(results)), "growth_rate", "8", "params").describe().splitlines()
    assert lines[:2] == ["2,000", "Params: trainable parameters"]
    assert "commit 0123456789ab" in lines[2]
    change = citations.look_up(analyse(load(results)), "growth_rate", "8", "test_accuracy_change")
    lines = change.describe().splitlines()
    assert lines[:2] == ["+2.0", "change of the mean against the base, in points"]


def test_a_value_of_fewer_seeds_than_planned_says_so(tmp_path, tiny):
    def lines(metric, level="8"):
        found = citations.look_up(analyse(load(tmp_path / "r")), "growth_rate", level, metric)
        return found.describe().splitlines()[2:]

    fabricate(tmp_path / "r", tiny, skip=("growth_rate 8, seed 1",))
    missing = "Of 2 seeds. Incomplete: growth_rate 8 has 2 of 3 seeds (1 missing)."
    assert lines("test_accuracy")[0] == lines("p")[0] == missing
    assert "; 2 to 3 of 3 seeds." in lines("test_accuracy")[1]
    assert lines("test_accuracy", level="4")[0] == "Of 3 seeds."
    assert lines("params")[0].startswith("Data: digits"), "a cost has no seeds"


def test_a_disturbed_value_says_so(results):
    def lines(level, metric):
        return citations.look_up(analyse(load(results)), "growth_rate", level, metric).describe().splitlines()

    assert lines("8", "inference_images_per_second")[:3] == [
        "2,000 images/s",
        "Inference: median throughput of the forward pass in eval mode",
        "Disturbed, so do not rely on it: other processes used 0.9 cores.",
    ]
    calm = [("4", "inference_images_per_second"), ("8", "train_images_per_second"), ("8", "test_accuracy")]
    assert not any("isturbed, so" in line for each in calm for line in lines(*each))


@pytest.mark.parametrize(
    ("metric", "text"),
    [
        ("p", "0.026"), ("p_corrected", "0.026"), ("smallest_difference", "2.1"), ("verdict", "different"),
        ("test_accuracy_change_high", "+3.6"),
    ],
)  # fmt: skip
def test_what_the_comparison_gives_can_be_cited(metric, text, results):
    assert citations.find_value(analyse(load(results)), "growth_rate", "8", metric) == text
    with pytest.raises(ValueError, match="unknown metric"):
        citations.find_value(analyse(load(results)), "growth_rate", "4", "seeds_for_change")


@pytest.mark.parametrize("metric", ["params", "test_accuracy", "test_accuracy_change_low", "params_change", "n"])
def test_the_marks_that_are_given_hold(metric, results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = analyse(load("results"))
    write_tables(found)
    marks = citations.make_marks(found, "growth_rate", "8", metric)
    assert marks["latex"] == rf"\ablate{{growth_rate}}{{8}}{{{metric}}}"
    (tmp_path / "paper.tex").write_text(f"\\input{{results/numbers}}\nIt is {marks['latex']}\nfine.")
    (tmp_path / "paper.md").write_text(marks["markdown"])
    for name in ("paper.md", "paper.tex"):
        (citation,) = citations.check(tmp_path / name)
        assert citation.problem == ""
    (tmp_path / "paper.md").write_text(marks["markdown"].replace(citation.recorded, "3.14"))
    assert citations.check(tmp_path / "paper.md")[0].problem == "the records say otherwise"
    citations.rewrite(tmp_path / "paper.md")
    assert (tmp_path / "paper.md").read_text() == marks["markdown"]


PAPER = r"""\input{results/numbers}
A wider layer has \ablate{growth_rate}{8}{params}
than \ablate{growth_rate}{4}{params}, or \ablate {growth_rate}{5}
{params}.  % \ablate{no}{such}{number}
"""


def test_a_latex_paper_is_checked_macro_by_macro(results, tmp_path):
    write_tables(analyse(load(results)))
    (tmp_path / "paper.tex").write_text(PAPER)
    found = citations.check(tmp_path / "paper.tex")
    assert [(citation.line, citation.cited, citation.problem.partition(";")[0]) for citation in found] == [
        (2, r"\ablate{growth_rate}{8}{params}", ""),
        (3, r"\ablate{growth_rate}{4}{params}", ""),
        (3, "\\ablate {growth_rate}{5}\n{params}", "unknown level of growth_rate: '5'"),
    ]
    assert citations.rewrite(tmp_path / "paper.tex") == 0
    (results / "numbers.tex").write_text("% of yesterday")
    assert "is not of these records" in citations.check(tmp_path / "paper.tex")[0].problem


@pytest.mark.parametrize(
    ("line", "macro"),
    [
        (r"\num{93.00}\,\% % ablate results growth_rate 8 test_accuracy", r"\ablate{growth_rate}{8}{test_accuracy}"),
        (r"a & \num{92.00} \\%  ablate results family 'A, B' params", r"\ablate{family}{A, B}{params}"),
        ("nothing % ablate results", r"\ablate{STUDY}{LEVEL}{METRIC}"),
    ],
)
def test_a_comment_that_cites_as_in_older_versions_is_told_what_to_be(line, macro, results, tmp_path):
    (tmp_path / "paper.tex").write_text(f"A line.\n{line}\n")
    (citation,) = citations.check(tmp_path / "paper.tex")
    assert citation.line == 2
    assert f"write {macro}, and once before it \\input{{" in citation.problem
    assert citations.rewrite(tmp_path / "paper.tex") == 0


@pytest.fixture
def copied(results, tmp_path):
    """A paper beside `results/`, with a copied table and a copied numbers.tex in its folder."""
    found = analyse(load(results))
    write_tables(found)
    (results / "figures").mkdir()
    results.rename(tmp_path / "r")
    (tmp_path / "results").mkdir()
    (tmp_path / "r").rename(tmp_path / "results" / "results")
    paper = tmp_path / "paper" / "paper.tex"
    paper.parent.mkdir()
    made = tmp_path / "results" / "results"
    (paper.parent / "numbers.tex").write_text((made / "numbers.tex").read_text())
    table = (made / "tables" / "growth_rate.tex").read_text().replace("What does a wider layer buy?", "Of layers")
    paper.write_text("\\input{numbers}\n" + table + "It has \\ablate{growth_rate}{8}{params} params.\n")
    return paper


def test_a_copied_table_in_latex_is_checked_and_renewed(copied):
    table, macro = citations.check(copied)
    assert (table.problem, macro.problem) == ("", "")
    assert table.source == "results growth_rate"
    before = copied.read_text()
    copied.write_text(before.replace(r"\num{93.00 +- 0.87}", r"\num{94.00 +- 0.87}"))
    stale, _ = citations.check(copied)
    assert (stale.line, stale.problem) == (14, "the records say otherwise")
    assert citations.rewrite(copied) == 1
    assert copied.read_text() == before
    copied.write_text(before.replace("% /ablate\n", ""))
    assert "the mark has no end" in citations.check(copied)[0].problem
    copied.write_text(before.replace("% ablate table", "%"))
    assert "no mark begins before it" in citations.check(copied)[0].problem
    copied.write_text(before.replace("results growth_rate", "results growth_rate --column n"))
    assert "allows --columns" in citations.check(copied)[0].problem


def test_copied_numbers_name_their_results_folder(copied):
    _, macro = citations.check(copied)
    assert macro.source == "../results/results growth_rate 8 params"
    numbers = copied.with_name("numbers.tex")
    numbers.write_text(numbers.read_text().replace("2,000", "3,000"))
    assert "copy it again from ../results/results" in citations.check(copied)[1].problem
    numbers.write_text("% Results folder: elsewhere\n")
    assert "no results folder 'elsewhere' beside the text" in citations.check(copied)[1].problem


@pytest.mark.parametrize("form", ["markdown", "latex"])
@pytest.mark.parametrize("columns", [None, ["all"], ["accuracy", "params"]])
def test_a_printed_table_holds(form, columns, results, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / {"markdown": "paper.md", "latex": "paper.tex"}[form]
    for short in (False, True):
        text = citations.print_table(analyse(load("results")), "growth_rate", columns, short, form)
        path.write_text(f"Before.\n\n{text}\nAfter.\n")
        assert {citation.problem for citation in citations.check(path)} == {""}
        path.write_text(path.read_text().replace("93.00", "92.00"))
        assert [each.problem for each in citations.check(path) if each.problem] == ["the records say otherwise"]
    with pytest.raises(ValueError, match="--format html: allowed are markdown, latex, csv"):
        citations.print_table(analyse(load("results")), "growth_rate", columns, True, "html")


def test_rewriting_keeps_line_ends_mode_and_links(text, tmp_path):
    text.write_bytes(text.read_text().replace("\n", "\r\n").encode())
    text.chmod(0o600)
    link = tmp_path / "link.md"
    link.symlink_to(text)
    assert citations.rewrite(link) == 1
    assert link.is_symlink()
    assert text.read_bytes().count(b"\r\n") == 2
    assert text.stat().st_mode & 0o777 == 0o600


def test_a_chapter_must_say_where_its_numbers_are_from(results, tmp_path):
    write_tables(analyse(load(results)))
    (tmp_path / "chapter.tex").write_text(r"It has \ablate{growth_rate}{8}{params} parameters.")
    assert "no \\input{FOLDER/numbers} says" in citations.check(tmp_path / "chapter.tex")[0].problem
    (tmp_path / "chapter.tex").write_text("% \\input{results/numbers}\n" + r"\num{\ablate{growth_rate}{8}{params}}")
    assert "gives text" in citations.check(tmp_path / "chapter.tex")[0].problem


@pytest.mark.parametrize(
    "row", [r"93.00 \\ % ablate the last row too", "a % ablate", "% ablate: see above", "\\% ablate"]
)
def test_a_comment_that_begins_with_the_word_ablate_is_prose(row, results, tmp_path):
    (tmp_path / "paper.tex").write_text(f"{row}\n")
    assert citations.check(tmp_path / "paper.tex") == []


def test_r_markdown_holds_comments_and_macros(results, tmp_path):
    write_tables(analyse(load(results)))
    text = r"\input{results/numbers}" "\n" r"5 % of \ablate{growth_rate}{8}{params} or "
    (tmp_path / "paper.Rmd").write_text(text + "<!-- ablate results growth_rate 8 params -->7<!-- /ablate -->.\n")
    macro, comment = citations.check(tmp_path / "paper.Rmd")
    assert (macro.recorded, macro.problem) == ("2,000", "")
    assert (comment.recorded, comment.problem) == ("2,000", "the records say otherwise")
    assert citations.rewrite(tmp_path / "paper.Rmd") == 1
    assert not any(citation.problem for citation in citations.check(tmp_path / "paper.Rmd"))


@pytest.mark.parametrize(
    ("cited", "recorded"),
    [
        ("1,000", "1000"), ("1\N{NARROW NO-BREAK SPACE}234\N{NO-BREAK SPACE}567", "1,234,567"), ("1&nbsp;000", "1,000"),
        ("\N{MINUS SIGN}0.1", "-0.1"), ("&minus;0.1", "-0.1"), ("no\r\nresult", "no result"), (" 1.5\n", "1.5"),
    ],
)  # fmt: skip
def test_typography_makes_no_difference(cited, recorded):
    assert citations.agree(cited, recorded)


@pytest.mark.parametrize(
    ("cited", "recorded"),
    [
        ("1.000", "1,000"),
        ("1,00", "100"),
        ("0.1", "-0.1"),
        ("+0.1", "-0.1"),
        ("1,5", "1.5"),
        ("1.50", "1.5"),
        ("1 5", "15"),
    ],
)
def test_another_number_is_another(cited, recorded):
    assert not citations.agree(cited, recorded)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"one\ntwo \xb1", "line 2 is not text in UTF-8"),
        ("\ufeffa".encode("utf-16"), "line 1 is not text in UTF-8"),
        ("a".encode("utf-16-le"), "perhaps in UTF-16: save the file in UTF-8"),
    ],
)
def test_a_text_that_is_not_in_utf_8_is_refused(content, problem, text):
    text.write_bytes(content)
    with pytest.raises(ValueError, match=problem):
        citations.check(text)


def test_what_stands_beside_a_number_is_not_rewritten(text):
    before = "\ufeff1<!-- ablate results growth_rate 8 params -->2000<!-- /ablate --> GiB\r\n"
    text.write_bytes(before.encode())
    assert citations.rewrite(text) == 0
    assert text.read_bytes() == before.encode()
    assert citations.check(text)[0].problem.count(" stands ") == 2


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        (r"\input{RESULTS/numbers}", ""),
        (r"%\input{old/numbers}" + "\n" + r"\input{RESULTS/numbers}", ""),
        (r"\input{old/numbers}\input{RESULTS/numbers}", ""),
        (r"\input{RESULTS/numbers} % \input{old/numbers}", ""),
        ("% \\input{old/numbers}\n% \\input{RESULTS/numbers}", "comments name several numbers.tex"),
        (r"\input{RESULTS/numbers}\input{old/more-numbers}\input{old/numbers-2}\input{intro} numbers", ""),
        (r"\input{RESULTS/numbers}\input old/numbers ", "another command before it"),
        (r"\input{RESULTS/numbers}\input{\place/numbers}", "another command before it"),
        (r'\input{RESULTS/numbers}\input{"old/numbers"}', "another command before it"),
        (r"\input{RESULTS/numbers}\import{old/}{numbers}", "another command before it"),
        (r"\input{RESULTS/numbers}\include{old/numbers.tex}", "another command before it"),
        (r"\input{RESULTS/numbers}\renewcommand{\ablate}[3]{99}", "defines \\ablate itself"),
        (r"\input{RESULTS/numbers}\num[round-precision=1]{", r"\num would take its comma"),
        (r"\begin{verbatim}\input{RESULTS/numbers}\end{verbatim}", r"no \input{FOLDER/numbers} says where it is from"),
    ],
)
def test_the_input_that_latex_reads_is_the_one_that_counts(head, problem, results, tmp_path):
    write_tables(analyse(load(results)))
    path = tmp_path / "paper.tex"
    path.write_text(head.replace("RESULTS", results.name) + "\n" + r"\ablate{growth_rate}{8}{test_accuracy}")
    (found,) = citations.check(path)
    assert problem in found.problem
    assert (found.problem == "") == (problem == "")


def test_an_input_after_the_macro_is_too_late(results, tmp_path):
    write_tables(analyse(load(results)))
    path = tmp_path / "paper.tex"
    path.write_text(r"\ablate{growth_rate}{8}{test_accuracy} \input{results/numbers}")
    assert "stands after it" in citations.check(path)[0].problem


@pytest.mark.parametrize(
    "cited", ["9~342", r"9\;342", "9'342", "9{,}342", r"$9.3 \cdot 10^{3}$", "about 9342", "9342 or so"]
)
def test_a_text_that_we_could_not_have_printed_is_not_renewed(cited, results, tmp_path):
    path = tmp_path / "paper.md"
    path.write_text(f"<!-- ablate results growth_rate 8 params -->{cited}<!-- /ablate -->")
    before = path.read_bytes()
    assert citations.rewrite(path) == 0
    assert path.read_bytes() == before
    assert "the records say otherwise" in citations.check(path)[0].problem


def test_a_full_disk_leaves_the_text_as_it_was(text, monkeypatch):
    before = text.read_bytes()
    monkeypatch.setattr(os, "write", fail_to_write)
    with pytest.raises(StorageError, match="No space left on device"):
        citations.rewrite(text)
    assert text.read_bytes() == before
    assert [path.name for path in text.parent.iterdir() if path.suffix == ".tmp"] == []


def fail_to_write(descriptor, content):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

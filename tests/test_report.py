"""The page: self-contained, escaped, and saying no more than the seeds carry."""

from __future__ import annotations

import re

from conftest import TINY, fabricate, write_grid

import ablations
from ablations import report, tables
from ablations.reader import read


def test_the_page_is_self_contained(results):
    report.write(ablations.load(results))
    page = (results / "report.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!#)', page)
    assert page.count("<svg") == 3
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'(?:href="|url\()#([^")]+)', page))
    assert targets <= set(ids)


def test_the_answer_is_what_the_statistics_say(results):
    table = tables.study_table(ablations.load(results), "growth_rate")
    assert report.answer(table) == "Against 4: 8 changes accuracy by +2.00 points (+0.76 to +3.24)."
    unresolved = tables.study_table(ablations.load(results), "growth_rate")
    unresolved.numbers.loc[1, "verdict"] = "not resolved"
    assert report.answer(unresolved) == "No difference in accuracy is resolved with 3 paired seeds."


def test_text_from_a_grid_is_escaped(tmp_path):
    grid = read(write_grid(tmp_path, TINY.replace("What does a wider layer buy?", "<script>alert(1)</script> & $x$")))
    fabricate(tmp_path / "r", grid)
    report.write(ablations.load(tmp_path / "r"))
    assert "<script" not in (tmp_path / "r" / "report.html").read_text()


def test_failures_are_listed_with_their_reason(tmp_path, tiny):
    from conftest import MACHINE

    from ablations import records
    from ablations.grid import jobs

    fabricate(tmp_path / "r", tiny, skip=("base, seed 0",))
    run = next(job for job in jobs(tiny, MACHINE) if job.name == "base, seed 0")
    records.note_attempt(tmp_path / "r", {"id": run.id, "name": run.name, "status": "failed", "reason": "E: <b>"})
    frames = ablations.load(tmp_path / "r")
    assert report.failures(frames) == ["run base, seed 0: failed, E: <b>"]
    assert report.counts(frames) == "6 runs and the costs of 2 variants: 7 done, 1 failed."
    report.write(frames)
    assert "E: &lt;b&gt;" in (tmp_path / "r" / "report.html").read_text()

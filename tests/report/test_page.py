"""The page: self-contained, escaped, saying no more than the seeds carry, and how it was made."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
from conftest import MACHINE, TINY, fabricate, record_of, study_of, write_grid

import ablations
from ablations.grid.model import list_jobs
from ablations.grid.reader import read
from ablations.report import page as report
from ablations.report.formats import find_sort_value, render_words, spell_beside, spell_lead
from ablations.report.plotting.figures import list_stems
from ablations.report.results import analyse
from ablations.report.tables import Cell, Note, Number, make_study_table
from ablations.storage import files, records


def failing(folder, tiny, status="failed", reason="E: <b>"):
    """Frames of results in which the base's first run failed, and another run is missing."""
    fabricate(folder, tiny, skip=("base, seed 0", "growth_rate 8, seed 2"))
    run = next(job for job in list_jobs(tiny, MACHINE) if job.name == "base, seed 0")
    records.note_attempt(folder, {"id": run.id, "name": run.name, "status": status, "reason": reason})
    return ablations.load(folder)


def test_the_page_is_self_contained(results):
    report.write(analyse(ablations.load(results)))
    page = (results / "report.html").read_text()
    assert not re.findall(r'(?:src|href|srcset|action)="(?!#|data:)', page)
    assert not re.findall(r"@import|fetch\(|XMLHttpRequest|url\((?!#)", page)
    assert page.count("<svg") == sum(map(len, list_stems(analyse(ablations.load(results))).values()))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'(?:href="|url\()#([^")]+)', page))
    assert targets <= set(ids)
    labels = re.findall(r'aria-label="([^"]+)"', page)
    assert len(labels) == len(set(labels))


def test_every_study_says_how_to_read_its_verdicts(results):
    report.write(analyse(ablations.load(results)))
    page = re.sub(r"\s+", " ", (results / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " "))
    reading = (
        "Change against the base, in points, with its 95 % interval over the seeds, on these test images only, which "
        "holds for the one comparison of this study. Different: the interval does not contain 0; otherwise "
        "undecided. Identical: the same weights to the bit, not counted as a comparison."
    )
    assert page.count(reading) == 1
    assert '<span class="note">1 different</span>' in page


def test_a_page_begins_with_its_scope_its_words_and_its_answers(results):
    report.write(analyse(ablations.load(results)))
    page = re.sub(r"\s+", " ", (results / "report.html").read_text())
    places = [page.index(text) for text in (
        "6 runs and 2 costs: 8 done.",
        "Data: digits, 360 test images; 3 seeds. Device: Test processor, 1 thread; fp32; torch 2.99.0; commit",
        "<summary>Words: base, study, level, variant, cost, verdict</summary>",
        '<a href="#study-growth_rate">What does a wider layer buy?</a> Against growth_rate 4',
        '<section class="study"',
    )]  # fmt: skip
    assert places == sorted(places)


def test_the_page_is_the_same_from_wherever_it_is_made(results, monkeypatch):
    report.write(analyse(ablations.load(results)))
    monkeypatch.chdir(results)
    assert report.render_page(analyse(ablations.load("."))) == (results / "report.html").read_text()


def test_before_anything_has_run_there_is_a_page(tmp_path, tiny):
    names = {job.name for job in list_jobs(tiny, MACHINE)}
    fabricate(tmp_path / "r", tiny, skip=tuple(names))
    report.write(analyse(ablations.load(tmp_path / "r")))
    page = (tmp_path / "r" / "report.html").read_text()
    assert "Nothing can be compared: growth_rate 4, the base, has no result." in page
    assert "Nothing has been run yet." in page


def test_text_from_a_grid_is_escaped(tmp_path):
    grid = read(write_grid(tmp_path, TINY.replace("What does a wider layer buy?", "<script>alert(1)</script> & $x$")))
    fabricate(tmp_path / "r", grid)
    report.write(analyse(ablations.load(tmp_path / "r")))
    assert "<script>alert" not in (tmp_path / "r" / "report.html").read_text()


@pytest.mark.parametrize(
    ("cell", "lead", "beside", "value"),
    [
        (Cell((Number(97.13, "97.13", "0.28"),)), "97.13 ± 0.28", "", "97.13"),
        (
            Cell((Number(1234.0, "1,234"),), notes=(Note((Number(0.03, "+3"), " %")), Note(("disturbed",)))),
            "1,234", "(+3 %; disturbed)", "1234",
        ),
        (
            Cell((Number(-1.3, "-1.3"),), (), (Number(-1.7, "-1.7"), Number(-0.9, "-0.9")), (Note(("lost runs",)),)),
            "-1.3", "[-1.7, -0.9] (lost runs)", "-1.3",
        ),
        (Cell(), "", "", None),
        (Cell(lacks=((Number(3, "3"), " oom"), (Number(1, "1"), " missing"))), "3 oom, 1 missing", "", None),
        (Cell(("undecided",)), "undecided", "", None),
    ],
)  # fmt: skip
def test_a_cell_is_its_number_and_what_stands_beside_it(cell, lead, beside, value):
    assert (render_words(spell_lead(cell)), render_words(spell_beside(cell)), find_sort_value(cell)) == (
        lead,
        beside,
        value,
    )


def test_failures_stand_by_cause_with_what_runs_them_again(tmp_path, tiny):
    frames = failing(tmp_path / "r", tiny)
    assert report.count_jobs(frames) == "6 runs and 2 costs: 6 done, 1 failed, 1 missing."
    assert report.find_causes(frames) == [{"status": "failed", "reason": "E: <b>", "jobs": ["run base, seed 0"]}]
    report.write(analyse(frames))
    page = (tmp_path / "r" / "report.html").read_text()
    assert "<strong>1 failed</strong>: E: &lt;b&gt;" in page
    assert "<strong>1 missing</strong>: there is no record yet" in page
    assert "<p>1 failed, 1 missing. Such a job" in page
    assert "<code>ablate run r/grid.toml --out r --device cpu --retry failed</code>" in page


def test_a_damaged_record_is_named(results):
    path = next((results / "records").iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    report.write(analyse(ablations.load(results)))
    page = (results / "report.html").read_text()
    assert f"<strong>damaged</strong>, and counted as missing: <code>records/{path.name}</code>" in page
    assert "<p>1 missing, 1 damaged. Such a job" in page


def test_where_nothing_failed_the_page_says_so(results):
    report.write(analyse(ablations.load(results)))
    assert "Nothing: every job is done" in (results / "report.html").read_text()


def test_the_base_is_marked_and_every_cell_has_its_heads(results):
    report.write(analyse(ablations.load(results)))
    page = (results / "report.html").read_text()
    assert page.count('<tr class="base">') == 2, "of the study and of all variants"
    heads = len(make_study_table(study_of(ablations.load(results))).columns)
    fewer = heads - 6  # all variants are not tested as one family
    assert page.count('<th scope="col"') == heads + fewer
    assert len(re.findall('<th scope="row"[ >]', page)) == 4
    assert len(re.findall("<td[ >]", page)) == 2 * (heads - 1) + 2 * (fewer - 1)
    assert page.count("<caption>") == 2


def test_the_environment_is_that_of_the_records(results):
    found = dict(report.list_environment(ablations.load(results)))
    assert (found["Device"], found["torch"], found["Threads of a job"]) == ("Test processor", "2.99.0", "1")
    assert found["Commit"] == "0123456789ab"


def test_a_second_environment_is_counted(results):
    frames = ablations.load(results)
    frames.runs.loc[0, "commit"] = "ba9876543210"
    assert dict(report.list_environment(frames))["Commit"] == "0123456789ab (7 records), ba9876543210 (1 record)"


def test_a_folder_s_name_is_quoted_in_commands(tmp_path, tiny):
    folder = tmp_path / "my results"
    fabricate(folder, tiny)
    assert report.list_commands(ablations.load(folder)) == [
        "ablate run 'my results/grid.toml' --out 'my results-again' --device cpu",
        "ablate report 'my results'",
    ]
    assert shutil.which("sha256sum")
    for each in report.list_checksums(folder):
        out = subprocess.run(each["command"], shell=True, cwd=tmp_path, capture_output=True, text=True).stdout
        assert out.split()[0] == each["sha256"]


def test_a_folder_without_its_grid_makes_a_page(results):
    (results / "grid.toml").unlink()
    report.write(analyse(ablations.load(results)))
    assert [each["of"] for each in report.list_checksums(results)] == ["jobs.json", "8 records"]
    assert files.read(results / "report.html")


def test_the_time_of_trainings_divides_into_steps_and_all_else(tmp_path, tiny):
    fabricate(tmp_path, tiny)
    assert report.describe_time(ablations.load(tmp_path)) == "", "records of before tell nothing of it"
    parts = {"start": 0.5, "data": 0.25, "step": 8.0, "evaluation": 0.75, "checkpoint": 0.5, "rest": 0.0}
    told = [job for job in list_jobs(tiny, MACHINE) if job.kind == "run"][:2]
    for job in told:
        (tmp_path / "records" / f"{job.id}.json").unlink()
        record = record_of(job, 90.0, 1.0)
        record["measured"] |= {"seconds": 10.0, **{f"{part}_seconds": value for part, value in parts.items()}}
        records.publish(tmp_path, record)
    frames = ablations.load(tmp_path)
    said = (
        "2 trainings took 20 s in their processes: 80.0 % in forward, backward and optimizer steps, 20.0 % around them "
        "(start 5.0 %, data and augmentation 2.5 %, evaluation 7.5 %, checkpoints 5.0 %, rest 0.0 %)."
    )
    assert report.describe_time(frames) == said
    assert ("Time of the trainings", said) in report.list_environment(frames)

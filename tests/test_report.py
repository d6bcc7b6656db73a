"""The page: self-contained, escaped, saying no more than the seeds carry, and how it was made."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace

import pytest
from conftest import MACHINE, TINY, fabricate, write_grid

import ablations
from ablations import files, records, report, tables
from ablations.grid import jobs
from ablations.reader import read


def answer(frames, change=lambda numbers: None, study="growth_rate"):
    """The answer of a study of frames whose numbers a test has changed."""
    table = tables.study_table(frames, study)
    change(table.numbers)
    return report.answer(frames, table)


def with_levels(frames, rows):
    """Frames whose study has these levels beside its base: a row of numbers is copied for each and changed."""
    table = tables.study_table(frames, "growth_rate")
    base, other = table.numbers.to_dict("records")
    numbers = type(table.numbers)([base, *({**other, "level": f"level-{n}", **row} for n, row in enumerate(rows))])
    return report.answer(frames, replace(table, numbers=numbers))


def failing(folder, tiny, status="failed", reason="E: <b>"):
    """Frames of results in which the base's first run failed, and another run is missing."""
    fabricate(folder, tiny, skip=("base, seed 0", "growth_rate 8, seed 2"))
    run = next(job for job in jobs(tiny, MACHINE) if job.name == "base, seed 0")
    records.note_attempt(folder, {"id": run.id, "name": run.name, "status": status, "reason": reason})
    return ablations.load(folder)


def test_the_page_is_self_contained(results):
    report.write(ablations.load(results))
    page = (results / "report.html").read_text()
    assert not re.findall(r'(?:src|href|srcset|action)="(?!#|data:)', page)
    assert not re.findall(r"@import|fetch\(|XMLHttpRequest|url\((?!#)", page)
    assert page.count("<svg") == sum(map(len, report.stems(ablations.load(results)).values()))
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'(?:href="|url\()#([^")]+)', page))
    assert targets <= set(ids)
    labels = re.findall(r'aria-label="([^"]+)"', page)
    assert len(labels) == len(set(labels))


def test_the_page_is_the_same_from_wherever_it_is_made(results, monkeypatch):
    report.write(ablations.load(results))
    monkeypatch.chdir(results)
    assert report.html(ablations.load(".")) == (results / "report.html").read_text()


def test_before_anything_has_run_there_is_a_page(tmp_path, tiny):
    names = {job.name for job in jobs(tiny, MACHINE)}
    fabricate(tmp_path / "r", tiny, skip=tuple(names))
    report.write(ablations.load(tmp_path / "r"))
    page = (tmp_path / "r" / "report.html").read_text()
    assert "Nothing can be compared: growth_rate 4, the base, has no result." in page
    assert "Nothing has been run yet." in page


def test_text_from_a_grid_is_escaped(tmp_path):
    grid = read(write_grid(tmp_path, TINY.replace("What does a wider layer buy?", "<script>alert(1)</script> & $x$")))
    fabricate(tmp_path / "r", grid)
    report.write(ablations.load(tmp_path / "r"))
    assert "<script>alert" not in (tmp_path / "r" / "report.html").read_text()


def test_a_resolved_change_has_its_interval_and_its_price(results):
    frames = ablations.load(results)
    assert answer(frames) == ["Against growth_rate 4: growth_rate 8 gains 2.00 points (95 % 0.76–3.24) at +100 % MACs "
                              "and +100 % params."]  # fmt: skip


@pytest.mark.parametrize(
    ("macs", "params", "price"),
    [
        (0.0, 0.01, " at equal MACs and params"),
        (0.004, -0.03, " at equal MACs and −3 % params"),
        (0.42, -0.0101, " at +42 % MACs and −1 % params"),
        (float("nan"), 0.5, " at +50 % params"),
        (float("nan"), float("nan"), ""),
    ],
)
def test_costs_within_a_percent_are_equal_and_unknown_ones_unsaid(macs, params, price):
    assert report._price({"macs_change": macs, "params_change": params}) == price


def test_the_three_largest_changes_are_named_and_the_others_counted(results):
    changes = [-1.0, 2.0, -3.0, 4.0, 0.5, -0.25]
    rows = [{"difference": d, "low": d - 0.1, "high": d + 0.1, "macs_change": 0, "params_change": 0} for d in changes]
    assert with_levels(ablations.load(results), rows) == [
        "Against growth_rate 4: level-3 gains 4.00 points (95 % 3.90–4.10) at equal MACs and params; level-2 loses "
        "3.00 points (95 % 2.90–3.10) at equal MACs and params; level-1 gains 2.00 points (95 % 1.90–2.10) at equal "
        "MACs and params; and 2 more lose and 1 more gains.",
        "Costs against the base over all levels: equal MACs and params, peak memory in training +100 %.",
    ]


def test_an_unresolved_change_is_said_to_be_so(results):
    frames = ablations.load(results)
    row = {"verdict": "not resolved", "low": -0.5, "high": 4.5}
    assert with_levels(frames, [row]) == [
        "Not resolved with 3 seeds: the change in accuracy of level-0, +2.00 points (95 % −0.50 to +4.50).",
        "Costs against the base: MACs +100 %, params +100 %, peak memory in training +100 %.",
    ]
    less = row | {"difference": -2.5, "low": -4.75, "high": -0.25, "macs_change": -0.5, "params_change": 0.0}
    assert with_levels(frames, [row | {"params_change": 0.0}, less | {"pairs": 2}]) == [
        "Not resolved with 2 to 3 seeds: the change in accuracy of both levels; the largest is that of level-1, −2.50 "
        "points (95 % −4.75 to −0.25, not corrected for 2 comparisons).",
        "Costs against the base over all levels: equal params, MACs −50 % to +100 %, peak memory in training +100 %.",
    ]
    assert with_levels(frames, [{}, row, row])[1].startswith(
        "Not resolved with 3 seeds: the change in accuracy of 2 of 3 levels; the largest is that of level-1"
    )


def test_one_seed_carries_no_interval(tmp_path):
    fabricate(tmp_path / "r", read(write_grid(tmp_path, TINY.replace("[0, 1, 2]", "[0]"))))
    assert answer(ablations.load(tmp_path / "r"))[0] == (
        "One seed carries no interval, and so cannot resolve the change in accuracy of growth_rate 8, +2.00 points."
    )


def test_the_same_change_in_every_seed_carries_no_interval(results):
    row = {"verdict": "not resolved", "low": float("nan"), "high": float("nan")}
    assert (
        "+2.00 points (the same in every seed, which carries no interval)"
        in with_levels(ablations.load(results), [row])[0]
    )


def test_identical_levels_are_told_by_what_they_save(results):
    same = {"verdict": "identical", "difference": 0.0, "low": 0.0, "high": 0.0}
    less = same | {"train_peak_memory_bytes_change": -0.52, "train_images_per_second_change": -0.24}
    within_spread = same | {"train_peak_memory_bytes_change": 0.005, "train_images_per_second_change": -0.04}
    assert with_levels(ablations.load(results), [within_spread, less]) == [
        "Results identical to those of growth_rate 4, to the bit, with 3 seeds: level-1, with 52 % less peak memory "
        "in training and 24 % slower training; level-0."
    ]


def test_a_missing_base_and_missing_runs_are_told(tmp_path, tiny):
    fabricate(tmp_path / "r", tiny, skip=tuple(f"base, seed {seed}" for seed in range(3)))
    assert answer(ablations.load(tmp_path / "r")) == [
        "Nothing can be compared: growth_rate 4, the base, has no result.",
        "Costs against the base: MACs +100 %, params +100 %, peak memory in training +100 %.",
        "3 of 6 runs have no result: 3 missing.",
    ]


def test_a_level_without_a_common_seed_is_named(tmp_path, tiny):
    fabricate(tmp_path / "r", tiny, skip=("base, seed 0", "growth_rate 8, seed 1", "growth_rate 8, seed 2", "base"))
    assert answer(ablations.load(tmp_path / "r")) == [
        "No result to compare: growth_rate 8.",
        "3 of 6 runs have no result: 3 missing.",
        "1 of 2 measurements of costs has no result: 1 missing.",
    ]


@pytest.mark.parametrize(
    ("label", "axes", "name"),
    [
        ("12", ["model.growth_rate"], "growth_rate 12"),
        ("8-16-32", ["model.growth_rate"], "growth_rate 8-16-32"),
        ("none", ["model.norm"], "norm none"),
        ("conv-norm-act", ["model.layer_order"], "conv-norm-act"),
        ("12, 0.5", ["model.growth_rate", "model.compression"], "“growth_rate 12, compression 0.5”"),
        ("base", ["model.growth_rate", "model.compression"], "base"),
        ("added, equal MACs", [], "“added, equal MACs”"),
        ("ResNet-20", [], "ResNet-20"),
    ],
)
def test_levels_are_named_so_that_a_sentence_can_hold_them(label, axes, name):
    assert report._name(label, axes) == name


def test_one_point_is_one_point():
    assert [report._points(size) for size in (0.5, 0.999, 1.0, 1.3)] == [
        "0.50 points", "1.00 point", "1.00 point", "1.30 points",
    ]  # fmt: skip


def test_a_percent_has_a_sign_unless_it_is_none():
    assert [report._percent(change) for change in (0.42, -0.031, 0.004, -0.004, 4.41)] == [
        "+42 %", "−3 %", "0 %", "0 %", "+441 %",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("cell", "parts"),
    [
        ("97.13 ± 0.28", ("97.13 ± 0.28", "")),
        ("1,234 (+3 %; IQR 5.0 %)", ("1,234", "(+3 %; IQR 5.0 %)")),
        ("-1.30 [-1.72, -0.88]", ("-1.30", "[-1.72, -0.88]")),
        ("", ("", "")),
        ("oom", ("oom", "")),
    ],
)
def test_a_cell_is_its_number_and_what_stands_beside_it(cell, parts):
    assert report._parted(cell) == parts


def test_failures_stand_by_cause_with_what_runs_them_again(tmp_path, tiny):
    frames = failing(tmp_path / "r", tiny)
    assert report.failures(frames) == ["run base, seed 0: failed, E: <b>"]
    assert report.counts(frames) == "6 runs and the costs of 2 variants: 6 done, 1 failed, 1 missing."
    assert report.causes(frames) == [{"status": "failed", "reason": "E: <b>", "jobs": ["run base, seed 0"]}]
    report.write(frames)
    page = (tmp_path / "r" / "report.html").read_text()
    assert "<strong>1 failed</strong>: E: &lt;b&gt;" in page
    assert "<strong>1 missing</strong>: there is no record yet" in page
    assert "<p>1 failed, 1 missing. Such a job" in page
    assert "<code>ablate run r/grid.toml --out r --retry failed</code>" in page


def test_a_damaged_record_is_named(results):
    path = next((results / "records").iterdir())
    path.write_bytes(path.read_bytes()[:-20])
    report.write(ablations.load(results))
    page = (results / "report.html").read_text()
    assert f"<strong>damaged</strong>, and counted as missing: <code>records/{path.name}</code>" in page
    assert "<p>1 missing, 1 damaged. Such a job" in page


def test_where_nothing_failed_the_page_says_so(results):
    report.write(ablations.load(results))
    assert "Nothing: every job is done" in (results / "report.html").read_text()


def test_the_base_is_marked_and_every_cell_has_its_heads(results):
    report.write(ablations.load(results))
    page = (results / "report.html").read_text()
    assert page.count('<tr class="base">') == 1
    heads = len(tables.study_table(ablations.load(results), "growth_rate").heads)
    assert page.count('<th scope="col">') == heads
    assert page.count('<th scope="row">') == 2
    assert page.count("<td>") == 2 * (heads - 1)
    assert page.count("<caption>") == 1


def test_the_environment_is_that_of_the_records(results):
    found = dict(report.environment(ablations.load(results)))
    assert (found["Device"], found["torch"], found["Threads of a job"]) == ("Test processor", "2.99.0", "1")
    assert found["Commit"] == "0123456789ab"


def test_a_second_environment_is_counted(results):
    frames = ablations.load(results)
    frames.runs.loc[0, "commit"] = "ba9876543210"
    assert dict(report.environment(frames))["Commit"] == "0123456789ab (7 records), ba9876543210 (1 record)"


def test_a_folder_s_name_is_quoted_in_commands(tmp_path, tiny):
    folder = tmp_path / "my results"
    fabricate(folder, tiny)
    assert report.commands(ablations.load(folder)) == [
        "ablate run 'my results/grid.toml' --out 'my results-again' --device cpu",
        "ablate report 'my results'",
    ]
    assert shutil.which("sha256sum")
    for each in report.checksums(folder):
        out = subprocess.run(each["command"], shell=True, cwd=tmp_path, capture_output=True, text=True).stdout
        assert out.split()[0] == each["sha256"]


def test_a_folder_without_its_grid_makes_a_page(results):
    (results / "grid.toml").unlink()
    report.write(ablations.load(results))
    assert [each["of"] for each in report.checksums(results)] == ["jobs.json", "8 records"]
    assert files.read(results / "report.html")

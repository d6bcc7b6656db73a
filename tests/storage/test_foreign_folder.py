"""A results folder from elsewhere, or with files of others: the commands say it, in sentences."""

from __future__ import annotations

import json
import os

import pandas as pd
from conftest import MACHINE, fabricate, write_grid
from typer.testing import CliRunner

from ablations.cli import app
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read
from ablations.report.formats import render_csv, render_macros
from ablations.report.frames import load
from ablations.report.survey import survey
from ablations.storage import files, records
from ablations.storage.journal import open_journal
from ablations.storage.manifest import list_foreign


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_files_that_are_no_records_are_ignored_and_told(results):
    place = results / "records"
    path = next(place.iterdir())
    (place / f"{path.stem} (1).json").write_bytes(path.read_bytes())
    (place / f"._{path.name}").write_bytes(b"\0")
    found = call("status", results)
    assert (found.exit_code, "damaged" in found.output) == (0, False)
    assert f"ignored, because its name is not that of a record: 'records/{path.stem} (1).json'" in found.output
    assert len(json.loads(call("status", results, "--json").output)["ignored"]) == 2
    assert load(results).damaged == ()


def test_records_of_another_machine_with_other_seeds_say_how_they_are_taken_in(tmp_path, tiny):
    fabricate(tmp_path / "r", tiny)
    few = read(write_grid(tmp_path), seeds=[0, 1])
    make_manifest(few, {**MACHINE, "device_name": "Another"}, tmp_path / "r").write(tmp_path / "r")
    told = call("status", tmp_path / "r").output
    assert "2 records of runs with other seeds than the grid's: `--seeds 0,1,2` includes these seeds" in told
    assert "records of jobs that this grid does not have (2 cost)" in told
    assert "damaged" not in told


def test_a_survey_says_what_the_frames_say(results):
    frames, found = load(results), survey(results)
    for kind, frame in frames.jobs().items():
        assert [state[:2] for state in found.states[kind]] == [*zip(frame.id, frame.status, strict=True)]


def test_a_link_out_of_the_folder_is_not_followed(results, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (results / "grid.toml").unlink()
    (results / "grid.toml").symlink_to(tmp_path / "secret")
    found = call("report", results)
    assert found.exit_code == 2
    assert "grid.toml cannot be read: it is a link, and links are not followed" in found.output
    assert not (results / "report.html").exists()


def test_a_study_s_name_cannot_lead_out_of_the_folder(results, tmp_path):
    plan = records.unseal(files.read(results / "jobs.json"))
    plan["studies"][0]["name"] = "../../X"
    (results / "jobs.json").write_bytes(records.seal(plan))
    for command in ("report", "status"):
        found = call(command, results)
        assert (found.exit_code, "a study's name is 1 to 64 letters" in found.output) == (2, True)
    assert not list(tmp_path.glob("X*"))


def test_a_pipe_in_place_of_a_record_or_of_the_lock_blocks_nobody(results):
    os.mkfifo(results / ".lock")
    assert call("status", results).exit_code == 0
    path = next((results / "records").iterdir())
    path.unlink()
    os.mkfifo(path)
    for command in ("report", "status"):
        found = call(command, results)
        assert (found.exit_code, f"{path.name} cannot be read" in found.output) == (2, True)


def test_a_journal_is_ours_and_changes_no_report(results):
    report = ("report", results, "--only", "tables")
    assert call(*report).exit_code == 0
    before = {path: path.read_bytes() for path in results.rglob("*") if path.is_file()}
    with open_journal(results) as note:
        note("started", "a" * 16)
    assert call(*report).exit_code == 0
    (results / "events.jsonl").rename(results.parent / "events.jsonl")
    assert {path: path.read_bytes() for path in results.rglob("*") if path.is_file()} == before
    assert list_foreign(results.parent) == ["results", "tiny.toml"]


def test_all_folders_are_rebuilt_whatever_their_names(results, tmp_path):
    """No shell reads the names."""
    name = "a; touch hacked $(touch hacked)"
    (tmp_path / "all").mkdir()
    results.rename(tmp_path / "all" / name)
    assert call("report", tmp_path / "all", "--all", "--only", "tables").exit_code == 0
    assert (tmp_path / "all" / name / "runs.csv").exists()
    assert call("report", tmp_path / "all" / name, "--all").exit_code == 2


def test_no_cell_of_a_csv_file_is_a_formula():
    frame = pd.DataFrame({"=a": ["=1+1", "@x", "-2+cmd", "-0.5", "plain"], "b": [-1, 2, 3, 4, 5], "c": [None] * 5})
    assert render_csv(frame) == b"'=a,b,c\n'=1+1,-1,\n'@x,2,\n'-2+cmd,3,\n-0.5,4,\nplain,5,\n"


def test_a_name_in_latex_ends_nothing_and_begins_nothing():
    text = render_macros({("s", r"a}\endcsname\input{x}%#^^7d", "n"): "1"}, "r")
    assert r"\detokenize{s:a\}\\endcsname\\input\{x\}\%\#\^\^7d:n}" in text

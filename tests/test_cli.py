"""The command line: exit codes, errors for people, no traceback."""

from __future__ import annotations

import json
import os
import re
import threading

import pytest
import torch
from conftest import MACHINE, ROOT, TINY, fabricate, write_grid
from typer.testing import CliRunner

from ablations.cli import Interrupted, _finish, app
from ablations.grid.model import list_jobs
from ablations.storage import records
from ablations.storage.turns import Purpose, lock_device


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_list_names_what_there_is():
    result = call("list")
    assert result.exit_code == 0
    assert (
        "Grids: cifar10, cifar10-cpu, cifar10-deep, cifar10-gpu, cifar10-long, cifar10-paper, presets, quick"
        in result.output
    )
    assert (
        "Data sets: digits, cifar10, cifar100, svhn, mnist, fashion-mnist, imagefolder, parquet, arrays, random"
        in result.output
    )


def test_plan_counts_and_trains_nothing(tmp_path):
    path = write_grid(tmp_path)
    result = call("plan", path, "--json")
    plan = json.loads(result.output)
    assert (plan["runs"], plan["costs"]) == (6, 2)
    assert plan["variants"][0]["params"] > 0
    assert plan["variants"][0]["predicted_train_peak_memory_bytes"] > 0
    said = call("plan", path, "--device", "cpu").output
    assert "6 runs of 2 variants, 6 of them missing" in said
    timed = r"They take (about|up to) .* seconds? with \d+ workers?, by a calibration on the base, scaled by MACs\."
    assert re.search(timed, said)
    assert " with 3 workers, " in call("plan", path, "--device", "cpu", "--workers", 3).output
    assert [each.name for each in tmp_path.iterdir()] == ["tiny.toml"]


class Loud(torch.nn.Linear):
    """A user's network that prints."""

    def __init__(self, in_channels, num_classes):
        print("building")
        super().__init__(64 * in_channels, num_classes)

    def forward(self, images):
        print("at work")
        return super().forward(images.flatten(1))


def test_what_a_user_s_network_prints_is_no_part_of_the_plan(tmp_path):
    grid = f'[base]\nmodel.family = "{__name__}:Loud"\ndata.train_limit = 100\n[study.e]\ntrain.epochs = [1, 2]\n'
    result = call("plan", write_grid(tmp_path, grid), "--counts-only", "--json")
    assert json.loads(result.stdout)["variants"][0]["params"] == 650
    assert "at work" in result.stderr


class Frozen(Loud):
    """A user's network of which a part is not trained."""

    def __init__(self, in_channels, num_classes):
        super().__init__(in_channels, num_classes)
        self.weight.requires_grad_(False)


def test_plan_tells_params_that_are_not_trained(tmp_path):
    frozen = f'\n[study.frozen]\nvariant = [{{ name = "bias", model.family = "{__name__}:Frozen" }}]\n'
    said = call("plan", write_grid(tmp_path, TINY + frozen), "--counts-only").stdout
    assert "frozen bias has 640 more params, which are not trained.\n" in said


def test_plan_says_how_large_a_change_the_seeds_will_find(tmp_path):
    """With sd 0.5 and 3 seeds: (2.776445 + 0.940965) sqrt(2 * 0.25 / 3) = 1.5176 points, with 4 degrees of freedom.

    n seeds show that a change is within the margin where (t_0.975 + t_0.9) sqrt(2 * 0.25 / n) <= 0.5, with 2 (n - 1)
    degrees of freedom: 0.501 for n = 22, 0.490 for n = 23.
    """
    path = write_grid(tmp_path, TINY.replace("speed_rounds", "margin = 0.5\nspeed_rounds"))
    said = (
        "growth_rate, 1 comparison: 3 seeds would find a change of 1.5 points in about four cases of five; to show "
        "that a change is within the margin of 0.5 takes 23 seeds (sd 0.5, stated, on these test images: the choice of "
        "images adds to it)."
    )
    assert said in " ".join(call("plan", path, "--counts-only", "--sd", 0.5).output.split())
    (power,) = json.loads(call("plan", path, "--counts-only", "--sd", 0.5, "--json").output)["power"]
    assert (power["sentence"], power["seeds_for_margin"]) == (said, 23)
    assert power["smallest"] == pytest.approx(1.517644, abs=1e-4)
    unknown = " ".join(call("plan", path, "--counts-only", "--out", tmp_path / "r").output.split())
    assert "is unknown before the first runs: --sd states how seeds vary." in unknown
    one = call("plan", path, "--counts-only", "--sd", 0.5, "--seeds", 0).output
    assert "1 comparison: 1 seed finds nothing, because two or more give an interval" in " ".join(one.split())
    assert call("plan", path, "--sd", 0).exit_code == 2


def test_plan_takes_the_spread_of_earlier_runs(results, tiny, tmp_path):
    """The variance of the six runs is 0.5: see ACCURACY. The change found is 1.5176 sqrt(0.5 / 0.25) points."""
    planned = json.loads(call("plan", tmp_path / "tiny.toml", "--counts-only", "--json", "--out", results).output)
    assert [each["sentence"] for each in planned["power"]] == [
        "growth_rate, 1 comparison: 3 seeds would find a change of 2.1 points in about four cases of five (sd 0.71, 6 "
        "earlier runs, on these test images: the choice of images adds to it)."
    ]


def test_plan_shows_what_was_published_beside_what_is_counted(tmp_path):
    preset = TINY.replace("model.block_config = [1, 1]\nmodel.growth_rate = 4", 'model.preset = "resnet20"')
    images = 'data.name = "random"\ndata.shape = [3, 32, 32]\ndata.classes = 10\ndata.size = 1'
    preset = preset.replace('data.name = "digits"\ndata.train_limit = 100', images)
    path = write_grid(tmp_path, preset.replace("model.growth_rate = [4, 8]", "model.width = [1.0, 0.25]"))
    whole, narrow = json.loads(call("plan", path, "--json").output)["variants"]
    assert whole["published"] == {"params": 269_722, "macs": 40_550_000}
    assert (whole["params"], whole["macs"]) == (269_722, 40_551_040)
    assert "published" not in narrow
    (row,) = [line for line in call("plan", path).output.splitlines() if line.strip().startswith("growth_rate 1.0")]
    assert row.split()[-2:] == ["269,722", "40.55"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["run", "qick"],
            "no grid qick: neither a file nor one of the shipped grids, which are cifar10, cifar10-cpu, cifar10-deep, ",
        ),
        (["run", "quick", "--device", "tpu"], "allowed are auto, cpu, cuda"),
        (["run", "quick", "--shard", "9/8"], "3/8 is the third of eight parts, 8/8 the last one"),
        (["run", "quick", "--retry", "all"], "allowed are failed, oom, diverged, timeout"),
        (["run", "quick", "--seeds", "a"], "whole numbers are needed"),
        (["plan", "quick", "--set", "train.epoch=3"], "did you mean 'epochs'"),
        (
            ["status", "nowhere"],
            "holds no results: there is no jobs.json, which `ablate run` writes when it has planned",
        ),
        (["report", "nowhere"], "holds no results"),
        (["check", "nowhere.md"], "cannot be read"),
        (["check", ROOT / "Makefile"], "this kind of file is not read"),
    ],
)
def test_misuse_ends_with_2_and_a_sentence(arguments, message):
    result = call(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_stop_says_what_is_kept(is_begun, results, tmp_path, monkeypatch):
    """Before there is a plan, nothing is."""

    def stop(*arguments):
        raise Interrupted

    monkeypatch.setattr("ablations.cli._grid", stop)
    stopped = call("run", "quick", "--out", results if is_begun else tmp_path / "new")
    assert (stopped.exit_code, stopped.stdout) == (75, "Planning quick ...\n")
    expected = f"is kept in {results}; the same" if is_begun else "while it was planning: no job was begun. The same"
    assert f"{expected} command" in stopped.stderr


def test_a_wrong_grid_ends_with_2_and_every_problem(tmp_path):
    result = call("run", write_grid(tmp_path, TINY.replace("[4, 8]", "[0, -1]")), "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "2 problems, nothing was run" in result.output
    assert not (tmp_path / "out").exists()


def test_status(results):
    result = call("status", results)
    assert result.exit_code == 0
    assert "runs: 6 done" in result.output
    assert "8 made by commit 0123456789ab, sources 00ff00ff00ff00ff" in result.output
    assert json.loads(call("status", results, "--json").output)["costs"] == {"done": 2}


def test_status_says_for_whom_a_job_waits(results):
    said: list[str] = []
    free = threading.Event()

    def look(others):
        said.append(call("status", results).output)
        free.set()

    def measure():
        with lock_device("test", True, look, Purpose("cost base", str(results))):
            pass

    with lock_device("test", False, pytest.fail, Purpose("run of others", "there")):
        waiting = threading.Thread(target=measure)
        waiting.start()
        assert free.wait(20)
    waiting.join()
    assert f"cost base waits for test, used by run of others of there (process {os.getpid()})\n" in said[0]
    assert json.loads(call("status", results, "--json").output)["waits"] == []


def test_disturbed_measurements_are_counted_with_what_to_do(results):
    said = "Disturbed by other load: 1 cost or speed; `--retry disturbed` measures again"
    assert said in call("status", results).output
    assert json.loads(call("status", results, "--json").output)["disturbed"] == 1


def test_report_rebuilds_all_or_a_part(results):
    assert "9 files rebuilt from 6 of 6 runs, 2 of 2 costs." in call("report", results, "--only", "figures").output
    assert (results / "figures" / "growth_rate.svg").exists()
    assert not (results / "tables").exists()
    assert call("report", results, "--only", "pictures").exit_code == 2
    assert call("report", results).exit_code == 0
    assert (results / "report.html").exists()
    assert (results / "tables" / "growth_rate.tex").exists()


def test_report_tells_programs_what_it_rebuilt(results):
    said = call("report", results, "--only", "tables").output
    (told,) = json.loads(call("report", results, "--only", "tables", "--json").stdout)["reports"]
    jobs = ", ".join(f"{count['done']} of {count['total']} {kind}" for kind, count in told["jobs"].items())
    assert said == f"{results}: {len(told['files'])} files rebuilt from {jobs}.\n"
    assert set(told["files"]) >= {str(path) for path in (results / "tables").iterdir()}
    assert (told["folder"], told["gaps"]) == (str(results), {"growth_rate": []})
    assert len(json.loads(call("report", results.parent, "--all", "--only", "tables", "--json").stdout)["reports"]) == 1


def test_report_and_cite_say_what_is_missing(tmp_path, tiny):
    fabricate(tmp_path / "r", tiny, skip=("growth_rate 8, seed 1", "growth_rate 8"))
    told = call("report", tmp_path / "r", "--only", "tables").output
    assert "files rebuilt from 5 of 6 runs, 1 of 2 costs." in told
    assert "  growth_rate: 1 of 6 runs has no result: 1 missing." in told
    assert "  growth_rate: 1 of 2 measurements of costs has no result: 1 missing." in told
    mark = call("cite", tmp_path / "r", "growth_rate", 8, "test_accuracy", "--as", "latex")
    assert mark.stdout == "\\ablate{growth_rate}{8}{test_accuracy}\n"
    assert mark.stderr == "Note: Incomplete: growth_rate 8 has 2 of 3 seeds (1 missing).\n"


def test_table_prints_the_chosen_columns(results):
    text = call("table", results, "growth_rate", "--columns", "accuracy, params", "--short").stdout
    assert "| 8 | 93.00 ± 0.87 | 2,000 |\n" in text
    assert text.startswith(f"<!-- ablate {results} growth_rate --columns accuracy,params --short -->\n")
    assert "level,is_base,params,params_change\n" in call(
        "table", results, "growth_rate", "--columns", "params", "--format", "csv"
    ).stdout  # fmt: skip
    assert text == call("table", results, "growth_rate", "--columns", "test_accuracy, params", "--short").stdout
    wrong = call("table", results, "growth_rate", "--columns", "accuracy,parms")
    assert (wrong.exit_code, wrong.stdout) == (2, "")
    assert "unknown columns: 'parms'; growth_rate has n, accuracy, change," in " ".join(wrong.stderr.split())


def test_failed_jobs_are_told_and_the_exit_code_is_1(results, tiny, capsys):
    assert _finish(results) == 0
    assert "93.00 ± 0.87" in capsys.readouterr().out
    run = next(job for job in list_jobs(tiny, MACHINE) if job.name == "growth_rate 8, seed 1")
    (results / "records" / f"{run.id}.json").unlink()
    note = {"id": run.id, "name": run.name, "status": "oom", "reason": "MemoryError: 3 GiB"}
    records.note_attempt(results, note)
    assert _finish(results) == 1
    shown = capsys.readouterr()
    assert (
        "1 not done; `--retry oom` runs them again:\n  1 oom: MemoryError: 3 GiB\n    run growth_rate 8, seed 1\n"
        in shown.err
    )
    assert "1 oom" in shown.out


def test_cite_and_check(results, tmp_path):
    result = call("cite", results, "growth_rate", "8", "test_accuracy")
    assert result.output.startswith("93.00 %")
    page = tmp_path / "page.md"
    page.write_text(call("cite", results, "growth_rate", "8", "test_accuracy", "--as", "markdown").output)
    assert call("check", page).exit_code == 0
    page.write_text(page.read_text().replace("93.00", "93.10"))
    stale = call("check", page)
    assert stale.exit_code == 1
    assert "page.md:1:" in stale.output
    assert "cited '93.10', recorded '93.00'" in stale.output
    assert call("check", "--write", page).exit_code == 0
    for name, column in (("test_accuracy", "accuracy"), ("test_accuracy_change", "change")):
        same = {call("cite", results, "growth_rate", "8", each).output for each in (name, column)}
        assert len(same) == 1
    assert "unknown metric of growth_rate, 8: 'acuracy'; the records have 'n'," in call(
        "cite", results, "growth_rate", "8", "acuracy"
    ).output  # fmt: skip
    assert call("cite", results, "growth_rate", "9", "test_accuracy").exit_code == 2
    assert call("cite", results, "growth_rate", "8", "test_accuracy", "--as", "html").exit_code == 2
    latex = call("cite", results, "growth_rate", "8", "test_accuracy", "--as", "latex").output
    assert latex == "\\ablate{growth_rate}{8}{test_accuracy}\n"


@pytest.mark.parametrize("metric", ["test_accuracy", "params"])
def test_cite_tells_programs_a_value_and_its_marks(metric, results):
    place = ("cite", results, "growth_rate", 8, metric)
    found, said = json.loads(call(*place, "--json").stdout), call(*place).stdout.splitlines()
    assert said[0] == f"{found['value']} {found['unit']}".strip()
    assert said[1] == found["meaning"]
    assert set(found["marks"].values()) <= set(said)
    assert found["provenance"] in said
    assert found["seeds"] == ("Of 3 seeds." if metric == "test_accuracy" else "")
    assert found["disturbed"] == ""


def test_check_tells_programs_each_number(results, tmp_path):
    marks = [f"<!-- ablate results growth_rate 8 params -->{text}<!-- /ablate -->" for text in ("2,000", "7", "7")]
    page = tmp_path / "page.md"
    page.write_text(f"{marks[0]}\n{marks[1]}\n`{marks[2]}`\n")
    said, told = call("check", page), json.loads(call("check", page, "--json").stdout)
    assert f"{told['agree']} of {told['total']} cited numbers and tables agree" in said.stdout
    assert (told["agree"], told["total"], told["unchecked"], told["renewed"]) == (1, 2, {str(page): 1}, {})
    right, wrong = told["citations"]
    assert (right["cited"], right["recorded"], right["problem"]) == ("2,000", "2,000", "")
    assert (wrong["path"], wrong["line"], wrong["cited"], wrong["recorded"]) == (str(page), 2, "7", "2,000")
    assert f"{page}:2: {wrong['source']}: {wrong['problem']}; cited '7', recorded '2,000'" in said.stderr
    renewed = call("check", page, "--json", "--write")
    assert (json.loads(renewed.stdout)["renewed"], renewed.exit_code) == ({str(page): 1}, 0)


def test_check_reads_all_files_before_it_changes_one(results, tmp_path):
    (tmp_path / "page.md").write_text("<!-- ablate results growth_rate 8 params -->7<!-- /ablate -->")
    (tmp_path / "page.txt").write_text("")
    result = call("check", "--write", tmp_path / "page.md", tmp_path / "page.txt", tmp_path / "none.md")
    assert result.exit_code == 2
    assert "page.txt cannot be read: this kind of file is not read" in result.output
    assert "none.md cannot be read: " in result.output
    assert ">7<" in (tmp_path / "page.md").read_text()


def test_check_requires_a_number_of_citations_over_all_files(results, tmp_path):
    mark = "<!-- ablate results growth_rate 8 params -->2,000<!-- /ablate -->"
    one, other = tmp_path / "one.md", tmp_path / "other.html"
    one.write_text(f"{mark}, {mark}, `{mark}`")
    other.write_text(mark)
    assert call("check", one, other, one, "--require", 3).exit_code == 0
    few = call("check", one, other, one, "--require", 4)
    assert few.exit_code == 1
    assert "--require 4: only 3 numbers and tables cited" in few.output
    assert "one.md: marks in code or in comments of LaTeX, which are not checked: 1" in few.output

"""The driver: a grid is worked off, a second call finds nothing to do, a fault costs its own row alone."""

from __future__ import annotations

import errno
import io
import json
import os
import re
from collections import Counter
from pathlib import Path

import pytest
from conftest import MACHINE, TINY, context, fabricate, record_of, write_grid
from rich.console import Console
from torchvision.models import ShuffleNet_V2_X0_5_Weights, shufflenet_v2_x0_5

from ablations.cli import SHIPPED
from ablations.execution import driver
from ablations.execution.engine import Finished, Started
from ablations.execution.job import describe_loss, execute
from ablations.execution.plan import plan
from ablations.grid.model import list_jobs
from ablations.grid.reader import read
from ablations.report import page as report
from ablations.report.frames import find_causes, load
from ablations.report.results import analyse
from ablations.storage import files, records
from ablations.training.weights import load_model

FAULTY = TINY.replace("seeds = [0, 1, 2]", "seeds = [0]") + "\n[study.rate]\ntrain.learning_rate = [0.1, 1e30]\n"


def call(grid, folder, retry=(), engine="local"):
    text = io.StringIO()
    workplace = driver.make_engine(engine, ["cpu", "cpu"])
    outcome = driver.work(grid, folder, workplace, retry, Console(file=text, width=200))
    return outcome, text.getvalue()


def derived(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".png" and path.name != "events.jsonl"
    }


def test_a_grid_with_a_fault_from_end_to_end(tmp_path):
    grid, folder = read(write_grid(tmp_path, FAULTY)), tmp_path / "out"
    outcome, text = call(grid, folder)
    assert (outcome.total, outcome.done_before, outcome.executed) == (5, 0, 5)
    assert "epoch 1.0/1, loss" in text
    assert "4 done, 0 running" in text or "4 done, 1 diverged" in text
    frames = load(folder)
    assert sorted(frames.runs.status) == ["diverged", "done", "done"]
    assert set(frames.costs.status) == {"done"}
    assert "the loss is" in find_causes(frames)[0]["reason"]

    report.write(analyse(frames))
    before = derived(folder)
    again, text = call(grid, folder)
    assert (again.done_before, again.executed, text) == (4, 0, "")
    report.write(analyse(load(folder)))
    assert derived(folder) == before

    lines = [json.loads(line) for line in (folder / "events.jsonl").read_text().splitlines()]
    told = Counter(line["event"] for line in lines)
    assert (told["started"], told["finished"], told["failed"]) == (5, 4, 1)
    assert told["epoch"] == 2
    (failed,) = [line for line in lines if line["event"] == "failed"]
    assert (failed["name"], failed["status"]) == ("rate 1e+30, seed 0", "diverged")
    assert failed["reason"] == find_causes(frames)[0]["reason"]

    retried, _ = call(grid, folder, ["diverged"])
    assert retried.executed == 1
    assert [len(attempts) for attempts in records.load_attempts(folder).values()] == [2]

    path = next((folder / "records").glob("*.json"))
    path.write_bytes(path.read_bytes()[:-20])
    assert len(load(folder).damaged) == 1
    repaired, _ = call(grid, folder)
    assert (repaired.executed, [moved.name for moved in repaired.damaged]) == (1, [path.name])
    assert {name for name, content in derived(folder).items() if before.get(name) != content} <= {
        path.relative_to(folder),
        (folder / "records" / "damaged" / path.name).relative_to(folder),
        *(name for name in derived(folder) if name.parts[0] == "attempts"),
    }


@pytest.mark.gpu
def test_a_grid_on_a_gpu_whose_trainings_share_it(tmp_path):
    text = TINY.replace("[4, 8]", "[4, 8, 12]") + "train.cuda_graph = [false, true]\n"
    grid, text = read(write_grid(tmp_path, text)), io.StringIO()
    workplace = driver.make_engine("local", driver.list_devices("cuda", 0, jobs_per_device=3))
    outcome = driver.work(grid, tmp_path / "out", workplace, (), Console(file=text, width=200))
    assert (outcome.executed, outcome.stopped) == (3 * 2 * 3 + 6, False), text.getvalue()
    frames = load(tmp_path / "out")
    assert set(frames.runs.status) == set(frames.costs.status) == {"done"}
    assert set(frames.runs.device) == set(frames.costs.device) == {"cuda"}
    costs = frames.costs
    assert (costs.train_peak_reserved_bytes >= costs.train_peak_memory_bytes).all()
    tensors = costs.train_peak_memory_bytes - costs.workspace_bytes
    assert ((tensors - costs.predicted_train_peak_memory_bytes) / 2**20).between(-0.1, 16).all(), tensors


def test_every_engine_gives_the_same_results(tmp_path):
    text = TINY.replace("seeds = [0, 1, 2]", "seeds = [0]").replace("[4, 8]", "[4]")
    found = {}
    for engine in driver.ENGINES:
        folder = tmp_path / engine
        outcome, _ = call(read(write_grid(tmp_path, text)), folder, engine=engine)
        assert (outcome.executed, outcome.stopped) == (2, False)
        found[engine] = {name: each["deterministic"] for name, each in records.load(folder)[0].items()}
    assert found["local"] == found["inline"]


@pytest.mark.slow
@pytest.mark.parametrize("engine", driver.ENGINES)
def test_every_engine_compares_speeds(engine, tmp_path):
    """In new processes that each has started, and a second call finds nothing to do."""
    text = TINY.replace("seeds = [0, 1, 2]", "seeds = [0]").replace("speed_rounds = 0", "speed_rounds = 6")
    grid = read(write_grid(tmp_path, text))
    assert call(grid, tmp_path / "out", engine=engine)[0].executed == 5
    (row,) = load(tmp_path / "out").speeds.to_dict("records")
    assert (row["status"], row["rounds"]) == ("done", 6)
    assert row["latency_step_seconds_low"] <= row["latency_step_seconds_ratio"] <= row["latency_step_seconds_high"]
    assert call(grid, tmp_path / "out", engine=engine)[0].executed == 0


def test_without_costs_nothing_is_measured_until_the_next_call(tmp_path):
    text = TINY.replace("seeds = [0, 1, 2]", "seeds = [0]").replace("[4, 8]", "[4]")
    grid, folder = read(write_grid(tmp_path, text)), tmp_path / "out"
    engine = driver.make_engine("inline", ["cpu"])
    outcome = driver.work(grid, folder, engine, (), Console(quiet=True), measure=False)
    assert (outcome.total, outcome.executed, outcome.unmeasured) == (2, 1, 1)
    assert {record["kind"] for record in records.load(folder)[0].values()} == {"run"}
    outcome = driver.work(grid, folder, engine, (), Console(quiet=True))
    assert (outcome.total, outcome.executed, outcome.unmeasured) == (2, 1, 0)


def test_shards_share_the_jobs_and_overlap_nowhere(tiny):
    """Evenly, of each kind, and the same parts on another machine."""
    jobs, elsewhere = (list_jobs(tiny, {**MACHINE, "device": device}) for device in ("cpu", "cuda"))
    for count in (1, 2, 3, 8):
        parts = [driver.Shard(number, count).take(tiny, MACHINE, {}) for number in range(1, count + 1)]
        assert sorted(each for part in parts for each in part) == sorted(job.id for job in jobs)
        for kinds in ({"cost", "run"}, {"cost"}, {"run"}):
            sizes = [sum(job.id in part for job in jobs if job.kind in kinds) for part in parts]
            assert max(sizes) - min(sizes) <= 1
        there = driver.Shard(1, count).take(tiny, {**MACHINE, "device": "cuda"}, {})
        assert [job.id in parts[0] for job in jobs] == [job.id in there for job in elsewhere]
    assert driver.Shard.read("3/8") == driver.Shard(3, 8)


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "3/", "/8", "a/b", "-1/8", "1/0"])
def test_a_shard_that_is_none_is_told(text):
    with pytest.raises(ValueError, match=f"--shard {text}: two numbers are needed"):
        driver.Shard.read(text)


TRAINED = """\
title = "Fine-tuning"
seeds = [0]
speed_rounds = 0

[base]
model.family = "torchvision"
model.name = "shufflenet_v2_x0_5"
data.name = "random"
data.shape = [3, 32, 32]
data.classes = 3
data.size = 8
train.epochs = 1
train.learning_rate = 1e-6
train.keep_weights = true

[[study.weights.variant]]
name = "trained"
model.weights = "DEFAULT"

[[study.weights.variant]]
name = "last"
model.family = "finetune:last_layer"
model.weights = "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
model.channels_as = ""
"""


def test_a_grid_starts_from_trained_weights_that_are_fetched_before_any_training(tmp_path, monkeypatch, publish):
    """The function is the one of the documentation, with a smaller network. Planning and costs need no file."""
    page = (Path(__file__).parents[2] / "docs" / "own-network.md").read_text()
    function = re.search(r"`finetune.py`:\n\n```python\n(.*?)```", page, re.DOTALL)[1]
    (tmp_path / "finetune.py").write_text(function.replace("resnet18", "shufflenet_v2_x0_5"))
    monkeypatch.syspath_prepend(tmp_path)
    state = shufflenet_v2_x0_5(weights=None).state_dict()
    weights = ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
    place, folder = publish(weights, state), tmp_path / "out"
    grid = read(write_grid(tmp_path, TRAINED))
    runs = [each for each in list_jobs(grid, MACHINE) if each.kind == "run"]
    digits = place.stem[-8:]
    assert [each.fields.get("sources") for each in runs] == [None, *[{str(weights): digits}] * 2]
    entries = plan(grid, folder, ["cpu"], True, Console(quiet=True))["variants"]
    assert [each["params"] for each in entries] == [341_792 + 1025 * 3] * 2 + [1025 * 3]
    assert {each["params_total"] for each in entries} == {341_792 + 1025 * 3}

    published = (tmp_path / place.name).rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"the weights {weights} are not in"):
        driver.work(grid, folder, driver.make_engine("inline", ["cpu"]), (), Console(quiet=True), measure=False)
    assert not list((folder / "records").iterdir())
    published.rename(tmp_path / place.name)
    engine, said = driver.make_engine("inline", ["cpu"]), io.StringIO()
    driver.work(grid, folder, engine, (), Console(file=said, width=200), measure=False)
    assert f"Downloading the weights {weights}\n" in said.getvalue()
    assert {path.stem for path in (folder / "records").iterdir()} == {each.id for each in runs}

    place.unlink()  # a network is loaded without it
    first = [load_model(folder / "weights" / f"{each.id}.safetensors", own_code=True).conv1[0].weight for each in runs]
    moved = [(each - state["conv1.0.weight"]).abs().max() for each in first]
    assert moved[2] == 0 < moved[1] < 1e-4 < moved[0]


class Recording:
    """An engine that does nothing, and notes the tasks that it is given."""

    slots, widest, machine = 1, 1, MACHINE

    def __init__(self):
        self.given, self.tasks = [], []

    def run(self, tasks, stopping=lambda: False):
        self.given += [task.key for task in tasks]
        self.tasks += tasks
        yield from ()


def test_a_call_does_its_shard_alone_and_the_runs_of_a_tuned_grid_follow(tmp_path):
    text = TINY.replace("[0, 1, 2]", "[0]") + "[tune]\ntrain.learning_rate = [0.1, 0.2]\nseeds = [9]\nvalidation = 40\n"
    grid, given = read(write_grid(tmp_path, text)), []
    for number in (1, 2):
        engine = Recording()
        shard = driver.Shard(number, 2)
        outcome = driver.work(grid, tmp_path / "out", engine, (), Console(quiet=True), shard=shard)
        assert set(engine.given) <= shard.take(grid, MACHINE, {})
        assert (outcome.awaited, outcome.total) == (2, 8)
        given += engine.given
    assert sorted(given) == sorted(job.id for job in list_jobs(grid, MACHINE))


def test_disturbed_measurements_are_made_again_on_request(tiny, tmp_path):
    """The old record stays until the new one is there, also if it failed once, and is kept in another folder then."""
    folder, (_, wide) = tmp_path / "out", [job for job in list_jobs(tiny, MACHINE) if job.kind == "cost"]
    fabricate(folder, tiny)
    records.note_attempt(folder, describe_loss(wide, "failed", "the first time"))
    for time in (1, 2):
        engine, before = Recording(), records.load(folder)[0]
        driver.work(tiny, folder, engine, (), Console(quiet=True))
        driver.work(tiny, folder, engine, [driver.DISTURBED], Console(quiet=True), measure=False)
        assert engine.given == []
        driver.work(tiny, folder, engine, [driver.DISTURBED], Console(quiet=True))
        assert engine.given == [wide.id]
        assert records.load(folder)[0] == before
        (task,) = engine.tasks
        records.republish(folder, record_of(task.arguments[0], 0.0, 2.0 + time / 10))
        assert task.arguments[0].again
        assert len(list((folder / "records" / "outdated").iterdir())) == time
        assert records.load(folder)[0][wide.id]["deterministic"]["params"] == 2000 + 100 * time
    assert records.list_ignored(folder) == []


def test_an_engine_that_is_not_there_is_told():
    with pytest.raises(
        ValueError, match=r"unknown engine 'lokal': allowed are 'local', 'inline'; did you mean 'local'\?"
    ):
        driver.make_engine("lokal", ["cpu"])


def test_a_folder_of_another_grid_is_refused(results, tmp_path):
    other = read(write_grid(tmp_path, TINY.replace("block_config = [1, 1]", "block_config = [2]")))
    before = (results / "jobs.json").read_bytes()
    with pytest.raises(driver.WrongFolder, match=r"\(model.block_config \[1, 1\] there, \[2\] here; .*\).*--out"):
        call(other, results)
    assert (results / "jobs.json").read_bytes() == before


def test_a_place_that_cannot_be_written_is_told_before_any_work(tiny, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(files.StorageError, match="cannot be written"):
        call(tiny, tmp_path / "file" / "out")


def test_a_worker_per_core_and_no_gpu_that_is_not_there():
    assert driver.list_devices("cpu", 3) == ["cpu"] * 3
    assert len(driver.list_devices("cpu", 0)) >= 1
    with pytest.raises(ValueError, match="this machine has"):
        driver.list_devices("cuda", 1000)
    with pytest.raises(ValueError, match="on a CPU, --workers says how many jobs run"):
        driver.list_devices("cpu", 0, jobs_per_device=2)


def test_the_jobs_of_a_gpu_are_spread_over_all(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert driver.list_devices("cuda", 0, 2) == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]
    assert driver.list_devices("cuda", 3, 2) == ["cuda:0", "cuda:1", "cuda:0"]
    with pytest.raises(
        ValueError, match="5 workers on cuda: this machine has 2 GPUs that torch can use for 2 jobs each"
    ):
        driver.list_devices("cuda", 5, 2)


@pytest.mark.slow
def test_the_quick_grid_whole(tmp_path):
    grid = read(SHIPPED / "quick.toml", ["train.epochs=1"], [0])
    call(grid, tmp_path)
    frames = load(tmp_path)
    assert set(frames.runs.status) == set(frames.costs.status) == set(frames.speeds.status) == {"done"}
    assert (len(frames.speeds), set(frames.speeds.rounds)) == (3, {6})
    base = frames.costs.params[0]
    matched = frames.studies[frames.studies.level == "ResNet-20, equal params"].variant.iloc[0]
    assert abs(frames.costs.set_index("variant").params[matched] / base - 1) < 0.01
    same = frames.studies[frames.studies.study == "checkpointing"].variant
    assert frames.runs[frames.runs.variant.isin(same)].weights.nunique() == 1


def test_a_grid_may_grow_and_not_lose_runs(results, tmp_path, tiny):
    fewer = read(write_grid(tmp_path), seeds=[0])
    with pytest.raises(driver.WrongFolder, match=r"seeds \[0, 1, 2\] there, \[0\] here\); 4 of its 6 runs would leave"):
        call(fewer, results)
    assert len(load(results).runs) == 6


def test_too_few_open_files_are_told_before_any_job(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(driver.resource, "getrlimit", lambda which: (16, 16))
    with pytest.raises(OSError, match=r"18 open files are needed for 2 workers, and the limit \(`ulimit -n`\) is 16"):
        call(tiny, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_the_user_s_is_refused_and_left_as_it_is(tiny, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("grid.toml", "runs.csv", ".lock", ".my.vacation.photo.tmp"):
        (folder / name).write_text("mine")
        os.utime(folder / name, (0, 0))
    with pytest.raises(
        driver.WrongFolder, match=r"holds no results, but .*grid\.toml and more: choose an empty or a new"
    ):
        call(tiny, folder)
    assert {path.read_text() for path in folder.iterdir()} == {"mine"}
    assert len(list(folder.iterdir())) == 4


def test_a_grid_given_from_inside_the_results_folder_is_never_changed(results):
    path = results / "grid.toml"
    text = "# my own words\r\n" + path.read_text()
    path.write_bytes(text.encode())
    engine = driver.make_engine("inline", ["cpu"])
    engine.machine = load(results).manifest.machine
    driver.work(read(path, ["train.keep_weights=false"]), results, engine, (), Console(quiet=True), path)
    assert path.read_bytes() == text.encode()


class Moving:
    """An engine whose only task publishes nothing: meanwhile the results folder is renamed or replaced."""

    slots = widest = 1

    def __init__(self, machine, disturb):
        self.machine, self.disturb = machine, disturb

    def run(self, tasks, stopping=lambda: False):
        yield Started(tasks[0], 0)
        self.disturb()
        yield Finished(tasks[0], 0, "done")


@pytest.mark.parametrize("again", [False, True])
def test_a_results_folder_that_is_renamed_or_replaced_stops_the_grid_with_a_sentence(again, tiny, tmp_path):
    def disturb():
        (tmp_path / "out").rename(tmp_path / "moved")
        if again:
            (tmp_path / "out" / "records").mkdir(parents=True)

    with pytest.raises(files.StorageError, match="out was renamed, removed or replaced while this command worked"):
        driver.work(tiny, tmp_path / "out", Moving(MACHINE, disturb), (), Console(quiet=True))
    assert not list((tmp_path / "out").rglob("*.json"))


def test_a_folder_that_is_gone_does_not_come_back_with_a_record(tiny, tmp_path):
    job = next(each for each in list_jobs(tiny, MACHINE) if each.kind == "cost")
    with pytest.raises(files.StorageError, match="out is not there any more: it was renamed or removed"):
        execute(job, tmp_path / "out", {}, context())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EMFILE])
def test_a_fault_of_the_machine_is_no_failure_of_a_job(number, tiny, tmp_path, monkeypatch):
    """As a full /dev/shm, which the readers of images need, or too many open files."""

    def broken(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("ablations.execution.job.train", broken)
    job = next(each for each in list_jobs(tiny, MACHINE) if each.kind == "run")
    with pytest.raises(OSError, match=os.strerror(number)):
        execute(job, tmp_path, {}, context())
    assert records.load_attempts(tmp_path) == {}

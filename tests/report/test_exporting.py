"""Export into trackers: each one is read back by its own reader and compared with the records."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import warnings
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import conftest
import numpy as np
import pytest
from conftest import ROOT, TINY, fabricate, write_grid
from typer.testing import CliRunner

from ablations.cli import app
from ablations.grid.reader import read
from ablations.report.exporting import count_runs, describe_metric, export, list_runs, pack
from ablations.report.frames import load
from ablations.report.trackers import DIGEST, EVENTS, PACKAGES, SQLITE, TRACKERS, make_file_name, open_tracker
from ablations.signals import STOPPING
from ablations.storage import records

DIGITS = ROOT / "results" / "digits-cpu"
CHOSEN = ("base, seed 0", "growth_rate 4, seed 1", "family ResNet-20, seed 2")
ODD = "Größe: k = 8, ../x (a|b) 'q' @ 1:2"


@dataclass
class Copy:
    """A run as the tracker's own reader gives it."""

    name: str
    done: bool
    fields: dict
    """Config and tags."""

    points: dict = field(default_factory=dict)
    """(measure, step) -> value."""

    times: dict = field(default_factory=dict)
    """Step -> seconds since 1970."""

    final: dict = field(default_factory=dict)


def read_tensorboard(place) -> dict[str, Copy]:
    accumulator = import_module("tensorboard.backend.event_processing.event_accumulator")
    api_pb2, metadata = (import_module(f"tensorboard.plugins.hparams.{name}") for name in ("api_pb2", "metadata"))
    make_ndarray = import_module("tensorboard.util.tensor_util").make_ndarray
    found = {}
    for folder in Path(place).iterdir():
        events = accumulator.EventAccumulator(str(folder)).Reload()
        start, end = (
            events.SummaryMetadata(tag).plugin_data.content
            for tag in (metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG)
        )
        begun = metadata.parse_session_start_info_plugin_data(start)
        done = metadata.parse_session_end_info_plugin_data(end).status == api_pb2.STATUS_SUCCESS
        values = {key: getattr(value, value.WhichOneof("kind")) for key, value in begun.hparams.items()}
        copy = found[begun.group_name] = Copy(folder.name, done, values)
        for tag in {*events.Tags()["tensors"]} - {metadata.SESSION_START_INFO_TAG, metadata.SESSION_END_INFO_TAG}:
            for event in events.Tensors(tag):
                copy.points[tag, event.step] = copy.final[tag] = make_ndarray(event.tensor_proto).item()
                copy.times[event.step] = event.wall_time
    return found


def read_mlflow(place) -> dict[str, Copy]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        client = import_module("mlflow").MlflowClient(place)
        (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
        assert experiment.tags["mlflow.note.content"]
        found = {}
        for run in client.search_runs([experiment.experiment_id]):
            fields = {**run.data.params, **run.data.tags}
            assert run.data.tags["id"] not in found
            done = {"FINISHED": True, "FAILED": False}[run.info.status]
            copy = found[run.data.tags["id"]] = Copy(run.info.run_name, done, fields, final=run.data.metrics)
            for key in run.data.metrics:
                for each in client.get_metric_history(run.info.run_id, key):
                    copy.points[key, each.step] = each.value
                    copy.times[each.step] = each.timestamp / 1000
    return found


def read_wandb(place) -> dict[str, Copy]:
    """By the program behind `wandb leet inspect --json`."""
    core, found = import_module("wandb.util").get_core_path(), {}
    for path in Path(place).glob("*/*.wandb"):
        command = [core, "leet", "inspect", "--no-observability", "--json", "--run-file", path, place]
        said = subprocess.run(command, capture_output=True, check=True, text=True).stdout
        parts = [json.loads(line) for line in said.splitlines()]
        (run,) = [part["run"] for part in parts if part["type"] == "run"]
        (end,) = [part["exit"] for part in parts if part["type"] == "exit"]
        copy = Copy(run["display_name"], end["exit_code"] == 0, run["config"]["update"])
        for part in parts:
            copy.final |= part["summary"].get("update", {}) if part["type"] == "summary" else {}
            if part["type"] == "history":
                item, step = part["history"]["item"], part["history"]["step"]["num"]
                copy.points |= {(key, step): value for key, value in item.items() if not key.startswith("_")}
                copy.times[step] = item["_timestamp"]
        copy.final = {key: value for key, value in copy.final.items() if not key.startswith("_")}
        assert (run["project"], path.name) == ("digits", f"run-{run['run_id']}.wandb")
        found[run["run_id"]] = copy
    return found


READERS = {"tensorboard": read_tensorboard, "mlflow": read_mlflow, "wandb": read_wandb}


def installed(name: str):
    missing = [package for package in PACKAGES[name] if find_spec(package) is None]
    return pytest.param(name, marks=pytest.mark.skipif(bool(missing), reason=f"not installed: {', '.join(missing)}"))


EVERY = [installed(name) for name in TRACKERS]


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """MLflow's store of files needs a permission: it is made at once, and a database takes seconds."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    before = {number: signal.getsignal(number) for number in STOPPING}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def digits(tmp_path) -> Path:
    """Three runs of the quick grid with their costs."""
    folder = tmp_path / "digits"
    plan = load(DIGITS).manifest
    jobs = {job.name: job for job in plan.jobs if job.kind == "run"}
    (folder / "records").mkdir(parents=True)
    shutil.copy(DIGITS / "jobs.json", folder)
    for name in CHOSEN:
        for job in (jobs[name].id, plan.variants[jobs[name].variant].cost):
            shutil.copy(DIGITS / "records" / f"{job}.json", folder / "records")
    return folder


def place_of(name: str, folder: Path) -> str:
    return f"file://{folder / 'store'}" if name == "mlflow" else str(folder / "store")


def copy(name: str, results: Path, place: str | None = None) -> dict[str, str]:
    """Exports, and says what was done for each run."""
    with open_tracker(name, frames := load(results), place) as tracker:
        return {run.id: outcome for run, outcome in export(list_runs(frames), tracker)}


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_runs_are_those_of_the_records():
    """Every number and every setting, without loss."""
    frames = load(DIGITS)
    runs = {run.id: run for run in list_runs(frames)}
    assert (len(runs), count_runs(frames)) == (63, (63, {}))
    assert len({run.digest for run in runs.values()}) == 63
    for run in runs.values():
        record = records.read(DIGITS / "records" / f"{run.id}.json")
        own, measured, made = record["deterministic"], record["measured"], record["environment"]
        for section, fields in record["config"].items():
            for key, value in fields.items() if isinstance(fields, dict) else ():
                assert key == "checksum" or run.params[f"{section}.{key}"] == value
        assert run.params["seed"] == record["config"]["seed"]
        cost_id = frames.manifest.variants[run.tags["variant"]].cost
        cost = records.read(DIGITS / "records" / f"{cost_id}.json")
        expected = {
            **{key: own[key] for key in ("test_accuracy", "test_loss", "test_calibration_error", "steps")},
            **{key: measured[key] for key in ("seconds", "resumes", "step_seconds")},
            **{key: cost["deterministic"][key] for key in ("params", "macs", "flops", "activations")},
            **{key: cost["measured"][key] for key in ("train_peak_memory_bytes", "train_images_per_second")},
        }
        assert {key: run.metrics[key] for key in expected} == expected
        curve = [
            {key: value for key, value in each.items() if value is not None and key != "epoch"}
            | {"epoch_seconds": seconds, "images_per_second": each["images"] / seconds}
            for each, seconds in zip(own["history"], measured["epoch_seconds"], strict=True)
        ]
        assert [each.values for each in run.curve] == curve
        assert [each.number for each in run.curve] == [each["epoch"] for each in own["history"]]
        assert {key: run.tags[key] for key in ("commit", "fingerprint", "device_name", "torch")} == {
            key: made[key] for key in ("commit", "fingerprint", "device_name", "torch")
        }
        assert (run.tags["weights"], run.tags["threads"], run.tags["status"]) == (own["weights"], "1", "done")
        assert run.tags["cost.commit"] == cost["environment"]["commit"]
    (base,) = [run for run in runs.values() if run.name == "base, seed 0"]
    assert (base.level, base.tags["study.growth_rate"], base.tags["study.family"]) == ("base", "10", "DenseNet")


def write_field(name: str, value):
    """A setting as a tracker has it: TensorBoard no lists, MLflow only text."""
    if name == "tensorboard":
        return pack(value)
    return json.dumps(value) if name == "mlflow" and not isinstance(value, str) else value


@pytest.mark.parametrize("name", EVERY)
def test_a_run_arrives_as_the_records_have_it(name, digits, tmp_path):
    place = place_of(name, tmp_path)
    assert set(copy(name, digits, place).values()) == {"added"}
    found = READERS[name](place)
    runs = {run.id: run for run in list_runs(load(digits))}
    assert found.keys() == runs.keys()
    number = (lambda value: np.float32(value).item()) if name == "tensorboard" else float
    for key, run in runs.items():
        arrived = found[key]
        assert arrived.done
        assert arrived.name == (f"{make_file_name(run.name)}-{run.id}" if name == "tensorboard" else run.name)
        written = {
            "tensorboard": pack,
            "mlflow": lambda value: value if isinstance(value, str) else json.dumps(value),
            "wandb": lambda value: value,
        }[name]
        fields = {field: written(value) for field, value in run.params.items()} | dict(run.tags)
        assert {field: arrived.fields.get(field) for field in fields} == fields
        rows = run.curve if name == "wandb" else run.rows  # W&B has the last values in its summary alone
        points = {(each, row.number): number(value) for row in rows for each, value in row.values.items()}
        assert arrived.points == points
        last = {each: number(value) for each, value in run.rows[-1].values.items()}
        assert arrived.final == last
        times = {row.number: run.time_of(row) for row in rows}
        assert {step: arrived.times[step] for step in times} == pytest.approx(times, abs=0.001)
        assert times[6] == (digits / "records" / f"{key}.json").stat().st_mtime


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="not installed: tensorboard")
def test_tensorboard_s_table_compares_the_runs(digits, tmp_path):
    """Its own backend lists what differs, and the measures of every run."""
    inside = {
        "": ["context"],
        "backend.event_processing.": ["data_provider", "plugin_event_multiplexer"],
        "plugins.": ["base_plugin"],
        "plugins.hparams.": ["api_pb2", "backend_context", "list_session_groups"],
    }
    context, data_provider, plugin_event_multiplexer, base_plugin, api_pb2, backend_context, list_session_groups = (
        import_module(f"tensorboard.{place}{name}") for place, names in inside.items() for name in names
    )
    copy("tensorboard", digits, place := str(tmp_path / "store"))
    events = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(place)
    events.Reload()
    provider = data_provider.MultiplexerDataProvider(events, place)
    backend, asked = backend_context.Context(base_plugin.TBContext(data_provider=provider)), context.RequestContext()
    known = backend.hparams_metadata(asked, "")
    experiment = backend.experiment_from_metadata(asked, "", True, known, [])
    differ = {each.name for each in experiment.hparam_infos if each.differs}
    assert {"model.family", "model.growth_rate", "seed", "study.growth_rate"} <= differ
    assert not {"train.epochs", "commit"} & differ
    columns = [api_pb2.ColParams(metric=api_pb2.MetricName(tag="test_accuracy"))]
    request = api_pb2.ListSessionGroupsRequest(
        col_params=columns, slice_size=9, allowed_statuses=[api_pb2.STATUS_SUCCESS],
        aggregation_type=api_pb2.AGGREGATION_AVG,
    )  # fmt: skip
    rows = list_session_groups.Handler(asked, backend, "", request).run().session_groups
    shown = {row.name: {each.name.tag: each.value for each in row.metric_values}["test_accuracy"] for row in rows}
    assert shown == {run.id: np.float32(run.metrics["test_accuracy"]) for run in list_runs(load(digits))}


@pytest.mark.parametrize("name", EVERY)
def test_a_second_export_changes_nothing(name, digits, tmp_path):
    place = place_of(name, tmp_path)
    copy(name, digits, place)
    before = content_of(tmp_path)
    for path in (digits / "records").iterdir():
        path.touch()  # as in a clone: dates are no reason to write again
    assert set(copy(name, digits, place).values()) == {"present"}
    assert content_of(tmp_path) == before


@pytest.mark.parametrize("name", EVERY)
def test_later_exports_add_what_is_new_and_renew_what_changed(name, tmp_path):
    """A run that diverged and then succeeded, a cost that was measured later, and a run made later."""
    grid = read(write_grid(tmp_path))
    folder, place = tmp_path / "digits", place_of(name, tmp_path)
    fabricate(folder, grid, skip=("base", "base, seed 2", "growth_rate 8, seed 0"), lost=("base, seed 1",))
    frames = load(folder)
    ids = {job.name: job.id for job in frames.manifest.jobs}
    assert count_runs(frames) == (4, {"missing": 2})
    assert set(copy(name, folder, place).values()) == {"added"}
    found = READERS[name](place)
    lost, base = found[ids["base, seed 1"]], found[ids["base, seed 0"]]
    assert (lost.done, lost.fields["status"], lost.fields["reason"]) == (False, "diverged", "the loss is not a number")
    assert (lost.points, base.done, "params" in base.final) == ({}, True, False)
    whole = tmp_path / "whole"
    fabricate(whole, grid, skip=("growth_rate 8, seed 0",))
    for path in (whole / "records").iterdir():
        shutil.copy(path, folder / "records")
    done = copy(name, folder, place)
    assert {job: done.get(key) for job, key in ids.items() if "seed" in job} == {
        "base, seed 0": "renewed",  # its cost is known now
        "base, seed 1": "renewed",
        "base, seed 2": "added",
        "growth_rate 8, seed 0": None,
        "growth_rate 8, seed 1": "present",
        "growth_rate 8, seed 2": "present",
    }
    found = READERS[name](place)
    assert found.keys() == done.keys()
    assert all(each.done and each.final["params"] in (1000, 2000) for each in found.values())


@pytest.mark.parametrize("name", EVERY)
def test_a_half_written_run_is_written_again(name, digits, tmp_path):
    """As an export leaves it that was killed: the mark that is written last is not there."""
    place = place_of(name, tmp_path)
    run = next(iter(copy(name, digits, place)))
    if name == "tensorboard":
        (whole,) = (tmp_path / "store").glob(f"*-{run}/*")
        whole.rename(whole.with_name(f"{EVENTS}0000000000000000"))
    elif name == "wandb":
        (whole,) = (tmp_path / "store").glob(f"*-{run}-*")
        (tmp_path / "store" / ".half-written").mkdir()
        whole.rename(tmp_path / "store" / ".half-written" / whole.name)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            client = import_module("mlflow").MlflowClient(place)
            (experiment,) = [each.experiment_id for each in client.search_experiments() if each.name != "Default"]
            (whole,) = client.search_runs([experiment], f"tags.id = '{run}'")
            client.delete_tag(whole.info.run_id, DIGEST)
    done = copy(name, digits, place)
    assert done.pop(run) == ("added" if name == "wandb" else "renewed")
    assert set(done.values()) == {"present"}
    assert READERS[name](place).keys() == {run, *done}
    if name == "wandb":
        assert not (tmp_path / "store" / ".half-written").exists()
    assert len([*(tmp_path / "store").glob(f"*{run}*/{EVENTS}*")]) == (1 if name == "tensorboard" else 0)


def count_written(store: Path) -> int:
    """How many runs are there, the last of them perhaps not whole."""
    if not (store / "runs.db").exists():
        return len([*store.glob("*[0-9a-f]")])
    try:
        return sqlite3.connect(store / "runs.db").execute("select count(*) from runs").fetchone()[0]
    except sqlite3.OperationalError:  # no table yet
        return 0


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERY)
def test_an_export_that_is_killed_goes_on(name, tmp_path):
    """Whatever it was doing: afterwards each run is there once, as after an export without a stop."""
    shutil.copytree(DIGITS, tmp_path / "digits", ignore=shutil.ignore_patterns("figures", "tables"))
    store = tmp_path / "store"
    place = f"{SQLITE}{store / 'runs.db'}" if name == "mlflow" else str(store)
    command = [sys.executable, "-m", "ablations", "export", tmp_path / "digits", "--to", name, "--out", place]
    with subprocess.Popen(command) as export:
        while count_written(store) < 10:
            assert export.poll() is None
            time.sleep(0.01)
        export.kill()
    done = copy(name, tmp_path / "digits", place)
    assert {"added", "present"} <= set(done.values())
    found = READERS[name](place)
    assert found.keys() == {run.id for run in list_runs(load(DIGITS))}
    assert all(each.done and "test_accuracy" in each.final for each in found.values())


@pytest.mark.parametrize("name", EVERY)
def test_names_with_odd_characters(name, tmp_path, monkeypatch):
    level = f"odd {ODD}"
    monkeypatch.setitem(conftest.ACCURACY, level, [90.0, 90.5, 91.0])
    folder, place = tmp_path / "digits", place_of(name, tmp_path)
    study = f'\n[study.odd]\nvariant = [{{ name = "{ODD}", model.growth_rate = 12 }}]\n'
    fabricate(folder, read(write_grid(tmp_path, TINY + study)))
    copy(name, folder, place)
    odd = {run.id: run for run in list_runs(load(folder)) if run.level == level}
    found = READERS[name](place)
    assert len(odd) == 3
    for key, run in odd.items():
        assert found[key].fields["study.odd"] == ODD
        short = f"odd_Gr_e_k_=_8_.._x_a_b_q_1_2_seed_{run.params['seed']}-{key}"
        assert found[key].name == (short if name == "tensorboard" else f"{level}, seed {run.params['seed']}")


@pytest.mark.slow  # making a database takes MLflow seconds
@pytest.mark.parametrize("name", [installed("mlflow")])
def test_mlflow_in_a_database(name, digits, tmp_path):
    """By default it lies in the results folder. An address of a database is taken as it is."""
    assert set(copy(name, digits).values()) == {"added"}
    path = digits / "mlflow" / "mlflow.db"
    found = read_mlflow(f"{SQLITE}{path}")
    for run in list_runs(load(digits)):
        assert {key: found[run.id].final[key] for key in run.metrics} == run.metrics
    before = [*sqlite3.connect(path).iterdump()]
    assert set(copy(name, digits, f"{SQLITE}{path}").values()) == {"present"}
    assert [*sqlite3.connect(path).iterdump()] == before
    assert [each.name for each in path.parent.iterdir()] == ["mlflow.db"]


def call(*arguments):
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


@pytest.mark.parametrize("name", TRACKERS)
def test_a_tracker_that_is_not_installed(name, digits, monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGES[name][-1], None)
    result = call(digits, "--to", name)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith(f"Install it: pip install 'densenet-ablations[{name}]'\n")


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="not installed: tensorboard")
def test_the_command_says_what_it_did(digits, tmp_path):
    said = call(digits, "--to", "tensorboard")
    place = digits / "tensorboard"
    assert said.exit_code == 0, said.output
    assert said.stdout.splitlines() == [
        f"{place}: 3 runs added; 0 already there.",
        "  not exported, because they have not run: 60 missing",
        "This command shows them:",
        f"  tensorboard --logdir {place}",
    ]
    told = json.loads(call(digits, "--to", "tensorboard", "--json").stdout)
    assert [*told] == ["tracker", "place", "added", "renewed", "present", "failed", "left", "continue"]
    assert (told["added"], len(told["present"]), told["left"]) == ([], 3, {"missing": 60})
    assert told["continue"] == ["tensorboard", "--logdir", str(place)]
    (part,) = list(place.glob("growth_rate_4_seed_1-*/*"))
    part.rename(part.with_name(f"{EVENTS}0"))
    assert (
        "0 runs added, 1 written again (changed, or half written before); 2 already there."
        in call(digits, "--to", "tensorboard").stdout
    )


def test_mistakes_are_told_before_any_work(digits, tmp_path):
    for arguments, message in [
        ((digits, "--to", "aim"), "--to aim: allowed are tensorboard, mlflow, wandb"),
        ((tmp_path, "--to", "wandb"), f"{tmp_path} holds no results: there is no jobs.json"),
        ((digits, "--to", "wandb", "--out", "sqlite:///x.db"), "only mlflow takes the address of a store"),
    ]:
        result = call(*arguments)
        assert (result.exit_code, result.stdout) == (2, "")
        assert message in result.stderr


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="not installed: tensorboard")
def test_a_folder_without_results_yet(tiny, tmp_path):
    folder = tmp_path / "digits"
    fabricate(folder, tiny, skip=tuple(f"{level}, seed {seed}" for level in conftest.ACCURACY for seed in range(3)))
    said = call(folder, "--to", "tensorboard")
    assert said.exit_code == 0
    assert said.stdout.splitlines()[:2] == [
        f"{folder / 'tensorboard'}: 0 runs added; 0 already there.",
        "  not exported, because they have not run: 6 missing",
    ]


def test_units_of_measures():
    assert describe_metric("train_peak_memory_bytes").startswith("Peak memory, training: most bytes ")
    assert describe_metric("train_images_per_second").startswith("Training, images/s: median ")
    assert describe_metric("train_loss") == ""
    assert make_file_name("../x") == "x"
    assert make_file_name("ß") == "run"

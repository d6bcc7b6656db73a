"""The engine for Slurm, on a real Slurm of two nodes: its rules, its tables, faults, and what is adopted."""

from __future__ import annotations

import inspect
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import test_engine
from conftest import ROOT, TINY, write_grid
from rich.console import Console
from slurm_cluster import SlurmCluster, mark, never_end, nothing, stay, why_not
from test_engine import course, die, obey, work
from typer.testing import CliRunner

from ablations.cli import app
from ablations.execution import driver, slurm, submissions
from ablations.execution.engine import (
    Broken,
    Detached,
    Ended,
    Finished,
    Kept,
    Lost,
    Restarted,
    Started,
    Stopped,
    Task,
    Told,
    Waiting,
)
from ablations.execution.seat import Order
from ablations.execution.slurm import SlurmEngine
from ablations.execution.slurm_seat import post, read_event, write_event
from ablations.execution.submissions import Messages
from ablations.grid.reader import read
from ablations.report import page as report
from ablations.report.frames import load
from ablations.report.results import analyse
from ablations.storage import records
from ablations.storage.files import StorageError
from ablations.training.events import Epoch, Progress

needs_slurm = pytest.mark.skipif(bool(why_not()), reason=why_not() or "Slurm is here")
PAIR = TINY.replace("[0, 1, 2]", "[0]")
LONG = PAIR.replace("epochs = 1", "epochs = 200\ntrain.checkpoint_seconds = 0.1")
QUICK = ("--with", "pack=8")
PATIENCE = 240.0


@pytest.fixture(scope="module")
def whole():
    """A running Slurm."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))
    cluster = SlurmCluster(folder)
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(whole, tmp_path, monkeypatch):
    """The same, with a folder for locks of this test alone. Nodes find the tests' own tasks."""
    monkeypatch.setenv("SLURM_CONF", str(whole.configuration))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(ROOT / "tests" / "execution")]))
    place = Path(tempfile.mkdtemp(prefix="t-"))
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield whole
    whole.ask("scancel", "--signal=KILL", "--full", "--user=root")
    whole.ask("scancel", "--user=root")
    whole.wait(lambda: not living(whole))


def living(cluster, form="%i"):
    return cluster.ask("squeue", "-h", "-r", "-o", form).split()


def open_engine(folder, seats=1, **options):
    return SlurmEngine(Order("cpu", seats, 1, folder, options))


def tables_of(folder):
    """The bytes of all tables, and what the records hold that does not depend on time."""
    report.write_tables(analyse(load(folder)))
    tables = {path.name: path.read_bytes() for path in (folder / "tables").iterdir()}
    assert tables
    return tables, {each.record["id"]: each.record["deterministic"] for each in records.iterate(folder)}


def command(grid, folder, *more):
    called = [sys.executable, "-m", "ablations", "run", str(grid), "--out", str(folder), "--device", "cpu"]
    return [*called, "--no-costs", "--engine", "slurm", *more]


@contextmanager
def at_work(grid, folder, *more):
    """A driver whose first training has kept a state."""
    process = subprocess.Popen(command(grid, folder, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        wait(lambda: list(folder.glob("checkpoints/*.latest")) or process.poll() is not None)
        assert process.poll() is None, process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def wait(condition, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def resumes_of(folder):
    return sum(each.record["measured"]["resumes"] for each in records.iterate(folder))


def make_reference(tmp_path_factory, text):
    """The tables of a grid, from the local engine.

    Fixtures of a module call it before `cluster` sets another folder for locks, which the server of processes keeps.
    """
    place = tmp_path_factory.mktemp("reference")
    engine = driver.make_engine("local", ["cpu"])
    driver.work(read(write_grid(place, text)), place / "out", engine, (), Console(file=io.StringIO()), measure=False)
    return tables_of(place / "out")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return make_reference(tmp_path_factory, LONG)


@pytest.fixture(scope="module")
def short_reference(tmp_path_factory):
    return make_reference(tmp_path_factory, PAIR)


def check_end(process, folder, reference):
    """The driver has ended well, the tables are those of the local engine, and nothing is left behind."""
    output, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output + errors
    assert tables_of(folder) == reference
    assert not (folder / submissions.FOLDER).exists()
    assert not list(folder.rglob(".*"))
    return output


EVENTS = [
    (Started, {}),
    (Waiting, {"others": "run a"}),
    (Told, {"message": Progress(0.5, float("inf"))}),
    (Told, {"message": Epoch(1, 0.5, 80.0, None, None, None, None, 0.1, 0.5, 100, 2.5)}),
    (Told, {"message": ["a", 0.5, {"b": None}]}),
    (Kept, {"place": (3, 7)}),
    (Restarted, {"reason": "killed by SIGKILL"}),
    (Stopped, {}),
    (Finished, {"status": "done"}),
    (Lost, {"status": "failed", "reason": "why"}),
]


@pytest.mark.parametrize(("kind", "rest"), EVENTS)
def test_events_arrive_as_they_were_sent(kind, rest, tmp_path):
    task = Task("a", work, ("a",))
    post(tmp_path / "0.jsonl", write_event(kind(task, 0, **rest)))
    (line,) = Messages(tmp_path / "0.jsonl").take()
    assert read_event(task, 7, line) == kind(task, 7, **rest)


def test_an_error_of_a_machine_arrives_with_its_words(tmp_path):
    task, letters = Task("a", work, ("a",)), Messages(tmp_path / "0.jsonl")
    for error in (OSError(28, "No space left on device", "/there"), StorageError(28, "is full", "/there")):
        post(tmp_path / "0.jsonl", write_event(Broken(task, 0, error)))
        (line,) = letters.take()
        assert str(read_event(task, 0, line).error) == f"/there {error.strerror}"


def test_half_a_line_is_read_when_it_is_whole_and_never_if_its_writer_died(tmp_path):
    path, letters = tmp_path / "0.jsonl", Messages(tmp_path / "0.jsonl")
    assert list(letters.take()) == []
    path.write_text('{"event": "opened"}\n{"event": "Sta')
    assert [line["event"] for line in letters.take()] == ["opened"]
    with path.open("a") as file:
        file.write('rted", "key": "a"}\n{"event": "Fini')
    assert [line["event"] for line in letters.take()] == ["Started"]
    post(path, {"event": "opened", "node": "n2"})
    assert [line["event"] for line in letters.take()] == ["opened"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"queue": "gpu"}, r"--with queue: options of --engine slurm are\n  partition: the partition"),
        ({"time": "2h", "pack": "0"}, "--with time=2h: a whole number .*\n--with pack=0: a whole number above 0"),
        ({"detach": "maybe"}, "--with detach=maybe: allowed are yes and no"),
    ],
)
def test_options_are_checked_before_anything_is_submitted(options, words, tmp_path):
    with pytest.raises(ValueError, match=words):
        open_engine(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_machine_without_slurm_or_submitit_says_what_is_needed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(ValueError, match=re.escape("pip install 'densenet-ablations[slurm]'")):
        open_engine(tmp_path / "out")
    monkeypatch.setitem(sys.modules, "submitit", pytest)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match=r"this machine has no sbatch, .*: run this command on a machine from which"):
        open_engine(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_was_handed_over_is_told_and_no_other_engine_does_it(results, tiny, monkeypatch):
    (results / "records").rename(results / "away")
    ids = [path.stem for path in sorted((results / "away").glob("*.json"))]
    submissions.announce(results, [ids[:1], ids[1:3]])
    monkeypatch.setenv("PATH", "")
    told = CliRunner().invoke(app, ["status", str(results)])
    assert "Handed over to Slurm: 3 unknown.\n  this machine cannot ask Slurm" in told.output
    as_json = json.loads(CliRunner().invoke(app, ["status", "--json", str(results)]).output)
    assert as_json["slurm"] == {"queued": [], "running": {}, "lost": [], "unknown": ids[:3]}
    with pytest.raises(driver.WrongFolder, match=r"handed over to Slurm; .*--engine slurm adopts them.*delete .*slurm"):
        driver.work(tiny, results, driver.make_engine("inline", ["cpu"]), (), Console(file=io.StringIO()))


class Beside:
    """Runs tasks of the test's own before those of the driver, in the same Slurm job, and keeps their events."""

    def __init__(self, engine, own):
        self.slots, self.widest, self.machine = engine.slots, engine.widest, engine.machine
        self._engine, self._own = engine, own
        self.events = []

    def run(self, tasks, stopping):
        for event in self._engine.run([*self._own, *tasks], stopping):
            if event.task in self._own:
                self.events.append(event)
            else:
                yield event


@needs_slurm
def test_a_job_keeps_the_rules_and_a_grid_has_the_tables_of_the_local_engine(short_reference, cluster, tmp_path):
    grid, there = write_grid(tmp_path, PAIR), tmp_path / "out"
    tasks = [Task("a", work, ("a",)), Task("dies", die, ()), Task("slow", obey, (), stoppable=True, limit=0.3)]
    tasks += [Task("b", work, ("b",))]
    with driver.open_engine("slurm", Order("cpu", 1, 1, there, {"pack": "8"})) as engine:
        both = Beside(engine, tasks)
        outcome = driver.work(read(grid), there, both, (), Console(file=io.StringIO()), measure=False)
    events = both.events
    assert [key for key, _ in course(events, Started)] == ["a", "dies", "dies", "dies", "slow", "b"]
    assert course([event for event in events if event.task.key == "a"], object) == [
        ("a", "Started"), ("a", "Told"), ("a", "Finished"),
    ]  # fmt: skip
    ends = {event.task.key: event for event in events if isinstance(event, Ended)}
    assert ends["slow"] == Lost(tasks[2], 0, "timeout", "it took longer than time_limit = 0.3 seconds")
    assert ends["dies"].reason.endswith("3 times in a row without a newer checkpoint")
    assert ends["b"] == Finished(tasks[3], 0, "b on cpu")
    assert len(ends) == len(tasks) == sum(isinstance(event, Ended) for event in events)
    assert (outcome.executed, outcome.stopped) == (2, False)
    assert tables_of(there) == short_reference
    assert not (there / submissions.FOLDER).exists()
    assert not living(cluster)


@needs_slurm
@pytest.mark.slow
def test_what_is_exclusive_has_a_node_of_its_own_and_others_share_the_rest(cluster, tmp_path, monkeypatch):
    """Arrays may have one element here, so that a and b need two of them."""
    monkeypatch.setattr(slurm, "_read_longest_array", lambda: 1)
    path = str(tmp_path / "places")
    tasks = [Task(name, mark, (path, name), exclusive=name == "cost") for name in ("a", "cost", "b")]
    engine = open_engine(tmp_path / "out", seats=0)
    assert engine.slots == 4
    assert sorted(course(engine.run(tasks), Ended)) == [(name, "Finished") for name in ("a", "b", "cost")]
    engine.close()
    places = {line.split()[0]: line.split()[1:] for line in Path(path).read_text().splitlines()}
    assert len({job for _, job in places.values()}) == 3
    assert len({node for node, _ in places.values()}) == 2


RULES = [each for name, each in sorted(vars(test_engine).items()) if name.startswith("test_")]


@needs_slurm
@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_every_rule_of_an_engine(rule, cluster, tmp_path):
    """Two tasks run side by side in one job."""
    engine = open_engine(tmp_path / "out", cpus="2", pack="8")
    given = {"engine": engine, "tmp_path": tmp_path}
    rule(**{name: given[name] for name in inspect.signature(rule).parameters})
    engine.close()
    assert not living(cluster)
    assert not submissions.list_submissions(tmp_path / "out")


def disturb(cluster, fault):
    """Does something to the jobs that run."""
    jobs = living(cluster, "%i")
    if fault == "preempted":
        cluster.ask("sbatch", "-p", "high", "--exclusive", "-N", "2", "-o", "/dev/null", "--wrap", "sleep 2")
    elif fault == "node lost":
        for node in set(living(cluster, "%N")):
            cluster.kill_node(node)
            cluster.start_node(node)
    elif fault == "killed":
        seats = [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"submitit.core._submit" in read_bytes(path)]
        for path in seats:
            os.kill(int(path.parent.name), signal.SIGKILL)
    else:
        cluster.ask(*{"requeued": ["scontrol", "requeue"], "cancelled": ["scancel"]}[fault], *jobs)


def read_bytes(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""


@needs_slurm
@pytest.mark.slow
@pytest.mark.parametrize("fault", ["preempted", "requeued", "cancelled", "killed", "node lost"])
def test_a_training_goes_on_after_its_job_was(fault, cluster, tmp_path, reference):
    grid, folder = write_grid(tmp_path, LONG), tmp_path / "out"
    with at_work(grid, folder, *QUICK) as process:
        before = living(cluster, "%i")
        disturb(cluster, fault)
        output = check_end(process, folder, reference)
    assert resumes_of(folder) >= 1
    assert ("again " in output) or fault == "cancelled"
    assert before


@needs_slurm
@pytest.mark.slow
def test_a_job_whose_time_is_over_ends_politely_and_is_started_again(cluster, tmp_path):
    engine = open_engine(tmp_path / "out", time="1")
    events = list(engine.run([Task("a", stay, (str(tmp_path / "lives"),), stoppable=True)]))
    engine.close()
    assert course(events, (Started, Restarted, Ended)) == [
        ("a", "Started"), ("a", "Restarted"), ("a", "Started"), ("a", "Finished"),
    ]  # fmt: skip
    assert not (tmp_path / "out" / submissions.FOLDER).exists()


@needs_slurm
@pytest.mark.slow
def test_a_job_that_somebody_cancels_three_times_has_failed(cluster, tmp_path):
    engine = open_engine(tmp_path / "out")
    events, begun = [], 0
    for event in engine.run([Task("a", never_end, (), stoppable=True)]):
        events.append(event)
        if isinstance(event, Started) and (jobs := living(cluster)):
            begun += 1
            cluster.ask("scancel", *jobs)
    engine.close()
    assert begun == 3
    (lost,) = [event for event in events if isinstance(event, Lost)]
    assert lost.reason == "its Slurm job was cancelled by somebody, 3 times"


@needs_slurm
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_driver_that_is_asked_to_stop_ends_its_jobs_and_goes_on_later(number, cluster, tmp_path, reference):
    grid, folder = write_grid(tmp_path, LONG), tmp_path / "out"
    with at_work(grid, folder, *QUICK) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "Traceback" not in errors
    assert not living(cluster)
    assert not submissions.list_submissions(folder)
    again = subprocess.Popen(command(grid, folder, *QUICK), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    check_end(again, folder, reference)
    assert resumes_of(folder) >= 1


@needs_slurm
@pytest.mark.slow
def test_jobs_outlive_a_driver_that_is_killed_and_the_next_one_adopts_them(cluster, tmp_path, reference):
    grid, folder = write_grid(tmp_path, LONG), tmp_path / "out"
    with at_work(grid, folder, *QUICK) as process:
        process.kill()
        process.communicate()
    jobs = living(cluster)
    assert jobs
    refused = CliRunner().invoke(app, ["run", str(grid), "--out", str(folder), "--no-costs"])
    assert refused.exit_code == 2
    assert "handed over to Slurm" in refused.output
    noted = (folder / "events.jsonl").read_text()
    again = subprocess.Popen(command(grid, folder, *QUICK), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait(lambda: (folder / "events.jsonl").read_text() != noted or again.poll() is not None)
    assert living(cluster) == jobs
    check_end(again, folder, reference)
    assert resumes_of(folder) == 0


@needs_slurm
@pytest.mark.slow
def test_a_driver_that_leaves_says_how_to_come_back(cluster, tmp_path, reference):
    grid, folder = write_grid(tmp_path, LONG), tmp_path / "out"
    called = command(grid, folder, *QUICK, "--with", "detach=yes")
    first = subprocess.run(called, capture_output=True, text=True, check=True)
    assert re.search(r"2 jobs of the grid: handed over to Slurm \(squeue --me: [0-9]+\), which goes on", first.stdout)
    jobs = living(cluster)
    wait(lambda: list(folder.glob("checkpoints/*.latest")))
    told = CliRunner().invoke(app, ["status", str(folder)]).output
    assert re.search(r"Handed over to Slurm: 1 queued, 1 running.\n  run .*: job [0-9]+ on n[12]", told)
    second = subprocess.run(called, capture_output=True, text=True, check=True)
    assert "handed over to Slurm" in second.stdout
    assert living(cluster) == jobs
    wait(lambda: not living(cluster))
    last = subprocess.Popen(called, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    check_end(last, folder, reference)


@contextmanager
def changed_node(cluster, node, *mount):
    """A node that sees other files than this process."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True).returncode:
        pytest.skip("a node with files of its own needs mounts, which are not allowed here")
    cluster.stop_node(node)
    cluster.start_node(node, "unshare", "-m", "sh", "-c", f'{shlex.join(["mount", *mount])} && exec "$@"', "sh")
    cluster.wait(lambda: cluster.ask("sinfo", "-h", "-n", node, "-p", "low", "-o", "%t").strip() == "idle")
    try:
        yield
    finally:
        cluster.stop_node(node)
        cluster.start_node(node)
        cluster.wait(lambda: cluster.ask("sinfo", "-h", "-n", node, "-p", "low", "-o", "%t").strip() == "idle")


@needs_slurm
@pytest.mark.slow
def test_a_node_with_one_changed_source_file_is_refused(cluster, tmp_path):
    changed = tmp_path / "metrics.py"
    changed.write_text((ROOT / "ablations" / "metrics.py").read_text() + "\n")
    with changed_node(cluster, "n2", "--bind", str(changed), str(ROOT / "ablations" / "metrics.py")):
        with pytest.raises(ValueError, match="the cluster's nodes have other code of the suite"):
            open_engine(tmp_path / "out", nodelist="n2")
        engine = open_engine(tmp_path / "out")  # looks at the first node
        engine._options["nodelist"] = "n2"
        (end,) = [event for event in engine.run([Task("a", work, ("a",))]) if isinstance(event, Ended)]
        assert isinstance(end, Broken)
        assert str(end.error).startswith("node n2 has other code of the suite: install the same version there")
        assert not living(cluster)
        engine._options["detach"] = "yes"
        with pytest.raises(Detached):
            list(engine.run([Task("a", work, ("a",))]))
        wait(lambda: not living(cluster))
        with pytest.raises(ValueError, match="node n2 has other code of the suite"):
            list(engine.run([Task("a", work, ("a",))]))
        assert not submissions.list_submissions(tmp_path / "out")


@needs_slurm
@pytest.mark.slow
def test_a_results_folder_that_nodes_do_not_see_is_refused(cluster, tmp_path):
    (tmp_path / "own").mkdir()
    with (
        changed_node(cluster, "n2", "-t", "tmpfs", "tmpfs", str(tmp_path / "own")),
        pytest.raises(ValueError, match=r"node n2 does not see the folder .*own/out: .*system that all nodes share"),
    ):
        open_engine(tmp_path / "own" / "out", nodelist="n2")
    assert not living(cluster)


@needs_slurm
@pytest.mark.slow
def test_what_slurm_refuses_is_told_with_its_words(cluster, tmp_path):
    with pytest.raises(ValueError, match=r"Slurm refuses the jobs: .*invalid partition specified: gpu"):
        open_engine(tmp_path / "out", partition="gpu")


TASKS = 200
"""Tasks that do nothing, in the measurement of what Slurm jobs cost."""


@needs_slurm
@pytest.mark.bench
def test_tasks_in_slurm_jobs_of_fifty(benchmark, cluster, tmp_path):
    """From the submission to the end of all jobs, with the engine."""
    tasks = [Task(str(number), nothing, ()) for number in range(TASKS)]
    engine = open_engine(tmp_path / "out", seats=0, pack="50")
    benchmark.group = f"{TASKS} tasks that do nothing, in Slurm"
    benchmark.extra_info["tasks"] = TASKS
    events = benchmark.pedantic(lambda: list(engine.run(tasks)), rounds=1)
    engine.close()
    assert sum(isinstance(event, Finished) for event in events) == TASKS


@needs_slurm
@pytest.mark.bench
def test_tasks_in_an_array_of_bare_submitit(benchmark, cluster, tmp_path):
    """The same with submitit alone: a job for each task, as it has it."""
    import submitit

    def submit():
        executor = submitit.SlurmExecutor(tmp_path / "logs")
        executor.update_parameters(time=None, job_name="bare")
        executor.map_array(nothing, [None] * TASKS)
        cluster.wait(lambda: not living(cluster), 3600)

    benchmark.group = f"{TASKS} tasks that do nothing, in Slurm"
    benchmark.extra_info["tasks"] = TASKS
    benchmark.pedantic(submit, rounds=1)
    assert len(list((tmp_path / "logs").glob("*_result.pkl"))) == TASKS

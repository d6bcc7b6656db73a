"""The engine for Ray, on a real cluster of two nodes: the rules of every engine, lost nodes, unshared folders."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import test_engine as rules
from conftest import TINY, write_grid
from ray_cluster import start_cluster
from rich.console import Console

from ablations.execution import driver
from ablations.execution.engine import Finished, Kept, Restarted, Started, Task, Told
from ablations.execution.ray import RayEngine
from ablations.execution.seat import PRELOAD, Order
from ablations.grid.reader import read
from ablations.report import page
from ablations.report.frames import load
from ablations.report.results import analyse
from ablations.storage import records

SMALL = TINY.replace("seeds = [0, 1, 2]", "seeds = [0]")
LONG = SMALL.replace("epochs = 1", "epochs = 60\ntrain.checkpoint_seconds = 0.1")


def open_engine(address, folder, preload=PRELOAD):
    return RayEngine(Order("cpu", 0, 1, folder, {"address": address}), preload)


def run_grid(path, folder, engine, measure=True):
    return driver.work(read(path), folder, engine, (), Console(file=io.StringIO(), width=200), measure=measure)


def results(folder):
    return {name: each["deterministic"] for name, each in records.load(folder)[0].items()}


def tables(folder):
    page.write(analyse(load(folder)))
    return {path.name: path.read_bytes() for path in (folder / "tables").iterdir()}


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_short_form(tmp_path):
    """Events, deaths and a stop; and a tiny grid with the results of the local engine, also in an unshared folder."""
    path = write_grid(tmp_path, SMALL.replace("[4, 8]", "[4]"))
    run_grid(path, tmp_path / "local" / "out", driver.make_engine("local", ["cpu", "cpu"]), measure=False)
    with start_cluster(nodes=0, head=1) as cluster:
        engine = open_engine(cluster.address, tmp_path, PRELOAD[:1])
        try:
            assert (engine.slots, engine.shared, engine.machine["device"]) == (1, True, "cpu")
            assert not [*tmp_path.glob(".probe*")]
            tasks = [Task(name, rules.work, (name,)) for name in "abc"] + [Task("dies", rules.die, ())]
            events = list(engine.run(tasks))
            told = Counter(type(each) for each in events if each.task.key in "abc")
            assert told == {Started: 3, Told: 3, Finished: 3}
            assert Counter(type(each) for each in events if each.task.key == "dies")[Restarted] == 2
            assert {each.task for each in events} == set(tasks)
            rules.test_on_request_nothing_is_started_and_what_runs_is_asked_to_end(engine)
            outcome = run_grid(path, tmp_path / "ray" / "out", engine, measure=False)
            assert (outcome.executed, outcome.stopped) == (1, False)
            engine.shared = False
            run_grid(path, tmp_path / "away" / "out", engine, measure=False)
        finally:
            engine.close()
    assert (
        results(tmp_path / "ray" / "out") == results(tmp_path / "away" / "out") == results(tmp_path / "local" / "out")
    )
    assert names(tmp_path / "away" / "out") == names(tmp_path / "ray" / "out")


@pytest.fixture(scope="module")
def cluster():
    with start_cluster() as found:
        yield found


@pytest.fixture
def engine(cluster, tmp_path):
    found = open_engine(cluster.address, tmp_path)
    yield found
    found.close()


BARE_RULES = (
    rules.test_the_same_checkpoint_again_forgives_nothing,
    rules.test_a_task_over_its_limit_is_lost_and_the_next_one_runs,
    rules.test_a_fault_of_the_machine_is_no_death_and_no_status,
    rules.test_closing_ends_what_runs,
)
RULES = (
    rules.test_exclusive_tasks_overlap_with_nothing,
    rules.test_what_dies_is_the_next_to_be_started_and_given_up_after_three_deaths_in_a_row,
    rules.test_a_newer_checkpoint_forgives_deaths,
    rules.test_nothing_is_lost_and_nothing_ends_twice,
)


@pytest.mark.slow
def test_it_keeps_the_rules_of_every_engine(engine, tmp_path):
    for rule in BARE_RULES:
        rule(engine)
    for rule in RULES:
        folder = tmp_path / rule.__name__
        folder.mkdir()
        arguments = (engine, folder)[: rule.__code__.co_argcount]
        rule(*arguments)


class Disturbed:
    """An engine during whose work something happens: when every task has kept its first state."""

    def __init__(self, engine, happens):
        self.engine, self.happens, self.slots, self.machine = engine, happens, engine.slots, engine.machine
        self.widest = engine.widest
        self.events: list = []

    def run(self, tasks, stopping=lambda: False):
        for event in self.engine.run(tasks, stopping):
            self.events.append(event)
            kept = {each.task.key for each in self.events if isinstance(each, Kept)}
            if len(kept) == len(tasks) and self.happens:
                self.happens()
                self.happens = None
            yield event


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_runs_of_a_lost_node_go_on_elsewhere(shared, tmp_path):
    """The node is lost after a checkpoint, without a word. Another one takes its place."""
    path = write_grid(tmp_path, LONG)
    run_grid(path, tmp_path / "local" / "out", driver.make_engine("local", ["cpu", "cpu"]), measure=False)
    with start_cluster() as cluster:
        engine = open_engine(cluster.address, tmp_path)
        engine.shared = shared
        try:
            disturbed = Disturbed(engine, lambda: cluster.remove_node(cluster.workers[0], allow_graceful=False))
            outcome = run_grid(path, tmp_path / "ray" / "out", disturbed, measure=False)
        finally:
            engine.close()
    assert (outcome.executed, outcome.stopped) == (2, False)
    (again,) = [each for each in disturbed.events if isinstance(each, Restarted)]
    assert again.reason == "lost with its node"
    resumes = {each["id"]: each["measured"]["resumes"] for each in records.load(tmp_path / "ray" / "out")[0].values()}
    assert resumes[again.task.key] >= 1
    assert results(tmp_path / "ray" / "out") == results(tmp_path / "local" / "out")
    assert tables(tmp_path / "ray" / "out") == tables(tmp_path / "local" / "out")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_driver_that_is_ended_leaves_nothing_behind_and_goes_on(number, cluster, tmp_path):
    path, folder = write_grid(tmp_path, LONG.replace("= 60", "= 300")), tmp_path / "ray" / "out"
    run_grid(path, tmp_path / "local" / "out", driver.make_engine("local", ["cpu", "cpu"]), measure=False)
    command = [sys.executable, "-m", "ablations", "run", str(path), "--out", str(folder), "--no-costs"]
    command += ["--device", "cpu", "--engine", "ray", "--with", f"address={cluster.address}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    try:
        end = time.monotonic() + 120
        while len(list(folder.glob("checkpoints/*.latest"))) < 2:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.05)
        if number == signal.SIGINT:
            os.killpg(process.pid, number)  # as from a terminal
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    if number != signal.SIGKILL:
        assert process.returncode == 75, errors
        assert errors.startswith(b"Stopped. What is finished or begun is kept in")
        assert b"Traceback" not in errors
    end = time.monotonic() + 30
    while find_seats():
        assert time.monotonic() < end
        time.sleep(0.2)
    finished = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert finished.returncode == 0, finished.stderr
    resumes = [each["measured"]["resumes"] for each in records.load(folder)[0].values()]
    assert len(resumes) == 2
    assert min(resumes) >= 1
    assert results(folder) == results(tmp_path / "local" / "out")
    assert tables(folder) == tables(tmp_path / "local" / "out")


def find_seats():
    """The processes of seats, and of tasks in them."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdecimal():
            try:
                words = (place / "cmdline").read_bytes()
            except OSError:
                continue
            if b"ray::Seat" in words:
                found.append(place.name)
    return found


def test_what_it_cannot_do_is_told_before_a_cluster_is_asked(tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'densenet-ablations[ray]'")
    for options, message in {
        ("num_cpu", "1"): "--with num_cpu: options of --engine ray are\n  address: .*\n  num_cpus: .*\n  num_gpus: ",
        ("num_cpus", "few"): "--with num_cpus=few: a number above 0 is needed",
        ("num_gpus", "-1"): "--with num_gpus=-1: a number above 0 is needed",
        ("address", "ray://here:10001"): "run this command on a node of the cluster, with address=auto",
    }.items():
        with pytest.raises(ValueError, match=message):
            RayEngine(Order("cpu", 0, 1, tmp_path, dict([options])))


def test_where_ray_is_not_installed_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"needs Ray: pip install 'densenet-ablations\[ray\]'"):
        RayEngine(Order("cpu", 0, 1, tmp_path, {}))


@pytest.mark.slow
def test_a_cluster_of_its_own_from_the_command_line(tmp_path):
    """No address: Ray is started on this machine, and nothing of it remains."""
    path, folder = write_grid(tmp_path, SMALL.replace("[4, 8]", "[4]")), tmp_path / "ray" / "out"
    command = [sys.executable, "-m", "ablations", "run", str(path), "--out", str(folder), "--engine", "ray"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert found.returncode == 0, found.stderr
    assert found.stderr == ""
    assert load(folder).runs.status.tolist() == ["done"]
    assert not find_seats()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "nowhere", "127.0.0.1:99999"])
def test_a_cluster_that_is_not_there_is_told(address, tmp_path):
    pytest.importorskip("ray", reason="needs Ray: pip install 'densenet-ablations[ray]'")
    with pytest.raises(ValueError, match=f"--engine ray: no cluster at address={address}: "):
        open_engine(address, tmp_path)

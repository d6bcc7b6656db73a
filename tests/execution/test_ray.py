"""The engine for Ray, on a real cluster of two nodes: the rules of every engine, lost nodes, folders that nobody shares."""

from __future__ import annotations

import io
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
import test_engine as rules
from conftest import TINY, write_grid
from ray_cluster import start_cluster
from rich.console import Console

from ablations.execution import driver
from ablations.execution.engine import Ended, Finished, Kept, Restarted, Started, Stopped, Task, Told
from ablations.execution.ray import RayEngine
from ablations.execution.seat import Order
from ablations.grid.reader import read
from ablations.storage import records

RULES = (
    rules.test_exclusive_tasks_overlap_with_nothing,
    rules.test_what_dies_is_the_next_to_be_started_and_given_up_after_three_deaths_in_a_row,
    rules.test_a_newer_checkpoint_forgives_deaths,
    rules.test_nothing_is_lost_and_nothing_ends_twice,
)
"""Rules that need a folder of their own, and others: see `follow`."""

BARE_RULES = (
    rules.test_the_same_checkpoint_again_forgives_nothing,
    rules.test_a_task_over_its_limit_is_lost_and_the_next_one_runs,
    rules.test_on_request_nothing_is_started_and_what_runs_is_asked_to_end,
    rules.test_a_fault_of_the_machine_is_no_death_and_no_status,
    rules.test_closing_ends_what_runs,
)


def open_engine(cluster, folder, **options):
    return RayEngine(Order("cpu", 0, 1, folder, {"address": cluster.address, **options}), preload=())


def run_grid(path, folder, engine, retry=()):
    return driver.work(read(path), folder, engine, retry, Console(file=io.StringIO(), width=200))


def deterministic(folder):
    return {name: each["deterministic"] for name, each in records.load(folder)[0].items()}


def test_short_form(tmp_path):
    """A task that keeps a state and tells, a death, a stop, and a tiny grid with the results of the local engine."""
    text = TINY.replace("seeds = [0, 1, 2]", "seeds = [0]").replace("[4, 8]", "[4]")
    path = write_grid(tmp_path, text)
    run_grid(path, tmp_path / "local", driver.make_engine("local", ["cpu", "cpu"]))
    with start_cluster() as cluster:
        engine = open_engine(cluster, tmp_path)
        try:
            assert (engine.slots, engine.shared, engine.machine["device"]) == (2, True, "cpu")
            assert not [*tmp_path.glob(".probe*")]
            tasks = [Task(name, rules.work, (name,)) for name in "abc"] + [Task("dies", rules.die, ())]
            events = list(engine.run(tasks))
            assert Counter(type(each) for each in events if each.task.key in "abc") == {
                Started: 3,
                Told: 3,
                Finished: 3,
            }
            assert Counter(type(each) for each in events if each.task.key == "dies")[Restarted] == 2
            assert {each.task for each in events} == set(tasks)
            rules.test_on_request_nothing_is_started_and_what_runs_is_asked_to_end(engine)
            outcome = run_grid(path, tmp_path / "ray", engine)
            assert (outcome.executed, outcome.stopped) == (2, False)
            engine.shared = False
            run_grid(path, tmp_path / "away", engine)
        finally:
            engine.close()
    assert deterministic(tmp_path / "ray") == deterministic(tmp_path / "away") == deterministic(tmp_path / "local")
    assert sorted(each.name for each in (tmp_path / "away").iterdir()) == sorted(
        each.name for each in (tmp_path / "ray").iterdir()
    )

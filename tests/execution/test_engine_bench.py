"""`make bench-engines`: what an engine adds to each task, beside bare processes, Ray and Slurm."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from pathlib import Path

import pytest
from idle import bare, nothing
from ray_cluster import start_cluster

from ablations.execution.engine import Finished, Task
from ablations.execution.fresh import start_server
from ablations.execution.local import LocalEngine
from ablations.execution.ray import RayEngine
from ablations.execution.seat import Order

TASKS = int(os.environ.get("TASKS", "10000"))
ENGINE = ("ablations.execution.local",)
"""What servers load before they fork processes, as they do for trainings."""


def memory() -> float:
    """MiB of this process in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def run_all(engine, count) -> tuple[float, float, float]:
    """Milliseconds and milliseconds of this process's own time per task, and MiB that its memory has grown by.

    The memory is that after the last tenth of the tasks beside that after the first.
    """
    tasks = [Task(f"{number:05}", nothing, ()) for number in range(count)]
    done, early = 0, 0.0
    began, own = time.monotonic(), time.process_time()
    for event in engine.run(tasks):
        done += isinstance(event, Finished)
        early = early or (memory() if done == count // 10 else 0.0)
    assert done == count
    spent, own = time.monotonic() - began, time.process_time() - own
    return 1000 * spent / count, 1000 * own / count, memory() - early


@pytest.mark.bench
def test_local_tasks_beside_bare_processes():
    """One worker, and rounds of both in turn: a task is a process, too. Then all tasks, with two workers."""
    engine, context = LocalEngine(["cpu"], {}, ENGINE), multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", *ENGINE])
    start_server()
    run_all(engine, 50)
    for _ in range(5):
        began = time.monotonic()
        for _ in range(count := TASKS // 20):
            process = context.Process(target=bare)
            process.start()
            process.join()
        alone = 1000 * (time.monotonic() - began) / count
        whole, own, _ = run_all(engine, count)
        print(f"\nbare {alone:.2f} ms, task {whole:.2f} ms: {whole - alone:+.2f} ms; driver {own:.2f} ms")
    whole, own, grown = run_all(LocalEngine(["cpu"] * 2, {}, ENGINE), TASKS)
    print(f"\n{TASKS} tasks, two workers: {whole:.2f} ms a task; driver {own:.2f} ms; {grown:+.2f} MiB")


@pytest.mark.bench
def test_tasks_in_seats_of_ray_beside_bare_calls(tmp_path):
    """Two seats. A bare call is a method of an actor that does nothing; there are two actors."""
    count = TASKS // 10
    with start_cluster() as cluster:
        engine = RayEngine(Order("cpu", 0, 1, tmp_path, {"address": cluster.address}), preload=ENGINE)
        import ray

        class Bare:
            def work(self, number):
                return number

        run_all(engine, 20)
        whole, own, grown = run_all(engine, count)
        engine._leave(engine._places)
        actors = [ray.remote(num_cpus=1)(Bare).remote() for _ in range(2)]
        ray.get([actor.work.remote(0) for actor in actors])
        began = time.monotonic()
        for number in range(0, count, 2):
            ray.get([actor.work.remote(number) for actor in actors])
        alone = 1000 * (time.monotonic() - began) / count
        engine.close()
    print(f"\nbare {alone:.2f} ms, task {whole:.2f} ms; driver {own:.2f} ms; {grown:+.2f} MiB")

"""How `make bench` measures: steps in interleaved rounds, one at a time, so that a ratio is of neighbours in time.

Steps run in new processes, which all start in the same way. A training has a process of its own; what other steps in a
process leave of the memory changes the time of a step. pytest-benchmark gets the seconds by a clock that replays them.
`ROUNDS` comes from the environment.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection

import pytest
import torch

from ablations.profiling.timing import Accounts, disturbance
from ablations.training.graph import FIRST_STEPS

ROUNDS = int(os.environ.get("ROUNDS", "25" if os.environ.get("DEVICE") == "cuda" else "9"))
WARMUP = 2
"""Rounds before those that count."""

Step = Callable[[], object]


def interleaved(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step in each round; a round takes all of them, in an order of its own, always the same.

    Two rounds before these are left out.
    """
    draw = random.Random(0)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(WARMUP + rounds):
        for name in draw.sample(list(steps), len(steps)):
            start = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: each[WARMUP:] for name, each in seconds.items()}


@dataclass(frozen=True)
class Worker:
    """A new process that takes a step whenever it is asked to, and else sleeps."""

    steps: Mapping[str, Callable[[], Step]]
    """What prepares each step; it is called in the process."""

    threads: int = 1
    environment: Mapping[str, str] = field(default_factory=dict)
    """What is added to its environment, such as `LD_PRELOAD` for another memory allocator."""


@dataclass(frozen=True)
class Measured:
    """The seconds of each step in each round."""

    seconds: Mapping[str, list[float]]
    disturbed: str
    """What else used the machine meanwhile."""


def measure(workers: Iterable[Worker], rounds: int) -> Measured:
    """Measures the steps of all workers, one at a time."""
    context = multiprocessing.get_context("spawn")
    with ExitStack() as stack:
        pipes, processes = [], []
        asked: dict[str, Step] = {}
        for worker in workers:
            pipe, there = context.Pipe()
            process = context.Process(target=serve, args=(worker, there), daemon=True)
            with pytest.MonkeyPatch.context() as patch:
                for name, value in worker.environment.items():
                    patch.setenv(name, value)
                process.start()
            there.close()
            stack.callback(process.join)
            stack.callback(process.kill)
            processes.append(process)
            pipes.append(pipe)
            asked |= {name: partial(ask, pipe, name) for name in worker.steps}
        for pipe in pipes:
            pipe.recv()
        accounts = Accounts.now(*(process.pid for process in processes))
        seconds = interleaved(asked, rounds)
        return Measured(seconds, disturbance(0, *accounts.since()))


def ask(pipe: Connection, name: str) -> None:
    """Has a worker take a step, and waits for its end."""
    pipe.send(name)
    pipe.recv()


def serve(worker: Worker, pipe: Connection) -> None:
    """Takes the steps that are asked for."""
    torch.set_num_threads(worker.threads)
    steps = {name: make() for name, make in worker.steps.items()}
    for step in steps.values() if torch.cuda.is_initialized() else ():
        for _ in range(FIRST_STEPS + 1):  # so that graphs and compiled networks are there
            step()
    while True:
        finish()
        pipe.send("done")
        steps[pipe.recv()]()


def finish() -> None:
    """Waits until a GPU has done everything."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Clock:
    """A clock that shows 0 and a given number of seconds in turn: pytest-benchmark finds these and nothing else."""

    def __init__(self) -> None:
        self.readings: Iterator[float] = iter(())

    def replay(self, seconds: list[float]) -> None:
        self.readings = itertools.chain.from_iterable((0.0, each) for each in seconds)

    def __call__(self) -> float:
        return next(self.readings)


CLOCK = Clock()
replayed = pytest.mark.benchmark(timer=CLOCK)


def report(benchmark, group: str, seconds: list[float], **facts: object) -> None:
    """Hands what was measured to pytest-benchmark."""
    CLOCK.replay(seconds)
    benchmark.group = group
    benchmark.extra_info.update(facts)
    benchmark.pedantic(lambda: None, rounds=len(seconds))

"""How steps are measured: rounds, processes, and the clock."""

from __future__ import annotations

import json
import os
import time
from ctypes.util import find_library
from functools import partial
from pathlib import Path

import pytest
import torch
from rounds import CLOCK, WARMUP, Worker, interleaved, measure


def test_rounds_take_every_step_once_and_the_clock_replays_what_they_took():
    taken: list[str] = []
    seconds = interleaved({name: partial(taken.append, name) for name in "abc"}, rounds=4)
    assert [len(each) for each in seconds.values()] == [4, 4, 4]
    rounds = [tuple(taken[start : start + 3]) for start in range(0, 3 * (4 + WARMUP), 3)]
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)
    assert len(set(rounds)) > 1
    CLOCK.replay([0.25, 0.5])
    assert [-CLOCK() + CLOCK() for _ in range(2)] == [0.25, 0.5]


def make_busy(path: Path) -> partial:
    return partial(be_busy, path)


def be_busy(path: Path) -> None:
    """Works with all threads, and tells where it is and how much CPU time its threads take while they wait."""
    torch.ones(2**21).mul_(2)
    time.sleep(0.05)
    before = time.process_time()
    time.sleep(0.2)
    idle = time.process_time() - before
    path.write_text(json.dumps([idle, os.getpid(), torch.get_num_threads(), os.environ.get("LD_PRELOAD", "")]))


@pytest.mark.slow
def test_a_worker_has_its_threads_and_its_environment_and_waits_asleep(tmp_path):
    steps = {name: partial(make_busy, tmp_path / name) for name in "ab"}
    library = find_library("m") or ""
    measured = measure([Worker(steps, threads=2, environment={"LD_PRELOAD": library})], rounds=1)
    assert {name: len(seconds) for name, seconds in measured.seconds.items()} == {"a": 1, "b": 1}
    (idle, *told), (_, *also) = (json.loads((tmp_path / name).read_text()) for name in "ab")
    assert idle < 0.02
    assert told == also
    assert told[0] != os.getpid()
    assert told[1:] == [2, library]
    assert os.environ.get("LD_PRELOAD", "") == ""

"""`make bench-records`: reports of 10,000 records."""

from __future__ import annotations

import os
import random
import subprocess
import sys

import pytest
from conftest import MACHINE, TINY, record_of, write_grid

from ablations.grid.model import list_jobs
from ablations.grid.planning import make_manifest
from ablations.grid.reader import read
from ablations.storage import records

STUDIES, LEVELS, SEEDS = 40, 49, 5


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A results folder of some 10,000 made-up records: 40 studies of 49 levels, a quarter of them products, 5 seeds."""
    folder, generator = tmp_path_factory.mktemp("large"), random.Random(0)
    text = TINY.partition("[study")[0].replace("[0, 1, 2]", str(list(range(SEEDS))))
    for study in range(STUDIES):
        decays = [round(0.001 * (study + 1) + 1e-5 * level, 6) for level in range(LEVELS)]
        axes = f"train.weight_decay = {decays}\nmodel.growth_rate = [{5 + study}]\n"
        if study % 4 == 0:
            axes = f"train.weight_decay = {decays[:7]}\nmodel.growth_rate = {[5 + study + 50 * n for n in range(7)]}\n"
        text += f'[study.study{study}]\nquestion = "What does number {study} buy?"\n{axes}'
    grid = read(write_grid(folder, text), max_jobs=20_000)
    make_manifest(grid, MACHINE, folder / "r").write(folder / "r")
    (folder / "r" / "records").mkdir()
    for job in list_jobs(grid, MACHINE):
        record = record_of(job, generator.gauss(90, 1), generator.uniform(0.5, 2))
        if job.kind == "run":
            (line,) = record["deterministic"]["history"]
            history = [{**line, "epoch": n + 1, "train_loss": 2 / (n + 1) + generator.random() / 9} for n in range(20)]
            record["deterministic"]["history"], record["measured"]["epoch_seconds"] = history, [2.5] * 20
        (folder / "r" / "records" / f"{job.id}.json").write_bytes(records.seal(record))
    return folder / "r"


PEAK = """
import re, sys
from ablations.cli import app
try:
    app(sys.argv[1:])
finally:
    sys.stderr.write(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""
"""Runs a command and tells the most memory that its process had, in KiB."""


@pytest.mark.bench
@pytest.mark.parametrize("command", ["status", "report --only tables", "report --only figures", "report"])
def test_ten_thousand_records(command, large, benchmark):
    name, *options = command.split()
    called = [
        "taskset",
        "--cpu-list",
        str(min(os.sched_getaffinity(0))),
        sys.executable,
        "-c",
        PEAK,
        name,
        str(large),
        *options,
    ]
    benchmark.group = "10,000 records on one core"
    benchmark.extra_info["records"] = len(list((large / "records").iterdir()))
    arguments, rounds = {"check": True, "capture_output": True, "text": True}, 3 if name == "status" else 1
    found = benchmark.pedantic(subprocess.run, (called,), arguments, rounds=rounds)
    benchmark.extra_info["peak_MiB"] = int(found.stderr.split()[-1]) // 1024
    print(f"\n{command}: {benchmark.extra_info}")

"""`make bench`: training steps beside torchvision's blocks, in one process; and reports of 10,000 records."""

from __future__ import annotations

import random
import subprocess
import sys

import pytest
import torch
import torchvision
from conftest import MACHINE, TINY, record_of, write_grid

from ablations import files, records
from ablations.config import TrainConfig
from ablations.grid import jobs, manifest
from ablations.reader import read
from ablations.step import optimizer_for, training_step
from densenet import DenseNetConfig, build

SHAPE = {"block_config": (6, 6, 6), "growth_rate": 12}


def torchvisions(memory_efficient: bool) -> torch.nn.Module:
    """torchvision's blocks behind the CIFAR stem."""
    network = torchvision.models.DenseNet(12, (6, 6, 6), 24, num_classes=10, memory_efficient=memory_efficient)
    for name in ("norm0", "relu0", "pool0"):
        delattr(network.features, name)
    network.features.conv0 = torch.nn.Conv2d(3, 24, 3, padding=1, bias=False)
    return network


NETWORKS = {
    "ours, none": lambda: build(DenseNetConfig(**SHAPE)),
    "ours, bottleneck": lambda: build(DenseNetConfig(**SHAPE, checkpoint="bottleneck")),
    "ours, layer": lambda: build(DenseNetConfig(**SHAPE, checkpoint="layer")),
    "ours, block": lambda: build(DenseNetConfig(**SHAPE, checkpoint="block")),
    "torchvision": lambda: torchvisions(False),
    "torchvision, memory_efficient": lambda: torchvisions(True),
}


@pytest.mark.bench
@pytest.mark.parametrize("name", NETWORKS)
def test_training_step(benchmark, name):
    network = NETWORKS[name]().train()
    optimizer = optimizer_for(network, TrainConfig())
    images, labels = torch.randn(16, 3, 32, 32), torch.zeros(16, dtype=torch.long)
    benchmark.group = "training step, DenseNet-BC (6, 6, 6), k = 12, batch 16, 32 x 32"
    benchmark.pedantic(training_step, (network, optimizer, images, labels, TrainConfig()), rounds=10, warmup_rounds=2)


def test_the_networks_compared_are_the_same():
    sizes = {name: sum(p.numel() for p in make().parameters()) for name, make in NETWORKS.items()}
    assert len(set(sizes.values())) == 1, sizes


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
    files.write(folder / "r" / "jobs.json", records.sealed(manifest(grid, MACHINE)))
    (folder / "r" / "records").mkdir()
    for job in jobs(grid, MACHINE):
        record = record_of(job, generator.gauss(90, 1), generator.uniform(0.5, 2))
        if job.kind == "run":
            (line,) = record["deterministic"]["history"]
            history = [{**line, "epoch": n + 1, "train_loss": 2 / (n + 1) + generator.random() / 9} for n in range(20)]
            record["deterministic"]["history"], record["measured"]["epoch_seconds"] = history, [2.5] * 20
        (folder / "r" / "records" / f"{job.id}.json").write_bytes(records.sealed(record))
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
    called = ["taskset", "--cpu-list", "0", sys.executable, "-c", PEAK, name, str(large), *options]
    benchmark.group = "10,000 records on one core"
    benchmark.extra_info["records"] = len(list((large / "records").iterdir()))
    arguments, rounds = {"check": True, "capture_output": True, "text": True}, 3 if name == "status" else 1
    found = benchmark.pedantic(subprocess.run, (called,), arguments, rounds=rounds)
    benchmark.extra_info["peak_MiB"] = int(found.stderr.split()[-1]) // 1024
    print(f"\n{command}: {benchmark.extra_info}")

"""What `make bench` compares: training steps of this suite's networks and of others', and their memory.

`DEVICE` (cpu or cuda) and `BATCH` come from the environment.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from ablations.config import TrainConfig
from ablations.profiling.memory import LiveStorage
from ablations.training.graph import GraphedStep
from ablations.training.step import make_optimizer, prepare, prepare_images, training_step
from densenet import DenseNetConfig, build, kernels

SHAPE = {"block_config": (16, 16, 16), "growth_rate": 12}
DEVICE = torch.device(os.environ.get("DEVICE", "cpu"))
CUDA = DEVICE.type == "cuda"
BATCH = int(os.environ.get("BATCH", "64" if CUDA else "32"))


def textbook(**fields: object) -> nn.Module:
    return build(DenseNetConfig(**SHAPE, **fields))


def with_cifar_stem(network: nn.Module) -> nn.Module:
    """A DenseNet of others, its ImageNet stem replaced by one 3 x 3 convolution."""
    for name in {"norm0", "relu0", "pool0"} & {name for name, _ in network.features.named_children()}:
        delattr(network.features, name)
    network.features.conv0 = nn.Conv2d(3, 24, 3, padding=1, bias=False)
    return network


def torchvisions(**fields: object) -> nn.Module:
    return with_cifar_stem(torchvision.models.DenseNet(12, (16, 16, 16), 24, num_classes=10, **fields))


def timms() -> nn.Module:
    from timm.models.densenet import DenseNet

    return with_cifar_stem(DenseNet(**SHAPE, num_classes=10))


@dataclass(frozen=True)
class Case:
    """A training step to measure."""

    make: Callable[..., nn.Module]
    memory_format: str = "contiguous"
    precision: str = "fp32"
    missing: str = ""
    """Why it cannot be measured here."""

    how: str = ""
    """compile: by torch.compile; graph: as a CUDA graph."""


NO_CUDA = "" if CUDA else "it is for DEVICE=cuda"
NO_TIMM = "" if find_spec("timm") else "timm is not installed: pip install '.[peers]'"

once = partial(textbook, implementation="normalize-once")
CASES = {
    "torchvision": Case(torchvisions),
    "torchvision, channels_last": Case(torchvisions, "channels_last"),
    "torchvision, memory_efficient": Case(partial(torchvisions, memory_efficient=True)),
    "timm": Case(timms, missing=NO_TIMM),
    "timm, channels_last": Case(timms, "channels_last", missing=NO_TIMM),
    "textbook": Case(textbook),
    "textbook, channels_last": Case(textbook, "channels_last"),
    "textbook, checkpoint bottleneck": Case(partial(textbook, checkpoint="bottleneck")),
    "textbook, checkpoint layer": Case(partial(textbook, checkpoint="layer")),
    "textbook, checkpoint block": Case(partial(textbook, checkpoint="block")),
    "normalize-once, channels_last": Case(once, "channels_last"),
    "normalize-once, channels_last, checkpoint bottleneck": Case(
        partial(once, checkpoint="bottleneck"), "channels_last"
    ),
    "torchvision, bf16": Case(torchvisions, precision="bf16"),
    "torchvision, bf16, channels_last": Case(torchvisions, "channels_last", "bf16"),
    "textbook, bf16, channels_last": Case(textbook, "channels_last", "bf16"),
    "normalize-once, bf16, channels_last": Case(once, "channels_last", "bf16"),
    "normalize-once, bf16, channels_last, checkpoint bottleneck": Case(
        partial(once, checkpoint="bottleneck"), "channels_last", "bf16"
    ),
    "torchvision, bf16, channels_last, compile": Case(torchvisions, "channels_last", "bf16", NO_CUDA, "compile"),
    "textbook, bf16, channels_last, compile": Case(textbook, "channels_last", "bf16", NO_CUDA, "compile"),
    "normalize-once, bf16, channels_last, compile": Case(once, "channels_last", "bf16", NO_CUDA, "compile"),
    "torchvision, graph": Case(torchvisions, missing=NO_CUDA, how="graph"),
    "textbook, graph": Case(textbook, missing=NO_CUDA, how="graph"),
    "normalize-once, channels_last, graph": Case(once, "channels_last", missing=NO_CUDA, how="graph"),
    "torchvision, bf16, channels_last, graph": Case(torchvisions, "channels_last", "bf16", NO_CUDA, "graph"),
    "textbook, bf16, channels_last, graph": Case(textbook, "channels_last", "bf16", NO_CUDA, "graph"),
    "normalize-once, bf16, channels_last, graph": Case(once, "channels_last", "bf16", NO_CUDA, "graph"),
}
AVAILABLE = {name: case for name, case in CASES.items() if not case.missing}


def ready(case: Case, batch: int = BATCH) -> tuple[nn.Module, Callable[..., Any]]:
    """A network and its training step, which begins with no gradients."""
    config = TrainConfig(precision=case.precision, memory_format=case.memory_format, cuda_graph=case.how == "graph")
    network = prepare(case.make().to(DEVICE), config).train()
    optimizer, step = make_optimizer(network, config), GraphedStep() if config.cuda_graph else training_step
    if case.how == "compile":
        network.compile()
    images = prepare_images(torch.randn(batch, 3, 32, 32, device=DEVICE), config)
    labels = torch.zeros(batch, dtype=torch.long, device=DEVICE)
    return network, partial(step, network, optimizer, images, labels, config)


def make_step(case: Case, batch: int = BATCH) -> Callable[[], object]:
    """The training step alone."""
    return ready(case, batch)[1]


def memory(case: Case, batch: int = BATCH) -> dict[str, int]:
    """Bytes that tensors hold in a step: at most, and what the forward pass leaves for the backward pass.

    The latter is what has come to be alive by the forward pass's end, so that it counts whatever is kept and in
    whichever way; hooks on saved tensors do not see what a checkpoint is given in a list. On CUDA it is the allocator
    that counts. A graph has the memory of the step that was recorded, so it has no numbers here.
    """
    if CUDA:
        return {} if case.how else cuda_memory(case, batch)
    found: dict[str, int] = {}
    gc.collect()
    with LiveStorage() as live:
        network, step = ready(case, batch)
        step()
        network.zero_grad()
        live.restart(network)
        before = live.bytes
        step(mark=lambda phase: found.setdefault(phase, live.bytes))
    return {"peak_bytes": live.peak, "saved_bytes": found["forward"] - before}


def cuda_memory(case: Case, batch: int) -> dict[str, int]:
    """The same by the allocator of CUDA."""
    gc.collect()
    torch.cuda.empty_cache()
    found: dict[str, int] = {}
    network, step = ready(case, batch)
    step()
    network.zero_grad()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step(mark=lambda phase: found.setdefault(phase, torch.cuda.memory_allocated()))
    return {"peak_bytes": torch.cuda.max_memory_allocated(), "saved_bytes": found["forward"] - before}


PARTS = {
    "convolution": r"conv",
    "compiled loops": r"^loop ",
    "batch norm": r"batch_norm",
    "activation": r"relu|threshold|clamp",
    "copies": r"copy_|cat$|clone|contiguous",
    "Python of the block": r"DenseBlockFunction",
}
"""The parts of a step's time, by the names that its operators have."""


def profiled(case: Case) -> dict[str, float]:
    """The share of each part in three steps' time; the rest is everything else."""

    def loop(function: Callable[..., None], *arguments: object) -> None:
        with record_function(f"loop {function.__name__}"):
            call(function, *arguments)

    if CUDA:
        return {}
    call, (_, step) = kernels._call, ready(case)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_call", loop)
        step()
        step()
        with profile(activities=[ProfilerActivity.CPU], acc_events=True) as profiler:
            for _ in range(3):
                step()
    parts = dict.fromkeys((*PARTS, "rest"), 0.0)
    for event in profiler.key_averages():
        part = next((part for part, names in PARTS.items() if re.search(names, event.key)), "rest")
        parts[part] += event.self_cpu_time_total
    return {part: time / sum(parts.values()) for part, time in parts.items()}


MATMUL, CONVOLUTION = "matmul 2048 x 2048", "convolution 3 x 3 of 256 channels"
MATMUL = MATMUL.replace("2048", "8192") if CUDA else MATMUL
SIDE, IMAGES = (8192, 512) if CUDA else (2048, 8)
FLOPS = {MATMUL: 2 * SIDE**3, CONVOLUTION: 2 * IMAGES * 28**2 * 256**2 * 9}
RATES = {f"{kind}, {precision}": (kind, precision) for precision in ("fp32", "bf16") for kind in FLOPS}


def product(kind: str, precision: str) -> Callable[[], object]:
    """A call that shows how fast this machine can calculate, by BLAS or by oneDNN."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if kind == MATMUL:
        square = torch.randn(SIDE, SIDE, device=DEVICE).to(dtype)
        return partial(torch.matmul, square, square)
    shapes = (IMAGES, 256, 28, 28), (256, 256, 3, 3)
    images, weight = (torch.randn(*each, device=DEVICE).to(dtype, memory_format=torch.channels_last) for each in shapes)
    return partial(F.conv2d, images, weight, padding=1)

"""A network that fails as its seed says, unless a file named `mended` lies in the working folder."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch

from ablations.training.loop import derive_seed


class Faulty(torch.nn.Module):
    """A linear classifier; seeds from 5 on fail in the first step of a training."""

    def __init__(self, in_channels, num_classes):
        super().__init__()
        seeds = {derive_seed(seed, "initialisation"): seed for seed in range(11)}
        self.seed = seeds.get(torch.initial_seed(), 0)
        self.classifier = torch.nn.Linear(64 * in_channels, num_classes)

    def forward(self, images):
        scores = self.classifier(images.flatten(1))
        if self.seed < 5 or Path("mended").exists():
            return scores
        return (nan, no_memory, no_gpu_memory, crash, leave, hang)[self.seed - 5](scores)


def nan(scores):
    return scores * float("nan")


def no_memory(scores):
    raise MemoryError("3 TiB")


def no_gpu_memory(scores):
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


def crash(scores):
    os.kill(os.getpid(), signal.SIGSEGV)


def leave(scores):
    os._exit(3)


def hang(scores):
    time.sleep(600)

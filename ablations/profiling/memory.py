"""Peak memory of a training step and of inference: measured, and predicted without storage."""

from __future__ import annotations

import gc
import os
import weakref
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ablations.config import CostConfig, cost_fields, identity
from ablations.environment import code
from ablations.profiling.subject import Subject
from ablations.storage import files, records
from ablations.storage.paths import cache_folder
from densenet import ForeignConfig


def predicted(cost: CostConfig) -> dict[str, Any]:
    """Peak bytes that a step's tensors would hold, from tensors without storage.

    Kept in the cache for as long as the code stays the same.

    A network written elsewhere may decide by its tensors' values, which these have not: then there is no prediction,
    but its reason.
    """
    key = identity({"cost": cost_fields(cost), "torch": torch.__version__, "code": code()["fingerprint"]})
    path = cache_folder() / "predictions" / f"{key}.json"
    own = not isinstance(cost.model, ForeignConfig)  # the code of others may change without our knowing
    if own:
        with suppress(OSError, ValueError):
            return records.unsealed(files.read(path))
    try:
        values = _predicted(cost)
    except Exception as error:
        if not isinstance(cost.model, ForeignConfig):
            raise
        return {"prediction_failed": f"{type(error).__name__}: {error}".partition("\n")[0]}
    if own:
        with suppress(OSError):
            files.write(path, records.sealed(values))
    return values


def _predicted(cost: CostConfig) -> dict[str, int]:
    values: dict[str, int] = {}
    for name, probe in PROBES.items():
        with FakeTensorMode(), LiveStorage() as live:
            held = probe(cost, torch.device("cpu"), live.restart)
        values[f"predicted_{name}_peak_memory_bytes"] = live.peak
        if name == "train":
            values["predicted_activations_bytes"] = live.peak - held["weights_bytes"] - held["optimizer_bytes"]
    return values


Restart = Callable[[nn.Module], None]
"""From here on, a new peak; the network's parameters and buffers are part of it."""


def _train_probe(cost: CostConfig, device: torch.device, restart: Restart) -> dict[str, int]:
    """Builds everything, takes one training step so that the optimizer's state exists, and then the one that counts."""
    subject = Subject(cost, device)
    subject.train()
    restart(subject.network)
    subject.train()
    return subject.held()


def _inference_probe(cost: CostConfig, device: torch.device, restart: Restart) -> dict[str, int]:
    """Two forward passes in eval mode, of which the second counts; no gradients, no average, no optimizer's state."""
    subject = Subject(replace(cost, train=cost.train.model_copy(update={"ema": 0.0})), device)
    subject.infer()
    restart(subject.network)
    subject.infer()
    return {}


Probe = Callable[[CostConfig, torch.device, Restart], dict[str, int]]


PROBES: dict[str, Probe] = {"train": _train_probe, "inference": _inference_probe}


class LiveStorage(TorchDispatchMode):
    """Counts the bytes of all tensor storages alive, by watching every operator's outputs and their death."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self.operators: set[str] = set()
        """The names of those that were seen."""
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def restart(self, network: nn.Module | None = None) -> None:
        """From here on, a new peak; the network's own storages count, wherever it was built."""
        for tensor in (*network.parameters(), *network.buffers()) if network else ():
            self._watch(tensor.untyped_storage())
        self.peak = self.bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.operators.add(func.name().partition(".")[0])
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._watch(leaf.untyped_storage())
        return result

    def _watch(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._alive:
            return

        def died(_: weakref.ref[torch.UntypedStorage]) -> None:
            del self._alive[key]
            self.bytes -= size

        self._alive[key] = weakref.ref(storage, died)
        self.bytes += size
        self.peak = max(self.peak, self.bytes)


def _cpu_peaks(probe: Probe, cost: CostConfig, device: torch.device) -> tuple[dict[str, int], dict[str, int]]:
    """What tensors hold at most (`memory`), and the same twice more from the profiler's trace of the allocator.

    `traced`: the allocator's highest level between operators, which must be the first within a percent. `allocated`:
    its highest level at all, in which stands what operators, most of all convolutions, allocate for themselves.
    """
    with LiveStorage() as live:
        held = probe(cost, device, live.restart)
    gc.collect()
    traced, allocated = _traced_peaks(probe, cost, device, live.operators)
    return held, {"memory_bytes": live.peak, "traced_bytes": traced, "allocated_bytes": allocated}


def _traced_peaks(probe: Probe, cost: CostConfig, device: torch.device, operators: set[str]) -> tuple[int, int]:
    """The CPU allocator's highest level between the outermost of these operators, and at all."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    mark = "peak counts from here"

    def restart(network: nn.Module) -> None:
        with record_function(mark):
            pass

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        probe(cost, device, restart)
    events: list[Any] = profiler.profiler.kineto_results.events()
    start = next(event.start_ns() for event in events if event.name() == mark)
    memory = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    moments, levels = [moment for moment, _ in memory], list(accumulate(size for _, size in memory))
    spans = sorted((event.start_ns(), -event.end_ns()) for event in events if event.name() in operators)
    between = last = 0
    for _, negative_end in spans:
        end = -negative_end
        if end > last:  # not within another
            last = end
            if end >= start:
                between = max(between, levels[bisect_right(moments, end) - 1])
    return between, max(level for moment, level in zip(moments, levels, strict=True) if moment >= start)


def _cuda_peaks(probe: Probe, cost: CostConfig, device: torch.device) -> tuple[dict[str, int], dict[str, int]]:
    """The CUDA allocator's own peaks, in a fresh process."""
    torch.cuda.empty_cache()
    held = probe(cost, device, lambda network: torch.cuda.reset_peak_memory_stats(device))
    torch.cuda.synchronize(device)
    return held, {
        "memory_bytes": torch.cuda.max_memory_allocated(device),
        "reserved_bytes": torch.cuda.max_memory_reserved(device),
    }

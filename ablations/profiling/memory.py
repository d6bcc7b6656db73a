"""Peak memory of a training step and of inference: measured, and predicted without storage."""

from __future__ import annotations

import gc
import os
import weakref
from bisect import bisect_right
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ablations.config import CostConfig, cost_fields, identity
from ablations.environment import describe_code
from ablations.profiling.subject import Held, Subject
from ablations.storage import files, records
from ablations.storage.paths import cache_folder
from ablations.training.distributed import ALONE, Group
from densenet import ForeignConfig


@dataclass(frozen=True)
class Prediction:
    """Predicted peak bytes of a step's tensors, from a step on tensors without storage."""

    predicted_train_peak_memory_bytes: int
    predicted_activations_bytes: int
    """The peak of the training step without weights and optimizer."""

    predicted_inference_peak_memory_bytes: int


def predict(cost: CostConfig) -> dict[str, Any]:
    """Returns the `Prediction` of a cost. It stays in the cache until the code changes.

    A network written elsewhere may depend on the values of its tensors, which do not exist here. Then
    `prediction_failed` gives the reason instead.
    """
    key = identity({"cost": cost_fields(cost), "torch": torch.__version__, "code": describe_code()["fingerprint"]})
    path = cache_folder() / "predictions" / f"{key}.json"
    own = not isinstance(cost.model, ForeignConfig)  # other people's code may change without our notice
    if own:
        with suppress(OSError, ValueError):
            return records.unseal(files.read(path))
    try:
        values = asdict(_predict(cost))
    except Exception as error:
        if own:
            raise
        return {"prediction_failed": f"{type(error).__name__}: {error}".partition("\n")[0]}
    if own:
        with suppress(OSError):
            files.write(path, records.seal(values))
    return values


def _predict(cost: CostConfig) -> Prediction:
    """Predicts the peaks of one process. In a group it has the largest share of a batch, and all gradients at any time.

    One process alone has few gradients when its memory is at its peak.
    """
    share = -(-cost.batch_size // cost.train.processes)
    alone = cost.train.model_copy(update={"processes": 1, "batch_norm": "share", "batch_size": share})
    train, held = _peak_without_storage(train_probe, replace(cost, train=alone))
    kept = held.gradients_bytes if cost.train.processes > 1 else 0
    inference, _ = _peak_without_storage(inference_probe, cost)
    return Prediction(
        predicted_train_peak_memory_bytes=train + kept,
        predicted_activations_bytes=train - held.weights_bytes - held.optimizer_bytes,
        predicted_inference_peak_memory_bytes=inference,
    )


def _peak_without_storage(probe: Probe, cost: CostConfig) -> tuple[int, Held]:
    with FakeTensorMode(), LiveStorage() as live:
        held = probe(cost, torch.device("cpu"), live.restart)
    return live.peak, held


@dataclass(frozen=True)
class Memory:
    """Measured peak bytes of a training step and of inference.

    `memory`: the peak of all tensors; on CUDA the allocator's own peak. On a CPU, the profiler's trace of the allocator
    gives `traced`, its peak between operators, which should be equal to `memory` within a percent, and `allocated`, its
    peak at any moment, with the memory that operators (mostly convolutions) allocate for themselves. On CUDA,
    `reserved` is the memory that the allocator took from the device.
    """

    train_peak_memory_bytes: int
    train_peak_traced_bytes: int | None
    train_peak_allocated_bytes: int | None
    train_peak_reserved_bytes: int | None
    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    workspace_bytes: int | None
    """On CUDA: the part of the training's peak that cuBLAS keeps for itself, the same for every network."""

    activations_bytes: int
    """The peak of training without weights, optimizer and workspace. Most gradients do not exist yet at that moment.
    With several processes they always exist, and are not included."""

    inference_peak_memory_bytes: int
    inference_peak_traced_bytes: int | None
    inference_peak_allocated_bytes: int | None
    inference_peak_reserved_bytes: int | None


def measure_memory(cost: CostConfig, device: torch.device, group: Group = ALONE) -> Memory:
    """Measures peak memory on a device that nothing else uses.

    In a group, the memory of training is that of one process. It is the largest in process 0, because no share of a
    batch is larger than its share.
    """
    held, train = measure_peaks(partial(train_probe, group=group), cost, device)
    _, inference = measure_peaks(inference_probe, cost, device)
    kept = held.gradients_bytes if group.size > 1 else 0
    return Memory(
        train_peak_memory_bytes=train.memory,
        train_peak_traced_bytes=train.traced,
        train_peak_allocated_bytes=train.allocated,
        train_peak_reserved_bytes=train.reserved,
        weights_bytes=held.weights_bytes,
        gradients_bytes=held.gradients_bytes,
        optimizer_bytes=held.optimizer_bytes,
        workspace_bytes=train.workspace,
        activations_bytes=train.memory - held.weights_bytes - held.optimizer_bytes - kept - (train.workspace or 0),
        inference_peak_memory_bytes=inference.memory,
        inference_peak_traced_bytes=inference.traced,
        inference_peak_allocated_bytes=inference.allocated,
        inference_peak_reserved_bytes=inference.reserved,
    )


@dataclass(frozen=True)
class Peaks:
    """Peak bytes, as described in `Memory`."""

    memory: int
    traced: int | None = None
    allocated: int | None = None
    reserved: int | None = None
    workspace: int | None = None


def measure_peaks(probe: Probe, cost: CostConfig, device: torch.device) -> tuple[Held, Peaks]:
    """Returns the bytes that stay after a step, and the peaks of the step."""
    gc.collect()  # else objects of an earlier probe could be freed during this one
    return (_cuda_peaks if device.type == "cuda" else _cpu_peaks)(probe, cost, device)


Restart = Callable[[nn.Module], None]
"""Starts a new peak. It includes the parameters and buffers of the network."""


def train_probe(cost: CostConfig, device: torch.device, restart: Restart, group: Group = ALONE) -> Held:
    """Builds a network and measures a training step, after the first one, because the optimizer's state exists then.

    With a CUDA graph, it is the step that is recorded, which allocates all memory of the later ones.
    """
    subject = Subject(cost, device, group=group)
    subject.settle()
    restart(subject.network)
    subject.train()
    return subject.measure_held()


def inference_probe(cost: CostConfig, device: torch.device, restart: Restart) -> Held:
    """Runs two forward passes in eval mode and measures the second; no gradients, average or optimizer state."""
    subject = Subject(replace(cost, train=cost.train.model_copy(update={"ema": 0.0})), device)
    subject.infer()
    restart(subject.network)
    subject.infer()
    return subject.measure_held()


Probe = Callable[[CostConfig, torch.device, Restart], Held]


class LiveStorage(TorchDispatchMode):
    """Counts the bytes of all tensor storages alive, from the outputs of all operators until they are freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self.operators: set[str] = set()
        """The names of the operators that were called."""
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def restart(self, network: nn.Module | None = None) -> None:
        """Starts a new peak. It includes the network's storages, even if the network was built earlier."""
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


def _cpu_peaks(probe: Probe, cost: CostConfig, device: torch.device) -> tuple[Held, Peaks]:
    with LiveStorage() as live:
        held = probe(cost, device, live.restart)
    gc.collect()
    traced, allocated = _traced_peaks(probe, cost, device, live.operators)
    return held, Peaks(live.peak, traced, allocated)


def _traced_peaks(probe: Probe, cost: CostConfig, device: torch.device, operators: set[str]) -> tuple[int, int]:
    """Returns the peak of the CPU allocator between the outermost of these operators, and its peak at any moment."""
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
        if end > last:  # not within another operator
            last = end
            if end >= start:
                between = max(between, levels[bisect_right(moments, end) - 1])
    return between, max(level for moment, level in zip(moments, levels, strict=True) if moment >= start)


def _cuda_peaks(probe: Probe, cost: CostConfig, device: torch.device) -> tuple[Held, Peaks]:
    """Measures the peaks of the CUDA allocator. The process must be new."""
    torch.cuda.empty_cache()
    held = probe(cost, device, lambda network: torch.cuda.reset_peak_memory_stats(device))
    torch.cuda.synchronize(device)
    gc.collect()
    peak, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    with_workspace = torch.cuda.memory_allocated(device)
    torch._C._cuda_clearCublasWorkspaces()  # PyTorch has no other way to count them
    return held, Peaks(peak, reserved=reserved, workspace=with_workspace - torch.cuda.memory_allocated(device))

"""Measures what a variant needs: params, MACs, activations, memory and throughput.

Memory is taken in one loop and time in another. Two sources stand beside each other wherever there are two:
MACs from torch's dispatcher and from fvcore's trace, which must agree; peak memory from the allocator, and as
predicted from a step on tensors without storage, which stays in a column of its own.
"""

from __future__ import annotations

import gc
import os
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from ablations.config import CostConfig
from ablations.timing import Mark, timed
from ablations.train import as_input, averaged, optimizer_for, prepared, scored, training_step
from densenet import ForeignConfig, build, macs_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore's import touches torch.jit
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

SECONDS = {"train": 3.0, "inference": 1.5, "latency": 0.75}
"""The most that is spent on the repeats of each kind of step."""


class CountersDisagree(ArithmeticError):
    """Two counters of the same thing gave two numbers."""


def counted(cost: CostConfig) -> dict[str, Any]:
    """Params, MACs and activations of one image in eval mode.

    Two counters must agree on our own networks: raises CountersDisagree. Of others a disagreement is recorded, for
    fvcore may not know how they write a convolution or a linear layer.
    """
    network = build(cost.model).eval()
    images = torch.zeros(1, _channels(cost), *cost.image_size)
    macs = macs_of(network, images)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's notes on fixed shapes
        traced = FlopCountAnalysis(network, images)
        traced.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        by_operator = traced.by_operator()
        activations = ActivationCountAnalysis(network, images)
        activations.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        elements = activations.by_operator()
    traced_macs = int(by_operator["conv"] + by_operator["linear"])
    if macs != traced_macs and not isinstance(cost.model, ForeignConfig):
        raise CountersDisagree(f"torch's flop counter finds {macs} MACs, fvcore {traced_macs}")
    return {
        "params": sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
        "macs": macs,
        "flops": 2 * macs,
        "activations": int(elements["conv"] + elements["linear"]),
        "counters_agree": macs == traced_macs,
        "fvcore_macs": traced_macs,
        "fvcore_total": int(sum(by_operator.values())),
        "fvcore_uncounted": sorted(traced.unsupported_ops()),
    }


def predicted(cost: CostConfig) -> dict[str, Any]:
    """Peak bytes that a step's tensors would hold on the CPU, from tensors without storage.

    A network written elsewhere may decide by its tensors' values, which these have not: then there is no prediction,
    but its reason.
    """
    try:
        return _predicted(cost)
    except Exception as error:
        if not isinstance(cost.model, ForeignConfig):
            raise
        return {"prediction_failed": f"{type(error).__name__}: {error}".partition("\n")[0]}


def _predicted(cost: CostConfig) -> dict[str, int]:
    with FakeTensorMode(), LiveStorage() as live:
        _memory_probe(cost, torch.device("cpu"), live.restart)
        train = live.peak
    with FakeTensorMode(), LiveStorage() as live:
        _inference_probe(cost, torch.device("cpu"), live.restart)
        inference = live.peak
    return {"predicted_train_peak_memory_bytes": train, "predicted_inference_peak_memory_bytes": inference}


def measured(cost: CostConfig, device: torch.device) -> dict[str, Any]:
    """Peak memory and throughput on a device that nothing else uses."""
    peak = _cuda_peak if device.type == "cuda" else _cpu_peak
    values: dict[str, Any] = {}
    for name, probe in (("train", _memory_probe), ("inference", _inference_probe)):
        gc.collect()  # what an earlier probe left behind must not be freed in the middle of this one
        for kind, value in peak(probe, cost, device).items():
            values[f"{name}_peak_memory_{kind}"] = value
    return {**values, **_throughput(cost, device)}


def _throughput(cost: CostConfig, device: torch.device) -> dict[str, Any]:
    """Seconds of a training step and its phases, of inference at the batch size, and of one image alone."""
    train, inference = _steps(cost, device)
    steps = {"train": train, "inference": inference, "latency": _steps(cost, device, batch_size=1)[1]}
    values: dict[str, Any] = {}
    for name, step in steps.items():
        timing = timed(step, device, SECONDS[name])
        values[f"{name}_step_seconds"] = timing.median
        values[f"{name}_step_relative_iqr"] = timing.relative_iqr
        values[f"{name}_repeats"] = len(timing.seconds)
        values[f"{name}_stopped_by"] = timing.stopped_by
        values[f"{name}_disturbed"] = timing.disturbed
        if name == "train":
            values |= {f"train_{phase}_seconds": seconds for phase, seconds in timing.phases.items()}
        if name != "latency":
            values[f"{name}_images_per_second"] = cost.batch_size / timing.median
    return values


class LiveStorage(TorchDispatchMode):
    """Counts the bytes of all tensor storages alive, by watching every operator's outputs and their death."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def restart(self) -> None:
        """From here on, a new peak."""
        self.peak = self.bytes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
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


Probe = Callable[[CostConfig, torch.device, Callable[[], None]], None]


def _memory_probe(cost: CostConfig, device: torch.device, restart: Callable[[], None]) -> None:
    """Builds everything, takes one training step so that the optimizer's state exists, and then the one that counts."""
    train, _ = _steps(cost, device)
    train(_unmarked)
    restart()
    train(_unmarked)


def _unmarked(phase: str) -> None:
    """For steps that nobody times."""


def _inference_probe(cost: CostConfig, device: torch.device, restart: Callable[[], None]) -> None:
    """Two forward passes in eval mode, of which the second counts; no gradients, no optimizer."""
    network = _network(cost, device).eval()
    images = _images(cost, device, cost.batch_size)
    with torch.inference_mode():
        scored(network, images, cost.train)
        restart()
        scored(network, images, cost.train)


Step = Callable[[Mark], object]


def _steps(cost: CostConfig, device: torch.device, batch_size: int = 0) -> tuple[Step, Step]:
    """A training step and a forward pass of the same network, at the batch size of the cost unless one is given."""
    network = _network(cost, device)
    optimizer, average = optimizer_for(network, cost.train), averaged(network, cost.train)
    if cost.train.compile:
        network.compile()
    images = _images(cost, device, batch_size or cost.batch_size)
    labels = torch.zeros(len(images), dtype=torch.long, device=device)

    def train(mark: Mark) -> object:
        network.train()
        result = training_step(network, optimizer, images, labels, cost.train, mark)
        if average:
            average.update_parameters(network)
        mark("optimizer")
        return result

    @torch.inference_mode()
    def inference(mark: Mark) -> object:
        network.eval()
        return scored(network, images, cost.train)

    return train, inference


def _network(cost: CostConfig, device: torch.device) -> nn.Module:
    """On its device, or without storage where tensors have none."""
    with _disable_current_modes():  # some networks read numbers from tensors while they are built
        network = build(cost.model)
    if isinstance(torch.empty(0), FakeTensor):
        return prepared(_without_storage(network), cost.train)
    return prepared(network.to(device), cost.train)


def _without_storage(network: nn.Module) -> nn.Module:
    """The network, its parameters and buffers replaced by such without storage; what is shared stays so."""
    hollow: dict[Tensor, Tensor] = {}
    for module in network.modules():
        own = (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False))
        for name, tensor in own:
            if tensor not in hollow:
                empty = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype)
                is_parameter = isinstance(tensor, nn.Parameter)
                hollow[tensor] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
            setattr(module, name, hollow[tensor])
    return network


def _images(cost: CostConfig, device: torch.device, count: int) -> Tensor:
    return as_input(torch.randn(count, _channels(cost), *cost.image_size, device=device), cost.train)


def _channels(cost: CostConfig) -> int:
    return int(getattr(cost.model, "in_channels", 3))


def _cpu_peak(probe: Probe, cost: CostConfig, device: torch.device) -> dict[str, int]:
    """The highest level of the CPU allocator, from the profiler's trace of every allocation and release."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    mark = "peak counts from here"

    def restart() -> None:
        with record_function(mark):
            pass

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
        probe(cost, device, restart)
    events: list[Any] = profiler.profiler.kineto_results.events()
    start = next(event.start_ns() for event in events if event.name() == mark)
    level = peak = 0
    for moment, size in sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"):
        level += size
        if moment >= start:
            peak = max(peak, level)
    return {"bytes": peak}


def _cuda_peak(probe: Probe, cost: CostConfig, device: torch.device) -> dict[str, int]:
    """The CUDA allocator's own peaks, in a fresh process."""
    torch.cuda.empty_cache()
    probe(cost, device, lambda: torch.cuda.reset_peak_memory_stats(device))
    torch.cuda.synchronize(device)
    return {
        "bytes": torch.cuda.max_memory_allocated(device),
        "reserved_bytes": torch.cuda.max_memory_reserved(device),
    }

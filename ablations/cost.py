"""Measures what a variant needs: params, MACs, activations, memory and throughput.

Memory is taken in one loop and time in another. Two sources stand beside each other wherever there are two:
MACs from torch's dispatcher and from fvcore's trace, which must agree; on a CPU, peak memory from the storages that
are alive and from the allocator's trace; and as predicted from a step on tensors without storage, which stays in a
column of its own.
"""

from __future__ import annotations

import gc
import os
import warnings
import weakref
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

from ablations import files, records
from ablations.config import CostConfig, cost_fields, identity
from ablations.environment import code
from ablations.sources import cache_folder
from ablations.step import as_input, averaged, optimizer_for, prepared, scored, training_step, update_average
from ablations.timing import Mark, timed
from densenet import ForeignConfig, build, macs_of, textbook

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore's import touches torch.jit
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

SECONDS = {"train": 3.0, "inference": 1.5, "latency": 0.75}
"""The most that is spent on the repeats of each kind of step."""


class CountersDisagree(ArithmeticError):
    """Two counters of the same thing gave two numbers."""


def counted(cost: CostConfig) -> dict[str, Any]:
    """Params, MACs and activations of one image in eval mode, as the textbook computes it.

    Two counters must agree on our own networks: raises CountersDisagree. Of others a disagreement is recorded, for
    fvcore may not know how they write a convolution or a linear layer.
    """
    network = build(textbook(cost.model)).eval()
    images = torch.zeros(1, int(getattr(cost.model, "in_channels", 3)), *cost.image_size)
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
        "params_total": sum(parameter.numel() for parameter in network.parameters()),
        "params_per_stage": _params_per_stage(network),
        "macs": macs,
        "flops": 2 * macs,
        "activations": int(elements["conv"] + elements["linear"]),
        "counters_agree": macs == traced_macs,
        "fvcore_macs": traced_macs,
        "fvcore_total": int(sum(by_operator.values())),
        "fvcore_uncounted": sorted(traced.unsupported_ops()),
    }


def _params_per_stage(network: nn.Module) -> dict[str, int]:
    """Trainable parameters of each part of the network that has any; what `features` holds is told apart."""
    stages: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        parts = name.split(".")
        stages[".".join(parts[: 2 if parts[0] == "features" else 1])] += parameter.numel() * parameter.requires_grad
    return dict(stages)


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


def measured(cost: CostConfig, device: torch.device) -> dict[str, Any]:
    """Peak memory and throughput on a device that nothing else uses.

    With `compile`, `train_compile_seconds` is what a process's first training step takes beyond a usual one: less where
    torch's cache on disk has the code already.
    """
    first = timed(Subject(cost, device).train, device, 0.0, warmup=0, fewest=1).median if cost.train.compile else 0.0
    peaks = _cuda_peaks if device.type == "cuda" else _cpu_peaks
    values: dict[str, Any] = {}
    for name, probe in PROBES.items():
        gc.collect()  # what an earlier probe left behind must not be freed in the middle of this one
        held, found = peaks(probe, cost, device)
        values |= {f"{name}_peak_{kind}": value for kind, value in found.items()}
        if name == "train":
            # what is left: gradients are mostly not yet alive when activations are at their most
            left = found["memory_bytes"] - held["weights_bytes"] - held["optimizer_bytes"]
            values |= {**held, "activations_bytes": left}
    values |= _throughput(cost, device)
    if cost.train.compile:
        values["train_compile_seconds"] = first - values["train_step_seconds"]
    return values


def _throughput(cost: CostConfig, device: torch.device) -> dict[str, Any]:
    """Seconds of a training step and its phases, of inference at the batch size, and of one image alone."""
    subject, alone = Subject(cost, device), Subject(cost, device, batch_size=1)
    steps = {"train": subject.train, "inference": subject.infer, "latency": alone.infer}
    values: dict[str, Any] = {}
    for name, step in steps.items():
        timing = timed(step, device, SECONDS[name])
        values[f"{name}_step_seconds"] = timing.median
        values[f"{name}_step_relative_iqr"] = timing.relative_iqr
        values[f"{name}_repeats"] = len(timing.seconds)
        values[f"{name}_stopped_by"] = timing.stopped_by
        values[f"{name}_disturbed"] = timing.disturbed
        if name == "train":
            values |= {f"train_{phase}_seconds": seconds for phase, seconds in timing.phases.items() if phase != "rest"}
        if name != "latency":
            values[f"{name}_images_per_second"] = cost.batch_size / timing.median
    return values


class Subject:
    """A network as it is measured: with its optimizer, on images of the cost's size, at its batch size or another."""

    def __init__(self, cost: CostConfig, device: torch.device, batch_size: int = 0) -> None:
        self.config = cost.train
        self.network, self.average = _networks(cost, device)
        self.optimizer = optimizer_for(self.network, cost.train)
        if cost.train.compile:
            self.network.compile()
        shape = (batch_size or cost.batch_size, int(getattr(cost.model, "in_channels", 3)), *cost.image_size)
        self.images = as_input(torch.randn(shape, device=device), cost.train)
        self.labels = torch.zeros(shape[0], dtype=torch.long, device=device)

    def train(self, mark: Mark = lambda phase: None) -> None:
        """A training step."""
        self.network.train()
        training_step(self.network, self.optimizer, self.images, self.labels, self.config, mark)
        if self.average is not None:
            update_average(self.average, self.network, self.config.ema)
        mark("optimizer")

    @torch.inference_mode()
    def infer(self, mark: Mark = lambda phase: None) -> None:
        """A forward pass in eval mode."""
        self.network.eval()
        scored(self.network, self.images, self.config)

    def held(self) -> dict[str, int]:
        """Bytes that stay from one training step to the next; an average of the weights counts with the optimizer's."""
        kept = [*(self.average.state_dict().values() if self.average is not None else ())]
        kept += [value for state in self.optimizer.state.values() for value in state.values()]
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        return {
            "weights_bytes": _bytes([*self.network.parameters(), *self.network.buffers()]),
            "gradients_bytes": _bytes(gradients),
            "optimizer_bytes": _bytes([value for value in kept if isinstance(value, Tensor)]),
        }


def _bytes(tensors: Sequence[Tensor]) -> int:
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


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


def _networks(cost: CostConfig, device: torch.device) -> tuple[nn.Module, nn.Module | None]:
    """The network, and the average of its weights where there is one; without storage where tensors have none."""
    with _disable_current_modes():  # some networks read numbers from tensors while they are built
        network = prepared(build(cost.model).to(device), cost.train)
        average = averaged(network, cost.train)
    if isinstance(torch.empty(0), FakeTensor):
        return _without_storage(network), None if average is None else _without_storage(average)
    return network, average


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

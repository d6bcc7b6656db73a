"""A network for measurements: with its optimizer, on images of the right size."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from ablations.config import CostConfig
from ablations.profiling.timing import FEWEST_REPEATS, WARMUP_STEPS, Mark, Timing, measure_time
from ablations.training.distributed import ALONE, Group
from ablations.training.graph import FIRST_STEPS, GraphedStep
from ablations.training.step import (
    make_average,
    make_optimizer,
    make_scaler,
    prepare,
    prepare_images,
    score,
    training_step,
    update_average,
)
from densenet import build


@dataclass(frozen=True)
class Held:
    """Bytes that stay allocated from one training step to the next."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int


class Subject:
    """A network with its optimizer, on images of the cost's size, with the cost's batch size or another one.

    Each process of a group has its share of the batch, and all of them take each training step together.
    """

    def __init__(self, cost: CostConfig, device: torch.device, batch_size: int = 0, group: Group = ALONE) -> None:
        self.config, self.group = cost.train, group
        self.network, self.average = build_networks(cost, device)
        self.optimizer = make_optimizer(self.network, cost.train)
        self.scaler = make_scaler(cost.train, device)
        whole = batch_size or cost.batch_size
        step = GraphedStep() if cost.train.cuda_graph else training_step
        self.step = step if group.size == 1 else partial(training_step, weight=group.weight(whole))
        self.trained = group.join(self.network, cost.train)
        if cost.train.compile:
            self.network.compile()
        shape = (group.count(whole), int(getattr(cost.model, "in_channels", 3)), *cost.image_size)
        self.images = prepare_images(torch.randn(shape, device=device), cost.train)
        self.labels = torch.zeros(shape[0], dtype=torch.long, device=device)

    def train(self, mark: Mark = lambda phase: None) -> None:
        """Runs a training step."""
        self.network.train()
        self.step(self.trained, self.optimizer, self.images, self.labels, self.config, self.scaler, mark)
        if self.average is not None:
            update_average(self.average, self.network, self.config.ema)
        mark("optimizer")

    def settle(self) -> None:
        """Runs the training steps before the first one that is like all others: there the optimizer makes its state."""
        for _ in range(FIRST_STEPS if self.config.cuda_graph else 1):
            self.train()

    def time_training(
        self, device: torch.device, budget: float, warmup: int = WARMUP_STEPS, fewest: int = FEWEST_REPEATS
    ) -> Timing | None:
        """Times training steps as `measure_time` does; None in the other processes of a group, which take them too."""
        group, partners = self.group, self.group.list_partners()
        if group.rank:
            while group.agree(False):
                self.train()
            return None

        def step(mark: Mark) -> None:
            group.agree(True)
            self.train(mark)

        found = measure_time(step, device, budget, warmup, fewest, partners)
        group.agree(False)
        return found

    @torch.inference_mode()
    def infer(self, mark: Mark = lambda phase: None) -> None:
        """Runs a forward pass in eval mode."""
        self.network.eval()
        score(self.network, self.images, self.config)

    def measure_held(self) -> Held:
        """Returns the bytes that stay from one training step to the next.

        An average of the weights counts as optimizer. In a group, many gradients have one storage.
        """
        kept = [*(self.average.state_dict().values() if self.average is not None else ())]
        kept += [value for state in self.optimizer.state.values() for value in state.values()]
        gradients = [parameter.grad for parameter in self.network.parameters() if parameter.grad is not None]
        alone = self.group.size == 1
        return Held(
            weights_bytes=storage_bytes([*self.network.parameters(), *self.network.buffers()]),
            gradients_bytes=storage_bytes(gradients) if alone else sum(each.nbytes for each in gradients),
            optimizer_bytes=storage_bytes([value for value in kept if isinstance(value, Tensor)]),
        )


def storage_bytes(tensors: Sequence[Tensor]) -> int:
    """Returns the bytes of the tensors' storages."""
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def build_networks(cost: CostConfig, device: torch.device) -> tuple[nn.Module, nn.Module | None]:
    """Builds the network, and the average of its weights if there is one; under FakeTensorMode without storage."""
    with _disable_current_modes():  # some networks convert tensors to Python numbers while they are built
        network = prepare(build(cost.model).to(device), cost.train)
        average = make_average(network, cost.train)
    if isinstance(torch.empty(0), FakeTensor):
        return _without_storage(network), None if average is None else _without_storage(average)
    return network, average


def _without_storage(network: nn.Module) -> nn.Module:
    """Replaces all parameters and buffers of a network by tensors without storage. Shared tensors stay shared."""
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

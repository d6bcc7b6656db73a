"""Activation checkpointing that leaves gradients and buffers as the plain step leaves them.

Recomputing a batch norm in training mode would update its running statistics a second time. Here the second forward
pass writes to copies of the buffers, which are discarded. torch replays random numbers and autocast.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Input = TypeVar("Input", Tensor, list[Tensor])


class DiscardedBuffers:
    """A context in which a forward pass writes to copies of the buffers of `module`.

    It can be entered several times, because each backward pass through a retained graph recomputes once more.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.kept: list[tuple[nn.Module, str, Tensor]] = []

    def __enter__(self) -> None:
        self.kept = [
            (owner, name, buffer)
            for owner in self.module.modules()
            for name, buffer in owner.named_buffers(recurse=False)
        ]
        for owner, name, buffer in self.kept:
            setattr(owner, name, buffer.clone())

    def __exit__(self, *raised: object) -> None:
        for owner, name, buffer in self.kept:
            setattr(owner, name, buffer)


def recompute(module: nn.Module, function: Callable[[Input], Tensor], inputs: Input) -> Tensor:
    """Computes `function(inputs)` without keeping intermediate results; the backward pass computes them again.

    Where no gradient is needed, as in inference, it calls the function and nothing else. `module` owns the buffers that
    `function` writes. `inputs` must not change before the backward pass.
    """
    if not needs_gradient(module, inputs):
        return function(inputs)

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), DiscardedBuffers(module)

    draws = any(isinstance(part, nn.Dropout) for part in module.modules())  # only dropout draws random numbers
    result: Tensor = checkpoint(function, inputs, use_reentrant=False, context_fn=contexts, preserve_rng_state=draws)
    return result


def needs_gradient(module: nn.Module, inputs: Tensor | list[Tensor]) -> bool:
    """Returns whether a backward pass may follow: gradients are enabled, and an input or a parameter requires one."""
    if not torch.is_grad_enabled():
        return False
    tensors = [inputs] if isinstance(inputs, Tensor) else inputs
    return any(tensor.requires_grad for tensor in chain(tensors, module.parameters()))

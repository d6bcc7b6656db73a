"""Activation checkpointing that leaves gradients and buffers as the plain step leaves them.

Recomputing a batch norm in training mode would update its running statistics a second time. Here the second forward
pass writes to copies of the buffers, which are thrown away. Random numbers and autocast are replayed by torch.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Input = TypeVar("Input")


class DiscardedBuffers:
    """Within this context, whatever a forward pass writes to the buffers of `module` goes to copies.

    It may be entered again: every backward pass through a graph that is kept recomputes once more.
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
    """`function(inputs)`, whose intermediate results are computed again in the backward pass.

    `module` owns the buffers that `function` writes; `inputs` must not be changed in between.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), DiscardedBuffers(module)

    draws = any(isinstance(part, nn.Dropout) for part in module.modules())  # else there is no state to keep
    result: Tensor = checkpoint(function, inputs, use_reentrant=False, context_fn=contexts, preserve_rng_state=draws)
    return result

"""A training step that is recorded once as a CUDA graph, and then replayed without Python."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from ablations.config import TrainConfig
from ablations.training.step import ignore, set_rate, training_step

Take = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]
"""Takes a step on images and labels."""

FIRST_STEPS = 3
"""The steps before the recorded one. They run one by one, because libraries choose their algorithms and the optimizer
makes its state in the first steps."""


class GraphedStep:
    """A `training_step` that uses a CUDA graph, for one network, its optimizer and one configuration.

    After `FIRST_STEPS` steps on batches of one shape, the next one is recorded as a CUDA graph: forward pass, loss,
    backward pass, norm of the gradient, and optimizer. From then on a batch of this shape is copied to where the
    recorded step reads it, and the graph is replayed. This saves the time that Python and PyTorch need to start each
    kernel. A batch of another shape, such as the smaller last one of an epoch, runs as without a graph; so does every
    step on a CPU.

    The learning rate is rounded to fp32, because the graph reads it from a tensor.
    """

    def __init__(self) -> None:
        self.graph: torch.cuda.CUDAGraph | None = None
        self._taken: Counter[tuple[torch.Size, torch.Size]] = Counter()
        self._inputs: tuple[Tensor, Tensor] | None = None
        self._outputs: tuple[Tensor, Tensor, Tensor] | None = None
        self._rate = torch.zeros(())
        self._stream: torch.cuda.Stream | None = None

    def __call__(
        self,
        network: nn.Module,
        optimizer: torch.optim.Optimizer,
        images: Tensor,
        labels: Tensor,
        config: TrainConfig,
        scaler: torch.amp.GradScaler | None = None,
        mark: Callable[[str], None] = ignore,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Takes a step. Returns the loss, the scores `(N, classes)` and the norm of the gradient.

        There is no `scaler`: fp16 has no graph. `mark` is not called, because the phases of a recorded step cannot be
        told apart.
        """
        take = partial(training_step, network, optimizer, config=config)
        if not images.is_cuda:
            return take(images, labels)
        if self._stream is None:
            self._stream = torch.cuda.Stream()
        rate = torch.tensor(optimizer.param_groups[0]["lr"], dtype=torch.float32)
        if self.graph is None:
            self._taken[images.shape, labels.shape] += 1
            if self._taken[images.shape, labels.shape] > FIRST_STEPS:
                self._record(take, optimizer, images, labels)
        if self._inputs is None or self._inputs[0].shape != images.shape:
            set_rate(optimizer, rate.item())
            return _run_aside(self._stream, take, images, labels)
        return self._replay(images, labels, rate)

    def _record(self, take: Take, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> None:
        """Records a step on batches of the shape of these. Recording computes nothing."""
        self.graph, self._inputs = torch.cuda.CUDAGraph(), (images.clone(), labels.clone())
        self._rate, rate = torch.zeros((), device=images.device), optimizer.param_groups[0]["lr"]
        set_rate(optimizer, self._rate)
        for group in optimizer.param_groups:
            group.update(capturable=True) if "capturable" in group else None
        with torch.cuda.graph(self.graph, stream=self._stream):
            self._outputs = take(*self._inputs)
        set_rate(optimizer, rate)

    def _replay(self, images: Tensor, labels: Tensor, rate: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert self.graph is not None
        assert self._inputs is not None
        assert self._outputs is not None
        for place, given in zip((*self._inputs, self._rate), (images, labels, rate), strict=True):
            place.copy_(given, non_blocking=True)
        self.graph.replay()
        loss, scores, norm = self._outputs
        return loss.clone(), scores.clone(), norm.clone()


def _run_aside(aside: torch.cuda.Stream, take: Take, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Takes a step on another stream, so that nothing is bound to the default stream, which cannot be recorded."""
    here = torch.cuda.current_stream()
    aside.wait_stream(here)
    with torch.cuda.stream(aside):
        found = take(images, labels)
    here.wait_stream(aside)
    return found

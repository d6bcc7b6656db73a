"""Trains a network: `train(network, data, config, seed) -> Outcome`. Every random choice has its own stream."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablations.config import TrainConfig
from ablations.data import Dataset
from densenet import Config, build

Progress = Callable[[float, float], None]
"""Called with the epochs done, a real number, and the current loss."""


class Diverged(ArithmeticError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class Epoch:
    """One line of the history; accuracies in %, loss in nats, averages over the epoch's images as they were trained."""

    epoch: int
    train_loss: float
    train_accuracy: float
    learning_rate: float
    """At the epoch's last step."""

    seconds: float


@dataclass(frozen=True)
class Outcome:
    """What training gives."""

    history: tuple[Epoch, ...]
    test_accuracy: float
    """In %, of the last epoch's weights."""

    test_loss: float
    test_images: int
    weights: str
    """SHA-256 of the final parameters and buffers."""


def stream(seed: int, purpose: str) -> int:
    """The seed of one purpose: changing the architecture moves no draw of another purpose."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:7])


def initialised(model: Config, seed: int, device: torch.device) -> nn.Module:
    """A network whose weights depend on its configuration and the seed alone, drawn on the CPU."""
    torch.manual_seed(stream(seed, "initialisation"))
    network = build(model)
    torch.manual_seed(stream(seed, "dropout"))
    return network.to(device)


def optimizer_for(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum and no dampening, as in the DenseNet paper."""
    return torch.optim.SGD(
        network.parameters(),
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        nesterov=True,
    )


def learning_rate(config: TrainConfig, step: int, steps_per_epoch: int) -> float:
    """The rate of a step, counted from 0.

    step: divided by 10 at 50 % and again at 75 % of all steps (Huang et al. 2017, section 4.2).
    cosine: half a cosine from the warm-up's end to 0 (Loshchilov and Hutter 2017, without restarts).
    """
    total = config.epochs * steps_per_epoch
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if config.schedule == "cosine":
        return config.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))) / 2
    return config.learning_rate * 0.1 ** ((2 * step >= total) + (4 * step >= 3 * total))


def training_step(network: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor) -> Tensor:
    """Forward, loss, backward, optimizer; gives the scores `(N, classes)` it was judged on."""
    optimizer.zero_grad(set_to_none=True)
    scores: Tensor = network(images)
    F.cross_entropy(scores, labels).backward()
    optimizer.step()
    return scores.detach()


def train(network: nn.Module, data: Dataset, config: TrainConfig, seed: int, progress: Progress) -> Outcome:
    """Trains `network` in place and tests it once, after the last epoch. Raises Diverged, naming the step."""
    optimizer = optimizer_for(network, config)
    order = torch.Generator().manual_seed(stream(seed, "order"))
    history = []
    for epoch in range(config.epochs):
        history.append(_train_epoch(network, optimizer, data, config, epoch, order, progress))
    accuracy, loss = evaluate(network, data, data.test_images, data.test_labels)
    if not math.isfinite(loss):
        raise Diverged(f"the loss on the test images is {loss} after the last step")
    return Outcome(tuple(history), accuracy, loss, len(data.test_labels), weights_hash(network))


def _train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    data: Dataset,
    config: TrainConfig,
    epoch: int,
    order: torch.Generator,
    progress: Progress,
) -> Epoch:
    network.train()
    start = reported = time.perf_counter()
    count = len(data.train_labels)
    batches = torch.randperm(count, generator=order).to(data.train_labels.device).split(config.batch_size)
    scores, labels = [], []
    for index, batch in enumerate(batches):
        rate = learning_rate(config, epoch * len(batches) + index, len(batches))
        for group in optimizer.param_groups:
            group["lr"] = rate
        images = data.normalise(data.train_images[batch])
        labels.append(data.train_labels[batch])
        scores.append(training_step(network, optimizer, images, labels[-1]))
        if time.perf_counter() - reported > 1:
            reported = time.perf_counter()
            progress(epoch + (index + 1) / len(batches), F.cross_entropy(scores[-1], labels[-1]).item())
    losses = torch.stack([F.cross_entropy(*pair) for pair in zip(scores, labels, strict=True)])
    broken = (~losses.isfinite()).nonzero()
    if len(broken):
        step = epoch * len(batches) + int(broken[0])
        raise Diverged(f"the loss is {losses[int(broken[0])].item()} at step {step}, in epoch {epoch + 1}")
    loss = F.cross_entropy(torch.cat(scores), torch.cat(labels)).item()
    correct = int((torch.cat(scores).argmax(1) == torch.cat(labels)).sum())
    progress(epoch + 1, loss)
    return Epoch(epoch + 1, loss, 100 * correct / count, rate, time.perf_counter() - start)


@torch.no_grad()
def evaluate(network: nn.Module, data: Dataset, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """Accuracy in % and mean loss in nats, in eval mode."""
    network.eval()
    scores = torch.cat([network(data.normalise(batch)) for batch in images.split(512)])
    correct = int((scores.argmax(1) == labels).sum())
    return 100 * correct / len(labels), F.cross_entropy(scores, labels).item()


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + b"\0")
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

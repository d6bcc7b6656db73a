"""Training of a network: `train(network, data, config, seed) -> Outcome`. Every random choice has its own stream."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from ablations.config import DataConfig, TrainConfig
from ablations.data.augmentation import augment
from ablations.data.dataset import Dataset
from ablations.parts import is_own
from ablations.training.checkpoint import AsyncCheckpointer, CheckpointStore, State, StopRequested
from ablations.training.distributed import ALONE, Group
from ablations.training.evaluation import Evaluation, evaluate
from ablations.training.events import Epoch, Observer, Progress
from ablations.training.graph import GraphedStep
from ablations.training.step import (
    learning_rate,
    make_average,
    make_optimizer,
    make_scaler,
    prepare,
    prepare_images,
    set_rate,
    training_step,
    update_average,
)
from ablations.training.stopwatch import Stopwatch
from densenet import Config, build


class Diverged(ArithmeticError):
    """The loss or the norm of the gradient is not finite."""


@dataclass(frozen=True)
class Outcome:
    """The results of a training."""

    history: tuple[Epoch, ...]
    steps: int
    test: Evaluation | None
    """The evaluation on the test images, of the averaged weights if there are any, else of the last weights; None
    without a test."""

    validation: Evaluation | None
    weights: str
    """SHA-256 of the parameters and buffers of the tested network."""

    network: nn.Module
    """The network that was tested."""

    resumes: int
    """How often the training was resumed."""

    mixed: bool
    """Whether parts of the training ran on different devices, or with different code or versions."""

    refused: tuple[str, ...] = ()
    """The checkpoints that were found and not used, each with the reason."""


def derive_seed(seed: int, purpose: str) -> int:
    """Derives the seed of one purpose: a change of the architecture changes no random numbers of other purposes."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:7])


def make_network(model: Config, seed: int, device: torch.device) -> nn.Module:
    """Makes a network whose weights depend only on its configuration and the seed. They are drawn on the CPU."""
    _seed_generators(derive_seed(seed, "initialisation"))
    network = build(model)
    _seed_generators(derive_seed(seed, "dropout"))
    return network.to(device)


def _seed_generators(seed: int) -> None:
    """Seeds every generator that a network may use."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


@dataclass(frozen=True)
class _Course:
    """The values that stay the same during a training."""

    data: Dataset
    variation: DataConfig
    config: TrainConfig
    seed: int
    per_epoch: int
    total: int
    """The number of steps of the whole training."""

    tested: bool
    """Whether the network is evaluated on the test images."""

    step: Callable[..., tuple[Tensor, Tensor, Tensor]]
    """`training_step`, or one that uses a CUDA graph."""

    network: nn.Module
    """What a step trains: the network, or in a group of processes what averages its gradients over them."""

    group: Group
    observe: Observer
    checkpointer: AsyncCheckpointer
    stopping: Callable[[], bool]

    @property
    def mingles(self) -> bool:
        """Whether the images of a batch depend on each other, so that each process prepares the whole batch."""
        return self.config.mix != "none" or is_own(self.variation.augmentation)

    def images(self, epoch: int, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yields the inputs for each batch of training images, `(N, C, H, W)`: augmented and normalised.

        They are those of this process, or of the whole batch if they depend on each other.
        """
        draw = derive_seed(self.seed, f"augmentation {epoch}")
        mine = batches if self.mingles else [self.group.share(batch) for batch in batches]
        for images in augment(self.data, mine, draw, self.variation):
            yield prepare_images(images, self.config)

    def mix(self, step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Returns what this process trains on, with the classes of its images.

        With mixing, the images of the batch are mixed in pairs, and have shares of all classes. `labels` are those of
        the whole batch.
        """
        share = self.group.share
        if not self.mingles:
            return images, share(labels)
        if self.config.mix == "none":
            return share(images), share(labels)
        from torchvision.transforms import v2

        mixing = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[self.config.mix]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.seed, f"mix {step}"))
            mixed, shares = mixing(alpha=self.config.mix_alpha, num_classes=self.data.num_classes)(images, labels)
        return share(mixed), share(shares.to(images.dtype))

    def take_step(
        self, state: State, step: int, images: Tensor, targets: Tensor, whole: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Takes a step on this process's share of a batch of `whole` images, and returns what `training_step` does.

        In a group, each process draws its own random numbers, from a new stream in each step, so that no checkpoint
        has to keep them.
        """
        arguments = (self.network, state.optimizer, images, targets, self.config, state.scaler)
        if self.group.size == 1:
            return self.step(*arguments)
        _seed_generators(derive_seed(self.seed, f"dropout {step} {self.group.rank}"))
        return self.step(*arguments, weight=self.group.weight(whole))

    def checkpoint(self, state: State) -> None:
        """Saves the state. The device must have finished its steps."""
        state.watch.read()
        state.watch.lap("rest")
        self.checkpointer.save(state)
        state.watch.lap("checkpoint")


def train(
    network: nn.Module,
    data: Dataset,
    variation: DataConfig,
    config: TrainConfig,
    seed: int,
    observe: Observer = lambda event: None,
    store: CheckpointStore | None = None,
    stopping: Callable[[], bool] = lambda: False,
    watch: Stopwatch | None = None,
    tested: bool = True,
    group: Group = ALONE,
) -> Outcome:
    """Trains a network in place and tests it once, after the last epoch.

    Args:
        network: trained from its current parameters.
        data: on the device of the network.
        variation: how the images are augmented.
        config: the recipe.
        seed: of the order of the images and of augmentation; see `derive_seed`.
        observe: called with `Progress` about once a second and after the last step of an epoch, and with `Epoch` after
            the evaluations of an epoch.
        store: the checkpoints, from which the training resumes bit for bit. New ones are written at the end of each
            epoch, every `checkpoint_seconds` in between, and when `stopping` returns True.
        stopping: returns whether a stop was requested.
        watch: counts the seconds of each part of the work.
        tested: whether the network is evaluated on the test images.
        group: the processes that train the network together. All of them call this function with the same arguments,
            and get the same outcome. Process 0 alone observes, saves, and decides when to save and to stop.

    Raises:
        StopRequested: `stopping` returned True; the state is saved.
        Diverged: the loss or the norm of the gradient is not finite; the message says at which step.
        StorageError: a checkpoint could not be written.
        LostPeer: another process of the group has ended.

    """
    prepare(network, config)
    order = torch.Generator().manual_seed(derive_seed(seed, "order")).get_state()
    watch = watch or Stopwatch(cuda=data.train.labels.is_cuda)
    optimizer, scaler = make_optimizer(network, config), make_scaler(config, data.train.labels.device)
    state = State(network, make_average(network, config), optimizer, order, scaler, watch=watch)
    if store is not None:
        group.in_turn(partial(store.restore, state))
    trained = group.join(network, config)
    if config.compile:
        network.compile()
    watch.lap("start")
    count = len(data.train)
    per_epoch, total = config.steps_per_epoch(count), config.total_steps(count)
    with closing(AsyncCheckpointer(None if group.rank else store)) as checkpointer:
        step = GraphedStep() if config.cuda_graph else training_step
        length, told = (per_epoch, total), (observe if not group.rank else lambda event: None)
        course = _Course(
            data, variation, config, seed, *length, tested, step, trained, group, told, checkpointer, stopping
        )
        outcome = _train_epochs(state, course)
        watch.lap("rest")
    watch.lap("checkpoint")
    return outcome


def _train_epochs(state: State, course: _Course) -> Outcome:
    """Runs the remaining epochs and the evaluations. Raises Diverged if an evaluation's loss is not finite."""
    data, config, group = course.data, course.config, course.group
    stopping = course.stopping if group.size == 1 else group.stopping
    final = state.network if state.average is None else state.average
    per_epoch, total = course.per_epoch, course.total
    epochs, order = math.ceil(total / per_epoch), torch.Generator()
    test = validation = None
    while (number := len(state.history)) < epochs:
        order.set_state(state.order)
        batches = torch.randperm(len(data.train), generator=order).split(config.batch_size)
        epoch = _train_epoch(state, course, batches[: min(per_epoch, total - number * per_epoch)])
        last = number + 1 == epochs
        due = last or not (number + 1) % config.evaluation_interval
        state.watch.lap("rest")
        looked_at = course.tested and (last or (due and config.test_curve))
        look = partial(evaluate, final, data, config=config, stopping=stopping, group=group)
        validation = look(data.validation) if data.validation and due else None
        test = look(data.test) if looked_at else None
        state.watch.lap("evaluation")
        for name, found in (("validation", validation), ("test", test)):
            if found and not math.isfinite(found.loss):
                raise Diverged(f"the loss on the {name} images is {found.loss} after epoch {number + 1}")
        state.end_epoch(_add_evaluations(epoch, validation, test if config.test_curve else None), order.get_state())
        course.observe(state.history[-1])
    history = tuple(state.history)
    weights, refused = hash_weights(final), tuple(state.refused)
    return Outcome(history, total, test, validation, weights, final, state.resumes, state.mixed, refused)


def _train_epoch(state: State, course: _Course, batches: Sequence[Tensor]) -> Epoch:
    """Runs the remaining steps of an epoch. Raises StopRequested and Diverged.

    Values are read from the device only after the last step, once a second to show progress, and for checkpoints.
    """
    state.network.train()
    config, group, labels_of = course.config, course.group, course.data.train.labels
    number = len(state.history)
    left = [batch.to(labels_of.device) for batch in batches[state.steps :]]
    begun = shown = kept = state.watch.now()
    for batch, images in zip(left, course.images(number, left), strict=True):
        step = number * course.per_epoch + state.steps
        set_rate(state.optimizer, learning_rate(config, step, course.total, course.per_epoch))
        images, targets = course.mix(step, images, labels_of[batch])
        with state.watch.step():
            loss, scores, norm = course.take_step(state, step, images, targets, len(batch))
            if state.average is not None:
                update_average(state.average, state.network, config.ema if step else 0.0)
        state.losses.append(group.weigh(loss, len(batch)))
        state.norms.append(norm)
        state.correct.append((scores.argmax(1) == group.share(labels_of[batch])).sum())
        state.steps += 1
        stopping, now = group.agree(course.stopping()), state.watch.now()
        due = stopping or group.agree(now - kept > config.checkpoint_seconds)
        if due and state.steps < len(batches):
            state.seconds += now - begun
            _check_finite(state, course)
            course.checkpoint(state)
            begun = kept = state.watch.now()
            if stopping:
                raise StopRequested
        if now - shown > 1:
            shown = now
            course.observe(Progress(number + state.steps / course.per_epoch, loss.item()))
    line = _summarise_epoch(state, course, [len(batch) for batch in batches])
    if left:  # else no step was done, and the state needs no new checkpoint
        state.seconds += state.watch.now() - begun
        course.checkpoint(state)
        if course.data.train.forks:  # the thread that writes must end before the data loader forks
            course.checkpointer.wait()
            state.watch.lap("checkpoint")
    if group.agree(course.stopping()):
        raise StopRequested
    course.observe(Progress(number + len(batches) / course.per_epoch, line.train_loss))
    return replace(line, seconds=state.seconds)


def _gather(state: State, group: Group) -> None:
    """Replaces losses and correct images of this process's shares by those of whole batches."""
    new = slice(state.gathered, state.steps)
    if group.size > 1 and state.losses[new]:
        for values in (state.losses, state.correct):
            values[new] = group.sum(torch.stack(values[new])).unbind()
    state.gathered = state.steps


def _check_finite(state: State, course: _Course) -> None:
    """Raises Diverged, with the number of the step, so that diverged values are neither reported nor saved.

    With fp16 a gradient that is not finite skips a step. It is no divergence unless every step was skipped.
    """
    _gather(state, course.group)
    number = len(state.history)
    for what, gathered in (("loss", state.losses), ("gradient's norm", state.norms)):
        values = torch.stack(gathered)
        if what != "loss" and state.scaler is not None and values.isfinite().any():
            continue
        broken = (~values.isfinite()).nonzero()
        if len(broken):
            place = int(broken[0])
            step = number * course.per_epoch + place
            raise Diverged(f"the {what} is {values[place].item()} at step {step}, in epoch {number + 1}")


def _summarise_epoch(state: State, course: _Course, sizes: Sequence[int]) -> Epoch:
    """Returns the history's entry for an epoch whose steps are finished. Raises Diverged."""
    _check_finite(state, course)
    number, each, steepness = len(state.history), torch.stack(state.losses), torch.stack(state.norms)
    weights = torch.tensor(sizes, dtype=each.dtype, device=each.device)
    mean = float((each * weights).sum() / weights.sum())
    accuracy = 100 * int(torch.stack(state.correct).sum()) / sum(sizes)
    last = number * course.per_epoch + len(sizes) - 1
    rate = learning_rate(course.config, last, course.total, course.per_epoch)
    steep = float((steepness if state.scaler is None else steepness[steepness.isfinite()]).double().mean())
    return Epoch(number + 1, mean, accuracy, None, None, None, None, rate, steep, sum(sizes), 0.0)


def _add_evaluations(epoch: Epoch, validation: Evaluation | None, test: Evaluation | None) -> Epoch:
    """Returns the entry with the results of the evaluations at the end of the epoch."""
    return replace(
        epoch,
        validation_loss=validation.loss if validation else None,
        validation_accuracy=validation.accuracy if validation else None,
        test_loss=test.loss if test else None,
        test_accuracy=test.accuracy if test else None,
    )


def hash_weights(network: nn.Module) -> str:
    """Returns the SHA-256 of all parameters and buffers, with their names."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + b"\0")
        digest.update(tensor.detach().cpu().flatten().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

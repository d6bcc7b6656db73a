"""The events that a training reports to its observer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """The progress of a training, reported about once a second and after the last step of an epoch."""

    epochs: float
    """The number of finished epochs, including the finished part of the current one."""

    loss: float
    """The loss of the latest step, or the mean over the epoch after its last step, in nats. With several processes,
    that of a step is the first process's."""


@dataclass(frozen=True)
class Epoch:
    """A finished epoch, which is one entry of the history.

    Accuracies are in %, losses in nats. Those of training are averages over the images of the epoch.
    """

    epoch: int
    train_loss: float
    """The loss that was minimised: with label smoothing, on the augmented images."""

    train_accuracy: float
    validation_loss: float | None
    """The loss on the validation images at the end of the epoch, if they were evaluated."""

    validation_accuracy: float | None
    test_loss: float | None
    """The loss on the test images, if a test curve was requested."""

    test_accuracy: float | None
    learning_rate: float
    """The learning rate at the last step of the epoch."""

    gradient_norm: float
    """Euclidean norm of the gradient of all parameters, before clipping, averaged over the epoch's steps."""

    images: int
    """The number of training images in the epoch."""

    seconds: float
    """Seconds of the training steps, without evaluation and checkpoints."""


Observer = Callable[[Progress | Epoch], None]
"""Called with each event, in the thread of the training: a slow observer makes the training slow."""

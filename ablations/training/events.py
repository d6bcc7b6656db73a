"""What a training tells those who observe it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far a training is; told about once a second, and at the end of an epoch's steps."""

    epochs: float
    """How many are done, with the part of the present one."""

    loss: float
    """The latest step's, or the epoch's mean, in nats."""


@dataclass(frozen=True)
class Epoch:
    """A finished epoch, which is one line of the history.

    Accuracies are in %, losses in nats; those of training are averages over the epoch's images.
    """

    epoch: int
    train_loss: float
    """What was minimised, label smoothing included, of the images as they were trained."""

    train_accuracy: float
    validation_loss: float | None
    """The loss on the validation images at this epoch's end, where they were evaluated."""

    validation_accuracy: float | None
    test_loss: float | None
    """The loss on the test images, where a test curve was asked for."""

    test_accuracy: float | None
    learning_rate: float
    """At the epoch's last step."""

    gradient_norm: float
    """Euclidean norm of the gradient of all parameters, before clipping, averaged over the epoch's steps."""

    images: int
    """How many images were trained on."""

    seconds: float
    """Seconds of the training steps, without evaluation and checkpoints."""


Observer = Callable[[Progress | Epoch], None]
"""Called with what a training tells, in its own thread: a slow observer makes the training slow."""

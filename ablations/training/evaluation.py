"""Evaluation of a network on images: accuracy, loss, calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablations.config import TrainConfig
from ablations.data.dataset import Dataset, count_classes
from ablations.data.images import ImageSource
from ablations.storage.records import pack_bits
from ablations.training.checkpoint import StopRequested
from ablations.training.distributed import ALONE, Group
from ablations.training.step import prepare_images, score

EVALUATION_BATCH = {"cpu": 64, "cuda": 512}
"""Images per batch. On a CPU, 64 images are three times as fast as 512, because their feature maps fit better into
caches."""

BINS = 15
"""Bins of confidence for the calibration error, as in Guo et al. 2017."""


@dataclass(frozen=True)
class Evaluation:
    """The results of a network on some images."""

    accuracy: float
    """The share of the images that are classified correctly, in %."""

    loss: float
    """Cross-entropy in nats, without label smoothing."""

    top5_accuracy: float | None
    """The share of the images whose class is among the five highest scores, in %; None for at most ten classes."""

    calibration_error: float
    """The mean distance between confidence and accuracy over 15 bins of confidence, in % (Guo et al. 2017)."""

    per_class_accuracy: tuple[float | None, ...]
    """The share of the images of each class that are classified correctly, in %; None for a class without images."""

    outcomes: str
    """Which images were classified correctly: one bit per image, in the order of the images, as `pack_bits` writes
    them."""

    mistakes: str
    """The predicted class of each wrongly classified image, in the order of the images, as hexadecimal digits. Each
    class is written with as many digits as the highest one needs."""


@torch.no_grad()
def evaluate(
    network: nn.Module,
    data: Dataset,
    images: ImageSource,
    config: TrainConfig,
    stopping: Callable[[], bool] = lambda: False,
    group: Group = ALONE,
) -> Evaluation:
    """Evaluates the network on the images, in eval mode, and leaves it in eval mode.

    Each process of a group takes some of the batches, and all of them get the results for all images. Raises
    StopRequested if `stopping` returns True, in all processes if it does so in one.
    """
    network.eval()
    group.share_buffers(network)
    scores = _score_all(network, data, images, config, stopping, group)
    labels, classes = images.labels, scores.shape[1]
    right = scores.argmax(1) == labels
    hits = labels[right].bincount(minlength=classes).tolist()
    per_class = [
        100 * hit / all_ if all_ else None for hit, all_ in zip(hits, count_classes(labels, classes), strict=True)
    ]
    wrong, digits = scores.argmax(1)[~right].tolist(), len(f"{classes - 1:x}")
    among_five = (scores.topk(min(5, classes)).indices == labels.view(-1, 1)).any(1)
    return Evaluation(
        accuracy=100 * int(right.sum()) / len(labels),
        loss=F.cross_entropy(scores, labels).item(),
        top5_accuracy=100 * int(among_five.sum()) / len(labels) if classes > 10 else None,
        calibration_error=calibration_error(scores, right),
        per_class_accuracy=tuple(per_class),
        outcomes=pack_bits(right.cpu().numpy()),
        mistakes="".join(f"{each:0{digits}x}" for each in wrong),
    )


def _score_all(
    network: nn.Module,
    data: Dataset,
    images: ImageSource,
    config: TrainConfig,
    stopping: Callable[[], bool],
    group: Group,
) -> Tensor:
    """Returns the scores of all images, `(N, classes)`: the same, to the last bit, for any number of processes."""
    places = torch.arange(len(images), device=images.labels.device).split(EVALUATION_BATCH[images.labels.device.type])
    mine = places[group.rank :: group.size]

    def inputs() -> Iterator[Tensor]:
        for batch in images.batches(mine):
            if stopping():
                return
            yield prepare_images(data.normalise(batch), config)

    found = [score(network, each, config) for each in inputs()]
    if group.any(len(found) < len(mine)):
        raise StopRequested
    if group.size == 1:
        return torch.cat(found)
    dtype = torch.double if config.precision == "fp64" else torch.float
    scores = torch.zeros(len(images), data.num_classes, dtype=dtype, device=images.labels.device)
    for place, each in zip(mine, found, strict=True):
        scores[place] = each
    return group.sum(scores)


def calibration_error(scores: Tensor, right: Tensor) -> float:
    """Returns the expected calibration error in %, over 15 equal bins of confidence (Guo et al. 2017, equation 3)."""
    confidence = scores.double().softmax(1).amax(1)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.double, device=scores.device)
    gaps.index_add_(0, bins, right.double() - confidence)
    return 100 * float(gaps.abs().sum()) / len(right)

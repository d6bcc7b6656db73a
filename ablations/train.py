"""Trains a network: `train(network, data, config, seed) -> Outcome`. Every random choice has its own stream."""

from __future__ import annotations

import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablations.augmentation import augmented
from ablations.config import DataConfig, TrainConfig
from ablations.data import Dataset, Images
from densenet import Config, build

Progress = Callable[[float, float], None]
"""Called with the epochs done, a real number, and the current loss."""

EVALUATION_BATCH = {"cpu": 64, "cuda": 512}
"""Images at once; on a CPU, feature maps of 512 images take three times as long as those of 64, nearer its caches."""

BINS = 15
"""Of the calibration error, as in Guo et al. 2017."""


class Diverged(ArithmeticError):
    """The loss is no longer a number."""


class TimedOut(TimeoutError):
    """The training took longer than it may."""


@dataclass(frozen=True)
class Epoch:
    """One line of the history; accuracies in %, losses in nats; of training, averages over the epoch's images."""

    epoch: int
    train_loss: float
    """What was minimised, label smoothing included, of the images as they were trained."""

    train_accuracy: float
    validation_loss: float | None
    """Of the validation images at this epoch's end, where they were evaluated."""

    validation_accuracy: float | None
    test_loss: float | None
    """Of the test images, where a curve of them was asked for."""

    test_accuracy: float | None
    learning_rate: float
    """At the epoch's last step."""

    gradient_norm: float
    """Euclidean norm of the gradient of all parameters, before clipping, averaged over the epoch's steps."""

    images: int
    """That were trained on."""

    seconds: float
    """Of the training steps, without evaluation."""


@dataclass(frozen=True)
class Evaluation:
    """What a network is worth on some images."""

    accuracy: float
    """In %."""

    loss: float
    """Cross-entropy in nats, without label smoothing."""

    top5_accuracy: float | None
    """In %, where there are more than ten classes."""

    calibration_error: float
    """In %: the mean distance of confidence and accuracy over 15 bins of confidence (Guo et al. 2017)."""

    per_class_accuracy: tuple[float | None, ...]
    """In %, None for a class without images."""


@dataclass(frozen=True)
class Outcome:
    """What training gives."""

    history: tuple[Epoch, ...]
    steps: int
    test: Evaluation
    """Of the last weights, or of their average where there is one."""

    validation: Evaluation | None
    weights: str
    """SHA-256 of the parameters and buffers that were tested."""

    network: nn.Module
    """The network that was tested."""


def stream(seed: int, purpose: str) -> int:
    """The seed of one purpose: changing the architecture moves no draw of another purpose."""
    return int.from_bytes(hashlib.sha256(f"{seed} {purpose}".encode()).digest()[:7])


def initialised(model: Config, seed: int, device: torch.device) -> nn.Module:
    """A network whose weights depend on its configuration and the seed alone, drawn on the CPU."""
    torch.manual_seed(stream(seed, "initialisation"))
    network = build(model)
    torch.manual_seed(stream(seed, "dropout"))
    return network.to(device)


def prepared(network: nn.Module, config: TrainConfig) -> nn.Module:
    """The same network in the precision and memory format of the training."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    for tensor in (*network.parameters(), *network.buffers()):  # as Module.to, which tensors without storage refuse
        if config.precision == "fp64" and tensor.is_floating_point():
            tensor.data = tensor.data.double()
        if config.memory_format == "channels_last" and tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return network


def as_input(images: Tensor, config: TrainConfig) -> Tensor:
    """Normalised images in the precision and memory format of the training."""
    images = images.double() if config.precision == "fp64" else images
    return images.contiguous(memory_format=torch.channels_last) if config.memory_format == "channels_last" else images


def optimizer_for(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """SGD with Nesterov momentum and no dampening, as in the DenseNet paper, or AdamW."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if config.decay_norms_and_biases:
        groups = [{"params": parameters, "weight_decay": config.weight_decay}]
    else:
        groups = [
            {"params": [each for each in parameters if each.dim() > 1], "weight_decay": config.weight_decay},
            {"params": [each for each in parameters if each.dim() < 2], "weight_decay": 0.0},
        ]
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.momentum, 0.999))
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=True)


def averaged(network: nn.Module, config: TrainConfig) -> nn.Module | None:
    """A copy of the network for the exponential moving average of its weights and buffers, where there is one."""
    return copy.deepcopy(network) if config.ema else None


def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Average <- decay * average + (1 - decay) * network, parameter by parameter and buffer by buffer.

    Whole numbers, such as a batch norm's count of batches, are copied. Decay 0 makes the average the network.
    """
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    floating = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([mean for mean, _ in floating], [value for _, value in floating], 1 - decay)
    for mean, value in pairs:
        if not mean.is_floating_point():
            mean.copy_(value)


def learning_rate(config: TrainConfig, step: int, total: int, per_epoch: int) -> float:
    """The rate of a step, counted from 0, of `total`.

    step: divided by 10 at 50 % and again at 75 % of all steps (Huang et al. 2017, section 4.2).
    cosine: half a cosine from the warm-up's end to 0 (Loshchilov and Hutter 2017, without restarts).
    one-cycle: cosines up from 1/25 over 30 % of the steps and down to 1/250000 (Smith and Topin 2018).
    """
    warmup = config.warmup_epochs * per_epoch
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.learning_rate
    if config.schedule == "cosine":
        return _cosine(config.learning_rate, 0.0, (step - warmup) / (total - warmup))
    if config.schedule == "one-cycle":
        low, turn, last = config.learning_rate / 25, max(0.3 * total - 1, 0.0), total - 1
        if step < turn:
            return _cosine(low, config.learning_rate, step / turn)
        return _cosine(config.learning_rate, low / 10_000, (step - turn) / (last - turn) if last > turn else 0.0)
    return config.learning_rate * 0.1 ** ((2 * step >= total) + (4 * step >= 3 * total))


def _cosine(start: float, end: float, share: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def training_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    config: TrainConfig,
    mark: Callable[[str], None] = lambda phase: None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Forward, loss, backward, optimizer; gives loss, scores `(N, classes)` and the gradient's norm before clipping.

    `mark` is called at the end of each phase, by whoever times them.
    """
    optimizer.zero_grad(set_to_none=True)
    scores = scored(network, images, config)
    loss = F.cross_entropy(scores, labels, label_smoothing=config.label_smoothing)
    mark("forward")
    loss.backward()
    mark("backward")
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if config.clip_norm:
        nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, norm)
    optimizer.step()
    return loss.detach(), scores.detach(), norm


def scored(network: nn.Module, images: Tensor, config: TrainConfig) -> Tensor:
    """The network's scores in the precision of the training, `(N, C, H, W) -> (N, classes)`, at least fp32."""
    with torch.autocast(images.device.type, torch.bfloat16, enabled=config.precision == "bf16"):
        scores: Tensor = network(images)
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise TypeError(f"a network gives a tensor of scores, (images, classes); this one gave {shape}")
    return scores.float() if config.precision == "bf16" else scores


@dataclass(frozen=True)
class _Course:
    """What stays the same over a training."""

    data: Dataset
    variation: DataConfig
    config: TrainConfig
    seed: int
    per_epoch: int
    total: int
    """Steps."""

    start: float
    progress: Progress

    def images(self, epoch: int, batches: Sequence[Tensor]) -> Iterator[Tensor]:
        """The inputs of each batch of training images, `(N, C, H, W)`: normalised and varied."""
        draw = stream(self.seed, f"augmentation {epoch}")
        for batch, images in zip(batches, self.data.train.batches(batches), strict=True):
            varied = augmented(self.data.normalise(images), batch, draw, self.variation)
            yield as_input(varied, self.config)

    def check_time(self, step: int) -> None:
        """Raises TimedOut."""
        if 0 < self.config.time_limit < time.perf_counter() - self.start:
            limit = f"train.time_limit = {self.config.time_limit:g} seconds"
            raise TimedOut(f"the training took longer than {limit}: it was at step {step} of {self.total}")


def train(
    network: nn.Module, data: Dataset, variation: DataConfig, config: TrainConfig, seed: int, progress: Progress
) -> Outcome:
    """Trains `network` in place and tests it once, after the last epoch.

    `variation` says how the images are augmented. Raises Diverged, naming the step, and TimedOut.
    """
    prepared(network, config)
    optimizer, average = optimizer_for(network, config), averaged(network, config)
    if config.compile:
        network.compile()
    tested = network if average is None else average
    order = torch.Generator().manual_seed(stream(seed, "order"))
    count = len(data.train)
    per_epoch, total = config.steps_per_epoch(count), config.total_steps(count)
    epochs = math.ceil(total / per_epoch)
    course = _Course(data, variation, config, seed, per_epoch, total, time.perf_counter(), progress)
    history: list[Epoch] = []
    for number in range(epochs):
        batches = torch.randperm(count, generator=order).split(config.batch_size)
        batches = batches[: min(per_epoch, total - number * per_epoch)]
        epoch = _train_epoch(network, optimizer, average, course, number, batches)
        last = number + 1 == epochs
        due = last or not (number + 1) % config.evaluation_interval
        validation = evaluate(tested, data, data.validation, config) if data.validation and due else None
        test = evaluate(tested, data, data.test, config) if last or (due and config.test_curve) else None
        for name, found in (("validation", validation), ("test", test)):
            if found and not math.isfinite(found.loss):
                raise Diverged(f"the loss on the {name} images is {found.loss} after epoch {number + 1}")
        history.append(_with(epoch, validation, test if config.test_curve else None))
    assert test is not None  # after the last epoch
    return Outcome(tuple(history), total, test, validation, weights_hash(tested), tested)


def _train_epoch(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: nn.Module | None,
    course: _Course,
    number: int,
    batches: Sequence[Tensor],
) -> Epoch:
    """The steps of one epoch. Nothing is read from the device but at its end, and once a second to show progress."""
    network.train()
    config, labels_of = course.config, course.data.train.labels
    batches = [batch.to(labels_of.device) for batch in batches]
    begun = shown = time.perf_counter()
    losses, norms, correct = [], [], []
    for index, images in enumerate(course.images(number, batches)):
        step, labels = number * course.per_epoch + index, labels_of[batches[index]]
        rate = learning_rate(config, step, course.total, course.per_epoch)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, scores, norm = training_step(network, optimizer, images, labels, config)
        if average is not None:
            update_average(average, network, config.ema if step else 0.0)
        losses.append(loss)
        norms.append(norm)
        correct.append((scores.argmax(1) == labels).sum())
        course.check_time(step + 1)
        if time.perf_counter() - shown > 1:
            shown = time.perf_counter()
            course.progress(number + (index + 1) / course.per_epoch, loss.item())
    each, steepness = torch.stack(losses), torch.stack(norms)
    for what, values in (("loss", each), ("gradient's norm", steepness)):
        broken = (~values.isfinite()).nonzero()
        if len(broken):
            place = int(broken[0])
            step = number * course.per_epoch + place
            raise Diverged(f"the {what} is {values[place].item()} at step {step}, in epoch {number + 1}")
    sizes = torch.tensor([len(batch) for batch in batches], dtype=each.dtype, device=each.device)
    mean = float((each * sizes).sum() / sizes.sum())
    accuracy = 100 * int(torch.stack(correct).sum()) / int(sizes.sum())
    seconds = time.perf_counter() - begun
    course.progress(number + len(batches) / course.per_epoch, mean)
    norm_mean = float(steepness.double().mean())
    return Epoch(number + 1, mean, accuracy, None, None, None, None, rate, norm_mean, int(sizes.sum()), seconds)


def _with(epoch: Epoch, validation: Evaluation | None, test: Evaluation | None) -> Epoch:
    """The line with what was evaluated at its end."""
    return replace(
        epoch,
        validation_loss=validation.loss if validation else None,
        validation_accuracy=validation.accuracy if validation else None,
        test_loss=test.loss if test else None,
        test_accuracy=test.accuracy if test else None,
    )


@torch.no_grad()
def evaluate(network: nn.Module, data: Dataset, images: Images, config: TrainConfig) -> Evaluation:
    """What the network is worth on the images, in eval mode; leaves it in eval mode."""
    network.eval()
    places = torch.arange(len(images), device=images.labels.device).split(EVALUATION_BATCH[images.labels.device.type])
    inputs = (as_input(data.normalise(batch), config) for batch in images.batches(places))
    scores = torch.cat([scored(network, each, config) for each in inputs])
    labels, classes = images.labels, scores.shape[1]
    right = scores.argmax(1) == labels
    hits = labels[right].bincount(minlength=classes).tolist()
    per_class = [100 * hit / all_ if all_ else None for hit, all_ in zip(hits, images.per_class(classes), strict=True)]
    among_five = (scores.topk(min(5, classes)).indices == labels.view(-1, 1)).any(1)
    return Evaluation(
        accuracy=100 * int(right.sum()) / len(labels),
        loss=F.cross_entropy(scores, labels).item(),
        top5_accuracy=100 * int(among_five.sum()) / len(labels) if classes > 10 else None,
        calibration_error=calibration_error(scores, right),
        per_class_accuracy=tuple(per_class),
    )


def calibration_error(scores: Tensor, right: Tensor) -> float:
    """Expected calibration error in %, over 15 equal bins of confidence (Guo et al. 2017, equation 3)."""
    confidence = scores.double().softmax(1).amax(1)
    bins = (confidence * BINS).ceil().long().clamp(1, BINS) - 1
    gaps = torch.zeros(BINS, dtype=torch.double, device=scores.device)
    gaps.index_add_(0, bins, right.double() - confidence)
    return 100 * float(gaps.abs().sum()) / len(right)


def weights_hash(network: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + b"\0")
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()

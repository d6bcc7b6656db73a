"""One training step: precision, optimizer, learning rate, loss, average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ablations.config import TrainConfig
from ablations.parts import compute_own_loss, find_factor, is_own, make_own_optimizer


def prepare(network: nn.Module, config: TrainConfig) -> nn.Module:
    """Brings a network into the precision and memory format of the training, in place, and returns it.

    Also sets torch's options for TF32 and for deterministic algorithms. A tensor whose elements share memory, such as
    an expanded buffer, gets memory of its own, because it could not be written to.
    """
    torch.use_deterministic_algorithms(config.deterministic and torch.cuda.is_available())
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = config.precision == "tf32"
    for tensor in (*network.parameters(), *network.buffers()):  # Module.to fails for tensors without storage
        if config.precision == "fp64" and tensor.is_floating_point():
            tensor.data = tensor.data.double()
        if config.memory_format == "channels_last" and tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
        if any(size > 1 and not step for size, step in zip(tensor.shape, tensor.stride(), strict=True)):
            tensor.data = tensor.data.clone()
    return network


def prepare_images(images: Tensor, config: TrainConfig) -> Tensor:
    """Returns normalised images in the precision and memory format of the training."""
    images = images.double() if config.precision == "fp64" else images
    return images.contiguous(memory_format=torch.channels_last) if config.memory_format == "channels_last" else images


def make_optimizer(network: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Makes SGD with Nesterov momentum and no dampening, as in the DenseNet paper, or AdamW; on CUDA in one kernel.

    A class of the user's is called with the groups of parameters, each with its `weight_decay`, with `lr`, and with
    `momentum` if it has such an argument. Raises TypeError if it gives no optimizer.
    """
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if config.decay_norms_and_biases:
        groups = [{"params": parameters, "weight_decay": config.weight_decay}]
    else:
        groups = [
            {"params": [each for each in parameters if each.dim() > 1], "weight_decay": config.weight_decay},
            {"params": [each for each in parameters if each.dim() < 2], "weight_decay": 0.0},
        ]
    if is_own(config.optimizer):
        return make_own_optimizer(config.optimizer, groups, config.learning_rate, config.momentum)
    fused = True if any(parameter.is_cuda for parameter in parameters) else None  # None: torch's default
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.momentum, 0.999), fused=fused)
    return torch.optim.SGD(groups, lr=config.learning_rate, momentum=config.momentum, nesterov=True, fused=fused)


def make_average(network: nn.Module, config: TrainConfig) -> nn.Module | None:
    """Copies the network for the exponential moving average of its weights and buffers; None without an average."""
    if not config.ema:
        return None
    held = [value for module in network.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    computed = {id(tensor): tensor.detach().clone() for tensor in held if not tensor.is_leaf}  # as by weight_norm
    return copy.deepcopy(network, computed)


def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Sets average = decay * average + (1 - decay) * network, for each parameter and buffer.

    Integers, such as a batch norm's number of batches, are copied. Decay 0 copies everything.
    """
    pairs = list(zip(average.state_dict().values(), network.state_dict().values(), strict=True))
    floating = [pair for pair in pairs if pair[0].is_floating_point()]
    torch._foreach_lerp_([mean for mean, _ in floating], [value for _, value in floating], 1 - decay)
    for mean, value in pairs:
        if not mean.is_floating_point():
            mean.copy_(value)


def learning_rate(config: TrainConfig, step: int, total: int, per_epoch: int) -> float:
    """Returns the learning rate of a step, counted from 0, of `total` steps.

    step: divided by 10 at 50 % and again at 75 % of all steps (Huang et al. 2017, section 4.2).
    cosine: half a cosine from the end of the warm-up to 0 (Loshchilov and Hutter 2017, without restarts).
    one-cycle: cosines up from 1/25 over 30 % of the steps and down to 1/250000 (Smith and Topin 2018).
    A function of the user's gives the factor from the step and the number of steps.
    """
    warmup = config.warmup_epochs * per_epoch
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    if is_own(config.schedule):
        return config.learning_rate * find_factor(config.schedule, step, total)
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
    """Returns the value of half a cosine from `start` to `end`, at `share` from 0 to 1."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def set_rate(optimizer: torch.optim.Optimizer, rate: float | Tensor) -> None:
    """Sets the learning rate of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate


def make_scaler(config: TrainConfig, device: torch.device) -> torch.amp.GradScaler | None:
    """Makes what scales the loss for fp16, so that small gradients do not become 0; None for other precisions."""
    return torch.amp.GradScaler(device.type) if config.precision == "fp16" else None


def ignore(phase: str) -> None:
    """Does nothing at the end of a phase."""


def training_step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    config: TrainConfig,
    scaler: torch.amp.GradScaler | None = None,
    mark: Callable[[str], None] = ignore,
    weight: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Runs forward pass, loss, backward pass and optimizer.

    `labels` are classes `(N,)`, or shares of all classes `(N, classes)`. Returns the loss, the scores `(N, classes)`
    and the norm of the gradient before clipping. `mark` is called at the end of the forward pass ("forward") and of the
    backward pass ("backward"), for measurements. With a `scaler`, a gradient that is not finite skips the optimizer and
    lowers the scale of the loss. The gradient is that of the loss times `weight`.
    """
    optimizer.zero_grad(set_to_none=True)
    scores = score(network, images, config)
    loss = compute_loss(scores, labels, config)
    mark("forward")
    weighted = loss if weight == 1 else loss * weight
    (weighted if scaler is None else scaler.scale(weighted)).backward()
    mark("backward")
    if scaler is not None:
        scaler.unscale_(optimizer)
    parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
    norm = nn.utils.get_total_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    if config.clip_norm:
        nn.utils.clip_grads_with_norm_(parameters, config.clip_norm, norm)
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    return loss.detach(), scores.detach(), norm


def compute_loss(scores: Tensor, labels: Tensor, config: TrainConfig) -> Tensor:
    """Returns the loss that is minimised, `(N, classes)`, `(N,)` or `(N, classes)` -> `()`. Raises TypeError."""
    if is_own(config.loss):
        return compute_own_loss(config.loss, scores, labels)
    return F.cross_entropy(scores, labels, label_smoothing=config.label_smoothing)


def score(network: nn.Module, images: Tensor, config: TrainConfig) -> Tensor:
    """Returns the network's scores in the precision of the training, `(N, C, H, W) -> (N, classes)`, at least fp32.

    Raises TypeError if the network's output is not a tensor of this shape.
    """
    narrow = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(config.precision)
    with torch.autocast(images.device.type, narrow, enabled=narrow is not None):
        scores: Tensor = network(images)
    if not isinstance(scores, Tensor) or scores.dim() != 2:
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise TypeError(f"a network gives a tensor of scores, (images, classes); this one gave {shape}")
    return scores if narrow is None else scores.float()

"""A DenseNet that normalises every feature once: the same function as the textbook's, in less time and memory.

In a dense block, all layers that read a feature x normalise it with the same mean m and variance v, those of this
batch. Only their scale and shift differ. So x is normalised once, where it is produced, and the layers only scale it:

    x^ = (x - m) / sqrt(v + eps)                        once
    u_l = max(gamma_l * x^ + beta_l, 0)                 in each layer l that reads x, elementwise

The features of a block lie side by side in one matrix of pixels x channels (channels last), so nothing is concatenated:
the input of layer l is the first columns of the matrix. The backward pass keeps this matrix, the output z of every
bottleneck's 1x1 convolution, and their statistics: k + 4k channels per layer. It computes u_l again, and also
max(gamma * z^ + beta, 0), elementwise and without a second convolution. With `checkpoint = "bottleneck"` it computes z
again as well, and keeps k channels per layer.

The gradient with respect to x^ is the sum over the layers that read x, in one matrix of the same size:

    dL/dx^ = sum over l of gamma_l * g_l                g_l: dL/du_l where u_l > 0, else 0
    dL/dgamma_l = sum over pixels of g_l * x^           dL/dbeta_l = sum over pixels of g_l

The backward pass of a normalisation is linear in the gradient that it receives, so it runs once, on the sum:

    dL/dx = (dL/dx^ - mean(dL/dx^) - x^ * mean(dL/dx^ * x^)) / sqrt(v + eps)

This needs a batch norm right before the rectifier and the convolution. Dropout comes after the convolution, before the
feature is normalised. Every norm keeps its own running statistics, as in the textbook, so that both implementations
share a state dict. Without dropout between them, a transition's 1x1 convolution comes after its pool: both are linear,
the convolution works on channels and the pool on pixels, so their order does not matter, and the convolution has a
quarter of the work.

On a GPU, `torch.compile` traces the whole network without a break and fuses the elementwise passes. On a CPU it leaves
the blocks as they are, because the compiled loops are faster than its code.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # torch.compiler.disable, but it loads the compiler only when it is called
from torch.autograd.function import once_differentiable
from torch.fx.experimental.proxy_tensor import get_proxy_mode

from densenet.blocks import DenseBlock, DenseLayer, Transition
from densenet.densenet import DenseNet
from densenet.kernels import (
    Rectifier,
    apply_affine,
    combine_gradient,
    convolve,
    convolve_backward,
    gather_sums,
    measure_moments,
    suits_loops,
)

HOST = "cpu"
"""The device that works on pieces of feature maps, by compiled loops. `torch.compile` leaves the blocks there."""

PIECE = 2**22
"""Bytes of feature maps that a CPU works on at once, so that they stay in its cache from one pass to the next."""

BATCH = 16
"""Images per convolution. For fewer, on one thread, PyTorch chooses a convolution that is several times as slow."""


SMALL = 2**18
"""Values in a block's output, over all images, below which the textbook's own operators are as fast or faster."""


class MapSize(NamedTuple):
    """The size of feature maps."""

    images: int
    height: int
    width: int


def pieces(x: Tensor, unit: int) -> Iterator[slice]:
    """Yields slices of whole units of rows. On a CPU each fits into the cache; other devices get all rows at once."""
    if x.device.type != HOST:
        return iter([slice(0, len(x))])
    step = max(1, PIECE // (unit * x.shape[1] * x.element_size())) * unit
    return (slice(start, min(start + step, len(x))) for start in range(0, len(x), step))


def as_maps(rows: Tensor, height: int, width: int) -> Tensor:
    """Views rows as feature maps with channels last, `(N * H * W, C) -> (N, C, H, W)`, without a copy."""
    return rows.view(-1, height, width, rows.shape[1]).permute(0, 3, 1, 2)


def as_rows(maps: Tensor) -> Tensor:
    """Returns feature maps as rows, `(N, C, H, W) -> (N * H * W, C)`. Copies only if the channels are not last."""
    return maps.permute(0, 2, 3, 1).contiguous().view(-1, maps.shape[1])


def view_columns(matrix: Tensor, start: int, stop: int) -> Tensor:
    """Views columns of a whole matrix. `torch.compile` writes to such a view in place; for a slice it copies all."""
    return matrix.as_strided((len(matrix), stop - start), matrix.stride(), start)


def rectify(x: Tensor, rectifier: Rectifier, out: Tensor | None = None) -> Tensor:
    """Computes max(scale * x + shift, 0), `(M, C) -> (M, C)`. `out`, if it is given, may have more rows than x."""
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    return apply_affine(x, *rectifier, rectified=True, out=out[: len(x)])


class Convolution(NamedTuple):
    """max(scale * x + shift, 0) and the convolution after it."""

    scale: Tensor
    shift: Tensor
    weight: Tensor

    @property
    def rectifier(self) -> Rectifier:
        """The scale and the shift."""
        return self.scale, self.shift

    def fold(self, mean: Tensor, inverse: Tensor) -> Convolution:
        """Returns the same with the normalisation (x - mean) * inverse before it."""
        scale = self.scale * inverse
        return Convolution(scale, self.shift - mean * scale, self.weight)

    @property
    def is_pixelwise(self) -> bool:
        """Whether it is a 1x1 convolution."""
        return self.weight.shape[-1] == 1

    def has_loop(self, x: Tensor) -> bool:
        """Returns whether the convolution of these rows has a compiled loop."""
        return self.is_pixelwise and suits_loops(x, self.scale.dtype) and self.weight.dtype == self.scale.dtype

    def pieces(self, x: Tensor, size: MapSize, whole: bool = False) -> Iterator[tuple[slice, Tensor]]:
        """Yields slices of rows of x, and the input of the convolution for each slice, `(N, C, H, W)`.

        For a 1x1 convolution, H and W may be any numbers, because every pixel is treated alike.
        """
        scratch = None
        unit = BATCH if self.is_pixelwise else BATCH * size.height * size.width
        for rows in [slice(0, len(x))] if whole else pieces(x, unit):
            u = rectify(x[rows], self.rectifier, scratch)
            scratch = u if scratch is None else scratch
            height, width = (len(u) // (1 if len(u) % BATCH else BATCH), 1) if self.is_pixelwise else size[1:]
            yield rows, as_maps(u, height, width)

    def forward(self, x: Tensor, size: MapSize) -> Tensor:
        """Computes `(M, C) -> (M, outputs)`."""
        if self.has_loop(x):
            return convolve(x, self.rectifier, self.weight.flatten(1))
        weight, padding = self.weight.to(x.dtype), self.weight.shape[-1] // 2
        out = torch.empty(len(x), len(weight), dtype=x.dtype, device=x.device)
        for rows, maps in self.pieces(x, size):
            out[rows] = as_rows(F.conv2d(maps, weight, padding=padding))
        return out

    def backward(
        self, gradient: Tensor, x: Tensor, mean: Tensor, size: MapSize, sums: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Returns the gradients of scale, shift and weight, taken at x - mean, and of the convolution's input.

        If `sums`, `(M, C)`, is given, the gradient of the normalised input is added to it, and the fourth result is not
        valid.
        """
        if sums is not None and self.has_loop(x):
            *found, of_weight = convolve_backward(gradient, x, mean, self.rectifier, self.weight.flatten(1), sums)
            return found[0], found[1], of_weight.view_as(self.weight), gradient
        weight, padding = self.weight.to(x.dtype), [self.weight.shape[-1] // 2] * 2
        of_scale, of_shift, of_weight = (torch.zeros_like(each, memory_format=torch.contiguous_format) for each in self)
        for rows, maps in self.pieces(x, size, whole=sums is None):
            arrived = as_maps(gradient[rows], *maps.shape[2:])
            of_maps, part, _ = torch.ops.aten.convolution_backward(
                arrived, maps, weight, None, [1, 1], padding, [1, 1], False, [0, 0], 1, [True, True, False]
            )
            of_rows, into = as_rows(of_maps), None if sums is None else sums[rows]
            total, product = gather_sums(of_rows, x[rows], mean, self.rectifier, into)
            of_scale += product
            of_shift += total
            of_weight += part
        return of_scale, of_shift, of_weight, of_rows


class Step(NamedTuple):
    """A norm, a convolution and the dropout rate after it. A layer has one or two of these steps."""

    norm: nn.BatchNorm2d
    convolution: nn.Conv2d
    dropout: float


def steps_of(layer: nn.Module) -> list[Step]:
    """Returns the steps of a layer, in their order."""
    parts = list(layer.children())
    norms = (part for part in parts if isinstance(part, nn.BatchNorm2d))
    found = []
    for part, after in zip(parts, [*parts[1:], None], strict=True):
        if isinstance(part, nn.Conv2d):
            found.append(Step(next(norms), part, after.p if isinstance(after, nn.Dropout) else 0.0))
    return found


class Plan(NamedTuple):
    """A dense block, the norm that reads its output (the reader), and the average pool after that, if there is one."""

    layers: list[list[Step]]
    reader: nn.BatchNorm2d
    pool: tuple[int, int] | None
    dtype: torch.dtype
    """The type of feature maps."""

    keeps: bool
    """Whether the outputs of the bottlenecks are kept until the backward pass."""

    def parameters(self) -> list[Tensor]:
        """Returns scale, shift and weight of every step, and scale and shift of the reader."""
        of_steps = [
            (step.norm.weight, step.norm.bias, step.convolution.weight) for each in self.layers for step in each
        ]
        return [*(parameter for each in of_steps for parameter in each), self.reader.weight, self.reader.bias]

    def split(self, parameters: Sequence[Tensor]) -> tuple[list[list[Convolution]], Rectifier]:
        """Groups such a list of parameters: the convolutions of each layer, and the reader."""
        each = iter(parameters)
        layers = [[Convolution(next(each), next(each), next(each)) for _ in steps] for steps in self.layers]
        return layers, (next(each), next(each))

    @property
    def consumers(self) -> list[nn.BatchNorm2d]:
        """The norms that read features: the first norm of every layer, and the reader."""
        return [*(steps[0].norm for steps in self.layers), self.reader]

    @torch.no_grad()
    def remember(self, mean: Tensor, variance: Tensor, middles: Sequence[tuple[Tensor, Tensor]], pixels: int) -> None:
        """Updates the running statistics of every norm with this batch's statistics, as each norm would itself."""
        found = [(norm, mean[: norm.num_features], variance[: norm.num_features]) for norm in self.consumers]
        found += [(steps[1].norm, *each) for steps, each in zip(self.layers, middles, strict=False)]
        norms, means, variances = zip(*found, strict=True)
        momentum = float(self.reader.momentum or 0.0)
        torch._foreach_lerp_([norm.running_mean for norm in norms], list(means), momentum)
        unbiased = torch._foreach_mul(list(variances), pixels / (pixels - 1))
        torch._foreach_lerp_([norm.running_var for norm in norms], unbiased, momentum)
        torch._foreach_add_([norm.num_batches_tracked for norm in norms], 1)


def read(stream: Tensor, reader: Rectifier, pool: tuple[int, int] | None, size: MapSize) -> Tensor:
    """Computes the input of a transition's convolution, `(M, C) -> (N, C, H, W)`, smaller if it is pooled."""
    out = []
    for rows in pieces(stream, size.height * size.width):
        maps = as_maps(rectify(stream[rows], reader), *size[1:])
        out.append(F.avg_pool2d(maps, pool) if pool else maps)
    return torch.cat(out)


def read_backward(
    gradient: Tensor, stream: Tensor, reader: Rectifier, pool: tuple[int, int] | None, size: MapSize, sums: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the gradients of the reader's scale and shift, and writes its part of the gradient of x^ to `sums`."""
    of_scale, of_shift = (torch.zeros_like(each) for each in reader)
    pixels, zero = size.height * size.width, torch.zeros_like(of_scale)
    for rows in pieces(stream, pixels):
        arrived = gradient[rows.start // pixels : rows.stop // pixels]
        if pool:
            maps = as_maps(stream[rows], *size[1:])  # the gradient uses their shape, not their values
            arrived = torch.ops.aten.avg_pool2d_backward(arrived, maps, pool, pool, [0, 0], False, True, None)
        total, product = gather_sums(as_rows(arrived), stream[rows], zero, reader, sums[rows], fresh=True)
        of_scale += product
        of_shift += total
    return of_scale, of_shift


def drop(x: Tensor, share: float) -> tuple[Tensor, list[Tensor]]:
    """Applies dropout. Returns the result and a list with the mask of the kept elements, empty for a rate of 0."""
    if not share:
        return x, []
    left, which = torch.native_dropout(x, share, True)
    return left, [which.bool()]


def norm_backward(gradient: Tensor, x: Tensor, inverse: Tensor) -> Tensor:
    """Returns dL/dx, given dL/dx^ and x^, `(M, C) -> (M, C)`."""
    zero = torch.zeros_like(inverse)
    total, product = gather_sums(gradient, x, zero, None)
    factors = inverse, -inverse * product / len(x), -inverse * total / len(x)
    return combine_gradient(gradient, x, zero, None, factors, torch.empty(x.shape, dtype=x.dtype, device=x.device))


class LayerState(NamedTuple):
    """The tensors that the backward pass of a layer needs."""

    middle: list[Tensor]
    """z, if it is kept."""

    statistics: list[Tensor]
    """The mean of z and the inverse of its standard deviation."""

    masks: list[Tensor]
    """The dropout masks, in the order of the convolutions."""


class DenseBlockFunction(torch.autograd.Function):
    """A dense block and its reader, `(N, C, H, W) -> (N, C + layers * k, H, W)`, smaller if the plan has a pool."""

    @staticmethod
    def forward(ctx: Any, plan: Plan, x: Tensor, *parameters: Tensor) -> Tensor:
        """Returns the block's output, normalised, rectified (u in the docstring of the module) and pooled.

        Updates the running statistics.
        """
        layers, reader = plan.split(parameters)
        size, eps = MapSize(x.shape[0], *x.shape[2:]), plan.reader.eps
        feature = as_rows(x.to(plan.dtype))
        stream = feature.new_empty(len(feature), plan.reader.num_features)
        width, found, middles, kept = 0, [], [], []
        for number in range(len(layers) + 1):
            mean, variance = measure_moments(feature, reader[0].dtype)
            inverse = (variance + eps).rsqrt()
            found.append((mean, variance, inverse))
            new = view_columns(stream, width, width := width + feature.shape[1])
            apply_affine(feature, inverse, -mean * inverse, rectified=False, out=new)
            if number == len(layers):
                break
            first, *second = layers[number]
            shares = [step.dropout for step in plan.layers[number]]
            feature, masks = drop(first.forward(stream[:, :width], size), shares[0])
            statistics: list[Tensor] = []
            middle = [feature] if second and plan.keeps else []
            for convolution in second:
                middles.append(measure_moments(feature, mean.dtype))
                statistics = [middles[-1][0], (middles[-1][1] + eps).rsqrt()]
                feature, more = drop(convolution.fold(*statistics).forward(feature, size), shares[1])
                masks += more
            kept.append(LayerState(middle, statistics, masks))
        mean, variance, inverse = (torch.cat(each) for each in zip(*found, strict=True))
        plan.remember(mean, variance, middles, len(stream))
        ctx.plan, ctx.size = plan, size
        ctx.count, ctx.counts = len(parameters), [[len(tensors) for tensors in each] for each in kept]
        ctx.save_for_backward(stream, inverse, *parameters, *(one for each in kept for group in each for one in group))
        return read(stream, reader, plan.pool, size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of the input and of every parameter."""
        plan, size = ctx.plan, ctx.size
        stream, inverse, *rest = ctx.saved_tensors
        layers, reader = plan.split(rest[: ctx.count])
        each = iter(rest[ctx.count :])
        kept = [LayerState(*([next(each) for _ in range(number)] for number in counts)) for counts in ctx.counts]
        sums = torch.empty(stream.shape, dtype=inverse.dtype, device=stream.device)
        found = list(read_backward(gradient, stream, reader, plan.pool, size, sums))
        width = stream.shape[1]
        for steps, convolutions, of_layer in zip(*map(reversed, (plan.layers, layers, kept)), strict=True):
            new = slice(width := width - len(convolutions[-1].weight), width + len(convolutions[-1].weight))
            arrived = norm_backward(sums[:, new], stream[:, new], inverse[new])
            before = stream[:, :width], view_columns(sums, 0, width)
            found = layer_backward(arrived, steps, convolutions, of_layer, before, size) + found
        of_input = norm_backward(sums[:, :width], stream[:, :width], inverse[:width])
        return None, as_maps(of_input, *size[1:]), *found


def layer_backward(
    arrived: Tensor,
    steps: list[Step],
    convolutions: list[Convolution],
    kept: LayerState,
    before: tuple[Tensor, Tensor],
    size: MapSize,
) -> list[Tensor]:
    """Returns the gradients of a layer's parameters, given the gradient of its output.

    `before` has x^ of all features before the layer, and the sum of their gradients so far. The layer adds its part.
    """
    stream, sums = before
    first, *second = convolutions
    masks, found = list(kept.masks), []
    for convolution in second:
        arrived = drop_backward(arrived, masks, steps[1].dropout)
        middle = kept.middle[0] if kept.middle else compute_again(first, stream, size, masks, steps[0].dropout)
        mean, inverse = kept.statistics
        whole, pixels = convolution.fold(mean, inverse), len(middle)
        product, total, of_weight, of_rows = whole.backward(arrived, middle, mean, size)
        factors = whole.scale, -whole.scale * inverse**2 * product / pixels, -whole.scale * total / pixels
        arrived = combine_gradient(of_rows, middle, mean, whole.rectifier, factors, of_rows)
        found = [inverse * product, total, of_weight]
    arrived = drop_backward(arrived, masks, steps[0].dropout)
    return [*first.backward(arrived, stream, torch.zeros_like(first.scale), size, sums)[:3], *found]


def drop_backward(gradient: Tensor, masks: list[Tensor], share: float) -> Tensor:
    """Returns the gradient with respect to dropout's input, and removes the mask, which is the last of `masks`."""
    return gradient * masks.pop() * (1 / (1 - share)) if share else gradient


def compute_again(first: Convolution, stream: Tensor, size: MapSize, masks: list[Tensor], share: float) -> Tensor:
    """Computes z again from the features before the layer, in their dtype, even under autocast."""
    with torch.autocast(stream.device.type, enabled=False):
        middle = first.forward(stream, size)
    return middle * masks[0] * (1 / (1 - share)) if share else middle


@torch.no_grad()
def infer(plan: Plan, x: Tensor) -> Tensor:
    """Computes the block with running statistics. Every norm has its own, so no feature is normalised beforehand."""
    layers, reader = plan.split(plan.parameters())
    size, width = MapSize(x.shape[0], *x.shape[2:]), x.shape[1]
    feature = as_rows(x.to(plan.dtype))
    stream = feature.new_empty(len(feature), plan.reader.num_features)
    stream[:, :width] = feature
    for steps, (first, *second) in zip(plan.layers, layers, strict=True):
        new = use_running_statistics(first, steps[0].norm).forward(stream[:, :width], size)
        for convolution in second:
            new = use_running_statistics(convolution, steps[1].norm).forward(new, size)
        stream[:, width : (width := width + new.shape[1])] = new
    whole = use_running_statistics(Convolution(*reader, reader[0]), plan.reader)
    return read(stream, whole.rectifier, plan.pool, size)


def use_running_statistics(convolution: Convolution, norm: nn.BatchNorm2d) -> Convolution:
    """Returns the convolution with a normalisation by the norm's running statistics before it."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return convolution.fold(norm.running_mean, (norm.running_var + norm.eps).rsqrt())


class NormalizeOnce(DenseNet):
    """A DenseNet with the same parameters, buffers and function, computed as this module's docstring describes.

    It computes as the textbook does if its modules were replaced or have hooks, if its norms differ in their settings,
    if its operators are recorded (tracing, export), for an empty batch, and for a gradient in eval mode. So it does in
    a block whose feature maps are so small (`SMALL`) that the calls take longer than what they compute. It does not
    notice other attributes that were changed by hand, such as a pool's size. TorchScript's compiler, vmap and the
    transforms of torch.func need the textbook itself, which takes the same state dict.
    """

    def forward(self, images: Tensor) -> Tensor:
        """`(N, in_channels, H, W) -> (N, num_classes)`. Raises ValueError for an image that is too small."""
        self.check(images)
        pixels = images.shape[0] * images.shape[2] * images.shape[3] // (16 if self.stem == "imagenet" else 1)
        first = next(part for part in self.features.children() if isinstance(part, DenseBlock))
        is_plain = is_small(pixels, first) or is_recorded(images) or len(images) == 0
        mode = None if is_plain else one_mode(self)
        if mode is None or (torch.is_grad_enabled() and not mode):
            return super().forward(images)
        x, block = images.contiguous(memory_format=torch.channels_last), None
        for part in self.features.children():
            if isinstance(part, DenseBlock):
                block = None if is_small(x.numel() // x.shape[1], part) else part
            if block is None:
                x = part(x)
            elif isinstance(part, Transition):
                x = apply_transition(block, part, x, mode)
            elif isinstance(part, nn.BatchNorm2d):
                x = apply_block(block, part, x, (int(x.shape[2]), int(x.shape[3])), mode)
        scores: Tensor = self.classifier(x.mean((-2, -1)))
        return scores


def is_small(pixels: int, block: DenseBlock) -> bool:
    """Returns whether a block's output has few values, given the pixels of all images."""
    return pixels * block.out_channels < SMALL


KNOWN = {nn.Sequential, DenseBlock, DenseLayer, Transition}
KNOWN |= {nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.Dropout, nn.MaxPool2d, nn.AvgPool2d}
"""The modules that `build` makes."""


def one_mode(network: DenseNet) -> bool | None:
    """Returns True if all norms and dropouts are in training mode, False if all are in eval mode, else None.

    None means that the network must compute as the textbook does. This is also the case if norms differ in eps or
    momentum, have half precision, or keep no running statistics with a fixed momentum, and if modules were replaced or
    have hooks.
    """
    parts = list(network.features.modules())
    if any(type(part) not in KNOWN or has_hooks(part) for part in parts):
        return None
    norms = [part for part in parts if isinstance(part, nn.BatchNorm2d)]
    found = {(norm.eps, norm.momentum, norm.track_running_stats, getattr(norm.weight, "dtype", None)) for norm in norms}
    modes = {part.training for part in parts if isinstance(part, nn.BatchNorm2d | nn.Dropout)}
    _, momentum, tracks, dtype = next(iter(found))
    alike = len(found) == 1 and len(modes) == 1 and momentum is not None and tracks
    return modes.pop() if alike and dtype in (torch.float32, torch.float64) else None


def is_recorded(images: Tensor) -> bool:
    """Returns whether the forward pass is traced or exported, which misses the compiled loops, or has no storage."""
    if torch.compiler.is_exporting() or images.is_meta:
        return True
    if torch.compiler.is_compiling():  # it cannot trace the next question, and its answer is no
        return False
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    return tracing or get_proxy_mode() is not None


def has_hooks(module: nn.Module) -> bool:
    """Returns whether the module has hooks, which may read or change its inputs and outputs."""
    return any((module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks))


def apply_block(
    block: DenseBlock, reader: nn.BatchNorm2d, x: Tensor, pool: tuple[int, int] | None, training: bool
) -> Tensor:
    """Applies a block, the norm and the rectifier after it, and an average pool, if `pool` is given.

    Raises ValueError in training for one value per channel.
    """
    compute = compute_with_loops if x.device.type == HOST else compute_block
    return compute(block, reader, x, pool, training)


def compute_block(
    block: DenseBlock, reader: nn.BatchNorm2d, x: Tensor, pool: tuple[int, int] | None, training: bool
) -> Tensor:
    """Does the work of `apply_block`. `torch.compile` traces it without a break, and fuses its elementwise passes."""
    device = x.device.type
    narrow = torch.is_autocast_enabled(device) and x.dtype != torch.float64
    dtype = torch.get_autocast_dtype(device) if narrow else x.dtype
    plan = Plan([steps_of(layer) for layer in block.values()], reader, pool, dtype, block.checkpoint == "none")
    if not training:
        return infer(plan, x)
    if x.numel() == x.shape[1]:
        raise ValueError(f"a batch norm cannot train on one value per channel: {tuple(x.shape)}; take more images")
    result: Tensor = DenseBlockFunction.apply(plan, x, *plan.parameters())
    return result


compute_with_loops = _disable_dynamo(compute_block)
"""The same, which `torch.compile` leaves as it is."""


def apply_transition(block: DenseBlock, transition: Transition, x: Tensor, training: bool) -> Tensor:
    """Applies a block and the transition after it. Without dropout in between, it pools before the convolution."""
    norm, _, *rest = transition.children()
    assert isinstance(norm, nn.BatchNorm2d)
    if [type(part) for part in rest] == [nn.Conv2d, nn.AvgPool2d]:
        x = apply_block(block, norm, x, (2, 2), training)
        return rest[0](x)  # type: ignore[no-any-return]
    x = apply_block(block, norm, x, None, training)
    for part in rest:
        x = part(x)
    return x

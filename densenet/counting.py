"""The size of a network: params, and the multiply-accumulates and activations of a forward pass."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from densenet.foreign import without_weights
from densenet.options import Config
from densenet.registry import build, textbook


def count_params(config: Config) -> int:
    """Count the trainable parameters of a network, without giving it storage.

    Example:
        >>> from densenet import PRESETS
        >>> count_params(PRESETS["densenet121"])
        7978856
    """
    return sum(parameter.numel() for parameter in _without_storage(config).parameters() if parameter.requires_grad)


def count_macs(config: Config, image_size: tuple[int, int]) -> int:
    """Count the multiply-accumulates of convolutions and matrix products for one image, without storage.

    Args:
        config: of the network.
        image_size: height and width, in pixels.

    Example:
        >>> from densenet import PRESETS
        >>> count_macs(PRESETS["densenet121"], (224, 224))
        2834161664
    """
    images = torch.empty(1, getattr(config, "in_channels", 3), *image_size, device="meta")
    return macs_of(_without_storage(textbook(config)).eval(), images)


def macs_of(network: nn.Module, images: Tensor) -> int:
    """Count the multiply-accumulates of convolutions and matrix products in a forward pass."""
    return count_operations(network, images).macs


@dataclass(frozen=True)
class Operations:
    """The work of a forward pass."""

    macs: int
    """Multiply-accumulates of convolutions and matrix products, also of two activations, as in attention."""

    activations: int
    """Elements of the outputs of these operators."""

    uncounted: tuple[str, ...] = ()
    """What the counts lack: other operators that read a weight and may multiply by it, products of complex numbers, and
    weights that are no parameters."""


def count_operations(network: nn.Module, images: Tensor) -> Operations:
    """Count the MACs of convolutions and matrix products and the elements of their outputs.

    Attention is counted as the matrix products that it consists of, whatever operator computes it.
    """
    with (
        torch.no_grad(),
        plain_attention(),
        _Watcher(network) as watcher,
        FlopCounterMode(display=False, custom_mapping=_VECTOR_FLOPS) as flops,
    ):
        network(images)
    counted = flops.get_flop_counts().get("Global", {})
    return Operations(sum(map(int, counted.values())) // 2, watcher.elements, tuple(sorted(watcher.uncounted)))


@contextmanager
def plain_attention() -> Iterator[None]:
    """A context in which attention is computed by linear layers and products, and not by one operator for all."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


Shape = tuple[int, ...]


def _first_product(left: Shape, right: Shape, **_: Any) -> int:
    """Return the FLOPs of a product in which every element of `left` is used once for each column of `right`."""
    return 2 * prod(left) * (right[-1] if len(right) > 1 else 1)


def _added_product(added: Shape, left: Shape, right: Shape, **_: Any) -> int:
    return _first_product(left, right)


aten = torch.ops.aten

_VECTOR_FLOPS: dict[Any, Callable[..., int]] = {
    aten.mv: _first_product,
    aten.dot: _first_product,
    aten.vdot: _first_product,
    aten.addmv: _added_product,
    aten.addbmm: _added_product,
}
"""FLOPs of the products that torch's counter does not know, from the shapes of their inputs."""

_SUMS = (aten.sum.dim_IntList, aten.sum.default, aten.mean.dim, aten.mean.default)

_COUNTED = flop_registry.keys() | _VECTOR_FLOPS.keys()

_NO_PRODUCT = re.compile(
    r"aten::(native_|_native_|cudnn_|miopen_|_fused_rms_|_)?(batch|layer|group|rms|weight)_norm\w*"
    r"|aten::(_prelu_kernel|_?embedding\w*|index\w*|gather|take|cat|stack|_?(log_)?softmax|cumsum|sort|topk|roll|flip)"
    r"|aten::(upsample_\w+|\w+_pad\w*|repeat\w*|clone|copy\w*|_to_copy|\w+_like|new_\w+|\w*_scatter|fill\w*)"
    r"|aten::(_local_scalar_dense|equal|resize_?|detach|max|min|argmax|argmin|unique\w*|nonzero|set_|lift_fresh\w*)"
)
"""Operators that may read a weight without a matrix product: norms, activations, and those that move numbers."""


class _Watcher(TorchDispatchMode):
    """Counts the elements of the outputs of products, and finds operators that may hide a product with a weight."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0
        self.uncounted: set[str] = set()
        fixed = [*network.parameters(), *network.buffers()]
        self._weights = {storage._cdata: storage for storage in map(_storage, fixed)}
        """The storages of parameters and buffers, and of what is computed from them alone."""

        self._scaled: tuple[Tensor, set[int]] | None = None
        """The last activation that was multiplied by a weight, number by number, and the axes along which it varies."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if func.overloadpacket in _COUNTED:
            self.elements += outputs[0].numel()
            if outputs[0].is_complex():  # a complex product is three or four real ones
                self.uncounted.add(f"complex {_name(func)}")
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        weights = [tensor for tensor in inputs if _storage(tensor)._cdata in self._weights]
        if any(tensor.requires_grad and _storage(tensor)._cdata not in self._weights for tensor in inputs):
            self.uncounted.add("weights that are no parameters of the network")  # and so they are never trained
        if weights and len(weights) == len(inputs):
            self._weights |= {storage._cdata: storage for storage in map(_storage, outputs)}
        elif weights and func.overloadpacket not in _COUNTED and _may_multiply(func, inputs, outputs):
            self.uncounted.add(_name(func))
        self._follow_scaled(func, args, weights, inputs, outputs)
        return result

    def _follow_scaled(
        self, func: Any, args: Any, weights: Sequence[Tensor], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
    ) -> None:
        """Find a product in two steps: activations times a weight, number by number, and a sum over axes of both."""
        if self._scaled and func in _SUMS and inputs[0] is self._scaled[0]:
            axes = args[1] if len(args) > 1 and args[1] else range(inputs[0].dim())
            if self._scaled[1] & {axis % inputs[0].dim() for axis in axes}:
                self.uncounted.add("aten::mul")
        if weights and func in (aten.mul.Tensor, aten.mul_.Tensor):
            beyond = outputs[0].dim() - weights[0].dim()
            self._scaled = outputs[0], {beyond + axis for axis, size in enumerate(weights[0].shape) if size > 1}


def _name(func: Any) -> str:
    """Return the name of an operator without its overload, `aten::mul`."""
    return str(func.name().partition(".")[0])


def _storage(tensor: Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _may_multiply(func: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
    """Return whether an operator that reads weights and activations may be a product that is not counted."""
    if func in (aten.mul.Tensor, aten.mul_.Tensor):  # every number of one input by every number of the other
        return outputs[0].numel() > max(tensor.numel() for tensor in inputs)
    known = torch.Tag.pointwise in func.tags or torch.Tag.reduction in func.tags or func.is_view
    return not known and not _NO_PRODUCT.fullmatch(_name(func))


def _without_storage(config: Config) -> nn.Module:
    config = without_weights(config)
    try:
        with torch.device("meta"):
            return build(config)
    except (NotImplementedError, RuntimeError):  # a network that converts tensors to Python numbers needs storage
        return build(config).to("meta")

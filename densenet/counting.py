"""The size of a network: params, and the multiply-accumulates and activations of a forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

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
    """Count the multiply-accumulates of convolutions and linear layers for one image, without storage.

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
    """Count the multiply-accumulates of convolutions and linear layers that torch's dispatcher sees in a forward pass.

    Products of two activations in attention are not counted.
    """
    return count_operations(network, images)[0]


def count_operations(network: nn.Module, images: Tensor) -> tuple[int, int]:
    """Count the MACs of convolutions and linear layers, as `macs_of` does, and the elements of their outputs."""
    attention = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fast path hides linear layers in one operator
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as flops, _OutputCounter() as outputs:
            network(images)
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)
    by_operator = flops.get_flop_counts().get("Global", {})
    return sum(int(by_operator.get(operator, 0)) for operator in _COUNTED) // 2, outputs.elements


_COUNTED = (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)


class _OutputCounter(TorchDispatchMode):
    """Counts the elements of the outputs of convolutions and linear layers."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func.overloadpacket in _COUNTED:
            self.elements += result.numel()
        return result


def _without_storage(config: Config) -> nn.Module:
    try:
        with torch.device("meta"):
            return build(config)
    except (NotImplementedError, RuntimeError):  # a network that converts tensors to Python numbers needs storage
        return build(config).to("meta")

"""Params, MACs and activations of a network."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ablations.config import CostConfig
from densenet import ForeignConfig, build, count_operations, textbook


@dataclass(frozen=True)
class Counts:
    """The size of a network, and the work of a forward pass for one image."""

    params: int
    """Trainable parameters."""

    params_total: int
    params_per_stage: dict[str, int]
    macs: int
    """Multiply-accumulates of convolutions and linear layers."""

    flops: int
    """Twice the MACs."""

    activations: int
    """Elements of the outputs of convolutions and linear layers."""

    counters_agree: bool | None = None
    """Whether fvcore counts the same MACs; None if fvcore was not used."""

    fvcore_macs: int | None = None
    fvcore_total: int | None = None
    """The count of fvcore with all operators that it knows, including norms and pools."""

    fvcore_uncounted: tuple[str, ...] | None = None
    """Operators that fvcore does not know."""


def count(cost: CostConfig) -> dict[str, Any]:
    """Returns the `Counts` for one image in eval mode, on the textbook implementation.

    For networks written elsewhere, fvcore counts too, and a difference is recorded: then one of the counters does not
    recognise all convolutions and linear layers. For our own networks, tests compare the two counters.
    """
    network = build(textbook(cost.model)).eval()
    images = torch.zeros(1, int(getattr(cost.model, "in_channels", 3)), *cost.image_size)
    macs, activations = count_operations(network, images)
    second = count_again(network, images, macs) if isinstance(cost.model, ForeignConfig) else {}
    counts = Counts(
        params=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
        params_total=sum(parameter.numel() for parameter in network.parameters()),
        params_per_stage=_params_per_stage(network),
        macs=macs,
        flops=2 * macs,
        activations=activations,
        **second,
    )
    return known_values(counts)


def count_again(network: nn.Module, images: Tensor, macs: int) -> dict[str, Any]:
    """Returns the counts of fvcore, as fields of `Counts`."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # fvcore's import warns about torch.jit, and its tracer about fixed shapes
        from fvcore.nn import FlopCountAnalysis

        traced = FlopCountAnalysis(network, images)
        traced.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        by_operator = traced.by_operator()
    found = int(by_operator["conv"] + by_operator["linear"])
    return {
        "counters_agree": macs == found,
        "fvcore_macs": found,
        "fvcore_total": int(sum(by_operator.values())),
        "fvcore_uncounted": tuple(sorted(traced.unsupported_ops())),
    }


def known_values(measured: Any) -> dict[str, Any]:
    """Returns the fields of a dataclass that are not None, as a record holds them."""
    return {name: value for name, value in asdict(measured).items() if value is not None}


def _params_per_stage(network: nn.Module) -> dict[str, int]:
    """Returns the number of trainable parameters of each part of the network that has any.

    The parts of `features` are separate.
    """
    stages: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        parts = name.split(".")
        stages[".".join(parts[: 2 if parts[0] == "features" else 1])] += parameter.numel() * parameter.requires_grad
    return dict(stages)

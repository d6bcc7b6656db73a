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
    """How large a network is, and what a forward pass of one image takes."""

    params: int
    """Trainable parameters."""

    params_total: int
    params_per_stage: dict[str, int]
    macs: int
    """Multiply-accumulates of convolutions and linear layers."""

    flops: int
    """Twice the MACs."""

    activations: int
    """Elements that convolutions and linear layers put out."""

    counters_agree: bool | None = None
    """Whether fvcore counts the same MACs; None where it was not asked."""

    fvcore_macs: int | None = None
    fvcore_total: int | None = None
    """What fvcore counts with all operators that it knows, norms and pools too."""

    fvcore_uncounted: tuple[str, ...] | None = None
    """Operators that fvcore does not know."""


def count(cost: CostConfig) -> dict[str, Any]:
    """The `Counts` of one image in eval mode, as the textbook computes it.

    fvcore is asked as a second counter for networks written elsewhere, and a disagreement is recorded: one of both does
    not know how the network writes a convolution or a linear layer. For our own networks tests compare the two.
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
    """What fvcore counts, as fields of `Counts`."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # its import touches torch.jit, and its tracer has notes on fixed shapes
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
    """The fields of a dataclass that have a value, as they stand in a record."""
    return {name: value for name, value in asdict(measured).items() if value is not None}


def _params_per_stage(network: nn.Module) -> dict[str, int]:
    """Trainable parameters of each part of the network that has any; what `features` holds is told apart."""
    stages: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        parts = name.split(".")
        stages[".".join(parts[: 2 if parts[0] == "features" else 1])] += parameter.numel() * parameter.requires_grad
    return dict(stages)

"""Params, MACs and activations of a network, counted twice."""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

import torch
from torch import nn

from ablations.config import CostConfig
from densenet import ForeignConfig, build, macs_of, textbook

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # fvcore's import touches torch.jit
    from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis


class CountersDisagree(ArithmeticError):
    """Two counters of the same thing gave two numbers."""


def counted(cost: CostConfig) -> dict[str, Any]:
    """Params, MACs and activations of one image in eval mode, as the textbook computes it.

    Two counters must agree on our own networks: raises CountersDisagree. Of others a disagreement is recorded, for
    fvcore may not know how they write a convolution or a linear layer.
    """
    network = build(textbook(cost.model)).eval()
    images = torch.zeros(1, int(getattr(cost.model, "in_channels", 3)), *cost.image_size)
    macs = macs_of(network, images)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the tracer's notes on fixed shapes
        traced = FlopCountAnalysis(network, images)
        traced.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        by_operator = traced.by_operator()
        activations = ActivationCountAnalysis(network, images)
        activations.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        elements = activations.by_operator()
    traced_macs = int(by_operator["conv"] + by_operator["linear"])
    if macs != traced_macs and not isinstance(cost.model, ForeignConfig):
        raise CountersDisagree(f"torch's flop counter finds {macs} MACs, fvcore {traced_macs}")
    return {
        "params": sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
        "params_total": sum(parameter.numel() for parameter in network.parameters()),
        "params_per_stage": _params_per_stage(network),
        "macs": macs,
        "flops": 2 * macs,
        "activations": int(elements["conv"] + elements["linear"]),
        "counters_agree": macs == traced_macs,
        "fvcore_macs": traced_macs,
        "fvcore_total": int(sum(by_operator.values())),
        "fvcore_uncounted": sorted(traced.unsupported_ops()),
    }


def _params_per_stage(network: nn.Module) -> dict[str, int]:
    """Trainable parameters of each part of the network that has any; what `features` holds is told apart."""
    stages: Counter[str] = Counter()
    for name, parameter in network.named_parameters():
        parts = name.split(".")
        stages[".".join(parts[: 2 if parts[0] == "features" else 1])] += parameter.numel() * parameter.requires_grad
    return dict(stages)

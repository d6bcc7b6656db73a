"""Params, MACs and activations of a network."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from ablations.config import CostConfig
from ablations.grid.probing import check_own_network
from densenet import ForeignConfig, build, count_operations, textbook
from densenet.counting import plain_attention


@dataclass(frozen=True)
class Counts:
    """The size of a network, and the work of a forward pass for one image."""

    params: int
    """Trainable parameters."""

    params_total: int
    params_per_stage: dict[str, int]
    macs: int
    """Multiply-accumulates of convolutions and matrix products."""

    flops: int
    """Twice the MACs."""

    activations: int
    """Elements of the outputs of convolutions and matrix products."""

    uncounted: tuple[str, ...] | None = None
    """Operators that read a weight and may multiply by it, but are not counted; None if there are none."""

    counters_agree: bool | None = None
    """Whether fvcore counts the same MACs, and nothing is uncounted; None if fvcore was not used or does not know all
    products."""

    fvcore_macs: int | None = None
    fvcore_total: int | None = None
    """The count of fvcore with all operators that it knows, including norms and pools."""

    fvcore_uncounted: tuple[str, ...] | None = None
    """Operators that fvcore does not know."""

    fvcore_failed: str | None = None
    """The reason why fvcore could not count."""


def count(cost: CostConfig) -> dict[str, Any]:
    """Returns the `Counts` for one image in eval mode, on the textbook implementation.

    For networks written elsewhere, fvcore counts too. A difference is recorded, and so is an operator that may hide a
    product with a weight. For our own networks, tests compare the two counters. Raises ValueError for a user's network
    that `check_own_network` refuses.
    """
    check_own_network(cost.model, cost.image_size, cost.train.loss)
    network = build(textbook(cost.model)).eval()
    images = torch.zeros(1, int(getattr(cost.model, "in_channels", 3)), *cost.image_size)
    found = count_operations(network, images)
    second = count_again(network, images, found.macs) if isinstance(cost.model, ForeignConfig) else {}
    if found.uncounted:
        second |= {"uncounted": found.uncounted, "counters_agree": False}
    counts = Counts(
        params=sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad),
        params_total=sum(parameter.numel() for parameter in network.parameters()),
        params_per_stage=_params_per_stage(network),
        macs=found.macs,
        flops=2 * found.macs,
        activations=found.activations,
        **second,
    )
    return known_values(counts)


def count_again(network: nn.Module, images: Tensor, macs: int) -> dict[str, Any]:
    """Returns the counts of fvcore, as fields of `Counts`; the reason alone if fvcore cannot trace the network."""
    with warnings.catch_warnings(), torch.no_grad(), plain_attention():
        warnings.simplefilter("ignore")  # fvcore's import warns about torch.jit, and its tracer about fixed shapes
        from fvcore.nn import FlopCountAnalysis

        traced = FlopCountAnalysis(network, images).set_op_handle(**_HANDLES)
        traced.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        try:
            by_operator = traced.by_operator()
        except Exception as error:  # the tracer refuses much that trains well
            return {"fvcore_failed": f"{type(error).__name__}: {error}".partition("\n")[0]}
    found, unknown = int(sum(by_operator[name] for name in _PRODUCTS)), tuple(sorted(traced.unsupported_ops()))
    return {
        "counters_agree": None if set(unknown) & _UNKNOWN_PRODUCTS else macs == found,
        "fvcore_macs": found,
        "fvcore_total": int(sum(by_operator.values())),
        "fvcore_uncounted": unknown,
    }


_PRODUCTS = (
    "conv", "linear", "addmm", "mm", "matmul", "bmm", "baddbmm", "einsum", "mv", "dot", "scaled_dot_product_attention",
)  # fmt: skip
"""Operators of fvcore that are convolutions or matrix products."""

_UNKNOWN_PRODUCTS = {
    f"aten::{name}"
    for name in ("addbmm", "addmv", "bilinear", "chain_matmul", "gru", "inner", "linalg_multi_dot", "lstm",
                 "lstm_cell", "gru_cell", "rnn_relu", "rnn_tanh", "tensordot", "vdot")
}  # fmt: skip
"""Products that fvcore does not know: its count is then no check of ours."""


def _shapes(values: Sequence[Any]) -> list[list[int]]:
    """Returns the shapes of traced tensors. Raises ValueError for a shape that was not traced."""
    found = [value.type().sizes() for value in values]
    if None in found:
        raise ValueError("a shape was not traced")
    return found


def _count_batched(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    _, left, right = _shapes(inputs[:3])
    return prod(left) * right[-1]


def _count_product(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Counts a product of two tensors of any number of dimensions."""
    (left, _), (result,) = _shapes(inputs[:2]), _shapes(outputs)
    return prod(result) * left[-1]


def _count_attention(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    query, key, value = _shapes(inputs[:3])
    return prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _count_einsum(inputs: Sequence[Any], outputs: Sequence[Any]) -> int:
    """Counts a product of two tensors: the sizes of all its indices, multiplied; 0 if it has no sum."""
    terms, _, result = inputs[0].toIValue().replace(" ", "").partition("->")
    parts, shapes = terms.split(","), _shapes(list(inputs[1].node().inputs()))
    if len(parts) != 2 or "." in terms:
        raise ValueError("einsum of other than two tensors, or with an ellipsis")
    sizes: dict[str, int] = {}
    for part, shape in zip(parts, shapes, strict=True):
        sizes |= zip(part, shape, strict=True)
    return 0 if set(result) == sizes.keys() else prod(sizes.values())


_HANDLES: dict[str, Callable[[Sequence[Any], Sequence[Any]], int]] = {
    "aten::baddbmm": _count_batched,
    "aten::matmul": _count_product,
    "aten::mv": _count_product,
    "aten::dot": _count_product,
    "aten::einsum": _count_einsum,
    "aten::scaled_dot_product_attention": _count_attention,
}
"""The products that fvcore does not know, or only for some shapes, or only to four digits."""


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

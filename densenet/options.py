"""Named choices, the base of every configuration, and the one lookup whose error suggests the right name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict

LayerOrder = Literal[
    "norm-act-conv", "conv-norm-act", "conv-act-norm", "norm-conv-act", "act-conv-norm", "act-norm-conv"
]
"""The six permutations of a layer's parts; the first is DenseNet's (Huang et al. 2017, section 3)."""

Checkpoint = Literal["none", "bottleneck", "layer", "block"]
"""What the backward pass recomputes instead of keeping: nothing, the concatenation and the first convolution of every
layer (torchvision's `memory_efficient`), whole layers, or whole blocks."""

Stem = Literal["cifar", "imagenet"]
"""The first convolution: 3x3 at full resolution, or 7x7 with stride 2 followed by a max pool of stride 2."""

T = TypeVar("T")


class Config(BaseModel):
    """Base of every configuration: immutable, no unknown keys, no silent conversions, no NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def suggestion(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'growth_rate'?"` where a known name is near, else nothing."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def lookup(kind: str, name: str, entries: Mapping[str, T]) -> T:
    """The entry of that name. Raises ValueError naming what is allowed, and the nearest right name."""
    if name in entries:
        return entries[name]
    allowed = ", ".join(repr(entry) for entry in entries)
    raise ValueError(f"unknown {kind} {name!r}: allowed are {allowed}{suggestion(name, entries)}")

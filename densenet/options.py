"""Types of named choices, the base class of all configurations, and a lookup whose error suggests the right name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationInfo, WithJsonSchema, field_validator
from torch import nn

from densenet.norms import group_norm

LayerOrder = Literal[
    "norm-act-conv", "conv-norm-act", "conv-act-norm", "norm-conv-act", "act-conv-norm", "act-norm-conv"
]
"""The six permutations of a layer's parts; the first is DenseNet's (Huang et al. 2017, section 3)."""

Connectivity = Literal["concat", "sum", "none"]
"""How a layer's output joins the features before it: appended (DenseNet), added (ResNet), or in their place."""

Checkpoint = Literal["none", "bottleneck", "layer", "block"]
"""What the backward pass recomputes instead of keeping: nothing, the concatenation and the first convolution of every
layer (torchvision's `memory_efficient`), whole layers, or whole blocks."""

DropoutPlace = Literal["layer", "convolution"]
"""After the last convolution of every layer (torchvision), or after every convolution but the first (the paper)."""

Stem = Literal["cifar", "imagenet"]
"""The first convolution: 3x3 at full resolution, or 7x7 with stride 2 followed by a max pool of stride 2."""

Init = Literal["fan-in", "fan-out"]
"""He's normal distribution (He et al. 2015, equation 10 or 14): the variance of a convolution's weights is 2 divided by
the number of connections into an output (fan-in), or out of an input (fan-out)."""

Implementation = Literal["textbook", "normalize-once"]
"""How the same function is computed: as the equations stand, or faster, with every feature normalised once."""

T = TypeVar("T")


class Config(BaseModel):
    """The base class of all configurations: immutable, no unknown keys, no silent conversions, no NaN."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _is_exact(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuses a whole number for a real field if a real number cannot hold it."""
        real = info.field_name is not None and cls.model_fields[info.field_name].annotation is float
        if real and isinstance(value, int) and abs(value) > 2**53 and int(float(value)) != value:
            raise ValueError(f"this field takes a real number, and the nearest one is {int(float(value))}")
        return value


def suggestion(name: str, known: Iterable[str]) -> str:
    """Returns `"; did you mean 'growth_rate'?"` if a known name is similar, else an empty string."""
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def suggest_colon(name: str) -> str:
    """Returns `"; a part of your own is written 'mine:Net'"` for the name `mine.Net`, else an empty string."""
    module, dot, part = name.rpartition(".")
    written = f"{module}:{part}"
    return f"; a part of your own is written {written!r}" if dot and ":" not in name else ""


def lookup(kind: str, name: str, entries: Mapping[str, T], hint: str = "") -> T:
    """Returns the entry with this name.

    Raises ValueError that lists the allowed names and suggests the nearest one, with a hint behind them.
    """
    if name in entries:
        return entries[name]
    allowed = ", ".join(repr(entry) for entry in entries)
    raise ValueError(f"unknown {kind} {name!r}: allowed are {allowed}{suggestion(name, entries)}{hint}")


def one_of(kind: str, entries: Mapping[str, object]) -> AfterValidator:
    """Returns a validator that accepts the names of a registry."""

    def check(name: str) -> str:
        lookup(kind, name, entries)
        return name

    return AfterValidator(check)


def initialise(module: nn.Module, init: Init) -> None:
    """Draws the weights of a convolution (He et al.

    2015), and sets the biases of convolutions and linear layers to 0.
    """
    if isinstance(module, nn.Conv2d) and not module.weight.is_meta:  # without storage it has no values
        nn.init.kaiming_normal_(module.weight, mode="fan_in" if init == "fan-in" else "fan_out", nonlinearity="relu")
    if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


NORMS: dict[str, Callable[[int, int], nn.Module] | None] = {
    "batch": lambda channels, _: nn.BatchNorm2d(channels),
    "group": group_norm,
    "none": None,
}
"""Norms: name -> (channels, groups) -> module, `(N, C, H, W) -> (N, C, H, W)`."""

ACTIVATIONS: dict[str, Callable[[bool], nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": lambda inplace: nn.LeakyReLU(inplace=inplace),
    "elu": lambda inplace: nn.ELU(inplace=inplace),
    "gelu": lambda _: nn.GELU(),
    "silu": lambda _: nn.SiLU(),
    "tanh": lambda _: nn.Tanh(),
}
"""Activations: name -> (may overwrite its input) -> module. Only those may whose derivative follows from the output."""

Norm = Annotated[str, one_of("norm", NORMS), WithJsonSchema({"enum": [*NORMS]})]
Activation = Annotated[str, one_of("activation", ACTIVATIONS), WithJsonSchema({"enum": [*ACTIVATIONS]})]

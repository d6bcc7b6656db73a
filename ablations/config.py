"""What a run and a cost are made from, and the identity that names them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from ablations.records import canonical
from densenet import Config

PROTOCOL = 2
"""Raised by hand whenever the same configuration would give other results than before."""


class DataConfig(Config):
    """The images: which, from where, how many."""

    name: str = "digits"
    """A key of `ablations.data.DATASETS`."""

    root: str = ""
    """The folder that holds the files, for data sets that need one. Not part of the identity: the checksum is."""

    train_limit: int = Field(default=0, ge=0)
    """Train on that many images only, balanced over the classes; 0 = all."""

    subset_seed: int = Field(default=0, ge=0, lt=2**63)
    """Which images `train_limit` takes; the same ones for every seed of a run."""

    shape: Annotated[tuple[Annotated[int, Field(gt=0, le=100_000)], ...], Field(strict=False, max_length=3)] = ()
    """Of `random` images alone: channels, height and width."""

    classes: int = Field(default=0, ge=0, le=1_000_000)
    """Of `random` images alone: how many classes they pretend to have."""

    size: int = Field(default=0, ge=0, le=10_000_000)
    """Of `random` images alone: how many there are to train on, and as many to test on."""

    @model_validator(mode="after")
    def _only_random_images_are_described(self) -> DataConfig:
        given = [name for name in ("shape", "classes", "size") if getattr(self, name)]
        if given and self.name != "random":
            raise ValueError(f"{', '.join(given)}: only random images are described so; leave it out")
        return self


class TrainConfig(Config):
    """SGD with Nesterov momentum, as in the DenseNet paper's section 4.2; fewer epochs by default."""

    epochs: int = Field(default=40, gt=0, le=1_000_000)
    """Passes over the training images; the paper takes 300 on CIFAR and 40 on SVHN."""

    batch_size: int = Field(default=64, gt=0, le=1_000_000)
    """Images a step; the last, incomplete batch of an epoch is kept."""

    learning_rate: float = Field(default=0.1, gt=0)
    """The highest rate of the schedule."""

    momentum: float = Field(default=0.9, gt=0, lt=1)
    """Nesterov momentum, without dampening."""

    weight_decay: float = Field(default=1e-4, ge=0)
    """L2 penalty on every parameter, norms and biases included, as in the paper."""

    schedule: Literal["step", "cosine"] = "step"
    """step: divided by 10 at 50 % and 75 % of all steps, as in the paper; cosine: half a cosine down to 0."""

    warmup_epochs: float = Field(default=0.0, ge=0)
    """The rate rises linearly over this many epochs before the schedule's own course; below `epochs`."""


@dataclass(frozen=True)
class Variant:
    """A full configuration without its seed."""

    model: Config
    data: DataConfig
    train: TrainConfig


@dataclass(frozen=True)
class RunConfig:
    """One training: a variant and a seed."""

    variant: Variant
    seed: int


@dataclass(frozen=True)
class CostConfig:
    """What the cost of a variant depends on; not on how long it is trained, nor on a seed."""

    model: Config
    image_size: tuple[int, int]
    """Height and width, in pixels."""

    batch_size: int
    """Images a step, in training and in inference."""


def resolved(config: Config) -> dict[str, Any]:
    """The fields that differ from their defaults, so that a new field changes no old identity; `family` always."""
    fields = config.model_dump(mode="json", exclude_defaults=True, exclude={"root"})
    family = getattr(config, "family", None)
    return fields if family is None else {"family": family, **fields}


def identity(value: Any) -> str:
    """Sixteen hexadecimal digits that name a value and the protocol."""
    return hashlib.sha256(canonical({"protocol": PROTOCOL, "value": value})).hexdigest()[:16]


def variant_fields(variant: Variant, checksum: str) -> dict[str, Any]:
    """A variant as it is hashed and recorded; the data's checksum stands for where the data lay."""
    return {
        "model": resolved(variant.model),
        "data": {"name": variant.data.name, **resolved(variant.data), "checksum": checksum},
        "train": resolved(variant.train),
    }


def cost_fields(cost: CostConfig) -> dict[str, Any]:
    """A cost's configuration as it is hashed and recorded."""
    return {
        "model": resolved(cost.model),
        "image_size": list(cost.image_size),
        "batch_size": cost.batch_size,
    }

"""Parts of a training that are written elsewhere: what each is called with, and what it must give.

A data set, an augmentation, a loss, an optimizer and a schedule may be `package.module:name`, where a grid may have a
name of this suite. The code of the module, and of every module of the user's that it imports, is part of the identity
of each run.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema
from torch import Tensor

from densenet_ablations import check_names

check_names()

from densenet import PART, fingerprint_modules, load_part  # noqa: E402
from densenet.options import suggest_colon  # noqa: E402


@dataclass(frozen=True)
class OneOf:
    """Describes a field that is one of these names, or `package.module:name` of a part that is written elsewhere."""

    names: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        names = core_schema.literal_schema(list(self.names))
        return core_schema.no_info_wrap_validator_function(self._check, names)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"enum": list(self.names)}, {"type": "string", "pattern": PART}]}

    def _check(self, value: Any, validate: Callable[[Any], Any]) -> Any:
        """Returns a name that is known, or of a part that can be imported. Raises ValueError."""
        hint = suggest_colon(value) if isinstance(value, str) else ""
        if hint:
            raise ValueError(f"should be {' or '.join(map(repr, self.names))}{hint}")
        if not is_own(value):
            return validate(value)
        find_part(value)
        return value


def is_own(name: Any) -> bool:
    """Returns whether a name is that of a part that is written elsewhere."""
    return isinstance(name, str) and ":" in name


def find_part(name: str) -> Callable[..., Any]:
    """Imports a part. Raises ValueError if there is none of this name, or if it is neither a function nor a class."""
    part = load_part(name)
    if not callable(part):
        raise ValueError(f"{name} is a {type(part).__name__}; a function or a class is needed")
    found: Callable[..., Any] = part
    return found


def fingerprint_parts(*names: str) -> dict[str, str]:
    """Returns a fingerprint of each module that these parts come from, without those that are no parts.

    Comments, docstrings and white space do not change it. For an installed package it is the version.
    """
    found: dict[str, str] = {}
    for name in filter(is_own, names):
        modules = fingerprint_modules(find_part(name), name.partition(":")[0])
        found |= {module: prints[-1] for module, prints in modules.items()}
    return dict(sorted(found.items()))


def change_images(name: str, images: Tensor, seed: int) -> Tensor:
    """Varies a batch by an augmentation, uint8 `(N, C, H, W)` -> uint8 `(N, C, H, W)`. Raises TypeError."""
    changed = find_part(name)(images, torch.Generator(images.device).manual_seed(seed))
    if not isinstance(changed, Tensor) or (changed.shape, changed.dtype) != (images.shape, images.dtype):
        needed = f"{images.dtype} {tuple(images.shape)}"
        raise TypeError(f"an augmentation gives images as it gets them, {needed}; {name} gave {_describe(changed)}")
    return changed


def compute_own_loss(name: str, scores: Tensor, labels: Tensor) -> Tensor:
    """Returns a loss, `(N, classes)`, and classes `(N,)` or shares `(N, classes)` -> `()`. Raises TypeError."""
    loss = find_part(name)(scores, labels)
    if not isinstance(loss, Tensor) or loss.dim():
        raise TypeError(f"a loss is a tensor with one number, (); {name} gave {_describe(loss)}")
    return loss


def make_own_optimizer(
    name: str, groups: list[dict[str, Any]], learning_rate: float, momentum: float
) -> torch.optim.Optimizer:
    """Makes an optimizer of groups of parameters. Its class gets `momentum` if it has such an argument.

    Raises TypeError if it gives no optimizer.
    """
    part = find_part(name)
    more = {"momentum": momentum} if "momentum" in inspect.signature(part).parameters else {}
    optimizer = part(groups, lr=learning_rate, **more)
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"{name} gave {_describe(optimizer)}; a torch.optim.Optimizer is needed")
    return optimizer


def find_factor(name: str, step: int, steps: int) -> float:
    """Returns the factor of the learning rate at a step, counted from 0. Raises TypeError if it is no number from 0."""
    factor = find_part(name)(step, steps)
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 <= factor < math.inf:
        raise TypeError(f"a schedule gives a number from 0 on; {name} gave {factor!r} at step {step} of {steps}")
    return float(factor)


def _describe(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"

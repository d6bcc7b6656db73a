"""A field solved so that a count comes nearest to a target."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache

from pydantic import ValidationError

from densenet import Config, count_params

MATCHABLE = ("width", "growth_rate", "init_features")
"""Fields whose growth never lowers the count of parameters or of multiply-accumulates."""


UNREACHABLE = 25
"""Percent off its target beyond which a match is none."""


def nearest(
    model: Config, key: str, target: int, count_of: Callable[[Config], int] = count_params
) -> tuple[Config, int]:
    """The model whose count comes nearest to `target` when the field `key` is varied, and that count.

    The count must not fall as the field grows. Of a real field the shortest decimal that gives the count is taken.
    """
    real = isinstance(getattr(model, key), float)

    def at(value: float) -> Config | None:
        try:
            return type(model).model_validate({**model.model_dump(), key: value if real else int(value)})
        except ValidationError:
            return None

    @cache
    def count(value: float) -> float:
        config = at(value)
        return math.inf if config is None else count_of(config)

    low: float = 1e-3 if real else 1
    high = low
    while count(high) < target:
        low, high = high, 2 * high
    while high - low > (1e-5 * high if real else 1):  # widths are rounded: counts step at distances above 0.007
        middle = (low + high) / 2 if real else (low + high) // 2
        low, high = (middle, high) if count(middle) <= target else (low, middle)
    value = min((low, high), key=lambda candidate: abs(count(candidate) - target))
    if real:
        value = next(short for places in range(1, 16) if count(short := round(value, places)) == count(value))
    config = at(value)
    return (model, count_of(model)) if config is None else (config, int(count(value)))

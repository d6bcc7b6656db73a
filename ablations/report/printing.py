"""Numbers as they are printed: with the digits that they are known to, and never so short that they mislead."""

from __future__ import annotations

import itertools
import math

from ablations.metrics import METRICS, choose_places, count_places, format_signed
from ablations.report.comparison import decide
from ablations.report.statistics import SIGNIFICANCE

MOST_PLACES = 9


def print_accuracy(mean: float, sd: float, images: int) -> tuple[str, str]:
    """Returns a mean accuracy and its standard deviation, with two digits of the deviation.

    There are more digits where fewer would print 100 or a deviation of 0 that is not exact. The deviation is empty if
    it is NaN.
    """
    places = choose_places(sd, count_places(images))
    while places < MOST_PLACES and (_hides(mean, 100, places) or _hides(sd, 0, places)):
        places += 1
    return f"{mean:.{places}f}", "" if math.isnan(sd) else f"{sd:.{places}f}"


def _hides(value: float, limit: float, places: int) -> bool:
    """Returns whether a value would be printed as the limit, although it differs by more than a rounding error."""
    return abs(value - limit) > 1e-9 and round(value, places) == limit


def print_change(
    value: float, low: float, high: float, images: int, margin: float | None = None
) -> tuple[str, str, str]:
    """Returns a change in points and the ends of its interval, with two digits of the interval.

    There are more digits where the printed interval would give another verdict.
    """
    places = choose_places(min(high - value, value - low), count_places(images))  # lost runs widen one side alone
    if not math.isnan(low):
        verdict = decide(low, high, margin)
        places = next(
            number
            for number in itertools.count(places)
            if number == MOST_PLACES or decide(round(low, number), round(high, number), margin) == verdict
        )
    text, start, end = (format_signed(number, places) for number in (value, low, high))
    return text, start, end


def print_p(p: float) -> str:
    """Returns a p-value with two digits, or more where fewer would print another verdict."""
    digits = next(number for number in range(2, 17) if (float(f"{p:.{number}g}") < SIGNIFICANCE) == (p < SIGNIFICANCE))
    return f"{p:.{digits}g}"


def print_kappa(kappa: float) -> str:
    """Returns an error consistency with three decimals."""
    return f"{round(kappa, 3) + 0.0:.3f}"


def print_shared(value: float, low: float, high: float) -> tuple[str, str, str]:
    """Returns shared errors and the ends of their interval, with three decimals.

    There are more where the printed interval would tell otherwise whether it contains 1.
    """
    inside = (low <= 1, high >= 1)
    places = next(
        number
        for number in range(3, MOST_PLACES + 1)
        if number == MOST_PLACES or (round(low, number) <= 1, round(high, number) >= 1) == inside
    )
    text, start, end = (f"{round(number, places) + 0.0:.{places}f}" for number in (value, low, high))
    return text, start, end


def print_percent(key: str, change: float) -> str:
    """Returns a cost's change in %, without decimals for measures of time, because they repeat only to some percent."""
    return format_signed(100 * change, 0 if METRICS[key].timed else 1)

"""The levels that a figure shows, with their colours and names."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ablations.report.plotting.looks import HUES, INK, LIGHT
from ablations.report.plotting.style import DASHES, shorten_apart


def choose_levels(numbers: pd.DataFrame, most: int) -> pd.DataFrame:
    """Returns all levels, or the base and the levels with the highest mean accuracy, in the order of the grid."""
    best = numbers.sort_values(["is_base", "mean"], ascending=False, kind="stable").index[:most]
    return numbers.loc[sorted(best)]


def say_left_out(numbers: pd.DataFrame, shown: pd.DataFrame) -> str:
    """Returns a sentence for the small print on the levels that `choose_levels` left out."""
    rest = numbers.drop(shown.index)
    if rest.empty:
        return ""
    bad = int((rest.not_done != "").sum())
    return (
        f"Shown are the base and the {len(shown) - 1} most accurate of the other {len(numbers) - 1} levels; the table "
        f"has all{f' ({bad} of those not shown have runs that are not done)' if bad else ''}."
    )


def colour_levels(numbers: pd.DataFrame) -> pd.DataFrame:
    """Adds the colour and dashes that each level has in every figure of its study, and whether no other level has them.

    The base is black and solid, so that it stays visible below lines that coincide with it. If there are more levels
    than colours, the most accurate levels have colours, and the others are grey.
    """
    distinct = choose_levels(numbers, 1 + len(HUES))
    hues = dict(zip(distinct.level[~distinct.is_base], HUES, strict=False))
    dashes = dict(zip(hues, DASHES, strict=False))
    return numbers.assign(
        distinct=numbers.index.isin(distinct.index),
        colour=[INK if row.is_base else hues.get(row.level, LIGHT) for row in numbers.itertuples()],
        dashes=[dashes.get(level, ()) for level in numbers.level],
    )


def list_names(names: Sequence[str], most: int = 6) -> str:
    """Returns the first names, each shortened if it is too long, and the number of other names."""
    return "; ".join(shorten_apart(names)[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def name_axis(axis: str) -> str:
    """Returns a field without its section: `growth_rate`."""
    return axis.partition(".")[2]

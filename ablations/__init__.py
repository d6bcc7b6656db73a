"""The suite: a grid of variants is trained and measured, and ends in tables and figures.

What is imported from here is loaded when it is used: the commands start at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablations.report.frames import Frames

__all__ = ["load", "load_model"]


def load(folder: str | Path) -> Frames:
    """The tidy data frames of a results folder, as `ablations.report.frames.Frames` tells.

    Raises NotResults where it is none.
    """
    from ablations.report.frames import load

    return load(folder)


def load_model(path: str | Path, own_code: bool = False) -> Any:
    """The trained network of a run with `train.keep_weights`, in eval mode.

    `own_code` allows classes outside this package to be imported. Raises NotWeights for any other file.
    """
    from ablations.training.weights import load_model

    return load_model(path, own_code)

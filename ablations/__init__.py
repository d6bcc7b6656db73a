"""The suite: a grid of variants is trained and measured, and ends in tables and figures.

The functions here import what they need when they are called, so that commands start without delay.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablations.report.frames import Frames

__all__ = ["load", "load_model"]


def load(folder: str | Path) -> Frames:
    """Read a results folder as tidy data frames.

    Args:
        folder: the results folder of `ablate run`.

    Returns:
        Frames with a row per run, cost, epoch, variant and level, joined by the column `variant`.

    Raises:
        NotResults: the folder holds no results, or a damaged plan.

    Example:
        >>> frames = load("results/digits-cpu")
        >>> frames.runs.groupby("model.growth_rate").test_accuracy.mean()  # doctest: +SKIP
    """
    from ablations.report.frames import load

    return load(folder)


def load_model(path: str | Path, own_code: bool = False) -> Any:
    """Read the trained network of a run with `train.keep_weights`.

    Args:
        path: a file of the folder `weights/` of a results folder.
        own_code: whether a class outside this package may be imported. Otherwise a file from elsewhere cannot choose
            the code that runs.

    Returns:
        The network in eval mode, `(N, C, H, W) -> (N, num_classes)`.

    Raises:
        NotWeights: the file was not written by `ablate run`, or needs `own_code`.

    Example:
        >>> network = load_model("results/mine/weights/0123456789abcdef.safetensors")  # doctest: +SKIP
    """
    from ablations.training.weights import load_model

    return load_model(path, own_code)

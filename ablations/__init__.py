"""The suite: a grid of variants is trained and measured, and ends in tables and figures."""

from pathlib import Path
from typing import Any

from ablations.tidy import Frames, load

__all__ = ["Frames", "load", "load_model"]


def load_model(path: str | Path, own_code: bool = False) -> Any:
    """The trained network of a run with `train.keep_weights`, in eval mode.

    `own_code` allows classes outside this package to be imported. Raises NotWeights for any other file.
    """
    from ablations.weights import load_model

    return load_model(path, own_code)

"""The suite: a grid of variants is trained and measured, and ends in tables and figures."""

from ablations.tidy import Frames, load

__all__ = ["Frames", "load"]

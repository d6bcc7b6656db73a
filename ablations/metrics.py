"""What is measured. The one place that says what a measure is called, how it is printed and where it is shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Group = Literal["accuracy", "counts", "memory", "throughput", "latency"]
"""Measures that belong together: a panel of a table in LaTeX holds one group."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measure: what it is called, how it is printed, and where it is shown."""

    label: str
    """Head of a column, start of an axis label."""

    unit: str = ""
    """Unit of the printed number; empty for a plain count."""

    meaning: str
    """One line for a reader."""

    scale: float = 1.0
    """Printed number = recorded number / scale."""

    format: Callable[[float], str]
    """The scaled number as text."""

    better: Literal["higher", "lower"]
    of: Literal["run", "cost"] = "cost"
    """Measured once a run, or once a variant and device."""

    group: Group
    spread: str = ""
    """The field of a record that holds the relative interquartile range of this measure of time."""

    disturbed: str = ""
    """The field of a record that says what speaks against this measure of time; empty where nothing does."""

    phrase: str = ""
    """What it is called within a sentence; where none is given, no sentence names it."""

    compared: bool = False
    """Whether its change against the base is shown, so that a gain is not read without its price."""

    planned: bool = False
    """Whether a plan shows its change against the base."""

    brief: bool = False
    """Whether it is in the short table of a terminal and a README."""

    panel: bool = False
    """Whether it has a panel of its own beside the accuracy in figures."""

    matched: bool = False
    """Whether a match may solve for it."""

    @property
    def timed(self) -> bool:
        """Whether it is a measure of time, which repeats to some percent; counts and bytes repeat exactly."""
        return bool(self.spread)

    @property
    def head(self) -> str:
        """Label and unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def show(self, value: float) -> str:
        """A recorded number as printed, without its unit."""
        return self.format(value / self.scale)


def level_text(value: object) -> str:
    """A level's value as it is read: `12`, `true`, `8-16-32`."""
    if isinstance(value, bool):
        return str(value).lower()
    return "-".join(map(level_text, value)) if isinstance(value, list | tuple) else str(value)


def choose_places(spread: float) -> int:
    """Decimals that a number in % or points is printed with: two digits of its spread, and two decimals at most."""
    return min(2, max(0, 1 - math.floor(math.log10(spread)))) if spread > 0 else 2


def format_signed(value: float, places: int) -> str:
    """`+1.30`; what rounds to nothing is `+0.00`, from whichever side."""
    return f"{round(value, places) + 0.0:+.{places}f}"


def _round_to(places: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{places}f}"


def _format_digits(value: float) -> str:
    """Three significant digits, more where the whole part has more, never an exponent."""
    rounded = float(f"{value:.3g}")
    places = 2 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{value:,.{max(0, places)}f}"


def _format_repeated(value: float) -> str:
    """Three significant digits and no more: what repeats to some percent."""
    return _format_digits(float(f"{value:.3g}"))


def _format_whole(value: float) -> str:
    return f"{value:,.0f}"


MIB = float(2**20)

METRICS: dict[str, Metric] = {
    "test_accuracy": Metric(
        label="Test accuracy", unit="%", meaning="share of test images classified rightly, after the last epoch",
        format=_round_to(2), better="higher", of="run", group="accuracy", brief=True,
    ),
    "params": Metric(
        label="Params", meaning="trainable parameters",
        format=_format_whole, better="lower", group="counts", phrase="params", compared=True, planned=True, brief=True,
        panel=True, matched=True,
    ),
    "macs": Metric(
        label="MACs", unit="M", meaning="multiply-accumulates of convolutions and linear layers, one image, inference",
        scale=1e6, format=_format_digits, better="lower", group="counts", phrase="MACs", compared=True, planned=True,
        brief=True, panel=True, matched=True,
    ),
    "flops": Metric(
        label="FLOPs", unit="M", meaning="2 x MACs", scale=1e6, format=_format_digits, better="lower", group="counts",
    ),
    "activations": Metric(
        label="Activations", unit="k", meaning="elements that convolutions and linear layers put out, one image",
        scale=1e3, format=_format_digits, better="lower", group="counts", compared=True, planned=True,
    ),
    "train_peak_memory_bytes": Metric(
        label="Peak memory, training", unit="MiB",
        meaning="most bytes that tensors hold at once in a training step: weights, gradients, optimizer, activations",
        scale=MIB, format=_format_digits, better="lower", group="memory", phrase="peak memory in training",
        compared=True, brief=True, panel=True,
    ),
    "predicted_train_peak_memory_bytes": Metric(
        label="Predicted peak, training", unit="MiB",
        meaning="the same step on tensors without storage: what its tensors would hold",
        scale=MIB, format=_format_digits, better="lower", group="memory", planned=True, brief=True,
    ),
    "inference_peak_memory_bytes": Metric(
        label="Peak memory, inference", unit="MiB", meaning="most bytes that tensors hold at once in a forward pass",
        scale=MIB, format=_format_digits, better="lower", group="memory",
    ),
    "predicted_inference_peak_memory_bytes": Metric(
        label="Predicted peak, inference", unit="MiB", meaning="the same pass on tensors without storage",
        scale=MIB, format=_format_digits, better="lower", group="memory",
    ),
    "train_images_per_second": Metric(
        label="Training", unit="images/s", meaning="median throughput of forward, loss, backward and optimizer step",
        format=_format_repeated, better="higher", group="throughput", spread="train_step_relative_iqr",
        disturbed="train_disturbed", compared=True, brief=True, panel=True,
    ),
    "inference_images_per_second": Metric(
        label="Inference", unit="images/s", meaning="median throughput of the forward pass in eval mode",
        format=_format_repeated, better="higher", group="throughput", spread="inference_step_relative_iqr",
        disturbed="inference_disturbed", compared=True, brief=True,
    ),
    "latency_step_seconds": Metric(
        label="Latency, one image", unit="ms", meaning="median time of a forward pass of one image in eval mode",
        scale=1e-3, format=_format_digits, better="lower", group="latency", spread="latency_step_relative_iqr",
        disturbed="latency_disturbed",
    ),
}  # fmt: skip
"""Every measure that tables, figures and citations know. A new one is an entry here, and its value in a record."""

BESIDE_ACCURACY = {key: metric for key, metric in METRICS.items() if metric.of == "run" and key != "test_accuracy"}
"""Measures of runs that stand beside the accuracy, as mean and standard deviation over the seeds, without a verdict."""

COSTS = {key: metric for key, metric in METRICS.items() if metric.of == "cost"}

MATCHED = {key: metric.phrase for key, metric in METRICS.items() if metric.matched}
"""What a match may solve for, as it is written within a sentence."""

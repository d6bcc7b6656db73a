"""The measures: their names, how they are printed and where they are shown, all in this one place."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Group = Literal["accuracy", "counts", "memory", "throughput", "latency"]
"""Groups of measures. A panel of a LaTeX table has one group."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measure: its name, how it is printed, and where it is shown."""

    label: str
    """The head of its column and the start of its axis label."""

    unit: str = ""
    """The unit of the printed number; empty for a plain count."""

    meaning: str
    """One line for readers."""

    scale: float = 1.0
    """Printed number = recorded number / scale."""

    format: Callable[[float], str]
    """Returns the scaled number as text."""

    better: Literal["higher", "lower"]
    of: Literal["run", "cost"] = "cost"
    """Whether it is measured once per run, or once per variant and device."""

    group: Group
    spread: str = ""
    """The field of a record with the relative interquartile range of this measure of time."""

    disturbed: str = ""
    """The field of a record with the reasons not to trust this measure of time; the text is empty if there are none."""

    phrase: str = ""
    """Its name within a sentence. Without one, no sentence names it."""

    compared: bool = False
    """Whether its change against the base is shown, so that readers see the cost of a gain."""

    planned: bool = False
    """Whether a plan shows its change against the base."""

    brief: bool = False
    """Whether it is in the short table of a terminal and a README."""

    panel: bool = False
    """Whether it has its own panel beside the accuracy in figures."""

    matched: bool = False
    """Whether a match may solve a field for it."""

    @property
    def timed(self) -> bool:
        """Whether it is a measure of time, which repeats only to some percent. Counts and bytes repeat exactly."""
        return bool(self.spread)

    @property
    def head(self) -> str:
        """Label and unit."""
        return f"{self.label} ({self.unit})" if self.unit else self.label

    def show(self, value: float) -> str:
        """Returns a recorded number as it is printed, without its unit."""
        return self.format(value / self.scale)


def level_text(value: object) -> str:
    """Returns a level's value as text: `12`, `true`, `8-16-32`."""
    if isinstance(value, bool):
        return str(value).lower()
    return "-".join(map(level_text, value)) if isinstance(value, list | tuple) else str(value)


def count_of(number: int | str, noun: str, plural: str = "") -> str:
    """Returns a number with its noun: `1 run`, `3 runs`, or with another plural `2 studies`."""
    written = number if isinstance(number, str) else f"{number:,}"
    return f"{written} {noun if written == '1' else plural or f'{noun}s'}"


def choose_places(spread: float, most: int = 2) -> int:
    """Returns the decimals of a number in % or points: two digits of its spread, and at most `most` decimals."""
    return min(most, max(0, 1 - math.floor(math.log10(spread)))) if spread > 0 else most


def count_places(images: int) -> int:
    """Returns the decimals that show one of so many images: two for up to 10,000, three for up to 100,000."""
    return max(2, math.ceil(math.log10(images)) - 2) if images else 2


def format_signed(value: float, places: int) -> str:
    """Returns `+1.30`. Numbers that are rounded to 0 give `+0.00`, even if they are negative."""
    return f"{round(value, places) + 0.0:+.{places}f}"


def _round_to(places: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{places}f}"


def _format_digits(value: float) -> str:
    """Writes three significant digits, or all digits of a larger whole part, without an exponent."""
    rounded = float(f"{value:.3g}")
    places = 2 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{value:,.{max(0, places)}f}"


def _format_repeated(value: float) -> str:
    """Writes three significant digits only, for values that repeat to some percent."""
    return _format_digits(float(f"{value:.3g}"))


def _format_whole(value: float) -> str:
    return f"{value:,.0f}"


MIB = float(2**20)

METRICS: dict[str, Metric] = {
    "test_accuracy": Metric(
        label="Test accuracy", unit="%", meaning="share of test images classified rightly, after the last epoch",
        format=_round_to(2), better="higher", of="run", group="accuracy", brief=True,
    ),
    "validation_accuracy": Metric(
        label="Validation accuracy", unit="%",
        meaning="share of validation images classified rightly, after the last epoch",
        format=_round_to(2), better="higher", of="run", group="accuracy", brief=True,
    ),
    "first_epoch_loss": Metric(
        label="Loss, first epoch", unit="nats", meaning="mean training loss over the first epoch: how fast it learns",
        format=_round_to(3), better="lower", of="run", group="accuracy",
    ),
    "params": Metric(
        label="Params", meaning="trainable parameters",
        format=_format_whole, better="lower", group="counts", phrase="params", compared=True, planned=True, brief=True,
        panel=True, matched=True,
    ),
    "macs": Metric(
        label="MACs", unit="M", meaning="multiply-accumulates of convolutions and matrix products, one image",
        scale=1e6, format=_format_digits, better="lower", group="counts", phrase="MACs", compared=True, planned=True,
        brief=True, panel=True, matched=True,
    ),
    "flops": Metric(
        label="FLOPs", unit="M", meaning="2 x MACs", scale=1e6, format=_format_digits, better="lower", group="counts",
    ),
    "activations": Metric(
        label="Activations", unit="k", meaning="elements that convolutions and matrix products put out, one image",
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
"""Every measure of tables, figures and citations. A new one needs an entry here and a value in a record."""

BESIDE_ACCURACY = {key: metric for key, metric in METRICS.items() if metric.of == "run" and key != "test_accuracy"}
"""Measures of runs that stand beside the accuracy, as mean and standard deviation over the seeds, without a verdict."""

COSTS = {key: metric for key, metric in METRICS.items() if metric.of == "cost"}

MATCHED = {key: metric.phrase for key, metric in METRICS.items() if metric.matched}
"""The measures that a match may solve for, by their names within a sentence."""

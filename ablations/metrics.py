"""What is measured: key -> label, unit, format, better-is. The one place that says how a number is shown."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """How a measure is called, scaled and printed."""

    label: str
    """Head of a column, start of an axis label."""

    unit: str
    """Unit of the printed number; empty for a plain count."""

    meaning: str
    """One line for a reader."""

    scale: float
    """Printed number = recorded number / scale."""

    format: Callable[[float], str]
    """The scaled number as text."""

    better: Literal["higher", "lower"]
    of: Literal["run", "cost"]
    """Measured once a run, or once a variant and device."""

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


def _decimals(places: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{places}f}"


def _digits(value: float) -> str:
    """Three significant digits, more where the whole part has more, never an exponent."""
    rounded = float(f"{value:.3g}")
    places = 2 - math.floor(math.log10(abs(rounded))) if rounded else 0
    return f"{value:,.{max(0, places)}f}"


def _measured(value: float) -> str:
    """Three significant digits and no more: what repeats to some percent."""
    return _digits(float(f"{value:.3g}"))


def _count(value: float) -> str:
    return f"{value:,.0f}"


MIB = float(2**20)

METRICS: dict[str, Metric] = {
    "test_accuracy": Metric(
        "Test accuracy", "%", "share of test images classified rightly, after the last epoch",
        1.0, _decimals(2), "higher", "run",
    ),
    "params": Metric("Params", "", "trainable parameters", 1.0, _count, "lower", "cost"),
    "macs": Metric(
        "MACs", "M", "multiply-accumulates of convolutions and linear layers, one image, inference",
        1e6, _digits, "lower", "cost",
    ),
    "flops": Metric("FLOPs", "M", "2 x MACs", 1e6, _digits, "lower", "cost"),
    "activations": Metric(
        "Activations", "k", "elements that convolutions and linear layers put out, one image",
        1e3, _digits, "lower", "cost",
    ),
    "train_peak_memory_bytes": Metric(
        "Peak memory, training", "MiB",
        "most bytes that tensors hold at once in a training step: weights, gradients, optimizer, activations",
        MIB, _digits, "lower", "cost",
    ),
    "predicted_train_peak_memory_bytes": Metric(
        "Predicted peak, training", "MiB",
        "the same step on tensors without storage: what its tensors would hold",
        MIB, _digits, "lower", "cost",
    ),
    "inference_peak_memory_bytes": Metric(
        "Peak memory, inference", "MiB", "most bytes that tensors hold at once in a forward pass",
        MIB, _digits, "lower", "cost",
    ),
    "predicted_inference_peak_memory_bytes": Metric(
        "Predicted peak, inference", "MiB", "the same pass on tensors without storage", MIB, _digits, "lower", "cost"
    ),
    "train_images_per_second": Metric(
        "Training", "images/s", "median throughput of forward, loss, backward and optimizer step",
        1.0, _measured, "higher", "cost",
    ),
    "inference_images_per_second": Metric(
        "Inference", "images/s", "median throughput of the forward pass in eval mode", 1.0, _measured, "higher", "cost"
    ),
    "latency_step_seconds": Metric(
        "Latency, one image", "ms", "median time of a forward pass of one image in eval mode", 1e-3, _digits, "lower",
        "cost",
    ),
}  # fmt: skip
"""Every measure that tables, figures and citations know. A new one is an entry here, and its value in a record."""

MATCHED = {"params": "params", "macs": "MACs"}
"""What a match may solve for, as it is written within a sentence."""

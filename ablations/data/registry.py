"""The data sets by name. A new one is a function `config -> Source` and an entry here."""

from __future__ import annotations

from collections.abc import Callable

from ablations.config import DataConfig
from ablations.data.builtin import digits, random
from ablations.data.imagefolder import imagefolder
from ablations.data.parquet import parquet
from ablations.data.published import cifar10, cifar100, fashion_mnist, svhn
from ablations.data.source import Source

DATASETS: dict[str, Callable[[DataConfig], Source]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn,
    "fashion-mnist": fashion_mnist,
    "imagefolder": imagefolder,
    "parquet": parquet,
    "random": random,
}
"""Data sets by name."""

"""The data sets by name: a new one is a function and an entry."""

from __future__ import annotations

import hashlib
import textwrap

import torch

from ablations.config import DataConfig
from ablations.data import images, registry, source
from ablations.data.dataset import load


def test_the_example_of_a_new_data_set_works(monkeypatch):
    monkeypatch.setattr(registry, "DATASETS", {})
    monkeypatch.setattr("ablations.data.dataset.DATASETS", registry.DATASETS)
    _, _, after = registry.__doc__.partition("For example:\n\n")
    example, _, _ = after.partition("\nThe checksum must change")
    exec(
        textwrap.dedent(example), {"hashlib": hashlib, "torch": torch, **vars(images), **vars(source), **vars(registry)}
    )
    data = load(DataConfig(name="stripes", train_limit=100))
    assert data.label == "stripes"
    assert data.train.images.shape == (100, 1, 8, 8)
    assert torch.equal(data.train.images[0, 0], data.train.images[0, 0].flip(0).flip(0))

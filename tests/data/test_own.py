"""Data sets that a function of the user's gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ablations.config import DataConfig
from ablations.data.dataset import load
from ablations.data.images import DataError
from ablations.data.own import own
from ablations.data.source import Source

IMAGES = np.arange(8 * 4 * 4 * 3, dtype=np.uint8).reshape(8, 4, 4, 3)
LABELS = [0, 1] * 4


def colours(root):
    """Images by NumPy, classes as a list; `root` says what is wrong with them."""
    images = {"shape": IMAGES[:, :2], "real": IMAGES.astype(float)}.get(root, IMAGES)
    labels = {"few": LABELS[:7], "one": [1] * 8, "text": np.array(list("ababbaba"))}.get(root, LABELS)
    return {"train": (IMAGES, labels), "test": (torch.as_tensor(images), LABELS)}


def source(config=None):
    """The source of another function, as it is."""
    return own(DataConfig(name=f"{__name__}:colours"))


def wrong(root):
    """Something else than a data set."""
    return {"none": None, "keys": {"training": 1}, "pair": {"train": IMAGES, "test": IMAGES}}[root]


def test_a_data_set_is_what_its_function_gives():
    data = load(DataConfig(name=f"{__name__}:colours"))
    assert (data.label, data.train.shape, len(data.train), data.num_classes) == ("colours", (3, 4, 4), 8, 2)
    assert torch.equal(data.test.load().images, torch.from_numpy(IMAGES).permute(0, 3, 1, 2))
    assert data.train.labels.tolist() == LABELS
    assert load(DataConfig(name=f"{__name__}:source")).checksum == data.checksum
    assert isinstance(own(DataConfig(name=f"{__name__}:source")), Source)


def test_the_checksum_is_of_the_images(monkeypatch):
    first = load(DataConfig(name=f"{__name__}:colours")).checksum
    changed = IMAGES.copy()
    changed[0, 0, 0, 0] ^= 1
    monkeypatch.setitem(globals(), "IMAGES", changed)
    assert load(DataConfig(name=f"{__name__}:colours")).checksum != first


@pytest.mark.parametrize(
    ("function", "root", "rule"),
    [
        ("colours", "shape", "different shapes"),
        ("colours", "real", "the images of test of .* is float64; uint8"),
        ("colours", "few", "has 8 images and 7 labels"),
        ("colours", "one", r"test of .* has labels that train of .* does not have: \[0\]"),
        ("wrong", "none", "gave a NoneType; a dictionary with train and test is needed"),
        ("wrong", "keys", "gave a dict with the keys training; a dictionary"),
        ("wrong", "pair", "train of .*:wrong is a ndarray; a pair of images and labels is needed"),
    ],
)
def test_anything_else_is_refused(function, root, rule, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=rule):
        own(DataConfig(name=f"{__name__}:{function}", root=root))

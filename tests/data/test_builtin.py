"""Data sets that need no file."""

from __future__ import annotations

import pytest
import torch
from sklearn.datasets import load_digits

from ablations.config import DataConfig
from ablations.data.builtin import digits, read_digits
from ablations.data.dataset import load
from ablations.data.images import DataError
from ablations.storage.paths import cache_folder


def test_digits_are_split_once_and_for_all():
    data = load(DataConfig())
    assert data.train.images.shape == (1437, 1, 8, 8)
    assert data.test.images.shape == (360, 1, 8, 8)
    assert data.test.labels.bincount().tolist() == [36] * 10
    assert (data.num_classes, data.channels, data.image_size) == (10, 1, (8, 8))
    assert int(data.train.images.max()) == 16
    rows = torch.cat([data.train.images, data.test.images]).flatten(1)
    assert rows.double().sum() == 561_718  # of scikit-learn's 1,797 images: no image lost or doubled


def test_digits_are_those_that_scikit_learn_loads():
    for own, loaded in zip(read_digits(), load_digits(return_X_y=True), strict=True):
        assert (own.dtype, own.tobytes()) == (loaded.dtype, loaded.tobytes())


def test_without_scikit_learn_digits_say_what_is_missing(monkeypatch):
    monkeypatch.setattr("ablations.data.builtin.find_spec", lambda name: None)
    with pytest.raises(DataError, match="digits comes with scikit-learn, and cannot be read"):
        digits(DataConfig())


def test_digits_do_not_depend_on_the_cache():
    source = digits(DataConfig())
    assert torch.equal(source.decode()["test"].images, load(DataConfig()).test.images)


def test_random_images_have_the_shape_that_was_asked_for_and_are_always_the_same():
    config = DataConfig(name="random", shape=(3, 5, 7), classes=4, size=6)
    data, again = load(config), load(config)
    assert (data.label, data.num_classes, data.image_size) == ("random 3 x 5 x 7", 4, (5, 7))
    assert data.train.images.shape == data.test.images.shape == (6, 3, 5, 7)
    assert torch.equal(data.train.images, again.train.images)
    assert not torch.equal(data.train.images, data.test.images)
    assert data.checksum != load(config.model_copy(update={"classes": 5})).checksum
    assert not (cache_folder() / f"{data.checksum}.safetensors").exists(), "made faster than read"

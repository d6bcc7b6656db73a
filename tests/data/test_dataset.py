"""Data sets: limited, cut and measured as the configuration says."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from data_files import FOLDER, encode, write_parquet, write_pictures

from ablations.config import DataConfig
from ablations.data.dataset import count_classes, load, measure_channels
from ablations.data.images import DataError, FileImages, MemoryImages
from ablations.data.registry import DATASETS
from ablations.data.source import Source


def test_normalised_training_images_have_zero_mean_and_unit_deviation():
    data = load(DataConfig())
    images = data.normalise(data.train.images).double()
    assert abs(images.mean()) < 1e-5
    assert abs(images.std(correction=0) - 1) < 1e-5


def test_measured_channels_by_hand():
    images = torch.tensor([[[[0, 2]], [[5, 5]]], [[[0, 2]], [[5, 5]]]], dtype=torch.uint8)
    mean, std = measure_channels(images)
    assert mean.flatten().tolist() == [1.0, 5.0]
    assert std.flatten().tolist() == [1.0, 1.0]  # a constant channel is centred only


@pytest.mark.parametrize("memory_limit", [4096, 1])
def test_test_images_that_are_training_images_are_told(tmp_path, memory_limit):
    folder = DataConfig(
        name="imagefolder", root=str(write_pictures(tmp_path)), image_size=300, memory_limit=memory_limit
    )
    assert not load(folder).notes
    shutil.copy(tmp_path / "train/cat/0.png", tmp_path / "test/dog/0.png")
    (note,) = load(folder).notes
    assert "1 of 4 test images are training images, too: a network may know them by heart" in note


def test_train_limit_is_balanced_and_the_same_for_every_call():
    data = load(DataConfig(train_limit=95))
    counts = data.train.labels.bincount().tolist()
    assert sum(counts) == 95
    assert set(counts) == {9, 10}
    assert torch.equal(load(DataConfig(train_limit=95)).train.images, data.train.images)
    assert not torch.equal(load(DataConfig(train_limit=95, subset_seed=1)).train.images, data.train.images)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(name="digit"), "did you mean 'digits'"),
        (DataConfig(name="digits", root="x"), "leave it out"),
        (DataConfig(name="parquet"), r"data\.root is missing"),
        (DataConfig(name="parquet", root="/nowhere"), r"no file .*train\.parquet"),
        (DataConfig(train_limit=1438), "1437 training images"),
    ],
)
def test_what_is_missing_is_named(config, message):
    with pytest.raises(ValueError, match=message):
        load(config)


def test_validation_is_cut_from_the_training_images_before_they_are_limited():
    whole = load(DataConfig())
    for validation, count in ((0.25, 359), (100.0, 100)):
        data = load(DataConfig(validation=validation))
        assert (len(data.train), len(data.validation)) == (1437 - count, count)
        shares = [there * count / 1437 for there in count_classes(whole.train.labels, 10)]
        assert count_classes(data.validation.labels, 10) == pytest.approx(shares, abs=1)
        rows = torch.cat([data.train.images, data.validation.images]).flatten(1)
        assert torch.equal(rows.unique(dim=0), whole.train.images.flatten(1).unique(dim=0))
        limited = load(DataConfig(validation=validation, train_limit=50))
        assert torch.equal(limited.validation.images, data.validation.images)
        assert len(limited.train) == 50
    assert torch.equal(load(DataConfig(validation=0.25)).test.images, whole.test.images)


def test_the_statistics_are_those_of_what_is_trained_on():
    data = load(DataConfig(validation=0.5))
    assert data.mean.item() == pytest.approx(data.train.images.float().mean().item())
    assert data.mean.item() != load(DataConfig()).mean.item()


def test_an_image_folder_has_the_same_statistics_in_memory_and_read_as_needed(tmp_path, monkeypatch):
    monkeypatch.setattr("ablations.data.dataset.STATISTICS_OF", 3)
    config = DataConfig(**FOLDER, root=str(write_pictures(tmp_path)), workers=0)
    whole, streamed = load(config), load(config.model_copy(update={"memory_limit": 0}))
    assert isinstance(streamed.train, FileImages)
    assert torch.equal(whole.mean, streamed.mean)
    assert torch.equal(whole.std, streamed.std)


def test_a_record_tells_what_was_trained_chosen_and_tested_on():
    described = load(DataConfig(validation=100, train_limit=95)).described()
    assert described["label"] == "digits"
    assert {name: sum(counts) for name, counts in described["images_per_class"].items()} == {
        "train": 95, "validation": 100, "test": 360,
    }  # fmt: skip
    assert all(len(counts) == 10 for counts in described["images_per_class"].values())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"validation": 1437}, "would have none left to train on; some of every class must remain"),
        ({"validation": 0.0001}, "that is 0 of 1,437 images; some of every class must remain"),
        ({"validation": 1400, "train_limit": 38}, "37 training images left"),
    ],
)
def test_more_than_there_is_cannot_be_cut(fields, message):
    with pytest.raises(DataError, match=message):
        load(DataConfig(**fields))


def test_which_images_are_cut_follows_the_subset_seed():
    first, other = load(DataConfig(validation=100)), load(DataConfig(validation=100, subset_seed=1))
    assert not torch.equal(first.validation.images, other.validation.images)


def test_a_root_below_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_parquet(tmp_path, "train", [encode(np.zeros((4, 4, 3), np.uint8))] * 2, [0, 1])
    write_parquet(tmp_path, "test", [encode(np.zeros((4, 4, 3), np.uint8))], [0])
    assert len(load(DataConfig(name="parquet", root="~")).train) == 2


def test_fewer_images_than_classes_are_refused():
    with pytest.raises(DataError, match=r"train_limit = 9: digits has 10 classes, .*; give 10 images or more"):
        load(DataConfig(train_limit=9))
    assert count_classes(load(DataConfig(train_limit=10)).train.labels, 10) == [1] * 10


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([True, False]), r"labels of train are torch\.bool \(2,\); int64 \(2,\) is needed"),
        (torch.tensor([[0], [1]]), r"torch\.int64 \(2, 1\)"),
        (torch.tensor([0, 0]), "one class alone"),
    ],
)
def test_labels_of_a_new_data_set_are_checked(monkeypatch, labels, message):
    part = MemoryImages(torch.zeros(2, 1, 4, 4, dtype=torch.uint8), labels)
    source = Source("mine", "0" * 64, lambda: {"train": part, "test": part}, cached=False)
    monkeypatch.setitem(DATASETS, "mine", lambda config: source)
    with pytest.raises(DataError, match=message):
        load(DataConfig(name="mine"))

"""Data: decoded rightly, cached safely, refused clearly."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ablations.config import DataConfig
from ablations.data.builtin import digits
from ablations.data.dataset import channel_statistics, load
from ablations.data.images import DataError
from ablations.data.subsets import balanced_subset, cut, stratified_subset
from ablations.storage.paths import cache_folder


def encode(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


def write_parquet(folder: Path, part: str, images: list[bytes], labels: list[int]) -> None:
    structs = [{"bytes": image, "path": "x.png"} for image in images]
    table = pa.table({"image": structs, "label": pa.array(labels, pa.int64())})
    pyarrow.parquet.write_table(table, folder / f"{part}.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    place.mkdir()
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        pixels = generator.integers(0, 256, (count, 5, 4, 3), dtype=np.uint8)
        write_parquet(place, part, [encode(image) for image in pixels], [index % 3 for index in range(count)])
    return place


def test_digits_are_split_once_and_for_all():
    data = load(DataConfig())
    assert data.train.images.shape == (1437, 1, 8, 8)
    assert data.test.images.shape == (360, 1, 8, 8)
    assert data.test.labels.bincount().tolist() == [36] * 10
    assert (data.num_classes, data.channels, data.image_size) == (10, 1, (8, 8))
    assert int(data.train.images.max()) == 16
    rows = torch.cat([data.train.images, data.test.images]).flatten(1)
    assert rows.double().sum() == 561_718  # of scikit-learn's 1,797 images: no image lost or doubled


def test_normalised_training_images_have_zero_mean_and_unit_deviation():
    data = load(DataConfig())
    images = data.normalise(data.train.images).double()
    assert abs(images.mean()) < 1e-5
    assert abs(images.std(correction=0) - 1) < 1e-5


def test_channel_statistics_by_hand():
    images = torch.tensor([[[[0, 2]], [[5, 5]]], [[[0, 2]], [[5, 5]]]], dtype=torch.uint8)
    mean, std = channel_statistics(images)
    assert mean.flatten().tolist() == [1.0, 5.0]
    assert std.flatten().tolist() == [1.0, 1.0]  # a constant channel is centred only


def test_parquet_is_decoded_pixel_by_pixel(folder):
    data = load(DataConfig(name="parquet", root=str(folder)))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
    assert torch.equal(data.train.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert data.train.labels.tolist() == [0, 1, 2] * 4
    assert data.label == "pictures"


def test_the_cache_is_used_and_a_damaged_one_is_not(folder, monkeypatch):
    config = DataConfig(name="parquet", root=str(folder))
    first = load(config)
    path = cache_folder() / f"{first.checksum}.safetensors"
    monkeypatch.setattr("ablations.data.parquet._decode_parquet", lambda *arguments: pytest.fail("decoded again"))
    assert torch.equal(load(config).train.images, first.train.images)
    monkeypatch.undo()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert torch.equal(load(config).test.labels, first.test.labels)
    path.write_bytes(b"\x80\x04not safetensors")
    assert torch.equal(load(config).train.images, first.train.images)


def test_other_content_has_another_checksum(folder):
    config = DataConfig(name="parquet", root=str(folder))
    before = load(config).checksum
    write_parquet(folder, "test", [encode(np.zeros((5, 4, 3), np.uint8))], [0])
    assert load(config).checksum != before


def test_train_limit_is_balanced_and_the_same_for_every_call():
    data = load(DataConfig(train_limit=95))
    counts = data.train.labels.bincount().tolist()
    assert sum(counts) == 95
    assert set(counts) == {9, 10}
    assert torch.equal(load(DataConfig(train_limit=95)).train.images, data.train.images)
    assert not torch.equal(load(DataConfig(train_limit=95, subset_seed=1)).train.images, data.train.images)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data(), st.integers(0, 5))
def test_a_subset_is_as_balanced_as_its_classes_allow(labels, draw, seed):
    size = draw.draw(st.integers(1, len(labels)))
    chosen = balanced_subset(torch.tensor(labels), size, seed)
    assert len(set(chosen.tolist())) == size
    taken, there = np.bincount(np.array(labels)[chosen.numpy()], minlength=5), np.bincount(labels, minlength=5)
    short = taken < there
    if short.any():
        assert taken.max() - taken[short].min() <= 1


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


def test_a_corrupt_image_is_named_by_its_row(folder):
    good = encode(np.zeros((5, 4, 3), np.uint8))
    write_parquet(folder, "train", [good, good, b"cos\nsystem\n(S'false'\ntR."], [0, 1, 2])
    with pytest.raises(DataError, match=r"train\.parquet, row 2: not a readable image"):
        load(DataConfig(name="parquet", root=str(folder)))


def test_sixteen_bits_and_structs_without_bytes_are_refused(folder):
    content = io.BytesIO()
    Image.fromarray(np.full((5, 4), 40_000, np.uint16)).save(content, format="PNG")
    config = DataConfig(name="parquet", root=str(folder))
    write_parquet(folder, "train", [content.getvalue()], [0])
    with pytest.raises(DataError, match=r"row 0: not a readable image .*8 bits a channel"):
        load(config)
    table = pa.table({"image": [{"path": "x.png"}], "label": [0]})
    pyarrow.parquet.write_table(table, folder / "train.parquet")
    with pytest.raises(DataError, match="row 0: not a readable image"):
        load(config)


def test_no_flipped_byte_of_a_file_brings_a_traceback(folder):
    path, config = folder / "train.parquet", DataConfig(name="parquet", root=str(folder))
    content = path.read_bytes()
    for place in range(0, len(content), 41):
        changed = bytearray(content)
        changed[place] ^= 0xFF
        path.write_bytes(changed)
        with contextlib.suppress(DataError):
            load(config)


def test_shapes_and_labels_that_do_not_fit_are_named(folder):
    good, wide = encode(np.zeros((5, 4, 3), np.uint8)), encode(np.zeros((5, 6, 3), np.uint8))
    config = DataConfig(name="parquet", root=str(folder))
    write_parquet(folder, "train", [good, wide], [0, 1])
    with pytest.raises(DataError, match=r"row 1: shape \(5, 6, 3\)"):
        load(config)
    write_parquet(folder, "train", [good, good], [0, -1])
    with pytest.raises(DataError, match="row 1: label -1"):
        load(config)
    write_parquet(folder, "train", [good, good], [0, 1])
    with pytest.raises(DataError, match="has labels that"):
        load(config)


def test_a_truncated_file_is_refused(folder):
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match="not a readable parquet file"):
        load(DataConfig(name="parquet", root=str(folder)))


def test_digits_do_not_depend_on_the_cache():
    source = digits(DataConfig())
    assert torch.equal(source.decode()["test"].images, load(DataConfig()).test.images)


def test_validation_is_cut_from_the_training_images_before_they_are_limited():
    whole = load(DataConfig())
    for validation, count in ((0.25, 359), (100.0, 100)):
        data = load(DataConfig(validation=validation))
        assert (len(data.train), len(data.validation)) == (1437 - count, count)
        shares = [there * count / 1437 for there in whole.train.per_class(10)]
        assert data.validation.per_class(10) == pytest.approx(shares, abs=1)
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


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.data(), st.integers(0, 5))
def test_a_cut_takes_of_every_class_its_share(labels, draw, seed):
    size = draw.draw(st.integers(1, len(labels) - 1))
    chosen = stratified_subset(torch.tensor(labels), size, seed)
    assert len(set(chosen.tolist())) == size
    taken, there = np.bincount(np.array(labels)[chosen.numpy()], minlength=5), np.bincount(labels, minlength=5)
    assert (np.abs(taken - there * size / len(labels)) <= 1).all()


def test_a_cut_leaves_no_class_without_images():
    labels = torch.tensor([0] * 100 + [1] * 10)
    assert (~cut(labels, 22, 0, "x")).logical_and(labels == 1).sum() == 8
    with pytest.raises(DataError, match=r"x: that is 110 of 110 images, and classes \[0, 1\] would have none left"):
        cut(labels, 110, 0, "x")
    with pytest.raises(DataError, match=r"classes \[1\] would have none left"):
        cut(torch.tensor([0, 0, 0, 1]), 3, 0, "x")


def test_which_images_are_cut_follows_the_subset_seed():
    first, other = load(DataConfig(validation=100)), load(DataConfig(validation=100, subset_seed=1))
    assert not torch.equal(first.validation.images, other.validation.images)


def test_the_cache_of_another_source_is_not_used(folder):
    config = DataConfig(name="parquet", root=str(folder))
    data, digits_ = load(config), load(DataConfig())
    path = cache_folder() / f"{digits_.checksum}.safetensors"
    kept = path.read_bytes()
    path.write_bytes((cache_folder() / f"{data.checksum}.safetensors").read_bytes())
    assert torch.equal(load(DataConfig()).train.images, digits_.train.images)
    changed = kept.replace(b'"I64"', b'"F64"', 1)
    assert changed != kept
    path.write_bytes(changed)
    assert load(DataConfig()).train.labels.dtype == load(DataConfig()).test.labels.dtype == torch.int64


def test_the_same_files_in_other_parts_are_another_data_set(folder):
    images = [encode(np.full((5, 4, 3), value, np.uint8)) for value in range(3)]
    checksums = []
    for shards in ({"train": 1, "test": 2}, {"train": 2, "test": 1}):
        place = folder / str(shards["train"])
        place.mkdir()
        order = iter(images)
        for part, count in shards.items():
            for number in range(count):
                write_parquet(place, f"{part}-0000{number}-of-0000{count}", [next(order)] * 2, [0, 1])
        data = load(DataConfig(name="parquet", root=str(place)))
        assert len(data.train) == 2 * shards["train"]
        checksums.append(data.checksum)
    assert checksums[0] != checksums[1]

"""Parquet files: decoded pixel by pixel, and refused clearly where they are damaged or do not fit."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from data_files import encode, write_parquet, write_tables
from PIL import Image

from ablations.config import DataConfig
from ablations.data.dataset import load
from ablations.data.images import DataError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tables(tmp_path)


def test_parquet_is_decoded_pixel_by_pixel(folder):
    data = load(DataConfig(name="parquet", root=str(folder)))
    pixels = np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), dtype=np.uint8)
    assert torch.equal(data.train.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert data.train.labels.tolist() == [0, 1, 2] * 4
    assert data.label == "pictures"


def test_other_content_has_another_checksum(folder):
    config = DataConfig(name="parquet", root=str(folder))
    before = load(config).checksum
    write_parquet(folder, "test", [encode(np.zeros((5, 4, 3), np.uint8))], [0])
    assert load(config).checksum != before


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


def test_parquet_in_shards_and_in_a_folder_of_its_own(tmp_path):
    (tmp_path / "data").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)
    for shard in range(2):
        images = [encode(image) for image in pixels[3 * shard : 3 * shard + 3]]
        write_parquet(tmp_path / "data", f"train-0000{shard}-of-00002", images, [0, 1, 2])
    write_parquet(tmp_path / "data", "test-00000-of-00001", [encode(pixels[0])], [2])
    data = load(DataConfig(name="parquet", root=str(tmp_path)))
    assert torch.equal(data.train.images, torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert data.train.labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_parquet_of_different_sizes_is_resized_where_that_is_asked_for(tmp_path):
    images = [encode(np.zeros(shape, np.uint8)) for shape in ((9, 12, 3), (20, 8, 3))]
    write_parquet(tmp_path, "train", images, [0, 1])
    write_parquet(tmp_path, "test", images, [0, 1])
    with pytest.raises(DataError, match=r"row 1: shape \(20, 8, 3\), .*set data\.image_size"):
        load(DataConfig(name="parquet", root=str(tmp_path)))
    assert load(DataConfig(name="parquet", root=str(tmp_path), image_size=6)).train.images.shape == (2, 3, 6, 6)


def test_parquet_that_does_not_fit_into_memory_is_refused(tmp_path):
    write_parquet(tmp_path, "train", [encode(np.zeros((600, 600, 3), np.uint8))] * 2, [0, 1])
    write_parquet(tmp_path, "test", [encode(np.zeros((600, 600, 3), np.uint8))], [0])
    with pytest.raises(DataError, match=r"more than data\.memory_limit = 1 MiB of pixels: raise it"):
        load(DataConfig(name="parquet", root=str(tmp_path), memory_limit=1))


def test_a_column_img_is_images_too(tmp_path):
    for part in ("train", "test"):
        table = pa.table({"img": [{"bytes": encode(np.zeros((4, 4, 3), np.uint8))}] * 2, "label": [0, 1]})
        pyarrow.parquet.write_table(table, tmp_path / f"{part}.parquet")
    assert load(DataConfig(name="parquet", root=str(tmp_path))).train.images.shape == (2, 3, 4, 4)


def test_shards_that_are_missing_are_missed(tmp_path):
    write_parquet(tmp_path, "train-00000-of-00002", [encode(np.zeros((4, 4, 3), np.uint8))], [0])
    write_parquet(tmp_path, "test", [encode(np.zeros((4, 4, 3), np.uint8))], [0])
    with pytest.raises(
        DataError,
        match=r"holds 1 shards such as train-00000-of-00002\.parquet, but their names say that there are 2: add",
    ):
        load(DataConfig(name="parquet", root=str(tmp_path)))

"""Parquet files: decoded pixel by pixel, and refused clearly where they are damaged or do not fit."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from data_files import encode, write_parquet, write_tables
from PIL import Image

from ablations.config import DataConfig
from ablations.data import parquet
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
    for place in (*range(0, len(content), 41), content.index(b"image")):  # a name, too
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


GREY, COLOUR = (encode(np.full(shape, 7, np.uint8)) for shape in ((5, 4), (5, 4, 3)))


def write_columns(folder: Path, names: list[str] | None = None, **columns) -> Path:
    """A training and a test table with these columns; `names` are those of the classes in column `kind`."""
    table = pa.table(columns)
    if names:
        about = {"info": {"features": {"kind": {"_type": "ClassLabel", "names": names}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(about)})
    for part in ("train", "test"):
        pyarrow.parquet.write_table(table, folder / f"{part}.parquet")
    return folder


def read(root: Path, **fields):
    return load(DataConfig(name="parquet", root=str(root), **fields))


IMAGES = [{"bytes": GREY, "path": "x.png"}] * 3


def test_grey_and_colour_images_get_common_channels(tmp_path):
    data = read(write_columns(tmp_path, image=[{"bytes": each} for each in (GREY, COLOUR, GREY)], label=[0, 1, 1]))
    assert data.train.images.shape == (3, 3, 5, 4)
    assert data.train.images.unique().tolist() == [7]
    assert "2 of 3 images of train: brought from grey to three equal channels" in data.notes[0]
    assert read(tmp_path).notes == data.notes, "from the cache too"
    write_parquet(tmp_path, "test", [GREY], [0])
    write_parquet(tmp_path, "train", [COLOUR] * 2, [0, 1])
    assert read(tmp_path).test.images.shape == (1, 3, 5, 4)


def test_boolean_labels_are_numbers(tmp_path):
    data = read(write_columns(tmp_path, image=IMAGES, label=[True, False, True]))
    assert (data.train.labels.tolist(), data.train.labels.dtype) == ([1, 0, 1], torch.int64)


@pytest.mark.parametrize("labels", [["cat", "dog", "cat"], [0.0, 1.0, 1.0], [0, None, 1]])
def test_other_labels_are_refused(tmp_path, labels):
    with pytest.raises(DataError, match=r"row \d: label .*; a whole number from 0 to 999999 is needed"):
        read(write_columns(tmp_path, image=IMAGES, label=labels))


def test_one_class_alone_is_refused_with_the_columns(tmp_path):
    write_columns(tmp_path, image=IMAGES, label=[1, 1, 1], kind=[0, 1, 2])
    with pytest.raises(
        DataError, match=r"its column label is 1 in all rows; it has image \(struct\), label \(int64\), kind"
    ):
        read(tmp_path)
    other = read(tmp_path, label_column="kind")
    assert other.num_classes == 3


def test_columns_are_found_where_there_is_one_candidate_and_named_where_there_are_more(tmp_path):
    assert read(write_columns(tmp_path, picture=IMAGES, fine=[0, 1, 1], text=["a", "b", "c"])).num_classes == 2
    write_columns(tmp_path, img=IMAGES, fine_label=[0, 1, 2], coarse_label=[0, 1, 1])
    with pytest.raises(
        DataError, match=r"no column label, and fine_label and coarse_label may be meant: name the column"
    ):
        read(tmp_path)
    found = {name: read(tmp_path, label_column=name) for name in ("fine_label", "coarse_label")}
    assert [data.num_classes for data in found.values()] == [3, 2]
    assert len({data.checksum for data in found.values()}) == 2
    with pytest.raises(
        DataError, match=r"data\.image_column = 'photo': \S+ has no column photo; it has img \(struct\), fine_l"
    ):
        read(tmp_path, image_column="photo", label_column="fine_label")


def test_classes_and_their_names_come_from_the_metadata(tmp_path):
    names = ["ant", "bee", "cat", "dog", "eel"]
    data = read(write_columns(tmp_path, names, image=IMAGES, kind=[0, 2, 4], number=[7, 8, 9]))
    assert (data.num_classes, data.names) == (5, tuple(names))
    with pytest.raises(DataError, match="has the label 4, but only 2 classes, numbered from 0, have names"):
        read(write_columns(tmp_path, names[:2], image=IMAGES, kind=[0, 1, 4]))


def test_files_that_number_the_classes_in_different_ways_are_refused(tmp_path):
    write_columns(tmp_path, ["cat", "dog"], image=IMAGES, kind=[0, 1, 1])
    (tmp_path / "other").mkdir()
    other = write_columns(tmp_path / "other", ["dog", "cat"], image=IMAGES, kind=[0, 1, 1])
    (other / "test.parquet").replace(tmp_path / "test.parquet")
    with pytest.raises(DataError, match=r"test\.parquet numbers the classes as dog, cat, and \S+train\S+ as cat, dog"):
        read(tmp_path)


def test_a_table_that_only_names_files_is_told_what_to_do(tmp_path):
    write_columns(tmp_path, image=[{"bytes": None, "path": "a/1.png"}] * 2, label=[0, 1])
    with pytest.raises(
        DataError, match=r"row 0: not a readable image \(it only names a file, 'a/1\.png'\); write the images"
    ):
        read(tmp_path)


def test_a_share_of_a_table_without_a_test_set_is_cut(tmp_path):
    write_parquet(tmp_path, "train", [GREY] * 8, [0, 1] * 4)
    data = read(tmp_path, test_share=0.25)
    assert data.described()["images_per_class"] == {"train": [3, 3], "test": [1, 1]}


def test_a_table_that_is_packed_beyond_measure_is_refused(tmp_path):
    write_parquet(tmp_path, "test", [GREY] * 2, [0, 1])
    table = pa.table({"image": [bytes(2**21)] * 2, "label": [0, 1]})
    pyarrow.parquet.write_table(table, tmp_path / "train.parquet", compression="zstd", use_dictionary=False)
    with pytest.raises(DataError, match=r"its column image has 4 MiB, [\d,]+ times as much as in the file"):
        read(tmp_path, memory_limit=1)


def test_a_table_that_changes_while_it_is_read_is_noticed(folder, monkeypatch):
    decode = parquet._decode_part

    def change(paths, *others):
        rows = decode(paths, *others)
        write_parquet(folder, "test", [GREY], [0])
        return rows

    monkeypatch.setattr(parquet, "_decode_part", change)
    write_parquet(folder, "train", [encode(np.full((5, 4), 99, np.uint8))] * 2, [0, 1])  # is in no cache
    with pytest.raises(DataError, match="a file has changed while it was read; give the same command again"):
        read(folder)

"""Images in memory and in files: the same to whoever reads them."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import FOLDER, encode, write_pictures

from ablations.config import DataConfig
from ablations.data.dataset import load
from ablations.data.images import DataError, FileImages, Problems, decode_image


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path)


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_too_large_for_memory_is_read_as_needed_and_the_same(pictures, workers, monkeypatch):
    config = DataConfig(**FOLDER, root=str(pictures), train_limit=6, validation=2, workers=workers)
    whole = load(config)
    monkeypatch.setattr(DataConfig, "memory_limit", 0, raising=False)
    streamed = load(config.model_copy(update={"memory_limit": 0}))
    assert isinstance(streamed.train, FileImages)
    assert (streamed.checksum, streamed.image_size, streamed.channels) == (whole.checksum, (8, 8), 3)
    assert streamed.described() == whole.described()
    places = [torch.tensor([5, 0, 3]), torch.tensor([2])]
    state = torch.random.get_rng_state()
    for found, batch in zip(streamed.train.batches(places), places, strict=True):
        assert torch.equal(found, whole.train.images[batch])
    assert torch.equal(torch.random.get_rng_state(), state), "dropout's numbers are not used up"
    assert torch.equal(next(streamed.validation.batches([torch.arange(2)])), whole.validation.images)


def test_a_corrupt_image_that_is_read_as_needed_is_named_in_one_line(pictures):
    path = pictures / "test" / "dog" / "1.png"
    config = DataConfig(**FOLDER, root=str(pictures), workers=1).model_copy(update={"memory_limit": 0})
    path.write_bytes(path.read_bytes()[:-30])
    data = load(config)
    with pytest.raises(DataError, match=r"^[^\n]*dog/1\.png: not a readable image \([^\n]*\)$"):
        list(data.test.batches([torch.arange(4)]))
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"^[^\n]*dog/1\.png: not a readable image \(its format is not known\)$"):
        load(config)


@pytest.mark.parametrize("memory_limit", [1, 0], ids=["memory", "files"])
def test_images_in_memory_and_in_files_do_the_same(pictures, memory_limit):
    config = DataConfig(**FOLDER, root=str(pictures), workers=0)
    whole = load(config).train
    images = load(config.model_copy(update={"memory_limit": memory_limit})).train
    assert (len(images), images.shape, images.forks) == (10, (3, 8, 8), False)
    some = images.subset(torch.tensor([9, 2, 4])).subset(torch.tensor([2, 0]))
    assert some.labels.tolist() == [1, 1]
    assert torch.equal(some.load().images, whole.images[[4, 9]])
    assert torch.equal(torch.cat(list(some.batches([torch.tensor([1]), torch.tensor([0])]))), whole.images[[9, 4]])
    moved = images.to(torch.device("cpu"))
    assert torch.equal(moved.load().images, whole.images)
    assert torch.equal(moved.labels, whole.labels)


def test_a_damaged_image_is_never_taken_for_a_whole_one():
    encoded = encode(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    for place in range(50, len(encoded) - 20, 7):
        damaged = bytearray(encoded)
        damaged[place] ^= 0xFF
        with pytest.raises(DataError, match="x: not a readable image"):
            decode_image(bytes(damaged), "x", 0)
        with pytest.raises(DataError, match="x: not a readable image"):
            decode_image(encoded[:place], "x", 0)


def test_transparency_is_left_out():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    pixels[:2, :, 3] = 0
    assert np.array_equal(decode_image(encode(pixels), "x", 0)[0], pixels[..., :3])


def test_no_image_loses_bits_without_a_word():
    """Pillow takes the higher byte of each channel: of values up to 255 nothing would be left."""
    deep = b"P6 2 1 65535\n" + bytes(range(12))
    wide = b"IHDR" + (2).to_bytes(4) + (1).to_bytes(4) + bytes([16, 2, 0, 0, 0])
    content = b"IDAT" + zlib.compress(bytes(13))
    chunks = [(len(each) - 4).to_bytes(4) + each + zlib.crc32(each).to_bytes(4) for each in (wide, content, b"IEND")]
    for encoded in (deep, b"\x89PNG\r\n\x1a\n" + b"".join(chunks)):
        with pytest.raises(DataError, match=r"here: not a readable image \(mode RGB with 16 bits; 8 bits"):
            decode_image(encoded, "here", 0)
    assert decode_image(b"P6 2 1 255\n" + bytes(range(6)), "here", 0)[0].tolist() == [[[0, 1, 2], [3, 4, 5]]]


def test_only_the_documented_formats_are_opened(pictures):
    (pictures / "test" / "dog" / "1.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    )
    with pytest.raises(DataError, match=r"dog/1\.png: not a readable image \(its format is not known\)"):
        load(DataConfig(**FOLDER, root=str(pictures)))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_changes_after_it_was_checked_is_noticed(pictures, workers):
    config = DataConfig(**FOLDER, root=str(pictures), workers=workers).model_copy(update={"memory_limit": 0})
    data, path = load(config), pictures / "train" / "cat" / "2.png"
    state = path.stat()
    path.write_bytes((pictures / "train" / "dog" / "2.png").read_bytes())
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    with pytest.raises(DataError, match=r"^[^\n]*cat/2\.png has changed since the data set was checked: [^\n]*$"):
        list(data.train.batches([torch.arange(4)]))


@pytest.mark.parametrize("error", [MemoryError("no room"), KeyError("a\nb"), OSError(28, "No space left on device")])
def test_any_exception_of_a_process_that_reads_is_one_sentence(pictures, error, monkeypatch):
    def fail(self, index):
        raise error

    config = DataConfig(**FOLDER, root=str(pictures), workers=1).model_copy(update={"memory_limit": 0})
    images = load(config).train
    monkeypatch.setattr(FileImages, "read", fail)
    with pytest.raises((DataError, MemoryError)) as caught:
        list(images.batches([torch.arange(2)]))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_readers_need_no_shared_memory_and_give_way_where_none_can_be_started(pictures, monkeypatch):
    config = DataConfig(**FOLDER, root=str(pictures), workers=2).model_copy(update={"memory_limit": 0})
    monkeypatch.setattr("ablations.data.images.count_cores", lambda: 2)
    images = load(config).train
    whole = images.load().images
    monkeypatch.setattr("torch.multiprocessing.reductions.reduce_storage", lambda *arguments: pytest.fail("shared"))
    assert torch.equal(next(images.batches([torch.arange(3)])), whole[:3])

    def refuse(*arguments, **fields):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    assert torch.equal(next(images.batches([torch.arange(3)])), whole[:3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:66\nsize 9\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "a page of a website"),
    ],
)
def test_what_lies_in_the_place_of_data_is_told(content, message, tmp_path):
    files = {"imagefolder": "train/a/1.png", "parquet": "train.parquet", "arrays": "a.npz"}
    for name, path in files.items():
        for each in (path, "train/b/1.png", "test/a/1.png", "test/b/1.png", "test.parquet"):
            (tmp_path / name / each).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / each).write_bytes(content)
        root = tmp_path / name / path if name == "arrays" else tmp_path / name
        with pytest.raises(DataError, match=message):
            load(DataConfig(name=name, root=str(root), image_size=0 if name == "arrays" else 8))


@pytest.mark.parametrize("fields", [{}, {"image_size": 400, "memory_limit": 1}])
def test_all_damaged_images_are_told_together_before_any_training(pictures, fields):
    """In a folder that is read as needed, too: an image of the test would be needed after the last epoch."""
    for path in ("train/cat/0.png", "train/dog/1.png", "test/dog/0.png"):
        (pictures / path).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"train/cat/0\.png: .*train/dog/1\.png: "):
        load(DataConfig(**{**FOLDER, **fields}, root=str(pictures)))
    for path in ("train/cat/0.png", "train/dog/1.png"):
        (pictures / path).write_bytes((pictures / "train" / "cat" / "1.png").read_bytes())
    with pytest.raises(DataError, match=r"test/dog/0\.png: not a readable image"):
        load(DataConfig(**{**FOLDER, **fields}, root=str(pictures)))


def test_no_more_than_ten_problems_are_collected():
    problems = Problems()

    def collect(number):
        with problems:
            raise DataError(str(number))

    for number in range(9):
        collect(number)
    with pytest.raises(DataError, match=r"^0; 1; 2; 3; 4; 5; 6; 7; 8; 9; there may be more$"):
        collect(9)

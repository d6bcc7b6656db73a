"""NumPy's files: read as MedMNIST lays them out, and refused clearly."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from ablations.config import DataConfig
from ablations.data.dataset import load
from ablations.data.images import DataError

PIXELS = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
LABELS = np.array([[0], [1], [1], [0]], dtype=np.uint8)
MEDICAL = {
    f"{part}_{kind}": values
    for part, pixels in (("train", PIXELS), ("val", PIXELS), ("test", 255 - PIXELS))
    for kind, values in (("images", pixels), ("labels", LABELS))
}


def read(path: Path, **fields):
    return load(DataConfig(name="arrays", root=str(path), **fields))


def save(path: Path, **changes) -> Path:
    np.savez_compressed(path, **{key: each for key, each in {**MEDICAL, **changes}.items() if each is not None})
    return path


def test_a_file_of_medmnist_is_read(tmp_path):
    data = read(save(tmp_path / "pathmnist.npz", test_images=255 - PIXELS))
    assert data.label == "pathmnist"
    assert torch.equal(data.train.images, torch.from_numpy(PIXELS).permute(0, 3, 1, 2))
    assert (data.train.labels.tolist(), data.train.labels.dtype) == ([0, 1, 1, 0], torch.int64)
    assert data.notes == ("pathmnist: not used: val (data.validation cuts images to choose on from train)",)


@pytest.mark.parametrize(
    ("pixels", "shape"),
    [(PIXELS[..., 0], (1, 5, 6)), (PIXELS[..., :1], (1, 5, 6)), (PIXELS.transpose(0, 3, 1, 2), (3, 5, 6))],
)
def test_a_folder_of_arrays_in_any_usual_order_is_read(tmp_path, pixels, shape):
    for name in ("train", "test"):
        np.save(tmp_path / f"x_{name}.npy", pixels)
        np.save(tmp_path / f"y_{name}.npy", LABELS[:, 0] == 1)
    data = read(tmp_path)
    assert data.train.shape == shape
    assert (data.train.labels.tolist(), data.train.labels.dtype) == ([0, 1, 1, 0], torch.int64)
    before = data.checksum
    np.save(tmp_path / "x_test.npy", 255 - pixels)
    assert read(tmp_path).checksum != before


def test_without_a_test_set_a_share_is_cut(tmp_path):
    path = save(tmp_path / "a.npz", test_images=None, val_images=None)
    with pytest.raises(DataError, match=r"has these arrays: .*data\.test_share = 0\.2 cuts"):
        read(path)
    assert read(path, test_share=0.5).described()["images_per_class"] == {"train": [1, 1], "test": [1, 1]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_images": PIXELS / 255}, "train_images .* is float64; uint8 with values from 0 to 255 is needed"),
        ({"train_images": PIXELS[:3]}, "train_images has 3 images, and train_labels has 4 labels"),
        ({"train_images": PIXELS[..., :2]}, r"has the shape \(4, 5, 6, 2\)"),
        ({"test_labels": np.eye(4, dtype=np.uint8)}, r"test_labels .* is uint8 \(4, 4\); one whole number"),
        ({"test_labels": LABELS / 1.0}, "is float64"),
        ({"train_labels": LABELS.astype(int) - 1}, "has labels from -1 to 0"),
        ({"train_labels": LABELS * 0, "test_labels": LABELS * 0}, "one class alone, with the label 0"),
        ({"train_labels": None}, "has these arrays: test_images, .*train_images"),
    ],
)
def test_arrays_of_another_form_are_named(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        read(save(tmp_path / "a.npz", **changes))


def test_a_packed_array_is_not_unpacked_beyond_the_limit_and_objects_never(tmp_path):
    path = save(tmp_path / "a.npz", train_images=np.zeros((400, 64, 64, 3), np.uint8))
    assert path.stat().st_size < 50_000
    with pytest.raises(DataError, match=r"train_images holds uint8 \(400, 64, 64, 3\), 4\.7 MiB; at most .* 1 MiB"):
        read(path, memory_limit=1)
    with pytest.raises(DataError, match="test_labels holds object"):
        read(save(path, test_labels=np.array([None, 1, 2, 3], dtype=object)))


def test_a_damaged_file_is_named(tmp_path):
    path = save(tmp_path / "a.npz")
    content = path.read_bytes()
    for damaged in (b"", b"PK\x03\x04", content[: len(content) // 2], content.replace(content[90:94], b"xxxx", 1)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=str(path)):
            read(path)
    head = io.BytesIO()
    with zipfile.ZipFile(head, "w") as archive:
        for key in MEDICAL:
            archive.writestr(f"{key}.npy", b"\x93NUMPY\x01\x00\x10\x00{'descr'")
    path.write_bytes(head.getvalue())
    with pytest.raises(DataError, match="train_images is not a readable array"):
        read(path)

"""Image folders: labelled by their folders, resized, cut, and refused clearly."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import FOLDER, write_pictures
from PIL import Image

from ablations.config import DataConfig
from ablations.data.dataset import load
from ablations.data.images import DataError


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path)


def test_an_image_folder_is_resized_and_labelled_by_its_folders(pictures):
    data = load(DataConfig(**FOLDER, root=str(pictures)))
    assert data.train.images.shape == (10, 3, 8, 8)
    assert data.train.labels.tolist() == [0] * 4 + [1] * 6
    assert data.described()["classes"] == ["cat", "dog"]
    assert data.described()["images_per_class"] == {"train": [4, 6], "test": [2, 2]}
    image = Image.open(pictures / "train" / "dog" / "5.png").convert("RGB")  # 15 high, 14 wide
    resized = np.asarray(image.resize((8, int(8 * 15 / 14)), Image.Resampling.BILINEAR))
    top = round((resized.shape[0] - 8) / 2)
    assert torch.equal(data.train.images[9], torch.from_numpy(resized[top : top + 8].copy()).permute(2, 0, 1))


def test_a_folder_without_a_test_set_is_cut(pictures):
    data = load(DataConfig(**FOLDER, root=str(pictures / "train"), test_share=0.4))
    assert data.described()["images_per_class"] == {"train": [2, 4], "test": [2, 2]}, "two fifths of each"
    again = load(DataConfig(**FOLDER, root=str(pictures / "train"), test_share=0.4))
    assert torch.equal(again.test.images, data.test.images)
    assert data.checksum != load(DataConfig(**FOLDER, root=str(pictures / "train"), test_share=0.5)).checksum


def test_a_file_that_is_no_image_is_named(pictures):
    (pictures / "train" / "dog" / "3.png").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataError, match=r"dog/3\.png: not a readable image"):
        load(DataConfig(**FOLDER, root=str(pictures)))


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        (lambda root: (root / "test" / "cat").rename(root / "test" / "cow"), {}, r"differ in \['cat', 'cow'\]"),
        (lambda root: (root / "test").rename(root / "other"), {}, r"has no folders train and test \(or val\)"),
        (lambda root: [path.unlink() for path in (root / "test" / "cat").iterdir()], {}, "cat has no images"),
        (
            lambda root: [shutil.rmtree(root / "train" / name) for name in ("cat", "dog")],
            {},
            r"differ in \['cat', 'dog'\]",
        ),
        (
            lambda root: [shutil.rmtree(root / part / name) for part in ("train", "test") for name in ("cat", "dog")],
            {},
            "train has no folders: each class needs a folder of images",
        ),
        (lambda root: None, {"image_size": 0}, "image_size is missing"),
        (lambda root: (root / "train" / "cat" / "x.png").symlink_to("nowhere"), {}, r"x\.png cannot be read"),
        (lambda root: None, {"root": ""}, "root is missing"),
        (lambda root: None, {"root": "/nowhere"}, "/nowhere has no folders"),
    ],
)
def test_what_an_image_folder_lacks_is_named(pictures, change, fields, message):
    change(pictures)
    with pytest.raises(DataError, match=message):
        load(DataConfig(**{**FOLDER, "root": str(pictures), **fields}))


def test_what_cannot_be_entered_is_one_sentence(tmp_path, monkeypatch):
    def refused(self, *arguments):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_dir", refused)
    with pytest.raises(DataError, match=r"^/x cannot be read: Permission denied$"):
        load(DataConfig(**FOLDER, root="/x"))

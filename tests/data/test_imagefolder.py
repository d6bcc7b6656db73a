"""Image folders: labelled by their folders, resized, cut, and refused clearly."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import FOLDER, write_pictures
from PIL import ExifTags, Image

from ablations.config import DataConfig
from ablations.data.dataset import load
from ablations.data.images import DataError
from ablations.data.registry import DATASETS as SOURCES


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
        (
            lambda root: [
                (root / part / "cat").rename(root / part / name)
                for part, name in (("train", "caf\u00e9"), ("test", "cafe\u0301"))
            ],
            {},
            r"look alike but have other letters: \['cafe\\u0301', 'caf\\xe9'\]",
        ),
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
        (lambda root: None, {"root": "/nowhere"}, "there is no folder .*/nowhere: data.root is taken from the grid"),
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


@pytest.mark.parametrize(
    ("names", "fields", "message"),
    [
        (
            ["PetImages/Cat/1.png", "PetImages/Dog/1.png"],
            {"test_share": 0.5},
            r'one class alone, PetImages; the classes seem to lie in \S+PetImages \(Cat, Dog\): give data\.root = "',
        ),
        (
            [f"{part}/images/{name}/1.png" for part in ("train", "test") for name in ("cat", "dog")],
            {},
            r"one class alone, images; .*train/images \(cat, dog\): move them to \S+train, in each set",
        ),
        (["cat/1.png"], {"test_share": 0.5}, "one class alone, cat: two classes or more are needed"),
        (
            [f"{part}/{name}/1.png" for part in ("training_set", "test_set") for name in ("cat", "dog")],
            {"test_share": 0.5},
            "has the folders test_set, training_set, which seem to be sets and not classes",
        ),
        (["pets/train/cat/1.png"], {}, r"it has pets; a set seems to lie in \S+pets"),
        (
            ["train/cat/1.gif", "train/dog/1.png", "test/cat/1.png", "test/dog/1.png"],
            {},
            r"no images; .* it has 1 \.gif",
        ),
    ],
)
def test_a_folder_at_another_level_is_told_where_the_classes_seem_to_lie(tmp_path, names, fields, message):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=message):
        load(DataConfig(**FOLDER, root=str(tmp_path), **fields))


def test_what_is_left_out_and_what_takes_the_place_of_a_test_set_is_told(pictures):
    before = load(DataConfig(**FOLDER, root=str(pictures)))
    assert before.notes == ()
    assert "notes" not in before.described()
    (pictures / "test").rename(pictures / "validation")
    (pictures / "val").mkdir()
    for name in ("train/cat/a.gif", "train/dog/b.jfif", "train/loose.png", "train/.ipynb_checkpoints/0.png"):
        (pictures / name).parent.mkdir(exist_ok=True)
        (pictures / name).touch()
    data = load(DataConfig(**FOLDER, root=str(pictures)))
    tested, unused, left_out = data.notes
    assert tested.endswith("there is no test set, so validation is what is tested on")
    assert "not used: val " in unused
    assert "left out: 1 .png, 1 .gif, 1 .jfif (images lie in the folder of a class" in left_out
    assert data.described()["notes"] == list(data.notes)
    assert data.described()["images_per_class"] == {"train": [4, 6], "test": [2, 2]}


def test_classes_that_may_be_something_else_are_told(pictures):
    for part in ("train", "test"):
        shutil.copytree(pictures / part / "cat", pictures / part / "Cat")
    assert (
        "Cat and cat are two classes, although they differ only in capital"
        in load(DataConfig(**FOLDER, root=str(pictures))).notes[0]
    )
    folds = pictures.rename(pictures.with_name("folds"))
    for number in (1, 2):
        shutil.copytree(folds / "test", folds / f"fold{number}")
    shutil.rmtree(folds / "train")
    with pytest.raises(DataError, match="has the folder test, which seems to be a set, beside fold1, fold2, test"):
        load(DataConfig(**FOLDER, root=str(folds), test_share=0.5))
    shutil.rmtree(folds / "test")
    (note, *_) = load(DataConfig(**FOLDER, root=str(folds), test_share=0.5)).notes
    assert "the classes are fold1, fold2, and not Cat, cat, dog, which are folders in each of them" in note


def test_a_test_folder_without_classes_is_no_test_set(pictures):
    (pictures / "test").rename(pictures / "val")
    (pictures / "test").mkdir()
    assert "so val is what is tested on" in load(DataConfig(**FOLDER, root=str(pictures))).notes[0]


def test_files_that_were_swapped_are_another_data_set(pictures):
    config = DataConfig(**FOLDER, root=str(pictures))
    first, other = (pictures / "train" / name / "0.png" for name in ("cat", "dog"))
    size = max(path.stat().st_size for path in (first, other))
    for path in (first, other):
        path.write_bytes(path.read_bytes().ljust(size, b"\0"))
    before = load(config).checksum
    kept = first.read_bytes()
    first.write_bytes(other.read_bytes())
    other.write_bytes(kept)
    assert load(config).checksum != before


def test_names_that_are_not_utf_8_are_read_and_printed(pictures):
    odd = os.fsdecode(b"caf\xe9")
    for part in ("train", "test"):
        (pictures / part / "cat").rename(pictures / part / odd)
    data = load(DataConfig(**FOLDER, root=str(pictures)))
    assert data.names == ("caf\\xe9", "dog")
    (pictures / "train" / odd / "0.png").write_bytes(b"nonsense")
    with pytest.raises(DataError, match=r"caf\\udce9/0\.png: not a readable image"):
        load(DataConfig(**FOLDER, root=str(pictures)))


@pytest.mark.parametrize("memory_limit", [4096, 0])
def test_images_are_turned_upright_and_then_are_another_data_set(pictures, memory_limit):
    config = DataConfig(**FOLDER, root=str(pictures), workers=0).model_copy(update={"memory_limit": memory_limit})
    before = load(config)
    assert before.checksum == SOURCES["imagefolder"](config).checksum, "images that stay as they are change no identity"
    path = pictures / "train" / "cat" / "0.png"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # the camera was turned by 90 degrees
    image = Image.open(path).convert("RGB")
    image.save(path, exif=exif)
    data = load(config)
    assert data.notes[0].endswith("1 of 10 images of train: turned upright")
    assert data.checksum != SOURCES["imagefolder"](config).checksum
    turned = data.train.load().images
    image.transpose(Image.Transpose.ROTATE_270).save(path)
    assert torch.equal(load(config).train.load().images, turned)


@pytest.mark.parametrize("memory_limit", [4096, 1])
def test_a_folder_of_grey_images_stays_grey(pictures, memory_limit, monkeypatch):
    if memory_limit == 1:
        monkeypatch.setattr("ablations.data.imagefolder.measure_memory", lambda: 0)
    for path in pictures.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    config = DataConfig(**FOLDER, root=str(pictures), memory_limit=memory_limit, workers=0)
    data = load(config)
    assert (data.channels, data.image_size) == (1, (FOLDER["image_size"],) * 2)
    assert "all images are grey, so they have one channel" in data.notes[0]
    first = next(iter(data.train.batches([torch.tensor([0, 1])])))
    assert first.shape == (2, 1, *data.image_size)
    coloured = next(iter(sorted(pictures.rglob("*.png"))))
    Image.open(coloured).convert("RGB").save(coloured)
    assert load(config).channels == 3

"""Data sets: found, downloaded, verified before they are read, decoded rightly, refused clearly.

The published files are not at hand in a test: small ones of the same layout stand for them, under their own sums.
"""

from __future__ import annotations

import gzip
import hashlib
import pickle
import struct
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import scipy.io
import torch
from PIL import Image
from test_dataset import encode, write_parquet
from torchvision import datasets

from ablations.config import DataConfig
from ablations.data import download, published, source
from ablations.data.dataset import load
from ablations.data.images import DataError, Files
from ablations.storage.paths import cache_folder


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """CIFAR-10's layout, 20 images in five batches and 4 to test, and their sums in the place of the published ones."""
    folder = tmp_path / "root" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for name in names:
        pixels = generator.integers(0, 256, (4, 3072), dtype=np.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1, 2, 9]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {number}" for number in range(10)]}))
    sums = [[name, md5(folder / name)] for name in names]
    monkeypatch.setattr(datasets.CIFAR10, "train_list", sums[:5])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", sums[5:])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": md5(folder / "batches.meta")}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    return folder


def cifar_source(root: Path, archive_md5: str = "0" * 32) -> source.Source:
    return published._cifar("CIFAR10", "cifar10", archive_md5, "1 MiB", DataConfig(name="cifar10", root=str(root)))


def test_cifar_is_read_as_its_authors_laid_it_out(cifar):
    parts = cifar_source(cifar.parent).decode()
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    assert parts["train"].images.shape == (20, 3, 32, 32)
    assert parts["test"].images.shape == (4, 3, 32, 32)
    assert torch.equal(parts["train"].images[:4], torch.from_numpy(pixels).view(4, 3, 32, 32))
    assert parts["train"].labels.tolist() == [0, 1, 2, 9] * 5


def test_cifar_is_read_from_its_archive_too(cifar, tmp_path):
    place = tmp_path / "archive"
    place.mkdir()
    with tarfile.open(place / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(cifar, "cifar-10-batches-py")
    right = md5(place / "cifar-10-python.tar.gz")
    assert torch.equal(
        cifar_source(place, right).decode()["test"].images, cifar_source(cifar.parent).decode()["test"].images
    )
    assert [each.name for each in place.iterdir()] == ["cifar-10-python.tar.gz"], "nothing is left beside it"
    with pytest.raises(DataError, match=f"MD5 {right}, expected {'0' * 32}; nothing of it was read"):
        cifar_source(place).decode()


class Canary:
    """Unpickled, it sings."""

    def __reduce__(self):
        return (Path.touch, (Path("canary-was-unpickled"),))


def test_a_file_of_another_sum_is_never_unpickled(cifar, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = cifar / "data_batch_3"
    expected = md5(bad)
    bad.write_bytes(pickle.dumps(Canary()))
    with pytest.raises(DataError) as caught:
        cifar_source(cifar.parent).decode()
    assert str(bad) in str(caught.value)
    assert f"MD5 {md5(bad)}, expected {expected}" in str(caught.value)
    assert not (tmp_path / "canary-was-unpickled").exists()
    pickle.loads(bad.read_bytes())
    assert (tmp_path / "canary-was-unpickled").exists(), "the canary can sing"


NAMED = ["cifar10", "cifar100", "svhn", "fashion-mnist"]


@pytest.fixture
def no_network(monkeypatch):
    def refused(*arguments, **keywords):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refused)


@pytest.mark.parametrize("name", NAMED)
def test_without_a_network_the_error_says_what_where_and_how(name, tmp_path, no_network):
    with pytest.raises(DataError) as caught:
        load(DataConfig(name=name, root=str(tmp_path)))
    message = str(caught.value)
    for part in (
        "There is no ",
        str(tmp_path),
        "could not be downloaded from http",
        "no network here",
        "MD5 ",
        "data.root",
    ):
        assert part in message, part
    assert "\n" not in message
    assert not list(tmp_path.iterdir()), "nothing half is left"


def test_without_a_root_it_is_looked_for_where_this_suite_downloads_to(no_network):
    with pytest.raises(DataError, match=str(cache_folder() / "downloads")):
        load(DataConfig(name="cifar10"))


def test_a_download_is_verified_before_it_takes_its_name(tmp_path, monkeypatch):
    content = b"what the server sends"
    right = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(
        "torchvision.datasets.utils.download_url", lambda url, root, name: Path(root, name).write_bytes(content)
    )
    path = tmp_path / "new" / "file"
    with pytest.raises(DataError, match=f"what http://localhost/file sent is not .*MD5 {right}, expected {'0' * 32}"):
        download.fetch(path, "http://localhost/file", "0" * 32, "", str(path))
    assert not path.exists()
    download.fetch(path, "http://localhost/file", right, "", str(path))
    assert path.read_bytes() == content
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_a_published_data_set_once_decoded_needs_its_files_no_more(cifar, tmp_path, monkeypatch):
    config = DataConfig(name="cifar10", root=str(cifar.parent))
    first = load(config)
    monkeypatch.setattr(download, "verify", lambda *arguments: pytest.fail("read again"))
    assert torch.equal(load(config.model_copy(update={"root": str(tmp_path)})).train.images, first.train.images)
    (cache_folder() / f"{first.checksum}.safetensors").unlink()


def test_svhn(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    files = {}
    for part, count in (("train", 6), ("test", 3)):
        name = f"{part}_32x32.mat"
        pixels = generator.integers(0, 256, (32, 32, 3, count), dtype=np.uint8)
        labels = np.arange(1, count + 1, dtype=np.uint8).reshape(-1, 1)
        labels[-1] = 10
        scipy.io.savemat(tmp_path / name, {"X": pixels, "y": labels})
        files[part] = (name, md5(tmp_path / name), "1 MiB")
    monkeypatch.setattr(published, "SVHN_FILES", files)
    monkeypatch.setattr(datasets.SVHN, "split_list", {part: ["http://x", *names[:2]] for part, names in files.items()})
    parts = published.svhn(DataConfig(name="svhn", root=str(tmp_path))).decode()
    assert parts["train"].images.shape == (6, 3, 32, 32)
    assert parts["test"].labels.tolist() == [1, 2, 0], "the digit 0 is written 10"
    assert torch.equal(parts["test"].images, torch.from_numpy(pixels).permute(3, 2, 0, 1))
    (tmp_path / "test_32x32.mat").write_bytes(b"MATLAB 5.0")
    with pytest.raises(DataError, match=r"test_32x32\.mat is not the published file"):
        published.svhn(DataConfig(name="svhn", root=str(tmp_path))).decode()


@pytest.fixture
def fashion(tmp_path, monkeypatch):
    """idx files of 5 and 3 images, and their sums as the published ones."""
    generator = np.random.default_rng(0)
    files = {}
    for part, count in (("train", 5), ("test", 3)):
        images = generator.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        for kind, values in (("images", images), ("labels", np.arange(count, dtype=np.uint8))):
            name = published.FASHION_FILES[part, kind][0]
            head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
            (tmp_path / name).write_bytes(head + values.tobytes())
            files[part, kind] = (name, "0" * 32, md5(tmp_path / name))
    monkeypatch.setattr(published, "FASHION_FILES", files)
    return tmp_path


def test_fashion_mnist_plain_packed_anew_and_where_torchvision_puts_it(fashion):
    def decoded():
        return published.fashion_mnist(DataConfig(name="fashion-mnist", root=str(fashion))).decode()

    plain = decoded()
    assert plain["train"].images.shape == (5, 1, 28, 28)
    assert plain["test"].labels.tolist() == [0, 1, 2]
    raw = fashion / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for path in [path for path in fashion.iterdir() if path.is_file()]:
        (raw / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), compresslevel=1))
        path.unlink()
    assert torch.equal(decoded()["train"].images, plain["train"].images)
    packed = raw / "t10k-labels-idx1-ubyte.gz"
    packed.write_bytes(gzip.compress(b"something else"))
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte\.gz is not the published file: MD5 of its content"):
        decoded()
    whole = packed.read_bytes()
    for broken in (whole[:-9], whole[:12] + b"\xff\xff\xff" + whole[15:]):
        packed.write_bytes(broken)
        with pytest.raises(DataError, match=r"cannot be unpacked .*; expected MD5 of its content"):
            decoded()


@pytest.fixture
def pictures(tmp_path):
    """Two classes, of different sizes and modes: 4 and 6 images to train on, 2 and 2 to test on."""
    generator = np.random.default_rng(0)
    for part, counts in (("train", (4, 6)), ("test", (2, 2))):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (10 + number, 14, 3), dtype=np.uint8)
                image = Image.fromarray(pixels).convert("L" if number == 1 else "RGB")
                image.save(folder / f"{number}.png")
    return tmp_path


FOLDER = {"name": "imagefolder", "image_size": 8}


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


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_too_large_for_memory_is_read_as_needed_and_the_same(pictures, workers, monkeypatch):
    config = DataConfig(**FOLDER, root=str(pictures), train_limit=6, validation=2, workers=workers)
    whole = load(config)
    monkeypatch.setattr(DataConfig, "memory_limit", 0, raising=False)
    streamed = load(config.model_copy(update={"memory_limit": 0}))
    assert isinstance(streamed.train.images, Files)
    assert (streamed.checksum, streamed.image_size, streamed.channels) == (whole.checksum, (8, 8), 3)
    assert streamed.described() == whole.described()
    places = [torch.tensor([5, 0, 3]), torch.tensor([2])]
    state = torch.random.get_rng_state()
    for found, batch in zip(streamed.train.batches(places), places, strict=True):
        assert torch.equal(found, whole.train.images[batch])
    assert torch.equal(torch.random.get_rng_state(), state), "dropout's numbers are not used up"
    assert torch.equal(next(streamed.validation.batches([torch.arange(2)])), whole.validation.images)


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
        table = pa.table({"img": [{"bytes": encode(np.zeros((4, 4, 3), np.uint8))}], "label": [0]})
        pyarrow.parquet.write_table(table, tmp_path / f"{part}.parquet")
    assert load(DataConfig(name="parquet", root=str(tmp_path))).train.images.shape == (1, 3, 4, 4)


def test_random_images_have_the_shape_that_was_asked_for_and_are_always_the_same():
    config = DataConfig(name="random", shape=(3, 5, 7), classes=4, size=6)
    data, again = load(config), load(config)
    assert (data.label, data.num_classes, data.image_size) == ("random 3 x 5 x 7", 4, (5, 7))
    assert data.train.images.shape == data.test.images.shape == (6, 3, 5, 7)
    assert torch.equal(data.train.images, again.train.images)
    assert not torch.equal(data.train.images, data.test.images)
    assert data.checksum != load(config.model_copy(update={"classes": 5})).checksum
    assert not (cache_folder() / f"{data.checksum}.safetensors").exists(), "made faster than read"


def test_an_image_folder_has_the_same_statistics_in_memory_and_read_as_needed(pictures, monkeypatch):
    monkeypatch.setattr("ablations.data.dataset.STATISTICS_OF", 3)
    config = DataConfig(**FOLDER, root=str(pictures), workers=0)
    whole, streamed = load(config), load(config.model_copy(update={"memory_limit": 0}))
    assert isinstance(streamed.train.images, Files)
    assert torch.equal(whole.mean, streamed.mean)
    assert torch.equal(whole.std, streamed.std)


def test_a_corrupt_image_that_is_read_as_needed_is_named_in_one_line(pictures):
    (pictures / "test" / "dog" / "1.png").write_bytes(b"nonsense")
    data = load(DataConfig(**FOLDER, root=str(pictures), workers=1).model_copy(update={"memory_limit": 0}))
    with pytest.raises(DataError, match=r"^[^\n]*dog/1\.png: not a readable image \(its format is not known\)$"):
        list(data.test.batches([torch.arange(4)]))


def test_shards_that_are_missing_are_missed(tmp_path):
    write_parquet(tmp_path, "train-00000-of-00002", [encode(np.zeros((4, 4, 3), np.uint8))], [0])
    write_parquet(tmp_path, "test", [encode(np.zeros((4, 4, 3), np.uint8))], [0])
    with pytest.raises(
        DataError, match=r"holds 1 shards such as train-00000-of-00002\.parquet, and their names tell of"
    ):
        load(DataConfig(name="parquet", root=str(tmp_path)))


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 2], [1, 1], r"labels that .* does not have: \[1\]"),
        ([0, 2], [0, 2], r"but none of \[1\]: number the classes"),
    ],
)
def test_labels_that_do_not_fit_each_other_are_named(tmp_path, train, test, message):
    for part, labels in (("train", train), ("test", test)):
        write_parquet(tmp_path, part, [encode(np.zeros((4, 4, 3), np.uint8))] * 2, labels)
    with pytest.raises(DataError, match=message):
        load(DataConfig(name="parquet", root=str(tmp_path)))


def test_what_cannot_be_entered_is_one_sentence(tmp_path, monkeypatch):
    def refused(self, *arguments):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "is_dir", refused)
    with pytest.raises(DataError, match=r"^/x/[a-z]+ cannot be read: Permission denied$"):
        load(DataConfig(**FOLDER, root="/x"))


def test_a_root_below_home_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_parquet(tmp_path, "train", [encode(np.zeros((4, 4, 3), np.uint8))], [0])
    write_parquet(tmp_path, "test", [encode(np.zeros((4, 4, 3), np.uint8))], [0])
    assert len(load(DataConfig(name="parquet", root="~")).train) == 1

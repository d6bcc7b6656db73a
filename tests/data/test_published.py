"""Published data sets: verified before they are read, and decoded as their authors laid them out.

The published files are not at hand in a test: small ones of the same layout stand for them, under their own sums.
"""

from __future__ import annotations

import gzip
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from data_files import md5
from torchvision import datasets

from ablations.config import DataConfig
from ablations.data import download, published, source
from ablations.data.dataset import load
from ablations.data.images import DataError
from ablations.storage.paths import cache_folder


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


def test_mnist_is_read_like_fashion_mnist_and_downloaded_to_a_folder_of_its_own(fashion, monkeypatch):
    monkeypatch.setattr(published, "MNIST_FILES", published.FASHION_FILES)
    (fashion / "MNIST" / "raw").mkdir(parents=True)
    for path in [path for path in fashion.iterdir() if path.is_file()]:
        path.rename(fashion / "MNIST" / "raw" / path.name)
    parts = published.mnist(DataConfig(name="mnist", root=str(fashion))).decode()
    assert parts["train"].images.shape == (5, 1, 28, 28)
    wanted = []
    monkeypatch.setattr(published, "fetch", lambda path, *others: wanted.append(path) or pytest.fail("no network"))
    for each in (
        published.mnist(DataConfig(name="mnist")),
        published.fashion_mnist(DataConfig(name="fashion-mnist")),
    ):
        with pytest.raises(pytest.fail.Exception):
            each.decode()
    assert len({path.parent for path in wanted}) == 2, "their files have the same names"


def test_a_packed_file_is_not_unpacked_beyond_its_published_size(fashion, monkeypatch):
    monkeypatch.setattr(published, "IDX_BYTES", 10_000)
    path = fashion / "t10k-images-idx3-ubyte"
    path.unlink()
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(bytes(10**6)))
    with pytest.raises(DataError, match=r"is not the published file: its content has more than 10,000 bytes"):
        published.fashion_mnist(DataConfig(name="fashion-mnist", root=str(fashion))).decode()

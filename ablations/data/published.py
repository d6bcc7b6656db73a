"""Published data sets: CIFAR-10 and CIFAR-100, SVHN, MNIST, Fashion-MNIST."""

from __future__ import annotations

import gzip
import hashlib
import struct
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ablations.config import DataConfig
from ablations.data.download import download_folder, fetch, verify
from ablations.data.images import DataError, MemoryImages
from ablations.data.source import Parts, Source


def cifar10(config: DataConfig) -> Source:
    """CIFAR-10 (Krizhevsky 2009): 60,000 colour images of 32 x 32 in ten classes, 10,000 of them for the test."""
    return _cifar("CIFAR10", "cifar10", "c58f30108f718f92721af3b95e74349a", "163 MiB", config)


def cifar100(config: DataConfig) -> Source:
    """CIFAR-100 (Krizhevsky 2009): 60,000 colour images of 32 x 32 in a hundred classes, 10,000 for the test."""
    return _cifar("CIFAR100", "cifar100", "eb9058c3a382ffc7106e4002c42a8d85", "161 MiB", config)


def _cifar(name: str, label: str, archive_md5: str, size: str, config: DataConfig) -> Source:
    """Reads CIFAR with torchvision, whose reader can run code from a file.

    So each file is verified before it is read.
    """

    def decode() -> Parts:
        from torchvision import datasets
        from torchvision.datasets.utils import extract_archive

        kind = getattr(datasets, name)
        root = download_folder(config)
        members = {Path(kind.base_folder, file): md5 for file, md5 in (*kind.train_list, *kind.test_list)}
        members[Path(kind.base_folder, kind.meta["filename"])] = kind.meta["md5"]
        archive = root / kind.filename
        with tempfile.TemporaryDirectory() as unpacked:
            if not all((root / file).is_file() for file in members):
                wanted = f"{archive} and no folder {root / kind.base_folder}"
                fetch(archive, kind.url, archive_md5, size, wanted)
                extract_archive(str(archive), unpacked)
                root = Path(unpacked)
            for file, md5 in members.items():
                verify(root / file, md5)
            parts: Parts = {}
            for part, read in (("train", kind(root, train=True)), ("test", kind(root, train=False))):
                images = torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous()
                parts[part] = MemoryImages(images, torch.tensor(read.targets))
            return parts

    return Source(label, _hash_sums(label, archive_md5), decode)


SVHN_FILES = {
    "train": ("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", "174 MiB"),
    "test": ("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", "61 MiB"),
}
"""MD5 sums as torchvision publishes them."""


def svhn(config: DataConfig) -> Source:
    """SVHN (Netzer et al. 2011), cropped digits: 73,257 colour images of 32 x 32 to train on, 26,032 to test on."""

    def decode() -> Parts:
        from torchvision import datasets

        root = download_folder(config)
        parts: Parts = {}
        for part, (file, md5, size) in SVHN_FILES.items():
            fetch(root / file, datasets.SVHN.split_list[part][0], md5, size, str(root / file))
            read = datasets.SVHN(root, split=part)
            parts[part] = MemoryImages(torch.from_numpy(read.data).contiguous(), torch.from_numpy(read.labels).long())
        return parts

    return Source("svhn", _hash_sums("svhn", *(md5 for _, md5, _ in SVHN_FILES.values())), decode)


MNIST_FILES = {
    ("train", "images"): (
        "train-images-idx3-ubyte", "f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb",
    ),
    ("train", "labels"): (
        "train-labels-idx1-ubyte", "d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624",
    ),
    ("test", "images"): (
        "t10k-images-idx3-ubyte", "9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea",
    ),
    ("test", "labels"): (
        "t10k-labels-idx1-ubyte", "ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637",
    ),
}  # fmt: skip
"""For each file, its name, the published MD5 sum of its archive, and the MD5 sum of its content."""

FASHION_FILES = {
    ("train", "images"): (
        "train-images-idx3-ubyte", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a",
    ),
    ("train", "labels"): (
        "train-labels-idx1-ubyte", "25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9",
    ),
    ("test", "images"): (
        "t10k-images-idx3-ubyte", "bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a",
    ),
    ("test", "labels"): (
        "t10k-labels-idx1-ubyte", "bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965",
    ),
}  # fmt: skip
"""For each file, its name, the published MD5 sum of its archive, and the MD5 sum of its content."""


IDX_BYTES = 47_040_016
"""The bytes of the largest of these files: 60,000 images of 28 x 28, and a head. More is not unpacked."""


def mnist(config: DataConfig) -> Source:
    """MNIST (LeCun et al. 1998): 70,000 grey images of 28 x 28 in ten classes, 10,000 of them for the test.

    They are read from idx files, compressed or not, in data.root or in MNIST/raw below it (torchvision's folder).
    """
    return _idx("MNIST", "mnist", MNIST_FILES, config, "mnist")


def fashion_mnist(config: DataConfig) -> Source:
    """Fashion-MNIST (Xiao et al. 2017): 70,000 grey images of 28 x 28 in ten classes, 10,000 of them for the test.

    They are read from idx files, compressed or not, in data.root or in FashionMNIST/raw below it (torchvision's
    folder).
    """
    return _idx("FashionMNIST", "fashion-mnist", FASHION_FILES, config)


def _idx(
    name: str, label: str, files: Mapping[tuple[str, str], tuple[str, str, str]], config: DataConfig, folder: str = ""
) -> Source:
    """Reads a data set of idx files, which torchvision knows under this name.

    It is downloaded to a folder of its own if `folder` names one: the files of all such data sets have the same names.
    """

    def decode() -> Parts:
        root = download_folder(config) / ("" if config.root else folder)
        content = {key: _read_idx(root, name, *names) for key, names in files.items()}
        return {
            part: MemoryImages(content[part, "images"][:, None], content[part, "labels"].long())
            for part in ("train", "test")
        }

    return Source(label, _hash_sums(label, *(sums[2] for sums in files.values())), decode)


def _read_idx(root: Path, kind: str, name: str, archive_md5: str, content_md5: str) -> Tensor:
    """Reads an idx file, compressed or not, uint8 `(N, ...)`.

    Raises DataError unless its content is the published one.
    """
    from torchvision import datasets

    folders = (root, root / kind / "raw")
    found = next(
        (folder / file for folder in folders for file in (name, f"{name}.gz") if (folder / file).is_file()), None
    )
    if found is None:
        found = root / f"{name}.gz"
        wanted = f"{found} and no {root / name}, nor one in {folders[1]}"
        fetch(found, f"{getattr(datasets, kind).mirrors[0]}{name}.gz", archive_md5, "", wanted)
    try:
        with gzip.open(found) if found.suffix == ".gz" else found.open("rb") as file:
            raw = file.read(IDX_BYTES + 1)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{found} cannot be unpacked ({error}); expected MD5 of its content {content_md5}") from error
    if len(raw) > IDX_BYTES:
        raise DataError(f"{found} is not the published file: its content has more than {IDX_BYTES:,} bytes")
    found_md5 = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found_md5 != content_md5:
        raise DataError(f"{found} is not the published file: MD5 of its content {found_md5}, expected {content_md5}")
    dimensions = raw[3]
    shape = struct.unpack(f">{dimensions}I", raw[4 : 4 + 4 * dimensions])
    return torch.frombuffer(bytearray(raw[4 + 4 * dimensions :]), dtype=torch.uint8).view(shape)


def _hash_sums(*sums: str) -> str:
    """Returns the checksum of a published data set, from the published sums of its files.

    Other files are never read.
    """
    return hashlib.sha256(" ".join(sums).encode()).hexdigest()

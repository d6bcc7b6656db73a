"""Where data sets come from: found or downloaded, checked before anything is read, decoded into tensors.

A new data set is a function `config -> Source` and an entry in DATASETS.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import os
import re
import socket
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ablations.config import DataConfig

Pixels = np.ndarray
"""uint8 `(H, W)` or `(H, W, 3)`."""

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes that become 8-bit grey or RGB without loss of range."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Files of an image folder that are images."""

READ_WHOLE = 2 * 2**30
"""Bytes of files up to which an image folder's checksum covers their content; beyond, their names and sizes."""

NETWORK_PATIENCE = 20.0
"""Seconds without an answer after which a download has failed."""


class DataError(ValueError):
    """Data that is missing or not what it should be; the message says what to do."""


@dataclass(frozen=True)
class Files(Dataset[Tensor]):
    """Images that are read from their files when they are needed, `(N, 3, size, size)`."""

    paths: tuple[Path, ...]
    size: int

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """One image, uint8 `(3, size, size)`. Raises DataError naming a file that is no image."""
        path = self.paths[index]
        try:
            encoded = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        return torch.from_numpy(decoded(encoded, str(path), self.size, colour=True)).permute(2, 0, 1)


@dataclass(frozen=True)
class Part:
    """Training or test images, uint8 `(N, C, H, W)`, and their classes, int64 `(N,)`."""

    images: Tensor | Files
    labels: Tensor


Parts = dict[str, Part]
"""train and test."""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from."""

    label: str
    """Shown in captions."""

    checksum: str
    """SHA-256 of what it is decoded from, or of its published checksums."""

    decode: Callable[[], Parts]

    classes: int = 0
    """How many there are; 0: as many as the training labels tell."""

    names: tuple[str, ...] = ()
    """The names of the classes, where they have any."""

    kept: bool = True
    """Whether the decoded images are kept in the cache."""

    sampled: bool = False
    """Its statistics are taken from some of the images, whether they are in memory or not."""


def cache_folder() -> Path:
    """Where decoded data sets are kept: `densenet-ablations` under $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "densenet-ablations"


def balanced_subset(labels: Tensor, size: int, seed: int) -> Tensor:
    """Indices of `size` images, class by class in turn, so that classes differ by at most one while they last."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    shuffled = labels.numpy()[order]
    rank = np.empty(len(labels), dtype=np.int64)
    for label in np.unique(shuffled):
        (places,) = np.nonzero(shuffled == label)
        rank[places] = np.arange(len(places))
    chosen = order[np.lexsort((shuffled, rank))[:size]]
    return torch.from_numpy(np.sort(chosen))


def stratified_subset(labels: Tensor, size: int, seed: int) -> Tensor:
    """Indices of `size` images, of each class its share of all to within one image."""
    order = np.random.default_rng(seed).permutation(len(labels))
    shuffled = labels.numpy()[order]
    place = np.empty(len(labels))
    for label in np.unique(shuffled):
        (places,) = np.nonzero(shuffled == label)
        place[places] = (np.arange(len(places)) + 0.5) / len(places)
    chosen = order[np.lexsort((shuffled, place))[:size]]
    return torch.from_numpy(np.sort(chosen))


def cut(labels: Tensor, size: int, seed: int, what: str) -> Tensor:
    """True for the images that are cut off, `(N,)`. Raises DataError where a class would be left without any."""
    out = torch.zeros(len(labels), dtype=torch.bool)
    out[stratified_subset(labels, size, seed)] = True
    emptied = sorted(set(labels.tolist()) - set(labels[~out].tolist()))
    if not 0 < size < len(labels) or emptied:
        left = f", and classes {emptied[:5]} would have none left to train on" if emptied else ""
        raise DataError(f"{what}: that is {size:,} of {len(labels):,} images{left}; some of every class must remain")
    return out


def decoded(encoded: Any, where: str, size: int, colour: bool = False) -> Pixels:
    """The pixels of an encoded image, its shorter side resized to `size` and the middle square kept unless it is 0.

    Raises DataError naming `where` it stands.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        opened = Image.open(io.BytesIO(encoded))
        if opened.mode not in MODES:
            raise ValueError(f"mode {opened.mode}; 8 bits a channel are needed: {', '.join(MODES)}")
        image = opened if opened.mode == "L" and not colour else opened.convert("RGB")
        return np.array(_square(image, size) if size else image)
    except UnidentifiedImageError as error:
        raise DataError(f"{where}: not a readable image (its format is not known)") from error
    except (OSError, SyntaxError, TypeError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{where}: not a readable image ({error})") from error


def _square(image: Any, size: int) -> Any:
    from torchvision.transforms import v2

    return v2.functional.center_crop(v2.functional.resize(image, [size], antialias=True), [size, size])


def digits(config: DataConfig) -> Source:
    """scikit-learn's handwritten digits, shipped with it: 1,797 grey images of 8 x 8, values 0 to 16.

    360 of them, class-balanced, are the test set; the split is always the same.
    Source: UCI, "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998), its test part.
    """
    from sklearn.datasets import load_digits

    if config.root:
        raise DataError(
            f"data.root = {config.root!r}: digits comes with scikit-learn and is read from nowhere else; leave it out"
        )
    pixels, labels = load_digits(return_X_y=True)
    images = torch.from_numpy(pixels.astype(np.uint8)).view(-1, 1, 8, 8)
    targets = torch.from_numpy(labels.astype(np.int64))

    def decode() -> Parts:
        test = torch.zeros(len(targets), dtype=torch.bool)
        test[balanced_subset(targets, 360, seed=0)] = True
        return {"train": Part(images[~test], targets[~test]), "test": Part(images[test], targets[test])}

    return Source("digits", hashlib.sha256(b"digits" + pixels.tobytes() + labels.tobytes()).hexdigest(), decode)


def random(config: DataConfig) -> Source:
    """Noise of a given shape: to plan and to time networks, not to train them."""
    if not (len(config.shape) == 3 and config.classes and config.size):
        raise DataError(
            "random needs data.shape, data.classes and data.size, for example "
            "data.shape = [3, 224, 224], data.classes = 1000, data.size = 64"
        )

    if 2 * config.size * math.prod(config.shape) > config.memory_limit * 2**20:
        raise DataError(
            f"random images of this shape and size take more than data.memory_limit = {config.memory_limit} MiB"
        )

    def part(seed: int) -> Part:
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(256, (config.size, *config.shape), generator=generator, dtype=torch.uint8)
        return Part(images, torch.randint(config.classes, (config.size,), generator=generator))

    label = f"random {' x '.join(map(str, config.shape))}"
    fields = f"{label}, {config.classes} classes, {config.size} images"
    checksum = hashlib.sha256(fields.encode()).hexdigest()
    return Source(label, checksum, lambda: {"train": part(0), "test": part(1)}, classes=config.classes, kept=False)


def parquet(config: DataConfig) -> Source:
    """A folder with the files or shards of train and test in the Hugging Face image layout.

    `train.parquet`, or `train-00000-of-00002.parquet` and so on, also in a folder `data`; the same for `test`. Column
    `image` (or `img`) holds encoded images (a struct with the field `bytes`), column `label` whole numbers from 0.
    """
    if not config.root:
        raise DataError("data.root is missing: parquet needs the folder that holds train.parquet and test.parquet")
    files = {part: _shards(Path(config.root), part) for part in ("train", "test")}
    digest = hashlib.sha256(b"parquet")
    for part, paths in files.items():
        digest.update(f"{part} {len(paths)}".encode())
        for path in paths:
            digest.update(bytes.fromhex(_file_digest(path, "sha256")))

    def decode() -> Parts:
        parts = {part: _decode_parquet(paths, config) for part, paths in files.items()}
        return _fitting(parts, *(str(paths[0]) for paths in files.values()))

    return Source(Path(config.root).resolve().name, _with_size(digest, config), decode)


def _with_size(digest: Any, config: DataConfig) -> str:
    """A checksum that covers the size to which images are brought."""
    if config.image_size:
        digest.update(f"resized to {config.image_size}".encode())
    return str(digest.hexdigest())


def _shards(root: Path, part: str) -> list[Path]:
    for folder in (root, root / "data"):
        whole, shards = folder / f"{part}.parquet", sorted(folder.glob(f"{part}-*.parquet"))
        if whole.is_file():
            return [whole]
        if shards:
            return _complete(shards)
    rule = "data.root must be a folder that holds train.parquet and test.parquet, or shards such as train-*.parquet"
    raise DataError(f"no file {root / f'{part}.parquet'}: {rule}")


def _complete(shards: list[Path]) -> list[Path]:
    """The shards, if all are there that their names tell of. Raises DataError."""
    counts = {count for path in shards for count in re.findall(r"-of-(\d+)\.parquet$", path.name)}
    if counts and (len(counts) > 1 or int(*counts) != len(shards)):
        told = ", ".join(sorted(counts))
        raise DataError(
            f"{shards[0].parent} holds {len(shards)} shards such as {shards[0].name}, and their names tell of {told}"
        )
    return shards


def _decode_parquet(paths: Sequence[Path], config: DataConfig) -> Part:
    arrays: list[Pixels] = []
    labels: list[int] = []
    held = 0
    for path, row, encoded, label in _parquet_rows(paths):
        pixels = decoded(encoded, f"{path}, row {row}", config.image_size)
        if not isinstance(label, int) or not 0 <= label < 1_000_000:
            raise DataError(f"{path}, row {row}: label {label!r}; a whole number from 0 to 999999 is needed")
        if arrays and pixels.shape != arrays[0].shape:
            rule = "set data.image_size to bring all to one size"
            raise DataError(f"{path}, row {row}: shape {pixels.shape}, but the first has {arrays[0].shape}; {rule}")
        arrays.append(pixels)
        labels.append(label)
        held += pixels.nbytes
        if held > config.memory_limit * 2**20:
            raise DataError(
                f"{path.parent} holds more than data.memory_limit = {config.memory_limit} MiB of pixels: raise it, "
                "take a smaller data.image_size, or unpack the images into an imagefolder, which is read as needed"
            )
    if not arrays:
        raise DataError(f"{paths[0]} has no rows")
    images = torch.from_numpy(np.stack(arrays))
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
    return Part(images.contiguous(), torch.tensor(labels))


def _parquet_rows(paths: Sequence[Path]) -> Iterator[tuple[Path, int, Any, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("reading parquet needs pyarrow: pip install 'densenet-ablations[parquet]'") from error
    for path in paths:
        try:
            file = pyarrow.parquet.ParquetFile(path)
            names = file.schema_arrow.names
            image = "img" if "img" in names and "image" not in names else "image"
            missing = {image, "label"} - set(names)
            if missing:
                raise DataError(f"{path} has no column {' and no column '.join(sorted(missing))}")
            batches = file.iter_batches(columns=[image, "label"], batch_size=1000)
            row = 0
            for batch in _shown(batches, f"Decoding {path.name}", -(-file.metadata.num_rows // 1000)):
                for values in batch.to_pylist():
                    value = values[image]
                    yield path, row, value.get("bytes") if isinstance(value, dict) else value, values["label"]
                    row += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path} is not a readable parquet file: {error}") from error


def imagefolder(config: DataConfig) -> Source:
    """A folder with a folder of images for each class, in `train` and in `test` (or `val`), or cut by data.test_share.

    What is larger than data.memory_limit is read as it is needed.
    """
    if not config.root:
        raise DataError(
            "data.root is missing: imagefolder needs the folder that holds train/CLASS/... and test/CLASS/..."
        )
    if not config.image_size:
        raise DataError("data.image_size is missing: an image folder's images are brought to one size, for example 224")
    root = Path(config.root)
    places, names = _class_folders(root, config)
    listed = {part: _listed(place, names) for part, place in places.items()}
    if "test" not in listed:
        listed = _cut(listed["train"], config)
    files = [path for paths, _ in listed.values() for path in paths]
    digest = _folder_digest(root, files)
    pixels = 3 * config.image_size**2 * len(files)

    def decode() -> Parts:
        parts = {
            part: Part(Files(tuple(paths), config.image_size), torch.tensor(labels))
            for part, (paths, labels) in listed.items()
        }
        if pixels > config.memory_limit * 2**20:
            return parts
        return {name: Part(_all_of(part.images, name), part.labels) for name, part in parts.items()}

    kept = pixels <= config.memory_limit * 2**20
    digest.update(f"test_share {config.test_share}".encode())
    return Source(root.resolve().name, _with_size(digest, config), decode, len(names), names, kept, sampled=True)


def _class_folders(root: Path, config: DataConfig) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Where the parts lie, and the classes, which all parts must have in common."""
    test = next((root / name for name in ("test", "val") if (root / name).is_dir()), None)
    if (root / "train").is_dir() and test:
        places = {"train": root / "train", "test": test}
    elif root.is_dir() and config.test_share:
        places = {"train": root / "train" if (root / "train").is_dir() else root}
    else:
        raise DataError(
            f"{root} has no folders train and test (or val), each with a folder of images for every class; "
            "where there is one set alone, data.test_share = 0.2 cuts a fifth of it for the test"
        )
    names = {part: sorted(each.name for each in place.iterdir() if each.is_dir()) for part, place in places.items()}
    if names.get("test", names["train"]) != names["train"] or not names["train"]:
        odd = sorted(set(names["train"]) ^ set(names.get("test", [])))
        raise DataError(
            f"{root}: train and test must have the same folders of classes; they differ in {odd or 'nothing'}"
        )
    return places, tuple(names["train"])


def _listed(place: Path, names: Sequence[str]) -> tuple[list[Path], list[int]]:
    paths: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(names):
        found = sorted(path for path in (place / name).rglob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f"{place / name} has no images; files that count end in {', '.join(SUFFIXES)}")
        paths += found
        labels += [label] * len(found)
    return paths, labels


def _cut(listed: tuple[list[Path], list[int]], config: DataConfig) -> dict[str, tuple[list[Path], list[int]]]:
    """A test set out of the only set there is."""
    paths, labels = listed
    size = round(config.test_share * len(labels))
    out = cut(torch.tensor(labels), size, 0, f"data.test_share = {config.test_share:g}").tolist()
    parts: dict[str, tuple[list[Path], list[int]]] = {"train": ([], []), "test": ([], [])}
    for is_out, path, label in zip(out, paths, labels, strict=True):
        part = parts["test" if is_out else "train"]
        part[0].append(path)
        part[1].append(label)
    return parts


def _folder_digest(root: Path, files: Sequence[Path]) -> Any:
    sizes = [_size(path) for path in files]
    whole = sum(sizes) <= READ_WHOLE
    digest = hashlib.sha256(b"imagefolder" if whole else b"imagefolder, by name and size")
    for path, size in zip(files, sizes, strict=True):
        digest.update(f"{path.relative_to(root).as_posix()}\0{size}\0".encode())
        if whole:
            digest.update(bytes.fromhex(_file_digest(path, "sha256")))
    return digest


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _all_of(files: Tensor | Files, name: str) -> Tensor:
    if isinstance(files, Tensor):
        return files
    return torch.stack([files[index] for index in _shown(range(len(files)), f"Reading {name}", len(files))])


def cifar10(config: DataConfig) -> Source:
    """CIFAR-10 (Krizhevsky 2009): 60,000 colour images of 32 x 32 in ten classes, 10,000 of them for the test."""
    return _cifar("CIFAR10", "cifar10", "c58f30108f718f92721af3b95e74349a", "163 MiB", config)


def cifar100(config: DataConfig) -> Source:
    """CIFAR-100 (Krizhevsky 2009): 60,000 colour images of 32 x 32 in a hundred classes, 10,000 for the test."""
    return _cifar("CIFAR100", "cifar100", "eb9058c3a382ffc7106e4002c42a8d85", "161 MiB", config)


def _cifar(name: str, label: str, archive_md5: str, size: str, config: DataConfig) -> Source:
    """What torchvision's reader may run code from is given to it only after its published MD5 sum was found right."""

    def decode() -> Parts:
        from torchvision import datasets
        from torchvision.datasets.utils import extract_archive

        kind = getattr(datasets, name)
        root = _place(config)
        members = {Path(kind.base_folder, file): md5 for file, md5 in (*kind.train_list, *kind.test_list)}
        members[Path(kind.base_folder, kind.meta["filename"])] = kind.meta["md5"]
        archive = root / kind.filename
        with tempfile.TemporaryDirectory() as unpacked:
            if not all((root / file).is_file() for file in members):
                wanted = f"{archive} and no folder {root / kind.base_folder}"
                _bring(archive, kind.url, archive_md5, size, wanted)
                extract_archive(str(archive), unpacked)
                root = Path(unpacked)
            for file, md5 in members.items():
                _verify(root / file, md5)
            return {
                part: Part(torch.from_numpy(read.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(read.targets))
                for part, read in (("train", kind(root, train=True)), ("test", kind(root, train=False)))
            }

    return Source(label, _published(label, archive_md5), decode)


SVHN_FILES = {
    "train": ("train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373", "174 MiB"),
    "test": ("test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3", "61 MiB"),
}
"""MD5 sums as torchvision publishes them."""


def svhn(config: DataConfig) -> Source:
    """SVHN (Netzer et al. 2011), cropped digits: 73,257 colour images of 32 x 32 to train on, 26,032 to test on."""

    def decode() -> Parts:
        from torchvision import datasets

        root, parts = _place(config), {}
        for part, (file, md5, size) in SVHN_FILES.items():
            _bring(root / file, datasets.SVHN.split_list[part][0], md5, size, str(root / file))
            read = datasets.SVHN(root, split=part)
            parts[part] = Part(torch.from_numpy(read.data).contiguous(), torch.from_numpy(read.labels).long())
        return parts

    return Source("svhn", _published("svhn", *(md5 for _, md5, _ in SVHN_FILES.values())), decode)


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
"""File, the MD5 sum that its authors publish of the archive, and that of its content, for archives packed anew."""


def fashion_mnist(config: DataConfig) -> Source:
    """Fashion-MNIST (Xiao et al. 2017): 70,000 grey images of 28 x 28 in ten classes, 10,000 of them for the test.

    As idx files, packed or not, in data.root or in FashionMNIST/raw below it, where torchvision puts them.
    """

    def decode() -> Parts:
        root = _place(config)
        content = {key: _idx(root, *names) for key, names in FASHION_FILES.items()}
        return {
            part: Part(content[part, "images"][:, None], content[part, "labels"].long()) for part in ("train", "test")
        }

    return Source("fashion-mnist", _published("fashion-mnist", *(sums[2] for sums in FASHION_FILES.values())), decode)


def _idx(root: Path, name: str, archive_md5: str, content_md5: str) -> Tensor:
    """One idx file, uint8 `(N, ...)`, packed or not; its content is verified, however it was packed."""
    from torchvision.datasets import FashionMNIST

    folders = (root, root / "FashionMNIST" / "raw")
    found = next(
        (folder / file for folder in folders for file in (name, f"{name}.gz") if (folder / file).is_file()), None
    )
    if found is None:
        found = root / f"{name}.gz"
        wanted = f"{found} and no {root / name}, nor one in {folders[1]}"
        _bring(found, f"{FashionMNIST.mirrors[0]}{name}.gz", archive_md5, "", wanted)
    try:
        raw = gzip.decompress(found.read_bytes()) if found.suffix == ".gz" else found.read_bytes()
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{found} cannot be unpacked ({error}); expected MD5 of its content {content_md5}") from error
    sum_ = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if sum_ != content_md5:
        raise DataError(f"{found} is not the published file: MD5 of its content {sum_}, expected {content_md5}")
    dimensions = raw[3]
    shape = struct.unpack(f">{dimensions}I", raw[4 : 4 + 4 * dimensions])
    return torch.frombuffer(bytearray(raw[4 + 4 * dimensions :]), dtype=torch.uint8).view(shape)


def _place(config: DataConfig) -> Path:
    """The folder where a published data set lies, or is downloaded to."""
    return Path(config.root) if config.root else cache_folder() / "downloads"


def _published(*parts: str) -> str:
    """The checksum of a published data set: whatever was read had the published sums."""
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()


def _bring(path: Path, url: str, md5: str, size: str, wanted: str) -> None:
    """Downloads a file that is not there, with a progress bar, and verifies it. Raises DataError."""
    if not path.is_file():
        from torchvision.datasets.utils import download_url

        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(NETWORK_PATIENCE)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as half:
                download_url(url, half, path.name)
                _verify(Path(half) / path.name, md5, f"what {url} sent")
                (Path(half) / path.name).replace(path)
        except (OSError, RuntimeError, HTTPException) as error:
            known = ", ".join([f"MD5 {md5}", *([size] if size else [])])
            raise DataError(
                f"There is no {wanted}, and it could not be downloaded from {url} ({error}). Download it on a "
                f"machine with a network and put {path.name} ({known}) into {path.parent}; or say with data.root which "
                "folder holds it; or give the same command once where there is a network."
            ) from error
        finally:
            socket.setdefaulttimeout(patience)
    _verify(path, md5)


def _verify(path: Path, md5: str, downloaded: str = "") -> None:
    """Raises DataError for a file that has not its published sum."""
    found = _file_digest(path, "md5")
    if found != md5 and downloaded:
        raise DataError(f"{downloaded} is not the published file: MD5 {found}, expected {md5}; it was not kept")
    if found != md5:
        raise DataError(
            f"{path} is not the published file: MD5 {found}, expected {md5}; nothing of it was read. "
            "Delete it, and it is downloaded again, or bring another copy"
        )


def _file_digest(path: Path, kind: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _fitting(parts: Parts, train: str, test: str) -> Parts:
    """The parts, if train and test have the same shape and classes."""
    if parts["train"].images[0].shape != parts["test"].images[0].shape:
        raise DataError(f"the images of {train} and {test} have different shapes")
    known, tested = set(parts["train"].labels.tolist()), set(parts["test"].labels.tolist())
    if tested - known:
        raise DataError(f"{test} has labels that {train} does not have: {sorted(tested - known)[:5]}")
    gaps = sorted(set(range(max(known))) - known)
    if gaps:
        raise DataError(f"{train} has labels up to {max(known)}, but none of {gaps[:5]}: number the classes from 0 on")
    return parts


def _shown(items: Iterable[Any], text: str, total: int) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    return track(items, text, total=total, transient=True, console=Console(stderr=True))


DATASETS: dict[str, Callable[[DataConfig], Source]] = {
    "digits": digits,
    "cifar10": cifar10,
    "cifar100": cifar100,
    "svhn": svhn,
    "fashion-mnist": fashion_mnist,
    "imagefolder": imagefolder,
    "parquet": parquet,
    "random": random,
}
"""Data sets by name."""

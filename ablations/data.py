"""Data sets as tensors in memory: decoded once, checked, and kept in a cache under the checksum of their source.

A new data set is a function `config -> Source` and an entry in DATASETS.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ablations.config import DataConfig
from densenet.options import lookup

Tensors = dict[str, Tensor]
"""train_images and test_images, uint8 `(N, C, H, W)`; train_labels and test_labels, int64 `(N,)`."""

MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes that become 8-bit grey or RGB without loss of range."""

PARTS = ("train_images", "train_labels", "test_images", "test_labels")


class DataError(ValueError):
    """Data that is missing or not what it should be; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """Where a data set comes from."""

    label: str
    """Shown in captions."""

    checksum: str
    """SHA-256 of what it is decoded from."""

    decode: Callable[[], Tensors]

    classes: int = 0
    """How many there are; 0: as many as the training labels tell."""

    kept: bool = True
    """In the cache, once decoded."""


@dataclass(frozen=True)
class Dataset:
    """A data set in memory; normalisation statistics are those of the training images."""

    label: str
    checksum: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    num_classes: int
    mean: Tensor
    std: Tensor

    @property
    def channels(self) -> int:
        """C of the images."""
        return self.train_images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width, in pixels."""
        return self.train_images.shape[2], self.train_images.shape[3]

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 `(N, C, H, W)` -> float32 `(N, C, H, W)`, standardised per channel of the training set."""
        return (images.float() - self.mean) / self.std

    def to(self, device: torch.device) -> Dataset:
        """The same data set on another device."""
        moved = {name: getattr(self, name).to(device) for name in (*PARTS, "mean", "std")}
        return Dataset(self.label, self.checksum, num_classes=self.num_classes, **moved)


def load(config: DataConfig) -> Dataset:
    """The data set that a configuration names, from the cache where it is there.

    Raises DataError for data that is missing or damaged, ValueError for an unknown name.
    """
    source = lookup("data set", config.name, DATASETS)(config)
    tensors = _cached(source) if source.kept else source.decode()
    images, labels = tensors["train_images"], tensors["train_labels"]
    if config.train_limit > len(labels):
        raise DataError(f"data.train_limit = {config.train_limit}: {source.label} has {len(labels)} training images")
    if config.train_limit:
        chosen = balanced_subset(labels, config.train_limit, config.subset_seed)
        images, labels = images[chosen], labels[chosen]
    mean, std = channel_statistics(images)
    return Dataset(
        source.label,
        source.checksum,
        images,
        labels,
        tensors["test_images"],
        tensors["test_labels"],
        num_classes=source.classes or int(tensors["train_labels"].max()) + 1,
        mean=mean,
        std=std,
    )


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of each channel, `(N, C, H, W) -> (1, C, 1, 1)` twice; exact integer sums."""
    wide = images.to(torch.int64)
    pixels = images.numel() / images.shape[1]
    mean = wide.sum((0, 2, 3)).double() / pixels
    variance = (wide * wide).sum((0, 2, 3)).double() / pixels - mean * mean
    std = variance.clamp_min(0).sqrt()
    std = torch.where(std > 0, std, torch.ones_like(std))
    return mean.float().view(1, -1, 1, 1), std.float().view(1, -1, 1, 1)


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


def cache_folder() -> Path:
    """Where decoded data sets are kept: `densenet-ablations` under $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "densenet-ablations"


def _cached(source: Source) -> Tensors:
    path = cache_folder() / f"{source.checksum}.safetensors"
    kept = _read_cache(path)
    if kept is not None:
        return kept
    tensors = {name: tensor.contiguous() for name, tensor in source.decode().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = save(tensors, metadata={"digest": _digest(tensors)})
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            (Path(folder) / path.name).write_bytes(content)
            (Path(folder) / path.name).replace(path)
    except OSError as error:
        raise DataError(
            f"cannot keep the decoded data in {path.parent}: {error.strerror}; set XDG_CACHE_HOME to a folder with room"
        ) from error
    return tensors


def _read_cache(path: Path) -> Tensors | None:
    """What the cache holds, or None where it holds nothing or something damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            # copies: what is mapped from a file changes when somebody writes to it
            tensors = {name: file.get_tensor(name).clone() for name in PARTS}
            digest = (file.metadata() or {}).get("digest")
    except (OSError, SafetensorError):
        return None
    return tensors if digest == _digest(tensors) else None


def _digest(tensors: Tensors) -> str:
    digest = hashlib.sha256()
    for name in PARTS:
        digest.update(str(tuple(tensors[name].shape)).encode())
        digest.update(tensors[name].numpy().data)
    return digest.hexdigest()


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

    def decode() -> Tensors:
        test = torch.zeros(len(targets), dtype=torch.bool)
        test[balanced_subset(targets, 360, seed=0)] = True
        return {
            "train_images": images[~test],
            "train_labels": targets[~test],
            "test_images": images[test],
            "test_labels": targets[test],
        }

    return Source("digits", hashlib.sha256(b"digits" + pixels.tobytes() + labels.tobytes()).hexdigest(), decode)


def parquet(config: DataConfig) -> Source:
    """A folder with train.parquet and test.parquet in the Hugging Face image layout.

    Column `image` holds encoded images (a struct with the field `bytes`), column `label` whole numbers from 0.
    """
    files = {part: Path(config.root) / f"{part}.parquet" for part in ("train", "test")}
    if not config.root:
        raise DataError("data.root is missing: parquet needs the folder that holds train.parquet and test.parquet")
    digest = hashlib.sha256(b"parquet")
    for path in files.values():
        try:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        except FileNotFoundError:
            rule = "data.root must be a folder that holds train.parquet and test.parquet"
            raise DataError(f"no file {path}: {rule}") from None
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error

    def decode() -> Tensors:
        tensors: Tensors = {}
        for part, path in files.items():
            tensors[f"{part}_images"], tensors[f"{part}_labels"] = _decode_parquet(path)
        if tensors["train_images"].shape[1:] != tensors["test_images"].shape[1:]:
            raise DataError(f"the images of {files['train']} and {files['test']} have different shapes")
        if int(tensors["test_labels"].max()) > int(tensors["train_labels"].max()):
            raise DataError(f"{files['test']} has labels that {files['train']} does not have")
        return tensors

    return Source(Path(config.root).resolve().name, digest.hexdigest(), decode)


def _decode_parquet(path: Path) -> tuple[Tensor, Tensor]:
    from PIL import Image

    arrays: list[np.ndarray] = []
    labels: list[int] = []
    for row, (encoded, label) in enumerate(_parquet_rows(path)):
        try:
            image = Image.open(io.BytesIO(encoded))
            if image.mode not in MODES:
                raise ValueError(f"mode {image.mode}; 8 bits a channel are needed: {', '.join(MODES)}")
            pixels = np.asarray(image if image.mode == "L" else image.convert("RGB"))
        except (OSError, SyntaxError, TypeError, ValueError, Image.DecompressionBombError) as error:
            raise DataError(f"{path}, row {row}: not a readable image ({error})") from error
        if not isinstance(label, int) or not 0 <= label < 1_000_000:
            raise DataError(f"{path}, row {row}: label {label!r}; a whole number from 0 to 999999 is needed")
        if arrays and pixels.shape != arrays[0].shape:
            raise DataError(f"{path}, row {row}: shape {pixels.shape}, but row 0 has {arrays[0].shape}")
        arrays.append(pixels)
        labels.append(label)
    if not arrays:
        raise DataError(f"{path} has no rows")
    images = torch.from_numpy(np.stack(arrays))
    images = images.unsqueeze(1) if images.dim() == 3 else images.permute(0, 3, 1, 2)
    return images.contiguous(), torch.tensor(labels)


def _parquet_rows(path: Path) -> Iterator[tuple[Any, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("reading parquet needs pyarrow: pip install 'densenet-ablations[parquet]'") from error
    from rich.progress import track

    try:
        file = pyarrow.parquet.ParquetFile(path)
        missing = {"image", "label"} - set(file.schema_arrow.names)
        if missing:
            raise DataError(f"{path} has no column {' and no column '.join(sorted(missing))}")
        batches = file.iter_batches(columns=["image", "label"], batch_size=1000)
        count = -(-file.metadata.num_rows // 1000)
        for batch in track(batches, f"Decoding {path.name}", total=count, transient=True):
            for row in batch.to_pylist():
                image = row["image"]
                yield image.get("bytes") if isinstance(image, dict) else image, row["label"]
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable parquet file: {error}") from error


def random(config: DataConfig) -> Source:
    """Noise of a given shape: to plan and to time networks, not to train them."""
    if not (len(config.shape) == 3 and config.classes and config.size):
        raise DataError(
            "random needs data.shape, data.classes and data.size, for example "
            "data.shape = [3, 224, 224], data.classes = 1000, data.size = 64"
        )

    def decode() -> Tensors:
        generator = torch.Generator().manual_seed(0)
        tensors: Tensors = {}
        for part in ("train", "test"):
            shape = (config.size, *config.shape)
            tensors[f"{part}_images"] = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
            tensors[f"{part}_labels"] = torch.randint(config.classes, (config.size,), generator=generator)
        return tensors

    label = f"random {' x '.join(map(str, config.shape))}"
    fields = f"{label}, {config.classes} classes, {config.size} images"
    return Source(label, hashlib.sha256(fields.encode()).hexdigest(), decode, classes=config.classes, kept=False)


DATASETS: dict[str, Callable[[DataConfig], Source]] = {"digits": digits, "parquet": parquet, "random": random}

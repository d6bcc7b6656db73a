"""Data sets in NumPy's files: one `.npz` file, or a folder of `.npy` files."""

from __future__ import annotations

import hashlib
import math
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from ablations.config import DataConfig
from ablations.data.digests import hash_files
from ablations.data.images import DataError, MemoryImages
from ablations.data.listing import belongs, show_name
from ablations.data.source import TEST_NAMES, Parts, Source, check_parts, finish_checksum, tell_choice
from ablations.data.subsets import cut_test_set

Keys = dict[str, tuple[str, str]]
"""The names of the arrays of images and labels of each set."""


def arrays(config: DataConfig) -> Source:
    """A `.npz` file, or a folder of `.npy` files, with arrays of 8-bit images and of labels.

    The arrays are `train_images`, `train_labels`, `test_images` and `test_labels`, as in MedMNIST, or `x_train`,
    `y_train`, `x_test` and `y_test`. Images are uint8 `(N, H, W)`, `(N, H, W, C)` or `(N, C, H, W)` with 1 or 3
    channels; labels are whole numbers or true and false, `(N,)` or `(N, 1)`. Raises DataError.
    """
    root = Path(config.root)
    if not config.root:
        raise DataError("data.root is missing: arrays needs a .npz file, or a folder of .npy files")
    files = _list_files(root)
    keys, notes = _find_keys(root, [*files], config)
    paths = list(dict.fromkeys(files[key] for names in keys.values() for key in names))
    sums = hash_files(root.parent if root.is_file() else root, paths)
    digest = hashlib.sha256(f"arrays {sorted(keys)} {config.test_share}".encode())
    for sum_ in sums:
        digest.update(bytes.fromhex(sum_))

    def decode() -> Parts:
        parts: Parts = {part: _read_part(root, *names, config) for part, names in keys.items()}
        if hash_files(root.parent if root.is_file() else root, paths) != sums:
            raise DataError(f"{root} has changed while it was read; give the same command again")
        if "test" not in parts:
            parts = cut_test_set(parts["train"].load(), config.test_share)
        return check_parts(parts, f"train in {root}", f"test in {root}")

    return Source(show_name(root.resolve().stem), finish_checksum(digest, config), decode, notes=notes, own=True)


def _list_files(root: Path) -> dict[str, Path]:
    """Returns the file of each array, by the array's name. Raises DataError if there is none."""
    if root.is_dir():
        found = {path.stem: path for path in sorted(root.glob("*.npy")) if belongs(path.name) and path.is_file()}
        packed = sorted(path.name for path in root.glob("*.npz") if belongs(path.name))
        if not found and packed:
            raise DataError(
                f'data.root must name a file of the folder {root}, for example data.root = "{root / packed[0]}"'
            )
    elif zipfile.is_zipfile(root):
        with _open_zip(root) as archive:
            found = {name.removesuffix(".npy"): root for name in archive.namelist() if name.endswith(".npy")}
    else:
        raise DataError(f"{root} is neither a .npz file nor a folder of .npy files")
    return found


def _find_keys(root: Path, names: list[str], config: DataConfig) -> tuple[Keys, tuple[str, ...]]:
    """Finds the arrays of each set by their names, and returns notes on the choice. Raises DataError."""
    sets: Keys = {}
    for name in ("train", *TEST_NAMES):
        for images, labels in ((f"{name}_images", f"{name}_labels"), (f"x_{name}", f"y_{name}")):
            if images in names and labels in names:
                sets.setdefault(name, (images, labels))
    test = next((name for name in TEST_NAMES if name in sets), None)
    if "train" not in sets or (test is None and not config.test_share):
        has = ", ".join(sorted(names)[:12]) or "none"
        rule = "train_images, train_labels, test_images and test_labels are needed, or x_train, y_train, x_test, y_test"
        share = "; data.test_share = 0.2 cuts a fifth of train for the test" if "train" in sets else ""
        raise DataError(f"{root} has these arrays: {has}; {rule}{share}")
    if test is None:
        return {"train": sets["train"]}, ()
    notes = tell_choice(test, [name for name in TEST_NAMES if name in sets], config)
    return {"train": sets["train"], "test": sets[test]}, notes


def _read_part(root: Path, images: str, labels: str, config: DataConfig) -> MemoryImages:
    """Reads the images and the labels of a set. Raises DataError for arrays of another form."""
    with _open_arrays(root) as read:
        pixels = _to_images(read(images, config.memory_limit * 2**20), f"{images} in {root}")
        classes = _to_labels(read(labels, config.memory_limit * 2**20), f"{labels} in {root}")
    if len(pixels) != len(classes):
        raise DataError(f"{root}: {images} has {len(pixels)} images, and {labels} has {len(classes)} labels")
    return MemoryImages(pixels, classes)


@contextmanager
def _open_arrays(root: Path) -> Iterator[Any]:
    """Gives a function that reads an array by its name, with at most so many bytes, from a `.npz` file or a folder."""
    if root.is_dir():
        yield lambda name, most: _read_array(root / f"{name}.npy", name, most)
    else:
        with _open_zip(root) as archive:
            yield lambda name, most: _read_array(archive, name, most)


@contextmanager
def _open_zip(root: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(root) as archive:
            yield archive
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:  # damaged, or packed in an unusual way
        raise DataError(f"{root} is not a readable .npz file: {error}") from error


def _read_array(place: Path | zipfile.ZipFile, name: str, most: int) -> np.ndarray:
    """Reads an array whose header says that it has at most `most` bytes. Raises DataError."""
    where = place.filename if isinstance(place, zipfile.ZipFile) else place
    try:
        with place.open(f"{name}.npy") if isinstance(place, zipfile.ZipFile) else place.open("rb") as file:
            shape, fortran, kind = _read_header(file)
            size = math.prod(shape) * kind.itemsize
            if kind.hasobject or size > most:
                rule = f"at most data.memory_limit = {most // 2**20} MiB of plain numbers are read"
                raise DataError(f"{where}: {name} holds {kind} {shape}, {size / 2**20:,.1f} MiB; {rule}")
            content = file.read(size + 1)  # at the end of a packed array its checksum is verified
        return np.frombuffer(bytearray(content), dtype=kind).reshape(shape, order="F" if fortran else "C")
    except DataError:
        raise
    except Exception as error:  # a damaged file may raise anything
        raise DataError(f"{where}: {name} is not a readable array: {error}") from error


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Reads the shape, the order and the type of an array from the start of its file."""
    version = np.lib.format.read_magic(file)
    read: Mapping[tuple[int, int], Any] = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    shape, fortran, kind = read[version](file)
    return shape, fortran, kind


def _to_images(array: np.ndarray, where: str) -> torch.Tensor:
    """Returns images as uint8 `(N, C, H, W)`. Raises DataError for other types and shapes."""
    if array.dtype != np.uint8:
        raise DataError(f"{where} is {array.dtype}; uint8 with values from 0 to 255 is needed")
    images = torch.from_numpy(np.ascontiguousarray(array))
    if images.dim() == 3:
        return images.unsqueeze(1)
    if images.dim() == 4 and images.shape[3] in (1, 3):
        return images.permute(0, 3, 1, 2).contiguous()
    if images.dim() == 4 and images.shape[1] in (1, 3):
        return images
    rule = "(N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels is needed"
    raise DataError(f"{where} has the shape {tuple(images.shape)}; {rule}")


def _to_labels(array: np.ndarray, where: str) -> torch.Tensor:
    """Returns labels as int64 `(N,)`. Raises DataError for other types and shapes."""
    flat = array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array
    if flat.ndim != 1 or flat.dtype.kind not in "biu":
        rule = "one whole number from 0 for each image is needed, (N,) or (N, 1)"
        raise DataError(f"{where} is {array.dtype} {array.shape}; {rule}")
    labels = torch.from_numpy(flat.astype(np.int64))
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < 1_000_000:
        raise DataError(f"{where} has labels from {labels.min()} to {labels.max()}; from 0 to 999999 is allowed")
    return labels

"""Data sets in parquet files, in the Hugging Face image layout."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablations.config import DataConfig
from ablations.data.digests import hash_files
from ablations.data.images import DataError, MemoryImages, Pixels, decode_image, show_progress
from ablations.data.source import Parts, Source, check_parts, finish_checksum


def parquet(config: DataConfig) -> Source:
    """A folder with parquet files of training and test images in the Hugging Face image layout.

    The files are `train.parquet`, or `train-00000-of-00002.parquet` and so on, also in a folder `data`; the same for
    `test`. Column `image` (or `img`) holds encoded images (a struct with the field `bytes`), column `label` whole
    numbers from 0. Raises DataError.
    """
    if not config.root:
        raise DataError("data.root is missing: parquet needs the folder that holds train.parquet and test.parquet")
    root = Path(config.root)
    shards = {part: _find_shards(root, part) for part in ("train", "test")}
    sums = iter(hash_files(root, [path for paths in shards.values() for path in paths]))
    digest = hashlib.sha256(b"parquet")
    for part, paths in shards.items():
        digest.update(f"{part} {len(paths)}".encode())
        for _ in paths:
            digest.update(bytes.fromhex(next(sums)))

    def decode() -> Parts:
        parts: Parts = {part: _decode_part(paths, config) for part, paths in shards.items()}
        return check_parts(parts, *(str(paths[0]) for paths in shards.values()))

    return Source(root.resolve().name, finish_checksum(digest, config), decode)


def _find_shards(root: Path, part: str) -> list[Path]:
    """Returns the files of a part, in the order of their names.

    Raises DataError if there are none, or some are missing.
    """
    for folder in (root, root / "data"):
        whole, shards = folder / f"{part}.parquet", sorted(folder.glob(f"{part}-*.parquet"))
        if whole.is_file():
            return [whole]
        if shards:
            return _check_shards(shards)
    rule = "data.root must be a folder that holds train.parquet and test.parquet, or shards such as train-*.parquet"
    raise DataError(f"no file {root / f'{part}.parquet'}: {rule}")


def _check_shards(shards: list[Path]) -> list[Path]:
    """Returns the shards, if there are as many as their names say, else raises DataError."""
    counts = {count for path in shards for count in re.findall(r"-of-(\d+)\.parquet$", path.name)}
    if counts and (len(counts) > 1 or int(*counts) != len(shards)):
        told = " and ".join(str(int(count)) for count in sorted(counts))
        raise DataError(
            f"{shards[0].parent} holds {len(shards)} shards such as {shards[0].name}, but their names say that "
            f"there are {told}: add those that are missing, or remove those of another set"
        )
    return shards


def _decode_part(paths: Sequence[Path], config: DataConfig) -> MemoryImages:
    """Reads all images of a part.

    Raises DataError with the row of an image that is damaged or does not fit the others.
    """
    arrays: list[Pixels] = []
    labels: list[int] = []
    held = 0
    for path, row, encoded, label in _read_rows(paths):
        pixels = decode_image(encoded, f"{path}, row {row}", config.image_size)
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
    return MemoryImages(images.contiguous(), torch.tensor(labels))


def _read_rows(paths: Sequence[Path]) -> Iterator[tuple[Path, int, Any, Any]]:
    """Yields the file, row number, encoded image and label of each row. Raises DataError."""
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
            for batch in show_progress(batches, f"Decoding {path.name}", -(-file.metadata.num_rows // 1000)):
                for values in batch.to_pylist():
                    value = values[image]
                    yield path, row, value.get("bytes") if isinstance(value, dict) else value, values["label"]
                    row += 1
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path} is not a readable parquet file: {error}") from error

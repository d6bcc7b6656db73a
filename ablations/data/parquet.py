"""Data sets in parquet files, in the Hugging Face image layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ablations.config import DataConfig
from ablations.data.digests import hash_files
from ablations.data.images import (
    DataError,
    MemoryImages,
    Pixels,
    Problems,
    decode_image,
    decoder_version,
    describe_turned,
    explain_content,
    show_progress,
)
from ablations.data.listing import show_name
from ablations.data.shards import find_sets
from ablations.data.source import Parts, Source, check_parts, finish_checksum
from ablations.data.subsets import cut_test_set

UNLIKELY = 200
"""A column of images that shrank by this factor holds no images: encoded images hardly shrink."""


def parquet(config: DataConfig) -> Source:
    """A folder with parquet files of training and test images in the Hugging Face image layout.

    The files are `train.parquet`, or `train-00000-of-00002.parquet` and so on, also in a folder `data` or in another
    one; the same for `test`. Column `image` (or `img`) holds encoded images (a struct with the field `bytes`), column
    `label` whole numbers from 0; `data.image_column` and `data.label_column` name others. Raises DataError.
    """
    if not config.root:
        raise DataError("data.root is missing: parquet needs the folder that holds train.parquet and test.parquet")
    root = Path(config.root)
    shards, notes = find_sets(root, config)
    files = [path for paths in shards.values() for path in paths]
    sums = hash_files(root, files)
    digest, left = hashlib.sha256(b"parquet"), iter(sums)
    for part, paths in shards.items():
        digest.update(f"{part} {len(paths)}".encode())
        for _ in paths:
            digest.update(bytes.fromhex(next(left)))
    for name in ("image_column", "label_column", "test_share"):
        digest.update(f"{name} {value}".encode() if (value := getattr(config, name)) else b"")
    columns = _choose_columns(files, config)

    def decode() -> Parts:
        rows = {part: _decode_part(paths, columns, config) for part, paths in shards.items()}
        if hash_files(root, files) != sums:
            raise DataError(f"{root}: a file has changed while it was read; give the same command again")
        _check_classes(rows["train"].labels, shards["train"][0], columns)
        colour = any(pixels.ndim == 3 for each in rows.values() for pixels in each.pixels)
        parts: Parts = {part: _stack(each, colour, shards[part][0], config) for part, each in rows.items()}
        if "test" not in parts:
            parts = cut_test_set(parts["train"].load(), config.test_share)
        train, test = (str(shards.get(part, files)[0]) for part in ("train", "test"))
        return check_parts(parts, train, test, len(columns.names))

    label = show_name(root.resolve().name)
    checksum, names = finish_checksum(digest, config), columns.names
    return Source(label, checksum, decode, len(names), names, notes, decoder_version(), published=False)


@dataclass(frozen=True)
class _Columns:
    """The columns of a table that hold images and labels, and the names of the classes, if the table tells them."""

    image: str
    label: str
    names: tuple[str, ...]
    told: str
    """All columns, as an error lists them."""


def _choose_columns(files: Sequence[Path], config: DataConfig) -> _Columns:
    """Chooses the columns by the first file, and checks that all files have them. Raises DataError."""
    chosen: _Columns | None = None
    for path in files:
        with _open_table(path) as file:
            schema, features = file.schema_arrow, _read_features(file.schema_arrow.metadata)
            if chosen is None:
                labels = [name for name in features if features[name].get("_type") == "ClassLabel"]
                images = [each.name for each in schema if _holds_images(each.type, features.get(each.name, {}))]
                labels = labels or [each.name for each in schema if _holds_numbers(each.type)]
                image = _choose(path, schema, "image_column", config.image_column, ("image", "img"), images)
                label = _choose(path, schema, "label_column", config.label_column, ("label",), labels)
                chosen = _Columns(image, label, _read_names(features, label), _tell_columns(schema))
            missing = [name for name in (chosen.image, chosen.label) if name not in schema.names]
            if missing:
                raise DataError(f"{path} has no column {missing[0]}; it has {_tell_columns(schema)}")
            names = _read_names(features, chosen.label)
            if names and chosen.names and names != chosen.names:
                here, there = (", ".join(each[:5]) for each in (names, chosen.names))
                rule = "write all files with the same list of names"
                raise DataError(f"{path} numbers the classes as {here}, and {files[0]} as {there}: {rule}")
    assert chosen is not None
    return chosen


def _choose(path: Path, schema: Any, key: str, given: str, usual: Sequence[str], likely: Sequence[str]) -> str:
    """Returns the given column, the first of the usual ones, or the only likely one. Raises DataError."""
    if given and given not in schema.names:
        raise DataError(f"data.{key} = {given!r}: {path} has no column {given}; it has {_tell_columns(schema)}")
    found = [given] if given else [name for name in usual if name in schema.names][:1] or likely
    if len(found) != 1:
        several = f", and {' and '.join(found)} may be meant" if found else ""
        raise DataError(
            f"{path} has no column {usual[0]}{several}: name the column as data.{key}; it has {_tell_columns(schema)}"
        )
    return found[0]


def _holds_images(kind: Any, feature: Mapping[str, Any]) -> bool:
    """Returns whether a column may hold encoded images: a struct with bytes, or bytes."""
    import pyarrow

    if feature.get("_type") == "Image" or pyarrow.types.is_binary(kind) or pyarrow.types.is_large_binary(kind):
        return True
    return bool(pyarrow.types.is_struct(kind)) and kind.get_field_index("bytes") >= 0


def _holds_numbers(kind: Any) -> bool:
    import pyarrow

    return bool(pyarrow.types.is_integer(kind) or pyarrow.types.is_boolean(kind))


def _tell_columns(schema: Any) -> str:
    return ", ".join(f"{each.name} ({str(each.type).partition('<')[0]})" for each in schema) or "no columns"


def _read_features(metadata: Mapping[bytes, bytes] | None) -> dict[str, dict[str, Any]]:
    """Reads what Hugging Face's metadata tells of each column; nothing if there is none, or it is damaged."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _read_names(features: Mapping[str, Mapping[str, Any]], label: str) -> tuple[str, ...]:
    """Returns the names of the classes, in the order of their numbers; none if the metadata has none."""
    return tuple(map(str, features.get(label, {}).get("names") or ()))


@dataclass
class _Rows:
    """The decoded rows of a part."""

    pixels: list[Pixels]
    labels: list[int]
    turned: int = 0


def _decode_part(paths: Sequence[Path], columns: _Columns, config: DataConfig) -> _Rows:
    """Reads all images of a part.

    Raises DataError with the rows of images that are damaged, or of one that does not fit the others.
    """
    rows, held, problems = _Rows([], []), 0, Problems()
    for path, row, encoded, label in _read_rows(paths, columns, config):
        image = None
        with problems:
            image = decode_image(encoded, f"{path}, row {row}", config.image_size)
        if image is None:
            continue
        pixels, turned = image
        if not isinstance(label, int) or not 0 <= label < 1_000_000:
            hidden = "; -1 stands for a label that is not published" if label == -1 else ""
            raise DataError(f"{path}, row {row}: label {label!r}; a whole number from 0 to 999999 is needed{hidden}")
        if rows.pixels and pixels.shape[:2] != rows.pixels[0].shape[:2]:
            rule = "set data.image_size to bring all to one size"
            first = rows.pixels[0].shape
            raise DataError(f"{path}, row {row}: shape {pixels.shape}, but the first has {first}; {rule}")
        rows.pixels.append(pixels)
        rows.labels.append(int(label))
        rows.turned += turned
        held += pixels.nbytes
        _check_memory(held, path, config)
    problems.tell()
    if not rows.pixels:
        raise DataError(f"{paths[0]} has no rows")
    return rows


def _check_classes(labels: Sequence[int], path: Path, columns: _Columns) -> None:
    if len(set(labels)) < 2:
        raise DataError(
            f"{path} has one class alone: its column {columns.label} is {labels[0]} in all rows; it has "
            f"{columns.told}: data.label_column names the one with the classes"
        )


def _check_memory(held: int, path: Path, config: DataConfig) -> None:
    if held > config.memory_limit * 2**20:
        raise DataError(
            f"{path.parent} holds more than data.memory_limit = {config.memory_limit} MiB of pixels: raise it, "
            "take a smaller data.image_size, or unpack the images into an imagefolder, which is read as needed"
        )


def _stack(rows: _Rows, colour: bool, path: Path, config: DataConfig) -> MemoryImages:
    """Returns the rows as one tensor. If there are colour images in the data set, grey ones get three channels."""
    grey = sum(pixels.ndim == 2 for pixels in rows.pixels) if colour else 0
    height, width = rows.pixels[0].shape[:2]
    _check_memory(len(rows.pixels) * height * width * (3 if colour else 1), path, config)
    images = torch.empty(len(rows.pixels), 3 if colour else 1, height, width, dtype=torch.uint8)
    for place, pixels in enumerate(rows.pixels):
        own = torch.from_numpy(pixels)
        images[place] = own if own.dim() == 2 else own.permute(2, 0, 1)
    changes = describe_turned(rows.turned) | ({"brought from grey to three equal channels": grey} if grey else {})
    return MemoryImages(images, torch.tensor(rows.labels, dtype=torch.int64), changes)


@contextmanager
def _open_table(path: Path) -> Iterator[Any]:
    """Opens a parquet file. Raises DataError, also for what is found to be damaged while it is read."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError("reading parquet needs pyarrow: pip install 'densenet-ablations[parquet]'") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is not a readable parquet file: {explain_content(path) or error}") from error


def _read_rows(paths: Sequence[Path], columns: _Columns, config: DataConfig) -> Iterator[tuple[Path, int, Any, Any]]:
    """Yields the file, row number, encoded image and label of each row. Raises DataError."""
    for path in paths:
        with _open_table(path) as file:
            _check_packing(path, file.metadata, config)
            wanted = list(dict.fromkeys([columns.image, columns.label]))
            batches = file.iter_batches(columns=wanted, batch_size=1000)
            row = 0
            for batch in show_progress(batches, f"Decoding {path.name}", -(-file.metadata.num_rows // 1000)):
                for values in batch.to_pylist():
                    yield path, row, _take_bytes(values[columns.image], f"{path}, row {row}"), values[columns.label]
                    row += 1


def _take_bytes(value: Any, where: str) -> Any:
    """Returns the encoded image of a cell. Raises DataError for a cell that only names a file."""
    encoded = value.get("bytes") if isinstance(value, dict) else value
    if encoded is None:
        path = value.get("path") if isinstance(value, dict) else None
        names = f"it only names a file, {path!r}" if path else "the cell is empty"
        rule = "write the images themselves into the table, or put them into an imagefolder"
        raise DataError(f"{where}: not a readable image ({names}); {rule}")
    return encoded


def _check_packing(path: Path, metadata: Any, config: DataConfig) -> None:
    """Raises DataError for a table that would take far more memory than its file: encoded images hardly shrink."""
    for group in range(metadata.num_row_groups):
        for column in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(column)
            whole, packed = chunk.total_uncompressed_size, max(chunk.total_compressed_size, 1)
            if whole > config.memory_limit * 2**20 and whole > UNLIKELY * packed:
                rule = f"at most {UNLIKELY} times are taken above data.memory_limit = {config.memory_limit} MiB"
                raise DataError(
                    f"{path}: its column {chunk.path_in_schema} has {whole / 2**20:,.0f} MiB, "
                    f"{whole // packed:,} times as much as in the file; {rule}"
                )

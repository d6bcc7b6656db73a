"""Small data files that the tests of data write, with noise that is always the same."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

FOLDER = {"name": "imagefolder", "image_size": 8}
"""Fields of a configuration that reads `write_pictures`' folder."""


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def encode(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, format="PNG")
    return content.getvalue()


def write_parquet(folder: Path, part: str, images: list[bytes], labels: list[int]) -> None:
    structs = [{"bytes": image, "path": "x.png"} for image in images]
    table = pa.table({"image": structs, "label": pa.array(labels, pa.int64())})
    pyarrow.parquet.write_table(table, folder / f"{part}.parquet")


def write_tables(folder: Path) -> Path:
    """Parquet files of 12 training and 6 test images of 5 x 4 in three classes, in a new folder `pictures`."""
    place = folder / "pictures"
    place.mkdir()
    generator = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 6)):
        pixels = generator.integers(0, 256, (count, 5, 4, 3), dtype=np.uint8)
        write_parquet(place, part, [encode(image) for image in pixels], [index % 3 for index in range(count)])
    return place


def write_pictures(place: Path) -> Path:
    """An image folder of two classes, of different sizes and modes: 4 and 6 images to train on, 2 and 2 to test on."""
    generator = np.random.default_rng(0)
    for part, counts in (("train", (4, 6)), ("test", (2, 2))):
        for name, count in zip(("cat", "dog"), counts, strict=True):
            folder = place / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (10 + number, 14, 3), dtype=np.uint8)
                image = Image.fromarray(pixels).convert("L" if number == 1 else "RGB")
                image.save(folder / f"{number}.png")
    return place

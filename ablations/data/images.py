"""Image files: decoded into pixels, and read when they are needed."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

Pixels = np.ndarray
"""uint8 `(H, W)` or `(H, W, 3)`."""


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes that become 8-bit grey or RGB without loss of range."""


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


def show_progress(items: Iterable[Any], text: str, total: int) -> Iterable[Any]:
    """The items, with a progress bar on standard error meanwhile."""
    from rich.console import Console
    from rich.progress import track

    return track(items, text, total=total, transient=True, console=Console(stderr=True))

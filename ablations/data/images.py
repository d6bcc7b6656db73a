"""Images with their classes, in memory or in files, and the decoding of one image."""

from __future__ import annotations

import hashlib
import io
import multiprocessing
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils import data

from ablations import signals
from ablations.limits import count_cores

Pixels = np.ndarray
"""uint8 `(H, W)` or `(H, W, 3)`."""


MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")
"""Pillow's modes that become 8-bit grey or RGB without loss of range."""


FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
"""Pillow's formats that are opened, whatever a file's name says. Others may start programs, as EPS does."""

PNG_MARKS = (b"eXIf", b"exif", b"xmp")
"""One of them is in every PNG file that tells its orientation."""

DECODING = 2
"""The version of the rules by which an image becomes pixels, raised by hand when they change. 2: EXIF orientation."""


class DataError(ValueError):
    """Data is missing or wrong. The message says what to do; bytes of a name that are not UTF-8 are escaped in it."""

    def __init__(self, message: str) -> None:
        super().__init__(message.encode("utf-8", "backslashreplace").decode())


class Problems:
    """Collects the DataErrors that are raised in it as a context, so that they are told together."""

    MOST = 10
    """The most errors that are collected: more are hardly of different kinds."""

    def __init__(self) -> None:
        self._said: list[str] = []

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, DataError):
            return False
        self._said.append(str(error))
        if len(self._said) >= self.MOST:
            self.tell()
        return True

    def tell(self) -> None:
        """Raises DataError with all errors if there are any."""
        if self._said:
            raise DataError("; ".join(self._said) + "; there may be more" * (len(self._said) >= self.MOST))


class ImageSource(Protocol):
    """N images of one shape and their classes, as training reads them from memory or from files."""

    @property
    def labels(self) -> Tensor:
        """The class of each image, int64 `(N,)`."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""

    @property
    def changes(self) -> dict[str, int]:
        """What was changed in how many images when they were decoded, for example `{"turned upright": 3}`."""

    @property
    def forks(self) -> bool:
        """Whether `batches` forks processes.

        Then no other thread should write: the processes would inherit its locks.
        """

    def __len__(self) -> int: ...

    def batches(self, indices: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yields uint8 `(n, C, H, W)` for each tensor of n indices, on the device of the labels. Raises DataError."""

    def subset(self, indices: Tensor) -> ImageSource:
        """Returns the images of these indices, `(n,)`, with their classes."""

    def load(self, title: str = "") -> MemoryImages:
        """Loads all images into memory, with a progress bar if there is a title. Raises DataError."""

    def to(self, device: torch.device) -> ImageSource:
        """Returns the same images on another device. Files stay where they are."""


@dataclass(frozen=True)
class MemoryImages:
    """Images in memory."""

    images: Tensor
    """uint8 `(N, C, H, W)`."""

    labels: Tensor
    """int64 `(N,)`."""

    changes: dict[str, int] = field(default_factory=dict)
    """What was changed in how many images when they were decoded, for example `{"turned upright": 3}`."""

    forks = False

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def batches(self, indices: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yields uint8 `(n, C, H, W)` for each tensor of n indices."""
        for batch in indices:
            yield self.images.index_select(0, batch)  # nine times as fast as [batch] on a CPU

    def subset(self, indices: Tensor) -> MemoryImages:
        """Copies the images of these indices, `(n,)`."""
        return MemoryImages(self.images[indices], self.labels[indices])

    def load(self, title: str = "") -> MemoryImages:
        """Returns these images, which are already in memory."""
        return self

    def to(self, device: torch.device) -> MemoryImages:
        """Returns the same images on another device."""
        return replace(self, images=self.images.to(device), labels=self.labels.to(device))


@dataclass(frozen=True)
class FileImages:
    """Images in files. Each image is read, compared with its checksum, and decoded when it is needed."""

    paths: tuple[Path, ...]
    labels: Tensor
    """int64 `(N,)`."""

    sums: np.ndarray
    """The SHA-256 of each file, uint8 `(N, 32)`."""

    size: int
    """Height and width to which each image is resized, in pixels."""

    workers: int = 0
    """The number of processes that read batches. With 0, the training process reads them."""

    changes: dict[str, int] = field(default_factory=dict)
    """What is changed in how many images when they are decoded."""

    channels: int = 3
    """1 if all images are grey, else 3."""

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""
        return self.channels, self.size, self.size

    @property
    def forks(self) -> bool:
        """Whether other processes read the files."""
        return self.workers > 0

    def read(self, index: int) -> tuple[Pixels, bool]:
        """Reads one image, uint8 `(size, size, C)`, and returns whether it was turned upright, too.

        Raises DataError with the name of the file if it is not an image or has another checksum.
        """
        path = self.paths[index]
        try:
            encoded = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(encoded).digest() != self.sums[index].tobytes():
            rule = "bring its old content back, or run the grid again to plan new jobs"
            raise DataError(f"{path} has changed since the data set was checked: {rule}")
        pixels, turned = decode_image(encoded, str(path), self.size, colour=self.channels == 3)
        return pixels.reshape(self.size, self.size, self.channels), turned

    def read_batch(self, indices: Sequence[int]) -> np.ndarray:
        """Reads the images of these n indices, uint8 `(n, C, size, size)`. Raises DataError."""
        pixels = np.stack([self.read(index)[0] for index in indices])
        return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))

    def batches(self, indices: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yields uint8 `(n, C, size, size)` for each tensor of n indices, on the labels' device. Raises DataError.

        If there is no room in /dev/shm for the locks of other processes, this process reads the files.
        """
        workers = min(self.workers, count_cores()) if _has_room_for_locks() else 0
        for images in _make_loader(self, [batch.tolist() for batch in indices], workers):
            if isinstance(images, Exception):
                raise images
            yield torch.from_numpy(images).to(self.labels.device)

    def subset(self, indices: Tensor) -> FileImages:
        """Selects the files of these indices, `(n,)`, without reading them."""
        paths = tuple(self.paths[index] for index in indices.tolist())
        return replace(self, paths=paths, labels=self.labels[indices], sums=self.sums[indices.numpy()])

    def load(self, title: str = "") -> MemoryImages:
        """Reads all files in this process, with a progress bar if there is a title. Raises DataError."""
        indices = range(len(self))
        shown = show_progress(indices, title, len(self)) if title else indices
        images, turned = torch.empty(len(self), *self.shape, dtype=torch.uint8), 0
        problems = Problems()
        for index in shown:
            with problems:
                pixels, upright = self.read(index)
                images[index] = torch.from_numpy(pixels).permute(2, 0, 1)
                turned += upright
        problems.tell()
        return MemoryImages(images, self.labels, describe_turned(turned))

    def to(self, device: torch.device) -> FileImages:
        """Returns the same images, with batches on another device."""
        return replace(self, labels=self.labels.to(device))


@dataclass(frozen=True)
class _Reader(data.Dataset[Any]):
    """Reads batches for a data loader. An exception is returned, so that it reaches the training as it was raised.

    Batches are arrays: a tensor of another process needs shared memory, of which a container may have little.
    """

    images: FileImages

    def __getitem__(self, indices: list[int]) -> np.ndarray | Exception:
        try:
            return self.images.read_batch(indices)
        except (DataError, MemoryError) as error:
            return error
        except Exception as error:  # an exception may be of a class that the training process cannot make again
            return DataError(f"images cannot be read: {type(error).__name__}: {error}")


def _has_room_for_locks() -> bool:
    """Returns whether processes can share a lock, which lies in /dev/shm and takes an open file for a moment."""
    try:
        multiprocessing.get_context("fork").Lock()
    except OSError:
        return False
    return True


def _make_loader(images: FileImages, wanted: list[list[int]], workers: int) -> data.DataLoader[Any]:
    return data.DataLoader(
        _Reader(images),
        batch_size=None,
        sampler=wanted,
        collate_fn=_keep,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,  # other methods import torch in each process
        worker_init_fn=_ignore_stop_signals,
        generator=torch.Generator(),  # a generator of its own, because dropout uses the common one
    )


def _keep(batch: Any) -> Any:
    """Returns a batch as it was read."""
    return batch


def _ignore_stop_signals(worker: int) -> None:
    """Makes a worker that reads images ignore stop signals, because the training ends it."""
    signals.ignore_stop_signals()


def decoder_version() -> str:
    """Returns what the pixels of a decoded image depend on beside its content: our rules and the version of Pillow."""
    return f"rules {DECODING}, Pillow {metadata.version('pillow')}"


def decode_image(encoded: Any, where: str, size: int, colour: bool = False) -> tuple[Pixels, bool]:
    """Decodes an image, resizes its shorter side to `size` and keeps the middle square; size 0 changes nothing.

    An image whose EXIF data names another orientation is turned upright; the second value says whether it was. A grey
    image stays grey unless `colour` is true. Raises DataError that names the image by `where`.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of damaged EXIF data, which changes no pixel
            opened = Image.open(io.BytesIO(encoded), formats=FORMATS)
            if opened.mode not in MODES or _has_deep_channels(opened):
                mode = opened.mode if opened.mode not in MODES else f"{opened.mode} with 16 bits"
                raise ValueError(f"mode {mode}; 8 bits a channel are needed: {', '.join(MODES)}")
            opened.load()  # raises what is wrong with the pixels, which reading the EXIF data of a PNG would hide
            turned = _needs_turn(opened)
            upright = ImageOps.exif_transpose(opened) if turned else opened
            image = upright if upright.mode == "L" and not colour else upright.convert("RGB")
            return np.array(_crop_square(image, size) if size else image), turned
    except UnidentifiedImageError as error:
        raise _refuse(encoded, where) from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged image may raise anything
        raise DataError(f"{where}: not a readable image ({error})") from error


def _has_deep_channels(opened: Any) -> bool:
    """Returns whether an image has more than 8 bits a channel, of which Pillow would drop the lower ones."""
    arguments = [each for tile in opened.tile for each in (tile[3] if isinstance(tile[3], tuple) else (tile[3],))]
    depths = [each for each in arguments if isinstance(each, int)] if opened.format == "PPM" else []
    return any(";16" in str(each) for each in arguments) or max(depths, default=0) > 255


def is_grey(path: Path) -> bool:
    """Returns whether an image file holds 8-bit grey values alone, by its header."""
    from PIL import Image

    try:
        with Image.open(path, formats=FORMATS) as opened:
            return opened.mode == "L"
    except Exception:  # a damaged image may raise anything; it is reported when it is read
        return False


def _refuse(encoded: Any, where: str) -> DataError:
    """Returns the error for a content that is no image."""
    said = explain_start(bytes(encoded[:START])) or "its format is not known"
    return DataError(f"{where}: not a readable image ({said})")


START = 64
"""The bytes at the start of a file that tell what it is."""


def explain_start(start: bytes) -> str:
    """Returns what a file with this start is in place of data; empty if that is not known."""
    if not start:
        return "it is empty"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS in place of the file: `git lfs pull` brings the file itself"
    if start.lstrip().lower().startswith((b"<!doctype", b"<html")):
        return "it is a page of a website: what was downloaded is not the file itself"
    return ""


def explain_content(path: Path) -> str:
    """Returns what a file is in place of data; empty if that is not known, or it cannot be read."""
    try:
        with path.open("rb") as file:
            return explain_start(file.read(START))
    except OSError:
        return ""


def needs_turn(path: Path) -> bool:
    """Returns whether the EXIF data of an image file names another orientation than upright.

    Raises DataError for a file whose start is not that of an image.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        encoded = path.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            opened = Image.open(io.BytesIO(encoded), formats=FORMATS)
            if opened.format == "PNG" and not any(mark in encoded for mark in PNG_MARKS):
                return False  # else all its pixels are decoded, because EXIF data may stand behind them
            return _needs_turn(opened)
    except UnidentifiedImageError as error:
        raise _refuse(encoded, str(path)) from error
    except Exception:  # a damaged image may raise anything; it is reported when it is read
        return False


def _needs_turn(opened: Any) -> bool:
    from PIL import ExifTags

    try:
        orientation = opened.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF data may raise anything
        return False
    return opened.format != "TIFF" and orientation in range(2, 9)  # Pillow turns TIFF images itself


def describe_turned(count: int) -> dict[str, int]:
    """Returns the change that orientation made to so many images, for `changes`."""
    return {"turned upright": count} if count else {}


def _crop_square(image: Any, size: int) -> Any:
    from torchvision.transforms import v2

    return v2.functional.center_crop(v2.functional.resize(image, [size], antialias=True), [size, size])


def show_progress(items: Iterable[Any], title: str, total: int) -> Iterable[Any]:
    """Yields the items, and shows a progress bar on standard error."""
    from rich.console import Console
    from rich.progress import track

    return track(items, title, total=total, transient=True, console=Console(stderr=True))

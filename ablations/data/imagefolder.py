"""Data sets in image folders, with one folder for each class."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ablations.config import DataConfig
from ablations.data.cache import count_once
from ablations.data.digests import hash_files
from ablations.data.images import (
    DataError,
    FileImages,
    Problems,
    decoder_version,
    describe_turned,
    is_grey,
    needs_turn,
    show_progress,
)
from ablations.data.listing import belongs, count_kinds, list_files, list_folders, show_name
from ablations.data.source import TEST_NAMES, Parts, Source, finish_checksum, tell_choice
from ablations.data.subsets import cut
from ablations.limits import measure_memory

SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Suffixes of the files that are images, in small or capital letters."""

SET_NAME = re.compile(r"(train|training|test|testing|val|valid|validation|dev|eval)([ _-]?(set|data|images))?")
"""Names that folders of a whole set have, and that classes hardly have all together."""

DEEPEST = 3
"""Folders below each other in which the classes are looked for, to suggest another place."""

Files = tuple[list[Path], list[int]]
"""The files of a set and the number of the class of each."""


def imagefolder(config: DataConfig) -> Source:
    """A folder `train` and a folder `test` (or `val`), each with a folder of images for every class.

    Without a test set, a validation set takes its place, or data.test_share of the images becomes the test set. Images
    that need more memory than data.memory_limit are read from their files when they are needed. Raises DataError.
    """
    if not config.root:
        raise DataError(
            "data.root is missing: imagefolder needs the folder that holds train/CLASS/... and test/CLASS/..."
        )
    if not config.image_size:
        raise DataError("data.image_size is missing: an image folder's images are brought to one size, for example 224")
    root = Path(config.root)
    places, notes = _find_places(root, config)
    names = _find_classes(root, places)
    found: dict[str, Files] = {}
    left_out: list[Path] = []
    for part, place in places.items():
        found[part], others = _list_images(place, names)
        left_out += others
    notes += (*_tell_doubtful(places["train"], names), *_tell_left_out(left_out))
    if "test" not in found:
        found = _cut_test_set(found["train"], config)
    files = [path for paths, _ in found.values() for path in paths]
    sums = hash_files(root, files)
    digest = _hash_folder(root, files, sums)
    digest.update(f"test_share {config.test_share}".encode())
    checksum = finish_checksum(digest, config)
    grey = bool(count_once(f"{checksum}-grey", lambda: int(all(map(is_grey, files)))))
    notes += ("all images are grey, so they have one channel",) if grey else ()
    fits = 3 * config.image_size**2 * len(files) <= min(config.memory_limit * 2**20, measure_memory() // 2)
    table = np.frombuffer(bytes.fromhex("".join(sums)), dtype=np.uint8).reshape(-1, 32)

    def decode() -> Parts:
        parts: Parts = {}
        start = 0
        for part, (paths, labels) in found.items():
            own = table[start : start + len(paths)]
            start += len(paths)
            changes = {} if fits else _count_turned(f"{checksum}-{part}", paths)
            images = FileImages(
                tuple(paths), torch.tensor(labels), own, config.image_size, config.workers, changes, 1 if grey else 3
            )
            parts[part] = images.load(f"Reading {part}") if fits else images
        return parts

    label = show_name(root.resolve().name)
    titles = tuple(show_name(name) for name in names)
    decoder = f"{decoder_version()}{', grey' if grey else ''}"
    return Source(label, checksum, decode, len(names), titles, notes, decoder, fits, True, published=False)


def _find_places(root: Path, config: DataConfig) -> tuple[dict[str, Path], tuple[str, ...]]:
    """Returns the folder of each set, and notes on the choice. Raises DataError if there is no set."""
    folders = {each.name: each for each in list_folders(root)} if root.is_dir() else {}
    sets = {**{name.lower(): each for name, each in folders.items()}, **folders}
    tests = [sets[name] for name in TEST_NAMES if name in sets]
    test = next((each for each in tests if list_folders(each)), tests[0] if tests else None)
    if "train" in sets and test:
        return {"train": sets["train"], "test": test}, tell_choice(test.name, [each.name for each in tests], config)
    if root.is_dir() and config.test_share and (beside := [each.name for each in tests if "train" not in sets]):
        raise DataError(
            f"{root} has the folder {beside[0]}, which seems to be a set, beside {_name_some(list(folders))}: move the "
            "folders of classes to train, or the set away"
        )
    if root.is_dir() and config.test_share:
        return {"train": sets.get("train", root)}, ()
    if not root.is_dir():
        raise DataError(f"there is no folder {root}: data.root is taken from the grid file's folder, then from here")
    has = f"; it has {_name_some(list(folders))}" if folders else ""
    deeper = next((each for each in folders.values() if (each / "train").is_dir()), None)
    raise DataError(
        f"{root} has no folders train and test (or val), each with a folder of images for every class{has}; "
        + (f"a set seems to lie in {deeper}; " if deeper else "")
        + "where there is one set alone, data.test_share = 0.2 cuts a fifth of it for the test"
    )


def _find_classes(root: Path, places: dict[str, Path]) -> tuple[str, ...]:
    """Returns the names of the classes. Raises DataError if there are fewer than two, or the sets have other ones."""
    names = {part: [each.name for each in list_folders(place)] for part, place in places.items()}
    train = places["train"]
    if not any(names.values()):
        raise DataError(f"{train} has no folders: each class needs a folder of images, named after the class")
    odd = sorted(set(names["train"]).symmetric_difference(names.get("test", names["train"])))
    if odd and len({unicodedata.normalize("NFC", name) for name in odd}) < len(odd):
        rule = "rename those of one set (macOS writes é as e and an accent)"
        raise DataError(
            f"{root}: names of classes in train and test look alike but have other letters: {odd!a}; {rule}"
        )
    if odd:
        raise DataError(f"{root}: train and test must have the same folders of classes; they differ in {odd}")
    if all(SET_NAME.fullmatch(name.lower()) for name in names["train"]):
        raise DataError(
            f"{train} has the folders {_name_some(names['train'])}, which seem to be sets and not classes: name them "
            "train and test"
        )
    if len(names["train"]) < 2:
        raise DataError(f"{train} has one class alone, {names['train'][0]}{_suggest_level(train, 'test' in places)}")
    return tuple(names["train"])


def _tell_doubtful(place: Path, names: Sequence[str]) -> Iterator[str]:
    """Yields notes on classes that may be one, and on classes that look like parts of the data, such as `fold1`."""
    first: dict[str, str] = {}
    for name in names:
        known = first.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if known != name:
            rule = "are two classes, although they differ only in capital letters or in how their letters are encoded"
            yield f"{show_name(known)} and {show_name(name)} {rule}"
    inner = [[each.name for each in list_folders(place / name)] for name in names]
    beside = [path for name in names for path in (place / name).iterdir() if path.suffix.lower() in SUFFIXES]
    if len(inner[0]) > 1 and all(each == inner[0] for each in inner) and not beside:
        taken, others = (", ".join(map(show_name, each[:5])) for each in (names, inner[0]))
        yield f"the classes are {taken}, and not {others}, which are folders in each of them"


def _suggest_level(place: Path, in_sets: bool) -> str:
    """Returns the end of an error: where the classes seem to lie, if a folder below holds several folders of images."""
    level = [place]
    for _ in range(DEEPEST):
        level = [inner for each in level for inner in list_folders(each)]
        for each in level:
            classes = [inner.name for inner in list_folders(each) if list_files(inner, SUFFIXES).taken]
            if len(classes) > 1:
                move = f"move them to {place}, in each set" if in_sets else f'give data.root = "{each}"'
                return f"; the classes seem to lie in {each} ({_name_some(classes)}): {move}"
    return ": two classes or more are needed, each in a folder of its own"


def _list_images(place: Path, names: Sequence[str]) -> tuple[Files, list[Path]]:
    """Lists the image files of a set with the numbers of their classes, and the files that are left out.

    Raises DataError for a class without images.
    """
    paths: list[Path] = []
    labels: list[int] = []
    others = [each for each in place.iterdir() if belongs(each.name) and not each.is_dir()]
    for label, name in enumerate(names):
        found = list_files(place / name, SUFFIXES)
        if not found.taken:
            has = f", and it has {count_kinds(found.others)}" if found.others else ""
            raise DataError(f"{place / name} has no images; files that count end in {', '.join(SUFFIXES)}{has}")
        paths += found.taken
        labels += [label] * len(found.taken)
        others += found.others
    return (paths, labels), others


def _tell_left_out(others: Sequence[Path]) -> tuple[str, ...]:
    """Returns a note on the files that are left out, if there are any."""
    if not others:
        return ()
    rule = f"images lie in the folder of a class and end in {', '.join(SUFFIXES)}"
    return (f"left out: {count_kinds(others)} ({rule})",)


def _name_some(names: Sequence[str]) -> str:
    """Returns up to five names."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _count_turned(key: str, paths: Sequence[Path]) -> dict[str, int]:
    """Counts the images that are turned upright when they are read. The count is stored under a key.

    Raises DataError with the files that are no images.
    """

    def count() -> int:
        problems, turned = Problems(), 0
        for path in show_progress(paths, "Reading orientations", len(paths)):
            with problems:
                turned += needs_turn(path)
        problems.tell()
        return turned

    return describe_turned(count_once(f"{key}-turned", count))


def _cut_test_set(only: Files, config: DataConfig) -> dict[str, Files]:
    """Divides the only set of images into training and test images."""
    paths, labels = only
    size = round(config.test_share * len(labels))
    out = cut(torch.tensor(labels), size, 0, f"data.test_share = {config.test_share:g}").tolist()
    parts: dict[str, Files] = {"train": ([], []), "test": ([], [])}
    for is_out, path, label in zip(out, paths, labels, strict=True):
        part = parts["test" if is_out else "train"]
        part[0].append(path)
        part[1].append(label)
    return parts


def _hash_folder(root: Path, files: Sequence[Path], sums: Sequence[str]) -> Any:
    """Returns a SHA-256 object for the names, sizes and contents of all files."""
    digest = hashlib.sha256(b"imagefolder")
    for path, sum_ in zip(files, sums, strict=True):
        digest.update(os.fsencode(path.relative_to(root).as_posix()) + f"\0{_read_size(path)}\0".encode())
        digest.update(bytes.fromhex(sum_))
    return digest


def _read_size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error

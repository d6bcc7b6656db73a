"""Checksums of files: each file is read once, and again when it has changed."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest
from data_files import FOLDER, write_pictures, write_tables

from ablations.config import DataConfig
from ablations.data import digests
from ablations.data.dataset import load
from ablations.data.images import DataError
from ablations.storage import files
from ablations.storage.paths import cache_folder


@pytest.fixture
def hashed(monkeypatch) -> list[str]:
    """The names of the files that are read to be hashed, from now on."""
    names, hash_file = [], digests.hash_file

    def noting(path: Path, kind: str) -> str:
        names.append(path.name)
        return hash_file(path, kind)

    monkeypatch.setattr(digests, "hash_file", noting)
    return names


@pytest.fixture
def later(monkeypatch) -> None:
    """The clock is ten seconds ahead: files that a test has just written have settled."""
    now = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now() + 10**10)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kept() -> set[Path]:
    return set((cache_folder() / "digests").glob("*"))


def set_time(path: Path, nanoseconds: int) -> None:
    os.utime(path, ns=(nanoseconds, nanoseconds))


@pytest.mark.parametrize("kind", ["parquet", "imagefolder"])
def test_a_second_load_hashes_no_file(kind, tmp_path, hashed, later):
    if kind == "parquet":
        config, count = DataConfig(name="parquet", root=str(write_tables(tmp_path))), 2
    else:
        config, count = DataConfig(**FOLDER, root=str(write_pictures(tmp_path))), 14
    first = load(config).checksum
    assert len(hashed) == count
    assert load(config).checksum == first
    assert len(hashed) == count


def test_a_changed_file_is_hashed_again_and_it_alone(tmp_path, hashed, later):
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_bytes(b"before")
    digests.hash_files(tmp_path, paths)
    state = paths[1].stat()
    paths[1].write_bytes(b"behind")
    set_time(paths[1], state.st_mtime_ns - 1)
    assert paths[1].stat().st_size == state.st_size
    assert digests.hash_files(tmp_path, paths) == [sha256(path) for path in paths]
    assert hashed == ["a", "b", "b"]
    assert digests.hash_files(tmp_path, paths) == [sha256(path) for path in paths]
    assert hashed == ["a", "b", "b"]


def test_a_change_is_seen_even_if_the_old_time_is_put_back(tmp_path, later):
    path = tmp_path / "a"
    path.write_bytes(b"before")
    before = path.stat()
    digests.hash_files(tmp_path, [path])
    time.sleep(0.02)  # longer than a tick of the file system's clock
    path.write_bytes(b"behind")
    set_time(path, before.st_mtime_ns)
    assert digests.hash_files(tmp_path, [path]) == [sha256(path)]


@pytest.mark.parametrize("ahead", [0, 3600], ids=["just written", "dated in the future"])
def test_a_file_that_may_still_change_unseen_is_hashed_every_time(ahead, tmp_path, hashed):
    path = tmp_path / "a"
    path.write_bytes(b"content")
    set_time(path, time.time_ns() + ahead * 10**9)
    for _ in range(2):
        digests.hash_files(tmp_path, [path])
    assert hashed == ["a", "a"]


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content.replace(b"[", b"("), bytes.swapcase])
def test_kept_checksums_that_are_damaged_are_not_used(damage, tmp_path, hashed, later):
    path, before = tmp_path / "a", kept()
    path.write_bytes(b"content")
    digests.hash_files(tmp_path, [path])
    (place,) = kept() - before
    whole = place.read_bytes()
    place.write_bytes(damage(whole))
    assert digests.hash_files(tmp_path, [path]) == [sha256(path)]
    assert hashed == ["a", "a"]
    assert place.read_bytes() == whole, "and they are kept anew"


def test_checksums_that_cannot_be_kept_are_computed_each_time(tmp_path, hashed, later, monkeypatch):
    def fail(*arguments):
        raise files.StorageError(28, "cannot be written: No space left on device", "there")

    monkeypatch.setattr(files, "write", fail)
    path = tmp_path / "a"
    path.write_bytes(b"content")
    for _ in range(2):
        assert digests.hash_files(tmp_path, [path]) == [sha256(path)]
    assert hashed == ["a", "a"]


def test_a_file_that_is_missing_is_named(tmp_path):
    with pytest.raises(DataError, match=r"a cannot be read: No such file"):
        digests.hash_files(tmp_path, [tmp_path / "a"])

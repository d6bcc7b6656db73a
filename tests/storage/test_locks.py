"""The lock on a results folder: who waits for whom, who is told, and that no lock outlives its holder."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import re
import socket
import time

import pytest

from ablations.storage import locks
from ablations.storage.files import StorageError


def grab(folder, ready):
    with locks.lock_folder(folder):
        ready.set()
        time.sleep(60)


def test_a_folder_has_one_holder_who_is_named_and_outlived(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.2)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    other = context.Process(target=grab, args=(tmp_path, ready))
    other.start()
    assert ready.wait(30)
    who = rf"process {other.pid} on {socket.gethostname()} since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\+00:00"
    assert re.fullmatch(who, locks.find_holder(tmp_path))
    with pytest.raises(locks.FolderInUse, match=f"is being worked on by {who}"), locks.lock_folder(tmp_path):
        pass
    other.kill()
    other.join()
    assert (tmp_path / ".lock").exists(), "the dead leave their file, and hold nothing"
    assert locks.find_holder(tmp_path) == ""
    with locks.lock_folder(tmp_path):
        assert f"process {os.getpid()} " in locks.find_holder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_lock_file_that_was_removed_is_no_lock(tmp_path):
    """Whoever waited for a holder who removed the file must not hold what nobody else can see."""
    with locks.lock_folder(tmp_path):
        descriptor = os.open(tmp_path / ".lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with locks.lock_folder(tmp_path):
        assert locks.find_holder(tmp_path)
    os.close(descriptor)


def test_whoever_ends_does_not_remove_another_s_lock(tmp_path):
    with locks.lock_folder(tmp_path):
        (tmp_path / ".lock").unlink()
        with locks.lock_folder(tmp_path):
            pass
        (tmp_path / ".lock").touch()
    assert (tmp_path / ".lock").exists()


def count_up(folder, times):
    for _ in range(times):
        with locks.lock_folder(folder):
            number = int((folder / "number").read_text())
            time.sleep(0.001)
            (folder / "number").write_text(str(number + 1))


def test_nobody_is_ever_in_a_folder_with_somebody_else(tmp_path):
    (tmp_path / "number").write_text("0")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=count_up, args=(tmp_path, 20)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "number").read_text() == "80"


def test_where_there_are_no_locks_work_goes_on(tmp_path, monkeypatch):
    def none(descriptor, mode):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with locks.lock_folder(tmp_path):
        assert locks.find_holder(tmp_path) == ""


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="file cannot be written"), locks.lock_folder(tmp_path / "file"):
        pass


def test_a_folder_that_was_renamed_or_replaced_is_told(tmp_path):
    place = tmp_path / "out"
    with locks.lock_folder(place) as check:
        check()
        place.rename(tmp_path / "elsewhere")
        with pytest.raises(StorageError, match=f"{place} was renamed, removed or replaced while this command worked"):
            check()
        with locks.lock_folder(place), pytest.raises(StorageError, match="replaced"):
            check()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"my own notes", b"[1, 2]"])
def test_a_file_of_the_user_s_is_no_lock(tmp_path, content):
    path = tmp_path / ".lock"
    if content is None:
        os.mkfifo(path)
        assert locks.find_holder(tmp_path) == ""
    else:
        path.write_bytes(content)
    assert locks.is_lock(path) == (content == b"")

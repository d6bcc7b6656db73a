"""Locks: who waits for whom, who is told, and that no lock outlives its holder."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import re
import socket
import tempfile
import time

import pytest

from ablations.storage import locks
from ablations.storage.files import StorageError


def hold(device, seconds, ready):
    with locks.lock_device(device, True, lambda: None):
        ready.set()
        time.sleep(seconds)


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_device_lock_waits_for_its_holder_and_outlives_no_one(exclusive):
    context = multiprocessing.get_context("spawn")
    device, ready, waited = f"test-{os.getpid()}-{exclusive}", context.Event(), []
    holder = context.Process(target=hold, args=(device, 60, ready))
    holder.start()
    assert ready.wait(30)

    def end_the_holder() -> None:
        waited.append(True)
        holder.kill()

    with locks.lock_device(device, exclusive, end_the_holder):
        assert waited == [True]
    holder.join()


def test_shared_holders_do_not_wait_for_each_other():
    device = f"test-shared-{os.getpid()}"
    with locks.lock_device(device, False, pytest.fail) as waited, locks.lock_device(device, False, pytest.fail):
        assert waited >= 0


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


def test_a_lock_that_cannot_be_opened_is_told_and_blocks_nobody(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    path = tmp_path / f"densenet-ablations-{os.getuid()}-cpu.lock"
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/null"), os.mkdir):
        make(path)
        with (
            pytest.raises(StorageError, match=r"cpu\.lock cannot be opened: "),
            locks.lock_device("cpu", True, pytest.fail),
        ):
            pass
        (path.rmdir if path.is_dir() else path.unlink)()


@pytest.mark.parametrize("content", [None, b"", b"{}", b"my own notes", b"[1, 2]"])
def test_a_file_of_the_user_s_is_no_lock(tmp_path, content):
    path = tmp_path / ".lock"
    if content is None:
        os.mkfifo(path)
        assert locks.find_holder(tmp_path) == ""
    else:
        path.write_bytes(content)
    assert locks.is_lock(path) == (content == b"")

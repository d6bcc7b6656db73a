"""Files: old or new and never torn, whatever system call of their writing fails or is the last."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
from broken_disk import Faults

from ablations.storage import files

OLD, NEW, OLDER = b"old" * 5000, b"new" * 5000, b"older"


def prepared(folder):
    folder.mkdir()
    (folder / "there").write_bytes(OLD)
    (folder / "before").write_bytes(OLDER)
    return folder


DEEDS = {
    "write": lambda folder: files.write(folder / "there", NEW),
    "rotate": lambda folder: files.rotate(folder / "there", folder / "before", NEW[:32], NEW[32:]),
    "create": lambda folder: files.create(folder / "made", NEW),
}


def check(deed, folder):
    """Old or new, and never torn; a checkpoint or the one before it is always there."""
    content = {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(".tmp")}
    if deed == "create":
        assert content.get("made", NEW) == NEW
    elif deed == "write":
        assert content["there"] in (OLD, NEW)
    else:
        states = [(OLD, OLDER), (None, OLD), (NEW, OLD)]
        assert (content.get("there"), content["before"]) in states


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EROFS, None])
@pytest.mark.parametrize("deed", DEEDS)
def test_old_or_new_whichever_call_fails(deed, error, tmp_path, monkeypatch):
    for at in range(1, calls(deed, tmp_path) + 1):
        folder = prepared(tmp_path / str(at))
        if error is None:
            process = os.fork()
            if not process:
                files.os = Faults(at, None)
                DEEDS[deed](folder)
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9
        else:
            monkeypatch.setattr(files, "os", Faults(at, error))
            with suppress(files.StorageError) if at > 4 else pytest.raises(files.StorageError, match=str(folder)):
                DEEDS[deed](folder)
            monkeypatch.setattr(files, "os", os)
        check(deed, folder)
        files.sweep(folder)
        swept = [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]
        assert len(swept) <= (error is not None), "only where removing it failed, and only while its writer lives"


def calls(deed, tmp_path):
    """How many system calls a deed makes."""
    counted = Faults(0, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "os", counted)
        DEEDS[deed](prepared(tmp_path / "counted"))
    assert counted.count >= 8, "open, write, fsync, close; the naming; open, fsync, close of the folder"
    return counted.count


def test_a_half_written_write_goes_on(tmp_path, monkeypatch):
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:1000]))
    files.write(tmp_path / "x", NEW)
    assert (tmp_path / "x").read_bytes() == NEW


def test_writing_the_same_again_touches_nothing(tmp_path):
    files.write(tmp_path / "x.csv", b"same")
    before = (tmp_path / "x.csv").stat()
    files.write(tmp_path / "x.csv", b"same")
    assert (tmp_path / "x.csv").stat().st_mtime_ns == before.st_mtime_ns
    assert (tmp_path / "x.csv").stat().st_ino == before.st_ino


def test_rotation_keeps_the_one_before(tmp_path):
    for content in (b"1", b"2", b"3"):
        files.rotate(tmp_path / "new" / "latest", tmp_path / "new" / "before", content)
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == {"latest": b"3", "before": b"2"}


def test_a_file_size_limit_is_told(tmp_path):
    script = f"""
import resource
from pathlib import Path
from ablations.storage import files
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    files.create(Path({str(tmp_path)!r}) / "large", bytes(5000))
except files.StorageError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout == f"{tmp_path}/large cannot be written: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_only_what_the_dead_have_left_is_swept(tmp_path):
    """A number is no process: in another container it is another one. Who is alive holds the lock of its file."""
    host = socket.gethostname()
    names = {
        "dead": f".{host}.{os.getpid()}.000000ff.tmp",
        "living": f".{host}.999999999.000000ff.tmp",
        "elsewhere": f".other.{os.getpid()}.000000ff.tmp",
        "abandoned": f".other.{os.getpid()}.111111ff.tmp",
        "user's": ".mine.tmp",
        "user's photo": ".my.vacation.photo.tmp",
        "user's date": ".my.2024.photo001.tmp",
    }
    (tmp_path / "records").mkdir()
    for name in names.values():
        (tmp_path / "records" / name).touch()
        if not name.startswith(f".{host}"):
            os.utime(tmp_path / "records" / name, (0, time.time() - 90_000))
    os.utime(tmp_path / "records" / names["elsewhere"])
    with (tmp_path / "records" / names["living"]).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        files.sweep(tmp_path)
    left = {path.name for path in (tmp_path / "records").iterdir()}
    assert left == set(names.values()) - {names["dead"], names["abandoned"]}


def test_a_file_is_held_until_it_has_its_name(tmp_path, monkeypatch):
    def sweep_and_link(temporary, path):
        files.sweep(tmp_path)
        link(temporary, path)

    link = os.link
    monkeypatch.setattr(os, "link", sweep_and_link)
    assert files.create(tmp_path / "x", NEW)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("number", [errno.EPERM, errno.EOPNOTSUPP])
def test_a_file_system_without_hard_links_is_told_by_the_probe(tmp_path, monkeypatch, number):
    def none(temporary, path):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", none)
    with pytest.raises(files.StorageError, match=rf"{tmp_path} cannot be written: its file system has no hard links"):
        files.probe(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_regular_files_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(__file__)
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    told = {"pipe": "it is no regular file", "link": "it is a link", "folder": "Is a directory", "socket": ""}
    for name, reason in told.items():
        with pytest.raises(files.StorageError, match=f"{name} cannot be read: {reason}"):
            files.read(tmp_path / name)
    (tmp_path / "file").write_bytes(NEW)
    assert files.read(tmp_path / "file") == NEW


def test_a_link_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "theirs").write_bytes(OLD)
    (tmp_path / "ours").symlink_to(tmp_path / "theirs")
    for content in (OLD, NEW):
        files.write(tmp_path / "ours", content)
        assert (tmp_path / "theirs").read_bytes() == OLD
        assert not (tmp_path / "ours").is_symlink()


def test_a_place_that_takes_no_files_is_found(tmp_path):
    files.probe(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(files.StorageError, match=r"file/c cannot be written: (Not a directory|File exists)"):
        files.probe(tmp_path / "file" / "c")


def test_a_missing_file_is_no_storage_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.read(Path(tmp_path / "none"))


def traced(deed, folder, log, *options):
    """A child process that does the deed under strace; gives its exit code."""
    process = os.fork()
    if not process:
        os.kill(os.getpid(), signal.SIGSTOP)
        try:
            DEEDS[deed](folder)
        except files.StorageError:
            os._exit(1)
        os._exit(0)
    os.waitpid(process, os.WUNTRACED)
    tracer = subprocess.Popen(
        ["strace", "-qq", "-o", str(log), "-e", "trace=%file,%desc", *options, "-p", str(process)]
    )
    while "TracerPid:\t0\n" in Path(f"/proc/{process}/status").read_text():
        assert tracer.poll() is None
        time.sleep(0.001)
    os.kill(process, signal.SIGCONT)
    code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    tracer.wait()
    return code


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("deed", ["create", "rotate"])
def test_old_or_new_whichever_system_call_fails(deed, tmp_path):
    """The kernel's own calls of publishing a record and of writing a checkpoint, under strace."""
    log = tmp_path / "log"
    assert traced(deed, prepared(tmp_path / "counted"), log) == 0
    made = Counter[str]()
    places = []
    for line in log.read_text().splitlines():
        name = line.partition("(")[0]
        if name.isidentifier():
            made[name] += 1
            places.append((name, made[name]))
    assert {"openat", "write", "fsync", "close"} < made.keys()
    for number, (name, occurrence) in enumerate(places):
        for fault, expected in (("error=ENOSPC", (0, 1)), ("error=EIO", (0, 1)), ("signal=KILL", (-9,))):
            folder = prepared(tmp_path / f"{number} {fault}")
            code = traced(deed, folder, log, "-e", f"inject={name}:{fault}:when={occurrence}")
            assert code in expected, (name, occurrence, fault)
            check(deed, folder)
            files.sweep(folder)
            assert not [path for path in folder.iterdir() if path.name.endswith(".tmp")]

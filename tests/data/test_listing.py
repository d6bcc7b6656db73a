"""The rule by which files belong to a data set: regular files, links without loops, nothing that a system left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ablations.data.images import DataError
from ablations.data.listing import count_kinds, list_files, list_folders, show_name


def touch(place: Path, *names: str) -> None:
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).touch()


def test_what_systems_leave_behind_is_no_part_of_a_data_set(tmp_path):
    junk = (".ipynb_checkpoints/a.png", "__MACOSX/a.png", "@eaDir/a.png", "._a.png", "Thumbs.db", "desktop.ini")
    touch(tmp_path, "cat/a.png", "dog/b.png", *junk, *(f"cat/{name}" for name in junk))
    assert [path.name for path in list_folders(tmp_path)] == ["cat", "dog"]
    assert [path.relative_to(tmp_path).as_posix() for path in list_files(tmp_path, [".png"]).taken] == [
        "cat/a.png", "dog/b.png",
    ]  # fmt: skip
    assert list_files(tmp_path, [".png"]).others == ()


def test_links_are_followed_and_loops_are_not(tmp_path):
    touch(tmp_path, "elsewhere/1.png", "set/cat/2.PNG", "set/cat/album.png/3.png", "set/dog/4.png")
    cat = tmp_path / "set" / "cat"
    (cat / "linked").symlink_to(tmp_path / "elsewhere")
    (cat / "again").symlink_to(tmp_path / "elsewhere")
    (cat / "up").symlink_to(tmp_path / "set")
    (cat / "self").symlink_to(cat)
    (cat / "5.png").symlink_to(tmp_path / "elsewhere" / "1.png")
    os.mkfifo(cat / "6.png")
    names = [path.relative_to(cat).as_posix() for path in list_files(cat, [".png"]).taken]
    assert names == ["2.PNG", "5.png", "again/1.png", "album.png/3.png"]
    (cat / "7.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"7\.png cannot be read: it is a link to a file that is not there"):
        list_files(cat, [".png"])


def test_files_that_are_left_out_are_counted_by_their_kind(tmp_path):
    touch(tmp_path, "a.png", "b.gif", "c.GIF", "d.jfif", "README")
    assert count_kinds(list_files(tmp_path, [".png"]).others) == "2 .gif, 1 without a suffix, 1 .jfif"


def test_a_name_that_is_not_utf_8_can_be_printed():
    assert show_name(os.fsdecode(b"caf\xe9")) == "caf\\xe9"
    assert str(DataError(os.fsdecode(b"caf\xe9") + " is missing")) == "caf\\udce9 is missing"

"""Files of tasks on their way: they arrive whole, and nothing else is written."""

from __future__ import annotations

import pytest

from ablations.execution.engine import Task
from ablations.execution.travel import Parcel, move_out, pack, unpack
from ablations.storage.records import seal


def fill(folder, **contents):
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def found(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_task_has_its_own_files_elsewhere_and_what_it_wrote_comes_back(tmp_path):
    fill(tmp_path, checkpoints__a_latest=b"1", checkpoints__b_latest=b"2", attempts__a_json=b"3")
    task = Task("a", print, (1, tmp_path, "x"), folder=tmp_path)
    with move_out(task, pack(tmp_path, "a")) as (moved, folder):
        assert moved.arguments == (1, folder, "x")
        assert moved.folder == folder != tmp_path
        assert found(folder) == {"checkpoints/a.latest": b"1", "attempts/a.json": b"3"}
        fill(folder, checkpoints__a_latest=b"4", checkpoints__a_before=b"1")
        unpack(pack(folder, "a"), tmp_path, "a")
    assert not folder.exists()
    assert found(tmp_path) == {
        "checkpoints/a.latest": b"4",
        "checkpoints/a.before": b"1",
        "checkpoints/b.latest": b"2",
        "attempts/a.json": b"3",
    }
    unpack(Parcel({"attempts/a.json": b"5"}, whole=True), tmp_path, "a")
    assert found(tmp_path) == {"checkpoints/b.latest": b"2", "attempts/a.json": b"5"}


@pytest.mark.parametrize(
    "name", ["/a.json", "../a.json", "records/../../a.json", "a.json", "records/b.json", "records/a"]
)
def test_nothing_is_written_outside_a_tasks_own_files(name, tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(ValueError, match="is no file of a"):
        unpack(Parcel({"attempts/a.json": b"1", name: b"2"}), tmp_path / "in", "a")
    assert not found(tmp_path)


def test_a_damaged_record_is_not_written(tmp_path):
    content = seal({"id": "a"})
    with pytest.raises(ValueError, match="checksum"):
        unpack(Parcel({"records/a.json": content[:-20]}), tmp_path, "a")
    assert not found(tmp_path)
    unpack(Parcel({"records/a.json": content, "records/disturbed/a.json": b"old"}), tmp_path, "a")
    assert found(tmp_path) == {"records/a.json": content, "records/disturbed/a.json": b"old"}

"""Shards: complete by their numbers, from one set alone, in the layouts in which they are published."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ablations.config import DataConfig
from ablations.data.images import DataError
from ablations.data.shards import find_sets

TABLES = DataConfig(name="parquet")


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / f"{name}.parquet").parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.parquet").touch()


@pytest.mark.parametrize(
    "names",
    [
        ["train"],
        ["train-00000-of-00002-aaaa1111bbbb2222", "train-00001-of-00002-cccc1111bbbb2222"],
        ["train-00001-of-00002", "train-00002-of-00002"],
        ["train_0", "train_1"],
        ["train-1", "train-2"],
        ["train-2019", "train-2021"],
        ["train-cats", "train-dogs"],
        ["train/0000", "train/0001"],
    ],
)
def test_complete_shards_are_taken(tmp_path, names):
    touch(tmp_path, *names, "test", "._train")
    found, notes = find_sets(tmp_path, TABLES)
    assert [path.relative_to(tmp_path).with_suffix("").as_posix() for path in found["train"]] == names
    assert notes == ()


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["train-00000-of-00002-aaaa1111bbbb2222"],
            r"holds 1 shards .* there are 2: add .*no shard has the number 1\)",
        ),
        (
            [f"train-0000{number}-of-00002-{name}" for number in (0, 1) for name in ("aaaa1111", "bbbb1111")],
            "one shard twice, train-00000-of-00002-aaaa1111.parquet and train-00000-of-00002-bbbb1111.parquet",
        ),
        (["train-00000-of-00003", "train-00002-of-00003"], "no shard has the number 1"),
        (["train-00000-of-00001", "train-00000-of-00002", "train-00001-of-00002"], "one shard twice"),
        (["train-00000-of-00002", "train-00001-of-00003"], "there are 2 and 3"),
        (["train-00000-of-00001", "train-00000-of-00001 (1)"], "holds 2 shards .* there are 1: add"),
        (["train-0", "train-1", "train-3"], "no shard has the number 2"),
        (["train-00002", "train-00003"], "no shard has the number 1"),
        (["train", "train-00000-of-00001"], "holds train.parquet and shards such as train-00000-of-00001.parquet"),
        (["a/train", "b/train"], "has several sets of tables: give one of these folders as data.root"),
        (["all"], "no file .*train.parquet: .*it holds all.parquet, test.parquet"),
    ],
)
def test_shards_that_are_missing_or_of_another_set_are_named(tmp_path, names, message):
    touch(tmp_path, *names, "test")
    with pytest.raises(DataError, match=message):
        find_sets(tmp_path, TABLES)


@pytest.mark.parametrize(
    ("names", "test", "note"),
    [
        (
            ["data/train-00000-of-00001", "data/valid-00000-of-00001"],
            "valid",
            "no test set, so valid is what is tested on",
        ),
        (["plain_text/train-00000-of-00001", "plain_text/test-00000-of-00001"], "test", None),
        (["default/train/0000", "default/test/0000"], "test", None),
        (["train", "validation", "test"], "test", r"not used: validation \(data.validation cuts"),
    ],
)
def test_layouts_in_the_wild_are_read(tmp_path, names, test, note):
    touch(tmp_path, *names)
    found, notes = find_sets(tmp_path, TABLES)
    (path,) = found["test"]
    assert test in path.relative_to(tmp_path).as_posix()
    assert len(notes) == (note is not None)
    if note:
        assert re.search(note, notes[0])


def test_a_set_without_a_test_set_is_told_how_to_cut_one(tmp_path):
    touch(tmp_path, "train")
    with pytest.raises(DataError, match=r"no file .*test\.parquet: .*there is only a set train; data\.test_share"):
        find_sets(tmp_path, TABLES)
    assert [*find_sets(tmp_path, DataConfig(name="parquet", test_share=0.2))[0]] == ["train"]
    touch(tmp_path, "val")
    _, notes = find_sets(tmp_path, DataConfig(name="parquet", test_share=0.2))
    assert notes[1] == "data.test_share = 0.2 is not used, because there is a set to test on: val"

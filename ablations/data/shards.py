"""The files of each set of a folder of tables: whole, or in shards, in the layouts in which they are published."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from ablations.config import DataConfig
from ablations.data.images import DataError
from ablations.data.listing import belongs, list_folders
from ablations.data.source import TEST_NAMES, tell_choice

SETS = ("train", *TEST_NAMES)

SHARD = re.compile(
    r"(?:[a-z]+[-_.]?)?(?P<index>(?!(?:19|20)\d\d$)\d+)(?:-of-(?P<total>\d+))?(?:-(?P<print>[0-9a-f]{8,}))?", re.I
)
"""The stem of a shard's name: its number, how many there are, and a fingerprint of its content. A year is no number."""

DEEPEST = 2
"""Folders below data.root in which tables are looked for."""


def find_sets(root: Path, config: DataConfig) -> tuple[dict[str, list[Path]], tuple[str, ...]]:
    """Finds the files of the sets `train` and `test`, in the order of their names, and returns notes on the choice.

    They lie in `root`, in its folder `data`, or in the only folder below that has a training set. Without a test set a
    validation set takes its place, or no set if `data.test_share` cuts one. Raises DataError if a file is missing, or
    belongs to another set of shards.
    """
    sets = {**_list_sets(root / "data"), **_list_sets(root)}
    if "train" not in sets:
        places = [place for place in _list_below(root) if "train" in _list_sets(place)]
        if len(places) > 1:
            names = ", ".join(map(str, places))
            raise DataError(f"{root} has several sets of tables: give one of these folders as data.root: {names}")
        sets = _list_sets(places[0]) if places else sets
    rule = "data.root must be a folder that holds train.parquet and test.parquet, or shards such as train-*.parquet"
    test = next((name for name in TEST_NAMES if name in sets), None)
    missing = "train" if "train" not in sets else "test" if test is None and not config.test_share else None
    if missing:
        raise DataError(f"no file {root / f'{missing}.parquet'}: {rule}; {_tell_found(root, sets)}")
    found = {"train": check_shards(sets["train"])}
    if test is None:
        return found, ()
    notes = tell_choice(test, [name for name in TEST_NAMES if name in sets], config)
    return {**found, "test": check_shards(sets[test])}, notes


def _list_sets(folder: Path) -> dict[str, list[Path]]:
    """Lists the tables of each set in a folder: `train.parquet`, `train-0-of-2.parquet` or `train/0.parquet`."""
    found: dict[str, list[Path]] = defaultdict(list)
    tables, folders = _list_tables(folder), {each.name: each for each in _list_folders(folder)}
    for name in SETS:
        whole = [path for path in tables if path.stem == name]
        parts = [path for path in tables if path.stem.startswith(f"{name}-") or _is_shard(path, name)]
        shards = [path for path in parts if _is_shard(path, name)]
        if whole and any("-of-" in path.stem for path in shards):
            raise DataError(
                f"{folder} holds {whole[0].name} and shards such as {shards[0].name}: remove one of the two"
            )
        tables_of = whole or parts or (_list_tables(folders[name]) if name in folders else [])
        if tables_of:
            found[name] = tables_of
    return found


def _is_shard(path: Path, name: str) -> bool:
    return re.fullmatch(rf"{name}[-_.]?\d.*", path.stem) is not None and SHARD.fullmatch(path.stem) is not None


def check_shards(paths: list[Path]) -> list[Path]:
    """Returns the shards if each number occurs once and none is missing, else raises DataError.

    Numbers begin with 0 or 1. Files without numbers are taken as they are.
    """
    found = [(path, SHARD.fullmatch(path.stem)) for path in paths]
    by_index: dict[int, list[Path]] = defaultdict(list)
    for path, shard in found:
        if shard:
            by_index[int(shard["index"])].append(path)
    totals = sorted({int(shard["total"]) for _, shard in found if shard and shard["total"]})
    twice = next((same for same in by_index.values() if len(same) > 1), None)
    if twice:
        names = " and ".join(path.name for path in twice[:3])
        raise DataError(f"{paths[0].parent} holds one shard twice, {names}: remove the files of one of the two sets")
    first = 0 if 0 in by_index or not by_index else 1
    count = totals[0] if totals else max(by_index, default=-1) + 1 - first
    missing = sorted(set(range(first, first + min(count, 10**6))) - set(by_index))
    numbered = bool(totals) or (len(by_index) == len(paths) and len(paths) > 0)
    if len(totals) > 1 or (totals and totals[0] != len(paths)) or (numbered and missing):
        told = " and ".join(map(str, totals or [count]))
        gaps = f" (no shard has the number {', '.join(map(str, missing[:5]))})" if missing else ""
        raise DataError(
            f"{paths[0].parent} holds {len(paths)} shards such as {paths[0].name}, but their names say that there are "
            f"{told}: add those that are missing, or remove those of another set{gaps}"
        )
    return paths


def _list_tables(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if _is_table(path))


def _is_table(path: Path) -> bool:
    return path.suffix == ".parquet" and belongs(path.name) and not path.is_dir()


def _list_folders(folder: Path) -> list[Path]:
    return list_folders(folder) if folder.is_dir() else []


def _list_below(root: Path) -> list[Path]:
    """Lists the folders below a folder, to a depth of two."""
    level, found = [root], []
    for _ in range(DEEPEST):
        level = [inner for each in level for inner in _list_folders(each)]
        found += level
    return found


def _tell_found(root: Path, sets: Iterable[str]) -> str:
    """Returns what was found instead: the training set, or tables and folders."""
    if not root.is_dir():
        return "there is no such folder"
    if "train" in sets:
        return "there is only a set train; data.test_share = 0.2 cuts a fifth of it for the test"
    names = [path.name for path in [*_list_tables(root), *_list_folders(root)]]
    return f"it holds {', '.join(names[:5]) or 'no table and no folder'}"

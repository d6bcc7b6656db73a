"""The cache of decoded data: used while it is whole, and for its own source alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from data_files import write_tables

from ablations.config import DataConfig
from ablations.data.cache import cache_key
from ablations.data.dataset import load
from ablations.data.registry import DATASETS
from ablations.storage.paths import cache_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_tables(tmp_path)


def path_of(config: DataConfig) -> Path:
    return cache_folder() / f"{cache_key(DATASETS[config.name](config))}.safetensors"


def test_the_cache_is_used_and_a_damaged_one_is_not(folder, monkeypatch):
    config = DataConfig(name="parquet", root=str(folder))
    first = load(config)
    path = path_of(config)
    monkeypatch.setattr("ablations.data.parquet._decode_part", lambda *arguments: pytest.fail("decoded again"))
    assert torch.equal(load(config).train.images, first.train.images)
    monkeypatch.undo()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert torch.equal(load(config).test.labels, first.test.labels)
    path.write_bytes(b"\x80\x04not safetensors")
    assert torch.equal(load(config).train.images, first.train.images)


def test_the_cache_of_another_source_is_not_used(folder):
    config = DataConfig(name="parquet", root=str(folder))
    _, digits_ = load(config), load(DataConfig())
    path = path_of(DataConfig())
    kept = path.read_bytes()
    path.write_bytes(path_of(config).read_bytes())
    assert torch.equal(load(DataConfig()).train.images, digits_.train.images)
    changed = kept.replace(b'"I64"', b'"F64"', 1)
    assert changed != kept
    path.write_bytes(changed)
    assert load(DataConfig()).train.labels.dtype == load(DataConfig()).test.labels.dtype == torch.int64

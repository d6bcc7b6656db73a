"""Where the cache lies."""

from __future__ import annotations

from pathlib import Path

from ablations.storage.paths import cache_folder


def test_the_cache_lies_where_the_system_wants_it(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/densenet-ablations")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/densenet-ablations")

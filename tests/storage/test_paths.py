"""Where the cache lies."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ablations.storage.files import StorageError
from ablations.storage.paths import cache_folder, expand


def test_the_cache_lies_where_the_system_wants_it(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert cache_folder() == Path("/somewhere/densenet-ablations")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert cache_folder() == Path("/home/somebody/.cache/densenet-ablations")


def test_the_home_folder_stands_for_a_tilde(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert expand("~/results") == Path("/home/somebody/results")
    assert expand("~nobody-of-this-name/results") == Path("~nobody-of-this-name/results")
    assert expand("results/~") == Path("results/~")


def test_without_a_home_folder_the_error_says_what_to_set(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # what Python gives then
    with pytest.raises(StorageError, match="there is no home folder: set XDG_CACHE_HOME"):
        cache_folder()

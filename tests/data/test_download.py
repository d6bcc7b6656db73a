"""Downloads: verified before they take their name, and an error that helps where there is no network."""

from __future__ import annotations

import hashlib
import urllib.error
from pathlib import Path

import pytest

from ablations.config import DataConfig
from ablations.data import download
from ablations.data.dataset import load
from ablations.data.images import DataError
from ablations.storage.paths import cache_folder

NAMED = ["cifar10", "cifar100", "svhn", "fashion-mnist"]


@pytest.fixture
def no_network(monkeypatch):
    def refused(*arguments, **keywords):
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr("urllib.request.urlopen", refused)


@pytest.mark.parametrize("name", NAMED)
def test_without_a_network_the_error_says_what_where_and_how(name, tmp_path, no_network):
    with pytest.raises(DataError) as caught:
        load(DataConfig(name=name, root=str(tmp_path)))
    message = str(caught.value)
    for part in (
        "There is no ",
        str(tmp_path),
        "could not be downloaded from http",
        "no network here",
        "MD5 ",
        "data.root",
    ):
        assert part in message, part
    assert "\n" not in message
    assert not list(tmp_path.iterdir()), "nothing half is left"


def test_without_a_root_it_is_looked_for_where_this_suite_downloads_to(no_network):
    with pytest.raises(DataError, match=str(cache_folder() / "downloads")):
        load(DataConfig(name="cifar10"))


def test_a_download_is_verified_before_it_takes_its_name(tmp_path, monkeypatch):
    content = b"what the server sends"
    right = hashlib.md5(content).hexdigest()
    monkeypatch.setattr(
        "torchvision.datasets.utils.download_url", lambda url, root, name: Path(root, name).write_bytes(content)
    )
    path = tmp_path / "new" / "file"
    with pytest.raises(DataError, match=f"what http://localhost/file sent is not .*MD5 {right}, expected {'0' * 32}"):
        download.fetch(path, "http://localhost/file", "0" * 32, "", str(path))
    assert not path.exists()
    download.fetch(path, "http://localhost/file", right, "", str(path))
    assert path.read_bytes() == content
    assert [each.name for each in path.parent.iterdir()] == ["file"]

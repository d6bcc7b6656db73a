"""Downloads published files that are missing, and verifies them before they are read."""

from __future__ import annotations

import socket
import tempfile
from http.client import HTTPException
from pathlib import Path

from ablations.config import DataConfig
from ablations.data.digests import hash_file
from ablations.data.images import DataError
from ablations.storage.paths import cache_folder

NETWORK_PATIENCE = 20.0
"""Seconds without an answer after which a download fails."""


def download_folder(config: DataConfig) -> Path:
    """Returns the folder of a published data set, to which it is downloaded if it is missing."""
    return Path(config.root) if config.root else cache_folder() / "downloads"


def fetch(path: Path, url: str, md5: str, size: str, wanted: str) -> None:
    """Downloads a file if it is missing, with a progress bar, and verifies it.

    `wanted` is the name of the file or folder in an error message. `size` is the size of the download, if it is known.
    Raises DataError if the file cannot be downloaded or is not the published one.
    """
    if not path.is_file():
        from torchvision.datasets.utils import download_url

        patience = socket.getdefaulttimeout()
        socket.setdefaulttimeout(NETWORK_PATIENCE)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=path.parent) as half:
                download_url(url, half, path.name)
                verify(Path(half) / path.name, md5, f"what {url} sent")
                (Path(half) / path.name).replace(path)
        except (OSError, RuntimeError, HTTPException) as error:
            known = ", ".join([f"MD5 {md5}", *([size] if size else [])])
            raise DataError(
                f"There is no {wanted}, and it could not be downloaded from {url} ({error}). Download it on a "
                f"machine with a network and put {path.name} ({known}) into {path.parent}; or say with data.root which "
                "folder holds it; or give the same command once where there is a network."
            ) from error
        finally:
            socket.setdefaulttimeout(patience)
    verify(path, md5)


def verify(path: Path, md5: str, downloaded: str = "") -> None:
    """Compares a file with its published MD5 sum. Raises DataError if they differ.

    `downloaded` is the name of a new download in the error message.
    """
    found = hash_file(path, "md5")
    if found != md5 and downloaded:
        raise DataError(f"{downloaded} is not the published file: MD5 {found}, expected {md5}; it was not kept")
    if found != md5:
        raise DataError(
            f"{path} is not the published file: MD5 {found}, expected {md5}; nothing of it was read. "
            "Delete it, and it is downloaded again, or bring another copy"
        )

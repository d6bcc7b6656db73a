"""Folders of the user: the home folder, and the cache folder, which may be deleted at any time."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from ablations.storage.files import StorageError


def expand(path: str | Path) -> Path:
    """Returns a path with the home folder in place of `~`, as shells write it."""
    return Path(os.path.expanduser(path))  # noqa: PTH111, pathlib's raises an error for an unknown user


def cache_folder() -> Path:
    """Returns the cache folder: `densenet-ablations` in $XDG_CACHE_HOME or, if that is not set, in ~/.cache.

    It holds decoded data, downloads, checksums and predictions. Raises StorageError if there is no home folder.
    """
    cache = os.environ.get("XDG_CACHE_HOME")
    home = expand("~")
    if not cache and not home.is_absolute():
        said = "is not known, because there is no home folder: set XDG_CACHE_HOME to a folder for downloads and caches"
        raise StorageError(errno.ENOENT, said, "~/.cache")
    return Path(cache or home / ".cache") / "densenet-ablations"

"""The cache folder, which may be deleted at any time: decoded data, downloads, checksums, predictions."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Returns the cache folder: `densenet-ablations` in $XDG_CACHE_HOME or, if that is not set, in ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "densenet-ablations"

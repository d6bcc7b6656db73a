"""Where files of this machine's user lie: the cache of decoded data, downloads and predictions."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Where decoded data sets are kept: `densenet-ablations` under $XDG_CACHE_HOME or ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "densenet-ablations"

"""What the drawn figures of a results folder show, so that only those are drawn again whose inputs have changed.

A fingerprint is of everything that decides how a figure looks: the values, the code of the report, the versions of the
libraries, and the fonts. It is noted beside the figures, with the SHA-256 of each file.
"""

from __future__ import annotations

import hashlib
import json
import platform
import secrets
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel

from ablations.report.plotting.looks import PLAIN, Look
from ablations.report.results import Results, StudyResult
from ablations.storage import files

NAME = "drawn.json"
"""The file of the notes, in the folder of figures."""

SUFFIXES = ("svg", "pdf", "png")
"""The formats of a figure."""

ROOT = Path(__file__).parents[2]
"""The folder of the sources."""

LIBRARIES = ("matplotlib", "seaborn", "numpy", "pandas", "pillow", "fonttools", "kiwisolver", "contourpy")
"""The libraries that decide how a figure looks, or what its files contain."""


@dataclass(frozen=True)
class Drawing:
    """A figure as it is to be drawn."""

    name: str
    """The name of its files without suffix, in the folder of figures: `growth_rate.curves`."""

    kind: str
    """`.curves`, for example: a key of DRAWN."""

    shown: StudyResult | Results
    """What it shows: a study, or all variants."""

    look: Look


class Drawn:
    """The notes on the figures in a folder. Without notes, or with damaged ones, nothing counts as drawn."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._notes: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            found = json.loads(files.read(folder / NAME))
            self._notes = found if isinstance(found, dict) else {}

    def shows(self, name: str, fingerprint: str) -> bool:
        """Returns whether a figure was drawn from these inputs, and its files are as they were written."""
        return self._notes.get(name) == {"shows": fingerprint, "files": _digest_files(self._folder / name)}

    def note(self, fingerprints: Mapping[str, str]) -> None:
        """Notes what figures that have been drawn now show, by their names."""
        for name, fingerprint in fingerprints.items():
            self._notes[name] = {"shows": fingerprint, "files": _digest_files(self._folder / name)}
        files.write(self._folder / NAME, json.dumps(self._notes, indent=1, sort_keys=True).encode())


def _digest_files(stem: Path) -> dict[str, str | None]:
    """Returns the SHA-256 of each file of a figure; None for one that cannot be read."""
    found: dict[str, str | None] = dict.fromkeys(SUFFIXES)
    for suffix in SUFFIXES:
        with suppress(OSError):
            found[suffix] = hashlib.sha256(files.read(stem.with_name(f"{stem.name}.{suffix}"))).hexdigest()
    return found


def fingerprint(*shown: object) -> str:
    """Returns the fingerprint of a figure that shows these values.

    With a value of an unknown kind, it is never the same again.
    """
    try:
        text = json.dumps([fingerprint_code(), shown], default=_spell, ensure_ascii=False)
    except TypeError:
        return secrets.token_hex(32)
    return hashlib.sha256(f"{text}{_list_fonts(text)}".encode(errors="surrogatepass")).hexdigest()


def _list_fonts(text: str) -> list[str]:
    """Returns the fonts that a text is drawn with; none if the first one is enough, which is always there."""
    if PLAIN.fullmatch(text):
        return []
    from ablations.report.plotting.fonts import list_fonts

    return list_fonts()


def _spell(value: object) -> object:
    """Returns a value that JSON does not know as one that it knows. Raises TypeError for unknown ones."""
    if isinstance(value, pd.DataFrame):
        return ["frame", value.index, [[name, column] for name, column in value.items()]]
    if isinstance(value, pd.Series | pd.Index):
        return [str(value.dtype), value.to_numpy()]
    if isinstance(value, np.ndarray):
        content = value.tolist() if value.dtype.hasobject else hashlib.sha256(value.tobytes()).hexdigest()
        return [str(value.dtype), value.shape, content]
    if isinstance(value, np.generic):
        return [str(value.dtype), value.item()]
    if isinstance(value, BaseModel):
        return [type(value).__name__, value.model_dump_json()]
    if is_dataclass(value):
        return [type(value).__name__, {each.name: getattr(value, each.name) for each in fields(value)}]
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, frozenset | set):
        return sorted(value)
    if isinstance(value, Path):
        return None  # no figure shows where its folder lies
    if value is pd.NA:
        return ["missing"]
    raise TypeError(f"a value of {type(value)}")


@cache
def fingerprint_code() -> list[str]:
    """Returns what draws: the sources that the report consists of, and the versions of the libraries."""
    sources = [ROOT / "metrics.py", *sorted((ROOT / "storage").rglob("*.py")), *sorted((ROOT / "report").rglob("*.py"))]
    digest = hashlib.sha256(b"".join(hashlib.sha256(path.read_bytes()).digest() for path in sources)).hexdigest()
    versions = [f"{name} {version(name)}" for name in LIBRARIES]
    return [digest, *versions, platform.python_version(), platform.machine(), zlib.ZLIB_RUNTIME_VERSION]

"""jobs.json: the plan of a results folder, which with the records is all that reporting needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ablations.storage import files, records


class NotResults(ValueError):
    """A folder that holds no results."""


def read_manifest(folder: Path) -> dict[str, Any]:
    """jobs.json of a results folder. Raises NotResults."""
    try:
        manifest = records.unsealed(files.read(folder / "jobs.json"))
        return {key: manifest[key] for key in MANIFEST}
    except FileNotFoundError:
        raise NotResults(f"{folder} holds no results: there is no jobs.json; `ablate run` makes one") from None
    except (ValueError, KeyError) as error:
        what = (
            f"was made by another version: it has no {error}" if isinstance(error, KeyError) else f"is damaged: {error}"
        )
        again = "delete it, and `ablate run` with the grid of this folder makes it anew"
        raise NotResults(f"{folder / 'jobs.json'} {what}; {again}") from None
    except OSError as error:
        raise NotResults(str(error)) from None


MANIFEST = ("title", "seeds", "machine", "options", "variants", "studies", "tuning", "jobs")

"""Trained weights that torchvision publishes: their names, and their files, which are checked before they are used."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from densenet.densenet import OLDER_NAME
from densenet.options import lookup

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum

NEW = "none"
"""The name of no trained weights: the network starts from new ones."""

FULL_NAME = re.compile(r"(\w+_Weights)\.(\w+)")
"""The form of a full name: `ResNet18_Weights.IMAGENET1K_V1`."""

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.")
"""Parts of two networks that give scores beside those of the last layer, which no network here has."""


def list_weights(network: str) -> dict[str, WeightsEnum]:
    """Returns the trained weights of a network of torchvision, by name.

    Weights that lack the last layer are left out. Raises ValueError for an unknown network.
    """
    from torchvision import models

    kind = models.get_model_weights(network)
    return {name: weights for name, weights in kind.__members__.items() if weights.meta["categories"]}


def find_weights(name: str) -> WeightsEnum | None:
    """Returns the weights of torchvision with a full name; None for a text that is no such name.

    Raises ValueError if the network has no weights of this name.

    Example:
        >>> find_weights("ResNet18_Weights.DEFAULT")
        ResNet18_Weights.IMAGENET1K_V1
    """
    found = FULL_NAME.fullmatch(name)
    kind = _list_kinds().get(found[1]) if found else None
    return lookup(found[1], found[2], kind.__members__) if found and kind else None


@cache
def _list_kinds() -> dict[str, type[WeightsEnum]]:
    from torchvision import models

    return {kind.__name__: kind for kind in map(models.get_model_weights, models.list_models())}


def find_checksum(weights: WeightsEnum) -> str:
    """Returns the first digits of the SHA-256 of the weights' file, which torchvision writes into the file's name."""
    digits = torch.hub.HASH_REGEX.search(_find_place(weights).name)
    return digits[1] if digits else ""


def is_here(weights: WeightsEnum) -> bool:
    """Returns whether the file of the weights is in the folder of PyTorch's hub, so that nothing is downloaded."""
    return _find_place(weights).exists()


def fetch(weights: WeightsEnum) -> None:
    """Downloads the file of the weights into the folder of PyTorch's hub, unless it is there. Compares its checksum.

    Raises ValueError if it cannot be downloaded, or is another file.
    """
    place, url, checksum = _find_place(weights), weights.url, find_checksum(weights)
    if not place.exists():
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(place), checksum, progress=False)
        except (OSError, RuntimeError, HTTPException) as error:  # RuntimeError for another checksum
            advice = "copy this file into that folder, or set TORCH_HOME to a folder that has it in hub/checkpoints"
            raise ValueError(
                f"the weights {weights} are not in {place.parent}, and {url} cannot be downloaded ({error}): {advice}"
            ) from None
    status = place.stat()
    found = _hash(place, status.st_size, status.st_mtime_ns)
    if not found.startswith(checksum):
        said = f"its SHA-256 begins with {found[: len(checksum)]}, and not with {checksum}"
        raise ValueError(f"{place} is not the file of {weights}: {said}. Remove it, and it is downloaded again")


def start_from(network: nn.Module, weights: WeightsEnum) -> None:
    """Gives a network of torchvision its trained weights.

    A last layer with another number of classes keeps its new weights. Raises ValueError as `fetch` does.
    """
    fetch(weights)
    state = weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    new = network.state_dict()
    for older in [*state]:
        trained, name = state.pop(older), OLDER_NAME.sub(r"\1\2", older)
        if name in new and _is_last(new[name], trained, len(weights.meta["categories"])):
            trained = new[name]
        if not name.startswith(AUXILIARY):
            state[name] = trained
    network.load_state_dict(state)


def _is_last(new: Tensor, trained: Tensor, classes: int) -> bool:
    """Returns whether two tensors differ only in the number of classes."""
    return new.shape != trained.shape and trained.shape[0] == classes and new.shape[1:] == trained.shape[1:]


def _find_place(weights: WeightsEnum) -> Path:
    return Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(urlparse(weights.url).path).name)


@cache
def _hash(path: Path, size: int, changed: int) -> str:
    """Returns the SHA-256 of a file. It is found again if its size or its time of change, in ns, is another one."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

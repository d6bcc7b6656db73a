"""Trained networks as safetensors files, with the configuration that is needed to build the network again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from ablations.config import hashed_fields
from ablations.data.dataset import Dataset
from ablations.storage import files, records
from ablations.storage.sources import list_changed
from ablations.training.loop import hash_weights
from densenet import Config, build, describe_source, model_family, without_weights


class NotWeights(ValueError):
    """The file was not written by `ablate run`."""


def write(path: Path, network: nn.Module, model: Config, data: Dataset, job: dict[str, Any]) -> None:
    """Writes a network's parameters and buffers, and everything that is needed to use it on other images.

    Raises StorageError.
    """
    content = {"model": hashed_fields(model), "data": data.described(), "job": job}
    described = json.dumps({**content, "weights": hash_weights(network), "source": describe_source(model)})
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in network.state_dict().items()}
    files.write(path, save(tensors, metadata={"described": described}))


def load_model(path: str | Path, own_code: bool = False) -> nn.Module:
    """Loads the network of a run with `train.keep_weights`, `(N, C, H, W) -> (N, classes)`, in eval mode.

    Its input images, with values from 0 to 255, must be standardised per channel with `mean` and `std` of
    `read_description(path)["data"]`. A class outside this package is imported only with `own_code=True`, so that a file
    from elsewhere cannot choose the code that runs. Raises NotWeights for any other file, and for weights that are not
    those of the run's record or of their own description, or whose class has changed since.
    """
    fields = read_description(path)["model"]
    try:
        if ":" in str(fields["family"]) and not own_code:
            raise ValueError(f"its network is {fields['family']}, outside this package: own_code=True imports it")
        config = model_family(fields["family"])[0].model_validate(fields)
        network = build(without_weights(config))
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dictionary
        first = next(iter(network.state_dict().values()))
        network.to(tensors[next(iter(network.state_dict()))].dtype if tensors else first.dtype)
        network.load_state_dict(tensors, strict=True)
        _verify(Path(path), network, config)
    except (ValueError, TypeError, RuntimeError, KeyError, SafetensorError) as error:
        raise NotWeights(f"{path}: {error}") from error
    return network.eval()


def _verify(path: Path, network: nn.Module, model: Config) -> None:
    """Raises ValueError if the weights are not those of the record of this name, or not those of the description.

    A user's class must have the source that it had in the training. Files of older versions cannot be verified without
    their record.
    """
    record = path.parent.parent / "records" / f"{path.stem}.json"
    with safe_open(path, framework="pt") as file:
        description = json.loads(file.metadata()["described"])
    described, source = description.get("weights"), description.get("source")
    changed = list_changed(source, describe_source(model)) if source else []
    if changed:
        raise ValueError(f"the source of its network has changed since it was trained: {', '.join(changed)}")
    found = {"its record": records.read(record)["deterministic"]["weights"]} if record.exists() else {}
    found |= {"its description": described} if described is not None else {}
    for place, expected in found.items():
        if hash_weights(network) != expected:
            raise ValueError(f"the weights are not those of {place}: the file was changed, or it is of another run")


def read_description(path: str | Path) -> dict[str, Any]:
    """Reads the description beside the weights: `model`, `data` and `job`. Raises NotWeights."""
    try:
        with safe_open(path, framework="pt") as file:
            found = json.loads((file.metadata() or {})["described"])
        return {key: found[key] for key in ("model", "data", "job")}
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise NotWeights(f"{path} holds no network that this suite has trained: {error}") from error

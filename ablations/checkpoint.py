"""Where a training is, as a state in memory and as a checkpoint on disk: from it the training goes on bit for bit."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ablations import files

FOLDER = "checkpoints"
"""Of a results folder."""

LAYOUT = 1
"""Of a checkpoint; one of another layout is not taken up."""


class Stopped(RuntimeError):
    """The training was asked to stop; its state is kept."""


@dataclass(frozen=True)
class Epoch:
    """One line of the history; accuracies in %, losses in nats; of training, averages over the epoch's images."""

    epoch: int
    train_loss: float
    """What was minimised, label smoothing included, of the images as they were trained."""

    train_accuracy: float
    validation_loss: float | None
    """Of the validation images at this epoch's end, where they were evaluated."""

    validation_accuracy: float | None
    test_loss: float | None
    """Of the test images, where a curve of them was asked for."""

    test_accuracy: float | None
    learning_rate: float
    """At the epoch's last step."""

    gradient_norm: float
    """Euclidean norm of the gradient of all parameters, before clipping, averaged over the epoch's steps."""

    images: int
    """That were trained on."""

    seconds: float
    """Of the training steps, without evaluation and checkpoints."""


@dataclass
class State:
    """All that the next step of a training depends on, and what was gathered on the way to it."""

    network: nn.Module
    average: nn.Module | None
    """Of the weights, where there is one."""

    optimizer: torch.optim.Optimizer
    order: Tensor
    """State of the generator that orders the images, before it drew the present epoch's order."""

    history: list[Epoch] = field(default_factory=list)
    """Of the epochs before the present one."""

    steps: int = 0
    """Done in the present epoch."""

    losses: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)
    """Of each of these steps, on the device: loss, norm of the gradient, images classified rightly."""

    seconds: float = 0.0
    """That these steps took."""

    spent: float = 0.0
    """Seconds of all work before the present process, as far as checkpoints tell."""

    resumes: int = 0
    """How often the training was taken up again."""

    mixed: bool = False
    """Whether a part was made on another device, or by other code or versions."""

    def end_epoch(self, line: Epoch, order: Tensor) -> None:
        """Goes over to the next epoch."""
        self.history.append(line)
        self.order, self.steps, self.seconds = order, 0, 0.0
        self.losses, self.norms, self.correct = [], [], []

    def dump(self) -> dict[str, Tensor]:
        """The state as tensors in the CPU's memory; everything else is JSON in one of them."""
        gathered = {name: torch.stack(getattr(self, name)) for name in GATHERED if self.steps}
        generators = {"order": self.order, "torch": torch.get_rng_state()}
        if torch.cuda.is_initialized():
            generators["cuda"] = torch.cuda.get_rng_state()
        values = {
            "layout": LAYOUT,
            "history": [asdict(line) for line in self.history],
            **{name: getattr(self, name) for name in COUNTED},
            "python": random.getstate(),
            "numpy": np.random.get_state(legacy=False),
        }
        groups = {"network": _tensors(self.network), "optimizer": self._momenta()}
        groups |= {"gathered": gathered, "generator": generators}
        groups |= {"average": _tensors(self.average)} if self.average is not None else {}
        tensors = {
            f"{group} {name}": tensor.detach().cpu().contiguous().clone()
            for group, members in groups.items()
            for name, tensor in members.items()
        }
        text = json.dumps(values, default=lambda array: array.tolist())
        return {**tensors, "values": torch.frombuffer(bytearray(text, "utf-8"), dtype=torch.uint8)}

    def take_up(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from a dumped state. Raises ValueError, and changes nothing, where it is another training's."""
        values = json.loads(tensors["values"].numpy().tobytes())
        if values["layout"] != LAYOUT:
            raise ValueError("it is of another layout")
        groups: dict[str, dict[str, Tensor]] = {}
        for key, tensor in tensors.items():
            group, _, name = key.partition(" ")
            groups.setdefault(group, {})[name] = tensor
        pairs = [(_tensors(self.network), groups.get("network", {}))]
        pairs += [(_tensors(self.average), groups.get("average", {}))] if self.average is not None else []
        for own, kept in pairs:
            if {name: _kind(tensor) for name, tensor in own.items()} != {n: _kind(t) for n, t in kept.items()}:
                raise ValueError("it is another network's")
        with torch.no_grad():
            for own, kept in pairs:
                for name, tensor in own.items():
                    tensor.copy_(kept[name])
        self._take_momenta(groups.get("optimizer", {}))
        for name in COUNTED:
            setattr(self, name, values[name])
        self.history = [Epoch(**line) for line in values["history"]]
        device = next(iter(_tensors(self.network).values())).device
        for name, tensor in groups.get("gathered", {}).items():
            setattr(self, name, list(tensor.to(device).unbind()))
        self._take_generators(groups["generator"], values)

    def _momenta(self) -> dict[str, Tensor]:
        """The optimizer's state, parameter by parameter."""
        return {
            f"{number} {key}": value
            for number, parameter in enumerate(self._parameters())
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def _take_momenta(self, kept: Mapping[str, Tensor]) -> None:
        parameters = self._parameters()
        for key, tensor in kept.items():
            number, _, name = key.partition(" ")
            parameter = parameters[int(number)]
            if tensor.shape == parameter.shape:  # and lies in memory as the optimizer would have laid it
                tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            self.optimizer.state[parameter][name] = tensor

    def _parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    def _take_generators(self, kept: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        self.order = kept["order"]
        torch.set_rng_state(kept["torch"])
        if "cuda" in kept and torch.cuda.is_available():
            torch.cuda.set_rng_state(kept["cuda"])
        version, internal, gauss = values["python"]
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(values["numpy"])


GATHERED = ("losses", "norms", "correct")
COUNTED = ("steps", "seconds", "spent", "resumes", "mixed")


@dataclass(frozen=True)
class Shelf:
    """The checkpoints of one job: the latest, and the one before it in case that one is damaged."""

    folder: Path
    """The results folder."""

    job: str
    environment: Mapping[str, Any]
    """Device, versions and code: a training that goes on in another one is `mixed`."""

    written: Callable[[], None] = lambda: None
    """Called when a checkpoint is whole."""

    @property
    def paths(self) -> tuple[Path, Path]:
        """The latest and the one before."""
        place = self.folder / FOLDER
        return place / f"{self.job}.latest", place / f"{self.job}.before"

    def keep(self, state: State) -> None:
        """Writes the state. Raises StorageError."""
        tensors = state.dump()
        made_in = json.dumps(self.environment, sort_keys=True)
        content = save({**tensors, "environment": torch.frombuffer(bytearray(made_in, "utf-8"), dtype=torch.uint8)})
        files.rotate(*self.paths, hashlib.sha256(content).digest() + content)
        self.written()

    def take_up(self, state: State) -> None:
        """Brings the state to where the latest whole checkpoint is; leaves it alone where there is none."""
        for path in self.paths:
            with suppress(OSError, ValueError, KeyError, TypeError, SafetensorError):
                tensors = self._read(path)
                made_in = tensors.pop("environment").numpy().tobytes()
                state.take_up(tensors)
                state.resumes += 1
                state.mixed |= made_in != json.dumps(self.environment, sort_keys=True).encode()
                return

    def clear(self) -> None:
        """Removes the checkpoints of a job that is on record."""
        for path in self.paths:
            path.unlink(missing_ok=True)

    def _read(self, path: Path) -> dict[str, Tensor]:
        content = files.read(path)
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise ValueError("its checksum does not match")
        return load(content[32:])


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers, also those that a state dict leaves out."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _kind(tensor: Tensor) -> tuple[torch.dtype, torch.Size]:
    return tensor.dtype, tensor.shape

"""The state of a training, in memory and as a checkpoint on disk. A training resumes from it bit for bit."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from ablations.storage import files
from ablations.storage.sources import list_changed
from ablations.training.events import Epoch
from ablations.training.stopwatch import Stopwatch

FOLDER = "checkpoints"
"""The folder of checkpoints within a results folder."""

LAYOUT = 3
"""The version of the checkpoints' layout. A checkpoint with another version is not used."""


class StopRequested(RuntimeError):
    """The training was asked to stop. Its state is saved."""


COLUMNS = tuple(each.name for each in fields(Epoch))
"""The columns of the history in a checkpoint. All of them are numbers; NaN stands for a value that there is not."""


@dataclass
class State:
    """Everything that the next step of a training depends on, and the values that were collected so far."""

    network: nn.Module
    average: nn.Module | None
    """The network with averaged weights, if there is one."""

    optimizer: torch.optim.Optimizer
    order: Tensor
    """State of the generator that orders the images, before it draws the order of the current epoch."""

    scaler: torch.amp.GradScaler | None = None
    """The scale of the loss, with fp16."""

    history: list[Epoch] = field(default_factory=list)
    """The finished epochs."""

    rows: Tensor = field(default_factory=lambda: torch.empty(0, len(COLUMNS), dtype=torch.float64))
    """The same, `(epochs, columns)`, in the form that is saved. Only the new row is converted in each epoch."""

    steps: int = 0
    """The number of finished steps of the current epoch."""

    losses: list[Tensor] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    correct: list[Tensor] = field(default_factory=list)
    """One value for each step of the current epoch, on the device: loss, norm of the gradient, correctly classified
    images."""

    gathered: int = 0
    """The number of these steps whose losses and correct images are those of all processes, not of this one alone."""

    seconds: float = 0.0
    """Seconds that these steps took."""

    watch: Stopwatch = field(default_factory=Stopwatch)
    """Seconds of all work, including earlier processes as far as checkpoints record them."""

    resumes: int = 0
    """How often the training was resumed."""

    mixed: bool = False
    """Whether parts of the training ran on different devices, or with different code or versions."""

    refused: list[str] = field(default_factory=list)
    """The checkpoints that were found and not used, each with the reason."""

    def end_epoch(self, line: Epoch, order: Tensor) -> None:
        """Adds the finished epoch to the history and starts the next one."""
        self.history.append(line)
        self.rows = torch.cat([self.rows, _to_row(line)])
        self.order, self.steps, self.gathered, self.seconds = order, 0, 0, 0.0
        self.losses, self.norms, self.correct = [], [], []

    def dump(self) -> dict[str, Tensor]:
        """Returns the state as tensors in the CPU's memory. The tensor `values` holds everything else, as JSON."""
        gathered = {name: torch.stack(getattr(self, name)) for name in GATHERED if self.steps}
        generators = {"order": self.order, "torch": torch.get_rng_state()}
        if torch.cuda.is_initialized():
            generators["cuda"] = torch.cuda.get_rng_state()
        values = {
            "layout": LAYOUT,
            **{name: getattr(self, name) for name in COUNTED},
            "parts": self.watch.parts,
            "trained": list(self._trained()),
            "scaler": self.scaler.state_dict() if self.scaler is not None else {},
            "python": random.getstate(),
            "numpy": np.random.get_state(legacy=False),
        }
        groups = {"network": _tensors(self.network), "optimizer": self._momenta()}
        groups |= {"gathered": gathered, "generator": generators, "history": {"rows": self.rows}}
        groups |= {"average": _tensors(self.average)} if self.average is not None else {}
        tensors = {
            f"{group} {name}": tensor.detach().to("cpu", copy=True).contiguous()
            for group, members in groups.items()
            for name, tensor in members.items()
        }
        text = json.dumps(values, default=lambda array: array.tolist())
        return {**tensors, "values": torch.frombuffer(bytearray(text, "utf-8"), dtype=torch.uint8)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores a dumped state.

        Raises ValueError or LookupError for the state of another training, and then changes nothing.
        """
        values, groups = _opened(tensors)
        pairs = [(_tensors(self.network), groups["network"])]
        pairs += [(_tensors(self.average), groups["average"])] if self.average is not None else []
        for own, kept in pairs:
            if {name: _kind(tensor) for name, tensor in own.items()} != {n: _kind(t) for n, t in kept.items()}:
                raise ValueError("it is another network's")
        trained = self._trained()
        if values["trained"] != list(trained) or not {_owner(key) for key in groups["optimizer"]} <= trained.keys():
            raise ValueError("other parameters were trained")
        found: dict[str, Any] = {name: values[name] for name in COUNTED}
        found["gathered"] = found["steps"]
        found["rows"] = groups["history"]["rows"]
        found["history"] = [_to_epoch(row) for row in found["rows"].tolist()]
        parts = {name: self.watch.parts[name] + seconds for name, seconds in values["parts"].items()}
        device = next(iter(_tensors(self.network).values())).device
        found |= {name: list(groups["gathered"][name].to(device).unbind()) for name in GATHERED if found["steps"]}
        # nothing below can fail
        with torch.no_grad():
            for own, kept in pairs:
                for name, tensor in own.items():
                    tensor.copy_(kept[name])
        self._take_momenta(groups["optimizer"], trained)
        self._take_generators(groups["generator"], values["python"], values["numpy"])
        self.watch.parts |= parts
        if self.scaler is not None:
            self.scaler.load_state_dict(values["scaler"])
        for name, value in found.items():
            setattr(self, name, value)

    def _trained(self) -> dict[str, Tensor]:
        """Returns the parameters that the optimizer trains, by name."""
        held = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        return {name: parameter for name, parameter in self.network.named_parameters() if id(parameter) in held}

    def _momenta(self) -> dict[str, Tensor]:
        """Returns the tensors of the optimizer's state, by names of parameter and tensor."""
        return {
            f"{name} {key}": value
            for name, parameter in self._trained().items()
            for key, value in self.optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }

    def _take_momenta(self, kept: Mapping[str, Tensor], trained: Mapping[str, Tensor]) -> None:
        for key, tensor in kept.items():
            parameter = trained[_owner(key)]
            if tensor.shape == parameter.shape:  # the optimizer's memory layout, which is the parameter's
                tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
            elif self.optimizer.defaults.get("fused"):  # a fused optimizer counts its steps on the parameters' device
                tensor = tensor.to(parameter.device)
            self.optimizer.state[parameter][key.rpartition(" ")[2]] = tensor

    def _take_generators(self, kept: Mapping[str, Tensor], python: Sequence[Any], numpy: Mapping[str, Any]) -> None:
        self.order = kept["order"]
        torch.set_rng_state(kept["torch"])
        if "cuda" in kept and torch.cuda.is_available():
            torch.cuda.set_rng_state(kept["cuda"])
        version, internal, gauss = python
        random.setstate((version, tuple(internal), gauss))
        np.random.set_state(dict(numpy))


def _to_row(line: Epoch) -> Tensor:
    return torch.tensor([[math.nan if value is None else value for value in astuple(line)]], dtype=torch.float64)


def _to_epoch(row: Sequence[float]) -> Epoch:
    """Raises ValueError for a row with another number of columns."""
    pairs = zip(COLUMNS, row, strict=True)
    values: dict[str, Any] = {name: None if math.isnan(value) else value for name, value in pairs}
    return Epoch(**values | {name: int(values[name]) for name in ("epoch", "images")})


def _opened(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Returns the values and the groups of tensors of a dumped state.

    Raises ValueError or LookupError for anything else.
    """
    values = json.loads(tensors["values"].numpy().tobytes())
    if values["layout"] != LAYOUT or not {"python", "numpy"} < values.keys():
        raise ValueError("it is of another layout")
    groups: dict[str, dict[str, Tensor]] = {"average": {}, "optimizer": {}, "gathered": {}}
    for key, tensor in tensors.items():
        group, _, name = key.partition(" ")
        groups.setdefault(group, {})[name] = tensor
    if not {"order", "torch"} <= groups["generator"].keys():
        raise ValueError("a generator's state is missing")
    return values, groups


GATHERED = ("losses", "norms", "correct")
COUNTED = ("steps", "seconds", "resumes", "mixed")


@dataclass(frozen=True)
class CheckpointStore:
    """The checkpoints of one job: the latest, and the previous one in case the latest is damaged."""

    folder: Path
    """The results folder."""

    job: str
    environment: Mapping[str, Any]
    """Device, versions and code of the suite. A training that resumes with other ones is `mixed`."""

    configuration: Mapping[str, Any] = field(default_factory=dict)
    """The configuration of the job. A checkpoint of another job or configuration is not used."""

    source: Mapping[str, Any] = field(default_factory=dict)
    """The source of a network written elsewhere. If it has changed, the training starts again from the beginning."""

    written: Callable[[tuple[int, int]], None] = lambda place: None
    """Called after a checkpoint was written, by the thread that wrote it, with its finished epochs and the finished
    steps of the next epoch."""

    @property
    def paths(self) -> tuple[Path, Path]:
        """The paths of the latest and the previous checkpoint."""
        place = self.folder / FOLDER
        return place / f"{self.job}.latest", place / f"{self.job}.before"

    def write(self, dumped: Mapping[str, Tensor], place: tuple[int, int]) -> None:
        """Writes a dumped state as the latest checkpoint. Raises StorageError."""
        made = json.dumps(self._describe(), sort_keys=True)
        content = save({**dumped, "made": torch.frombuffer(bytearray(made, "utf-8"), dtype=torch.uint8)})
        files.rotate(*self.paths, hashlib.sha256(content).digest(), content)  # joining them would copy the content
        self.written(place)

    def restore(self, state: State) -> None:
        """Restores the state from the latest intact checkpoint. Does nothing if there is none.

        Removes checkpoints that are damaged, belong to another training, or were made by another version, and notes the
        reason in `state.refused`. Raises StorageError if a file cannot be read now.
        """
        for path in self.paths:
            try:
                self._restore_from(files.read(path), state)
            except FileNotFoundError:
                continue
            except (ValueError, LookupError, TypeError, SafetensorError) as error:
                state.refused.append(f"{path.name}: {error}")
                files.remove(path)
                continue
            return

    def clear(self) -> None:
        """Removes the checkpoints of a job that has a record. Raises StorageError."""
        for path in self.paths:
            files.remove(path)

    def _restore_from(self, content: bytes, state: State) -> None:
        if hashlib.sha256(content[32:]).digest() != content[:32]:
            raise ValueError("its checksum does not match")
        tensors = load(content[32:])
        made = json.loads(tensors.pop("made").numpy().tobytes())
        own = json.loads(json.dumps(self._describe()))
        if not isinstance(made, dict):
            raise ValueError("it was made by an earlier version")
        if made["job"] != self.job:
            raise ValueError(f"it is of job {made['job']}")
        if made["configuration"] != own["configuration"]:
            raise ValueError("it is of another configuration")
        changed = list_changed(made["source"], own["source"])
        if changed or made["source"].get("torchvision") != own["source"].get("torchvision"):
            raise ValueError(f"it was made with another source of the network: {', '.join(changed) or 'torchvision'}")
        state.restore(tensors)
        state.resumes += 1
        state.mixed |= made["environment"] != own["environment"]

    def _describe(self) -> dict[str, Any]:
        """Returns whose checkpoints these are, and how they are made."""
        return {
            "job": self.job,
            "configuration": dict(self.configuration),
            "environment": dict(self.environment),
            "source": dict(self.source),
        }


class AsyncCheckpointer:
    """Saves the states of a training: copies them at once, and writes them in a thread while training goes on."""

    def __init__(self, store: CheckpointStore | None) -> None:
        self._store = store
        self._thread = ThreadPoolExecutor(1)
        self._writing: Future[None] | None = None

    def save(self, state: State) -> None:
        """Waits for the previous write, then writes the current state in the background.

        Raises StorageError if the previous write failed.
        """
        self.wait()
        if self._store is not None:
            self._writing = self._thread.submit(self._store.write, state.dump(), (len(state.history), state.steps))

    def wait(self) -> None:
        """Waits until the last state is written. Raises StorageError if the write failed."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def close(self) -> None:
        """Waits for the last write and ends the thread. Raises StorageError if the write failed."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()


def _owner(key: str) -> str:
    """Returns the name of the parameter that a tensor of the optimizer's state belongs to."""
    return key.rpartition(" ")[0]


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    """Returns parameters and buffers by name, including buffers that a state dict leaves out."""
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _kind(tensor: Tensor) -> tuple[torch.dtype, torch.Size]:
    return tensor.dtype, tensor.shape

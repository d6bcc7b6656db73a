"""Networks written elsewhere: torchvision's by name, and a user's own class by `package.module:Class`."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ConfigDict, Field, JsonValue, model_validator
from torch import nn

from densenet.options import Config, lookup
from densenet.sources import fingerprint_modules


class ForeignConfig(Config):
    """A network written elsewhere. Every field that is not listed here is an argument of its constructor."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue]

    num_classes: int = Field(default=10, gt=0, le=1_000_000)
    """Outputs of the classifier, and an argument of the constructor."""

    @property
    def arguments(self) -> dict[str, Any]:
        """The constructor's other arguments."""
        return dict(self.__pydantic_extra__)


WITHOUT_AUXILIARY = {"aux_logits": False, "init_weights": True}
"""Without the first argument, two networks return more than scores; without the second, they warn about
initialisation."""


class TorchvisionConfig(ForeignConfig):
    """A classification network of torchvision, with new weights.

    Other fields are the arguments of its builder, for example `memory_efficient` of densenet121.
    """

    family: Literal["torchvision"] = "torchvision"
    """Names this family in a grid."""

    name: str
    """A name that `torchvision.models.list_models()` lists."""

    in_channels: Literal[3] = 3
    """torchvision's networks take images of three channels."""

    @model_validator(mode="after")
    def _is_a_network(self) -> TorchvisionConfig:
        """Builds the network once, and leaves out arguments that have their builder's own default."""
        given = GIVEN & self.arguments.keys()
        if given:
            raise ValueError(f"{', '.join(sorted(given))}: every network here starts from new weights; leave it out")
        try:
            with torch.device("meta"):
                build_torchvision(self)
            for name in list(self.arguments):
                if has_default(self, name):
                    del self.__pydantic_extra__[name]
                    self.__pydantic_fields_set__.discard(name)
        except NotImplementedError:
            pass  # a network that converts tensors to Python numbers cannot be built without storage
        except Exception as error:  # a builder may raise anything for arguments that it does not check
            said = str(error) if isinstance(error, TypeError | ValueError) else f"{type(error).__name__}: {error}"
            raise ValueError(said) from None
        return self


GIVEN = {"weights", "pretrained", "pretrained_backbone", "weights_backbone"}
"""Arguments of builders that ask for trained weights."""


def has_default(config: TorchvisionConfig, name: str) -> bool:
    """Returns whether the class of the network receives the same arguments if this argument is left out.

    The answer is no if this cannot be told, for arguments that cannot be compared.
    """
    others = {key: value for key, value in config.arguments.items() if key != name}
    try:
        found, without = (_received(config, arguments) for arguments in (config.arguments, others))
    except Exception:  # a builder may need the argument, and may raise anything
        return False
    return found.keys() == without.keys() and all(_are_equal(found[key], without[key]) for key in found)


def _received(config: TorchvisionConfig, arguments: dict[str, Any]) -> dict[str, Any]:
    """Builds a network without storage, and returns the arguments that its builder gives to its class."""
    found: dict[str, Any] = {}
    with torch.device("meta"):
        network: Any = type(_build_torchvision(config, arguments))
        original = network.__init__

        def note(self: nn.Module, *values: Any, **named: Any) -> None:
            bound = inspect.signature(original).bind(self, *values, **named)
            bound.apply_defaults()
            found.update(bound.arguments, self=None)
            original(self, *values, **named)

        network.__init__ = note
        try:
            _build_torchvision(config, arguments)
        finally:
            network.__init__ = original
    return found


def _are_equal(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple) and type(one) is type(other):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (one, other))
    return bool((numbers or type(one) is type(other)) and (one == other or repr(one) == repr(other)))


def build_torchvision(config: TorchvisionConfig) -> nn.Module:
    """Builds the network, `(N, 3, H, W) -> (N, num_classes)`. Raises ValueError for an unknown name."""
    return _build_torchvision(config, config.arguments)


def _build_torchvision(config: TorchvisionConfig, arguments: dict[str, Any]) -> nn.Module:
    from torchvision import models

    builders = {name: models.get_model_builder(name) for name in models.list_models(module=models)}
    builder = lookup("torchvision network", config.name, builders)
    told = WITHOUT_AUXILIARY if config.name in ("googlenet", "inception_v3") else {}
    network: nn.Module = builder(weights=None, num_classes=config.num_classes, **{**told, **arguments})
    return network


class OwnConfig(ForeignConfig):
    """A user's own network. `family` names its class, which takes in_channels, num_classes and all other fields."""

    family: str = Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    """`package.module:Class`."""

    in_channels: int = Field(default=3, gt=0, le=10_000)
    """Channels of the image, and an argument of the constructor."""

    @model_validator(mode="after")
    def _takes_the_arguments(self) -> OwnConfig:
        network = load_class(self.family)
        try:
            inspect.signature(network).bind(**_own_arguments(self))
        except TypeError as error:
            raise ValueError(
                f"{self.family}{inspect.signature(network)} cannot take {', '.join(_own_arguments(self))}: {error}"
            ) from None
        return self


def load_class(family: str) -> type[nn.Module]:
    """Imports the class that `package.module:Class` names. Raises ValueError if the module or class is missing."""
    module_name, _, name = family.partition(":")
    here = str(Path.cwd())
    if module_name == __package__ and (hidden := Path(here) / f"{module_name}.py").exists():
        raise ValueError(f"{module_name} is the package of this project's own networks: rename {hidden}")
    sys.path.append(here)  # only during this import, so that files in the current folder hide no other modules
    try:
        with keep_settings():
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        raise ValueError(f"{module_name} cannot be imported: {type(error).__name__}: {error}") from None
    finally:
        sys.path.remove(here)
    found = getattr(module, name, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        file = getattr(module, "__file__", "built in")
        raise ValueError(f"{module_name} ({file}) has no class {name} that is a torch.nn.Module")
    return found


def describe_source(config: Config) -> dict[str, Any]:
    """Returns the source of a network written elsewhere; nothing for others.

    For torchvision: its version. For a user's class: `network_source`, part of the SHA-256 of its file, and
    `network_modules`, the fingerprints of all modules of the user's that it depends on.
    """
    if isinstance(config, TorchvisionConfig):
        return {"torchvision": metadata.version("torchvision")}
    if isinstance(config, OwnConfig):
        network = load_class(config.family)
        file = inspect.getsourcefile(network)
        modules = fingerprint_modules(network, config.family.partition(":")[0])
        own = {"network_source": hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]} if file else {}
        return {**own, "network_modules": modules}
    return {}


def build_own(config: OwnConfig) -> nn.Module:
    """Builds the user's network, `(N, in_channels, H, W) -> (N, num_classes)`."""
    network = load_class(config.family)
    with keep_settings():
        return network(**_own_arguments(config))


SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
)
"""Settings of PyTorch that hold for the whole process: the functions that return and that set each of them."""


@contextmanager
def keep_settings() -> Iterator[None]:
    """A context after which PyTorch's settings are as before, so that a user's code does not change other networks."""
    before = [read() for read, _ in SETTINGS]
    try:
        yield
    finally:
        for (read, change), value in zip(SETTINGS, before, strict=True):
            if read() != value:
                change(value)


def _own_arguments(config: OwnConfig) -> dict[str, Any]:
    return {"in_channels": config.in_channels, "num_classes": config.num_classes, **config.arguments}

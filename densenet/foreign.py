"""Networks written elsewhere: torchvision's by name, and a user's own class or function by `package.module:name`."""

from __future__ import annotations

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

from densenet.options import Config, lookup, suggestion
from densenet.sources import find_place, fingerprint_file, fingerprint_modules


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


PART = r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"
"""The form of the name of a part that is written elsewhere: `package.module:name`."""

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
    """A user's own network. `family` names its class, or a function that makes it, and all other fields are arguments.

    An argument with the default of the class changes nothing.
    """

    family: str = Field(pattern=PART)
    """`package.module:name`, a class or a function."""

    in_channels: int = Field(default=3, gt=0, le=10_000)
    """Channels of the image, and an argument of the constructor."""

    channels_as: str = "in_channels"
    """The name of this argument, for example `in_chans`. Empty: the constructor takes none."""

    classes_as: str = "num_classes"
    """The name of the argument `num_classes`."""

    @model_validator(mode="after")
    def _takes_the_arguments(self) -> OwnConfig:
        """Leaves out arguments that have their constructor's own default."""
        signature, given = inspect.signature(load_network(self.family)), _own_arguments(self)
        try:
            signature.bind(**given)
        except TypeError as error:
            near = "".join(suggestion(name, signature.parameters) for name in given if name not in signature.parameters)
            raise ValueError(f"{self.family}{signature} cannot take {', '.join(given)}: {error}{near}") from None
        for name, value in self.arguments.items():
            if name in signature.parameters and _are_equal(value, signature.parameters[name].default):
                del self.__pydantic_extra__[name]
                self.__pydantic_fields_set__.discard(name)
        return self


def load_part(name: str) -> Any:
    """Imports what `package.module:name` names, from the installed packages or from the current folder.

    Raises ValueError if there is no such module, or nothing of this name in it.
    """
    module_name, _, name = name.partition(":")
    here = str(Path.cwd())
    if module_name == __package__ and (hidden := Path(here) / f"{module_name}.py").exists():
        raise ValueError(f"{module_name} is the package of this project's own networks: rename {hidden}")
    sys.path.append(here)  # only during this import, so that files in the current folder hide no other modules
    try:
        with keep_settings():
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's module may raise anything while it is imported
        outer, _, inner = module_name.rpartition(".")
        is_file = isinstance(error, ModuleNotFoundError) and not hasattr(sys.modules.get(outer, sys), "__path__")
        hint = f"; {inner} in the module {outer} is written {outer}:{inner}" if outer in sys.modules and is_file else ""
        place = f", at {found}" if (found := find_place(error)) else ""
        raise ValueError(f"{module_name} cannot be imported: {type(error).__name__}: {error}{place}{hint}") from None
    finally:
        sys.path.remove(here)
    if not hasattr(module, name):
        near = suggestion(name, [each for each in dir(module) if not each.startswith("_")])
        raise ValueError(f"{module_name} ({getattr(module, '__file__', 'built in')}) has no {name}{near}")
    return getattr(module, name)


def load_network(family: str) -> Callable[..., nn.Module]:
    """Imports a user's class, or a function that makes a network. Raises ValueError for anything else."""
    found = load_part(family)
    if not callable(found) or (isinstance(found, type) and not issubclass(found, nn.Module)):
        module_name, _, name = family.partition(":")
        file = getattr(sys.modules[module_name], "__file__", "built in")
        raise ValueError(f"{module_name} ({file}): {name} is neither a torch.nn.Module nor a function that makes one")
    network: Callable[..., nn.Module] = found
    return network


def list_arguments(family: str) -> set[str]:
    """Returns the names of the arguments of a user's class or function. Raises ValueError if it cannot be imported."""
    return set(inspect.signature(load_network(family)).parameters)


def describe_source(config: Config) -> dict[str, Any]:
    """Returns the source of a network written elsewhere; nothing for others.

    For torchvision: its version. For a user's class or function: `network_source`, part of the SHA-256 of its file,
    `network_modules`, the fingerprints of all modules of the user's that it depends on, and `network_files`, those of
    the files that its arguments name, for example of weights.
    """
    if isinstance(config, TorchvisionConfig):
        return {"torchvision": metadata.version("torchvision")}
    if isinstance(config, OwnConfig):
        network = load_network(config.family)
        try:
            file = inspect.getsourcefile(inspect.unwrap(network))
        except TypeError:  # an object that is called like a function has no file
            file = None
        own: dict[str, Any] = {"network_source": fingerprint_file(Path(file))} if file else {}
        named = [Path(value) for value in config.arguments.values() if isinstance(value, str)]
        files = {str(path): [fingerprint_file(path)] for path in named if path.is_file()}
        own |= {"network_files": files} if files else {}
        return {**own, "network_modules": fingerprint_modules(network, config.family.partition(":")[0])}
    return {}


def build_own(config: OwnConfig) -> nn.Module:
    """Builds the user's network, `(N, in_channels, H, W) -> (N, num_classes)`.

    Raises TypeError if a function makes something else.
    """
    make = load_network(config.family)
    with keep_settings():
        network = make(**_own_arguments(config))
    if not isinstance(network, nn.Module):
        raise TypeError(f"{config.family} gave a {type(network).__name__}; a torch.nn.Module is needed")
    return network


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
    own = {config.channels_as: config.in_channels} if config.channels_as else {}
    return {**own, config.classes_as: config.num_classes, **config.arguments}

"""Networks written elsewhere: torchvision's by name, and a user's own class or function by `package.module:name`."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import ConfigDict, Field, JsonValue, ValidationInfo, field_validator, model_validator
from torch import nn

from densenet.options import Config, lookup, suggestion
from densenet.pretrained import NEW, find_checksum, find_weights, list_weights, start_from
from densenet.sources import find_place, fingerprint_file, fingerprint_modules

if TYPE_CHECKING:
    from torchvision.models import WeightsEnum


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
    """A classification network of torchvision, with new or with trained weights.

    Other fields are the arguments of its builder, for example `memory_efficient` of densenet121.
    """

    family: Literal["torchvision"] = "torchvision"
    """Names this family in a grid."""

    name: str
    """A name that `torchvision.models.list_models()` lists."""

    in_channels: Literal[3] = 3
    """torchvision's networks take images of three channels."""

    weights: str = NEW
    """The trained weights that a training starts from, by torchvision's name: `IMAGENET1K_V1`. If the data has another
    number of classes, the last layer has new weights. none: all weights are new."""

    @field_validator("weights")
    @classmethod
    def _are_known(cls, weights: str, info: ValidationInfo) -> str:
        """Returns the name of the weights alone: without the name of the network, and not `DEFAULT`."""
        name = info.data.get("name")
        if name not in _list_builders() or weights == NEW:
            return weights
        known = list_weights(name)
        kind = type(next(iter(known.values()))).__name__
        names: dict[str, str] = {NEW: NEW, **{each: found.name for each, found in known.items()}}
        return lookup(f"weights of {name}", weights.removeprefix(f"{kind}."), names)

    @model_validator(mode="after")
    def _is_a_network(self) -> TorchvisionConfig:
        """Builds the network once, and leaves out arguments that have their builder's own default."""
        given = GIVEN & self.arguments.keys()
        if given:
            raise ValueError(f"{', '.join(sorted(given))}: leave it out, and name trained weights with weights")
        try:
            with torch.device("meta"):
                _build_torchvision(self, self.arguments)
            if self.weights != NEW:
                _take_needed(self)
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


GIVEN = {"pretrained", "pretrained_backbone", "weights_backbone"}
"""Other arguments that ask for trained weights."""

ASKING = {"weights", *GIVEN}
"""Arguments that ask for trained weights."""


def _take_needed(config: TorchvisionConfig) -> None:
    """Adds the arguments that trained weights need. Raises ValueError for others with which they do not fit."""
    weights = list_weights(config.name)[config.weights]
    needed: dict[str, Any] = {"transform_input": True} if config.name in ("googlenet", "inception_v3") else {}
    needed |= {"image_size": weights.meta["min_size"][0]} if config.name.startswith("vit_") else {}
    for name, value in needed.items():
        config.__pydantic_extra__.setdefault(name, value)
    with torch.device("meta"):
        plain, asked = (_build_torchvision(config, each).state_dict() for each in (needed, config.arguments))
    if {name: each.shape for name, each in plain.items()} != {name: each.shape for name, each in asked.items()}:
        changed = ", ".join(f"{name} = {value}" for name, value in config.arguments.items())
        raise ValueError(f"the weights {config.weights} do not fit a network with {changed}")


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
    """Builds the network, `(N, 3, H, W) -> (N, num_classes)`, and gives it its trained weights.

    Raises ValueError for an unknown name, and for weights that cannot be downloaded.
    """
    network = _build_torchvision(config, config.arguments)
    for weights in list_trained(config).values():
        start_from(network, weights)
    return network


def _list_builders() -> dict[str, Callable[..., nn.Module]]:
    from torchvision import models

    return {name: models.get_model_builder(name) for name in models.list_models(module=models)}


def _build_torchvision(config: TorchvisionConfig, arguments: dict[str, Any]) -> nn.Module:
    builder = lookup("torchvision network", config.name, _list_builders())
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
        network, given = load_network(self.family), _own_arguments(self)
        signature = inspect.signature(network)
        try:
            signature.bind(**given)
        except TypeError as error:
            near = "".join(suggestion(name, signature.parameters) for name in given if name not in signature.parameters)
            raise ValueError(f"{self.family}{signature} cannot take {', '.join(given)}: {error}{near}") from None
        if "weights" in self.arguments and network in _list_builders().values():
            needed = f'model.family = "torchvision" and model.name = "{self.family.partition(":")[2]}"'
            raise ValueError(f"to start from trained weights of torchvision, give {needed}")
        list_trained(self)  # refuses unknown names
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


def list_trained(config: Config) -> dict[str, WeightsEnum]:
    """Returns the published weights of torchvision that a network starts from, by the argument that names them.

    An argument of a user's network names them in full, for example `ResNet18_Weights.IMAGENET1K_V1`. Raises ValueError
    if there are no such weights.
    """
    if isinstance(config, TorchvisionConfig):
        return {} if config.weights == NEW else {"weights": list_weights(config.name)[config.weights]}
    arguments = _complete(config) if isinstance(config, OwnConfig) else {}
    found = {name: find_weights(value) for name, value in arguments.items() if isinstance(value, str)}
    return {name: weights for name, weights in found.items() if weights is not None}


def fingerprint_weights(config: Config) -> dict[str, str]:
    """Returns the first digits of the SHA-256 of the trained weights that a network starts from, by their full name."""
    return {str(weights): find_checksum(weights) for weights in list_trained(config).values()}


def without_weights(config: Config) -> Config:
    """Returns the configuration of the same network with new weights, which has the same costs and needs no download.

    A user's network keeps an argument whose default is not None.
    """
    trained = list_trained(config)
    if isinstance(config, TorchvisionConfig):
        return config.model_copy(update={"weights": NEW}) if trained else config
    if not isinstance(config, OwnConfig) or not trained:
        return config
    parameters = inspect.signature(load_network(config.family)).parameters
    left = {name for name in trained if name in parameters and parameters[name].default is None}
    return OwnConfig.model_validate(config.model_dump(exclude=left))


def list_unknown_weights(config: Config) -> list[str]:
    """Returns the arguments of a user's network that ask for trained weights, if no argument tells which file they are.

    An example is `pretrained = true` of timm's `create_model`.
    """
    if not isinstance(config, OwnConfig) or list_trained(config) or _list_files(config.arguments):
        return []
    arguments = _complete(config)
    return sorted(name for name in ASKING & arguments.keys() if arguments[name])


def _complete(config: OwnConfig) -> dict[str, Any]:
    """Returns the arguments of a user's network with the defaults of those that are left out."""
    parameters = inspect.signature(load_network(config.family)).parameters.values()
    return {each.name: each.default for each in parameters if each.default is not each.empty} | config.arguments


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
        files = {str(path): [fingerprint_file(path)] for path in _list_files(config.arguments)}
        own |= {"network_files": files} if files else {}
        return {**own, "network_modules": fingerprint_modules(network, config.family.partition(":")[0])}
    return {}


def _list_files(value: Any) -> list[Path]:
    """Lists the files that an argument names, also within lists and tables."""
    if isinstance(value, str):
        return [Path(value)] if Path(value).is_file() else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [path for each in inner for path in _list_files(each)]


def build_own(config: OwnConfig) -> nn.Module:
    """Builds the user's network, `(N, in_channels, H, W) -> (N, num_classes)`.

    Raises TypeError if a function makes something else.
    """
    make = load_network(config.family)
    with keep_settings():
        try:
            network = make(**_own_arguments(config))
        except TypeError as error:
            if f"argument {config.channels_as!r}" not in str(error) or not config.channels_as:
                raise
            raise TypeError(
                f'{error}: give model.channels_as = "" for a network that takes no number of channels'
            ) from error
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

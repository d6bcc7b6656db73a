"""Tries what may fail in every job before any of them: a network on one image, a user's network, and a user's parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ablations.config import Variant
from ablations.parts import change_images, compute_own_loss, find_factor, find_part, is_own, make_own_optimizer
from densenet import Config, OwnConfig, build, list_arguments, without_weights
from densenet.sources import find_place


def refuse_one_image(model: Config, image_size: tuple[int, int], training: bool) -> str:
    """Returns why a network takes no batch of one image, although it takes two; empty if it does.

    An example is batch norm over maps of 1 x 1 in a training: one value of a channel has no variance.
    """
    with torch.random.fork_rng(devices=[]):
        network = _build(model, training)
        one = _try(network, 1, model, image_size) if network else ""
        return one if one and network and not _try(network, 2, model, image_size) else ""


def _build(model: Config, training: bool) -> nn.Module | None:
    """Builds a network; None if that fails, which its job reports."""
    try:
        return build(without_weights(model)).train(training)
    except (Exception, SystemExit):  # a network may raise anything
        return None


def _try(network: nn.Module, count: int, model: Config, image_size: tuple[int, int]) -> str:
    """Returns why a forward pass of so many images fails; empty if it gives scores."""
    images = torch.randn(count, int(getattr(model, "in_channels", 3)), *image_size)
    try:
        with torch.no_grad():
            scores = network(images)
    except (Exception, SystemExit) as error:  # a network may raise anything
        return f"{type(error).__name__}: {error}"
    wanted = (count, int(getattr(model, "num_classes", 0)))
    found = tuple(getattr(scores, "shape", ()))
    return "" if found == wanted else f"it returns {found or type(scores).__name__} in place of scores {wanted}"


def find_ignored(model: Config) -> list[str]:
    """Returns which arguments a user's network ignores, of those that its maker does not name itself.

    A maker with `**kwargs` takes any name, so its signature tells nothing. An argument for channels or classes is
    ignored if a network for one more has parameters of the same shapes, and any other one if a network without it has
    the same layers and parameters of the same shapes.
    """
    if not isinstance(model, OwnConfig):
        return []
    fields, named = {model.channels_as: "in_channels", model.classes_as: "num_classes"}, list_arguments(model.family)
    asked = {name: field for name, field in fields.items() if name and name not in named}
    with torch.random.fork_rng(devices=[]):
        shapes = _list_shapes(model) if asked else []
        more = {name: model.model_copy(update={field: getattr(model, field) + 1}) for name, field in asked.items()}
        found = [name for name, other in more.items() if shapes and _list_shapes(other) == shapes]
        beside = [name for name in model.arguments if name not in named and name not in asked]
        whole = _describe_layers(model) if beside else ""
        for name in beside:
            fields = {key: value for key, value in model.model_dump().items() if key != name}
            found += [name] if whole and _describe_layers(type(model).model_validate(fields)) == whole else []
        return found


def _list_shapes(model: Config) -> list[torch.Size]:
    """Lists the shapes of a network's parameters; none if it cannot be built, or if some sizes are not known yet."""
    network = _build(model, training=True)
    parameters = [*network.parameters()] if network else []
    return [] if any(map(is_lazy, parameters)) else [parameter.shape for parameter in parameters]


def _describe_layers(model: Config) -> str:
    """Describes a network's layers and the shapes of its parameters; empty if it cannot be built or described."""
    network, shapes = _build(model, training=True), _list_shapes(model)
    return f"{network}{shapes}" if network and shapes else ""


def check_own_network(model: Config, image_size: tuple[int, int], loss: str) -> None:
    """Tries a user's network on two images. Networks of other families are not tried.

    Raises ValueError for a network that would train, but not as it seems to: layers that are no parameters of it, for
    example in a list, are never trained, counted or saved; scores of another number than classes; probabilities in
    place of scores, unless the loss is the user's too; lazy layers, whose sizes the first batch decides; no parameter
    that is trained; scores that are drawn at random in eval mode, too. All other errors are left to the job.
    """
    if not isinstance(model, OwnConfig):
        return
    with torch.random.fork_rng(devices=[]):
        try:
            network = build(without_weights(model)).train()
            images = torch.randn(2, model.in_channels, *image_size)
            lazy = any(map(is_lazy, (*network.parameters(), *network.buffers())))
            results = []
            if not lazy:
                results.append(network(images))
                with torch.no_grad():
                    results += [network.eval()(images) for _ in range(2)]
        except (Exception, SystemExit):  # a network may raise anything; its job reports it
            return
    if lazy:
        raise ValueError(f"{model.family} has lazy layers, whose sizes only the first batch decides: state the sizes")
    if not any(parameter.requires_grad for parameter in network.parameters()):
        raise ValueError(f"{model.family} has no parameter that is trained")
    if all(isinstance(each, Tensor) and each.dim() == 2 for each in results):  # else the first step tells it
        _check_scores(model, network, loss, *results)


def _check_scores(model: OwnConfig, network: nn.Module, loss: str, scores: Tensor, test: Tensor, again: Tensor) -> None:
    """Raises ValueError if the scores of a training and of two tests of the same images are not what they should be."""
    if scores.shape[1] != model.num_classes:
        rule = "its constructor is given num_classes for that"
        raise ValueError(f"{model.family} gives {scores.shape[1]} scores for {model.num_classes} classes: {rule}")
    are_shares = bool((scores >= 0).all()) and torch.allclose(scores.sum(1), torch.ones_like(scores[:, 0]), atol=1e-4)
    if are_shares and not is_own(loss):
        rule = "leave the softmax out, because the loss has one"
        raise ValueError(f"{model.family} gives probabilities in place of scores: {rule}")
    if not torch.allclose(test, again, equal_nan=True):
        rule = "a functional dropout, for example, needs training=self.training"
        raise ValueError(f"{model.family} gives other scores when it is tested on the same images again: {rule}")
    known = set(map(id, network.parameters()))
    hidden = [tensor for tensor in _list_trained(scores) if id(tensor) not in known]
    if hidden:
        count = sum(tensor.numel() for tensor in hidden)
        rule = "never trained, counted or saved; nn.ModuleList and nn.ParameterList register what a list does not"
        raise ValueError(f"{model.family} computes with {count:,} weights that are no parameters of it: {rule}")


def _list_trained(result: Tensor) -> Iterator[Tensor]:
    """Yields each tensor that a backward pass from the result would give a gradient."""
    left: list[Any] = [result.grad_fn]
    seen: set[Any] = {None}
    while left:
        node = left.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            yield node.variable
        left += [each for each, _ in node.next_functions]


def refuse_parts(variant: Variant, shape: tuple[int, ...], classes: int, steps: int) -> dict[str, str]:
    """Returns why parts of the user's do not work, by field: `{"train.loss": "TypeError: ..."}`.

    Each part is called once, a schedule for the first and the last of the steps, with images of this shape. A class is
    refused where a function is needed: its call makes an object.
    """
    train, data = variant.train, variant.data
    tries: dict[str, tuple[str, Callable[..., object]]] = {
        "data.augmentation": (data.augmentation, partial(_try_augmentation, shape)),
        "train.loss": (train.loss, partial(_try_loss, classes, train.mix != "none")),
        "train.optimizer": (train.optimizer, partial(_try_optimizer, train.learning_rate, train.momentum)),
        "train.schedule": (train.schedule, partial(_try_schedule, steps)),
    }
    own = {field: each for field, each in tries.items() if is_own(each[0])}
    found = {field: _refuse_class(field, name) or _catch(call, name) for field, (name, call) in own.items()}
    return {field: reason for field, reason in found.items() if reason}


FUNCTIONS = {
    "data.augmentation": "images and a torch.Generator that gives images",
    "train.loss": "scores and classes that gives one number",
    "train.schedule": "the step and the number of steps that gives a factor",
}
"""The parts that are functions: of what, and what they give."""


def _refuse_class(field: str, name: str) -> str:
    """Returns why a part cannot be a class; empty if it is none, or if the part may be one."""
    if field not in FUNCTIONS or not isinstance(find_part(name), type):
        return ""
    return f"{name} is a class; a function of {FUNCTIONS[field]} is needed, and it may use an object of this class"


def _catch(call: Callable[[str], object], name: str) -> str:
    with torch.random.fork_rng(devices=[]):
        try:
            call(name)
        except (Exception, SystemExit) as error:  # a user's function may raise anything
            place = find_place(error)
            return f"{type(error).__name__}: {error}" + (f", at {place}" if place else "")
    return ""


def _try_augmentation(shape: tuple[int, ...], name: str) -> None:
    change_images(name, torch.zeros(2, *shape, dtype=torch.uint8), seed=0)


def _try_loss(classes: int, mixed: bool, name: str) -> None:
    """Two images, of the first class and of the last one."""
    labels = torch.tensor([0, classes - 1])
    shares = nn.functional.one_hot(labels, classes).float()
    compute_own_loss(name, torch.zeros(2, classes, requires_grad=True), shares if mixed else labels).backward()


def _try_optimizer(learning_rate: float, momentum: float, name: str) -> None:
    layer = nn.Linear(2, 2)
    groups = [{"params": [layer.weight], "weight_decay": 1e-4}, {"params": [layer.bias], "weight_decay": 0.0}]
    optimizer = make_own_optimizer(name, groups, learning_rate, momentum)
    layer(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    kept = {key for state in optimizer.state.values() for key, value in state.items() if isinstance(value, int | float)}
    if kept:
        raise TypeError(
            f"it keeps {', '.join(sorted(kept))} as plain numbers in its state, and checkpoints hold tensors"
        )


def _try_schedule(steps: int, name: str) -> None:
    for step in (0, steps - 1):
        find_factor(name, step, steps)

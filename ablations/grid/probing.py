"""Tries a network before any job: whether it takes a single image, and whether its scores fit the data."""

from __future__ import annotations

import torch
from torch import nn

from densenet import Config, build

RETURNS = "it returns"


def refuse_one_image(model: Config, image_size: tuple[int, int], training: bool) -> str:
    """Returns why a network takes no batch of one image, although it takes two; empty if it does.

    An example is batch norm over maps of 1 x 1 in a training: one value of a channel has no variance.
    """
    with torch.random.fork_rng(devices=[]):
        network = _build(model, training)
        one = _try(network, 1, model, image_size) if network else ""
        return one if one and network and not _try(network, 2, model, image_size) else ""


def refuse_scores(model: Config, image_size: tuple[int, int]) -> str:
    """Returns why a network cannot be trained on the classes of the data; empty if it can, or if it fails.

    It must give one score for each class, and have weights that exist and are trained. With more scores than classes it
    would be trained and tested, but the scores would not be those of the classes.
    """
    with torch.random.fork_rng(devices=[]):
        network = _build(model, training=False)
        if network is None:
            return ""
        parameters = list(network.parameters())
        if any(nn.parameter.is_lazy(parameter) for parameter in parameters):
            return "it has lazy layers, whose weights do not exist before the first images: give them their sizes"
        if not any(parameter.requires_grad for parameter in parameters):
            return "it has no parameter that is trained"
        found = _try(network, 2, model, image_size)
        return found if found.startswith(RETURNS) else ""


def _build(model: Config, training: bool) -> nn.Module | None:
    """Builds a network; None if that fails, which its job reports."""
    try:
        return build(model).train(training)
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
    return "" if found == wanted else f"{RETURNS} {found or type(scores).__name__} in place of scores {wanted}"

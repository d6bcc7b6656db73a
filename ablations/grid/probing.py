"""Tries a network on a single image before any job: some networks take batches of two images, but not of one."""

from __future__ import annotations

import torch
from torch import nn

from densenet import Config, build


def refuse_one_image(model: Config, image_size: tuple[int, int], training: bool) -> str:
    """Returns why a network takes no batch of one image, although it takes two; empty if it does.

    An example is batch norm over maps of 1 x 1 in a training: one value of a channel has no variance.
    """
    with torch.random.fork_rng(devices=[]):
        try:
            network = build(model).train(training)
        except (Exception, SystemExit):  # a network may raise anything; its job reports it
            return ""
        one = _try(network, 1, model, image_size)
        return one if one and not _try(network, 2, model, image_size) else ""


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

"""Trained weights of torchvision: their names, their files, and what of them a network takes."""

from __future__ import annotations

import hashlib

import pytest
import torch
from torchvision import models

from densenet import TorchvisionConfig, build
from densenet.pretrained import fetch, find_checksum, find_weights, is_here, list_weights

SMALL = models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1


def trained(name, classes=1000, **arguments):
    """The weights of a network, as training would leave them: none is what a new network has."""
    network = models.get_model(name, weights=None, num_classes=classes, **arguments)
    return {key: torch.full_like(value, 0.5) for key, value in network.state_dict().items()}


def is_trained(tensor):
    return bool((tensor == torch.full_like(tensor, 0.5)).all())


def test_weights_have_names_and_every_file_has_a_checksum():
    assert list(list_weights("resnet50")) == ["IMAGENET1K_V1", "IMAGENET1K_V2", "DEFAULT"]
    assert list(list_weights("vgg16")) == ["IMAGENET1K_V1", "DEFAULT"]  # others are without the last layer
    assert find_checksum(models.ResNet18_Weights.IMAGENET1K_V1) == "f37072fd"
    every = [each for name in models.list_models(module=models) for each in list_weights(name).values()]
    assert len(every) > 100
    assert min(len(find_checksum(each)) for each in every) == 8


def test_a_full_name_finds_weights():
    assert find_weights("ResNet18_Weights.DEFAULT") is models.ResNet18_Weights.IMAGENET1K_V1
    assert [find_weights(text) for text in ("resnet18", "IMAGENET1K_V1", "Other_Weights.V1", "a.b", "")] == [None] * 5
    rule = "unknown ResNet18_Weights 'IMAGENET1K_V2': allowed are 'IMAGENET1K_V1', 'DEFAULT'"
    with pytest.raises(ValueError, match=rule):
        find_weights("ResNet18_Weights.IMAGENET1K_V2")


def test_a_file_is_downloaded_once_and_checked_every_time(publish, tmp_path):
    place = publish(SMALL, {"weight": torch.ones(2)})
    assert not is_here(SMALL)
    fetch(SMALL)
    assert is_here(SMALL)
    content = place.read_bytes()
    assert hashlib.sha256(content).hexdigest().startswith(find_checksum(SMALL))
    (tmp_path / place.name).unlink()
    fetch(SMALL)

    place.write_bytes(content + b"0")
    with pytest.raises(ValueError, match=rf"{place} is not the file of {SMALL}: its SHA-256 begins with .*Remove it"):
        fetch(SMALL)


def test_a_file_that_cannot_be_downloaded_is_told_with_what_to_do(publish, tmp_path):
    place = publish(SMALL, {})
    (tmp_path / place.name).unlink()
    rule = f"the weights {SMALL} are not in {place.parent}, and file://.* cannot be downloaded .*set TORCH_HOME"
    with pytest.raises(ValueError, match=rule):
        fetch(SMALL)
    (tmp_path / place.name).write_bytes(b"another file")
    with pytest.raises(ValueError, match=r"cannot be downloaded .invalid hash value"):
        fetch(SMALL)
    assert not list(place.parent.iterdir())


@pytest.mark.parametrize("classes", [1000, 3])
def test_a_network_starts_from_trained_weights_with_a_new_last_layer_for_other_classes(classes, publish):
    publish(SMALL, trained("shufflenet_v2_x0_5"))
    state = build(TorchvisionConfig(name="shufflenet_v2_x0_5", weights="DEFAULT", num_classes=classes)).state_dict()
    new = {name for name, tensor in state.items() if not is_trained(tensor)}
    assert new == (set() if classes == 1000 else {"fc.weight", "fc.bias"})
    assert state["fc.weight"].shape == (classes, 1024)


def test_the_last_layer_is_the_same_with_trained_weights_and_without(publish):
    publish(SMALL, trained("shufflenet_v2_x0_5"))
    layers = []
    for weights in ("none", "DEFAULT"):
        torch.manual_seed(7)
        layers.append(build(TorchvisionConfig(name="shufflenet_v2_x0_5", weights=weights)).fc.weight)
    assert torch.equal(*layers)


def test_older_names_of_densenets_are_read(publish):
    older = {name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): tensor
             for name, tensor in trained("densenet121").items()}  # fmt: skip
    publish(models.DenseNet121_Weights.IMAGENET1K_V1, older)
    state = build(TorchvisionConfig(name="densenet121", weights="IMAGENET1K_V1")).state_dict()
    new = {name for name, tensor in state.items() if not is_trained(tensor)}
    assert new == {"classifier.weight", "classifier.bias"}


def test_auxiliary_outputs_are_left_out(publish):
    publish(models.GoogLeNet_Weights.IMAGENET1K_V1, trained("googlenet", aux_logits=True, init_weights=False))
    network = build(TorchvisionConfig(name="googlenet", weights="IMAGENET1K_V1"))
    assert network.transform_input
    assert is_trained(network.conv1.conv.weight)
    assert network.aux1 is None

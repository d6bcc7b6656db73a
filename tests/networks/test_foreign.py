"""Networks written elsewhere: torchvision's, and a user's own class."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from pydantic import ValidationError
from torch import nn

from densenet import (
    DenseNetConfig,
    OwnConfig,
    TorchvisionConfig,
    build,
    count_macs,
    count_params,
    describe_source,
    fingerprint_weights,
    list_trained,
    list_unknown_weights,
    model_family,
    without_weights,
)  # fmt: skip
from densenet.pretrained import fetch


class Linear(nn.Module):
    """A user's network."""

    def __init__(self, in_channels: int, num_classes: int, hidden: int = 8):
        super().__init__()
        self.body = nn.Conv2d(in_channels, hidden, 1)
        self.fc = nn.Linear(hidden, num_classes)

    def forward(self, images):
        return self.fc(self.body(images).mean((-2, -1)))


OWN = f"{__name__}:Linear"


def test_a_network_of_torchvision_with_arguments_of_its_builder():
    network = build(TorchvisionConfig(name="densenet121", num_classes=7, memory_efficient=True))
    assert network.features.denseblock1.denselayer1.memory_efficient
    assert network(torch.randn(2, 3, 32, 32)).shape == (2, 7)


@pytest.mark.parametrize(("name", "size"), [("googlenet", 64), ("inception_v3", 96)])
def test_a_network_of_torchvision_with_auxiliary_outputs_gives_scores_alone(name, size):
    with torch.device("meta"):
        network = build(TorchvisionConfig(name=name)).train()
        assert network(torch.empty(2, 3, size, size)).shape == (2, 10)


def test_a_network_that_cannot_be_tried_without_storage_is_accepted():
    assert TorchvisionConfig(name="regnet_x_400mf").name == "regnet_x_400mf"


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"name": "resnet81"}, "unknown torchvision network 'resnet81': .*did you mean 'resnet18'"),
        ({"name": "resnet18", "widht": 2}, "unexpected keyword argument 'widht'"),
        ({"name": "resnet18", "in_channels": 1}, "in_channels\n  Input should be 3"),
        ({"name": "resnet18", "num_classes": 0}, "greater than 0"),
        (
            {"name": "resnet18", "weights": "IMAGENET1K_V2"},
            "unknown weights of resnet18 'IMAGENET1K_V2': allowed are 'none', 'IMAGENET1K_V1'",
        ),
        ({"name": "resnet18", "weights": "ResNet50_Weights.IMAGENET1K_V1"}, "unknown weights of resnet18 'ResNet50_W"),
        ({"name": "resnet81", "weights": "IMAGENET1K_V1"}, "unknown torchvision network 'resnet81'"),
        ({"name": "resnet18", "pretrained": True}, "pretrained: leave it out, and name trained weights with weights"),
        (
            {"name": "resnet50", "weights": "IMAGENET1K_V1", "width_per_group": 128},
            "the weights IMAGENET1K_V1 do not fit a network with width_per_group = 128",
        ),
        ({}, "required"),
    ],
)
def test_what_torchvision_does_not_have_is_refused(fields, rule):
    with pytest.raises(ValidationError, match=rule):
        TorchvisionConfig(**fields)


@pytest.mark.parametrize(
    ("name", "default", "other"),
    [
        ("densenet121", {"memory_efficient": False}, {"memory_efficient": True}),
        ("densenet121", {"drop_rate": 0.0}, {"drop_rate": 0.1}),
        ("resnet18", {"zero_init_residual": False}, {"zero_init_residual": True}),
        ("convnext_tiny", {"stochastic_depth_prob": 0.1}, {"stochastic_depth_prob": 0.0}),
    ],
)
def test_an_argument_with_the_builder_s_own_default_changes_nothing(name, default, other):
    """The default of convnext_tiny's builder is not the one of its class."""
    plain = TorchvisionConfig(name=name)
    assert TorchvisionConfig(name=name, **default) == plain
    assert TorchvisionConfig(name=name, **default).model_dump() == plain.model_dump()
    assert TorchvisionConfig(name=name, **default).arguments == {}
    assert TorchvisionConfig(name=name, **other).arguments == other


@pytest.mark.parametrize("name", ["IMAGENET1K_V2", "DEFAULT", "ResNet50_Weights.IMAGENET1K_V2"])
def test_weights_have_one_name_and_their_checksum(name):
    config = TorchvisionConfig(name="resnet50", weights=name)
    assert config == TorchvisionConfig(name="resnet50", weights="IMAGENET1K_V2")
    assert fingerprint_weights(config) == {"ResNet50_Weights.IMAGENET1K_V2": "11ad3fa6"}
    assert without_weights(config) == TorchvisionConfig(name="resnet50")
    assert fingerprint_weights(without_weights(config)) == {}


@pytest.mark.parametrize(
    ("name", "weights", "needed"),
    [
        ("googlenet", "IMAGENET1K_V1", {"transform_input": True}),
        ("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", {"image_size": 384}),
        ("vit_b_16", "IMAGENET1K_V1", {}),
        ("regnet_x_400mf", "IMAGENET1K_V1", {}),
    ],
)
def test_arguments_that_trained_weights_need_are_added(name, weights, needed):
    assert TorchvisionConfig(name=name, weights=weights).arguments == needed


def tune(num_classes, weights=None, checkpoint="", pretrained=False, **more):
    """A function that replaces the last layer of a network of torchvision."""
    network = torchvision.models.shufflenet_v2_x0_5(weights=weights)
    network.requires_grad_(False)
    network.fc = nn.Linear(network.fc.in_features, num_classes)
    return network


TUNE = {"family": f"{__name__}:tune", "channels_as": ""}
NAMED = "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"


def test_a_function_names_weights_in_full_and_is_counted_without_them(publish):
    """Nothing is downloaded to count: there is no file."""
    kind = torchvision.models.ShuffleNet_V2_X0_5_Weights
    place = publish(kind.IMAGENET1K_V1, torchvision.models.shufflenet_v2_x0_5(weights=None).state_dict())
    config = OwnConfig(**TUNE, weights=NAMED, num_classes=3)
    assert list_trained(config) == {"weights": kind.IMAGENET1K_V1}
    assert fingerprint_weights(config) == {NAMED: place.stem[-8:]}
    assert without_weights(config) == OwnConfig(**TUNE, num_classes=3)
    assert count_params(config) == 3 * 1024 + 3
    assert not place.exists()
    fetch(kind.IMAGENET1K_V1)
    assert sum(each.numel() for each in build(config).parameters()) == 341_792 + 3 * 1024 + 3


def always(num_classes, weights=NAMED):
    return tune(num_classes, weights)


def test_a_default_of_the_function_is_known_too():
    config = OwnConfig(family=f"{__name__}:always", channels_as="", weights=NAMED)
    assert config.arguments == {}
    assert list(fingerprint_weights(config)) == [NAMED]
    assert without_weights(config) == config


@pytest.mark.parametrize(
    ("arguments", "unknown"),
    [
        ({"pretrained": True}, ["pretrained"]),
        ({"weights": "IMAGENET1K_V1"}, ["weights"]),
        ({"pretrained": False}, []),
        ({"weights": NAMED}, []),
        ({"pretrained": True, "checkpoint": __file__}, []),
        ({"pretrained": True, "overlay": {"files": [__file__]}}, []),
    ],
)
def test_trained_weights_without_a_file_are_unknown(arguments, unknown):
    config = OwnConfig(**TUNE, **arguments)
    assert list_unknown_weights(config) == unknown
    assert (__file__ in describe_source(config).get("network_files", {})) == (__file__ in str(arguments))


def test_a_user_s_own_class_takes_every_field():
    config = OwnConfig(family=OWN, in_channels=1, num_classes=3, hidden=5)
    assert model_family(OWN)[0] is OwnConfig
    assert build(config)(torch.randn(2, 1, 4, 4)).shape == (2, 3)
    assert count_params(config) == 1 * 5 + 5 + 5 * 3 + 3
    assert config.model_dump()["hidden"] == 5


def test_an_argument_with_the_constructor_s_default_changes_nothing():
    assert OwnConfig(family=OWN, hidden=8) == OwnConfig(family=OWN)
    assert OwnConfig(family=OWN, hidden=8).arguments == {}
    assert OwnConfig(family=OWN, hidden=9).arguments == {"hidden": 9}


def test_a_file_that_an_argument_names_is_part_of_the_source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("weights.bin").write_bytes(b"1")
    config = OwnConfig(family=f"{__name__}:create_model", model_name="weights.bin")
    assert describe_source(config)["network_files"] == {"weights.bin": [hashlib.sha256(b"1").hexdigest()[:16]]}
    Path("weights.bin").write_bytes(b"2")
    assert describe_source(config)["network_files"] == {"weights.bin": [hashlib.sha256(b"2").hexdigest()[:16]]}
    assert "network_files" not in describe_source(OwnConfig(family=OWN))


def create_model(model_name, pretrained=False, **more):
    """A function in the way of timm's `create_model`."""
    assert not pretrained
    return Linear(more["in_chans"], more["num_classes"]) if model_name == "linear" else model_name


def test_a_function_that_makes_a_network_is_as_good_as_a_class():
    function = f"{__name__}:create_model"
    config = OwnConfig(family=function, in_channels=1, channels_as="in_chans", model_name="linear")
    assert build(config)(torch.randn(2, 1, 4, 4)).shape == (2, 10)
    assert set(describe_source(config)["network_modules"]) >= {__name__}
    with pytest.raises(TypeError, match=r"create_model gave a str; a torch\.nn\.Module is needed"):
        build(OwnConfig(family=function, model_name="x"))


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        (
            {"family": f"{__name__}:Liner"},
            r"test_foreign \(.*test_foreign.py\) has no Liner; did you mean 'Linear'?",
        ),
        ({"family": f"{__name__}:pytest"}, "pytest is neither a torch.nn.Module nor a function that makes one"),
        ({"family": f"{__name__}:Path"}, "Path is neither a torch.nn.Module nor a function that makes one"),
        ({"family": "no_such_module:Net"}, "no_such_module cannot be imported: ModuleNotFoundError"),
        ({"family": "a b:Net"}, "match pattern"),
        (
            {"family": "torchvision.models:resnet18", "channels_as": "", "weights": "IMAGENET1K_V1"},
            'weights of torchvision, give model.family = "torchvision" and model.name = "resnet18"',
        ),
        ({**TUNE, "weights": NAMED[:-1] + "9"}, f"unknown {NAMED[:-14]} 'IMAGENET1K_V9': allowed are"),
        ({"family": OWN, "hiden": 5}, r"Linear\(in_.* cannot take .*keyword argument 'hiden'; did you mean 'hidden'?"),
        ({"family": OWN, "hidden": float("nan")}, r"hidden.*\n  Input should be a finite number"),
    ],
)
def test_what_a_user_s_class_does_not_take_is_refused(fields, rule):
    with pytest.raises(ValidationError, match=rule):
        OwnConfig(**fields)


def test_a_user_s_module_that_raises_is_told_as_such(tmp_path, monkeypatch):
    (tmp_path / "broken_network.py").write_text("raise RuntimeError('not today')\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    with pytest.raises(
        ValidationError, match=r"broken_network cannot be imported: RuntimeError: not today, at broken_network\.py:1 in"
    ):
        OwnConfig(family="broken_network:Net")


def test_a_user_s_code_cannot_change_the_settings_of_other_networks(tmp_path, monkeypatch):
    changes = "torch.set_default_dtype(torch.float64), torch.set_num_threads(3), torch.set_grad_enabled(False)"
    source = f"""import torch
{changes}

class Loud(torch.nn.Linear):
    def __init__(self, in_channels, num_classes):
        {changes}
        super().__init__(in_channels, num_classes)
"""
    (tmp_path / "loud_settings.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    before = torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()
    network = build(OwnConfig(family="loud_settings:Loud"))
    assert network.weight.dtype == torch.float64
    assert (torch.get_default_dtype(), torch.get_num_threads(), torch.is_grad_enabled()) == before


def test_an_unknown_family_names_the_known_ones():
    with pytest.raises(ValueError, match="unknown model family 'densnet': allowed are 'densenet', 'resnet'"):
        model_family("densnet")
    with pytest.raises(ValueError, match=r"allowed are .*; a part of your own is written 'mine:Net'"):
        model_family("mine.Net")


def test_a_module_of_the_folder_that_one_works_in_is_found_and_hides_nothing(tmp_path, monkeypatch):
    (tmp_path / "my_network.py").write_text("from test_foreign import Linear\nclass Net(Linear): pass\n")
    (tmp_path / "densenet.py").write_text("raise RuntimeError('in the way')\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert build(OwnConfig(family="my_network:Net"))(torch.randn(1, 3, 2, 2)).shape == (1, 10)
    assert sys.path == before


def test_frozen_parameters_are_not_trainable_ones():
    class Frozen(Linear):
        def __init__(self, in_channels, num_classes):
            super().__init__(in_channels, num_classes)
            self.body.requires_grad_(False)

    globals()["Frozen"] = Frozen
    assert count_params(OwnConfig(family=f"{__name__}:Frozen")) == 8 * 10 + 10


def test_a_record_tells_which_source_a_network_came_from():
    assert describe_source(DenseNetConfig()) == {}
    assert describe_source(TorchvisionConfig(name="resnet18")) == {
        "torchvision": torchvision.__version__.partition("+")[0]
    }
    digest = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]
    found = describe_source(OwnConfig(family=OWN))
    assert found["network_source"] == digest
    assert found["network_modules"][__name__][0] == digest


def test_macs_of_attention_are_those_of_its_linear_layers_and_of_its_two_products():
    """ViT-B/16: a patch embedding, twelve layers of four d x d and two d x 4d products for 197 tokens, and a head. In
    each layer every token meets every token twice.
    """
    d, tokens = 768, 197
    linear = 196 * 3 * 16 * 16 * d + 12 * tokens * (4 * d * d + 2 * 4 * d * d) + d * 1000
    expected = linear + 12 * 2 * tokens * tokens * d
    assert count_macs(TorchvisionConfig(name="vit_b_16", num_classes=1000), (224, 224)) == expected


@pytest.mark.parametrize("name", ["vit_b_16", "swin_t", "maxvit_t", "convnext_tiny"])
def test_macs_are_those_that_torchvision_states(name):
    stated = torchvision.models.get_model_weights(name).DEFAULT.meta["_ops"]
    assert round(count_macs(TorchvisionConfig(name=name, num_classes=1000), (224, 224)) / 1e9, 3) == stated


def test_a_maker_that_takes_no_number_of_channels_is_told_what_to_do():
    with pytest.raises(TypeError, match=r"argument 'in_channels': give model.channels_as = \"\" for a network"):
        build(OwnConfig(family="torchvision.models:squeezenet1_1"))

"""Every published network has its published size, counted without storage."""

from __future__ import annotations

import doctest

import pytest
import torch
from torchvision import models

import densenet
from densenet import PRESETS, DenseNetConfig, find_published
from densenet.counting import count_macs, count_params
from densenet.presets import PUBLISHED
from densenet.registry import build

SIZES = {
    # name: image size, params, MACs of convolutions and the linear layer, digits to which the MACs are known
    "densenet-40-12": (32, 1_019_722, 264_812_928, 9),
    "densenet-100-12": (32, 6_979_642, 1_769_516_448, 10),
    "densenet-100-24": (32, 27_249_082, 6_889_347_744, 10),
    "densenet-bc-100-12": (32, 769_162, 287_929_692, 9),
    "densenet-bc-250-24": (32, 15_324_406, 5_418_785_724, 10),
    "densenet-bc-190-40": (32, 25_624_430, 9_301_945_740, 10),
    "resnet20": (32, 269_722, 40_550_000, 4),
    "resnet32": (32, 464_154, 68_860_000, 4),
    "resnet44": (32, 658_586, 97_170_000, 4),
    "resnet56": (32, 853_018, 125_490_000, 5),
    "resnet110": (32, 1_727_962, 252_890_000, 5),
    "densenet121": (224, 7_978_856, 2_834_161_664, 10),
    "densenet169": (224, 14_149_480, 3_359_843_328, 10),
    "densenet201": (224, 20_013_928, 4_291_365_888, 10),
    "densenet161": (224, 28_681_000, 7_727_907_072, 10),
}

STATED = [name for name in PRESETS if name in models.list_models(module=models)]
"""Networks whose size torchvision states with its weights."""


@pytest.mark.parametrize("name", SIZES)
def test_params_to_the_unit_and_macs_to_the_digit(name):
    image, params, macs, digits = SIZES[name]
    assert count_params(PRESETS[name]) == params
    assert float(f"{count_macs(PRESETS[name], (image, image)):.{digits - 1}e}") == macs


@pytest.mark.parametrize("name", STATED)
def test_params_and_macs_are_those_that_torchvision_states(name):
    stated = models.get_model_weights(name).DEFAULT.meta
    assert count_params(PRESETS[name]) == stated["num_params"]
    assert round(count_macs(PRESETS[name], (224, 224)) / 1e9, 3) == stated["_ops"]


def test_torchvision_has_nine_of_them():
    assert len(STATED) == 9


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_built_and_gives_scores(name):
    config = PRESETS[name]
    with torch.device("meta"):
        assert build(name)(torch.empty(2, 3, 64, 64)).shape == (2, config.num_classes)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("densenet264", 33_337_704),  # 33.3M, k = 32
        ("preresnet110", 1_727_962),  # 1.7M in He et al. 2016b, Table 2
        ("preresnet164", 1_703_258),  # 1.7M, projections to four times the width
    ],
)
def test_params_of_presets_without_a_published_integer(name, params):
    """Counted by the closed formulas of test_densenet.py and test_resnet.py, and rounded as the papers have them."""
    assert count_params(PRESETS[name]) == params


def test_pre_activation_presets_are_so():
    assert {name for name, config in PRESETS.items() if getattr(config, "order", "") == "full-pre-activation"} == {
        "preresnet110", "preresnet164",
    }  # fmt: skip
    assert PRESETS["preresnet164"].shortcut == "projection"


def test_what_is_shown_as_published_is_what_the_tests_know():
    assert {name: (size.image, size.params, size.macs) for name, size in PUBLISHED.items() if name in SIZES} == {
        name: row[:3] for name, row in SIZES.items()
    }
    for name in set(STATED) - set(SIZES):
        stated = models.get_model_weights(name).DEFAULT.meta
        assert PUBLISHED[name].params == stated["num_params"]
        assert PUBLISHED[name].macs == round(stated["_ops"] * 1e9)
    assert PUBLISHED.keys() == {*SIZES, *STATED}


def test_a_published_size_belongs_to_exactly_that_network_and_image():
    assert find_published(DenseNetConfig(), (32, 32)) == PUBLISHED["densenet-bc-100-12"]
    assert find_published(DenseNetConfig(init_features=24), (32, 32)) == PUBLISHED["densenet-bc-100-12"]
    assert find_published(DenseNetConfig(), (28, 28)) is None
    assert find_published(DenseNetConfig(in_channels=1), (32, 32)) is None


def test_an_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'densenet121'"):
        build("densenet12")


@pytest.mark.parametrize("module", [densenet, densenet.registry, densenet.counting])
def test_the_examples_of_the_docstrings_hold(module):
    found = doctest.testmod(module)
    assert found.attempted >= 1
    assert not found.failed

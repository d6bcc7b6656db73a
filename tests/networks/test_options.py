from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import nn

from densenet import DenseNetConfig
from densenet.norms import group_norm
from densenet.options import ACTIVATIONS, NORMS, lookup, suggestion


def test_a_whole_number_that_no_real_number_holds_is_refused_for_a_real_field():
    assert DenseNetConfig(compression=1).compression == 1.0
    with pytest.raises(ValidationError, match="the nearest one is 9007199254740992"):
        DenseNetConfig(dropout=2**53 + 1)


def test_lookup_finds():
    assert lookup("colour", "red", {"red": 1}) == 1


def test_lookup_names_what_is_allowed_and_the_nearest():
    with pytest.raises(ValueError, match=r"unknown colour 'rde': allowed are 'red', 'blue'; did you mean 'red'\?"):
        lookup("colour", "rde", {"red": 1, "blue": 2})


def test_no_suggestion_where_nothing_is_near():
    assert suggestion("xyz", ["red"]) == ""


@pytest.mark.parametrize(
    ("channels", "groups", "used"), [(64, 32, 32), (48, 32, 24), (7, 4, 1), (6, 32, 6), (12, 5, 4)]
)
def test_group_norm_takes_the_largest_divisor_not_above_its_groups(channels, groups, used):
    assert group_norm(channels, groups).num_groups == used


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_writes_over_its_input_only_where_it_may_and_its_gradient_stays_right(name):
    x = torch.linspace(-2, 2, 8, dtype=torch.double, requires_grad=True)
    y = x * 1
    before = y.detach().clone()
    ACTIVATIONS[name](False)(y)
    assert torch.equal(y, before)
    assert torch.autograd.gradcheck(lambda value: ACTIVATIONS[name](True)(value * 1), (x,))


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_an_activation_is_the_function_of_its_name(name):
    x = torch.linspace(-3, 3, 13)
    for inplace in (False, True):
        function = torch.tanh if name == "tanh" else getattr(F, name)
        torch.testing.assert_close(ACTIVATIONS[name](inplace)(x.clone()), function(x))


def test_group_norm_of_one_value_is_its_bias():
    norm = group_norm(3, 3)
    torch.nn.init.constant_(norm.bias, 0.5)
    assert norm(torch.randn(1, 3, 1, 1)).flatten().tolist() == pytest.approx([0.5] * 3, abs=1e-3)
    x = torch.randn(2, 6, 4, 4)
    torch.testing.assert_close(group_norm(6, 2)(x), nn.GroupNorm(2, 6)(x))


@pytest.mark.parametrize("field", ["norm", "activation"])
def test_registries_are_what_a_configuration_allows(field):
    with pytest.raises(ValidationError, match=f"unknown {field} 'bacth': allowed are '"):
        DenseNetConfig(**{field: "bacth"})


def test_every_norm_keeps_the_shape():
    for norm in filter(None, NORMS.values()):
        module = norm(12, 32)
        assert isinstance(module, nn.Module)
        assert module(torch.randn(2, 12, 3, 3)).shape == (2, 12, 3, 3)

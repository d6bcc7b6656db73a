"""Identity: what is in it, what is not, and that it does not drift."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from ablations.config import (
    CostConfig,
    DataConfig,
    Role,
    TrainConfig,
    Variant,
    beside_identity,
    cost_fields,
    hashed_fields,
    identity,
    role_of,
    variant_fields,
)
from densenet import DenseNetConfig, OwnConfig, ResNetConfig


def variant(**fields) -> Variant:
    return Variant(DenseNetConfig(**fields), DataConfig(), TrainConfig())


def test_defaults_are_left_out_and_the_family_never():
    assert hashed_fields(DenseNetConfig()) == {"family": "densenet"}
    assert hashed_fields(DenseNetConfig(growth_rate=12)) == {"family": "densenet"}
    assert hashed_fields(ResNetConfig(depth=20, width=0.5)) == {"family": "resnet", "width": 0.5}


def test_where_the_data_lies_is_not_in_the_identity():
    here, there = (Variant(DenseNetConfig(), DataConfig(name="parquet", root=r), TrainConfig()) for r in "ab")
    assert variant_fields(here, "sum") == variant_fields(there, "sum")
    assert identity(variant_fields(here, "sum")) != identity(variant_fields(here, "other sum"))


def test_the_golden_identity():
    """Changes only with the protocol number: an old record must keep its name."""
    fields = variant_fields(variant(growth_rate=8), "0" * 64)
    assert identity(fields) == "2c1ec49fac142c46"


def test_a_cost_does_not_depend_on_how_long_is_trained():
    for training in (TrainConfig(), TrainConfig(epochs=7, learning_rate=0.5, schedule="cosine", weight_decay=5e-4)):
        cost = CostConfig(DenseNetConfig(), (32, 32), training.of_a_step)
        assert cost_fields(cost) == {"model": {"family": "densenet"}, "image_size": [32, 32], "train": {}}
    cost = CostConfig(DenseNetConfig(), (32, 32), TrainConfig(precision="bf16", batch_size=8, epochs=3).of_a_step)
    assert cost_fields(cost)["train"] == {"precision": "bf16", "batch_size": 8}


@pytest.mark.parametrize(
    ("model", "fields"),
    [
        (DenseNetConfig(checkpoint="block"), {"recomputed": "for gradients"}),
        (DenseNetConfig(checkpoint="bottleneck", implementation="normalize-once"), {}),
        (OwnConfig(family="torch.nn:Module", recomputes=True), {}),
    ],
)
def test_only_costs_of_networks_that_recompute_say_so(model, fields):
    """They were measured with recomputation in inference before, which other networks never had."""
    cost = cost_fields(CostConfig(model, (32, 32), TrainConfig()))
    assert cost == {"model": hashed_fields(model), "image_size": [32, 32], "train": {}, **fields}


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 0},
        {"epochs": 1.5},
        {"learning_rate": float("inf")},
        {"momentum": 1.0},
        {"schedule": "linear"},
        {"warmup_epochs": -1.0},
        {"batch_size": "64"},
    ],
)
def test_invalid_training_is_refused(fields):
    with pytest.raises(ValidationError):
        TrainConfig(**fields)


def test_what_changes_no_result_is_not_in_the_identity_and_only_there():
    assert hashed_fields(DataConfig(root="x", workers=7, memory_limit=1)) == {}
    assert hashed_fields(TrainConfig(checkpoint_seconds=5.0, keep_weights=True)) == {}
    own = OwnConfig(family="torch.nn:Module", workers=3, root=1)
    assert hashed_fields(own) == {"family": "torch.nn:Module", "workers": 3, "root": 1}


def test_a_step_without_decay_is_another_step():
    decayed, free = TrainConfig(weight_decay=5e-4).of_a_step, TrainConfig(weight_decay=0.0).of_a_step
    assert decayed == TrainConfig().of_a_step != free
    assert TrainConfig(decay_norms_and_biases=False).of_a_step != decayed


@pytest.mark.parametrize("config", [DataConfig, TrainConfig])
def test_every_field_names_its_role_once(config):
    for name, field in config.model_fields.items():
        assert len([each for each in field.metadata if isinstance(each, Role)]) == 1, name
        assert role_of(config, name) in field.metadata


def test_a_field_without_a_role_is_no_field(monkeypatch):
    field = TrainConfig.model_fields["momentum"]
    monkeypatch.setattr(field, "metadata", [each for each in field.metadata if not isinstance(each, Role)])
    with pytest.raises(TypeError, match=r"TrainConfig.momentum names no role: write Annotated\[..., RESULT\]"):
        hashed_fields(TrainConfig())


def test_what_roles_mean():
    """Fields beside the identity change no id; fields of a step are those that a cost depends on."""
    assert beside_identity(DataConfig) == {"root", "memory_limit", "workers"}
    assert beside_identity(TrainConfig) == {"checkpoint_seconds", "keep_weights"}
    steps = {name for name in TrainConfig.model_fields if role_of(TrainConfig, name).step}
    assert steps == {
        "optimizer", "loss", "decay_norms_and_biases", "batch_size", "label_smoothing", "clip_norm", "ema", "precision",
        "memory_format", "compile", "cuda_graph", "deterministic", "processes", "batch_norm",
    }  # fmt: skip

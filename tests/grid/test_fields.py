"""Fields of a grid in words."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from ablations.cli import app
from ablations.config import DataConfig, TrainConfig
from ablations.data.registry import DATASETS
from ablations.grid.fields import describe_values, list_fields, list_sections
from densenet import PART, DenseNetConfig


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "integer", "minimum": 0}, "whole number at least 0"),
        ({"anyOf": [{"type": "number"}, {"type": "null"}]}, "number"),
        ({"anyOf": [{"enum": ["a", "b"]}, {"type": "string", "pattern": PART}]}, "`a`, `b`, or `package.module:name`"),
        ({"type": "array", "items": {"type": "integer"}}, "list of whole numbers"),
        ({"$ref": "#/$defs/X"}, "table"),
    ],
)
def test_allowed_values_in_words(schema, words):
    assert describe_values(schema) == words


@pytest.mark.parametrize("config", [DataConfig, TrainConfig, DenseNetConfig])
def test_every_field_of_a_configuration_is_listed_with_its_meaning(config):
    found = list_fields(config)
    assert [each.name for each in found] == [*config.model_fields]
    assert all(each.meaning and each.allowed for each in found)


@pytest.mark.parametrize(
    ("config", "name", "allowed"),
    [
        (DenseNetConfig, "norm", "`batch`, `group`, `none`"),
        (DenseNetConfig, "activation", "`relu`, `leaky_relu`, `elu`, `gelu`, `silu`, `tanh`"),
        (DataConfig, "name", ", ".join(f"`{name}`" for name in DATASETS) + ", or `package.module:name`"),
    ],
)
def test_names_are_listed(config, name, allowed):
    assert {each.name: each.allowed for each in list_fields(config)}[name] == allowed


def test_the_command_prints_them_and_finds_some():
    told = CliRunner().invoke(app, ["fields"]).output
    for title, rows in list_sections():
        assert f"[{title}]" in told
        assert all(f"\n{each.name}" in told for each in rows)
    found = json.loads(CliRunner().invoke(app, ["fields", "learning", "--json"]).output)
    assert [each["name"] for rows in found.values() for each in rows] == ["learning_rate"]
    assert CliRunner().invoke(app, ["fields", "grwoth"]).exit_code == 2


def test_the_version_and_the_lists_for_programs():
    assert CliRunner().invoke(app, ["--version"]).output.startswith("ablate ")
    assert "quick" in json.loads(CliRunner().invoke(app, ["list", "--json"]).output)["Grids"]

"""The shape of a grid file, as it is checked and as editors get it."""

from __future__ import annotations

import copy
import json
import tomllib

import jsonschema
import pytest
from conftest import TINY
from test_malformed import VALID
from typer.testing import CliRunner

from ablations.cli import SHIPPED, app
from ablations.config import DataConfig, TrainConfig
from ablations.grid.problems import Findings
from ablations.grid.schema import TuneTable, VariantTable, check_shape
from densenet import DenseNetConfig, ResNetConfig


@pytest.fixture(scope="module")
def schema():
    result = CliRunner().invoke(app, ["schema"])
    assert result.exit_code == 0
    found = json.loads(result.output)
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


def wrong(schema, text):
    """Where a file breaks the schema."""
    return [".".join(map(str, error.absolute_path)) for error in schema.iter_errors(tomllib.loads(text))]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_shipped_grids_are_of_the_schema(schema, path):
    assert wrong(schema, path.read_text()) == []


@pytest.mark.parametrize("table", VALID)
def test_what_the_reader_takes_is_of_the_schema(schema, table):
    schema.validate(table)


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("title", "titel", ""),
        ("question", "quesiton", "study.growth_rate"),
        ("[0, 1, 2]", "[-1]", "seeds.0"),
        ("[0, 1, 2]", "[]", "seeds"),
        ("speed_rounds = 0", "margin = -1", "margin"),
        ("speed_rounds = 0", "margin = 101", "margin"),
        ("speed_rounds = 0", "margin = 'x'", "margin"),
        ("epochs = 1", "epoch = 1", "base.train"),
        ("epochs = 1", "epochs = 0", "base.train.epochs"),
        ("epochs = 1", "schedule = 'cosin'", "base.train.schedule"),
        ('"digits"', '"digit"', "base.data.name"),
        ("[1, 1]", "3", "base.model.block_config"),
        ("[4, 8]", "4", "study.growth_rate.model.growth_rate"),
        ("[4, 8]", "[]", "study.growth_rate.model.growth_rate"),
        ("[4, 8]", "['4']", "study.growth_rate.model.growth_rate.0"),
        ("[study.growth_rate]", "[study.'a b']", "study"),
        ("[base]", "[tune]\ntrain.learning_rate = [0.1, 0.3]\nseeds = [9]\n[base]", "tune"),
        ("model.growth_rate = [4, 8]", "variant = [{}]", "study.growth_rate.variant.0"),
        ("model.growth_rate = [4, 8]", "match.params = 3", "study.growth_rate.match"),
    ],
)
def test_a_slip_breaks_the_schema(schema, old, new, place):
    assert old in TINY
    assert wrong(schema, TINY) == []
    assert wrong(schema, TINY.replace(old, new)) == [place]


def test_every_field_is_described_by_its_docstring(schema):
    base, study = (schema.schema["$defs"][name]["properties"] for name in ("BaseTable", "StudyTable"))
    for section, configs in {
        "model": (DenseNetConfig, ResNetConfig),
        "data": (DataConfig,),
        "train": (TrainConfig,),
    }.items():
        for config in configs:
            for name, field in config.model_fields.items():
                assert field.description in base[section]["properties"][name]["description"], name
                assert study[section]["properties"][name]["type"] == "array", name
    rate = schema.schema["$defs"]["TuneTable"]["properties"]["train"]["properties"]["learning_rate"]
    assert [each["type"] for each in rate["anyOf"]] == ["number", "array"], "one value, or a list to choose from"


def test_what_is_wrong_is_left_out_and_what_is_required_replaced():
    table = tomllib.loads(TINY) | {"seeds": "0", "tune": {"train": {"epochs": [1]}, "validation": -1}, "x": 1}
    table["study"]["growth_rate"] |= {"variant": [{"name": 3, "train": {"epochs": 1}}], "seeds": 1}
    before, findings = copy.deepcopy(table), Findings()
    file = check_shape(table, findings)
    assert table == before
    assert (file.title, file.seeds, file.base.train) == ("Tiny", [0], {"epochs": 1})
    assert file.tune == TuneTable(train={"epochs": [1]}, seeds=[100], validation=0.1)
    (study,) = file.study.values()
    assert (study.seeds, study.variant) == (None, [VariantTable(name="ResNet-20", train={"epochs": 1})])
    assert [problem.key for problem in findings.problems.values()] == [
        "seeds", "tune.seeds", "tune.validation", "study.growth_rate.seeds", "study.growth_rate.variant[0].name", "x",
    ]  # fmt: skip
    assert findings.has("seeds", "x")
    assert findings.has("tune")
    assert not findings.has("base", "study.growth_rate.variant[0].train", "study.growth")


@pytest.mark.parametrize(("table", "names"), [(VariantTable, ["name"]), (TuneTable, ["seeds", "validation"])])
def test_every_required_value_has_a_valid_example(table, names):
    required = {name: field for name, field in table.model_fields.items() if field.is_required()}
    assert list(required) == names
    assert table.model_validate({name: field.examples[0] for name, field in required.items()})

"""What is written as TOML is read back as it was."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ablations.grid.toml import write_toml

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
KEY = TEXT.filter(lambda key: "." not in key)
SCALAR = st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False) | TEXT
VALUE = st.recursive(SCALAR, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEY, inner, max_size=3))


@given(st.dictionaries(KEY, VALUE, max_size=4))
def test_what_is_written_is_read_back(table):
    assert tomllib.loads(write_toml(table)) == table


def test_keys_with_dots_are_paths_and_tuples_are_lists():
    table = {"base.model": {"growth_rate": 4}, "seeds": range(2), "base.data.root": Path("a/b")}
    assert tomllib.loads(write_toml(table)) == {
        "base": {"model": {"growth_rate": 4}, "data": {"root": "a/b"}}, "seeds": [0, 1],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("table", "rule"),
    [
        ({"seeds": {1, 2}}, r"seeds = \{1, 2\} is a set: a grid takes"),
        ({"study": {"k": {"model.growth_rate": [None]}}}, r"study.k.model.growth_rate = None is a NoneType"),
        ({1: 2}, "1 is no key of a grid"),
    ],
)
def test_what_toml_does_not_have_is_refused(table, rule):
    with pytest.raises(TypeError, match=rule):
        write_toml(table)

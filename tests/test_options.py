from __future__ import annotations

import pytest

from densenet.options import lookup, suggestion


def test_lookup_finds():
    assert lookup("colour", "red", {"red": 1}) == 1


def test_lookup_names_what_is_allowed_and_the_nearest():
    with pytest.raises(ValueError, match=r"unknown colour 'rde': allowed are 'red', 'blue'; did you mean 'red'\?"):
        lookup("colour", "rde", {"red": 1, "blue": 2})


def test_no_suggestion_where_nothing_is_near():
    assert suggestion("xyz", ["red"]) == ""

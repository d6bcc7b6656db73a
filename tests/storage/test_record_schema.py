"""The names that a grid and a plan may have."""

from __future__ import annotations

import pytest

from ablations.storage import schema


@pytest.mark.parametrize("name", ["../../X", "", "a b", "overall", "Pareto", "x" * 65, "a\n"])
def test_a_study_s_name_names_files(name):
    with pytest.raises(ValueError, match="name"):
        schema.check_study_name(name)


@pytest.mark.parametrize("label", ["", "x" * 201, "a\nb", r"\input{x}", "50 %", "a -- b", "\ud800"])
def test_a_level_s_label_can_be_cited(label):
    with pytest.raises(ValueError, match="a level's label"):
        schema.check_label(label)

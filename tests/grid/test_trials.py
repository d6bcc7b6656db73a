"""Tables `tune`, and the trainings that they ask for; what is chosen from these is tested beside tuning."""

from __future__ import annotations

import pytest
from conftest import TINY, write_grid

from ablations.grid.problems import GridError
from ablations.grid.reader import read
from ablations.grid.schema import TuneTable
from ablations.grid.trials import count_trials

TUNE = """
[tune]
train.learning_rate = [0.03, 0.1]
seeds = [100]
validation = 50
"""


def test_trials_are_counted_by_values_and_seeds():
    lists = {"learning_rate": [0.1, 0.2, 0.3], "momentum": [0.5, 0.9], "epochs": 3}
    assert count_trials(TuneTable(train=lists, seeds=[1, 2], validation=0.1)) == 12
    assert [count_trials(other) for other in (None, False, "base")] == [0, 0, 0]


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("seeds = [100]\n", "", ["tune.seeds: is missing, for example seeds = [100]"]),
        ("validation = 50\n", "", ["tune.validation: is missing, for example validation = 0.1"]),
        ("[0.03, 0.1]", "[]", ["tune.train.learning_rate = []: must be a list of different values, at least one"]),
        ("[0.03, 0.1]\nseeds = [100]", "[-1]\nseeds = [1.5]",
         ["tune.train.learning_rate = -1: should be greater than 0",
          "tune.seeds = [1.5]: must be a list of whole numbers from 0 to 2147483647, at least one"]),
    ],
)  # fmt: skip
def test_all_that_is_wrong_with_a_table_is_told_once(tmp_path, old, new, found):
    with pytest.raises(GridError) as caught:
        read(
            write_grid(tmp_path, TINY + TUNE.replace(old, new) + '[study.follow]\ntune = "base"\nmodel.bn_size = [2]\n')
        )
    assert [str(problem) for problem in caught.value.problems] == found

"""Training and test images must fit each other."""

from __future__ import annotations

import numpy as np
import pytest
from data_files import encode, write_parquet

from ablations.config import DataConfig
from ablations.data.dataset import load
from ablations.data.images import DataError


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ([0, 2], [1, 1], r"labels that .* does not have: \[1\]"),
        ([0, 2], [0, 2], r"but none of \[1\]: number the classes"),
    ],
)
def test_labels_that_do_not_fit_each_other_are_named(tmp_path, train, test, message):
    for part, labels in (("train", train), ("test", test)):
        write_parquet(tmp_path, part, [encode(np.zeros((4, 4, 3), np.uint8))] * 2, labels)
    with pytest.raises(DataError, match=message):
        load(DataConfig(name="parquet", root=str(tmp_path)))

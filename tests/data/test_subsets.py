"""Subsets: balanced, or of each class its share, and never without a class."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ablations.data.images import DataError
from ablations.data.subsets import balanced_subset, cut, stratified_subset


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data(), st.integers(0, 5))
def test_a_subset_is_as_balanced_as_its_classes_allow(labels, draw, seed):
    size = draw.draw(st.integers(1, len(labels)))
    chosen = balanced_subset(torch.tensor(labels), size, seed)
    assert len(set(chosen.tolist())) == size
    taken, there = np.bincount(np.array(labels)[chosen.numpy()], minlength=5), np.bincount(labels, minlength=5)
    short = taken < there
    if short.any():
        assert taken.max() - taken[short].min() <= 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=2, max_size=80), st.data(), st.integers(0, 5))
def test_a_cut_takes_of_every_class_its_share(labels, draw, seed):
    size = draw.draw(st.integers(1, len(labels) - 1))
    chosen = stratified_subset(torch.tensor(labels), size, seed)
    assert len(set(chosen.tolist())) == size
    taken, there = np.bincount(np.array(labels)[chosen.numpy()], minlength=5), np.bincount(labels, minlength=5)
    assert (np.abs(taken - there * size / len(labels)) <= 1).all()


def test_a_cut_leaves_no_class_without_images():
    labels = torch.tensor([0] * 100 + [1] * 10)
    assert (~cut(labels, 22, 0, "x")).logical_and(labels == 1).sum() == 8
    with pytest.raises(DataError, match=r"x: that is 110 of 110 images, and classes \[0, 1\] would have none left"):
        cut(labels, 110, 0, "x")
    with pytest.raises(DataError, match=r"classes \[1\] would have none left"):
        cut(torch.tensor([0, 0, 0, 1]), 3, 0, "x")

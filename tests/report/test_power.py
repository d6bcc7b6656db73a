"""What a plan will find, against the formula of two t-tests, and from earlier runs."""

from __future__ import annotations

import math

import pytest
from scipy import stats

import ablations
from ablations.report.power import Spread, describe_forecast, foresee, measure_spread
from ablations.report.results import analyse
from ablations.storage.manifest import LevelEntry, Manifest, StudyEntry


def plan_of(seeds, levels=2, margin=None):
    entries = tuple(
        LevelEntry(
            label=str(number), values={"a": number}, variant=str(number), declared=str(number), is_base=not number
        )
        for number in range(levels)
    )
    study = StudyEntry(name="k", question="", axes=("a",), seeds=tuple(range(seeds)), levels=entries, margin=margin)
    return Manifest(title="", seeds=(0,), machine={}, options=(), variants={}, studies=(study,), tuning=(), jobs=())


def test_two_levels_by_hand():
    (found,) = foresee(plan_of(5), None, 0.5)
    error = 0.5 * math.sqrt(2 / 5)
    assert found.smallest == pytest.approx((stats.t.ppf(0.975, 8) + stats.t.ppf(0.8, 8)) * error)
    assert describe_forecast(found) == (
        "k, 1 comparison: 5 seeds would find a change of 1 point in about four cases of five (sd 0.5, stated, on these "
        "test images: the choice of images adds to it)."
    )


def test_the_seeds_for_a_margin_suffice_and_one_less_does_not():
    """A true change of 0 is within the margin of 1 point if the interval ends before it on both sides."""
    (found,) = foresee(plan_of(3, margin=1.0), None, 0.5)

    def reach(seeds):
        degrees = 2 * (seeds - 1)
        return (stats.t.ppf(0.975, degrees) + stats.t.ppf(0.9, degrees)) * 0.5 * math.sqrt(2 / seeds)

    assert reach(found.seeds_for_margin) <= 1.0 < reach(found.seeds_for_margin - 1)
    assert f"; to show that a change is within the margin of 1 takes {found.seeds_for_margin} seeds" in (
        describe_forecast(found)
    )


def test_more_levels_need_more():
    two, six = (foresee(plan_of(3, levels), None, 0.5)[0] for levels in (2, 6))
    assert (two.comparisons, six.comparisons) == (1, 5)
    family = stats.t.ppf(1 - 0.025 / 5, 12) + stats.t.ppf(0.8, 12)
    assert 0.85 * family < six.smallest / (0.5 * math.sqrt(2 / 3)) < family  # Bonferroni's is a little more


def test_one_seed_finds_nothing_and_one_level_compares_nothing():
    assert "1 seed finds nothing" in describe_forecast(foresee(plan_of(1), None, 0.5)[0])
    assert foresee(plan_of(3, levels=1), None, 0.5) == []
    assert foresee(plan_of(3), None, None) == []


def test_earlier_runs_tell_how_much_seeds_vary(results):
    earlier = analyse(ablations.load(results))
    frames = earlier.frames.runs
    pooled = frames.astype({"test_accuracy": float}).groupby("variant").test_accuracy.var().mean()
    spread = measure_spread(earlier, "growth_rate")
    assert spread == Spread(pytest.approx(math.sqrt(pooled)), 0.0, "6 earlier runs")
    (found,) = foresee(earlier.frames.manifest, earlier, None)
    assert (found.study, found.spread) == ("growth_rate", spread)


def test_images_that_are_too_few_are_said():
    from ablations.report.power import _foresee_study

    found = _foresee_study(plan_of(3, margin=0.1).studies[0], Spread(0.1, 0.5, "9 earlier runs"))
    assert found.seeds_for_margin == math.inf
    assert describe_forecast(found).endswith(
        "within the margin of 0.1 takes more than 1000 seeds, or more test images (sd 0.1, 9 earlier runs)."
    )

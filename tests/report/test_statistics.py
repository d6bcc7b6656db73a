"""The statistics against scipy called directly, against sums worked by hand, and against their own promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ablations.report.statistics import (
    Estimate,
    Family,
    Part,
    Sample,
    _draw_normals,
    compare,
    estimate,
    find_smallest,
    fit,
    foresee,
    pool,
)

AGAINST_FIRST = np.array([[-1.0, 1.0]])


def sample(*accuracies, images=0, seeds=None):
    return Sample(tuple(map(float, accuracies)), tuple(seeds or range(len(accuracies))), images)


def outcomes(*rows):
    """A level whose runs classified these images rightly: a text of 0 and 1 per run."""
    values = np.array([[mark == "1" for mark in row] for row in rows])
    return Sample(tuple(100 * values.mean(axis=1)), tuple(range(len(rows))), values.shape[1], values)


def test_two_levels_of_seeds_alone_are_student_s_t_test():
    base, other = (90.0, 91.0, 92.5, 90.5), (92.0, 93.5, 93.0, 94.0)
    (found,) = compare(fit([sample(*base), sample(*other)]), AGAINST_FIRST)
    reference = stats.ttest_ind(other, base)
    interval = reference.confidence_interval(0.95)
    assert found.p == found.p_corrected == pytest.approx(reference.pvalue, rel=1e-9)
    ends = [found.estimate.value - found.half, found.estimate.value + found.half]
    assert ends == pytest.approx([interval.low, interval.high], rel=1e-9)


def test_unequal_numbers_of_seeds_are_welch_s_test():
    base, other = (90.0, 91.0, 92.5), (92.0, 93.5, 93.0, 94.0)
    (found,) = compare(fit([sample(*base), sample(*other)]), AGAINST_FIRST)
    assert found.p == pytest.approx(stats.ttest_ind(other, base, equal_var=False).pvalue, rel=1e-9)


def test_several_levels_of_seeds_alone_are_dunnett_s_test():
    levels = [(90.0, 91.0, 92.0), (93.0, 91.5, 92.5), (91.0, 91.5, 89.0), (94.0, 93.0, 94.5)]
    fitted = fit([sample(*each) for each in levels])
    assert not fitted.paired
    found = compare(fitted, np.hstack([-np.ones((3, 1)), np.eye(3)]))
    reference = stats.dunnett(*map(np.array, levels[1:]), control=np.array(levels[0]), rng=0)
    interval = reference.confidence_interval(0.95)
    assert [each.p_corrected for each in found] == pytest.approx(reference.pvalue, abs=2e-3)
    assert [each.estimate.value - each.half for each in found] == pytest.approx(interval.low, abs=1e-2)


def test_a_family_of_one_is_a_t_test_and_independent_ones_are_sidak_s():
    for degrees in (1.0, 3.7, 400.0):
        assert Family(np.eye(1)).find_factor(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-9)
    family = Family(np.eye(4))
    sidak = stats.norm.ppf(0.5 + 0.5 * 0.95**0.25)
    assert family.find_factor(1e9) == pytest.approx(sidak, rel=2e-3)
    assert family.correct(2.2, 1e9) == pytest.approx(1 - (1 - 2 * stats.norm.sf(2.2)) ** 4, rel=1e-2)


@settings(max_examples=60)
@given(
    st.integers(1, 12),
    st.floats(0, 0.95),
    st.floats(1, 500),
    st.floats(0, 60),
)
def test_a_corrected_p_lies_between_the_p_and_bonferroni_s_and_agrees_with_the_factor(size, correlation, degrees, t):
    family = Family(np.full((size, size), correlation) + (1 - correlation) * np.eye(size))
    alone = 2 * stats.t.sf(t, degrees)
    assert alone * (1 - 1e-9) <= family.correct(t, degrees) <= min(1.0, size * alone * (1 + 1e-9)) or t == 0
    if abs(t - family.find_factor(degrees)) > 1e-6:
        assert (family.correct(t, degrees) < 0.05) == (t > family.find_factor(degrees))


def test_equal_comparisons_cost_nothing():
    assert Family(np.ones((3, 3))).find_factor(8.0) == pytest.approx(Family(np.eye(1)).find_factor(8.0), rel=5e-3)


def test_variance_over_seeds_and_images_by_hand():
    """Base: 1110 and 1100, level: 1111 and 1110; in % of 4 images: 75, 50 and 100, 75.

    Seeds: variances 312.5 each, pooled 312.5, so 312.5 / 2 + 312.5 / 2 = 312.5.
    Images: means (100, 100, 50, 0) and (100, 100, 100, 50); differences (0, 0, 50, 50): variance 833.33 / 4 images.
    Rest, base: deviations from row + column - mean are (-+ 12.5) three times and 37.5 in each run: 2 x (3 x 156.25 +
    1406.25) = 3750 over (2 - 1)(4 - 1) = 1250; the level's is the same. So 2 x 1250 / (2 x 4) = 312.5.
    Then 312.5 + max(0, 208.33 - 312.5) = 312.5.
    """
    fitted = fit([outcomes("1110", "1100"), outcomes("1111", "1110")])
    assert fitted.images is not None
    assert fitted.images.residuals == pytest.approx([1250.0, 1250.0])
    found = estimate(fitted, np.array([-1.0, 1.0]))
    assert found.value == 25.0
    assert found.images.variance == pytest.approx(2500 / 3 / 4)
    assert found.rest.variance == pytest.approx(312.5)
    assert found.error == pytest.approx(math.sqrt(625.0))  # the floor of one image of four: 25^2 a seed, so 625


def test_paired_levels_give_the_crossed_random_effects_of_their_difference():
    """Where outcomes of base and level are independent given image and seed, the terms are those of the two-way table
    of their difference, in expectation: their averages over many studies agree.
    """
    random = np.random.default_rng(0)
    ours, crossed = [], []
    for _ in range(80):
        easy = random.normal(1, 1, (1, 200)) + random.normal(0, 0.4, (2, 1, 200))
        right = easy + random.normal(0, 0.1, (2, 12, 1)) + random.normal(0, 1, (2, 12, 200)) > 0
        samples = [Sample(tuple(100 * each.mean(axis=1)), tuple(range(12)), 200, each) for each in right]
        found = estimate(fit(samples), np.array([-1.0, 1.0]))
        ours.append(found.seeds.variance + found.images.variance - found.rest.variance)
        change = 100.0 * right[1] - 100.0 * right[0]
        seeds, images = change.mean(axis=1), change.mean(axis=0)
        rest = change - seeds[:, None] - images + change.mean()
        squares = (200 * seeds.var(ddof=1), 12 * images.var(ddof=1), (rest**2).sum() / (11 * 199))
        crossed.append((squares[0] + squares[1] - squares[2]) / (12 * 200))
    assert np.mean(ours) == pytest.approx(np.mean(crossed), rel=0.05)


def test_constant_seeds_have_the_spread_of_one_image():
    """100.00 against 10.00 in all seeds is certain; one image more in all seeds is not."""
    far = compare(fit([sample(10, 10, 10, images=100), sample(100, 100, 100, images=100)]), AGAINST_FIRST)[0]
    near = compare(fit([sample(90, 90, 90, images=100), sample(91, 91, 91, images=100)]), AGAINST_FIRST)[0]
    assert far.estimate.error == near.estimate.error == pytest.approx(math.sqrt(2 / 3))
    assert far.p_corrected < 1e-6
    assert near.p_corrected > 0.25


def test_spreads_that_agree_are_pooled():
    used, degrees, pools = pool(np.array([1.0, 2.0, 3.0]), np.full(3, 2.0))
    assert used.tolist() == [2.0] * 3
    assert degrees.tolist() == [6.0] * 3
    assert len(set(pools)) == 1


def test_levels_with_other_numbers_of_seeds_have_pools_of_their_own():
    used, degrees, pools = pool(np.array([1.0, 2.0, 3.0, 5.0]), np.array([2.0, 2.0, 4.0, 4.0]))
    assert used.tolist() == [1.5, 1.5, 4.0, 4.0]
    assert degrees.tolist() == [4.0, 4.0, 8.0, 8.0]
    assert pools[0] == pools[1] != pools[2] == pools[3]


def test_a_wide_level_is_judged_by_its_own_spread_and_does_not_hide_the_others():
    used, degrees, pools = pool(np.array([1.0, 1.0, 1.0, 1.0, 1e4]), np.full(5, 2.0))
    assert used.tolist() == [1.0, 1.0, 1.0, 1.0, 1e4]
    assert degrees.tolist() == [8.0, 8.0, 8.0, 8.0, 2.0]
    assert (pools == pools[0]).tolist() == [True] * 4 + [False]


@pytest.mark.parametrize("wide", [2, 4])
def test_wide_levels_do_not_hide_each_other(wide):
    """Two of five, or four of ten: the others keep the spread that they share."""
    number = 5 * wide // 2
    used, _, _ = pool(np.array([0.09] * (number - wide) + [400.0] * wide), np.full(number, 2.0))
    assert used.tolist() == pytest.approx([0.09] * (number - wide) + [400.0] * wide)


def test_a_level_that_does_not_vary_does_not_narrow_the_others():
    used, degrees, _ = pool(np.array([1.0, 1.0, 1.0, 1e-9]), np.full(4, 4.0))
    assert used.tolist() == [1.0, 1.0, 1.0, 1e-9]
    assert degrees.tolist() == [12.0, 12.0, 12.0, 4.0]


def test_a_base_is_judged_by_its_own_spread_sooner():
    """F(2, 10) = 2.2 has an upper tail of 0.16: between the two levels."""
    variances = np.array([2.2, *[1.0] * 5])
    assert stats.f.sf(2.2, 2, 10) == pytest.approx(0.1616, abs=1e-3)
    assert pool(variances, np.full(6, 2.0))[0][0] == pytest.approx(1.2)
    assert pool(variances, np.full(6, 2.0), base=0)[0][0] == 2.2


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 1.0, 2.0, 50.0]), st.sampled_from([1.0, 2.0, 4.0])), min_size=1,
                max_size=8), st.randoms())  # fmt: skip
def test_the_order_of_the_levels_changes_no_spread(levels, random):
    order = list(range(len(levels)))
    random.shuffle(order)
    variances, degrees = (np.array(column) for column in zip(*levels, strict=True))
    one, other = pool(variances, degrees), pool(variances[order], degrees[order])
    assert one[0][order] == pytest.approx(other[0])
    assert one[1][order] == pytest.approx(other[1])


def test_seeds_are_paired_only_if_they_matter():
    seeds = np.array([-3.0, 0.0, 3.0, 1.0])
    rest = np.array([[0.1, -0.1, 0.1, -0.1], [0.2, 0.1, -0.2, -0.1], [0.0, 0.1, 0.0, -0.1]])
    shared = [sample(*(90 + level + seeds + noise)) for level, noise in enumerate(rest)]
    fitted = fit(shared)
    assert fitted.paired
    table = np.array([each.accuracies for each in shared])
    left = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    assert fitted.variances == pytest.approx([max(1e-4, (left**2).sum() / 6)] * 3)  # the mean square of the rest
    assert fitted.degrees.tolist() == pytest.approx([6.0] * 3)
    assert not fit([sample(*(90 + noise)) for noise in rest]).paired
    assert not fit([*shared[:2], sample(*shared[2].accuracies[:3])]).paired  # other seeds cannot be paired


def test_the_smallest_difference_found_by_hand():
    """10 degrees of freedom, error 0.2: (2.2281 + 0.8791) x 0.2."""
    one = Estimate(0.0, Part(0.04, 10.0), Part(0.0, 1.0), Part(0.0, 1.0))
    assert find_smallest(one, Family(np.eye(1))) == pytest.approx(0.2 * (2.228139 + 0.879058), rel=1e-5)


@pytest.mark.parametrize("size", [1, 7])
def test_a_difference_is_found_if_the_smallest_that_is_found_is_not_larger(size):
    family, one = Family(np.eye(size)), Estimate(0.0, Part(0.04, 10.0), Part(0.0, 1.0), Part(0.0, 1.0))
    smallest = find_smallest(one, family)
    assert family.finds(one, smallest * 1.0001, 0.8)
    assert not family.finds(one, -smallest * 0.9999, 0.8)


def test_no_point_of_a_large_family_is_infinite():
    """With 1,960 comparisons, one of 16 million uniform numbers is 0."""
    assert np.isfinite(_draw_normals.__wrapped__(1960)).all()


def test_the_seeds_that_are_needed_find_the_effect_and_one_less_does_not():
    """Also if the levels have unequal numbers of seeds now: all have the same number then."""
    base, other = (90.0, 91.0, 92.5, 90.5, 91.0, 90.0), (91.2, 92.0, 91.6)
    (found,) = compare(fit([sample(*base), sample(*other)]), AGAINST_FIRST)
    number = found.count_seeds(0.5)
    variances = np.var(base, ddof=1), np.var(other, ddof=1)

    def smallest(seeds):
        terms = [each / seeds for each in variances]
        degrees = sum(terms) ** 2 / sum(term**2 / (seeds - 1) for term in terms)
        return (stats.t.ppf(0.975, degrees) + stats.t.ppf(0.8, degrees)) * math.sqrt(sum(terms))

    assert smallest(number) <= 0.5 < smallest(number - 1)
    assert found.count_seeds_within(0.5) > number


def test_no_number_of_seeds_makes_up_for_few_images():
    right = np.random.default_rng(0).random((2, 3, 40)) < np.array([[0.9], [0.7]])[..., None]
    samples = [
        Sample(tuple(100 * each.mean(axis=1)), (0, 1, 2), 40, each) for each in np.repeat(right[:, :1], 3, axis=1)
    ]
    (found,) = compare(fit(samples), AGAINST_FIRST)
    assert foresee(found.fitted, found.contrast, 900).beyond == pytest.approx(found.estimate.beyond)
    assert found.count_seeds(1.0) == math.inf


@pytest.mark.parametrize("seeds", [3, 10])
def test_false_verdicts_over_seeds_and_images_stay_near_five_percent(seeds):
    """150 small studies without a difference: at most 8 % false, where seeds alone give 8 % and more with 10 seeds."""
    random, wrong = np.random.default_rng(seeds), 0
    for _ in range(150):
        easy = random.normal(1.5, 1.5, 300) + random.normal(0, 0.5, (4, 1, 300))
        right = easy + random.normal(0, 0.05, (4, seeds, 1)) + random.normal(0, 1, (4, seeds, 300)) > 0
        samples = [Sample(tuple(100 * each.mean(axis=1)), tuple(range(seeds)), 300, each) for each in right]
        found = compare(fit(samples), np.hstack([-np.ones((3, 1)), np.eye(3)]))
        wrong += min(each.p_corrected for each in found) < 0.05
    assert wrong <= 12

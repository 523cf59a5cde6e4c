"""Differences and their intervals against scipy's tests."""

from __future__ import annotations

import pytest
from scipy import stats

from shalabench.analysis.statistics import Difference, against_constant, difference
from shalabench.api import Score

pytestmark = pytest.mark.float64

A = {0: 0.80, 1: 0.85, 2: 0.81, 5: 0.86}
B = {0: 0.70, 1: 0.78, 2: 0.66, 3: 0.9}


def scores(values, stderr=0.01):
    return {seed: Score("m", value, 1000, stderr) for seed, value in values.items()}


def test_seeds_that_share_a_first_stage_are_paired():
    found = difference(scores(A), scores(B), (0, 1, 2, 9))
    test = stats.ttest_rel([A[s] for s in (0, 1, 2)], [B[s] for s in (0, 1, 2)])
    interval = test.confidence_interval(0.95)
    assert found.p == pytest.approx(test.pvalue)
    assert found.value - found.margin == pytest.approx(interval.low)
    assert found.value + found.margin == pytest.approx(interval.high)
    assert found.basis == "3 seeds, paired; without a partner: 3, 5"


@pytest.mark.parametrize(
    ("a", "b", "pooled"),
    [
        ((0.8, 0.9, 0.85), (0.5, 0.7, 0.6), True),
        ((0.8, 0.9, 0.85), (0.5, 0.9, 0.6), False),  # a variance over nine times the other
        ((0.8, 0.9, 0.85), (0.5, 0.7, 0.6, 0.55), False),
    ],
)
def test_seeds_are_compared_by_student_or_by_welch(a, b, pooled):
    found = difference(*(scores(dict(enumerate(side))) for side in (a, b)))
    test = stats.ttest_ind(a, b, equal_var=pooled)
    assert found.p == pytest.approx(test.pvalue)
    assert found.value + found.margin == pytest.approx(test.confidence_interval(0.95).high)
    assert found.basis == f"3 and {len(b)} seeds"


@pytest.mark.parametrize("seeds", [(1, 1), (2, 2), (1, 5), (2, 9)])
def test_fewer_than_three_seeds_a_side_give_an_interval_over_items_and_no_test(seeds):
    a = scores({seed: 0.80 + seed / 1000 for seed in range(seeds[0])}, 0.03)
    b = scores({seed: 0.20 for seed in range(seeds[1])}, 0.04)
    found = difference(a, b, range(9))
    assert found.margin == pytest.approx(stats.norm.ppf(0.975) * 0.05, rel=1e-6)
    assert found.basis == "test items of one training a side"
    assert found.seeds == seeds
    assert (found.p, found.is_tested, found.is_significant) == (None, False, False)


def test_without_any_error_nothing_is_claimed():
    found = difference(scores({0: 8.0}, None), scores({0: 7.0}, None))
    assert found.p is None
    assert found.margin is None
    assert not found.is_significant


@pytest.mark.parametrize("shared", [(), (0, 1, 2)], ids=["not paired", "paired"])
def test_seeds_that_do_not_differ_are_compared_over_test_items(shared):
    """As counts of a rare event do: a spread of zero is no certainty."""

    def compared(a, b, stderr):
        sides = (scores(dict.fromkeys(range(3), value), stderr) for value in (a, b))
        return difference(*sides, shared)

    assert compared(0.5, 0.5, 0.01).p == 1
    assert not compared(0.0010, 0.0005, 0.0006).is_significant
    found = compared(0.75, 0.5, 0.01)
    assert found.is_significant
    assert found.margin == pytest.approx(stats.norm.ppf(0.975) * 0.01 * 2**0.5, rel=1e-6)
    assert found.basis.endswith("they do not differ, so test items")
    assert compared(0.75, 0.5, None).p is None
    other = scores({0: 0.1 + 1e-13, 1: 0.3, 2: 0.2})
    assert difference(scores({0: 0.1, 1: 0.3, 2: 0.2}), other, shared).p == pytest.approx(1)


def test_errors_of_few_groups_have_student_s_quantiles():
    a, b = (Score("fid", value, 1000, error, groups=5) for value, error in ((9, 0.3), (8, 0.4)))
    found = difference({0: a}, {0: b})
    assert found.margin == pytest.approx(stats.t.ppf(0.975, 4) * 0.5)
    published = against_constant(9, 0.3, 1, 8.5, groups=5)
    assert published.margin == pytest.approx(stats.t.ppf(0.975, 4) * 0.3)
    assert Score.from_json(a.to_json()) == a
    assert "groups" not in Score("m", 1.0, 3).to_json()


def test_a_published_value_is_a_constant():
    values = [0.80, 0.84, 0.85]
    stderr = stats.sem(values)
    found = against_constant(sum(values) / 3, stderr, 3, 0.9)
    test = stats.ttest_1samp(values, 0.9)
    assert found.p == pytest.approx(test.pvalue)
    assert found.value == pytest.approx(sum(values) / 3 - 0.9)
    for seeds in (1, 2):
        few = against_constant(0.8, 0.001, seeds, 0.9)
        assert (few.p, few.is_significant) == (None, False)


@pytest.mark.parametrize("freedom", [None, 1, 1.01, 2, 3.7, 9.99, 10, 10.5, 40, 1e6])
def test_significance_is_that_of_the_p_value(freedom):
    critical = stats.norm.ppf(0.975) if freedom is None else stats.t.ppf(0.975, freedom)
    for size in (0, 1.9, 1.97, critical - 1e-6, critical + 1e-6, 2.5, 4.4, 12.8, -13):
        found = Difference(size, 0, size, "seeds", 1.0, freedom)
        assert found.is_significant == (found.p < 0.05), size

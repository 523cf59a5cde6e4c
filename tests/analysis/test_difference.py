"""Differences and their intervals against scipy's tests."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from shalabench.analysis.statistics import Difference, against_constant, difference
from shalabench.api import Score

pytestmark = pytest.mark.float64

A = {0: 0.80, 1: 0.85, 2: 0.81, 5: 0.86}
B = {0: 0.70, 1: 0.78, 2: 0.66, 3: 0.9}


def scores(values, stderr=0.01):
    return {seed: Score("m", value, 1000, stderr) for seed, value in values.items()}


def test_common_seeds_are_paired():
    found = difference(scores(A), scores(B))
    test = stats.ttest_rel([A[s] for s in (0, 1, 2)], [B[s] for s in (0, 1, 2)])
    interval = test.confidence_interval(0.95)
    assert found.p == pytest.approx(test.pvalue)
    assert found.value - found.margin == pytest.approx(interval.low)
    assert found.value + found.margin == pytest.approx(interval.high)
    assert found.basis == "3 seeds, paired; without a partner: 3, 5"


def test_seeds_without_partners_are_compared_by_welch():
    a, b = {0: 0.8, 1: 0.9, 2: 0.85}, {7: 0.5, 8: 0.7}
    found = difference(scores(a), scores(b))
    test = stats.ttest_ind(list(a.values()), list(b.values()), equal_var=False)
    assert found.p == pytest.approx(test.pvalue)
    assert found.value + found.margin == pytest.approx(test.confidence_interval(0.95).high)
    assert "not paired" in found.basis


def test_one_training_a_side_is_significant_by_test_items():
    found = difference(scores({0: 0.80}, 0.03), scores({0: 0.70}, 0.04))
    assert found.p == pytest.approx(2 * stats.norm.sf(0.1 / 0.05))
    assert found.margin == pytest.approx(stats.norm.ppf(0.975) * 0.05, rel=1e-6)
    assert "test items of one training each" in found.basis


def test_without_any_error_nothing_is_claimed():
    found = difference(scores({0: 8.0}, None), scores({0: 7.0}, None))
    assert found.p is None
    assert found.margin is None
    assert not found.is_significant


@pytest.mark.parametrize("second", [0, 2], ids=["paired", "not paired"])
def test_seeds_that_do_not_differ_are_compared_over_test_items(second):
    """As counts of a rare event do: a spread of zero is no certainty."""

    def compared(a, b, stderr):
        return difference(scores({0: a, 1: a}, stderr), scores({second: b, second + 1: b}, stderr))

    assert compared(0.5, 0.5, 0.01).p == 1
    assert not compared(0.0010, 0.0005, 0.0006).is_significant
    found = compared(0.75, 0.5, 0.01)
    assert found.is_significant
    assert found.margin == pytest.approx(stats.norm.ppf(0.975) * 0.01, rel=1e-6)
    assert found.basis.endswith("they do not differ, so test items")
    assert compared(0.75, 0.5, None).p is None
    shifted = difference(scores({0: 0.1, 1: 0.3}), scores({0: 0.1 + 1e-13, 1: 0.3}))
    assert shifted.p == pytest.approx(1)


def test_errors_of_few_groups_have_student_s_quantiles():
    a, b = (Score("fid", value, 1000, error, groups=5) for value, error in ((9, 0.3), (8, 0.4)))
    found = difference({0: a}, {0: b})
    assert found.p == pytest.approx(2 * stats.t.sf(1 / 0.5, 4))
    assert found.margin == pytest.approx(stats.t.ppf(0.975, 4) * 0.5)
    published = against_constant(9, 0.3, 1, 8.5, groups=5)
    assert published.p == pytest.approx(2 * stats.t.sf(0.5 / 0.3, 4))
    assert Score.from_json(a.to_json()) == a
    assert "groups" not in Score("m", 1.0, 3).to_json()


def test_a_published_value_is_a_constant():
    values = [0.80, 0.84, 0.85]
    stderr = stats.sem(values)
    found = against_constant(sum(values) / 3, stderr, 3, 0.9)
    test = stats.ttest_1samp(values, 0.9)
    assert found.p == pytest.approx(test.pvalue)
    assert found.value == pytest.approx(sum(values) / 3 - 0.9)
    single = against_constant(0.8, 0.05, 1, 0.9)
    assert single.p == pytest.approx(math.erfc(2 / math.sqrt(2)))


@pytest.mark.parametrize("freedom", [None, 1, 1.01, 2, 3.7, 9.99, 10, 10.5, 40, 1e6])
def test_significance_is_that_of_the_p_value(freedom):
    critical = stats.norm.ppf(0.975) if freedom is None else stats.t.ppf(0.975, freedom)
    for size in (0, 1.9, 1.97, critical - 1e-6, critical + 1e-6, 2.5, 4.4, 12.8, -13):
        found = Difference(size, 0, size, "seeds", 1.0, freedom)
        assert found.is_significant == (found.p < 0.05), size

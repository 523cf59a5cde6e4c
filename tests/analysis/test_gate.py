"""The gate's test: against scipy, by simulation, and on its edges."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from shalabench.analysis.gate import Gate, holm, judge

pytestmark = pytest.mark.float64


def gate(reference, new, *, higher=True, resolution=0.0, metric="coherence/joint"):
    return Gate("shala", "polydigits", metric, higher, tuple(reference), tuple(new), resolution)


def test_the_p_value_is_that_of_the_one_sided_pooled_t_test():
    rng = np.random.default_rng(0)
    reference, new = rng.normal(0.5, 0.02, 10), rng.normal(0.47, 0.02, 3)
    [verdict] = judge([gate(reference, new)])
    expected = stats.ttest_ind(new, reference, alternative="less")
    assert verdict.p == pytest.approx(expected.pvalue, rel=1e-9)
    [verdict] = judge([gate(reference, new, higher=False)])
    expected = stats.ttest_ind(new, reference, alternative="greater")
    assert verdict.p == pytest.approx(expected.pvalue, rel=1e-9)
    assert verdict.change == pytest.approx(reference.mean() - new.mean())


def test_holm_is_that_of_scipys_definition():
    p = [0.001, 0.004, 0.03, 0.02, 0.5]
    # 0.001 < .05/5, 0.004 < .05/4, 0.02 > .05/3: the rest stand.
    assert holm(p, 0.05) == [True, True, False, False, False]
    assert holm([0.02], 0.01) == [False]


def _healthy(rng, gates=12, sd=0.02):
    return [
        gate(rng.normal(0.5, sd, 10), rng.normal(0.5, sd, 3), metric=f"m{i}") for i in range(gates)
    ]


def test_a_hundred_healthy_runs_give_at_most_a_few_false_alarms():
    rng = np.random.default_rng(1)
    alarms = sum(any(v.state == "regressed" for v in judge(_healthy(rng))) for _ in range(100))
    assert alarms <= 4  # 1 expected; more than 4 has probability .003


def test_a_drop_of_five_standard_deviations_is_seen_98_times_in_100_and_named():
    rng, seen = np.random.default_rng(2), 0
    for _ in range(200):
        gates = _healthy(rng)
        broken = gates[5]
        gates[5] = gate(broken.reference, np.array(broken.new) - 0.1, metric="m5")
        verdicts = judge(gates)
        seen += verdicts[5].state == "regressed"
    assert seen >= 190


@pytest.mark.parametrize("seeds", [3, 10])
def test_the_visible_drop_is_reported_19_times_in_20(seeds):
    """With the true spread and few seeds; a sum of two quantiles of t would give .80 and .91."""
    rng, seen = np.random.default_rng(3), 0
    error = 0.02 * (1 / seeds + 1 / 3) ** 0.5
    quiet = [gate([0.5, 0.52, 0.51], [0.5, 0.52], metric=f"m{i}") for i in range(25)]
    first = judge([*quiet, gate(rng.normal(0.5, 0.02, seeds), rng.normal(0.5, 0.02, 3))])[-1]
    drop = first.visible / _error(first.gate) * error
    for _ in range(1000):
        new = gate(rng.normal(0.5, 0.02, seeds), rng.normal(0.5 - drop, 0.02, 3))
        seen += judge([*quiet, new])[-1].state == "regressed"
    assert 0.93 < seen / 1000 < 0.97


def _error(gate):
    a, b = np.array(gate.reference), np.array(gate.new)
    squares = ((a - a.mean()) ** 2).sum() + ((b - b.mean()) ** 2).sum()
    return (squares / (len(a) + len(b) - 2) * (1 / len(a) + 1 / len(b))) ** 0.5


def test_the_spread_is_never_below_the_error_of_one_run():
    [lucky] = judge([gate([0.5, 0.5, 0.5], [0.499])])
    assert lucky.state == "regressed"  # no spread at all: any drop counts
    [floored] = judge([gate([0.5, 0.5, 0.5], [0.499], resolution=0.01)])
    assert floored.state == "holds"
    assert floored.visible > 0.01


def test_an_improvement_is_reported_and_never_a_regression():
    [verdict] = judge([gate([0.5, 0.51, 0.49, 0.5], [0.7, 0.71, 0.69])])
    assert verdict.state == "improved"


def test_it_never_judges_nothing():
    with pytest.raises(ValueError, match="no gate"):
        judge([])
    with pytest.raises(ValueError, match="too few seeds"):
        judge([gate([0.5], [0.5])])
    with pytest.raises(ValueError, match="too few seeds"):
        judge([gate([0.5, 0.5], [])])

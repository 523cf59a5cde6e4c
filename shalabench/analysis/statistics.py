"""Differences of measurements with their intervals: over seeds, or over test items.

Whether two methods differ is tested over trainings, of at least `SEEDS` a side. The errors over
test items are already in the spread between seeds, so they are not added to it.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

from shalabench.api.records import Score

LEVEL = 0.05
SEEDS = 3  # trainings a side, fewer than which are not tested
UNTESTED = "not tested over trainings"
NO_ERROR = "no error is recorded"
_ALIKE = 9.0  # of two variances, the largest ratio for which they are pooled
_NO_SPREAD = 1e-9  # relative to the values: less between seeds is rounding
# Student's two-sided critical values at LEVEL for 1, 2, ... degrees of freedom, and the limit. They
# settle all but close calls without scipy, whose import takes as long as a table's other half.
_CRITICAL = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281)
_LIMIT = 1.95996
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Difference:
    """A minus B.

    Attributes:
        a, b: Means over the seeds that are compared.
        value: Their difference.
        basis: What the interval is over, in words.
        error: Standard error of the difference, or None where none is known.
        freedom: Student's degrees of freedom; None for the normal distribution.
        over_trainings: Whether there are enough seeds; else the error is over test items.
        seeds: Number of trainings of each side, where it has several values.
    """

    a: float
    b: float
    value: float
    basis: str
    error: float | None = None
    freedom: float | None = None
    over_trainings: bool = True
    seeds: tuple[int, int] = (0, 0)

    @cached_property
    def margin(self) -> float | None:
        """Half the 95 % interval, or None where no error is known."""
        from scipy.special import ndtri, stdtrit

        upper = 1 - LEVEL / 2
        critical = ndtri(upper) if self.freedom is None else stdtrit(self.freedom, upper)
        return self.error and float(critical) * self.error

    @cached_property
    def p(self) -> float | None:
        """Two-sided, of no difference between trainings; None where that is not tested."""
        if not self.is_tested:
            return None
        from scipy.special import ndtr, stdtr

        size = -abs(self.value) / (self.error or 1)
        return 2 * float(ndtr(size) if self.freedom is None else stdtr(self.freedom, size))

    @property
    def is_tested(self) -> bool:
        """Whether an error over trainings is known."""
        return self.over_trainings and self.error is not None

    @cached_property
    def is_significant(self) -> bool:
        """Whether it is tested, and the interval leaves out zero."""
        if not self.is_tested or not self.error:
            return False
        size, low, high = abs(self.value) / self.error, _LIMIT, _LIMIT
        if self.freedom is not None:
            below, above = math.floor(self.freedom), math.ceil(self.freedom)
            high = _CRITICAL[min(below, len(_CRITICAL)) - 1]
            low = _CRITICAL[above - 1] if above <= len(_CRITICAL) else _LIMIT
        if low - _ROUNDING < size < high + _ROUNDING:
            return self.p is not None and self.p < LEVEL
        return size > high

    def to_json(self) -> dict[str, Any]:
        """The values that a reader of JSON needs."""
        shown = ("a", "b", "value", "margin", "p", "basis", "is_tested", "seeds")
        return {key: getattr(self, key) for key in shown}


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of two or more values, and its standard error."""
    mean, k = math.fsum(values) / len(values), len(values)  # `sum` depends on the Python version
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (k - 1) / k)


def difference(
    a: Mapping[int, Score], b: Mapping[int, Score], shared: Collection[int] = ()
) -> Difference:
    """Compare two sets of runs on one metric.

    With three or more seeds whose two runs share a first stage, these are paired: Student's t of
    their differences. Else, with three or more seeds a side, it is Student's t with a pooled
    variance where both sides have as many seeds and the larger sample variance is below nine times
    the smaller one; Welch's t (1947) where not.

    With three seeds a side and a difference of four standard deviations of seeds, Welch's t finds
    .884 of differences, the pooled t .947, and this rule .911. Where nothing differs and the two
    standard deviations are as 1, 2, 5 and 10 to 1, Welch's t errs in .034, .043, .059 and .058, the
    pooled t in .049, .061, .091 and .103, and this rule in .042, .053, .069 and .063
    (tests/analysis/test_verdicts.py).

    With fewer seeds, the interval is over the test items of one training. Runs share these, so
    their errors are averaged, not reduced. It says nothing of other trainings and is no test. Where
    seeds do not differ at all, as those of a rare event do, the errors over test items are used.

    Args:
        a: The score of each seed.
        b: The same of the other side.
        shared: Seeds whose runs share a first stage (`verdicts.sharing`).
    """
    common = sorted(a.keys() & b.keys() & set(shared))
    first, second = list(a.values()), list(b.values())
    if len(common) < SEEDS > min(len(a), len(b)):
        basis = "test items of one training a side"
        return _over_items(first, second, basis, over_trainings=False)
    size: float | None
    if len(common) >= SEEDS:
        first, second = ([side[seed] for seed in common] for side in (a, b))
        pairs = zip(first, second, strict=True)
        _, error = mean_and_error([x.value - y.value for x, y in pairs])
        size, basis = len(common), f"{len(common)} seeds, paired"
        if left := sorted((a.keys() | b.keys()) - set(common)):
            basis += f"; without a partner: {', '.join(map(str, left))}"
    else:
        errors = [mean_and_error([score.value for score in side])[1] for side in (first, second)]
        error, size = math.hypot(*errors), _freedom(errors, (len(a), len(b))) + 1
        basis = f"{len(a)} and {len(b)} seeds"
    if error <= _NO_SPREAD * max(abs(score.value) for score in (*first, *second)):
        return _over_items(first, second, f"{basis}; they do not differ, so test items")
    seeds = len(first), len(second)
    return _difference(_mean(first), _mean(second), error, basis, size, seeds=seeds)


def _freedom(errors: Sequence[float], seeds: tuple[int, int]) -> float:
    """Degrees of freedom of a pooled variance where it may be pooled, else Welch's."""
    low, high = sorted(error**2 for error in errors)
    if seeds[0] == seeds[1] and high < _ALIKE * low:
        return sum(seeds) - 2
    parts = sum(error**4 / (k - 1) for error, k in zip(errors, seeds, strict=True))
    return (low + high) ** 2 / parts if parts else 1.0


def pooled_error(columns: Sequence[Sequence[float]], *, blocked: bool) -> tuple[float, int]:
    """The standard deviation of one value about its row's mean, and its degrees of freedom.

    Args:
        columns: The values of each row by seed.
        blocked: Whether value i of every row is of one seed, whose effect is then taken out.
    """
    means = [math.fsum(values) / len(values) for values in columns]
    residuals = [[v - mean for v in values] for values, mean in zip(columns, means, strict=True)]
    freedom = sum(len(values) - 1 for values in columns)
    if blocked:
        effects = [math.fsum(values) / len(columns) for values in zip(*residuals, strict=True)]
        residuals = [[r - e for r, e in zip(rs, effects, strict=True)] for rs in residuals]
        freedom -= len(effects) - 1
    return math.sqrt(math.fsum(r**2 for rs in residuals for r in rs) / freedom), freedom


@cache
def critical_range(rows: int, freedom: int) -> float:
    """The studentised range's upper quantile at LEVEL, by numerical integration.

    It is the range of `rows` normal means in units of their estimated standard error (Tukey 1953).
    scipy.stats has it too, and takes ten times longer to import than this takes.

    Args:
        rows: Number of means.
        freedom: Degrees of freedom of the standard error.
    """
    import numpy as np

    step, freedom = 0.05, min(freedom, 1000)
    z = np.arange(-8, 8, step)
    below = np.array([math.erfc(-x / math.sqrt(2)) / 2 for x in z])
    density = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    shifts = np.arange(len(z))
    lower = np.where(shifts[:, None] > shifts, 0, below[shifts - shifts[:, None]])
    cdf = rows * ((below - lower) ** (rows - 1) @ density) * step  # of a range of shift * step
    s = np.arange(0.001, 6, 0.002)  # estimated over true standard error: chi, scaled
    log = (freedom - 1) * np.log(s) - freedom * s**2 / 2
    weights = np.exp(log - log.max())
    weights /= weights.sum()
    low, high = 0.0, 200.0
    for _ in range(40):
        middle = (low + high) / 2
        above = 1 - weights @ np.interp(middle * s, shifts * step, cdf)
        low, high = (middle, high) if above > LEVEL else (low, middle)
    return high


def against_constant(
    mean: float, stderr: float | None, seeds: int, constant: float, groups: int | None = None
) -> Difference:
    """Compare a mean with a published value, whose error is not known.

    Args:
        mean: Over seeds.
        stderr: Over seeds; over test items where there is one.
        seeds: Number of trainings.
        constant: The published value.
        groups: As in `Score`, where there is one training.
    """
    if seeds < 2 or not stderr:
        basis = "test items of one training"
        return _difference(mean, constant, stderr, basis, groups, over_trainings=False)
    basis = f"{seeds} seeds"
    return _difference(mean, constant, stderr, basis, seeds, over_trainings=seeds >= SEEDS)


def _over_items(
    a: list[Score], b: list[Score], basis: str, *, over_trainings: bool = True
) -> Difference:
    """The means of two sides with the errors over the test items of one training."""
    errors = [_error_over_items(side) for side in (a, b)]
    error = None if None in errors else math.hypot(*filter(None, errors))
    groups = min((score.groups for score in (*a, *b) if score.groups), default=None)
    about: dict[str, Any] = {"over_trainings": over_trainings, "seeds": (len(a), len(b))}
    return _difference(_mean(a), _mean(b), error, basis, groups, **about)


def _error_over_items(scores: list[Score]) -> float | None:
    known = [score.stderr for score in scores if score.stderr is not None]
    return math.fsum(known) / len(scores) if len(known) == len(scores) else None


def _difference(
    a: float,
    b: float,
    error: float | None,
    basis: str,
    size: float | None = None,
    *,
    over_trainings: bool = True,
    seeds: tuple[int, int] = (0, 0),
) -> Difference:
    """The difference of two means.

    Args:
        a, b: The means.
        error: Standard error of their difference, or None.
        basis: What the interval is over.
        size: Number of values behind the error, one more than Student's degrees of freedom; None
            where they are many, for the normal distribution.
        over_trainings, seeds: As in `Difference`.
    """
    freedom = size - 1 if size else None
    if not error:
        error, freedom, basis = None, None, NO_ERROR
    return Difference(a, b, a - b, basis, error, freedom, over_trainings, seeds)


def _mean(scores: Sequence[Score]) -> float:
    return math.fsum(score.value for score in scores) / len(scores)

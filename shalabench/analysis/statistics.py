"""The difference of two measurements with its interval: over seeds, or over test items."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from shalabench.api.records import Score

LEVEL = 0.05
_NO_SPREAD = 1e-9  # relative to the values: less between seeds is rounding
# Student's two-sided critical values at LEVEL for 1, 2, ... degrees of freedom, and the limit. They
# settle all but close calls without scipy, whose import takes longer than a table.
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
    """

    a: float
    b: float
    value: float
    basis: str
    error: float | None = None
    freedom: float | None = None

    @cached_property
    def margin(self) -> float | None:
        """Half the 95 % interval, or None where no error is known."""
        return self.error and float(self._distribution.ppf(1 - LEVEL / 2)) * self.error

    @cached_property
    def p(self) -> float | None:
        """Two-sided, of no difference; None where no error is known."""
        return self.error and 2 * float(self._distribution.sf(abs(self.value) / self.error))

    @property
    def is_tested(self) -> bool:
        """Whether an error is known."""
        return self.error is not None

    @cached_property
    def is_significant(self) -> bool:
        """Whether the interval leaves out zero."""
        if self.error is None:
            return False
        size, low, high = abs(self.value) / self.error, _LIMIT, _LIMIT
        if self.freedom is not None:
            below, above = math.floor(self.freedom), math.ceil(self.freedom)
            high = _CRITICAL[min(below, len(_CRITICAL)) - 1]
            low = _CRITICAL[above - 1] if above <= len(_CRITICAL) else _LIMIT
        if low - _ROUNDING < size < high + _ROUNDING:
            return self.p is not None and self.p < LEVEL
        return size > high

    @property
    def _distribution(self) -> Any:
        from scipy import stats  # a second

        return stats.norm if self.freedom is None else stats.t(self.freedom)

    def to_json(self) -> dict[str, Any]:
        """The values that a reader of JSON needs."""
        return {key: getattr(self, key) for key in ("a", "b", "value", "margin", "p", "basis")}


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """The mean of two or more values, and its standard error."""
    mean, k = math.fsum(values) / len(values), len(values)  # `sum` depends on the Python version
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (k - 1) / k)


def difference(a: Mapping[int, Score], b: Mapping[int, Score]) -> Difference:
    """Compare two sets of runs on one metric.

    Seeds that both have are paired (Student's t of their differences) where there are two or more;
    else all seeds of both are compared (Welch's t); with one training on a side, the errors over
    test items are taken as independent, which says nothing of other trainings. The same is done
    where seeds do not differ at all, as those of a rare event do.

    Args:
        a: The score of each seed.
        b: The same of the other side.
    """
    common = sorted(a.keys() & b.keys())
    size: float | None
    if len(common) > 1:
        first, second = ([side[seed] for seed in common] for side in (a, b))
        pairs = zip(first, second, strict=True)
        _, error = mean_and_error([x.value - y.value for x, y in pairs])
        size, basis = len(common), f"{len(common)} seeds, paired"
        if left := sorted((a.keys() | b.keys()) - set(common)):
            basis += f"; without a partner: {', '.join(map(str, left))}"
    elif len(a) > 1 and len(b) > 1:
        first, second = list(a.values()), list(b.values())
        errors = [mean_and_error([score.value for score in side])[1] for side in (first, second)]
        error = math.hypot(*errors)
        parts = errors[0] ** 4 / (len(a) - 1) + errors[1] ** 4 / (len(b) - 1)
        size = error**4 / parts + 1 if parts else None
        why = "one seed is common" if common else "no seed is common"
        basis = f"{len(a)} and {len(b)} seeds, not paired: {why}"
    else:
        basis = "test items of one training each"
        if not common:
            basis += f" (seeds {min(a)} and {min(b)})"
        elif len(a) + len(b) > 2:
            basis += f" (seed {common[0]})"
        chosen = (a[common[0] if common else min(a)], b[common[0] if common else min(b)])
        return _over_items([chosen[0]], [chosen[1]], basis)
    if error <= _NO_SPREAD * max(abs(score.value) for score in (*first, *second)):
        return _over_items(first, second, f"{basis}; they do not differ, so test items")
    return _difference(_mean(first), _mean(second), error, basis, size)


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
        return _difference(mean, constant, stderr, "test items of one training", groups)
    return _difference(mean, constant, stderr, f"{seeds} seeds", seeds)


def _over_items(a: list[Score], b: list[Score], basis: str) -> Difference:
    """The means of two sides with the errors over their test items."""
    errors = [_error_of_mean(side) for side in (a, b)]
    error = None if None in errors else math.hypot(*filter(None, errors))
    groups = min((score.groups for score in (*a, *b) if score.groups), default=None)
    return _difference(_mean(a), _mean(b), error, basis, groups)


def _error_of_mean(scores: list[Score]) -> float | None:
    known = [score.stderr for score in scores if score.stderr is not None]
    return math.hypot(*known) / len(scores) if len(known) == len(scores) else None


def _difference(
    a: float, b: float, error: float | None, basis: str, size: float | None = None
) -> Difference:
    """The difference of two means.

    Args:
        a, b: The means.
        error: Standard error of their difference, or None.
        basis: What the interval is over.
        size: Number of values behind the error, one more than Student's degrees of freedom; None
            where they are many, for the normal distribution.
    """
    if not error:
        return Difference(a, b, a - b, "no error is recorded")
    return Difference(a, b, a - b, basis, error, size - 1 if size else None)


def _mean(scores: Sequence[Score]) -> float:
    return math.fsum(score.value for score in scores) / len(scores)

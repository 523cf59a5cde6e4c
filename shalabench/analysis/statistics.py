"""The difference of two measurements with its interval: over seeds, or over test items."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from shalabench.api.records import Score

LEVEL = 0.05
_NO_SPREAD = 1e-9  # of the figures: less between seeds is rounding


@dataclass(frozen=True)
class Difference:
    """A minus B.

    Attributes:
        a, b: Means over the seeds that are compared.
        value: Their difference.
        margin: Half the 95 % interval, or None where no error is known.
        p: Two-sided, of no difference; None where no error is known.
        basis: What the interval is over, in words.
    """

    a: float
    b: float
    value: float
    margin: float | None
    p: float | None
    basis: str

    @property
    def is_told(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.p is not None and self.p < LEVEL


def difference(a: Mapping[int, Score], b: Mapping[int, Score]) -> Difference:
    """Compare two sets of runs on one metric.

    Seeds that both have are paired (Student's t of their differences) where there are two or more;
    else all seeds of both are compared (Welch's t); with one training on a side, the errors over
    test items are taken as independent, which says nothing of other trainings. So they are where
    seeds do not differ at all, as those of a rare event: that says no more of other trainings.

    Args:
        a: The score of each seed.
        b: The same of the other side.
    """
    common = sorted(a.keys() & b.keys())
    if len(common) > 1:
        return _paired(common, a, b)
    if len(a) > 1 and len(b) > 1:
        why = "no seed is common" if not common else "one seed is common"
        return _welch(a, b, f"{len(a)} and {len(b)} seeds, not paired: {why}")
    return _over_items(a, b, common)


def against_constant(
    mean: float, stderr: float | None, seeds: int, constant: float, groups: int | None = None
) -> Difference:
    """Compare a mean with a printed figure, whose own error is not known.

    Args:
        mean: Over seeds.
        stderr: Over seeds; over test items where there is one.
        seeds: Number of trainings.
        constant: The printed figure.
        groups: As in `Score`, where there is one training.
    """
    if seeds < 2 or not stderr:
        return _told(mean, constant, stderr, "test items of one training", groups)
    return _told(mean, constant, stderr, f"{seeds} seeds", seeds)


def _paired(common: list[int], a: Mapping[int, Score], b: Mapping[int, Score]) -> Difference:
    left = sorted((a.keys() | b.keys()) - set(common))
    basis = f"{len(common)} seeds, paired"
    if left:
        basis += f"; without a partner: {', '.join(map(str, left))}"
    sides = [[side[seed] for seed in common] for side in (a, b)]
    first, second = ([score.value for score in side] for side in sides)
    differences = [x - y for x, y in zip(first, second, strict=True)]
    k = len(common)
    error = math.sqrt(_variance(differences) / k)
    if error <= _NO_SPREAD * max(map(abs, (*first, *second))):
        return _of_items(*sides, basis)
    return _told(_mean(first), _mean(second), error, basis, k)


def _welch(a: Mapping[int, Score], b: Mapping[int, Score], basis: str) -> Difference:
    sides = [[score.value for score in side.values()] for side in (a, b)]
    (mean_a, var_a), (mean_b, var_b) = ((_mean(s), _variance(s) / len(s)) for s in sides)
    error = math.sqrt(var_a + var_b)
    if error <= _NO_SPREAD * max(map(abs, (*sides[0], *sides[1]))):
        return _of_items(list(a.values()), list(b.values()), basis)
    parts = var_a**2 / (len(a) - 1) + var_b**2 / (len(b) - 1)
    return _told(mean_a, mean_b, error, basis, (var_a + var_b) ** 2 / parts + 1)


def _of_items(a: list[Score], b: list[Score], basis: str) -> Difference:
    """The mean of trainings that do not differ, with the errors over their test items."""
    means = (_mean([score.value for score in side]) for side in (a, b))
    basis += "; they do not differ, so test items"
    known = all(score.stderr is not None for score in (*a, *b))
    parts = (math.hypot(*(score.stderr for score in side)) / len(side) for side in (a, b) if known)
    return _told(*means, math.hypot(*parts) if known else None, basis, _groups(*a, *b))


def _over_items(a: Mapping[int, Score], b: Mapping[int, Score], common: list[int]) -> Difference:
    """One training each: that of the common seed, else each side's first."""
    first = a[common[0] if common else min(a)]
    second = b[common[0] if common else min(b)]
    basis = "test items of one training each"
    if not common:
        basis += f" (seeds {min(a)} and {min(b)})"
    elif len(a) + len(b) > 2:
        basis += f" (seed {common[0]})"
    errors = [first.stderr, second.stderr]
    error = None if None in errors else math.hypot(*errors)
    return _told(first.value, second.value, error, basis, _groups(first, second))


def _groups(*scores: Score) -> int | None:
    """The fewest replicates behind the errors, where these are of few."""
    return min((score.groups for score in scores if score.groups), default=None)


def _told(
    a: float, b: float, error: float | None, basis: str, size: float | None = None
) -> Difference:
    """The difference of two means and its interval.

    Args:
        a, b: The means.
        error: Standard error of their difference, or None.
        basis: What the interval is over.
        size: Number of values behind the error, one more than Student's degrees of freedom; None
            where they are many, for the normal distribution.
    """
    from scipy.special import ndtr, ndtri, stdtr, stdtrit

    value = a - b
    if not error:
        return Difference(a, b, value, None, None, "no error is recorded")
    p = 2 * float(stdtr(size - 1, -abs(value) / error) if size else ndtr(-abs(value) / error))
    quantile = float(stdtrit(size - 1, 1 - LEVEL / 2) if size else ndtri(1 - LEVEL / 2))
    return Difference(a, b, value, quantile * error, p, basis)


def _mean(values) -> float:
    return sum(values) / len(values)


def _variance(values: list[float]) -> float:
    mean = _mean(values)
    return sum((v - mean) ** 2 for v in values) / (len(values) - 1)

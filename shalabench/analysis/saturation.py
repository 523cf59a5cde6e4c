"""The law by which errors fall with the tuples seen, and the tuples that a value needs by it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEWEST = 4  # points of a fit
_EXPONENTS = np.geomspace(0.02, 4, 1500)
_COARSE = _EXPONENTS[::4]  # of the interval
_RATIOS = np.geomspace(1e-3, 1e5, 400)  # of tuples that it may reach, to the estimate

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Law:
    """error = floor + factor * tuples^-exponent, none of them negative."""

    floor: float
    factor: float
    exponent: float

    def error(self, tuples: float) -> float:
        """The error after some tuples."""
        return self.floor + self.factor * tuples**-self.exponent

    def tuples(self, error: float) -> float:
        """The tuples after which an error is reached; infinite where it never is."""
        if error <= self.floor:
            return math.inf
        if self.factor == 0:
            return 0.0
        log = math.log(self.factor / (error - self.floor)) / self.exponent
        return math.exp(log) if log < 700 else math.inf


@dataclass(frozen=True)
class Budget:
    """Tuples that a value needs by a law, with their 90 % interval; any may be infinite."""

    tuples: float
    low: float
    high: float


def fit(tuples: Sequence[float], errors: Sequence[float]) -> Law:
    """The law with the least squares of relative residuals.

    For each of many exponents, floor and factor follow in closed form.

    Args:
        tuples: `FEWEST` different numbers at least.
        errors: Above 0.

    Raises:
        ValueError: There are too few points.
    """
    seen, own = np.asarray(tuples, float), np.asarray(errors, float)
    if len(set(tuples)) < FEWEST:
        raise ValueError(f"{len(set(tuples))} points are too few for three numbers.")
    unit = seen.min()
    u = 1 / own  # [n]; relative: floor u + factor v should be 1
    v = (seen / unit) ** -_EXPONENTS[:, None] / own  # [E, n]
    uu, uv, vv = (u * u).sum(), (v * u).sum(1), (v * v).sum(1)
    u1, v1 = u.sum(), v.sum(1)
    det = np.maximum(uu * vv - uv**2, 1e-300)
    floor, factor = (u1 * vv - v1 * uv) / det, (v1 * uu - u1 * uv) / det
    floor, factor = (
        np.where(factor < 0, u1 / uu, np.where(floor < 0, 0.0, floor)),
        np.where(factor < 0, 0.0, np.where(floor < 0, v1 / vv, factor)),
    )
    best = int(((floor[:, None] * u + factor[:, None] * v - 1) ** 2).sum(1).argmin())
    exponent = float(_EXPONENTS[best])
    return Law(float(floor[best]), float(factor[best] * unit**exponent), exponent)


def budget(tuples: Sequence[float], errors: Sequence[float], error: float) -> Budget:
    """The tuples after which the fitted law reaches an error.

    The interval is the profile of the squares: all numbers of tuples T for which some law through
    (T, error) has squares of at most 1 + F / (n - 3) times the least, F of 1 and n - 3 degrees of
    freedom. It knows nothing of laws of another form.
    """
    from scipy.special import stdtrit  # slow to import

    seen, values = np.asarray(tuples, float), np.asarray(errors, float)
    law = fit(tuples, errors)
    fitted = np.array([law.error(t) for t in tuples])
    least = float(((fitted / values - 1) ** 2).sum())
    freedom = max(len(set(tuples)) - 3, 1)
    quantile = stdtrit(freedom, 0.95)  # Student's; its square is F's 90 % quantile
    bound = least * (1 + quantile**2 / freedom)
    needed = law.tuples(error)
    at = needed if 0 < needed < math.inf else seen.max()
    tried = [*(at * _RATIOS), math.inf]
    inside = [t for t in tried if _squares(seen, values, t, error) <= bound]
    return Budget(needed, min([needed, *inside]), max([needed, *inside]))


def _squares(tuples: Array, errors: Array, at: float, error: float) -> float:
    """The least squares of laws through `error` at `at` tuples, which may be infinite.

    Given the exponent, error + factor (tuples^-exponent - at^-exponent) is linear in the factor.
    """
    unit = tuples.min()
    through = (at / unit) ** -_COARSE if at < math.inf else np.zeros_like(_COARSE)
    v = ((tuples / unit) ** -_COARSE[:, None] - through[:, None]) / errors  # [E, n]
    rest = 1 - error / errors  # [n]
    factor = (v @ rest) / np.maximum((v * v).sum(1), 1e-300)
    most = error / np.maximum(through, 1e-300)  # above, the floor would be negative
    factor = np.clip(factor, 0, most)
    return float(((factor[:, None] * v - rest) ** 2).sum(1).min())

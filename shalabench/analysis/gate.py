"""The regression gate: are new runs worse than the reference ones? Free of torch.

Each gate is one metric of one method on one dataset. New seeds are tested against the reference
seeds in the bad direction only, by a pooled t-test whose spread is never below the error of one run
over its test items; Holm's correction keeps the chance of any false alarm over all gates at the
level.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LEVEL = 0.01  # chance of any false alarm where nothing changed
_POWER = 0.95

State = Literal["holds", "regressed", "improved"]


@dataclass(frozen=True)
class Gate:
    """What is compared.

    Attributes:
        label: The method, with what was overridden.
        higher: Whether more is better.
        reference: A value of each reference seed; two at least.
        new: A value of each new seed.
        resolution: Standard error of one run's value over its test items.
    """

    label: str
    dataset: str
    metric: str
    higher: bool
    reference: tuple[float, ...]
    new: tuple[float, ...]
    resolution: float = 0.0


@dataclass(frozen=True)
class Verdict:
    """The result of a gate's test.

    Attributes:
        change: New mean minus reference mean, positive where better.
        p: One-sided, of a change as bad as this where nothing changed.
        visible: The drop that this gate reports with a probability of 95 %, alone or beside the
            others.
        state: "regressed" and "improved" after Holm's correction over all gates.
    """

    gate: Gate
    change: float
    p: float
    visible: float
    state: State


def judge(gates: Sequence[Gate]) -> list[Verdict]:
    """Test every gate.

    Args:
        gates: At least one.

    Returns:
        One verdict per gate, in order.

    Raises:
        ValueError: There is no gate, or one has fewer than two reference seeds or no new one.
    """
    from scipy.special import nctdtrinc, stdtr, stdtrit  # a tenth of a second

    if not gates:
        raise ValueError("There is no gate to judge.")

    def tail(change: float, error: float, freedom: int) -> float:
        if error == 0:
            return 0.0 if change < 0 else 1.0
        return float(stdtr(freedom, change / error))

    tests = [_difference(gate) for gate in gates]
    worse = [tail(change, error, freedom) for change, error, freedom in tests]
    better = [tail(-change, error, freedom) for change, error, freedom in tests]
    regressed, improved = holm(worse, LEVEL), holm(better, LEVEL)
    verdicts = []
    for i, (gate, (change, error, freedom)) in enumerate(zip(gates, tests, strict=True)):
        least = stdtrit(freedom, 1 - LEVEL / len(gates))  # of the first step of Holm's procedure
        visible = float(nctdtrinc(freedom, 1 - _POWER, least)) * error
        state: State = "regressed" if regressed[i] else "improved" if improved[i] else "holds"
        verdicts.append(Verdict(gate, change, worse[i], visible, state))
    return verdicts


def holm(p: Sequence[float], level: float) -> list[bool]:
    """Which hypotheses Holm's step-down procedure (1979) rejects."""
    rejected = [False] * len(p)
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[i] > level / (len(p) - rank):
            break
        rejected[i] = True
    return rejected


def _difference(gate: Gate) -> tuple[float, float, int]:
    """The change, positive where better, its standard error and degrees of freedom."""
    a, b = gate.reference, gate.new
    if len(a) < 2 or not b:
        raise ValueError(f"The gate {gate.label} {gate.metric} has too few seeds.")
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    squares = math.fsum((x - mean_a) ** 2 for x in a) + math.fsum((x - mean_b) ** 2 for x in b)
    freedom = len(a) + len(b) - 2
    spread = max(math.sqrt(squares / freedom), gate.resolution)
    change = (mean_b - mean_a) * (1 if gate.higher else -1)
    return change, spread * math.sqrt(1 / len(a) + 1 / len(b)), freedom

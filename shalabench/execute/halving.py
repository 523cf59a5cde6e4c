"""What a study decides: which settings are tried, how they are judged, which are chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from shalabench.api import BenchError
from shalabench.config.search import Space, rounded
from shalabench.records.study import LEAST_RECALL, WORST_KID, Reading, Trial

_RANDOM = 6  # settings, the preset's included, before the sampler learns from them
_KEPT = 3  # one of so many settings goes to the next rung
FAILED = ("collapsed", "diverged")
WORST = -1.0  # the objective of a training that diverged, below all others


def promote(objectives: Mapping[int, float]) -> list[int]:
    """The numbers of the best third of some settings, at least one; of equal ones the first.

    Args:
        objectives: By number of the setting.
    """
    best = sorted(objectives, key=lambda number: (-objectives[number], number))
    return sorted(best[: max(1, len(best) // _KEPT)])


def replace_collapsed(before: Sequence[Trial], last: Sequence[Trial]) -> list[int]:
    """The setting that goes to the last rung because the better ones collapsed there; or none.

    A high learning rate may hold for half of the updates, or for one seed, and fail after. The
    method must not pay for it while another of its settings was good.

    Args:
        before: The trials of the rungs before the last.
        last: Those of the last rung, with any seed. A setting fails if one of them does.
    """
    ended = {trial.number: trial.status for trial in last}
    ended |= {trial.number: trial.status for trial in last if trial.status in FAILED}
    latest = {trial.number: trial.status for trial in sorted(before, key=lambda t: t.rung)}
    failed = {number for number, status in latest.items() if status in FAILED}
    for trial in sorted(before, key=lambda t: (-t.rung, -t.objective, t.number)):
        if ended.get(trial.number) == "done":
            return []
        if trial.number not in failed | ended.keys():
            return [trial.number]
    return []


def judge(joint: float, cross: float, effective: float, classes: int) -> tuple[float, bool]:
    """The objective of a trained model, and whether it collapsed.

    It is the mean of the coherences. Collapsed models come last, in the order of their cross
    coherence: a short training of a good setting may look collapsed, and the joint coherence of a
    collapsed model is higher the fewer classes it shows.

    Args:
        joint, cross: Its coherences.
        effective: Effective number of classes among its joint samples.
        classes: Of the data.
    """
    collapsed = effective < classes / 2
    return cross + WORST if collapsed else (joint + cross) / 2, collapsed


def choose_dials(readings: Sequence[Reading], classes: int) -> int:
    """The place of the reading whose dials are best; of equal ones the first.

    It is that of the neutral dials, unless others have more coherence by over one standard error of
    the difference, and images and variety are as `WORST_KID` and `LEAST_RECALL` ask. The items of
    all readings are the same, so that the error, as of independent ones, is rather too large.

    Args:
        readings: The first is of the neutral dials.
        classes: Of the data.
    """
    neutral, best = readings[0], 0
    for place, reading in enumerate(readings):
        gain = reading.coherence - neutral.coherence
        beyond_noise = gain > math.hypot(reading.stderr, neutral.stderr)
        better = reading.coherence > readings[best].coherence
        if beyond_noise and better and _is_as_good(reading, neutral, classes):
            best = place
    return best


def _is_as_good(reading: Reading, neutral: Reading, classes: int) -> bool:
    """Whether images and variety are about as good as at the neutral dials."""
    if reading.classes is not None and reading.classes < classes / 2:
        return False
    kid, recall = neutral.kid, neutral.recall
    if kid is None or recall is None or reading.kid is None or reading.recall is None:
        return True  # no images
    most = kid + (WORST_KID - 1) * abs(kid)  # an unbiased KID may be negative
    return reading.kid <= most and reading.recall >= LEAST_RECALL * recall


def draw(space: Space, before: Sequence[Trial], count: int, seed: int) -> list[dict[str, Any]]:
    """Settings to try next: random ones at first, then by TPE (Bergstra et al. 2011).

    Args:
        space: The values by dotted key.
        before: Finished trials at the first rung.
        count: How many.
        seed: Of the sampler.
    """
    optuna = import_optuna()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    kinds = optuna.distributions
    distributions = {
        key: kinds.CategoricalDistribution(values["choices"])
        if "choices" in values
        else kinds.FloatDistribution(values["low"], values["high"], log=values["log"])
        for key, values in space.items()
    }
    sampler = optuna.samplers.TPESampler(seed=seed % 2**32, n_startup_trials=_RANDOM)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in before:
        study.add_trial(
            optuna.trial.create_trial(
                params=trial.values, distributions=distributions, value=trial.objective
            )
        )
    asked = [study.ask(distributions).params for _ in range(count)]
    return [{key: rounded(params[key]) for key in space} for params in asked]


def import_optuna() -> Any:
    """Optuna, which only tuning needs.

    Raises:
        BenchError: It is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise BenchError("Tuning needs Optuna: pip install 'shala-bench[tune]'.") from error
    return optuna

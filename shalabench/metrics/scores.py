"""Means over items and their standard errors, as scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from shalabench.api import Rng, Score

_DRAWS = 2000
_TAIL = 0.025  # of a 95 % interval, on each side


def mean_score(
    metric: str, items: Tensor, given: tuple[str, ...] = (), target: str | None = None
) -> Score:
    """The mean of items `[n]` and its standard error, None for one item."""
    n = len(items)
    stderr = (items.std() / n**0.5).item() if n > 1 else None
    return Score(metric, items.mean().item(), n, stderr, given, target)


@dataclass(frozen=True)
class Bootstrap:
    """Scores of objects with their bootstrap errors.

    Attributes:
        rng: Draws the bootstrap samples: the same for every metric of as many objects.
        scores: Those added so far.
        intervals: By metric, the 95 % percentile interval over objects.
    """

    rng: Rng
    scores: list[Score] = field(default_factory=list)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add_mean(self, metric: str, objects: Tensor) -> None:
        """Add the mean of values `[n]`; objects without one (NaN) are left out."""
        objects = objects[~objects.isnan()]
        if len(objects):
            self.add(metric, objects, lambda x: x.mean(-1))

    def add(self, metric: str, objects: Tensor, statistic: Callable[[Tensor], Tensor]) -> None:
        """Add a statistic of objects.

        Args:
            metric: Its name.
            objects: `[..., n]`, what is known of each object; finite.
            statistic: Maps resampled objects `[..., R, n]` to `[R]`. If it is not finite for the
                objects themselves, nothing is added.
        """
        n = objects.shape[-1]
        value = statistic(objects[..., None, :])[0].item()
        if not math.isfinite(value):
            return
        stderr = None
        if n > 1:
            draws = self.rng.fork(n).integers(n, _DRAWS, n).to(objects.device)
            replicates = statistic(objects[..., draws])
            replicates = replicates[replicates.isfinite()]
            tails = replicates.new_tensor([_TAIL, 1 - _TAIL])
            low, high = torch.quantile(replicates, tails).tolist()
            stderr, self.intervals[metric] = replicates.std().item(), (low, high)
        self.scores.append(Score(metric, value, n, stderr))

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
_SINGULAR = 1e-9  # a part of the product that counts as no difference


class Clusters:
    """What tuples share, and the standard errors of means over them.

    A tuple is in as many clusters as it has sources, and each source is in several tuples. The
    model is x = mean of the stratum + sum of the effects of its sources + rest, with one variance
    for all effects and one for the rest. Both are estimated by the method of moments (Henderson
    1953), from the sum of squares of the tuples and that of the sources' totals; a negative
    variance of the effects is 0. For sources of equal size, one a tuple, the error is that of the
    sources' means; for several a tuple, that of all pairs of tuples that share a source, in any of
    their modalities (Cameron, Gelbach and Miller 2011; Aronow, Samii and Assenova 2015).

    Why not by inclusion and exclusion: where a tuple has five of 36 scans of its class, half of the
    pairs of tuples share one, and the sum over these pairs has twice the noise
    (tests/metrics/test_clusters.py measures the coverage of 95 % intervals).

    Args:
        sources: `[m, n]`, the numbers of the m sources of each tuple.
        strata: `[n]`, the class of each tuple, where all sources of a tuple have its class. The
            differences between classes then count as those of n independent tuples, and not as
            effects of sources. None: all tuples are of one.
    """

    def __init__(self, sources: Tensor, strata: Tensor | None = None):
        n = sources.shape[1]
        strata = torch.zeros_like(sources[0]) if strata is None else strata
        values, self.sources = sources.unique(return_inverse=True)
        _, self.strata, sizes = strata.unique(return_inverse=True, return_counts=True)
        self.sizes = sizes.double()
        g, c = len(values), len(sizes)
        places = (self.strata * g + self.sources).flatten()
        uses = places.bincount(minlength=c * g).view(c, g).double()  # of a source in a stratum
        self.repeats = g < self.sources.numel()
        self.squares = uses.sum(0).square().sum().item()
        # With Z `[n, g]` of zeros and ones, P what takes the strata's means off and K = Z' P Z:
        # E[x' P x] = rest tr(P) + effect tr(K), E[x' P Z Z' P x] = rest tr(K) + effect |K|^2.
        pairs, both = (self.sources[:, None] * g + self.sources).unique(return_counts=True)
        means = uses / self.sizes.sqrt()[:, None]  # [C, g]; K = Z' Z - means' means
        self.free = n - c
        self.trace = (both[pairs // g == pairs % g].sum() - means.square().sum()).item()
        self.norm = (
            both.double().square().sum()
            - 2 * means[:, self.sources].sum(1).square().sum()
            + (means @ means.T).square().sum()
        ).item()

    def error(self, values: Tensor) -> Tensor | None:
        """Standard error `[...]` of the mean of values `[..., n]`, one a tuple.

        None if the tuples do not tell it: all of a stratum have the same sources.
        """
        determinant = self.free * self.norm - self.trace**2
        if determinant <= _SINGULAR * self.free * self.norm:
            return None
        shape, n = values.shape[:-1], values.shape[-1]
        x = values.double().reshape(-1, n)
        x = x - x.mean(1, keepdim=True)
        means = x.new_zeros(len(x), len(self.sizes)).index_add_(1, self.strata, x) / self.sizes
        between = (means.square() * self.sizes).sum(1)
        x = x - means[:, self.strata]
        totals = x.new_zeros(len(x), int(self.sources.max()) + 1)
        for source in self.sources:
            totals.index_add_(1, source, x)
        tuples, shared = x.square().sum(1), totals.square().sum(1)
        effect = ((self.free * shared - self.trace * tuples) / determinant).clamp(min=0)
        rest = (tuples - effect * self.trace) / self.free
        return ((rest * n + effect * self.squares + between).sqrt() / n).view(shape)


def mean_score(
    metric: str,
    items: Tensor,
    given: tuple[str, ...] = (),
    target: str | None = None,
    clusters: Clusters | None = None,
    n: int | None = None,
) -> Score:
    """The mean of items and its standard error.

    Args:
        metric: Its name.
        items: `[n]`, numbers, or bool for what is right or wrong.
        given, target: As in `Score`.
        clusters: What the items share. None, or if they share nothing: they are independent, and
            the error is binomial for bool and None for one item.
        n: Number of items that the score states, if they are not all distinct.
    """
    values, count = items.double() if items.dtype == torch.bool else items, len(items)
    value, stderr = values.mean().item(), None
    if clusters is not None and clusters.repeats:
        error = clusters.error(values)
        stderr = None if error is None else error.item()
    elif items.dtype == torch.bool:
        stderr = (value * (1 - value) / count) ** 0.5
    elif count > 1:
        stderr = (values.std() / count**0.5).item()
    return Score(metric, value, n or count, stderr, given, target)


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

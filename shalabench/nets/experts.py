"""Products and mixtures of unimodal posteriors, vectorised over subsets of modalities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor
from torch.distributions import Normal

from shalabench.api import DataSpec, Rng
from shalabench.nets.posteriors import Posterior, draw
from shalabench.nets.precision import autocast_off

_GUARD = 1e-8  # Added to every variance before it is inverted, as in the published code.


def _check_experts(value: Any) -> Any:
    if value == "all" or (type(value) is int and value >= 1):
        return value
    raise ValueError("write 'all', or a number of experts from 1 to the number of modalities")


Experts = Annotated[Literal["all"] | int, BeforeValidator(_check_experts)]
"""Experts of a mixture that each tuple of an update samples: all, or k drawn at random."""


@dataclass(frozen=True)
class Choice:
    """The experts of a mixture that each tuple samples.

    Attributes:
        which: Their numbers, `[k, B]`, or `[M, 1]` if they are all experts in order.
        present: Those that count, `[B, k]` bool; None for all.
        everyone: Whether they are all experts in order.
    """

    which: Tensor
    present: Tensor | None
    everyone: bool = False

    def pick(self, experts: Posterior) -> Posterior:
        """Their posteriors `[k, B, D]`, from those of all experts `[M, B, D]`."""
        if self.everyone:
            return experts
        index = self.which.unsqueeze(-1).expand(-1, -1, experts.mean.shape[-1])
        mean, scale = experts.mean.gather(0, index), experts.scale.gather(0, index)
        return type(experts)(mean, scale, validate_args=False)


def choose_experts(
    experts: Experts, q: Posterior, rng: Rng, present: Tensor | None = None
) -> Choice:
    """Choose the experts that each tuple samples.

    A number k of them is drawn evenly and without replacement from the present experts of each
    tuple, so the mean over them has the expectation of the mean over all present experts. A tuple
    with fewer than k present experts has all of them.

    Args:
        experts: "all", or k, at most M.
        q: The posteriors of all, batch shape `[M, B, D]`.
        rng: Randomness of the choice, which other draws do not see.
        present: `[B, M]` bool; None is all present.
    """
    modalities, batch = q.mean.shape[:2]
    if experts == "all":
        return Choice(torch.arange(modalities, device=q.mean.device)[:, None], present, True)
    keys = rng.fork("experts").uniform(batch, modalities)
    if present is not None:
        keys = keys.masked_fill(~present, -1.0)
    which = keys.topk(experts, 1).indices  # [B, k]
    return Choice(which.T, None if present is None else present.gather(1, which))


def refuse_experts(spec: DataSpec, experts: Experts) -> str | None:
    """Why a mixture over the data's modalities has not so many experts; None where it has."""
    modalities = len(spec.modalities)
    if experts == "all" or experts <= modalities:
        return None
    return (
        f"model.experts is {experts}, but the data have {modalities} modalities; "
        f"use 1 to {modalities}, or all."
    )


def stack_posteriors(posteriors: Sequence[Posterior]) -> Posterior:
    """M posteriors `[B, D]` of one family as one of batch shape `[M, B, D]`."""
    mean = torch.stack([q.mean for q in posteriors])
    scale = torch.stack([q.scale for q in posteriors])
    return type(posteriors[0])(mean, scale, validate_args=False)


def subsets(modalities: int, device: torch.device | None = None) -> Tensor:
    """All non-empty subsets of M modalities, the full set last: `[2^M - 1, M]` bool."""
    numbers = torch.arange(1, 2**modalities, device=device)
    return (numbers[:, None] >> torch.arange(modalities, device=device)) & 1 == 1


def product_of_experts(experts: Posterior, powers: Tensor, prior: Tensor | float) -> Normal:
    """Normalised products of powers of Gaussians and of N(0, I), for several subsets at once.

    The density is proportional to prod_m q_m^a_m N(0, I)^b (Wu and Goodman 2018, section 2). With
    powers that sum to 1 it is the geometric mean of Sutter et al. 2020, section 3.2.

    Args:
        experts: Batch shape `[M, B, D]`; others than Gaussians count by their mean and variance.
        powers: a, `[S, M]`, or `[S, B, M]` if items differ; 0 leaves an expert out.
        prior: b, a number, `[S]` or `[S, B]`.

    Returns:
        Batch shape `[S, B, D]`.
    """
    precision = 1 / (experts.variance + _GUARD)  # [M, B, D]
    powers = powers.to(precision)
    if powers.dim() == 2:
        powers = powers[:, None].expand(-1, precision.shape[1], -1)
    own = prior.to(precision) if isinstance(prior, Tensor) else precision.new_full((), prior)
    own = own.reshape(*own.shape, *(1,) * (3 - own.dim())) / (1 + _GUARD)
    with autocast_off(precision):
        total = torch.einsum("sbm,mbd->sbd", powers, precision) + own
        mean = torch.einsum("sbm,mbd->sbd", powers, precision * experts.mean) / total
    return Normal(mean, total.rsqrt(), validate_args=False)


def product_of_all(experts: Posterior, prior: float) -> Normal:
    """The product `[B, D]` of all experts `[M, B, D]` and of N(0, I) to the power `prior`."""
    powers = torch.ones(1, len(experts.mean), device=experts.mean.device)
    product = product_of_experts(experts, powers, prior)
    return Normal(product.mean[0], product.scale[0], validate_args=False)


def mixture_log_prob(experts: Posterior, z: Tensor, present: Tensor | None = None) -> Tensor:
    """Log-density of the equally weighted mixture of M experts in nats (Shi et al. 2019, eq. 2).

    Args:
        experts: The unimodal posteriors stacked, batch shape `[M, B, D]`.
        z: Latents `[..., B, D]`.
        present: `[B, M]` bool, the experts of each item's mixture, at least one; None for all.

    Returns:
        `[..., B]`.
    """
    modalities = experts.mean.shape[0]
    spread = z.unsqueeze(-3)  # [..., 1, B, D] against [M, B, D]
    densities = experts.log_prob(spread).sum(-1)  # [..., M, B]
    if present is None:
        return densities.logsumexp(-2) - math.log(modalities)
    densities = densities.masked_fill(~present.T, -math.inf)
    return densities.logsumexp(-2) - present.sum(1).to(densities.dtype).log()


def draw_mixture(experts: dict[str, Posterior], rng: Rng) -> Tensor:
    """One sample `[B, D]` of the equally weighted mixture of posteriors `[B, D]`.

    Args:
        experts: By modality.
        rng: Choice of the expert, and noise of each expert.
    """
    draws = torch.stack([draw(q, rng.fork(name))[0] for name, q in experts.items()])  # [M, B, D]
    items = draws.shape[1]
    which = rng.fork("expert").integers(len(draws), items)
    return draws[which, torch.arange(items, device=which.device)]


def choose_components(weights: Tensor, rng: Rng) -> Tensor:
    """A component for each item, drawn by weight: `[B]` int64.

    Args:
        weights: `[S, B]`, at least 0; they need not sum to 1.
        rng: Randomness of the choice.
    """
    heights = weights.cumsum(0)
    level = rng.uniform(weights.shape[1]) * heights[-1]
    return (heights <= level).sum(0).clamp(max=len(weights) - 1)


def sliced_components(count: int, items: int, device: torch.device | None = None) -> Tensor:
    """A component for each item by its position, in equal slices with the rest in the last.

    The code of mmJSD and MoPoE divides a batch this way (reproduction/pitfalls.md, trap 14).

    Returns:
        `[B]` int64.
    """
    slice_ = items // count
    if not slice_:
        return torch.full((items,), count - 1, device=device)
    return (torch.arange(items, device=device) // slice_).clamp(max=count - 1)


def pick(components: Normal, which: Tensor) -> Normal:
    """Select a component for each item: batch shape `[S, B, D]` and `[B]` to `[B, D]`."""
    items = torch.arange(len(which), device=which.device)
    return Normal(components.mean[which, items], components.scale[which, items], False)

"""Products and mixtures of unimodal posteriors, vectorised over subsets of modalities."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.distributions import Normal

from shalabench.api import Rng
from shalabench.nets.posteriors import Posterior, draw

_GUARD = 1e-8  # Added to every variance before it is inverted, as in the published code.


def stack_posteriors(posteriors: Sequence[Posterior]) -> Posterior:
    """M posteriors `[B, D]` of one family as one of batch shape `[M, B, D]`."""
    mean = torch.stack([q.mean for q in posteriors])
    scale = torch.stack([q.scale for q in posteriors])
    return type(posteriors[0])(mean, scale, validate_args=False)


def subsets(modalities: int, device: torch.device | None = None) -> Tensor:
    """All non-empty subsets of M modalities, the full set last: `[2^M - 1, M]` bool."""
    numbers = torch.arange(1, 2**modalities, device=device)
    return (numbers[:, None] >> torch.arange(modalities, device=device)) & 1 == 1


def product_of_experts(experts: Normal, powers: Tensor, prior: Tensor | float) -> Normal:
    """Normalised products of powers of Gaussians and of N(0, I), for several subsets at once.

    The density is proportional to prod_m q_m^a_m N(0, I)^b (Wu and Goodman 2018, section 2). With
    powers that sum to 1 it is the geometric mean of Sutter et al. 2020, section 3.2.

    Args:
        experts: Batch shape `[M, B, D]`.
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
    total = torch.einsum("sbm,mbd->sbd", powers, precision) + own
    mean = torch.einsum("sbm,mbd->sbd", powers, precision * experts.mean) / total
    return Normal(mean, total.rsqrt(), validate_args=False)


def product_of_all(experts: Normal, prior: float) -> Normal:
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

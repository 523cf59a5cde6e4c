"""Poolings: the Gaussian experts of each subset of modalities as one Gaussian posterior.

All are computed in float32 (float64 for float64), whatever the arithmetic of training.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable
from torch.distributions import Normal

from shalabench.api import DataSpec
from shalabench.nets.experts import product_of_experts
from shalabench.nets.posteriors import Posterior
from shalabench.nets.precision import autocast_off

Pooling = Literal["product", "product-prior", "consensus", "barycentre", "hellinger"]
MOST = 10  # Modalities of which all 1,023 subsets are trained.


def pool(experts: Posterior, members: Tensor, pooling: Pooling, rho: float = 0.0) -> Normal:
    """The pooled posterior of each subset. A set without members has N(0, I).

    - product, product-prior: of the members' densities, with or without that of N(0, I).
    - consensus: the best linear unbiased combination of the members' means, as measurements of one
      quantity with errors that are correlated by `rho` (Winkler 1981). It has O(M) terms, and
      rho = 0 is the product. A member's weight is negative where its scale is large, so a mean may
      leave the range of the members' means.
    - barycentre: of the members in the 2-Wasserstein distance: the averages of their means and of
      their scales.
    - hellinger: the moments of the density proportional to (sum_m sqrt q_m)^2, in O(M^2) terms.

    Args:
        experts: Batch shape `[M, B, D]`.
        members: `[S, M]` bool, or `[S, B, M]` if items differ.
        pooling: The rule.
        rho: Above -1 / (M - 1) and below 1; only for consensus.

    Returns:
        Batch shape `[S, B, D]`.

    Raises:
        TypeError: Experts are not Gaussian.
    """
    if not isinstance(experts, Normal):
        raise TypeError(
            f"The pooling '{pooling}' takes Gaussian experts, not those of "
            f"{type(experts).__name__}; use the family 'normal'."
        )
    if members.dim() == 2:
        members = members[:, None].expand(-1, experts.mean.shape[1], -1)
    with autocast_off(members):
        if pooling in ("product", "product-prior"):
            alone = torch.ones_like(members[..., 0]) if pooling != "product" else ~members.any(-1)
            return product_of_experts(experts, members, alone.float())
        if pooling == "consensus":
            mean, scale = _consensus(experts, members, rho)
        else:
            mean, scale = (_barycentre if pooling == "barycentre" else _hellinger)(experts, members)
        there = members.any(-1, keepdim=True)  # [S, B, 1]
        return Normal(mean.where(there, 0.0), scale.where(there, 1.0), validate_args=False)


def pool_all(
    experts: Posterior, pooling: Pooling, rho: float = 0.0, there: Tensor | None = None
) -> Normal:
    """The pooled posterior `[B, D]` of all experts, or of those that are `there`, `[M, B]` bool."""
    if there is None:
        everyone = torch.ones(1, len(experts.mean), dtype=torch.bool, device=experts.mean.device)
    else:
        everyone = there.T[None]
    pooled = pool(experts, everyone, pooling, rho)
    return Normal(pooled.mean[0], pooled.scale[0], validate_args=False)


def _sums(members: Tensor, *values: Tensor) -> list[Tensor]:
    """The sums `[S, B, D]` over the members of values `[M, B, D]`."""
    weights = members.to(values[0])
    return [torch.einsum("sbm,mbd->sbd", weights, value) for value in values]


def _consensus(experts: Normal, members: Tensor, rho: float) -> tuple[Tensor, Tensor]:
    """With t = 1 / scale and k = rho / (1 + (n - 1) rho), member i has the precision

    u_i = (t_i^2 - k t_i sum_j t_j) / (1 - rho), the row sum of the covariance's inverse.
    """
    count = members.sum(-1, keepdim=True)  # [S, B, 1]
    k = rho / (1 + (count - 1) * rho)
    t = 1 / experts.scale
    linear, square, shift, pull = _sums(members, t, t**2, t * experts.mean, t**2 * experts.mean)
    precision = square - k * linear**2 + (count == 0)  # times 1 - rho
    mean = (pull - k * linear * shift) / precision
    return mean, ((1 - rho) / precision).sqrt()


def _barycentre(experts: Normal, members: Tensor) -> tuple[Tensor, Tensor]:
    count = members.sum(-1, keepdim=True).clamp(min=1)
    mean, scale = _sums(members, experts.mean, experts.scale)
    return mean / count, scale / count


def _hellinger(experts: Normal, members: Tensor) -> tuple[Tensor, Tensor]:
    """The moments of (sum_m sqrt q_m)^2 over the members."""
    means, variances, logs, (i, j) = _components(experts)
    counted = torch.cat([members, members[..., i] & members[..., j]], -1)  # [S, B, K]
    # The least number, not minus infinity: an empty set must not make a gradient NaN.
    weights = logs.T.masked_fill(~counted, torch.finfo(logs.dtype).min).softmax(-1)
    centre = torch.einsum("sbk,kbd->sbd", weights, means)
    within = torch.einsum("sbk,kbd->sbd", weights, variances)
    variance = within + _Spread.apply(weights, means, centre.detach())
    return centre, variance.sqrt()


def hoelder_mixture(experts: Posterior, there: Tensor | None = None) -> tuple[Normal, Tensor]:
    """The mixture that is proportional to (sum_m sqrt q_m)^2, without approximation.

    Its components are the M experts, then the normalised sqrt(q_i q_j) of the pairs i < j in the
    order of `pairs_of`.

    Args:
        experts: Gaussian, batch shape `[M, B, D]`.
        there: The experts that are mixed, `[M, B]` bool, at least one of each item; None for all.

    Returns:
        The components, batch shape `[K, B, D]` with K = M (M + 1) / 2, and the logarithms of their
        weights `[K, B]`, which are very low where an expert is not there.
    """
    with autocast_off(experts.mean):
        means, variances, logs, (i, j) = _components(experts)
        if there is not None:
            counted = torch.cat([there, there[i] & there[j]])
            logs = logs.masked_fill(~counted, torch.finfo(logs.dtype).min)
        return Normal(means, variances.sqrt(), validate_args=False), logs.log_softmax(0)


def hoelder_log_prob(experts: Posterior, z: Tensor, there: Tensor | None = None) -> Tensor:
    """Log-density of `hoelder_mixture` in nats, `[..., B]` at latents `[..., B, D]`.

    It is 2 ln sum_m sqrt q_m(z) - ln (M + 2 sum_{i<j} S_ij).
    """
    half = 0.5 * experts.log_prob(z.unsqueeze(-3)).sum(-1)  # [..., M, B]
    logs = _components(experts)[2]
    if there is not None:
        i, j = pairs_of(len(there), there.device)
        half = half.masked_fill(~there, -math.inf)
        logs = logs.masked_fill(~torch.cat([there, there[i] & there[j]]), -math.inf)
    return 2 * half.logsumexp(-2) - logs.logsumexp(0)


def pairs_of(modalities: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """The smaller and the larger number of each pair i < j of M modalities, `[P]` each."""
    i, j = torch.triu_indices(modalities, modalities, 1, device=device)
    return i, j


def _components(experts: Posterior) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """(sum_m sqrt q_m)^2 is sum_m q_m + 2 sum_{i<j} S_ij N(m_ij, v_ij).

    Returns:
        Means and variances `[K, B, D]`, the logarithms of the factors `[K, B]`, and the pairs.
    """
    mean, v = experts.mean, experts.variance
    (i, j), gap, both, between = _pairs(experts)  # [P, B, D] each
    means = torch.cat([mean, mean[i] + gap * v[i] / both])  # [K, B, D]
    logs = torch.cat(
        [torch.zeros_like(mean[..., 0]), math.log(2) + _log_overlaps(gap, both, between)]
    )
    return means, torch.cat([v, between]), logs, (i, j)


def log_overlaps(experts: Posterior) -> Tensor:
    """ln S_ij, the log Bhattacharyya coefficient of each pair i < j of experts, `[P, B]`.

    It is a sum over dimensions, so experts of a large latent hardly overlap: -D / 8 where they have
    unit scales and means that differ by 1.

    Args:
        experts: Batch shape `[M, B, D]`.
    """
    return _log_overlaps(*_pairs(experts)[1:])


def _log_overlaps(gap: Tensor, both: Tensor, between: Tensor) -> Tensor:
    return (0.25 * (2 * between / both).log() - gap**2 / (4 * both)).sum(-1)


def _pairs(experts: Posterior) -> tuple[tuple[Tensor, Tensor], Tensor, Tensor, Tensor]:
    """Numbers of the pairs, and m_j - m_i, v_i + v_j and v_ij, `[P, B, D]` each."""
    modalities, mean, v = len(experts.mean), experts.mean, experts.variance
    i, j = pairs_of(modalities, mean.device)
    v_i, v_j = v[i], v[j]
    both = v_i + v_j
    return (i, j), mean[j] - mean[i], both, 2 * v_i * v_j / both


class _Spread(Function):
    """sum_k w_k (m_k - c)^2 where c = sum_k w_k m_k, subset by subset.

    Autograd would keep its S K B D squares. The gradient for c is zero, as the weights sum to 1.

    Args:
        weights: `[S, B, K]`.
        means: `[K, B, D]`.
        centres: `[S, B, D]`.
    """

    @staticmethod
    def forward(ctx: Any, weights: Tensor, means: Tensor, centres: Tensor) -> Tensor:
        ctx.save_for_backward(weights, means, centres)
        sums = [
            torch.einsum("bk,kbd->bd", w, (means - c) ** 2)
            for w, c in zip(weights, centres, strict=True)
        ]
        return torch.stack(sums)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        weights, means, centres = ctx.saved_tensors
        for_weights, for_means = [], torch.zeros_like(means)
        for w, c, g in zip(weights, centres, grad, strict=True):
            apart = means - c  # [K, B, D]
            for_weights.append(torch.einsum("bd,kbd->bk", g, apart**2))
            for_means += 2 * w.T[..., None] * g * apart
        return torch.stack(for_weights), for_means, None


def refuse_rho(spec: DataSpec, rho: float) -> str | None:
    """Why experts of the data's modalities cannot be correlated by `rho`; None where they can."""
    modalities = len(spec.modalities)
    low = -1 / (modalities - 1) if modalities > 1 else -math.inf
    if low < rho < 1:
        return None
    nearest = (math.floor(100 * low) + 1) / 100 if rho <= low else 0.99
    return (
        f"model.rho is {rho:g}, but the data have {modalities} modalities, whose experts can be "
        f"correlated by more than {low:.4g} and less than 1; the nearest value with two decimals "
        f"is {nearest:g}."
    )


def refuse_subsets(spec: DataSpec, instead: str, most: int = MOST) -> str | None:
    """Why not all subsets of the data's modalities can be trained; None where they can.

    Args:
        spec: Of the data.
        instead: What to do, as an imperative without a full stop.
        most: Modalities of which all subsets can be trained.
    """
    count = len(spec.modalities)
    if count <= most:
        return None
    return (
        f"It trains all 2^M - 1 subsets of M modalities, of which M is {count}: {2**count - 1:,} "
        f"subsets. At most {2**most - 1:,} (M = {most}) can be trained. {instead}."
    )

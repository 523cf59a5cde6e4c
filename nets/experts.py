"""Mixtures of unimodal posteriors as joint posteriors."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.api import Rng
from nets.posteriors import Posterior, draw


def mixture_log_prob(experts: Posterior, z: Tensor, present: Tensor | None = None) -> Tensor:
    """Log-density of the equally weighted mixture of M experts, in nats (Shi et al. 2019, eq. 2).

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
        rng: Which expert, and each one's noise.
    """
    draws = torch.stack([draw(q, rng.fork(name))[0] for name, q in experts.items()])  # [M, B, D]
    items = draws.shape[1]
    which = rng.fork("expert").integers(len(draws), items)
    return draws[which, torch.arange(items, device=which.device)]

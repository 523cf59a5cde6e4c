"""Mixtures of unimodal posteriors as joint posteriors."""

from __future__ import annotations

import math

from torch import Tensor

from nets.posteriors import Posterior


def mixture_log_prob(experts: Posterior, z: Tensor) -> Tensor:
    """Log-density of the equally weighted mixture of M experts, in nats (Shi et al. 2019, eq. 2).

    Args:
        experts: The unimodal posteriors stacked, batch shape `[M, B, D]`.
        z: Latents `[..., B, D]`.

    Returns:
        `[..., B]`.
    """
    modalities = experts.mean.shape[0]
    spread = z.unsqueeze(-3)  # [..., 1, B, D] against [M, B, D]
    densities = experts.log_prob(spread).sum(-1)  # [..., M, B]
    return densities.logsumexp(-2) - math.log(modalities)

"""Importance-weighted bounds over the experts of a mixture, and their gradients.

Where tuples miss modalities, `present` `[B, M]` says whose experts count; None is all of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shalabench.nets.posteriors import Posterior


def importance_bound(log_w: Tensor, present: Tensor | None = None) -> Tensor:
    """The bound from log weights `[M, K, B]` in nats, a scalar (Burda et al. 2016, eq. 8).

    The looser of Shi et al. 2019: the mean over experts is taken outside of the logarithm.
    """
    return expert_mean(log_w.logsumexp(1) - math.log(log_w.shape[1]), present)


def doubly_reparametrised(
    log_w: Tensor, draws: tuple[Tensor, ...], present: Tensor | None = None
) -> Tensor:
    """The doubly reparametrised surrogate (Tucker et al. 2019): only its gradient counts.

    MMVAE's paper has it for K > 1 and the mixture, where it is biased for the shared latent: the
    weights are normalised over the draws of one expert, the density is that of all. It has the
    plain gradient's expectation for K = 1, and for beta = 1 on the private latents.

    Args:
        log_w: Log weights `[M, K, B]` whose posteriors are detached.
        draws: The samples `[M, K, B, D]` in them, on whose way to the encoders weights are squared.
        present: `[B, M]` bool, or None.

    Returns:
        A scalar to ascend.
    """
    weights = log_w.detach().softmax(1)  # [M, K, B]
    for sample in draws:
        if sample.requires_grad:
            sample.register_hook(lambda grad: weights.unsqueeze(-1) * grad)
    return expert_mean((weights * log_w).sum(1), present)


def expert_mean(x: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean of `[M, ..., B]` over each tuple's present experts, then over the rest; a scalar."""
    if present is None:
        return x.mean()
    there = present.T.reshape(len(x), *(1,) * (x.dim() - 2), -1)  # [M, 1.., B]
    return (torch.where(there, x, 0.0).sum(0) / there.sum(0)).mean()


def detached(q: Posterior) -> Posterior:
    """The posterior, cut off from the encoder."""
    return type(q)(q.mean.detach(), q.scale.detach(), validate_args=False)

"""Importance-weighted bounds over the experts of a mixture, and their gradients.

If tuples miss modalities, `present` `[B, M]` marks the experts that count; None is all of them.
M is the number of experts that each tuple samples, which may be fewer than the mixture has.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from shalabench.nets.posteriors import Posterior


def importance_bound(log_w: Tensor, present: Tensor | None = None) -> Tensor:
    """The bound from log weights `[M, K, B]` in nats, a scalar (Burda et al. 2016, eq. 8).

    This is the looser bound of Shi et al. 2019: the mean over experts is outside of the logarithm.
    """
    return expert_mean(log_w.logsumexp(1) - math.log(log_w.shape[1]), present)


def doubly_reparametrised(
    log_w: Tensor, draws: tuple[Tensor, ...], present: Tensor | None = None
) -> Tensor:
    """The doubly reparametrised surrogate (Tucker et al. 2019), of which only the gradient counts.

    MMVAE's paper uses it for K > 1 with the mixture. There it is biased for the shared latent,
    because weights are normalised over the draws of one expert and the density is that of all. For
    K = 1, and for private latents with beta = 1, it has the expectation of the plain gradient.

    Args:
        log_w: Log weights `[M, K, B]` whose posteriors are detached.
        draws: The samples `[M, K, B, D]` in them; their gradients are weighted a second time.
        present: `[B, M]` bool, or None.

    Returns:
        A scalar to maximise.
    """
    weights = log_w.detach().softmax(1)  # [M, K, B]
    for sample in draws:
        if sample.requires_grad:
            sample.register_hook(lambda grad: weights.unsqueeze(-1) * grad)
    return expert_mean((weights * log_w).sum(1), present)


def expert_mean(x: Tensor, present: Tensor | None = None) -> Tensor:
    """Mean of `[M, ..., B]` over each tuple's present experts, then over the other axes."""
    if present is None:
        return x.mean()
    there = present.T.reshape(len(x), *(1,) * (x.dim() - 2), -1)  # [M, 1.., B]
    return (torch.where(there, x, 0.0).sum(0) / there.sum(0)).mean()


def detached(q: Posterior) -> Posterior:
    """The posterior without gradients to the encoder."""
    return type(q)(q.mean.detach(), q.scale.detach(), validate_args=False)

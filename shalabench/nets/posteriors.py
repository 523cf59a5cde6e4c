"""Unimodal posteriors: heads from features to distributions, and reparametrised samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributions import Laplace, Normal

from shalabench.api import Rng
from shalabench.nets.precision import widen
from shalabench.nets.stacked import follow, stacks

Posterior = Normal | Laplace
_FLOOR = 1e-6  # Keeps a scale positive if its softmax underflows (the published code's guard).


class NormalHead(nn.Module):
    """Maps features `[B, F]` to a Gaussian with mean and log-variance `[B, D]`."""

    def __init__(self, features: int, dim: int):
        super().__init__()
        self.mean, self.log_var = nn.Linear(features, dim), nn.Linear(features, dim)

    def forward(self, features: Tensor) -> Normal:
        log_var = widen(self.log_var(features)).clamp(-20, 20)
        return Normal(widen(self.mean(features)), (0.5 * log_var).exp(), validate_args=False)


class LaplaceHead(nn.Module):
    """Maps features `[B, F]` to a Laplace distribution with mean and scale `[B, D]`.

    The scales are D times a softmax over the dimensions, so they sum to D (Shi et al. 2019, code).
    """

    def __init__(self, features: int, dim: int):
        super().__init__()
        self.mean, self.raw = nn.Linear(features, dim), nn.Linear(features, dim)

    def forward(self, features: Tensor) -> Laplace:
        scale = softmax_scale(widen(self.raw(features)))
        return Laplace(widen(self.mean(features)), scale, validate_args=False)


@stacks(NormalHead)
def _normal_heads(heads: Sequence[NormalHead], features: Tensor) -> Normal:
    log_var = widen(follow([head.log_var for head in heads], features)).clamp(-20, 20)
    mean = widen(follow([head.mean for head in heads], features))
    return Normal(mean, (0.5 * log_var).exp(), validate_args=False)


@stacks(LaplaceHead)
def _laplace_heads(heads: Sequence[LaplaceHead], features: Tensor) -> Laplace:
    scale = softmax_scale(widen(follow([head.raw for head in heads], features)))
    return Laplace(widen(follow([head.mean for head in heads], features)), scale, False)


def softmax_scale(raw: Tensor) -> Tensor:
    """Scales `[..., D]` that sum to D, from raw values of the same shape."""
    return raw.softmax(-1) * raw.shape[-1] + _FLOOR


def draw(posterior: Posterior, rng: Rng, samples: int = 1) -> Tensor:
    """Draw reparametrised samples.

    Args:
        posterior: Batch shape `[B, D]`.
        rng: Noise of the samples.
        samples: K, the number of samples for each item.

    Returns:
        `[K, B, D]`.
    """
    batch, dim = posterior.mean.shape
    kind = rng.laplace if isinstance(posterior, Laplace) else rng.normal
    noise = kind(batch, samples, dim).transpose(0, 1)  # [K, B, D]
    return posterior.mean + posterior.scale * noise


def kl_to_standard(posterior: Normal) -> Tensor:
    """KL(q || N(0, I)) in nats, `[B]`."""
    standard = Normal(
        torch.zeros_like(posterior.mean), torch.ones_like(posterior.scale), validate_args=False
    )
    return torch.distributions.kl_divergence(posterior, standard).sum(-1)

"""Shared and private latents: every expert's draw is decoded for every modality.

The private latent of the expert reaches its own modality's decoder only; every other decoder gets
a draw of an auxiliary prior (Palumbo et al. 2023, eq. 8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from harness.api import DataSpec, Views
from nets.backbones import decode_many
from nets.likelihoods import log_likelihood
from nets.posteriors import Posterior

Noise = Callable[..., Tensor]
"""`rng.normal` or `rng.laplace`: a shape, items first, to standard noise."""


def stack_posteriors(posteriors: Sequence[Posterior]) -> Posterior:
    """M posteriors `[B, D]` of one family as one of batch shape `[M, B, D]`."""
    mean = torch.stack([q.mean for q in posteriors])
    scale = torch.stack([q.scale for q in posteriors])
    return type(posteriors[0])(mean, scale, validate_args=False)


def draw_experts(experts: Posterior, noise: Noise, samples: int) -> Tensor:
    """Reparametrised samples `[M, K, B, D]` of stacked posteriors `[M, B, D]`.

    Args:
        experts: The posteriors.
        noise: Standard noise of their family.
        samples: K, the number of samples of each expert for each item.
    """
    modalities, batch, dim = experts.mean.shape
    drawn = _expert_noise(noise, modalities, samples, batch, dim)
    return experts.mean[:, None] + experts.scale[:, None] * drawn


def cross_log_likelihoods(
    spec: DataSpec,
    decoders: nn.ModuleDict,
    views: Views,
    latents: tuple[Tensor, Tensor],
    scales: Tensor,
    noise: Noise,
) -> list[Tensor]:
    """Log p(x_n | z, w) of every target n under every expert's draw, without modality weights.

    Args:
        spec: The modalities.
        decoders: By modality, from private and shared latent together `[N, Dw + Dz]`.
        views: All modalities, `[B, ...]` each.
        latents: The experts' draws z `[M, K, B, Dz]` and w `[M, K, B, Dw]`.
        scales: `[M, Dw]`, of the zero-mean auxiliary prior r_n that stands in for w in decoder n
            where the draw is another expert's.
        noise: Standard noise of that prior's family; a fresh draw for every ordered pair.

    Returns:
        For each target in the order of `spec`, `[M, K, B]` in nats.
    """
    z, w = latents
    modalities, samples, batch, dim = w.shape
    densities = []
    for n, modality in enumerate(spec.modalities):
        private = scales[n] * _expert_noise(noise, modalities, samples, batch, dim)
        chosen = torch.arange(modalities, device=w.device).view(-1, 1, 1, 1) == n
        private = torch.where(chosen, w, private)
        output = decode_many(decoders[modality.name], torch.cat([private, z], -1))
        densities.append(log_likelihood(modality, output, views[modality.name]))
    return densities


def _expert_noise(noise: Noise, modalities: int, samples: int, batch: int, dim: int) -> Tensor:
    """`[M, K, B, D]`, drawn with the items first."""
    drawn = noise(batch, modalities * samples * dim).view(batch, modalities, samples, dim)
    return drawn.permute(1, 2, 0, 3)

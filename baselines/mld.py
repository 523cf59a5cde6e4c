"""Multi-modal Latent Diffusion, MLD (Bounoua, Franzese, Michiardi, Entropy 2024).

Deterministic autoencoders, one a modality, and one diffusion over their latents that is trained to
denoise any subset given the rest, kept clean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shalabench.api import DataSpec, Optimiser, Rng, Settings, Views, register_model, setting
from shalabench.nets.backbones import Network
from shalabench.nets.latents import DiffusedLatents, LatentDiffusionConfig

_CODE = "MLD code (MustaphaBounoua/MLD, experiments/mmnist)"


class MLDPriorConfig(LatentDiffusionConfig):
    """Settings of the second stage."""

    steps: int = setting(702_000, "Updates.", f"{_CODE}: 3000 epochs of 60,000 at 256", ge=1)
    batch_size: int = setting(256, "Latents an update.", _CODE, ge=1)
    optimiser: Optimiser = Optimiser(lr=1e-4)
    ema: float = setting(0.999, "Decay of the averaged weights; 0 for none.", _CODE, ge=0, lt=1)
    width: int = setting(1536, "Units of the denoiser's layers.", f"{_CODE}: init_dim", ge=8)
    sampling_steps: int = setting(250, "Steps of the reverse process.", f"{_CODE}: N_step", ge=1)
    joint: float = setting(
        0.8,
        "Probability of denoising all modalities together, with none kept clean.",
        f"{_CODE}: d = 0.2 is there the probability of the contrary",
        ge=0,
        le=1,
    )


class MLDConfig(Settings):
    """Settings of both stages, with those of the published PolyMNIST experiment as defaults."""

    network: Network = Network(family="conv")
    latent_dim: int = setting(160, "D, size of each modality's latent.", _CODE, ge=1)
    steps: int = setting(
        140_400, "Updates of the autoencoders.", f"{_CODE}: 300 epochs of 60,000 at 128", ge=1
    )
    batch_size: int = setting(128, "Tuples an update of the autoencoders.", _CODE, ge=1)
    optimiser: Optimiser = Optimiser(lr=1e-3)
    prior: MLDPriorConfig = MLDPriorConfig()


@register_model(
    "mld",
    paper="Bounoua, Franzese, Michiardi: Multi-modal Latent Diffusion (Entropy 2024)",
    version=1,
)
class MLD(DiffusedLatents):
    """Autoencoders apart; a denoiser told the time of each modality: 0 for those that are given.

    Differences from the authors' code. The variance-preserving diffusion (beta from 0.1 to 20) is
    in T discrete steps. Their denoiser is a U-shaped multilayer perceptron; here it is ShaLa's, for
    equal capacity. Each item of a batch draws its own kept subset; theirs draws one a batch.
    Sampling goes back once; theirs repeats every ten steps ten times (RePaint). Latents are
    standardised by the whole training split, not by its first batch. Times are uniform, as in their
    experiments; importance-sampled ones, which their code can draw, are not contained. Incomplete
    tuples, which their code does not treat, keep the time T and pure noise in place of an absent
    latent.
    """

    Config = MLDConfig

    def __init__(self, spec: DataSpec, config: MLDConfig):
        super().__init__(spec, config, variational=False)

    def draw_kept(self, n: int, rng: Rng, there: Tensor | None = None) -> Tensor:
        """The modalities kept clean in an update, a random subset an item.

        None with the probability `joint`, else uniformly one of the 2^M - 2 proper, non-empty
        subsets, cut to the modalities that are there; none where that would keep them all.

        Args:
            n: B.
            rng: One stream an item.
            there: `[B, M]` bool; None where all are.

        Returns:
            `[B, M]` bool.
        """
        modalities = len(self.spec.modalities)
        # The digits of a number: uniform up to 23 modalities, the random numbers' 23 bits.
        number = 1 + rng.integers(2**modalities - 2, n)
        digits = torch.arange(modalities, device=number.device)
        kept = (number[:, None] >> digits) % 2 == 1
        kept &= rng.uniform(n, 1) >= self.config.prior.joint
        if there is None:
            return kept
        kept &= there
        return kept & (there & ~kept).any(1, keepdim=True)

    def complete(self, given: Views, n: int, rng: Rng) -> Tensor:
        """Latents `[n, M, D]` of all modalities: those given, and samples of the others."""
        diffusion, device = self.diffusion, self.diffusion.mean.device
        kept = self.coders.given(given, device)
        if not given:
            return diffusion.generate(n, rng, diffusion.denoise(kept))
        latents = self.coders.encode(given)
        if kept.all():
            return latents
        clean = diffusion.standardise(latents)

        def hold(z: Tensor, t: int) -> Tensor:
            return torch.where(kept[:, None], clean, z)

        return diffusion.generate(n, rng, diffusion.denoise(kept), hold)

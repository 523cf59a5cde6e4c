"""Multi-modal Latent Diffusion, MLD (Bounoua, Franzese, Michiardi, Entropy 2024).

A deterministic autoencoder for each modality, and one diffusion over all their latents. It learns
to denoise any subset of them while the rest is kept clean.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shalabench.api import DataSpec, Optimiser, Rng, Search, Settings, register_model, setting
from shalabench.nets.backbones import Network
from shalabench.nets.diffusion import Denoiser
from shalabench.nets.latents import DiffusedLatents, LatentDiffusionConfig
from shalabench.nets.solvers import Revise

_CODE = "MLD code, experiments/mmnist (reproduction/mld.md)"


class MLDPriorConfig(LatentDiffusionConfig):
    """Settings of the second stage."""

    steps: int = setting(
        702_000, "Updates.", f"{_CODE}: 3000 epochs of 60,000 at 256", counts_updates=True, ge=1
    )
    batch_size: int = setting(256, "Latents an update.", _CODE, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=1e-4), "Of the training.", _CODE, search=True)
    ema: float = setting(0.999, "Decay of the averaged weights; 0 for none.", _CODE, ge=0, lt=1)
    width: int = setting(1536, "Units of the denoiser's layers.", f"{_CODE}: init_dim", ge=8)
    sampling_steps: int = setting(250, "Steps of the reverse process.", f"{_CODE}: N_step", ge=1)
    joint: float = setting(
        0.8,
        "Probability of denoising all modalities, with none kept clean.",
        f"{_CODE}: there d = 0.2 is one minus this probability",
        search=Search(0.2, 0.9),  # joint against conditional generation
        ge=0,
        le=1,
    )


class MLDConfig(Settings):
    """Settings of both stages; the defaults are those of the published PolyMNIST experiment."""

    network: Network = setting(Network(family="conv"), "Encoders and decoders.", _CODE)
    latent_dim: int = setting(
        160, "D, size of each modality's latent.", _CODE, search=Search(choices=(16, 32, 64)), ge=1
    )
    steps: int = setting(
        140_400,
        "Updates of the autoencoders.",
        f"{_CODE}: 300 epochs of 60,000 at 128",
        counts_updates=True,
        ge=1,
    )
    batch_size: int = setting(128, "Tuples an update of the autoencoders.", _CODE, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=1e-3), "Of the training.", _CODE, search=True)
    prior: MLDPriorConfig = MLDPriorConfig()


@register_model(
    "mld",
    paper="Bounoua, Franzese, Michiardi: Multi-modal Latent Diffusion (Entropy 2024)",
    version=1,
)
class MLD(DiffusedLatents):
    """Separate autoencoders, and a denoiser with one time for each modality: 0 if it is given.

    Differences from the authors' code:

    * The variance-preserving diffusion (beta from 0.1 to 20) has T discrete steps.
    * The denoiser is ShaLa's, for equal capacity; theirs is a U-shaped multilayer perceptron.
    * Each tuple draws a kept subset; theirs draws one for the whole batch.
    * Sampling runs the reverse process once; theirs repeats every ten steps ten times (RePaint).
    * The whole training split standardises the latents, not its first batch.
    * Times are uniform, as in their experiments; their importance-sampled times are left out.
    * Incomplete tuples are supported: an absent latent has the time T and is pure noise.
    """

    Config = MLDConfig

    def __init__(self, spec: DataSpec, config: MLDConfig):
        super().__init__(spec, config, variational=False)

    def draw_kept(self, n: int, rng: Rng, there: Tensor | None = None) -> Tensor:
        """Draw the modalities that an update keeps clean, a subset for each tuple.

        With probability `joint` the subset is empty. Otherwise it is one of the 2^M - 2 proper,
        non-empty subsets, all equally likely, cut to the modalities that are there. It is empty
        also if it would keep all that are there.

        Args:
            n: B.
            rng: Randomness of the subsets.
            there: `[B, M]` bool, the modalities of each tuple; None is all.

        Returns:
            `[B, M]` bool.
        """
        modalities = len(self.spec.modalities)
        # The binary digits of a random number of 23 bits: uniform up to 23 modalities.
        number = 1 + rng.integers(2**modalities - 2, n)
        digits = torch.arange(modalities, device=number.device)
        kept = (number[:, None] >> digits) % 2 == 1
        kept &= rng.uniform(n, 1) >= self.config.prior.joint
        if there is None:
            return kept
        kept &= there
        return kept & (there & ~kept).any(1, keepdim=True)

    def hold(self, kept: Tensor, clean: Tensor, rng: Rng) -> tuple[Denoiser, Revise]:
        """Keep given latents clean at time 0."""

        def replace(z: Tensor, t: int) -> Tensor:
            return torch.where(kept[:, None], clean, z)

        return self.diffusion.denoise(kept), replace

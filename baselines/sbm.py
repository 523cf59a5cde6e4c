"""Score-based multimodal autoencoder, SBM-VAE (Wesego and Rooshenas, TMLR 2024).

A variational autoencoder for each modality, and one diffusion over their posterior means. At every
step of the reverse process the given latents are noised to that step and put in.
"""

from __future__ import annotations

import torch
from torch import Tensor

from shalabench.api import DataSpec, Optimiser, Rng, Search, Settings, register_model, setting
from shalabench.nets.backbones import Network
from shalabench.nets.diffusion import Denoiser
from shalabench.nets.latents import DiffusedLatents, LatentDiffusionConfig
from shalabench.nets.solvers import Revise, correct

_CODE = "SBM code, extended PolyMNIST (reproduction/sbm-ae.md)"


class SBMPriorConfig(LatentDiffusionConfig):
    """Settings of the second stage."""

    steps: int = setting(
        117_500, "Updates.", f"{_CODE}: 500 epochs of 60,000 at 256", counts_updates=True, ge=1
    )
    batch_size: int = setting(256, "Latents an update.", _CODE, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=5e-4), "Of the training.", _CODE, search=True)
    ema: float = setting(
        0.0, "Decay of the averaged weights; 0 for none.", f"{_CODE}: none", ge=0, lt=1
    )
    sampling_steps: int = setting(100, "Steps of the reverse process.", f"{_CODE}: N", ge=1)
    standardise: bool = setting(
        False, "Give every dimension unit variance before the diffusion.", f"{_CODE}: none"
    )
    corrections: int = setting(
        1, "Langevin steps before each reverse step.", f"{_CODE}: train_poly.sh, --pc=1", ge=0
    )
    ratio: float = setting(
        0.16, "Signal-to-noise ratio of a Langevin step.", f"{_CODE}: target_snr", gt=0
    )


class SBMConfig(Settings):
    """Settings of both stages; the defaults are those of the published PolyMNIST experiment."""

    network: Network = Network()
    latent_dim: int = setting(
        64,
        "D, size of each modality's latent.",
        f"{_CODE}: size_z",
        search=Search(choices=(16, 32, 64)),
        ge=1,
    )
    beta: float = setting(
        0.5,
        "Factor of the KL divergences.",
        f"{_CODE}: there added to the squared error",
        search=Search(0.1, 10, log=True),
        ge=0,
    )
    steps: int = setting(
        47_000,
        "Updates of the autoencoders.",
        f"{_CODE}: 200 epochs of 60,000 at 256",
        counts_updates=True,
        ge=1,
    )
    batch_size: int = setting(256, "Tuples an update of the autoencoders.", _CODE, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=1e-3), "Of the training.", _CODE, search=True)
    prior: SBMPriorConfig = SBMPriorConfig()


@register_model(
    "sbm-ae",
    paper="Wesego, Rooshenas: Score-Based Multimodal Autoencoder (TMLR 2024)",
    version=1,
)
class SBM(DiffusedLatents):
    """Separate autoencoders and a joint score model that replaces given latents at every step.

    Differences from the authors' code:

    * The variance-preserving diffusion has T discrete steps with Ho et al.'s variances; theirs ends
      at beta = 5, where a fifth of the signal is left.
    * The denoiser is ShaLa's, for equal capacity; theirs is a convolutional U-Net on latents folded
      into 8 x 8 images.
    * A given latent is noised with Gaussian noise; their sampling scripts use the scaled latent.
    * The likelihood is the dataset's; theirs is the squared error, so beta differs in scale.
    * Incomplete tuples are supported: an absent latent has the time T and is pure noise.
    * Their guidance by an energy between pairs of modalities is left out.
    """

    Config = SBMConfig

    def __init__(self, spec: DataSpec, config: SBMConfig):
        super().__init__(
            spec, config, variational=True, beta=config.beta, scale=config.prior.standardise
        )

    def hold(self, kept: Tensor, clean: Tensor, rng: Rng) -> tuple[Denoiser, Revise]:
        """Replace given latents by noised ones at every step, then correct the others."""
        schedule, prior = self.diffusion.schedule, self.config.prior
        denoiser = self.diffusion.denoise(torch.zeros_like(kept))  # all modalities at one time
        noise, langevin = rng.fork("given"), rng.fork("corrector")

        def replace(z: Tensor, t: int) -> Tensor:
            times = torch.full((len(z),), t, device=z.device)
            noised = schedule.diffuse(clean, times, noise.normal(*z.shape))
            z = torch.where(kept[:, None], noised, z)
            for _ in range(prior.corrections if t else 0):
                moved = correct(denoiser, schedule, z, t, prior.ratio, langevin)
                z = torch.where(kept[:, None], noised, moved)
            return z

        return denoiser, replace

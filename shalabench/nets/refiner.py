"""Diffusion decoders for image modalities, conditioned on the output of a model's decoder.

As in DiffuseVAE (Pandey et al. 2022), formulation 1, the coarse image is concatenated to the noisy
one.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from shalabench.api import DataSpec, Modality, Optimiser, Rng, Settings, Views, setting
from shalabench.nets.diffusion import Denoiser, denoising_loss, make_schedule
from shalabench.nets.precision import widen
from shalabench.nets.solvers import sample_ddim
from shalabench.nets.unet import UNet

_CODE = "DiffuseVAE code, CIFAR-10 and CelebA-64 settings"
_OPEN = "our choice"


class RefinerConfig(Settings):
    """Settings of the diffusion decoders and of their training.

    The networks are DiffuseVAE's for CIFAR-10, at any size, without attention and dropout. Its
    networks for CelebA-64 have attention, a dropout of 0.1 and one more level.
    """

    steps: int = setting(
        200_000, "Updates.", f"{_OPEN}; DiffuseVAE counts epochs", counts_updates=True, ge=1
    )
    batch_size: int = setting(128, "Tuples an update.", "DiffuseVAE paper, CIFAR-10", ge=1)
    optimiser: Optimiser = setting(
        Optimiser(lr=2e-4, warmup=0.025, clip=1.0), "Of the decoders.", _CODE
    )
    ema: float = setting(0.9999, "Decay of the averaged weights.", _CODE, ge=0, lt=1)
    width: int = setting(
        128, "Channels at full resolution, a multiple of 8.", _CODE, ge=8, multiple_of=8
    )
    blocks: int = setting(2, "Residual blocks a resolution and direction.", _CODE, ge=1)
    timesteps: int = setting(1000, "T, steps of the forward process.", _CODE, ge=2)
    schedule: Literal["cosine", "linear"] = setting("linear", "Forward variances.", _CODE)
    prediction: Literal["noise", "velocity", "data"] = setting(
        "noise", "What the networks return.", _CODE
    )
    sampling_steps: int = setting(25, "Network calls of the DDIM sampler.", _OPEN, ge=1)


class Refiners(nn.Module):
    """Diffusion models p(x_m | coarse x_m) of every image modality."""

    def __init__(self, spec: DataSpec, config: RefinerConfig):
        super().__init__()
        self.spec, self.config = spec, config
        self.networks = nn.ModuleDict(
            {
                m.name: UNet(m.shape[0], m.shape[0], m.shape[1], config.width, config.blocks)
                for m in images(spec)
            }
        )
        self._schedule = make_schedule(config.schedule, config.timesteps, config.prediction)

    def loss(
        self, views: Views, coarse: Views, rng: Rng, present: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Denoising errors, summed over image modalities.

        Args:
            views: Images `[B, C, H, W]` in [0, 1]; other modalities are not read.
            coarse: The decoders' reconstructions of the same tuples, unclamped.
            rng: Noise and times.
            present: `[B, M]` bool; None if no modality is missing.

        Returns:
            The scalar to descend, and each modality's mean error over its present images.
        """
        terms = {}
        for m in images(self.spec):
            denoiser = self._given(m.name, coarse[m.name])
            x = 2 * views[m.name] - 1
            error = denoising_loss(denoiser, self._schedule, x, rng.fork(m.name))  # [B]
            there = torch.ones_like(error)
            if present is not None:
                there = present[:, self.spec.names.index(m.name)].to(error)
            terms[f"error_{m.name}"] = (there * error).sum() / there.sum().clamp(min=1)
        return torch.as_tensor(sum(terms.values())), terms

    def refine(self, coarse: Views, rng: Rng) -> Views:
        """Replace the images of a model by refined ones; other modalities stay as they are.

        Args:
            coarse: Decoder means `[B, ...]` of any modalities.
            rng: Initial noise of the images.
        """
        pixels = Rng(rng.seed, first=rng.first, device=rng.device)  # temperatures are of latents
        return {name: self._refined(name, x, pixels.fork(name)) for name, x in coarse.items()}

    def _refined(self, name: str, coarse: Tensor, rng: Rng) -> Tensor:
        if name not in self.networks:
            return coarse
        start = rng.normal(*coarse.shape)
        denoiser = self._given(name, coarse)

        def clipped(x: Tensor, t: Tensor) -> Tensor:
            # Near t = T the estimate from the noise is inaccurate: without clipping, toy images
            # exceeded [0, 1] by a factor of 25.
            return self._schedule.split(x, t, widen(denoiser(x, t)))[0].clamp(-1, 1)

        of_data = self._schedule.predicting("data")
        x = sample_ddim(clipped, of_data, start, self.config.sampling_steps)
        return (x + 1) / 2

    def _given(self, name: str, coarse: Tensor) -> Denoiser:
        condition = 2 * coarse.clamp(0, 1) - 1
        return lambda x, t: self.networks[name](x, t, condition)


def images(spec: DataSpec) -> list[Modality]:
    """The image modalities, in order."""
    return [m for m in spec.modalities if m.kind == "image"]

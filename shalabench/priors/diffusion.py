"""A diffusion prior fitted to latents of any method: ShaLa's second stage without condition."""

from __future__ import annotations

import torch
from torch import Tensor

from shalabench.api import Batch, GradientStage, Now, Rng, Split, Stage
from shalabench.config.training import PriorSettings
from shalabench.nets.diffusion import VectorDenoiser, denoising_loss, make_schedule
from shalabench.nets.solvers import sample
from shalabench.priors.fitted import FittedPrior, Latents

SAMPLING = ("sampler", "sampling_steps", "spacing")
"""Settings that matter in sampling only."""


class DiffusionPrior(FittedPrior):
    """A denoiser of standardised latents (ShaLa paper, section 3.4, without a condition)."""

    name = "diffusion"
    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, settings: PriorSettings):
        super().__init__(dim, settings)
        c = settings.diffusion
        self.denoiser = VectorDenoiser(dim, 1, c.width, c.blocks)
        self.schedule = make_schedule(c.schedule, c.timesteps, c.prediction)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("std", torch.ones(dim))

    def stage(self, latents: Latents) -> Stage:
        return _FitDiffusion(self, latents)

    def loss(self, z0: Tensor, rng: Rng) -> Tensor:
        """Denoising error at standardised latents `[B, D]` (eq. 7), mean over the batch."""
        free = z0.new_zeros(1, 1)
        return denoising_loss(lambda z, t: self.denoiser(z, t, free), self.schedule, z0, rng).mean()

    def sample(self, n: int, rng: Rng) -> Tensor:
        c = self.settings.diffusion
        z = rng.fork("start").normal(n, self.dim)
        denoiser = self.denoiser.mix([z.new_zeros(1, 1)], [1.0])
        z = sample(
            c.sampler,
            denoiser,
            self.schedule,
            z,
            rng.fork("reverse"),
            steps=None if c.sampler == "ancestral" else c.sampling_steps,
            spacing=c.spacing,
        )
        return z * self.std + self.mean


class _FitDiffusion(GradientStage):
    """Trains the denoiser on posterior samples; each tuple has several, drawn at the beginning."""

    section = "prior"
    sections = ("model", "train", "prior")

    def __init__(self, prior: DiffusionPrior, latents: Latents):
        c = prior.settings.diffusion
        super().__init__(
            "fitted-diffusion",
            self._loss_of_drawn,
            prior,
            c.optimiser,
            steps=c.steps,
            batch_size=c.batch_size,
            ema=c.ema,
            ignores=tuple(f"diffusion.{name}" for name in SAMPLING),
        )
        self._prior, self._latents, self._draws = prior, latents, c.draws

    def begin(self, data: Split) -> None:
        z = torch.stack(
            [self._latents.encode(data, "diffusion", k) for k in range(self._draws)]
        )  # [K, N, D]
        mean, std = z.mean((0, 1)), z.flatten(0, 1).std(0)
        self._prior.mean.copy_(mean)
        # A constant latent is not scaled: dividing by its spread would magnify rounding errors.
        self._prior.std.copy_(std.where(std > 1e-6, 1.0))
        self._z0 = z.sub_(self._prior.mean).div_(self._prior.std)

    def _loss_of_drawn(self, batch: Batch, rng: Rng, step: Now) -> tuple[Tensor, dict[str, Tensor]]:
        which = rng.integers(len(self._z0), len(batch))
        return self._prior.loss(self._z0[which, batch.index], rng.fork("noise")), {}

    def finish(self, data: Split) -> None:
        super().finish(data)
        del self._z0

"""Two-stage methods: an autoencoder for each modality, then one diffusion over all latents."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from shalabench.api import (
    Batch,
    DataSpec,
    DiffusionSettings,
    GradientStage,
    Model,
    Rng,
    Sampler,
    Settings,
    Spacing,
    Split,
    Stage,
    Views,
    setting,
)
from shalabench.nets.coders import UnimodalCoders
from shalabench.nets.diffusion import (
    Denoiser,
    VectorDenoiser,
    embed_time,
    make_schedule,
)
from shalabench.nets.precision import for_sampling, widen
from shalabench.nets.solvers import Revise, sample

_OPEN = "our choice, as for ShaLa"
_TIME = 32  # Sines and cosines of one modality's time.
# Settings unused in training.
_SAMPLING = ("sampler", "sampling_steps", "spacing", "corrections", "ratio")
Process = Callable[[Tensor, Tensor, Tensor], Tensor]  # of clean latents, times and noise


class LatentDiffusionConfig(DiffusionSettings):
    """Settings of the second stage, which methods override by their authors' values."""

    schedule: Literal["cosine", "linear"] = setting(
        "linear", "Forward variances.", "Ho et al. 2020"
    )
    prediction: Literal["noise", "velocity", "data"] = setting(
        "noise",
        "What the denoiser returns.",
        "MLD code and SBM code: a score, scaled (reproduction/mld.md)",
    )
    sampler: Sampler = setting(
        "ancestral",
        "Reverse process.",
        "MLD code and SBM code: Euler and Maruyama (reproduction/mld.md)",
    )
    sampling_steps: int = setting(250, "Steps of the reverse process.", _OPEN, ge=1)
    spacing: Spacing = setting(
        "uniform", "Times of the steps: even in t, or in the log signal-to-noise ratio.", _OPEN
    )


class LatentDiffusion(nn.Module):
    """One diffusion over the latents `[B, M, D]` of M modalities, with a time for each modality.

    Args:
        modalities: M.
        dim: D.
        config: Settings.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, modalities: int, dim: int, config: LatentDiffusionConfig):
        super().__init__()
        self.config = config
        self.denoiser = VectorDenoiser(
            modalities * dim, modalities * _TIME, config.width, config.blocks
        )
        self.register_buffer("mean", torch.zeros(modalities, dim))
        self.register_buffer("std", torch.ones(modalities, dim))
        self.schedule = make_schedule(config.schedule, config.timesteps, config.prediction)

    def fit_scale(self, latents: Tensor, there: Tensor | None = None) -> None:
        """Set the standardisation by latents `[N, M, D]`, of which `[N, M]` are there."""
        weights = torch.ones_like(latents[..., :1]) if there is None else there[..., None].float()
        count = weights.sum(0).clamp(min=1)  # [M, 1]
        mean = (weights * latents).sum(0) / count
        variance = (weights * (latents - mean) ** 2).sum(0) / count
        self.mean.copy_(mean)
        # A constant latent is not scaled: dividing by its spread would magnify rounding errors.
        self.std.copy_(variance.sqrt().where(variance > 1e-12, 1.0))

    def standardise(self, z: Tensor) -> Tensor:
        """The autoencoders' latents on the scale of the diffusion."""
        return (widen(z) - self.mean) / self.std

    def predict(self, z: Tensor, times: Tensor, denoiser: VectorDenoiser | None = None) -> Tensor:
        """A denoiser's prediction at z `[B, M, D]` with a time `[B, M]` for each modality.

        Times that all items share may have one row.
        """
        each = embed_times(times)
        # The denoiser's main time is the latest: the time of the modalities being generated.
        denoiser = denoiser or self.denoiser
        return widen(denoiser(z.flatten(1), times.amax(1), each)).view_as(z)

    def loss(self, z0: Tensor, kept: Tensor, rng: Rng, there: Tensor | None = None) -> Tensor:
        """Denoising error with some modalities kept clean, mean over the batch.

        The time is 0 for kept modalities and T for absent ones. The others share one uniform time
        in 1 .. T; the squared error is averaged over their dimensions.

        Args:
            z0: Latents of the autoencoders, `[B, M, D]`.
            kept: `[B, M]` bool, never all modalities that an item has.
            rng: Times and noise.
            there: `[B, M]` bool, the modalities of each item; None is all.
        """
        clean, noise = self.standardise(z0), rng.normal(*z0.shape)
        t = 1 + rng.integers(self.schedule.steps, len(z0))
        times = t[:, None].where(~kept, 0)  # [B, M]
        scored = ~kept
        if there is not None:
            times, scored = times.where(there, self.schedule.steps), scored & there
            clean = clean.where(there[..., None], 0.0)  # an absent modality is pure noise
        z_t = _each(self.schedule.diffuse, clean, times, noise)
        target = _each(self.schedule.target, clean, times, noise)
        error = (self.predict(z_t, times) - target).square().mean(-1)  # [B, M]
        return ((error * scored).sum(1) / scored.sum(1).clamp(min=1)).mean()

    def denoise(self, kept: Tensor) -> Denoiser:
        """The denoiser with time 0 for the kept modalities `[M]`, where all items share a time."""
        network = for_sampling(self.denoiser)
        return lambda z, t: self.predict(z, t[:1, None].where(~kept, 0), network)

    def generate(
        self, n: int, rng: Rng, denoiser: Denoiser, revise: Revise | None = None
    ) -> Tensor:
        """Run the reverse process from noise.

        Args:
            n: Number of items.
            rng: Start and noise of the steps.
            denoiser: Prediction at z `[n, M, D]` and t `[n]`.
            revise: Keeps given latents, on the standardised scale.

        Returns:
            Latents of the autoencoders, `[n, M, D]`.
        """
        z, c = rng.fork("start").normal(n, *self.mean.shape), self.config
        z = sample(
            c.sampler,
            denoiser,
            self.schedule,
            z,
            rng.fork("reverse"),
            steps=c.sampling_steps,
            revise=revise,
            spacing=c.spacing,
        )
        return z * self.std + self.mean


class DiffusedLatents(Model):
    """An autoencoder for each modality and one diffusion over their latents, in two stages.

    A method derives from it and gives `hold`. Its settings have at least `network`,
    `latent_dim`, `steps`, `batch_size` and `optimiser` of the autoencoders, and `prior`, a
    `LatentDiffusionConfig`. The shared latent of such a method is the concatenation of all latents.

    Args:
        variational: Whether the encoders give Gaussian posteriors; else they give points.
        beta: Factor of the autoencoders' divergences.
        scale: Whether latents are standardised for the diffusion.
    """

    max_given = None
    incomplete = True

    def __init__(
        self,
        spec: DataSpec,
        config: Settings,
        *,
        variational: bool,
        beta: float = 0.0,
        scale: bool = True,
    ):
        super().__init__(spec, config)
        self.coders = UnimodalCoders(
            spec, config.network, config.latent_dim, variational=variational
        )
        self.diffusion = LatentDiffusion(len(spec.modalities), config.latent_dim, config.prior)
        self._beta, self._scale = beta, scale

    @abstractmethod
    def hold(self, kept: Tensor, clean: Tensor, rng: Rng) -> tuple[Denoiser, Revise]:
        """The denoiser and the revision by which the reverse process keeps given latents.

        Args:
            kept: `[M]` bool, the given modalities.
            clean: `[n, M, D]`, their standardised latents; 0 if none are given.
            rng: Randomness of the revision.
        """

    def complete(self, given: Views, n: int, rng: Rng) -> Tensor:
        """Latents `[n, M, D]` of all modalities: those given, and samples of the others."""
        diffusion = self.diffusion
        kept = self.coders.given(given, diffusion.mean.device)
        clean = diffusion.mean.new_zeros(n, *diffusion.mean.shape)
        if given:
            latents = self.coders.encode(given)
            if len(given) == len(kept):
                return latents
            clean = diffusion.standardise(latents)
        denoiser, revise = self.hold(kept, clean, rng)
        return diffusion.generate(n, rng, denoiser, revise)

    def draw_kept(self, n: int, rng: Rng, there: Tensor | None = None) -> Tensor:
        """The modalities of each tuple that an update keeps clean, `[n, M]` bool: none here."""
        shape, device = (n, len(self.spec.modalities)), self.diffusion.mean.device
        return torch.zeros(shape, dtype=torch.bool, device=device)

    def stages(self) -> list[Stage]:
        c, prior = self.config, self.config.prior
        return [
            GradientStage(
                "autoencoders",
                lambda batch, rng, step: self.coders.loss(batch, self._beta, rng),
                self.coders,
                c.optimiser,
                steps=c.steps,
                batch_size=c.batch_size,
                ignores=("prior",),
            ),
            GradientStage(
                "prior",
                self._prior_loss,
                self.diffusion,
                prior.optimiser,
                steps=prior.steps,
                batch_size=prior.batch_size,
                ema=prior.ema,
                begin=self._begin,
                finish=self._finish,
                ignores=tuple(f"prior.{name}" for name in _SAMPLING),
            ),
        ]

    def _begin(self, data: Split) -> None:
        self._latents, self._there = self.coders.encode_split(data)
        if self._scale:
            self.diffusion.fit_scale(self._latents, self._there)

    def _finish(self, data: Split) -> None:
        del self._latents, self._there

    def _prior_loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        z0 = self._latents[batch.index]
        there = None if self._there is None else self._there[batch.index]
        kept = self.draw_kept(len(z0), rng.fork("kept"), there)
        return self.diffusion.loss(z0, kept, rng.fork("noise"), there), {}

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """The concatenated latents `[B, M D]`, with samples for modalities that are not given."""
        return self.complete(given, len(next(iter(given.values()))), rng).flatten(1)

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Samples `[n, M D]` of the diffusion over all latents."""
        return self.complete({}, n, rng).flatten(1)

    def decode(self, z: Tensor, rng: Rng) -> Views:
        """Decoder means of all modalities at concatenated latents `[n, M D]`."""
        return self.coders.decode(z.unflatten(1, (-1, self.config.latent_dim)), self.spec.names)

    def sample(self, n: int, rng: Rng) -> Views:
        return self.decode(self.prior(n, rng.fork("shared")), rng)

    def translate(self, given: Views, targets: Sequence[str], rng: Rng) -> Views:
        z = self.complete(given, len(next(iter(given.values()))), rng.fork("shared"))
        return self.coders.decode(z, targets)

    def reconstruct(self, views: Views, rng: Rng) -> Views:
        return self.coders.reconstruct(views, rng)


def embed_times(times: Tensor) -> Tensor:
    """The times `[B, M]` of all modalities as `[B, 32 M]`."""
    return embed_time(times.flatten(), _TIME).view(len(times), -1)


def _each(process: Process, clean: Tensor, times: Tensor, noise: Tensor) -> Tensor:
    """Apply a method of the schedule to latents `[B, M, D]` with times `[B, M]`."""
    return process(clean.flatten(0, 1), times.flatten(), noise.flatten(0, 1)).view_as(clean)

"""The diffusion prior over the shared latent, conditioned on one feature (section 3.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from shalabench.api import DataSpec, Dial, DiffusionSettings, Rng, setting
from shalabench.nets.diffusion import (
    Denoiser,
    VectorDenoiser,
    denoising_loss,
    make_schedule,
)
from shalabench.nets.precision import widen
from shalabench.nets.solvers import Revise, sample

_OPEN = "our choice, not given in the paper"


class PriorConfig(DiffusionSettings):
    """Settings of stage 2, the diffusion prior."""

    drop: float = setting(
        0.15,
        "Probability of dropping the condition in training.",
        f"{_OPEN}: 'randomly drop'",
        ge=0,
        lt=1,
    )
    blur: float = setting(
        0.0,
        "Standard deviation of noise added to the standardised condition in training.",
        _OPEN,
        ge=0,
    )
    condition: Literal["feature", "view"] = setting(
        "feature",
        "Condition on h_j, or on x_j through a separate encoder.",
        "ShaLa paper, section 3.4 and Table 5",
    )
    adapters: bool = setting(
        False,
        "Give each modality's condition a linear map, which starts as the identity.",
        f"{_OPEN}; features of different encoders share no coordinates",
    )
    guidance: float = setting(
        0.0,
        "w of (1 + w) conditional - w unconditional; 0 is no guidance.",
        f"{_OPEN}: 'a guidance scale'",
        dial=Dial(0.0, (0.0, 0.5, 1.0, 2.0), "cross"),
        ge=0,
    )
    several: Literal["average", "random"] = setting(
        "average",
        "With several given modalities: average their predictions, or condition on one of them.",
        _OPEN,
    )


SAMPLING = ("guidance", "several", "sampler", "sampling_steps", "spacing")
"""Settings that only sampling uses."""


class DiffusionPrior(nn.Module):
    """One denoiser for p(z) and p(z | h_j), on standardised latents and features.

    Args:
        spec: The data's modalities.
        config: Settings.
        latent: D, size of the latent.
        feature: Size of each condition.
    """

    def __init__(self, spec: DataSpec, config: PriorConfig, latent: int, feature: int):
        super().__init__()
        self.config, self.names = config, spec.names
        modalities = len(spec.modalities)
        self.denoiser = VectorDenoiser(latent, feature, config.width, config.blocks)
        # One token for each modality marks its features; the last token means no condition.
        self.tokens = nn.Parameter(torch.randn(modalities + 1, feature))
        self.adapters = (
            nn.Parameter(torch.eye(feature).repeat(modalities, 1, 1)) if config.adapters else None
        )
        self.register_buffer("latent_mean", torch.zeros(latent))
        self.register_buffer("latent_std", torch.ones(latent))
        self.register_buffer("feature_mean", torch.zeros(modalities, feature))
        self.register_buffer("feature_std", torch.ones(modalities, feature))
        self.schedule = make_schedule(config.schedule, config.timesteps, config.prediction)

    def fit_scale(self, mean: Tensor, std: Tensor, features: Tensor | None) -> None:
        """Set the mean and scale that standardise latents and features, from the training data.

        Args:
            mean: Posterior means `[N, D]`.
            std: Posterior standard deviations `[N, D]`.
            features: `[M, N, F]`, or None if this stage trains the condition's encoders.
        """
        self.latent_mean.copy_(mean.mean(0))
        self.latent_std.copy_((mean.var(0) + std.square().mean(0)).sqrt())
        if features is not None:
            self.feature_mean.copy_(features.mean(1))
            self.feature_std.copy_(features.std(1).clamp(min=1e-6))

    def loss(self, z0: Tensor, features: Tensor, which: Tensor, rng: Rng) -> Tensor:
        """Denoising error under randomly dropped conditions (eq. 7), mean over the batch.

        Args:
            z0: Posterior samples `[B, D]`.
            features: h_j `[B, F]` of the drawn modality.
            which: j, `[B]` int64.
            rng: Noise, times, and the choice of the dropped conditions.
        """
        condition = self.condition(features, which)
        if self.config.blur:
            condition = condition + self.config.blur * rng.normal(*condition.shape)
        dropped = rng.uniform(len(z0)) < self.config.drop
        condition = torch.where(dropped[:, None], self.tokens[-1], condition)
        z0 = (z0 - self.latent_mean) / self.latent_std
        return denoising_loss(
            lambda z, t: self.denoiser(z, t, condition), self.schedule, z0, rng
        ).mean()

    def condition(self, features: Tensor, which: Tensor) -> Tensor:
        """Standardised features `[B, F]` through the adapters, plus the token of their modality.

        Args:
            features: h_j `[B, F]`.
            which: j, `[B]` int64.
        """
        scaled = (widen(features) - self.feature_mean[which]) / self.feature_std[which]
        if self.adapters is not None:
            own = functional.one_hot(which, len(self.adapters)).to(scaled.dtype)  # [B, M]
            placed = own[:, :, None] * scaled[:, None]  # [B, M, F], zero for all other modalities
            scaled = placed.flatten(1) @ self.adapters.flatten(0, 1)
        return scaled + self.tokens[which]

    def noise(self, n: int, rng: Rng) -> Tensor:
        """Standard noise z_T, `[n, D]`."""
        return rng.normal(n, len(self.latent_mean))

    def perturb(self, z0: Tensor, t: int, rng: Rng) -> Tensor:
        """Standardised z_t after t steps of the forward process from latents `[B, D]`."""
        z0 = (z0 - self.latent_mean) / self.latent_std
        times = torch.full((len(z0),), t, device=z0.device)
        return self.schedule.diffuse(z0, times, rng.normal(*z0.shape))

    def generate(
        self,
        z: Tensor,
        features: dict[str, Tensor],
        rng: Rng,
        *,
        start: int | None = None,
        several: Literal["average", "random"] | None = None,
        guidance: float | None = None,
        revise: Revise | None = None,
    ) -> Tensor:
        """Run the reverse process.

        Args:
            z: Standardised z_start, `[B, D]`.
            features: h_j `[B, F]` of the given modalities; empty samples p(z).
            rng: Noise of the ancestral sampler, and the choice among several given modalities.
            start: The t of `z`; None is T.
            several: How to use several given modalities; None takes the setting.
            guidance: w; None takes the setting.
            revise: Called with standardised z_t at each time, as the samplers do.

        Returns:
            Latents `[B, D]` on the scale of the posterior.
        """
        denoiser = self._guided(features, len(z), rng, several or self.config.several, guidance)
        c = self.config
        z = sample(
            c.sampler,
            denoiser,
            self.schedule,
            z,
            rng,
            steps=None if c.sampler == "ancestral" else c.sampling_steps,
            start=start,
            revise=revise,
            spacing=c.spacing,
        )
        return self._rescale(z)

    def trace(self, z: Tensor, times: Sequence[float], rng: Rng) -> dict[float, Tensor]:
        """The latents at several times of the unconditional reverse process.

        Args:
            z: z_T, `[B, D]`.
            times: t / T in [0, 1].
            rng: As `generate` takes it.

        Returns:
            Latents `[B, D]` on the scale of the posterior, by t / T. The sampler does not visit
            every time, so each entry is at the visited time that is nearest to one of `times`.
        """
        passed: dict[int, Tensor] = {}

        def look(z: Tensor, t: int) -> Tensor:
            passed[t] = z
            return z

        self.generate(z, {}, rng, revise=look)
        steps = self.schedule.steps
        nearest = [min(passed, key=lambda t: abs(t - time * steps)) for time in times]
        return {t / steps: self._rescale(passed[t]) for t in nearest}

    def _rescale(self, z: Tensor) -> Tensor:
        """Standardised latents `[B, D]` on the scale of the posterior."""
        return z * self.latent_std + self.latent_mean

    def _guided(
        self,
        features: dict[str, Tensor],
        n: int,
        rng: Rng,
        several: str,
        guidance: float | None = None,
    ) -> Denoiser:
        free = self.tokens[-1:]  # [1, F], the same for all items
        if not features:
            return self.denoiser.mix([free], [1.0])
        conditions = torch.stack(
            [
                self.condition(h, torch.full((n,), self.names.index(name), device=h.device))
                for name, h in features.items()
            ]
        )  # [G, B, F]
        if several == "random":
            choice = rng.integers(len(conditions), n)
            conditions = conditions[choice, torch.arange(n, device=choice.device)][None]
        # Ho and Salimans 2022, eq. 6; valid for every prediction, as all are affine in noise.
        w = self.config.guidance if guidance is None else guidance
        weights = [(1 + w) / len(conditions)] * len(conditions)
        if w == 0:
            return self.denoiser.mix(conditions, weights)
        return self.denoiser.mix([*conditions, free], [*weights, -w])

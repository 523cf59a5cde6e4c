"""Settings of every diffusion model of latents."""

from __future__ import annotations

from typing import Literal

from shalabench.api.optimiser import Optimiser
from shalabench.api.settings import Settings, setting

Sampler = Literal["ddim", "dpm++", "ancestral"]
Spacing = Literal["uniform", "log-snr"]
"""Times of a sampler's denoiser calls; each spacing starts with the time of z.

"uniform" is even in t, which Lin et al. 2024 (Table 2) call "trailing". "log-snr" is even in the
half log signal-to-noise ratio (Lu et al. 2022), from -5.1 or more up to that of t = 1.
"""
_OPEN = "our choice, not given in the paper"


class DiffusionSettings(Settings):
    """The denoiser of a diffusion model of latents, its training and its sampler."""

    steps: int = setting(
        100_000, "Updates.", f"{_OPEN} (reproduction/shala.md)", counts_updates=True, ge=1
    )
    batch_size: int = setting(512, "Latents in an update.", f"{_OPEN}; latents are small", ge=1)
    optimiser: Optimiser = setting(Optimiser(name="adamw", lr=2e-4), "Of its training.", _OPEN)
    ema: float = setting(
        0.999, "Decay of the averaged weights.", f"{_OPEN}; latent-diffusion practice", ge=0, lt=1
    )
    width: int = setting(
        1024, "Units of the denoiser's layers.", f"{_OPEN} (Table 6 scales it)", ge=8
    )
    blocks: int = setting(4, "Residual blocks of the denoiser.", _OPEN, ge=1)
    timesteps: int = setting(1000, "T, steps of the forward process.", "Ho et al. 2020", ge=2)
    schedule: Literal["cosine", "linear"] = setting("cosine", "Noise schedule.", _OPEN)
    prediction: Literal["noise", "velocity", "data"] = setting(
        "velocity", "What the denoiser predicts.", f"{_OPEN}; the paper says only DDPM"
    )
    sampler: Sampler = setting(
        "dpm++",
        "Sampler of the reverse process (docs/priors.md).",
        f"{_OPEN}: 20 steps agree with 50 of ddim on validation (docs/priors.md)",
    )
    sampling_steps: int = setting(
        20,
        "Denoiser calls; the ancestral sampler makes one for each t.",
        f"{_OPEN}: as sampler",
        ge=1,
    )
    spacing: Spacing = setting(
        "uniform", "Times of the calls: even in t, or in the log signal-to-noise ratio.", _OPEN
    )

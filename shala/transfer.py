"""Latent style transfer (section 4.4): noise removes details, and denoising adds new ones."""

from __future__ import annotations

from torch import Tensor

from shala.prior import DiffusionPrior
from shalabench.api import Rng


def transfer_latent(
    prior: DiffusionPrior,
    source: Tensor,
    reference: dict[str, Tensor],
    strength: float,
    rng: Rng,
    guidance: float | None = None,
) -> Tensor:
    """Take K forward steps from the source, then the reverse process given the reference.

    Args:
        prior: The trained second stage.
        source: Posterior samples z of the source, `[B, D]`.
        reference: Features h_j of the reference, `[B, F]` each; one is drawn for each item.
        strength: K / T, in (0, 1].
        rng: Noise of the forward steps and of the sampler.
        guidance: w of the reverse process; None takes the setting.

    Returns:
        Latents `[B, D]`.

    Raises:
        ValueError: `strength` is outside (0, 1].
    """
    if not 0 < strength <= 1:
        raise ValueError(f"The strength of a transfer is {strength}; it must be in (0, 1].")
    steps = max(1, round(strength * prior.config.timesteps))
    perturbed = prior.perturb(source, steps, rng.fork("forward"))
    reverse = rng.fork("reverse")
    return prior.generate(
        perturbed, reference, reverse, start=steps, several="random", guidance=guidance
    )

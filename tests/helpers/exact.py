"""The best denoisers of data whose density is known."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from shalabench.nets.diffusion import Denoiser, Schedule


def exact_denoiser(
    schedule: Schedule,
    means: float | Sequence[float],
    std: float,
    shares: Sequence[float] = (1.0,),
) -> Denoiser:
    """For data in one dimension from normal distributions, at z `[B, 1]` or `[B, D]` each alike.

    Args:
        schedule: The forward process; it names the prediction.
        means: Of the components.
        std: Of each component.
        shares: Of the components; they sum to 1.
    """
    means = torch.as_tensor(means).double().view(-1, 1, 1)  # [K, 1, 1]
    shares = torch.as_tensor(shares).double().view(-1, 1, 1)

    def denoise(z, t):
        s, sigma = schedule.signal[t][:, None], schedule.sigma[t][:, None]
        variance = (s * std) ** 2 + sigma**2
        away = z - s * means  # [K, B, D]
        weights = (shares.log() - away**2 / (2 * variance)).softmax(0)
        data = (weights * (means + s * std**2 / variance * away)).sum(0)
        noise = (z - s * data) / sigma
        return {"data": data, "noise": noise, "velocity": s * noise - sigma * data}[
            schedule.prediction
        ]

    return denoise

"""Langevin dynamics on vectors: a sampler, and the gradient of a log-density."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from shalabench.api import Rng
from shalabench.nets.precision import autocast_off

Gradient = Callable[[Tensor], Tensor]
"""Points `[B, D]` to the gradient of the log-density there, `[B, D]`."""


def sample_langevin(
    gradient: Gradient, z: Tensor, steps: int, size: float, rng: Rng
) -> tuple[Tensor, Tensor]:
    """Unadjusted Langevin dynamics: repeat z <- z + s^2 / 2 gradient(z) + s noise.

    Args:
        gradient: Gradient of the log-density to sample.
        z: Starting points `[B, D]`.
        steps: Number of steps, at least one.
        size: s, the standard deviation of a step's noise.
        rng: Noise of the steps.

    Returns:
        The last points `[B, D]`, and the norm of the last gradient `[B]`.
    """
    for _ in range(steps):
        slope = gradient(z)
        z = z + 0.5 * size**2 * slope + size * rng.normal(*z.shape)
    return z, slope.norm(dim=-1)


def gradient_of(log_density: Callable[[Tensor], Tensor]) -> Gradient:
    """The gradient of a log-density that maps points `[B, D]` to `[B]`.

    It works under `no_grad` and `inference_mode`, and adds no gradient to any parameter. It turns
    autocast off, which would lower the precision of the backward pass.
    """

    def gradient(z: Tensor) -> Tensor:
        full = autocast_off(z)
        with torch.inference_mode(False), torch.enable_grad(), full:
            leaf = z.detach().clone().requires_grad_()
            return torch.autograd.grad(log_density(leaf).sum(), leaf)[0]

    return gradient

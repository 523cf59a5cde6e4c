"""Inversion of a generator: gradient descent to latents whose images look like given ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def misfit(made: Tensor, images: Tensor) -> Tensor:
    """The dissimilarity `[B]` of images `[B, G, C, H, W]`.

    It is the mean squared error, plus half the mean absolute error of grey images at a half and at
    a quarter of the side.
    """
    error = (made - images).square().flatten(1).mean(1)
    off = (made - images).mean(2)  # [B, G, H, W]
    for _ in range(2):
        off = functional.avg_pool2d(off, 2)
        error = error + off.abs().flatten(1).mean(1) / 2
    return error


def descend(fit: Callable[[Tensor], Tensor], x: Tensor, steps: int, lr: float) -> Tensor:
    """Minimise a function of each item of `x` `[B, ...]` by Adam with a half-cosine rate.

    Args:
        fit: The function's value for each item, `[B]`, which depends on that item only.
        x: The start.
        steps: Number of updates.
        lr: Rate of the first update; it falls to 0.

    Returns:
        The last points, of the shape of `x`.
    """
    x = x.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        x.grad = torch.autograd.grad(fit(x).sum(), x)[0]
        optimiser.step()
    return x.detach()

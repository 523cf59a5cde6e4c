"""Inversion of a generator: gradient descent to latents whose images look like given ones."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional


def misfit(made: Tensor, images: Tensor) -> Tensor:
    """How unlike pictures `[B, G, C, H, W]` are, `[B]`.

    Mean squared error, and the mean absolute error of grey images at a half and a quarter side.
    """
    error = (made - images).square().flatten(1).mean(1)
    off = (made - images).mean(2)  # [B, G, H, W]
    for _ in range(2):
        off = functional.avg_pool2d(off, 2)
        error = error + off.abs().flatten(1).mean(1) / 2
    return error


def descend(fit: Callable[[Tensor], Tensor], x: Tensor, steps: int, lr: float) -> Tensor:
    """Improve each item of `x` `[B, ...]` by Adam, whose rate falls to 0 by a half cosine.

    Args:
        fit: Gives what each item shall lower, `[B]`; items do not see each other.
        x: Where to start.
        steps: Number of updates.
        lr: First rate.
    """
    x = x.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([x], lr=lr)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / steps))
        x.grad = torch.autograd.grad(fit(x).sum(), x)[0]
        optimiser.step()
    return x.detach()

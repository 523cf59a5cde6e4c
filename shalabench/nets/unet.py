"""A small U-Net that denoises images, conditioned on other images or on a vector."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from shalabench.nets.diffusion import embed_time

Attend = Callable[[int, Tensor], Tensor]
"""`(level, features [B, F, h, w]) -> features`, called after each upward level; 0 is finest."""


class UNet(nn.Module):
    """Residual blocks at halved resolutions, down to a small side (Ho et al. 2020).

    Args:
        channels: C, of the noisy image.
        condition: C', channels of a conditioning image; 0 for none.
        side: H = W, at least 2.
        width: Channels at full resolution, doubled below; a multiple of 8.
        blocks: Residual blocks a resolution and direction.
        outputs: Channels of the prediction; None is C.
        vector: Size of a conditioning vector; 0 for none.
        bottom: Largest side of the lowest resolution.

    Attributes:
        levels: Channels and side of the upward features, finest first.
    """

    def __init__(
        self,
        channels: int,
        condition: int,
        side: int,
        width: int,
        blocks: int = 2,
        *,
        outputs: int | None = None,
        vector: int = 0,
        bottom: int = 8,
    ):
        super().__init__()
        halvings = max(1, math.ceil(math.log2(side / bottom)))
        widths = [width] + [2 * width] * halvings  # DiffuseVAE code: multiples 1, 2, 2, 2
        context = 4 * width
        self.width = width
        self.levels = [(w, math.ceil(side / 2**k)) for k, w in enumerate(widths[:-1])]
        self.time = nn.Sequential(
            nn.Linear(width, context), nn.SiLU(), nn.Linear(context, context), nn.SiLU()
        )
        self.enter = nn.Conv2d(channels + condition, width, 3, 1, 1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.enlarge = nn.ModuleList(), nn.ModuleList()
        for fine, coarse in pairwise(widths):
            self.down.append(_Blocks(fine, fine, context, blocks))
            self.shrink.append(nn.Conv2d(fine, coarse, 3, 2, 1))
            self.enlarge.append(nn.Conv2d(coarse, fine, 3, 1, 1))
            self.up.append(_Blocks(2 * fine, fine, context, blocks))
        self.middle = _Blocks(widths[-1], widths[-1], context, blocks)
        self.leave = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, outputs or channels, 3, 1, 1)
        )
        for parameter in self.leave[-1].parameters():
            nn.init.zeros_(parameter)
        self.vector = nn.Linear(vector, context) if vector else None

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        condition: Tensor | None = None,
        vector: Tensor | None = None,
        attend: Attend | None = None,
    ) -> Tensor:
        """Predict from a noisy image.

        Args:
            x: x_t, `[B, C, H, W]`.
            t: `[B]`.
            condition: An image `[B, C', H, W]`; None if C' is 0.
            vector: `[B, V]`; None if there is none.
            attend: Changes the upward features of each resolution.

        Returns:
            `[B, outputs, H, W]`.
        """
        context = self.time(embed_time(t, self.width))  # [B, 4 width]
        if vector is not None:
            assert self.vector is not None
            context = context + self.vector(vector)
        h, skips = self.enter(x if condition is None else torch.cat([x, condition], 1)), []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            h = blocks(h, context)
            skips.append(h)
            h = shrink(h)  # the side is halved, rounded up: 28, 14, 7
        h = self.middle(h, context)
        for level in reversed(range(len(skips))):
            skip = skips[level]
            h = self.enlarge[level](functional.interpolate(h, size=skip.shape[-2:]))
            h = self.up[level](torch.cat([h, skip], 1), context)
            if attend is not None:
                h = attend(level, h)
        return self.leave(h)


class TimedBlock(nn.Module):
    """Twice normalisation, activation, convolution on `[B, C, H, W]`; time is added between."""

    def __init__(self, inputs: int, outputs: int, context: int):
        super().__init__()
        self.first = nn.Sequential(
            nn.GroupNorm(8, inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, 1, 1)
        )
        self.context = nn.Linear(context, outputs)
        self.second = nn.Sequential(
            nn.GroupNorm(8, outputs), nn.SiLU(), nn.Conv2d(outputs, outputs, 3, 1, 1)
        )
        same = inputs == outputs
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        h = self.first(x) + self.context(context)[:, :, None, None]
        return self.shortcut(x) + self.second(h)


class _Blocks(nn.ModuleList):
    def __init__(self, inputs: int, outputs: int, context: int, count: int):
        rest = [TimedBlock(outputs, outputs, context) for _ in range(count - 1)]
        super().__init__([TimedBlock(inputs, outputs, context), *rest])

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        for block in self:
            h = block(h, context)
        return h

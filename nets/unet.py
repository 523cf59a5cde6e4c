"""A small U-Net that denoises images given other images of the same size."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from nets.diffusion import embed_time


class UNet(nn.Module):
    """Residual blocks at halved resolutions, down to a side of 8 or less (Ho et al. 2020).

    Args:
        channels: C, of the noisy image.
        condition: C', of the image that it is given.
        side: H = W, at least 2.
        width: Channels at full resolution, doubled below; a multiple of 8.
        blocks: Residual blocks a resolution and direction.
    """

    def __init__(self, channels: int, condition: int, side: int, width: int, blocks: int = 2):
        super().__init__()
        halvings = max(1, math.ceil(math.log2(side / 8)))
        widths = [width] + [2 * width] * halvings  # DiffuseVAE code: multiples 1, 2, 2, 2
        context = 4 * width
        self.width = width
        self.time = nn.Sequential(
            nn.Linear(width, context), nn.SiLU(), nn.Linear(context, context), nn.SiLU()
        )
        self.enter = nn.Conv2d(channels + condition, width, 3, 1, 1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        self.up, self.enlarge = nn.ModuleList(), nn.ModuleList()
        for fine, coarse in pairwise(widths):
            self.down.append(_blocks(fine, fine, context, blocks))
            self.shrink.append(nn.Conv2d(fine, coarse, 3, 2, 1))
            self.enlarge.append(nn.Conv2d(coarse, fine, 3, 1, 1))
            self.up.append(_blocks(2 * fine, fine, context, blocks))
        self.middle = _blocks(widths[-1], widths[-1], context, blocks)
        self.leave = nn.Sequential(
            nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, channels, 3, 1, 1)
        )
        nn.init.zeros_(self.leave[-1].weight)
        nn.init.zeros_(self.leave[-1].bias)

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Predict from x_t `[B, C, H, W]`, t `[B]` and an image `[B, C', H, W]`; `[B, C, H, W]`."""
        context = self.time(embed_time(t, self.width))  # [B, 4 width]
        h, skips = self.enter(torch.cat([x, condition], 1)), []
        for blocks, shrink in zip(self.down, self.shrink, strict=True):
            h = _run(blocks, h, context)
            skips.append(h)
            h = shrink(h)  # the side is halved, rounded up: 28, 14, 7
        h = _run(self.middle, h, context)
        for blocks, enlarge, skip in reversed(list(zip(self.up, self.enlarge, skips, strict=True))):
            h = enlarge(functional.interpolate(h, size=skip.shape[-2:]))
            h = _run(blocks, torch.cat([h, skip], 1), context)
        return self.leave(h)


class _TimedBlock(nn.Module):
    """Normalisation, activation, convolution, twice; time is added between."""

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


def _blocks(inputs: int, outputs: int, context: int, count: int) -> nn.ModuleList:
    rest = [_TimedBlock(outputs, outputs, context) for _ in range(count - 1)]
    return nn.ModuleList([_TimedBlock(inputs, outputs, context), *rest])


def _run(blocks: nn.ModuleList, h: Tensor, context: Tensor) -> Tensor:
    for block in blocks:
        h = block(h, context)
    return h

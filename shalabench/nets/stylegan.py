"""StyleGAN2's generator and discriminator of images (Karras et al. 2020), without noise inputs.

Weights are drawn from N(0, 1) and scaled when used, so that one learning rate suits all layers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from shalabench.nets.precision import widen

_SLOPE = 0.2
_GAIN = math.sqrt(2)  # keeps the variance through the rectifier


def rectify(x: Tensor) -> Tensor:
    """Leaky rectifier that keeps the variance."""
    return functional.leaky_relu(x, _SLOPE) * _GAIN


class ScaledLinear(nn.Module):
    """A linear layer whose weights are scaled when used.

    Args:
        inputs: Features in.
        outputs: Features out.
        bias: Initial bias of every output.
        rate: Learning rate as a multiple of the optimiser's.
    """

    def __init__(self, inputs: int, outputs: int, bias: float = 0.0, rate: float = 1.0):
        super().__init__()
        self.rate, self.scale = rate, rate / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.randn(outputs, inputs) / rate)
        self.bias = nn.Parameter(torch.full((outputs,), bias / rate))

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight * self.scale, self.bias * self.rate)


class ScaledConv(nn.Module):
    """A convolution that keeps the side, and whose weights are scaled when used."""

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__()
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        half = self.weight.shape[-1] // 2
        return functional.conv2d(x, self.weight * self.scale, self.bias, padding=half)


class ModulatedConv(nn.Module):
    """A convolution whose weights are scaled by a style (equations 1 and 3 of the paper).

    Scaling inputs by the style and outputs by the norms of the scaled weights gives the same result
    as scaling the weights of each item, and needs one convolution for the whole batch.

    Args:
        inputs: Channels in.
        outputs: Channels out.
        kernel: Side of the kernel.
        style: Size of w.
        demodulate: Scale outputs to unit variance.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, style: int, demodulate: bool = True):
        super().__init__()
        self.demodulate = demodulate
        self.scale = 1 / math.sqrt(inputs * kernel**2)
        self.style = ScaledLinear(style, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        """`[B, outputs, H, W]` of `[B, inputs, H, W]` and w `[B, D]`."""
        style, weight = self.style(w), self.weight * self.scale
        half = weight.shape[-1] // 2
        y = functional.conv2d(x * style[:, :, None, None], weight, padding=half)
        if self.demodulate:
            power = widen(style).square() @ widen(weight).square().sum((2, 3)).T  # [B, outputs]
            y = y * (power + 1e-8).rsqrt()[:, :, None, None]
        return y + self.bias[:, None, None]


class Mapping(nn.Module):
    """Maps normal z `[B, D]` to w `[B, D]`; it learns at a hundredth of the rate."""

    def __init__(self, size: int, layers: int):
        super().__init__()
        self.layers = nn.ModuleList(ScaledLinear(size, size, rate=0.01) for _ in range(layers))

    def forward(self, z: Tensor) -> Tensor:
        x = z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt()
        for layer in self.layers:
            x = rectify(layer(x))
        return x


class Synthesis(nn.Module):
    """Images from styles: from 4 x 4 pixels on, each resolution adds to the enlarged image.

    Args:
        style: Size of w.
        widths: Channels at 4, 8, 16, ... pixels.
        outputs: Channels of the images.
    """

    def __init__(self, style: int, widths: Sequence[int], outputs: int):
        super().__init__()
        self.start = nn.Parameter(torch.randn(widths[0], 4, 4))
        self.blocks = nn.ModuleList(
            StyleBlock(before, width, outputs, style)
            for before, width in pairwise([widths[0], *widths])
        )

    def forward(self, styles: Tensor) -> Tensor:
        """Images `[B, outputs, H, W]` from styles `[B, L, D]`, one for each resolution."""
        x = self.start.expand(len(styles), -1, -1, -1)
        image: Any = None
        for block, w in zip(self.blocks, styles.unbind(1), strict=True):
            x, image = block(x, image, w)
        return image


class StyleBlock(nn.Module):
    """Two modulated convolutions at twice the side, and their addition to the image.

    The first block of a generator gets no image and keeps the side.
    """

    def __init__(self, inputs: int, width: int, outputs: int, style: int):
        super().__init__()
        self.first = ModulatedConv(inputs, width, 3, style)
        self.second = ModulatedConv(width, width, 3, style)
        self.leave = ModulatedConv(width, outputs, 1, style, demodulate=False)

    def forward(self, x: Tensor, image: Tensor | None, w: Tensor) -> tuple[Tensor, Tensor]:
        """Features and image at the new side, from those at the old side and w `[B, D]`."""
        if image is not None:
            x, image = enlarge(x), enlarge(image)
        x = rectify(self.second(rectify(self.first(x, w)), w))
        added = self.leave(x, w)
        return x, added if image is None else image + added


class Discriminator(nn.Module):
    """A conditional discriminator by projection of the label (Miyato and Koyama 2018).

    Args:
        channels: Of the images.
        widths: Channels at each resolution, from the images' side down to 4 pixels by halves.
        label: Size of the label.
    """

    def __init__(self, channels: int, widths: Sequence[int], label: int):
        super().__init__()
        self.enter = ScaledConv(channels, widths[0], 1)
        self.blocks = nn.ModuleList(_Shrink(a, b) for a, b in pairwise(widths))
        last = widths[-1]
        self.mix = ScaledConv(last + 1, last, 3)
        self.flat = ScaledLinear(last * 16, last)
        self.leave = ScaledLinear(last, last)
        self.label = nn.ModuleList([ScaledLinear(label, last), ScaledLinear(last, last)])

    def forward(self, image: Tensor, label: Tensor) -> Tensor:
        """Logits `[B]` of images `[B, C, H, W]` and labels `[B, L]`."""
        x = rectify(self.enter(image))
        for block in self.blocks:
            x = block(x)
        # The spread over the batch reveals a generator whose images are all alike.
        spread = (widen(x).var(0, correction=0) + 1e-8).sqrt().mean()
        x = torch.cat([x, spread.to(x.dtype).expand(len(x), 1, *x.shape[2:])], 1)
        x = self.leave(rectify(self.flat(rectify(self.mix(x)).flatten(1))))
        known = self.label[1](rectify(self.label[0](label)))
        return (widen(x) * widen(known)).sum(1) / math.sqrt(x.shape[1])


def channels_by_side(side: int, base: int, most: int) -> list[int]:
    """Channels at 4, 8, ... `side` pixels: `base` over the pixels, at most `most`."""
    sides = [2**k for k in range(2, int(math.log2(side)) + 1)]
    return [max(1, min(base // s, most)) for s in sides]


class _Shrink(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.first = ScaledConv(inputs, inputs, 3)
        self.second = ScaledConv(inputs, outputs, 3)
        self.shortcut = ScaledConv(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.avg_pool2d(rectify(self.second(rectify(self.first(x)))), 2)
        return (y + self.shortcut(functional.avg_pool2d(x, 2))) / _GAIN


def enlarge(x: Tensor) -> Tensor:
    """Images of twice the side, bilinear."""
    return functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def logistic(logits: Tensor) -> Tensor:
    """The non-saturating logistic loss, mean of log(1 + exp(-logits)), which raises logits."""
    return functional.softplus(-widen(logits)).mean()

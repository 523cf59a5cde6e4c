"""pixelNeRF (Yu, Ye, Tancik, Kanazawa, CVPR 2021).

A radiance field conditioned on image features, which are read where the given views show a point.
Generation is one pass without randomness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from shalabench.api import (
    Batch,
    DataSpec,
    GradientStage,
    Model,
    Optimiser,
    Rng,
    Settings,
    Stage,
    Views,
    register_model,
    setting,
)
from shalabench.nets.precision import widen
from shalabench.nets.rays import Rays, composite, gaps, middles, read_maps, resample, stratify
from shalabench.nets.viewpoints import number, why_no_views

_CODE = "pixelNeRF code (sxyu/pixel-nerf; reproduction/pixelnerf.md)"
_FREQUENCIES, _BASE = 6, 1.5  # of the positional encoding, conf/default.conf
_AVERAGED = 3  # blocks before the mean over the given views
_WHITE = 0.99  # a pixel is background if its darkest channel is brighter
_POINTS = 1 << 19  # points evaluated at a time when views are generated
_CACHED = 1 << 12  # on a CPU, where a layer of these stays in the cache of a core

Maps = tuple[Tensor, Tensor]
"""The feature maps of given views for the coarse and the fine field, `[B, S, h, w, 3 width]`."""


class PixelNeRFConfig(Settings):
    """Settings; the defaults are those of the published experiments on cars."""

    channels: tuple[int, ...] = setting(
        (64, 64, 128, 256),
        "Channels of the encoder's scales, each half the one before; multiples of 8.",
        f"{_CODE}: conv1 and layers 1 to 3 of ResNet-34",
    )
    stem: Literal[1, 2] = setting(2, "Stride of the encoder's first convolution.", _CODE)
    encoder_blocks: int = setting(
        3, "Residual blocks a scale.", f"{_CODE}: 3, 4 and 6 of ResNet-34", ge=1
    )
    width: int = setting(512, "Units of the field's layers.", _CODE, ge=1)
    blocks: int = setting(
        5, "Residual blocks of a field; the mean over views is before the fourth.", _CODE, ge=3
    )
    density: Literal["relu", "softplus"] = setting(
        "relu", "Makes densities positive; softplus is of x - 1, as in EG3D.", _CODE
    )
    density_unit: float = setting(1.0, "What densities are multiplied by.", _CODE, gt=0)
    radius: float = setting(
        math.sqrt(3) / 2,
        "Of the sphere around the object, within which rays are sampled; in world units.",
        "our choice: a unit cube fits; the code has depths 0.8 to 1.8 at a distance of 1.3",
        gt=0,
    )
    samples: int = setting(64, "Coarse samples a ray.", _CODE, ge=1)
    importance: int = setting(16, "Fine samples by the coarse weights.", _CODE, ge=0)
    around: int = setting(16, "Fine samples around the coarse depth.", _CODE, ge=0)
    spread: float = setting(0.01, "Standard deviation of the latter.", _CODE, gt=0)
    given: int = setting(1, "Given views of a tuple in training, drawn at random.", _CODE, ge=1)
    rays: int = setting(128, "Rays a tuple in an update.", _CODE, ge=1)
    foreground: float = setting(
        0.5,
        "Part of the rays through pixels that are not white; the others go into the sphere.",
        "our choice; the code casts rays within the object's bounding box",
        ge=0,
        le=1,
    )
    steps: int = setting(
        400_000, "Updates.", "pixelNeRF, appendix B, from memory (reproduction/pixelnerf.md)", ge=1
    )
    batch_size: int = setting(4, "Tuples an update.", _CODE, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=1e-4), "Of the training.", _CODE)


class Pyramid(nn.Module):
    """Residual convolutions whose scales are enlarged to the finest one and concatenated.

    Args:
        inputs: C.
        config: Channels, blocks, and the first stride.
    """

    def __init__(self, inputs: int, config: PixelNeRFConfig):
        super().__init__()
        first, *_ = config.channels
        self.features = sum(config.channels)
        enter = nn.Conv2d(inputs, first, 7, config.stem, 3)
        self.scales = nn.ModuleList([nn.Sequential(enter, nn.GroupNorm(8, first), nn.ReLU())])
        for fine, coarse in pairwise(config.channels):
            rest = [_Residual(coarse, coarse, 1) for _ in range(config.encoder_blocks - 1)]
            self.scales.append(nn.Sequential(_Residual(fine, coarse, 2), *rest))

    def forward(self, x: Tensor) -> Tensor:
        """Features `[B, F, H / stem, W / stem]` of views `[B, C, H, W]`."""
        found = []
        for scale in self.scales:
            x = scale(x)
            found.append(x)
        size = found[0].shape[-2:]
        return torch.cat(
            [functional.interpolate(f, size, mode="bilinear", align_corners=False) for f in found],
            1,
        )


class _Residual(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.GroupNorm(8, outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.GroupNorm(8, outputs),
        )
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.shortcut(x) + self.layers(x))


class FieldNetwork(nn.Module):
    """Residual layers to which the features of each given view are added, averaged over the views.

    Args:
        features: F, size of the features, which are added before each of the first three blocks.
        channels: C, of the colours.
        config: Width, blocks, and the form of the densities.
    """

    def __init__(self, features: int, channels: int, config: PixelNeRFConfig):
        super().__init__()
        width = config.width
        self.config = config
        self.enter = nn.Linear(3 + 6 * _FREQUENCIES + 3, width)
        self.inject = nn.Conv2d(features, _AVERAGED * width, 1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width))
            for _ in range(config.blocks)
        )
        self.leave = nn.Linear(width, channels + 1)
        for layer in (self.enter, self.inject, *(block[1] for block in self.blocks), self.leave):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        for block in self.blocks:
            nn.init.zeros_(block[3].weight)
            nn.init.zeros_(block[3].bias)

    def project(self, features: Tensor) -> Tensor:
        """Linear maps `[B, S, h, w, 3 width]` of features `[B, S, F, h, w]` for the first blocks.

        A linear layer and interpolation commute. There are fewer pixels than points, so the layer
        comes first.
        """
        maps = self.inject(features.flatten(0, 1)).movedim(1, -1)
        return maps.unflatten(0, features.shape[:2]).contiguous()

    def forward(self, points: Tensor, directions: Tensor, added: Tensor) -> tuple[Tensor, Tensor]:
        """Densities `[B, Q]` and colours `[B, Q, C]` in [0, 1].

        Args:
            points: `[B, S, Q, 3]`, in the axes of each of the S given views.
            directions: `[B, S, Q, 3]`, unit vectors along the rays, in the same axes.
            added: `[B, S, Q, 3 width]`, the maps of `project` where each given view shows a point.
        """
        x = self.enter(torch.cat([encode(points), directions], -1))
        step = _learn if torch.is_grad_enabled() else _infer
        for index, block in enumerate(self.blocks):
            if index == _AVERAGED:
                x = x.mean(1)
            x = step(x, added.chunk(_AVERAGED, -1)[index] if index < _AVERAGED else None, block)
        x = x.mean(1) if len(self.blocks) <= _AVERAGED else x
        raw = widen(self.leave(functional.relu(x)))
        sigma = raw[..., -1]
        positive = sigma.relu() if self.config.density == "relu" else functional.softplus(sigma - 1)
        return self.config.density_unit * positive, torch.sigmoid(raw[..., :-1])


def _learn(x: Tensor, added: Tensor | None, block: nn.Sequential) -> Tensor:
    x = x if added is None else x + added
    return x + block(x)


def _infer(x: Tensor, added: Tensor | None, block: nn.Sequential) -> Tensor:
    """The same as `_learn`, in the memory of `x`: new memory would not be in the cache."""
    first, second = block[1], block[3]
    x = widen(x)
    x = x if added is None else x.add_(added)
    h = first(x.relu()).relu_()
    if torch.is_autocast_enabled(x.device.type):
        return x + second(h)
    x.view(-1, x.shape[-1]).addmm_(h.flatten(0, -2), second.weight.T)
    return x.add_(second.bias)


def encode(x: Tensor) -> Tensor:
    """Coordinates `[..., 3]`, and their sines and cosines at six frequencies; `[..., 39]`."""
    rates = _BASE * 2.0 ** torch.arange(_FREQUENCIES, device=x.device)
    angles = (x[..., None, :] * rates.to(x)[:, None]).flatten(-2)
    return torch.cat([x, angles.sin(), angles.cos()], -1)


@register_model(
    "pixelnerf",
    paper="Yu, Ye, Tancik, Kanazawa: pixelNeRF (CVPR 2021)",
    version=1,
)
class PixelNeRF(Model):
    """A coarse and a fine field, which read features of the given views where these show a point.

    Kept from the authors' code: features of several scales of a convolutional encoder, read by
    projection and added to residual layers; coordinates rotated into the given camera's axes, but
    not moved; the mean over given views; coarse and fine rendering over white; squared errors.

    Differences from the authors' code:

    * The encoder is not pretrained, and has group normalisation in place of batch normalisation.
    * Rays are sampled within a sphere; rays that miss it are white.
    * In evaluation samples lie in the middles of their parts; the code draws them at random.
    """

    Config = PixelNeRFConfig
    max_given = None
    reduced = "encoder without ImageNet weights"
    supervision = "several views of an object, with cameras"

    def __init__(self, spec: DataSpec, config: PixelNeRFConfig):
        super().__init__(spec, config)
        channels, side, _ = spec.modalities[0].shape
        self.encoder = Pyramid(channels, config)
        self.coarse = FieldNetwork(self.encoder.features, channels, config)
        self.fine = FieldNetwork(self.encoder.features, channels, config)
        self.rays = Rays([m.camera for m in spec.modalities], side, config.radius)

    @classmethod
    def skip(cls, spec: DataSpec, config: PixelNeRFConfig) -> str | None:
        if config.given > len(spec.modalities):
            return f"Training is given {config.given} views, and there are fewer."
        return why_no_views(spec, least=1)

    def stages(self) -> list[Stage]:
        c = self.config
        return [
            GradientStage(
                "fields", self._loss, self, c.optimiser, steps=c.steps, batch_size=c.batch_size
            )
        ]

    def _loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared errors of the coarse and the fine colours, on some rays of all views."""
        x = torch.stack([batch.views[name] for name in self.spec.names], 1)  # [B, N, C, H, W]
        b, n = x.shape[:2]
        rows = torch.arange(b, device=x.device)[:, None]
        given = rng.fork("given").uniform(b, n).argsort(1)[:, : self.config.given]  # [B, S]
        maps = self.maps(x[rows, given])
        view, pixel = self._draw_pixels(x, rng.fork("pixels"))
        due = x.flatten(3)[rows, view, :, pixel]  # [B, R, C]
        coarse, fine = self.render(maps, given, view, pixel, rng.fork("samples"))
        terms = {"coarse": (coarse - due).square().mean(), "fine": (fine - due).square().mean()}
        return terms["coarse"] + terms["fine"], terms

    def _draw_pixels(self, x: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """Numbers of views `[B, R]` and pixels `[B, R]` of the rays to cast.

        Args:
            x: All views, `[B, N, C, H, W]`.
            rng: Randomness of the choice.
        """
        b, share = len(x), self.config.foreground
        within = (self.rays.far > self.rays.near).flatten().double().expand(b, -1)  # [B, N P]
        dark = (x.amin(2).flatten(1) < _WHITE) * within
        weight = (1 - share) * within / within.sum(1, keepdim=True)
        weight = weight + share * dark / dark.sum(1, keepdim=True).clamp(min=1)
        edges = weight.cumsum(1)
        drawn = rng.uniform(b, self.config.rays).double() * edges[:, -1:]
        number = torch.searchsorted(edges, drawn).clamp(max=edges.shape[1] - 1)
        area = x.shape[-1] ** 2
        return number // area, number % area

    def maps(self, images: Tensor) -> Maps:
        """The feature maps of both fields, from given views `[B, S, C, H, W]` in [0, 1]."""
        features = self.encoder(images.flatten(0, 1) * 2 - 1).unflatten(0, images.shape[:2])
        return widen(self.coarse.project(features)), widen(self.fine.project(features))

    def render(
        self, maps: Maps, given: Tensor, view: Tensor, pixel: Tensor, rng: Rng | None
    ) -> tuple[Tensor, Tensor]:
        """Coarse and fine colours `[B, R, C]` of rays.

        Args:
            maps: As `maps` gives them.
            given: `[B, S]` int64, numbers of the given views.
            view: `[B, R]` int64, number of each ray's view.
            pixel: `[B, R]` int64, number of its pixel.
            rng: Jitters the samples; None puts each in the middle of its bin.
        """
        c = self.config
        origin, direction, near, far = self.rays.cast(view, pixel)

        def place(what: str, middle: Tensor) -> Tensor:
            size = *view.shape, len(middle)
            return middle.expand(size) if rng is None else rng.fork(what).uniform(*size)

        def shine(field: FieldNetwork, read: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
            points = origin[..., None, :] + depth[..., None] * direction[..., None, :]
            towards = direction[..., None, :].expand_as(points)
            density, colour = self.query(
                field, read, points.flatten(1, 2), towards.flatten(1, 2), given
            )
            size = depth.shape[1:]
            shaded = density.unflatten(1, size), colour.unflatten(1, size)
            return composite(*shaded, gaps(depth, far))

        depth = stratify(near, far, place("coarse", near.new_full((c.samples,), 0.5)))
        coarse, weight = shine(self.coarse, maps[0], depth)
        weight = weight.detach()
        drawn = resample(near, far, weight, place("importance", middles(c.importance, near)))
        centre = (weight * depth).sum(-1, keepdim=True)
        uniform = place("around", middles(c.around, near))
        spread = c.spread * math.sqrt(2) * torch.erfinv(2 * uniform - 1)
        nearby = (centre + spread).clamp(near[..., None], far[..., None])
        depth = torch.cat([depth, drawn, nearby], -1).sort(-1).values
        fine, _ = shine(self.fine, maps[1], depth)
        return coarse, fine

    def query(
        self,
        field: FieldNetwork,
        read: Tensor,
        points: Tensor,
        directions: Tensor,
        given: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Densities `[B, Q]` and colours `[B, Q, C]` at points of the world.

        Args:
            field: The coarse or the fine field.
            read: `[B, S, h, w, 3 width]`, its feature maps.
            points: `[B, Q, 3]`.
            directions: `[B, Q, 3]`, unit vectors.
            given: `[B, S]` int64, numbers of the given views.
        """
        place, _ = self.rays.project(points[:, None], given)  # [B, S, Q, 2]
        seen = read_maps(read.flatten(0, 1), place.flatten(0, 1)).unflatten(0, given.shape)
        points, directions = (self.rays.turn(v[:, None], given) for v in (points, directions))
        return field(points, directions, seen)

    def translate(self, given: Views, targets: Sequence[str], rng: Rng) -> Views:
        for name in (*given, *targets):
            self.spec[name]  # a KeyError names an unknown modality
        images = torch.stack(list(given.values()), 1)  # [B, S, C, H, W]
        numbers = number(self.spec, given, images.device)
        wanted = number(self.spec, targets, images.device)
        made = self._develop(self.maps(images), numbers, wanted)
        return dict(zip(targets, made.unbind(1), strict=True))

    def _develop(self, maps: Maps, given: Tensor, wanted: Tensor) -> Tensor:
        """Whole views `[B, T, C, H, W]` by cameras `wanted` `[T]`, some rays at a time."""
        c, pixels = self.config, self.rays.lit[wanted]  # [T, K]
        most = _CACHED if pixels.device.type == "cpu" else _POINTS
        rays = max(1, most // (len(given) * (c.samples + c.importance + c.around)))
        view, pixel = wanted[:, None].expand_as(pixels).flatten(), pixels.flatten()
        tuples, parts = max(1, rays // len(pixel)), []
        for some in zip(*(read.split(tuples) for read in maps), strict=True):
            size = len(some[0]), -1
            views = view.expand(*size).split(rays, 1)
            places = pixel.expand(*size).split(rays, 1)
            pieces = [
                self.render(some, given.expand(*size), v, p, None)[1]
                for v, p in zip(views, places, strict=True)
            ]
            parts.append(torch.cat(pieces, 1).unflatten(1, pixels.shape).flatten(0, 1))
        colours = torch.cat(parts)  # [B T, K, C]
        number = wanted.repeat(len(maps[0]))
        return self.rays.develop(colours, number).unflatten(0, (-1, len(wanted)))

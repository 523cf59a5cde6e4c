"""RenderDiffusion (Anciukevicius et al., CVPR 2023): denoising through a volume.

The denoiser maps a noisy view to three feature planes and renders them by the view's camera. It
learns from single views with cameras.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from shalabench.nets.backbones import EncoderNetwork, encoder, initialise
from shalabench.nets.diffusion import end_in_noise, make_schedule
from shalabench.nets.planes import PlaneField
from shalabench.nets.rays import Rays, composite, cross_cube, stratify
from shalabench.nets.solvers import sample_ancestral
from shalabench.nets.unet import UNet
from shalabench.nets.viewpoints import number, why_no_views

_PEER = "viewset-diffusion's RenderDiffusion, configs/baselines (reproduction/renderdiffusion.md)"
_PAPER = "the paper (reproduction/renderdiffusion.md)"
_OPEN = "our choice: not given (reproduction/renderdiffusion.md)"
_OBJECTS = 16  # objects rendered at a time: the samples of one object's rays take megabytes
_WHITE = 0.99  # a pixel is background if its darkest channel is brighter


class RenderDiffusionConfig(Settings):
    """Settings; the defaults are from the paper or from a public re-implementation."""

    patch: int = setting(
        1,
        "Side of the pixel blocks that the U-Net gets as channels, and of a cell of the planes.",
        "our choice",
        ge=1,
    )
    width: int = setting(128, "Channels of the U-Net, a multiple of 8.", _OPEN, ge=8, multiple_of=8)
    blocks: int = setting(2, "Residual blocks a resolution and direction.", _OPEN, ge=1)
    bottom: int = setting(4, "Largest side of the U-Net's lowest resolution.", _OPEN, ge=2)
    code: bool = setting(
        False,
        "Give the U-Net a vector of the whole noisy view too, from a separate encoder.",
        "our choice: without it the planes had no colour after 900 updates",
    )
    network: EncoderNetwork = setting(
        EncoderNetwork(family="conv", activation="silu", initialisation="kaiming"),
        "Encoder of a whole view.",
        "our choice: a small encoder (reproduction/renderdiffusion.md)",
    )
    plane_width: int = setting(32, "Channels of each of the three planes.", _OPEN, ge=1)
    hidden: int = setting(64, "Units of the decoder's layer.", _OPEN, ge=1)
    half: float = setting(
        0.5, "Half the edge of the rendered cube.", "our choice: cars fit into it", gt=0
    )
    samples: int = setting(64, "Samples along a ray.", _OPEN, ge=2)
    rays: int = setting(
        0,
        "Rays a view in an update, half of them through non-white pixels; 0: all.",
        _PAPER,
        ge=0,
    )
    error: Literal["absolute", "squared"] = setting(
        "absolute", "Of a rendered pixel.", f"{_PAPER}: L1, from memory"
    )
    multiview_supervision: bool = setting(
        False,
        "Add the error at a second view: RenderDiffusion++, a different method.",
        f"{_PAPER}: single views only",
    )
    timesteps: int = setting(1000, "T, steps of the forward process.", _PEER, ge=2)
    schedule: Literal["cosine", "linear"] = setting("cosine", "Forward variances.", _PEER)
    clean: float = setting(
        0.0,
        "Part of an update's views that get no noise, as in reconstruction.",
        f"{_PAPER}: uniform t",
        ge=0,
        le=1,
    )
    start: float = setting(
        0.0,
        "t_r / T, noise added to a given view before it is denoised; 0: one pass without noise.",
        f"{_PAPER}: 0 is closest to the given view",
        ge=0,
        le=1,
    )
    sampling_steps: int = setting(
        1000, "Denoiser calls from T to 0; fewer from t_r.", f"{_PAPER}: every step", ge=1
    )
    steps: int = setting(300_000, "Updates.", _PEER, ge=1)
    batch_size: int = setting(8, "Views an update, each of another object.", _PEER, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=2e-5), "Of the training.", _PEER)
    ema: float = setting(0.9999, "Decay of the averaged weights.", _PEER, ge=0, lt=1)


@register_model(
    "renderdiffusion",
    paper="Anciukevicius, Xu, Fisher et al.: RenderDiffusion (CVPR 2023)",
    version=1,
)
class RenderDiffusion(Model):
    """A denoiser whose every prediction is a rendered volume.

    Kept from the paper: the volume inside the denoiser at every step; the error of the rendered x_0
    only at the camera of the noised view, with one view of an object in an update; reconstruction
    by rendering the planes of the last step from other cameras.

    The authors published no code. Our choices:

    * The denoiser gets the camera, without which it cannot align the planes with the world.
    * The schedule ends in pure noise, and t = 0 is trained too.
    * An update may render some rays of a view instead of all.
    * The planes of several given views are averaged; the paper takes one view.
    """

    Config = RenderDiffusionConfig
    max_given = None
    reduced = "rebuilt from the paper, which has no code; several given views: planes averaged"
    supervision = "single views, with cameras"

    def __init__(self, spec: DataSpec, config: RenderDiffusionConfig):
        super().__init__(spec, config)
        channels, side, _ = spec.modalities[0].shape
        self.unet = UNet(
            channels * config.patch**2,
            0,
            side // config.patch,
            config.width,
            config.blocks,
            outputs=3 * config.plane_width,
            vector=config.width,
            bottom=config.bottom,
        )
        self.code = encoder(spec.modalities[0], config.network) if config.code else None
        if self.code is not None:
            initialise(self.code, config.network)
        known = 12 + (self.code.features if config.code else 0)
        self.look = nn.Sequential(
            nn.Linear(known, 4 * config.width), nn.SiLU(), nn.Linear(4 * config.width, config.width)
        )
        self.field = PlaneField(config.plane_width, config.hidden, channels, config.half)
        cameras = [m.camera for m in spec.modalities]
        self.rays = Rays(cameras, side, config.half, cross_cube)
        poses = [[*sum(c.rotation, ()), *c.position] for c in cameras]
        self.register_buffer("_poses", torch.tensor(poses), persistent=False)  # [N, 12]
        self._schedule = end_in_noise(make_schedule(config.schedule, config.timesteps, "data"))

    @classmethod
    def skip(cls, spec: DataSpec, config: RenderDiffusionConfig) -> str | None:
        reason = why_no_views(spec, least=1)
        if reason:
            return reason
        side = spec.modalities[0].shape[1]
        if side % config.patch:
            return f"Views of {side} pixels cannot be cut into patches of {config.patch}."
        return None

    def stages(self) -> list[Stage]:
        c = self.config
        return [
            GradientStage(
                "denoiser",
                self._loss,
                self,
                c.optimiser,
                steps=c.steps,
                batch_size=c.batch_size,
                ema=c.ema,
            )
        ]

    def _loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        x = torch.stack([batch.views[name] for name in self.spec.names], 1)  # [B, N, C, H, W]
        b, n = x.shape[:2]
        rows = torch.arange(b, device=x.device)
        view = rng.fork("view").integers(n, b)
        image, schedule = x[rows, view], self._schedule
        t = rng.fork("t").integers(schedule.steps + 1, b)  # 0 too: a pass without noise
        t = torch.where(rng.fork("clean").uniform(b) < self.config.clean, 0, t)
        noise = rng.fork("noise").normal(*image.shape)
        planes = self.planes(schedule.diffuse(2 * image - 1, t, noise), t, view)
        loss = self._error(planes, image, view, rng.fork("own"))
        terms = {"own": loss}
        if self.config.multiview_supervision:
            other = rng.fork("other view").integers(n, b)
            terms["other"] = self._error(planes, x[rows, other], other, rng.fork("other"))
            loss = loss + terms["other"]
        return loss, terms

    def planes(self, z: Tensor, t: Tensor, view: Tensor) -> Tensor:
        """Planes `[B, 3, P, H, W]` from noisy images `[B, C, H, W]` of cameras `view` `[B]`."""
        known = self._poses[view]  # [B, 12]
        if self.code is not None:
            known = torch.cat([known, self.code((z + 1) / 2)], 1)
        patches = functional.pixel_unshuffle(z, self.config.patch)
        return self.unet(patches, t, None, self.look(known)).unflatten(1, (3, -1))

    def _error(self, planes: Tensor, image: Tensor, view: Tensor, rng: Rng) -> Tensor:
        """Mean error of the rendered view over all or some of its pixels."""
        pixels = self._pixels(image, rng.fork("pixels"))
        place = rng.fork("place").uniform(*pixels.shape, self.config.samples)
        seen = self._render(planes, view, pixels, place)  # [B, K, C]
        due = image.flatten(2).transpose(1, 2).gather(1, pixels[..., None].expand_as(seen))
        error = seen - due
        return (error.abs() if self.config.error == "absolute" else error.square()).mean()

    def _pixels(self, image: Tensor, rng: Rng) -> Tensor:
        """Numbers `[B, K]` of the pixels whose rays are cast.

        Half of them are drawn from the pixels that are not white, if there are any.
        """
        b, area = len(image), image[0, 0].numel()
        if not self.config.rays:
            return torch.arange(area, device=image.device).expand(b, area)
        dark = (image.amin(1).flatten(1) < _WHITE).double()  # [B, P]
        weight = 1 / area + dark / dark.sum(1, keepdim=True).clamp(min=1)
        edges = weight.cumsum(1) / weight.sum(1, keepdim=True)
        drawn = rng.uniform(b, self.config.rays).double()
        return torch.searchsorted(edges, drawn).clamp(max=area - 1)

    def _render(self, planes: Tensor, view: Tensor, pixels: Tensor, place: Tensor) -> Tensor:
        """Colours `[B, K, C]` of pixels; `place` `[B, K, S]` as in `stratify`."""
        origin, direction, near, far = self.rays.cast(view[:, None].expand_as(pixels), pixels)
        depth = stratify(near, far, place)
        points = origin[..., None, :] + depth[..., None] * direction[..., None, :]
        density, colour = self.field(planes, points.flatten(1, 2))
        size = depth.shape[1:]
        length = ((far - near) / size[-1])[..., None]
        return composite(density.unflatten(1, size), colour.unflatten(1, size), length)[0]

    def render(self, planes: Tensor, view: Tensor) -> Tensor:
        """Whole views `[B, C, H, W]` in [0, 1] of planes by cameras `view` `[B]`, or `[1]`."""
        pixels = self.rays.lit[view]
        middle = planes.new_full((*pixels.shape, self.config.samples), 0.5)
        return self.rays.develop(self._render(planes, view, pixels, middle), view)

    def sample(self, n: int, rng: Rng) -> Views:
        """Views of objects denoised from noise at one camera, drawn for each object."""

        def make(rows: slice, rng: Rng) -> Tensor:
            count = rows.stop - rows.start
            view = rng.fork("view").integers(len(self.spec.modalities), count)
            start = rng.fork("start").normal(count, *self.spec.modalities[0].shape)
            return self._denoise(start, view, self._schedule.steps, rng.fork("steps"))

        return self._views(n, self.spec.names, rng, make)

    def translate(self, given: Views, targets: Sequence[str], rng: Rng) -> Views:
        for name in (*given, *targets):
            self.spec[name]  # a KeyError names an unknown modality
        schedule, start = self._schedule, round(self.config.start * self._schedule.steps)

        def make(rows: slice, rng: Rng) -> Tensor:
            found = []
            for name, image in given.items():
                own, z = rng.fork(name), 2 * image[rows] - 1
                number = torch.full((len(z),), self.spec.names.index(name), device=z.device)
                t, noise = torch.full_like(number, start), own.fork("start").normal(*z.shape)
                z = schedule.diffuse(z, t, noise)
                found.append(self._denoise(z, number, start, own.fork("steps")))
            return torch.stack(found).mean(0)

        return self._views(len(next(iter(given.values()))), targets, rng, make)

    def _denoise(self, z: Tensor, view: Tensor, start: int, rng: Rng) -> Tensor:
        """The planes of the last denoising step from z_start at cameras `view` `[B]`."""
        if start == 0:
            return self.planes(z, torch.zeros_like(view), view)
        planes = []

        def clean(z: Tensor, t: Tensor) -> Tensor:
            planes[:] = [self.planes(z, t, view)]
            return 2 * self.render(planes[0], view) - 1

        schedule = self._schedule
        steps = max(1, round(self.config.sampling_steps * start / schedule.steps))
        sample_ancestral(clean, schedule, z, rng, steps=steps, start=start)
        return planes[0]

    def _views(
        self, n: int, targets: Sequence[str], rng: Rng, make: Callable[[slice, Rng], Tensor]
    ) -> Views:
        """The targets of `n` objects, some at a time; `make` gives the planes of a slice."""
        parts: dict[str, list[Tensor]] = {name: [] for name in targets}
        for start in range(0, n, _OBJECTS):
            rows = slice(start, min(start + _OBJECTS, n))
            planes = make(rows, Rng(rng.seed, first=rng.first + start, device=rng.device))
            for name in targets:
                view = number(self.spec, [name], planes.device)
                parts[name].append(self.render(planes, view))
        return {name: torch.cat(images) for name, images in parts.items()}

"""EG3D (Chan et al., CVPR 2022): an adversarial generator of three feature planes.

It learns from single views with their cameras. Given views are reconstructed by inversion.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from shalabench.api import (
    Batch,
    DataSpec,
    Model,
    Optimiser,
    PartedStage,
    Rng,
    Settings,
    Split,
    Stage,
    Views,
    register_model,
    setting,
)
from shalabench.nets.inversion import descend, misfit
from shalabench.nets.planes import read_planes, to_colour
from shalabench.nets.precision import autocast_off, widen
from shalabench.nets.rays import Rays, render_twice
from shalabench.nets.stylegan import (
    Discriminator,
    Mapping,
    ModulatedConv,
    ScaledLinear,
    StyleBlock,
    Synthesis,
    channels_by_side,
    logistic,
    rectify,
)
from shalabench.nets.viewpoints import camera_vector, number, why_no_views

_CODE = "EG3D code (NVlabs/eg3d; reproduction/eg3d.md)"
_OPEN = "our choice: the code has no view synthesis (reproduction/eg3d.md)"
_ITEMS = 16  # objects rendered at a time when views are generated
_MAPPED = 10_000  # samples of z for the mean and covariance of w, as in StyleGAN2's projector


class EG3DConfig(Settings):
    """Settings; the defaults are those of the published experiment on ShapeNet cars."""

    latent: int = setting(512, "Size of z and of w.", _CODE, ge=1)
    mapping_layers: int = setting(2, "Layers from z to w.", _CODE, ge=1)
    channel_base: int = setting(
        32768, "Channels at s pixels are this over s, at most `channel_max`.", _CODE, ge=32
    )
    channel_max: int = setting(512, "Most channels.", _CODE, ge=8)
    plane_side: int = setting(256, "Side of the planes, a power of two from 8.", _CODE, ge=8)
    plane_width: int = setting(32, "Channels of a plane.", _CODE, ge=1)
    hidden: int = setting(64, "Units of the decoder's layer.", _CODE, ge=1)
    features: int = setting(
        32, "Channels of the rendered image; the first are its colours.", _CODE, ge=3
    )
    refiner_width: int = setting(128, "Channels of the super-resolution.", _CODE, ge=1)
    box: float = setting(0.8, "Half the edge of the cube that the planes span.", _CODE, gt=0)
    radius: float = setting(
        math.sqrt(3) / 2,
        "Of the sphere around the object, within which rays are sampled.",
        "our choice: a unit cube fits into it; the code's depths, 0.1 to 2.6, are mostly empty",
        gt=0,
    )
    density_unit: float = setting(1.0, "What densities are multiplied by.", _CODE, gt=0)
    samples: int = setting(64, "Even samples a ray.", _CODE, ge=2)
    importance: int = setting(64, "Further samples by their weights.", _CODE, ge=0)
    gamma: float = setting(0.3, "Factor of R1.", f"{_CODE}: for cars", ge=0)
    r1_every: int = setting(16, "Updates between two penalties R1.", _CODE, ge=1)
    smoothness: float = setting(0.25, "Factor of the mean change of density.", _CODE, ge=0)
    smoothness_every: int = setting(4, "Updates between two of these terms.", _CODE, ge=1)
    smoothness_points: int = setting(1000, "Pairs of points an object.", _CODE, ge=1)
    distance: float = setting(0.004, "Standard deviation between them, over `box`.", _CODE, gt=0)
    steps: int = setting(781_250, "Updates.", f"{_CODE}: 25 million images", ge=1)
    batch_size: int = setting(32, "Real images an update, one of a tuple.", _CODE, ge=2)
    optimiser: Optimiser = setting(
        Optimiser(lr=2.5e-3, betas=(0.0, 0.99)), "Of the training.", _CODE
    )
    discriminator_optimiser: Optimiser = setting(
        Optimiser(lr=2e-3, betas=(0.0, 0.99)), "Of the discriminator.", _CODE
    )
    ema: float = setting(
        0.9978, "Decay of the averaged generator.", f"{_CODE}: half in 10,000 images", ge=0, lt=1
    )
    candidates: int = setting(256, "Random w; an inversion starts at the best.", _OPEN, ge=1)
    style_steps: int = setting(200, "Updates of one w that all layers share.", _OPEN, ge=0)
    layer_steps: int = setting(100, "Further updates of one w for each layer (w+).", _OPEN, ge=0)
    inversion_lr: float = setting(0.1, "Step in standard deviations of w.", _OPEN, gt=0)
    prior: float = setting(0.003, "Factor of w's mean squared deviation.", _OPEN, ge=0)


class Generator(nn.Module):
    """Maps z to w, w to three planes, and these to rendered features and a sharpened image.

    Args:
        channels: C.
        rays: Rays of the cameras, at half the side of the images.
        config: Sizes.
    """

    def __init__(self, channels: int, rays: Rays, config: EG3DConfig):
        super().__init__()
        c = config
        self.config, self.rays, self.channels = c, rays, channels
        resolutions = channels_by_side(c.plane_side, c.channel_base, c.channel_max)
        self.styles = len(resolutions) + 1
        self.mapping = Mapping(c.latent, c.mapping_layers)
        self.synthesis = Synthesis(c.latent, resolutions, 3 * c.plane_width)
        self.decoder = nn.Sequential(
            ScaledLinear(c.plane_width, c.hidden),
            nn.Softplus(),
            ScaledLinear(c.hidden, 1 + c.features),
        )
        self.sharpen = ModulatedConv(c.features, c.refiner_width, 3, c.latent)
        self.refine = StyleBlock(c.refiner_width, c.refiner_width, channels, c.latent)

    def spread(self, w: Tensor) -> Tensor:
        """One w `[B, D]` as styles `[B, L, D]`: one for each resolution, and one to refine."""
        return w[:, None].expand(-1, self.styles, -1)

    def planes(self, styles: Tensor) -> Tensor:
        """Planes `[B, 3, P, S, S]` from styles `[B, L, D]`."""
        return self.synthesis(styles[:, :-1]).unflatten(1, (3, -1))

    def picture(
        self, planes: Tensor, styles: Tensor, view: Tensor, rng: Rng | None
    ) -> tuple[Tensor, Tensor]:
        """Images `[B, C, H, W]` and raw ones `[B, C, H / 2, W / 2]`.

        Args:
            planes: `[B, 3, P, S, S]`.
            styles: `[B, L, D]`.
            view: `[B]` int64, the number of each camera, or `[1]`, of one for all without `rng`.
            rng: Draws the samples along the rays; None takes the middles of their parts.
        """
        features = self.rays.develop(self.render(planes, view, rng), view)  # [B, F, H / 2, W / 2]
        raw, w = features[:, : self.channels], styles[:, -1]
        refined = rectify(self.sharpen(features, w))
        return widen(self.refine(refined, raw, w)[1]), raw

    def render(self, planes: Tensor, view: Tensor, rng: Rng | None) -> Tensor:
        """Features `[B, K, F]` of the pixels whose rays meet the sphere."""
        c, pixels = self.config, self.rays.lit[view]
        origin, direction, near, far = self.rays.cast(view[:, None].expand_as(pixels), pixels)

        def look(depth: Tensor) -> tuple[Tensor, Tensor]:
            points = origin[..., None, :] + depth[..., None] * direction[..., None, :]
            density, colour = self.query(planes, points.flatten(1, 2))
            return density.unflatten(1, depth.shape[1:]), colour.unflatten(1, depth.shape[1:])

        def solid(raw: Tensor) -> Tensor:
            return c.density_unit * functional.softplus(raw - 1)

        return render_twice(look, solid, near, far, c.samples, c.importance, rng)

    def query(self, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Raw densities `[B, Q]` and features `[B, Q, F]` in [0, 1], as `read_planes`."""
        raw = widen(self.decoder(read_planes(planes, points / self.config.box)))
        return raw[..., 0], to_colour(raw[..., 1:])


@register_model("eg3d", paper="Chan, Lin, Chan et al.: EG3D (CVPR 2022)", version=1)
class EG3D(Model):
    """Three planes from a style-based generator, trained against a pose-aware discriminator.

    Differences from the authors' code:

    * The third plane is YZ.
    * R1 and the density's smoothness are part of every 16th and 4th update, not separate updates.
      One set of generated images trains both networks.
    * A resolution has one style and no noise. Real images are neither blurred nor augmented.
    * Their inversion is not published. Here it minimises squared errors of pixels, absolute errors
      of a grey pyramid, and the distance of w from its mean by its covariance.
    """

    Config = EG3DConfig
    max_given = None
    reduced = "inversion by pixel losses, without LPIPS; no blurred start"
    supervision = "single views, with cameras"

    def __init__(self, spec: DataSpec, config: EG3DConfig):
        super().__init__(spec, config)
        channels, side, _ = spec.modalities[0].shape
        cameras = [m.camera for m in spec.modalities]
        rays = Rays(cameras, side // 2, config.radius)
        self.generator = Generator(channels, rays, config)
        sizes = channels_by_side(side, config.channel_base, config.channel_max)
        self.discriminator = Discriminator(2 * channels, sizes[::-1], 25)
        self.register_buffer("w_mean", torch.zeros(config.latent))
        self.register_buffer("w_root", torch.eye(config.latent))
        labels = torch.tensor([camera_vector(camera) for camera in cameras])
        self.register_buffer("_labels", labels, persistent=False)  # [N, 25]

    @classmethod
    def skip(cls, spec: DataSpec, config: EG3DConfig) -> str | None:
        reason = why_no_views(spec, least=1)
        if reason:
            return reason
        channels, side, _ = spec.modalities[0].shape
        if channels > config.features:
            return f"Views of {channels} channels do not fit into {config.features} features."
        for s in (side, config.plane_side):
            if s < 8 or s & (s - 1):
                return f"EG3D's images and planes have powers of two from 8 as sides, not {s}."
        return None

    def stages(self) -> list[Stage]:
        return [AdversarialStage(self)]

    def make(self, n: int, rng: Rng) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Random images, as training compares them with real images.

        Returns:
            Images `[n, C, H, W]`, raw images of half the side, views `[n]`, and planes.
        """
        view = rng.fork("view").integers(len(self.spec.modalities), n)
        styles = self.generator.spread(self.generator.mapping(self._draw(n, rng)))
        planes = self.generator.planes(styles)
        return *self.generator.picture(planes, styles, view, rng.fork("samples")), view, planes

    def realness(self, image: Tensor, raw: Tensor, view: Tensor) -> Tensor:
        """Logits `[B]` that images, and raw ones of half the side, are real; both in [-1, 1]."""
        size = image.shape[-2:]
        large = functional.interpolate(raw, size, mode="bilinear", align_corners=False)
        return self.discriminator(torch.cat([image, large], 1), self._labels[view])

    def roughness(self, planes: Tensor, rng: Rng) -> Tensor:
        """Mean change of the raw density over small distances, at random points of the cube."""
        c = self.config
        size = len(planes), c.smoothness_points, 3
        place = (2 * rng.fork("place").uniform(*size) - 1) * c.box
        shift = rng.fork("shift").normal(*size) * c.distance * c.box
        density = self.generator.query(planes, torch.cat([place, place + shift], 1))[0]
        one, other = density.chunk(2, 1)
        return (one - other).abs().mean()

    def penalty(self, image: Tensor, raw: Tensor, view: Tensor) -> Tensor:
        """R1 without gamma: half the mean squared gradient of D at real images in [-1, 1]."""
        image, raw = image.detach().requires_grad_(), raw.detach().requires_grad_()
        with autocast_off(image):
            logits = self.realness(image, raw, view).sum()
            slopes = torch.autograd.grad(logits, [image, raw], create_graph=True)
            return sum(slope.square().flatten(1).sum(1) for slope in slopes).mean() / 2

    @torch.no_grad()
    def measure(self) -> None:
        """Store the mean and covariance of w, which regularise inversions."""
        z = Rng(0, device=self.w_mean.device).normal(_MAPPED, self.config.latent)
        w = self.generator.mapping(z.to(self.w_mean)).double()
        spread = torch.cov(w.T).reshape(w.shape[1], -1)
        spread.diagonal().add_(1e-4 * spread.diagonal().mean() + 1e-12)
        self.w_mean.copy_(w.mean(0))
        self.w_root.copy_(torch.linalg.cholesky(spread))

    def _draw(self, n: int, rng: Rng) -> Tensor:
        return rng.fork("z").normal(n, self.config.latent).to(self.w_mean)

    def sample(self, n: int, rng: Rng) -> Views:
        w = self.generator.mapping(self._draw(n, rng))
        return self._views(self.generator.spread(w), self.spec.names)

    def translate(self, given: Views, targets: Sequence[str], rng: Rng) -> Views:
        for name in (*given, *targets):
            self.spec[name]  # a KeyError names an unknown modality
        images = torch.stack(list(given.values()), 1)  # [B, G, C, H, W]
        view = number(self.spec, given, images.device)
        return self._views(self.invert(images, view, rng), targets)

    def _views(self, styles: Tensor, targets: Sequence[str]) -> Views:
        parts: dict[str, list[Tensor]] = {name: [] for name in targets}
        for some in styles.split(_ITEMS):
            planes = self.generator.planes(some)
            for name in targets:
                view = number(self.spec, [name], some.device)
                parts[name].append(self.generator.picture(planes, some, view, None)[0])
        return {name: torch.cat(images) for name, images in parts.items()}

    def invert(self, images: Tensor, view: Tensor, rng: Rng) -> Tensor:
        """Styles `[B, L, D]` whose images look like the given ones.

        The best of some random w, the same for every object, is improved by gradient descent: first
        one w for all layers, then one w for each layer.

        Args:
            images: `[B, G, C, H, W]` in [0, 1].
            view: `[G]` int64, the number of each image's camera.
            rng: Draws the random w.
        """
        c = self.config
        full = autocast_off(images)
        with torch.inference_mode(False), torch.enable_grad(), full:
            images, view = images.clone(), view.clone()
            same = Rng(rng.fork("candidates").seed, device=rng.device)  # for all objects
            w = self.generator.mapping(self._draw(c.candidates, same))
            start = self._nearest(w.detach(), images, view)
            found = []
            for some, x in zip(images.split(_ITEMS), start.split(_ITEMS), strict=True):
                fit = partial(self._objective, images=some, view=view)
                x = descend(fit, x[:, None], c.style_steps, c.inversion_lr)
                x = x.expand(-1, self.generator.styles, -1)
                x = descend(fit, x, c.layer_steps, c.inversion_lr / 2)
                found.append(self._restore(x))
            return torch.cat(found)

    def _restore(self, x: Tensor) -> Tensor:
        """w `[..., D]` from its standardised deviation from the mean w."""
        return self.w_mean + x @ self.w_root.T

    @torch.no_grad()
    def _nearest(self, w: Tensor, images: Tensor, view: Tensor) -> Tensor:
        """The best of candidates `[N, D]` for each object, standardised, `[B, D]`."""
        made = torch.cat([self._seen(self.generator.spread(x), view) for x in w.split(_ITEMS)])
        best = [misfit(made, item.expand_as(made)).argmin() for item in images]
        deviation = (w - self.w_mean)[torch.stack(best)].T
        return torch.linalg.solve_triangular(self.w_root, deviation, upper=False).T

    def _seen(self, styles: Tensor, view: Tensor) -> Tensor:
        """Images `[B, G, C, H, W]` of styles `[B, L, D]` by cameras `[G]`."""
        planes = self.generator.planes(styles)
        every = [self.generator.picture(planes, styles, v, None) for v in view.split(1)]
        return torch.stack([image for image, _ in every], 1)

    def _objective(self, x: Tensor, images: Tensor, view: Tensor) -> Tensor:
        """The objective `[B]` of an inversion at standardised w `[B, 1, D]` or `[B, L, D]`."""
        styles = self._restore(x).expand(-1, self.generator.styles, -1)
        prior = self.config.prior * x.square().flatten(1).mean(1)
        return misfit(self._seen(styles, view), images) + prior


class AdversarialStage(PartedStage):
    """Trains generator and discriminator in turn, and averages the generator over the updates."""

    def __init__(self, model: EG3D):
        c = model.config
        parts = {
            "generator": (model.generator.parameters(), c.optimiser),
            "discriminator": (model.discriminator.parameters(), c.discriminator_optimiser),
        }
        average = model.generator, c.ema
        super().__init__(
            "adversaries", parts, steps=c.steps, batch_size=c.batch_size, average=average
        )
        self._model = model

    @property
    def phase(self) -> tuple[bool, bool]:
        """Whether the next update has the terms for smoothness and R1."""
        c = self._model.config
        return self._step % c.smoothness_every == 0, self._step % c.r1_every == 0

    def work(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        model, c = self._model, self._model.config
        real, view = self._real(batch, rng.fork("real"))
        image, raw, seen, planes = model.make(len(real), rng.fork("made"))
        made = 2 * image - 1, 2 * raw - 1, seen
        terms = {"generator": logistic(model.realness(*made))}
        loss = terms["generator"]
        smooth, penalise = self.phase
        if smooth:
            terms["roughness"] = c.smoothness_every * model.roughness(planes, rng.fork("rough"))
            loss = loss + c.smoothness * terms["roughness"]
        self.descend("generator", loss)
        self.average.update()

        real = 2 * real - 1
        given = real, functional.avg_pool2d(real, 2), view
        at_real = model.realness(*given)
        at_made = model.realness(*(x.detach() for x in made))
        terms |= {"real": logistic(at_real), "made": logistic(-at_made)}
        loss = terms["real"] + terms["made"]
        if penalise:
            terms["r1"] = c.r1_every * model.penalty(*given)
            loss = loss + c.gamma * terms["r1"]
        self.descend("discriminator", loss)
        terms["accuracy"] = ((at_real > 0).float().mean() + (at_made < 0).float().mean()) / 2
        return terms

    def _real(self, batch: Batch, rng: Rng) -> tuple[Tensor, Tensor]:
        """One view of each tuple `[B, C, H, W]`, and its number `[B]`."""
        names = self._model.spec.names
        view = rng.integers(len(names), len(batch))
        every = torch.stack([batch.views[name] for name in names], 1)
        return every[torch.arange(len(view), device=view.device), view], view

    def finish(self, data: Split) -> None:
        super().finish(data)
        self._model.measure()

"""SyncDreamer (Liu, Lin, Zeng, Long, Liu, Komura, Wang, ICLR 2024), in pixels and from scratch.

A diffusion of all views of an object at once. The denoiser of each view gets one given view, and
attends to a volume that is built from all noisy views at every step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    Split,
    Stage,
    Views,
    register_model,
    setting,
)
from shalabench.nets.backbones import EncoderNetwork, encoder, initialise
from shalabench.nets.diffusion import end_in_noise, make_schedule
from shalabench.nets.precision import widen
from shalabench.nets.solvers import sample_ancestral, sample_ddim
from shalabench.nets.unet import Attend, UNet
from shalabench.nets.viewpoints import why_no_views
from shalabench.nets.volumes import SharedVolume, VolumeConfig

_CODE = "SyncDreamer code, syncdreamer.yaml and sync_dreamer.py (reproduction/syncdreamer.md)"
_SCRATCH = "our choice: the published denoiser is a pretrained Zero123"
_HARMONICS = 4
_OBJECTS = 16  # objects generated at a time: the frusta of one object's views take megabytes
_NORM = 1e-6


class SyncDreamerConfig(Settings):
    """Settings; the defaults are the published ones where these apply to pixels."""

    network: EncoderNetwork = setting(
        EncoderNetwork(family="conv", activation="silu", initialisation="kaiming"),
        "Encoder of a whole view.",
        "our choice: a small encoder (reproduction/syncdreamer.md)",
    )
    patch: int = setting(1, "Side of pixel blocks that become channels.", "our choice", ge=1)
    width: int = setting(
        128, "Channels of the denoiser, a multiple of 8.", _SCRATCH, ge=8, multiple_of=8
    )
    blocks: int = setting(2, "Residual blocks a resolution and direction.", _SCRATCH, ge=1)
    bottom: int = setting(4, "Largest side of the denoiser's lowest resolution.", _SCRATCH, ge=2)
    absolute: bool = setting(
        False,
        "Give the denoiser the number of the target view in the rig, which other methods have.",
        "the paper gives the angle to the given view only (reproduction/syncdreamer.md)",
    )
    volume: VolumeConfig = VolumeConfig()
    timesteps: int = setting(1000, "T, steps of the forward process.", _CODE, ge=2)
    schedule: Literal["cosine", "linear"] = setting(
        "cosine", "Forward variances, before the end is made pure noise.", "our choice: for pixels"
    )
    prediction: Literal["velocity", "data"] = setting(
        "velocity",
        "What the denoiser returns.",
        "our choice: the code's noise prediction failed on white (reproduction/view-synthesis.md)",
    )
    drop: float = setting(
        0.05,
        "Probability of each of five ways to drop the condition.",
        f"{_CODE}: drop_conditions, which the released settings do not use",
        ge=0,
        le=0.2,
    )
    guidance: float = setting(2.0, "Weight of the conditional prediction; 1 is no guidance.", _CODE)
    sampling_steps: int = setting(50, "Denoiser calls a sample.", f"{_CODE}: 50 to 200", ge=1)
    stochastic: bool = setting(
        True, "Noise anew at each sampling step (DDIM with eta = 1), or none.", f"{_CODE}: eta 1"
    )
    steps: int = setting(100_000, "Updates of the one-to-one denoiser.", _SCRATCH, ge=1)
    batch_size: int = setting(192, "Objects an update of the one-to-one denoiser.", _CODE, ge=1)
    optimiser: Optimiser = setting(
        Optimiser(name="adamw", lr=1e-4, warmup=0.01), "Of the first stage.", _CODE
    )
    ema: float = setting(0.9999, "Decay of the averaged weights.", _SCRATCH, ge=0, lt=1)
    volume_steps: int = setting(80_000, "Updates of the volume's networks.", _CODE, ge=1)
    volume_batch_size: int = setting(
        192, "Objects an update of the volume's networks.", _CODE, ge=1
    )
    volume_optimiser: Optimiser = setting(
        Optimiser(name="adamw", lr=5e-4, warmup=0.00125), "Of the second stage.", _CODE
    )
    volume_ema: float = setting(0.0, "Decay of the averaged weights.", _CODE, ge=0, lt=1)


class _Condition:
    """The conditions from which the views of some objects are generated.

    Attributes:
        image: `[B, C, H, W]`, the given view in [-1, 1], with patches as channels.
        first: `[B]` int64, number of the given view, which comes first in the rolled order.
        kept: `[B, 3]` float, 1 if the embedding, the image or the volume is used, else 0.
    """

    def __init__(self, image: Tensor, first: Tensor, kept: Tensor):
        self.image, self.first, self.kept = image, first, kept

    def __getitem__(self, rows: Tensor | slice) -> _Condition:
        return _Condition(self.image[rows], self.first[rows], self.kept[rows])


class _ViewDenoiser(nn.Module):
    """Denoises one view given another and the angle between them, as Zero123 in the paper."""

    def __init__(self, spec: DataSpec, config: SyncDreamerConfig):
        super().__init__()
        modality, self.views = spec.modalities[0], len(spec.modalities)
        channels, side = modality.shape[0] * config.patch**2, modality.shape[1] // config.patch
        self.look = encoder(modality, config.network)
        initialise(self.look, config.network)
        vector = self.look.features + (2 + 2 * config.absolute) * _HARMONICS + 2
        self.unet = UNet(
            channels,
            channels,
            side,
            config.width,
            config.blocks,
            vector=vector,
            bottom=config.bottom,
        )
        self.patch, self.absolute = config.patch, config.absolute

    def embed(self, image: Tensor) -> Tensor:
        """Vectors `[B, F]` of given views in patches."""
        return self.look((functional.pixel_shuffle(image, self.patch) + 1) / 2)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        target: Tensor,
        embedding: Tensor,
        known: _Condition,
        attend: Attend | None = None,
    ) -> Tensor:
        """Predict from noisy views `[B, C, H, W]`, `target` `[B]` views after the given one."""
        kept = known.kept
        parts = [embedding * kept[:, :1], self._harmonics(target), kept[:, :2]]
        if self.absolute:
            parts.append(self._harmonics(target + known.first))
        vector = torch.cat(parts, 1)
        image = known.image * kept[:, 1, None, None, None]
        return self.unet(x, t, image, vector, attend)

    def _harmonics(self, number: Tensor) -> Tensor:
        """Sines and cosines `[B, 8]` of multiples of a view's angle."""
        multiples = 1 + torch.arange(_HARMONICS, device=number.device)
        angle = 2 * math.pi / self.views * number[:, None] * multiples
        return torch.cat([angle.sin(), angle.cos()], 1)


@register_model(
    "syncdreamer",
    paper="Liu, Lin, Zeng, Long, Liu, Komura, Wang: SyncDreamer (ICLR 2024)",
    version=1,
)
class SyncDreamer(Model):
    """All views denoised together, synchronised at every step by a volume.

    Kept from the authors' code: one t for all views of an object; the volume, its frusta and the
    depth-wise attention; one random target view in the loss; a frozen first stage in the second;
    guidance. Views are rolled so that the given one comes first.

    Differences from the authors' code:

    * Nothing is pretrained. The first stage replaces Zero123, in pixels, and a small encoder CLIP.
    * The denoiser predicts velocities, and the schedule ends in pure noise.
    * The given view is one of the rig's views, at its elevation.
    * Training drops conditions; the released settings drop none. Without image and embedding, views
      are not rolled, so that joint samples have the orientation of the data.
    """

    Config = SyncDreamerConfig
    max_given = 1
    reduced = "no Zero123, Stable Diffusion or CLIP weights: pixels, from scratch"
    supervision = "all views of an object, with cameras"

    def __init__(self, spec: DataSpec, config: SyncDreamerConfig):
        super().__init__(spec, config)
        self.single = _ViewDenoiser(spec, config)
        channels, side, _ = spec.modalities[0].shape
        cameras = [m.camera for m in spec.modalities]
        self.volume = SharedVolume(
            cameras,
            channels * config.patch**2,
            side // config.patch,
            self.single.unet.levels,
            config.volume,
        )
        schedule = make_schedule(config.schedule, config.timesteps, config.prediction)
        self._schedule = end_in_noise(schedule)

    @classmethod
    def skip(cls, spec: DataSpec, config: SyncDreamerConfig) -> str | None:
        reason = why_no_views(spec, least=1)
        if reason:
            return reason
        side = spec.modalities[0].shape[1]
        if side % config.patch:
            return f"Views of {side} pixels cannot be cut into patches of {config.patch}."
        if not _is_ring(spec):
            return (
                "SyncDreamer rolls its views, so the cameras must lie on a ring around the z axis "
                "at equal angles, in order."
            )
        return None

    def stages(self) -> list[Stage]:
        c = self.config
        first = GradientStage(
            "single",
            self._single_loss,
            self.single,
            c.optimiser,
            steps=c.steps,
            batch_size=c.batch_size,
            ema=c.ema,
        )
        second = GradientStage(
            "volume",
            self._volume_loss,
            self.volume,
            c.volume_optimiser,
            steps=c.volume_steps,
            batch_size=c.volume_batch_size,
            ema=c.volume_ema,
            begin=self._freeze,
            finish=self._thaw,
        )
        return [first, second]

    def _freeze(self, data: Split) -> None:
        self.single.requires_grad_(False)

    def _thaw(self, data: Split) -> None:
        self.single.requires_grad_(True)

    def _single_loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        views, known, target, t, noise = self._draw(batch.views, rng)
        rows = torch.arange(len(views), device=views.device)
        chosen, noise = views[rows, target], noise[rows, target]
        schedule = self._schedule
        x = schedule.diffuse(chosen, t, noise)
        output = self.single(x, t, target, self.single.embed(known.image), known)
        return self._error(output, schedule.target(chosen, t, noise))

    def _volume_loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        views, known, target, t, noise = self._draw(batch.views, rng)
        rows = torch.arange(len(views), device=views.device)
        schedule = self._schedule
        x = schedule.diffuse(views, t, noise)
        volume = self.volume.build(x, t) * known.kept[:, 2, None, None, None, None]
        attend = self.volume.attend(volume, t, target)
        with torch.no_grad():
            embedding = self.single.embed(known.image)
        output = self.single(x[rows, target], t, target, embedding, known, attend)
        return self._error(output, schedule.target(views, t, noise)[rows, target])

    def _error(self, output: Tensor, aim: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return (widen(output) - aim).square().mean(), {}

    def _draw(self, views: Views, rng: Rng) -> tuple[Tensor, _Condition, Tensor, Tensor, Tensor]:
        """Draw the conditions, target view, time and noise of an update.

        Returns:
            The rolled views `[B, N, C, H, W]`; the conditions; the target's number in the rolled
            order `[B]`; one t for all views of an object `[B]`; the noise `[B, N, C, H, W]`.
        """
        x = torch.stack([self._patches(views[name]) for name in self.spec.names], 1)
        b, n = x.shape[:2]
        first = rng.fork("given").integers(n, b)
        known = self._drop(x[torch.arange(b, device=x.device), first], first, rng.fork("drop"))
        target, t = rng.fork("target").integers(n, b), rng.fork("t").integers(self._steps, b)
        return _roll(x, known.first), known, target, 1 + t, rng.fork("noise").normal(*x.shape)

    @property
    def _steps(self) -> int:
        return self._schedule.steps

    def _drop(self, image: Tensor, first: Tensor, rng: Rng) -> _Condition:
        """Drop embedding, image, volume, the first two, or all, each with probability `drop`."""
        slot = (rng.uniform(len(image)) / max(self.config.drop, _NORM)).long().clamp(max=5)
        bits = 3 * slot[:, None] + torch.arange(2, -1, -1, device=slot.device)
        kept = (0b111_000_001_110_101_011 >> bits & 1).to(image)  # a table, its first row last
        return _Condition(image, torch.where(kept[:, :2].any(1), first, 0), kept)

    def _patches(self, image: Tensor) -> Tensor:
        return functional.pixel_unshuffle(2 * image - 1, self.config.patch)

    def sample(self, n: int, rng: Rng) -> Views:
        modality, device = self.spec.modalities[0], self._device
        image = self._patches(torch.full((n, *modality.shape), 0.5, device=device))
        kept = (torch.arange(3, device=device) == 2).to(image).expand(n, 3)
        first = torch.zeros(n, dtype=torch.int64, device=device)
        return self._views(_Condition(image, first, kept), self.spec.names, rng)

    def translate(self, given: Views, targets: Sequence[str], rng: Rng) -> Views:
        if len(given) != 1:
            raise ValueError(
                f"SyncDreamer takes one given view, and {len(given)} were given: "
                f"{', '.join(given)}. Give one of them."
            )
        for name in (*given, *targets):
            self.spec[name]  # a KeyError names an unknown modality
        [(name, image)] = given.items()
        first = torch.full((len(image),), self.spec.names.index(name), device=image.device)
        image = self._patches(image)
        return self._views(_Condition(image, first, image.new_ones(len(image), 3)), targets, rng)

    @property
    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _views(self, known: _Condition, targets: Sequence[str], rng: Rng) -> Views:
        """The targets of every object, some objects at a time."""
        parts = [
            self._generate(
                known[start : start + _OBJECTS],
                Rng(rng.seed, first=rng.first + start, device=rng.device),
            )
            for start in range(0, len(known.image), _OBJECTS)
        ]
        x = torch.cat(parts)  # [B, N, C, H, W]
        numbers = {name: self.spec.names.index(name) for name in targets}
        return {name: x[:, number] for name, number in numbers.items()}

    def _generate(self, known: _Condition, rng: Rng) -> Tensor:
        """All views `[B, N, C, H, W]` in the order of the data."""
        schedule = self._schedule
        embedding = self.single.embed(known.image)

        def clean(x: Tensor, t: Tensor) -> Tensor:
            output = self._predict(x, t, embedding, known)
            return schedule.split(x, t, widen(output))[0].clamp(-1, 1)

        start = rng.fork("start").normal(
            len(known.image), len(self.spec.names), *known.image.shape[1:]
        )
        of_data, steps = schedule.predicting("data"), self.config.sampling_steps
        if self.config.stochastic:
            x = sample_ancestral(clean, of_data, start, rng.fork("steps"), steps=steps)
        else:
            x = sample_ddim(clean, of_data, start, steps)
        x = functional.pixel_shuffle(_roll(x, -known.first), self.config.patch)
        return (x + 1) / 2

    def _predict(self, x: Tensor, t: Tensor, embedding: Tensor, known: _Condition) -> Tensor:
        """The guided prediction for all rolled views `[B, N, C, H, W]` at one t `[B]`."""
        b, n = x.shape[:2]
        rows = torch.arange(b, device=x.device).repeat_interleave(n)
        target, times = torch.arange(n, device=x.device).repeat(b), t[rows]
        volume = self.volume.build(x, t) * known.kept[:, 2, None, None, None, None]
        attend = self.volume.attend(volume[rows], times, target)
        flat, each = x.flatten(0, 1), known[rows]
        output = self.single(flat, times, target, embedding[rows], each, attend)
        if self.config.guidance != 1:
            # Unconditional views are not rolled, so a view has its number in the data.
            absolute = (target + each.first) % n
            nothing = _Condition(each.image, 0 * each.first, torch.zeros_like(each.kept))
            free = self.single(flat, times, absolute, embedding[rows], nothing)
            output = free + self.config.guidance * (output - free)
        return output.unflatten(0, (b, n))


def _roll(x: Tensor, first: Tensor) -> Tensor:
    """Views `[B, N, ...]` with number `first` `[B]` of each object brought to the front."""
    b, n = x.shape[:2]
    order = (first[:, None] + torch.arange(n, device=x.device)) % n
    return x[torch.arange(b, device=x.device)[:, None], order]


def _is_ring(spec: DataSpec) -> bool:
    """Whether camera k is the first one, turned by k / N of a circle about the world's z."""
    start, n = spec.modalities[0].camera, len(spec.modalities)
    for k, modality in enumerate(spec.modalities):
        camera, angle = modality.camera, 2 * math.pi * k / n
        cosine, sine = math.cos(angle), math.sin(angle)
        turned = [(x * cosine - y * sine, x * sine + y * cosine, z) for x, y, z in start.rotation]
        actual = [*sum(camera.rotation, ()), *camera.translation, *camera.focal, *camera.centre]
        expected = [*sum(turned, ()), *start.translation, *start.focal, *start.centre]
        if not all(math.isclose(a, b, abs_tol=1e-5) for a, b in zip(actual, expected, strict=True)):
            return False
    return True

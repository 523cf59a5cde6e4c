"""SyncDreamer's volume, which all noisy views of an object share (Liu et al. 2024, section 3.3).

The noisy views are unprojected into a grid of voxels. It is resampled along each target view's
rays and read by depth-wise attention.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from shalabench.api import Camera, Settings, setting
from shalabench.nets.diffusion import embed_time
from shalabench.nets.precision import widen
from shalabench.nets.unet import Attend, TimedBlock

_CODE = "SyncDreamer code, sync_dreamer.py and sync_dreamer_network.py"


class VolumeConfig(Settings):
    """Sizes of the shared volume and of its networks."""

    side: int = setting(32, "Voxels along an edge, even.", _CODE, ge=4, multiple_of=2)
    half: float = setting(0.5, "Half the volume's edge, in units of the world.", _CODE, gt=0)
    reach: float = setting(
        3**0.5 / 2, "Depth before and behind the origin that a frustum spans.", _CODE, gt=0
    )
    depths: int = setting(48, "Samples along a target's ray.", _CODE, ge=2)
    view_width: int = setting(
        16, "Channels of a noisy view's features, a multiple of 8.", _CODE, ge=8, multiple_of=8
    )
    width: int = setting(64, "Channels of the volume, a multiple of 8.", _CODE, ge=8, multiple_of=8)
    frustum_width: int = setting(
        64, "Channels of a frustum, a multiple of 8.", _CODE, ge=8, multiple_of=8
    )
    heads: Literal[1, 2, 4, 8] = setting(4, "Of the depth-wise attention.", _CODE)


def project(cameras: Sequence[Camera], points: Tensor) -> Tensor:
    """Project points `[..., 3]` of the world: `[N, ..., 3]`, x and y in image widths, and depth."""
    rotation = points.new_tensor([camera.rotation for camera in cameras])  # [N, 3, 3]
    shift = points.new_tensor([camera.translation for camera in cameras])  # [N, 3]
    focal = points.new_tensor([camera.focal for camera in cameras])  # [N, 2]
    centre = points.new_tensor([camera.centre for camera in cameras])  # [N, 2]
    between = (-1, *(1,) * (points.dim() - 1))
    seen = torch.einsum("nij,...j->n...i", rotation, points) + shift.view(*between, 3)
    depth = seen[..., 2:]
    return torch.cat(
        [focal.view(*between, 2) * seen[..., :2] / depth + centre.view(*between, 2), depth], -1
    )


def voxels(side: int, half: float) -> Tensor:
    """Centres of the voxels of a cube around the origin, float64 `[side z, side y, side x, 3]`."""
    line = ((torch.arange(side, dtype=torch.float64) + 0.5) / side * 2 - 1) * half
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    return torch.stack([x, y, z], -1)


def frustum(camera: Camera, side: int, depths: Tensor) -> Tensor:
    """Points of the world behind the pixel centres of a square image, at depths `[D]`.

    Returns:
        `[D, side, side, 3]` in the type of `depths`.
    """
    line = (torch.arange(side).to(depths) + 0.5) / side  # in widths
    v, u = torch.meshgrid(line, line, indexing="ij")
    x, y = (u - camera.centre[0]) / camera.focal[0], (v - camera.centre[1]) / camera.focal[1]
    seen = torch.stack([x, y, torch.ones_like(x)], -1) * depths[:, None, None, None]
    rotation, shift = depths.new_tensor(camera.rotation), depths.new_tensor(camera.translation)
    return (seen - shift) @ rotation  # the rotation's inverse, from the right


class SharedVolume(nn.Module):
    """Builds a volume from noisy views, and frustum features of it for each scale of a U-Net.

    Args:
        cameras: Cameras of the N views, in the order of the views.
        channels: C, of the views.
        side: H = W, of the views.
        levels: Channels and side of the U-Net's upward features, finest first (`UNet.levels`).
        config: Sizes.
    """

    _seen: Tensor
    _behind: Tensor
    _directions: Tensor

    def __init__(
        self,
        cameras: Sequence[Camera],
        channels: int,
        side: int,
        levels: list[tuple[int, int]],
        config: VolumeConfig,
    ):
        super().__init__()
        self.config, context = config, 4 * config.view_width
        distance = cameras[0].translation[2]
        seen = project(cameras, voxels(config.side, config.half))[..., :2]  # [N, V, V, V, 2]
        steps = (torch.arange(config.depths, dtype=torch.float64) + 0.5) / config.depths * 2 - 1
        depths = distance + config.reach * steps
        behind = torch.stack([frustum(camera, side, depths) for camera in cameras]) / config.half
        self.register_buffer(
            "_seen", (2 * seen - 1).to(torch.get_default_dtype()), persistent=False
        )
        self.register_buffer(
            "_behind", behind.to(torch.get_default_dtype()), persistent=False
        )  # [N, D, H, W, 3]
        directions = torch.eye(len(cameras))
        self.register_buffer("_directions", directions, persistent=False)
        self.time = nn.Sequential(
            nn.Linear(config.view_width, context), nn.SiLU(), nn.Linear(context, context)
        )
        self.view = nn.Linear(len(cameras), context)
        self.enter = nn.Conv2d(channels, config.view_width, 3, 1, 1)
        self.block = TimedBlock(config.view_width, config.view_width, context)
        self.solid = _SolidNet(len(cameras) * config.view_width, config.width)
        widths = [config.frustum_width * min(2**k, 2) for k in range(len(levels))]
        self.frusta = _FrustumNet(config.width, widths, context)
        self.attention = nn.ModuleList(
            DepthAttention(own, other, config.heads)
            for (own, _), other in zip(levels, widths, strict=True)
        )

    def build(self, views: Tensor, t: Tensor) -> Tensor:
        """The volume of all noisy views of an object.

        Args:
            views: `[B, N, C, H, W]`.
            t: `[B]`.

        Returns:
            `[B, width, V, V, V]`.
        """
        n = views.shape[1]
        context = self._context(t.repeat_interleave(n), self._directions.repeat(len(views), 1))
        h = self.block(self.enter(views.flatten(0, 1)), context)
        return self.solid(unproject(h.unflatten(0, (-1, n)), self._seen))

    def attend(self, volume: Tensor, t: Tensor, target: Tensor) -> Attend:
        """The attention of a U-Net that denoises views `target` `[B]` to the volume.

        Args:
            volume: `[B, width, V, V, V]`, one for each target view; zeros mean no volume.
            t: `[B]`.
            target: `[B]` int64.

        Returns:
            The function that `UNet.forward` takes as `attend`.
        """
        grid = self._behind[target]  # [B, D, H, W, 3]
        along = functional.grid_sample(widen(volume), grid, align_corners=False)
        frusta = self.frusta(along, self._context(t, self._directions[target]))
        return lambda level, h: self.attention[level](h, frusta[level])

    def _context(self, t: Tensor, direction: Tensor) -> Tensor:
        return functional.silu(
            self.time(embed_time(t, self.config.view_width)) + self.view(direction)
        )


def unproject(features: Tensor, seen: Tensor) -> Tensor:
    """Sample the features of views at the voxels' projections.

    Args:
        features: `[B, N, F, H, W]`.
        seen: `[N, V, V, V, 2]`, the position of each voxel in each view, in [-1, 1].

    Returns:
        `[B, N F, V, V, V]`, views concatenated; zero if a voxel is outside a view.
    """
    b, n, _, _, _ = features.shape
    grid = seen.flatten(2, 3).repeat(b, 1, 1, 1, 1).flatten(0, 1)  # [B N, V, V V, 2]
    values = functional.grid_sample(widen(features).flatten(0, 1), grid, align_corners=False)
    return values.unflatten(0, (b, n)).flatten(1, 2).unflatten(-1, seen.shape[2:4])


class _Solid(nn.Module):
    """A residual convolution of volumes without biases, so that zeros stay zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        super().__init__()
        self.norm = nn.GroupNorm(8, inputs, affine=False)
        self.layer = nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False)
        self.kept = inputs == outputs and stride == 1

    def forward(self, x: Tensor) -> Tensor:
        h = self.layer(functional.silu(self.norm(x)))
        return x + h if self.kept else h


class _SolidNet(nn.Module):
    """A U-Net over voxels, of two resolutions."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        # A kernel of one voxel: 27 taps of N F channels took half of an update's time.
        self.enter = nn.Conv3d(inputs, width, 1)
        self.fine = _Solid(width, width)
        self.shrink = _Solid(width, 2 * width, 2)
        self.coarse = nn.Sequential(_Solid(2 * width, 2 * width), nn.Conv3d(2 * width, width, 1))
        self.leave = _Solid(width, width)

    def forward(self, x: Tensor) -> Tensor:
        h = self.fine(self.enter(x))
        coarse = self.coarse(self.shrink(h))
        return self.leave(h + functional.interpolate(coarse, scale_factor=2.0))


class _FrustumNet(nn.Module):
    """Frustum features `[B, F, D, h, w]` at every scale of a U-Net; zeros stay zeros."""

    def __init__(self, inputs: int, widths: list[int], context: int):
        super().__init__()
        sizes = [inputs, *widths[:-1]]
        self.layers = nn.ModuleList(
            _Solid(a, b, 1 if k == 0 else 2)
            for k, (a, b) in enumerate(zip(sizes, widths, strict=True))
        )
        self.scales = nn.ModuleList(nn.Linear(context, width) for width in widths)

    def forward(self, x: Tensor, context: Tensor) -> list[Tensor]:
        found = []
        for layer, scale in zip(self.layers, self.scales, strict=True):
            x = layer(x) * (1 + scale(context))[:, :, None, None, None]
            found.append(x)
        return found


class DepthAttention(nn.Module):
    """Attention of a pixel to the samples along its ray; zero frustum features add nothing.

    Args:
        channels: C, of the image features, a multiple of 8 and of the heads.
        inputs: F, of the frustum, a multiple of 8.
        heads: Number of attention heads.
    """

    def __init__(self, channels: int, inputs: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Sequential(nn.GroupNorm(8, channels), nn.Conv2d(channels, channels, 1))
        self.norm = nn.GroupNorm(8, inputs, affine=False)
        self.key = nn.Conv3d(inputs, channels, 1, bias=False)
        self.value = nn.Conv3d(inputs, channels, 1, bias=False)
        self.leave = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.zeros_(self.leave.weight)

    def forward(self, h: Tensor, along: Tensor) -> Tensor:
        """Image features `[B, C, h, w]` after attention along the rays `[B, F, D, h, w]`."""
        along = functional.silu(self.norm(along))
        query = self.query(h).unflatten(1, (self.heads, -1))[:, :, :, None]  # [B, n, K, 1, h, w]
        key, value = (net(along).unflatten(1, (self.heads, -1)) for net in (self.key, self.value))
        weight = ((query * key).sum(2) / query.shape[2] ** 0.5).softmax(2)  # [B, n, D, h, w]
        found = (weight[:, :, None] * value).sum(3).flatten(1, 2)  # [B, C, h, w]
        return h + self.leave(found)

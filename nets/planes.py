"""Three feature planes as a volume, and pictures of it: RenderDiffusion's bottleneck."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.api import Camera
from nets.backbones import Network, initialise
from nets.precision import widen
from nets.volumes import frustum

_THIN, _DENSE = -3.0, 20.0  # densities start near 1 a unit, and reach 100 within reach of a weight


class Rig(nn.Module):
    """The rays of all pixels of square views, and where they pass a cube around the origin.

    Args:
        cameras: Of the N views.
        side: H = W.
        half: Half the cube's edge, in units of the world.
    """

    def __init__(self, cameras: Sequence[Camera], side: int, half: float):
        super().__init__()
        self.half = half
        ahead = torch.ones(1, dtype=torch.float64)
        ends = torch.stack([frustum(c, side, ahead).flatten(0, 2) for c in cameras])  # [N, P, 3]
        origins = torch.tensor([c.position for c in cameras], dtype=torch.float64)
        directions = ends - origins[:, None]
        near, far = cross_cube(origins[:, None], directions, half)
        for name, x in {
            "origins": origins,
            "directions": directions,
            "near": near,
            "far": far,
        }.items():
            self.register_buffer(f"_{name}", x.to(torch.get_default_dtype()), persistent=False)

    def points(self, view: Tensor, pixels: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Points along rays.

        Args:
            view: `[B]` int64, number of the camera.
            pixels: `[B, K]` int64, numbers of the pixels, row by row.
            place: `[B, K, S]`, where in its share of the ray each sample lies, in 0..1.

        Returns:
            `[B, K, S, 3]` points in the cube, and `[B, K]` the length of a share in units of the
            world; 0 where the ray misses the cube.
        """
        rows = view[:, None]
        direction, near, far = (x[rows, pixels] for x in (self._directions, self._near, self._far))
        count = place.shape[-1]
        share = (far - near) / count  # [B, K], in depths
        depth = near[..., None] + share[..., None] * (
            torch.arange(count, device=place.device) + place
        )
        points = self._origins[view][:, None, None] + depth[..., None] * direction[..., None, :]
        return points, share * direction.norm(dim=-1)


def cross_cube(origins: Tensor, directions: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """Between which multiples of the directions rays are within a cube; equal where they miss.

    Args:
        origins: `[..., 3]`, outside the cube.
        directions: `[..., 3]`.
        half: Half the cube's edge.
    """
    # A direction along a face would divide 0 by 0 where the origin lies in its plane.
    inverse = 1 / torch.where(directions == 0, torch.finfo(directions.dtype).eps, directions)
    one, other = (-half - origins) * inverse, (half - origins) * inverse
    near, far = torch.minimum(one, other).amax(-1), torch.maximum(one, other).amin(-1)
    return near, torch.maximum(near, far)


class PlaneField(nn.Module):
    """Density and colour of points by three planes and a small network.

    Args:
        width: P, channels of a plane.
        hidden: Units of the layer.
        channels: C, of the colours.
        half: Half the edge of the cube that the planes span.
    """

    def __init__(self, width: int, hidden: int, channels: int, half: float):
        super().__init__()
        self.half = half
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.Softplus(), nn.Linear(hidden, 1 + channels)
        )
        # Keeps the variance: by torch's own start a feature moves a colour by some hundredths.
        initialise(self, Network(initialisation="kaiming"))

    def forward(self, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Densities `[B, Q]` and colours `[B, Q, C]` in 0..1.

        Args:
            planes: `[B, 3, P, H, W]`: of x and y, of x and z, of y and z.
            points: `[B, Q, 3]`.
        """
        x, y, z = (points / self.half).unbind(-1)
        grid = torch.stack([torch.stack(pair, -1) for pair in ((x, y), (x, z), (y, z))], 1)
        found = functional.grid_sample(
            widen(planes).flatten(0, 1), grid.flatten(0, 1)[:, None], align_corners=False
        )  # [3 B, P, 1, Q]
        features = found.unflatten(0, (-1, 3)).mean(1)[:, :, 0].transpose(1, 2)  # [B, Q, P]
        raw = widen(self.layers(features))
        density = _DENSE * functional.softplus(raw[..., 0] + _THIN)
        return density, torch.sigmoid(raw[..., 1:]) * 1.002 - 0.001  # EG3D: 0 and 1 can be reached


def composite(density: Tensor, colour: Tensor, length: Tensor) -> Tensor:
    """What a ray shows over white (Max 1995; NeRF, eq. 3).

    Args:
        density: `[..., S]`, from near to far.
        colour: `[..., S, C]`.
        length: `[...]`, of the part of the ray that each sample stands for.

    Returns:
        `[..., C]`.
    """
    thickness = density * length[..., None]
    before = thickness.cumsum(-1) - thickness
    weight = torch.exp(-before) * -torch.expm1(-thickness)  # [..., S]
    return (weight[..., None] * colour).sum(-2) + 1 - weight.sum(-1, keepdim=True)

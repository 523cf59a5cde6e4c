"""Volumes of three feature planes, as in EG3D and RenderDiffusion."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from shalabench.nets.backbones import Network, initialise
from shalabench.nets.precision import widen

_AXES = ((0, 1), (0, 2), (1, 2))  # EG3D's code reads ZX twice and never YZ
_THIN, _DENSE = -3.0, 20.0  # densities start near 1 a unit and can easily reach 100


def read_planes(planes: Tensor, place: Tensor) -> Tensor:
    """Features `[B, Q, P]` at points: the mean of three planes, interpolated bilinearly.

    Args:
        planes: `[B, 3, P, H, W]`, the planes of x and y, x and z, y and z.
        place: `[B, Q, 3]` points, or `[1, Q, 3]`, the same for all planes, which is several times
            faster; the planes span [-1, 1].
    """
    if len(place) < len(planes):
        return _read_alike(widen(planes), place[0])
    x = place.unbind(-1)
    grid = torch.stack([torch.stack([x[a], x[b]], -1) for a, b in _AXES], 1).flatten(0, 1)
    maps = widen(planes).flatten(0, 1)
    found = functional.grid_sample(maps, grid[:, None].to(maps), align_corners=False)
    return found.unflatten(0, (-1, 3)).mean(1)[:, :, 0].transpose(1, 2)


def _read_alike(planes: Tensor, place: Tensor) -> Tensor:
    """As `read_planes`, at the same points `[Q, 3]` of all planes: sums of rows of all objects."""
    b, _, width, *sides = planes.shape
    places, shares, within = [], [], []
    for axis, side, corner in ((0, sides[1], (0, 1, 0, 1)), (1, sides[0], (0, 0, 1, 1))):
        at = torch.stack([place[:, axes[axis]] for axes in _AXES], 1)  # [Q, 3]
        at = ((at + 1) * side - 1) / 2
        pixel = torch.stack([at.floor() + more for more in corner], -1)  # [Q, 3, 4]
        shares.append(1 - (at[..., None] - pixel).abs())
        within.append((pixel >= 0) & (pixel < side))
        places.append(pixel.clamp(0, side - 1).long())
    (column, row), share = places, shares[0] * shares[1] / 3
    inside = within[0] & within[1]
    plane = torch.arange(3, device=place.device)[:, None]
    found = functional.embedding_bag(
        ((plane * sides[0] + row) * sides[1] + column).flatten(1),  # [Q, 12]
        planes.permute(1, 3, 4, 0, 2).flatten(3).flatten(0, 2),  # [3 H W, B P]
        mode="sum",
        per_sample_weights=torch.where(inside, share, 0).flatten(1).to(planes),
    )
    return found.unflatten(1, (b, width)).transpose(0, 1).contiguous()


def to_colour(raw: Tensor) -> Tensor:
    """Colours from real numbers by a sigmoid that can reach 0 and 1 (EG3D code)."""
    return torch.sigmoid(raw) * 1.002 - 0.001


class PlaneField(nn.Module):
    """Density and colour at points, from three planes and a small network.

    Args:
        width: P, channels of a plane.
        hidden: Units of the layer.
        channels: C, of the colours.
        half: Half the edge of the cube that the planes span.
    """

    def __init__(self, width: int, hidden: int, channels: int, half: float):
        super().__init__()
        self._half = half
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.Softplus(), nn.Linear(hidden, 1 + channels)
        )
        # Keeps the variance: with torch's default a feature changes a colour by a few hundredths.
        initialise(self, Network(initialisation="kaiming"))

    def forward(self, planes: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Densities `[B, Q]` and colours `[B, Q, C]` in [0, 1].

        Args:
            planes: `[B, 3, P, H, W]`, as `read_planes` takes them.
            points: `[B, Q, 3]`.
        """
        raw = widen(self.layers(read_planes(planes, points / self._half)))
        return _DENSE * functional.softplus(raw[..., 0] + _THIN), to_colour(raw[..., 1:])

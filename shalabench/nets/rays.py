"""Volume rendering over white: rays of cameras, samples along them, and their colours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from shalabench.api import Camera, Rng
from shalabench.nets.precision import autocast_off


def cross_sphere(origin: Tensor, direction: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """Distances `[...]` at which rays enter and leave a sphere around 0; equal where they miss.

    Args:
        origin: `[..., 3]`, outside the sphere.
        direction: `[..., 3]`, unit vectors.
        radius: Of the sphere.
    """
    along = -(origin * direction).sum(-1)  # to the point nearest to the sphere's centre
    half = (radius**2 - (origin.square().sum(-1) - along**2)).clamp(min=0).sqrt()
    return along - half, along + half


def cross_cube(origin: Tensor, direction: Tensor, half: float) -> tuple[Tensor, Tensor]:
    """Distances `[...]` at which rays enter and leave a cube around 0; equal where they miss.

    Args:
        origin: `[..., 3]`, outside the cube.
        direction: `[..., 3]`, unit vectors.
        half: Half the cube's edge.
    """
    # A direction along a face would divide 0 by 0 where the origin lies in its plane.
    inverse = 1 / torch.where(direction == 0, torch.finfo(direction.dtype).eps, direction)
    one, other = (-half - origin) * inverse, (half - origin) * inverse
    near, far = torch.minimum(one, other).amax(-1), torch.maximum(one, other).amin(-1)
    return near, torch.maximum(near, far)


class Rays(nn.Module):
    """Rays through the pixel centres of square views, and their part within a body.

    The body is a sphere or a cube around the origin. Nothing is outside it, so rays that miss it
    are white and need no samples. `lit` has the pixels of each view whose rays meet the body. It is
    padded to the same number for all views by pixels that miss the body, which render to white.

    Args:
        cameras: The cameras of the N views.
        side: H = W.
        size: Radius, or half the edge, of the body in units of the world.
        cross: The form of the body: `cross_sphere` or `cross_cube`.

    Attributes:
        origin: `[N, 3]`, position of each camera.
        direction: `[N, P, 3]`, unit vectors, P = H W, row by row.
        near: `[N, P]`, distance along the ray to the point where it enters the body.
        far: `[N, P]`, distance to the point where it leaves; equal to `near` if it misses.
        lit: `[N, K]` int64, numbers of pixels.
    """

    rotation: Tensor
    translation: Tensor
    focal: Tensor
    centre: Tensor
    origin: Tensor
    direction: Tensor
    near: Tensor
    far: Tensor
    lit: Tensor

    def __init__(
        self,
        cameras: Sequence[Camera],
        side: int,
        size: float,
        cross: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]] = cross_sphere,
    ):
        super().__init__()
        self.side = side
        exact: dict[str, Tensor] = {
            name: torch.tensor([getattr(c, name) for c in cameras], dtype=torch.float64)
            for name in ("rotation", "translation", "focal", "centre")
        }
        exact["origin"] = torch.tensor([c.position for c in cameras], dtype=torch.float64)
        middle = (torch.arange(side, dtype=torch.float64) + 0.5) / side
        place = torch.stack(torch.meshgrid(middle, middle, indexing="xy"), -1).flatten(0, 1)
        ahead = (place - exact["centre"][:, None]) / exact["focal"][:, None]  # [N, P, 2]
        ahead = torch.cat([ahead, torch.ones_like(ahead[..., :1])], -1)
        direction = ahead @ exact["rotation"]  # rows: the inverse rotation of each
        exact["direction"] = direction / direction.norm(dim=-1, keepdim=True)
        near, far = cross(exact["origin"][:, None], exact["direction"], size)
        exact |= {"near": near, "far": far}
        for name, x in exact.items():
            self.register_buffer(name, x.to(torch.get_default_dtype()), persistent=False)
        most = max(1, int((far > near).sum(1).max()))
        order = (far > near).int().argsort(dim=1, descending=True, stable=True)
        self.register_buffer("lit", order[:, :most].contiguous(), persistent=False)

    def cast(self, view: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Origins `[..., 3]`, directions `[..., 3]`, near and far `[...]` of pixels of views."""
        return (
            self.origin[view],
            self.direction[view, pixels],
            self.near[view, pixels],
            self.far[view, pixels],
        )

    def turn(self, vectors: Tensor, view: Tensor) -> Tensor:
        """Rotate vectors `[..., Q, 3]` of the world into the axes of cameras `view` `[...]`."""
        with autocast_off(vectors):
            return vectors @ self.rotation[view].transpose(-1, -2)

    def project(self, points: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Project points `[..., Q, 3]` of the world into the images of cameras `view` `[...]`.

        Returns:
            Positions `[..., Q, 2]` in image widths from the upper left corner, x first, and depths
            `[..., Q]` along the camera's axis.
        """
        x, y, depth = (self.turn(points, view) + self.translation[view][..., None, :]).unbind(-1)
        focal, centre = self.focal[view][..., None, :], self.centre[view][..., None, :]
        return torch.stack([x, y], -1) / depth[..., None] * focal + centre, depth

    def develop(self, colours: Tensor, view: Tensor) -> Tensor:
        """Whole views `[B, C, H, W]`, white except for the colours `[B, K, C]` of `lit` pixels."""
        white = colours.new_ones(len(colours), self.side**2, colours.shape[-1])
        index = self.lit[view][..., None].expand_as(colours)
        return white.scatter(1, index, colours).transpose(1, 2).unflatten(2, (self.side, -1))


def read_maps(maps: Tensor, place: Tensor) -> Tensor:
    """Features `[B, Q, F]` at places in maps, interpolated bilinearly; the border's beyond it.

    As `grid_sample` with padding "border", from maps whose channels come last. With many channels
    that is several times faster on a CPU: a place reads four rows, not four values a channel.

    Args:
        maps: `[B, h, w, F]`.
        place: `[B, Q, 2]` in widths and heights from the upper left corner, x first.
    """
    b, height, width, _ = maps.shape
    sides = (width, height)
    at = [(place[..., i] * side - 0.5).clamp(0, side - 1) for i, side in enumerate(sides)]
    left, top = (a.long() for a in at)
    x, y = at[0] - left, at[1] - top
    weight = torch.stack([(1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y], -1)  # [B, Q, 4]
    right, below = (left + 1).clamp(max=width - 1), (top + 1).clamp(max=height - 1)
    first = height * torch.arange(b, device=maps.device)[:, None]  # row of each map
    rows = [(first + r) * width + c for r in (top, below) for c in (left, right)]
    found = functional.embedding_bag(
        torch.stack(rows, -1).flatten(0, 1),
        maps.flatten(0, 2),
        mode="sum",
        per_sample_weights=weight.flatten(0, 1).to(maps),
    )
    return found.unflatten(0, (b, -1))


def stratify(near: Tensor, far: Tensor, place: Tensor) -> Tensor:
    """Depths `[..., S]`, one in each of S equal parts from near to far `[...]`.

    Args:
        near: The start of the first part.
        far: The end of the last part.
        place: `[..., S]` in [0, 1], the position of each depth in its part; 0.5 is the middle.
    """
    part = torch.arange(place.shape[-1], device=place.device) + place
    return near[..., None] + (far - near)[..., None] * part / place.shape[-1]


def middles(count: int, like: Tensor) -> Tensor:
    """The middles `[count]` of equal parts of [0, 1], for `resample` without random draws."""
    return ((torch.arange(count, device=like.device) + 0.5) / count).to(like)


def resample(near: Tensor, far: Tensor, weight: Tensor, place: Tensor) -> Tensor:
    """Depths `[..., K]` distributed by the weights of `stratify`'s parts (NeRF, section 5.2).

    Args:
        near: `[...]`, the start of the first of the S equal parts.
        far: `[...]`, the end of the last part.
        weight: `[..., S]` of the parts; a small constant is added, so that no part is left out.
        place: `[..., K]` in [0, 1], at which the piecewise linear distribution is inverted.
    """
    density = weight + 1e-5
    whole = (density / density.sum(-1, keepdim=True)).cumsum(-1)
    part = torch.searchsorted(whole, place.contiguous()).clamp(max=weight.shape[-1] - 1)
    above = whole.gather(-1, part)
    share = (density / density.sum(-1, keepdim=True)).gather(-1, part)
    within = ((place - (above - share)) / share).clamp(0, 1)
    return near[..., None] + (far - near)[..., None] * (part + within) / weight.shape[-1]


def gaps(depth: Tensor, far: Tensor) -> Tensor:
    """Lengths `[..., S]` from each sorted depth `[..., S]` to the next, and from the last to far.

    The part before the first depth is left out (NeRF, equation 3).
    """
    return torch.cat([depth, far[..., None]], -1).diff(dim=-1)


def composite(density: Tensor, colour: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """Colours of rays over white, by NeRF's quadrature (equation 3; Max 1995).

    Args:
        density: `[..., S]`, from near to far, per unit of the world.
        colour: `[..., S, C]`.
        length: `[..., S]`, length of each sample's part of the ray.

    Returns:
        Colours `[..., C]`, and the weight `[..., S]` of each sample in them.
    """
    thickness = density * length
    before = thickness.cumsum(-1) - thickness
    weight = torch.exp(-before) * -torch.expm1(-thickness)
    return (weight[..., None] * colour).sum(-2) + 1 - weight.sum(-1, keepdim=True), weight


def render_twice(
    look: Callable[[Tensor], tuple[Tensor, Tensor]],
    solid: Callable[[Tensor], Tensor],
    near: Tensor,
    far: Tensor,
    even: int,
    more: int,
    rng: Rng | None,
) -> Tensor:
    """Colours `[..., C]` from evenly spaced samples and further ones distributed by their weights.

    As in EG3D's code, a segment between two samples has the mean of their raw densities and
    colours (Max 1995, the midpoint rule).

    Args:
        look: From depths `[..., S]` to raw densities `[..., S]` and colours `[..., S, C]`. These
            may be of several objects, where the depths are of one.
        solid: From raw densities to positive ones, per unit of the world.
        near: `[...]`, the start of the first of the even parts.
        far: `[...]`, the end of the last part.
        even: Number of parts, each with one sample.
        more: Number of further samples.
        rng: Draws the position of samples in their parts; None takes the middles.
    """

    def place(what: str, middle: Tensor) -> Tensor:
        size = *shape, len(middle)
        return middle.expand(size) if rng is None else rng.fork(what).uniform(*size)

    shape = near.shape
    depth = stratify(near, far, place("even", near.new_full((even,), 0.5)))
    density, colour = look(depth)
    if more:
        shape, depth = density.shape[:-1], depth.expand(density.shape)
        with torch.no_grad():  # the weight of a part is that of its sample
            length = ((far - near) / even)[..., None]
            weight = composite(solid(density), colour, length)[1]
            further = resample(near, far, weight, place("more", middles(more, near)))
        depth, order = torch.cat([depth, further], -1).sort(-1)
        also = look(further)
        density = torch.cat([density, also[0]], -1).gather(-1, order)
        colour = torch.cat([colour, also[1]], -2)
        colour = colour.gather(-2, order[..., None].expand_as(colour))
    density = (density[..., 1:] + density[..., :-1]) / 2
    colour = (colour[..., 1:, :] + colour[..., :-1, :]) / 2
    return composite(solid(density), colour, depth.diff(dim=-1))[0]

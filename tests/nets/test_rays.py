"""Rays, samples and volume rendering against loops, a closed form, and the cameras' projection."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from shalabench.api import Camera
from shalabench.nets.planes import read_planes
from shalabench.nets.rays import (
    Rays,
    composite,
    cross_sphere,
    gaps,
    read_maps,
    render_twice,
    resample,
    stratify,
)

pytestmark = pytest.mark.float64

SIDE = 16
CAMERAS = [Camera.orbit(22.5 * i, 30, 1.5, 280 / 256) for i in range(5)]
# Off the middle, not square, and elsewhere: nothing may rely on a rig's symmetry.
CAMERAS.append(
    Camera(
        Camera.orbit(100, -20, 1, 1).rotation, (0.1, -0.05, 1.7), (1.2, 0.9), centre=(0.47, 0.56)
    )
)


def rays(radius=0.6):
    return Rays(CAMERAS, SIDE, radius)


def test_a_point_on_a_pixel_s_ray_is_seen_in_the_pixel_s_middle():
    r = rays()
    for view, camera in enumerate(CAMERAS):
        for pixel in (0, 5, 37, 120, 255):
            origin, direction, *_ = r.cast(torch.tensor(view), torch.tensor(pixel))
            for distance in (0.7, 2.3):
                point = origin + distance * direction
                row, column = divmod(pixel, SIDE)
                middle = torch.tensor([(column + 0.5) / SIDE, (row + 0.5) / SIDE])
                x, y, depth = camera.project(tuple(point.tolist()))
                torch.testing.assert_close(torch.tensor([x, y]), middle, rtol=0, atol=1e-9)
                place, far = r.project(point[None], torch.tensor(view))
                torch.testing.assert_close(place[0], middle, rtol=0, atol=1e-9)
                assert far.item() == pytest.approx(depth, abs=1e-12)


def test_directions_are_unit_vectors_and_turn_into_the_camera_s_axes():
    r = rays()
    torch.testing.assert_close(r.direction.norm(dim=-1), torch.ones(6, SIDE**2))
    for view, camera in enumerate(CAMERAS):
        own = r.turn(torch.tensor([[0.3, -1.0, 2.0]]), torch.tensor(view))[0]
        due = [
            sum(a * b for a, b in zip(row, (0.3, -1, 2), strict=True)) for row in camera.rotation
        ]
        torch.testing.assert_close(own, torch.tensor(due))


def test_vectors_turn_as_exactly_under_autocast():
    cast = rays().float()
    vectors, view = torch.randn(2, 5, 3).float(), torch.tensor([0, 1])
    exact = cast.turn(vectors, view)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(cast.turn(vectors, view), exact, rtol=0, atol=0)


def test_a_ray_s_part_ends_on_the_sphere_and_is_empty_where_it_misses():
    r = rays(0.4)
    seen = r.far > r.near
    assert 0 < seen.float().mean() < 1
    for end in (r.near, r.far):
        points = r.origin[:, None] + end[..., None] * r.direction
        torch.testing.assert_close(points.norm(dim=-1)[seen], torch.full((int(seen.sum()),), 0.4))
    inward = r.origin[:, None] + ((r.near + r.far) / 2)[..., None] * r.direction
    assert inward.norm(dim=-1)[~seen].min() >= 0.4
    near, far = cross_sphere(torch.tensor([2.0, 0, 0]), torch.tensor([-1.0, 0, 0]), 0.5)
    assert (near.item(), far.item()) == (1.5, 2.5)


def test_lit_pixels_are_those_that_see_the_sphere_and_the_others_are_white():
    r = rays(0.4)
    seen = r.far > r.near
    for view in range(len(CAMERAS)):
        here = set(seen[view].nonzero()[:, 0].tolist())
        assert here <= set(r.lit[view].tolist())
        assert len(set(r.lit[view].tolist())) == r.lit.shape[1] == seen.sum(1).max()
    view = torch.tensor([1, 3])
    colours = torch.rand(2, r.lit.shape[1], 3)
    made = r.develop(colours, view)
    assert made.shape == (2, 3, SIDE, SIDE)
    for b, v in enumerate(view.tolist()):
        left = set(range(SIDE**2))
        for k, pixel in enumerate(r.lit[v].tolist()):
            row, column = divmod(pixel, SIDE)
            assert torch.equal(made[b, :, row, column], colours[b, k])
            left.discard(pixel)
        assert left
        assert all((made[b].flatten(1)[:, pixel] == 1).all() for pixel in left)


def test_volume_rendering_equals_nerf_s_sum_ray_by_ray():
    density, colour = 4 * torch.rand(3, 4, 7), torch.rand(3, 4, 7, 2)
    depth, far = torch.rand(3, 4, 7).sort(-1).values, torch.full((3, 4), 1.3)
    seen, weight = composite(density, colour, gaps(depth, far))
    for i in range(3):
        for j in range(4):
            light, total = 1.0, torch.zeros(2)
            for s in range(7):
                end = depth[i, j, s + 1] if s < 6 else far[i, j]
                opaque = 1 - math.exp(-density[i, j, s] * (end - depth[i, j, s]))
                total = total + light * opaque * colour[i, j, s]
                assert weight[i, j, s].item() == pytest.approx(light * opaque)
                light = light * (1 - opaque)
            torch.testing.assert_close(seen[i, j], total + light)


def test_a_homogeneous_slab_shows_beer_and_lambert_s_law():
    near, far, sigma = torch.tensor(0.9), torch.tensor(2.1), 1.7
    depth = stratify(near, far, torch.zeros(40))
    seen, weight = composite(torch.full((40,), sigma), torch.full((40, 3), 0.25), gaps(depth, far))
    through = math.exp(-sigma * 1.2)
    torch.testing.assert_close(seen, torch.full((3,), 0.25 * (1 - through) + through))
    assert weight.sum().item() == pytest.approx(1 - through)


def test_an_opaque_ball_is_drawn_where_its_middle_is_projected():
    middle = torch.tensor([0.15, -0.1, 0.2])
    r = Rays(CAMERAS, 48, 0.6)
    line = (torch.arange(48) + 0.5) / 48
    for v, camera in enumerate(CAMERAS):
        view = torch.tensor([v])
        cast = r.cast(view[:, None], r.lit[view])
        origin, direction, near, far = cast
        depth = stratify(near, far, torch.full((*near.shape, 96), 0.5))
        points = origin[..., None, :] + depth[..., None] * direction[..., None, :]
        density = 500.0 * ((points - middle).norm(dim=-1) < 0.12)
        seen, _ = composite(density, torch.zeros(*depth.shape, 1), gaps(depth, far))
        dark = 1 - r.develop(seen, view)[0, 0]
        x, y, z = camera.project(tuple(middle.tolist()))
        assert (dark.sum(0) * line).sum() / dark.sum() == pytest.approx(x, abs=0.3 / 48)
        assert (dark.sum(1) * line).sum() / dark.sum() == pytest.approx(y, abs=0.3 / 48)
        area = math.pi * camera.focal[0] * camera.focal[1] * (0.12 / z) ** 2 * 48**2
        assert dark.sum().item() == pytest.approx(area, rel=0.1)


def test_strata_hold_one_sample_each():
    near, far = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 5.0])
    place = torch.rand(2, 10)
    depth = stratify(near, far, place)
    for i in range(2):
        for s in range(10):
            width = (far[i] - near[i]) / 10
            assert depth[i, s].item() == pytest.approx((near[i] + (s + place[i, s]) * width).item())


def test_samples_follow_the_weights():
    near, far = torch.tensor([1.0]), torch.tensor([3.0])
    weight = torch.tensor([[0.1, 0.0, 0.6, 0.3]])
    place = (torch.arange(4000) + 0.5)[None] / 4000
    depth = resample(near, far, weight, place)[0]
    counted = torch.histc(depth, 4, 1, 3) / 4000
    torch.testing.assert_close(counted, weight[0], atol=1e-3, rtol=0)
    within = depth[(depth > 2) & (depth < 2.5)]  # evenly within a part
    assert within.mean().item() == pytest.approx(2.25, abs=1e-3)
    assert within.var().item() == pytest.approx(0.25 / 12, rel=1e-2)
    assert (depth.diff() >= 0).all()


def test_maps_are_read_as_by_grid_sample_with_the_border_beyond():
    maps, place = torch.rand(2, 5, 7, 3), 1.6 * torch.rand(2, 40, 2) - 0.3
    place[0, :4] = torch.tensor([[0.0, 0.0], [1.0, 1.0], [6.5 / 7, 4.5 / 5], [0.5, 0.5]])
    due = functional.grid_sample(
        maps.movedim(-1, 1),
        (2 * place - 1)[:, None],
        padding_mode="border",
        align_corners=False,
    )
    torch.testing.assert_close(read_maps(maps, place), due[:, :, 0].transpose(1, 2))
    maps.requires_grad_()
    (slope,) = torch.autograd.grad(read_maps(maps, place).square().sum(), maps)
    (other,) = torch.autograd.grad(
        (
            functional.grid_sample(
                maps.movedim(-1, 1),
                (2 * place - 1)[:, None],
                padding_mode="border",
                align_corners=False,
            )
            ** 2
        ).sum(),
        maps,
    )
    torch.testing.assert_close(slope, other)


def test_points_that_all_objects_share_are_read_as_points_of_each():
    planes = torch.rand(3, 3, 2, 4, 6, requires_grad=True)
    place = 2.6 * torch.rand(1, 50, 3) - 1.3  # some are outside
    one, each = read_planes(planes, place), read_planes(planes, place.expand(3, -1, -1))
    torch.testing.assert_close(one, each)
    slopes = [torch.autograd.grad(x.square().sum(), planes)[0] for x in (one, each)]
    torch.testing.assert_close(*slopes)


def test_objects_before_one_camera_are_rendered_as_by_a_camera_each():
    density, colour = torch.randn(3, 4, 1), torch.rand(3, 4, 1, 2)
    near, far = torch.rand(1, 4), 1 + torch.rand(1, 4)

    def look(depth):
        return density + depth.sin(), colour * depth.cos()[..., None]

    one = render_twice(look, torch.exp, near, far, 5, 4, None)
    each = render_twice(look, torch.exp, near.expand(3, -1), far.expand(3, -1), 5, 4, None)
    torch.testing.assert_close(one, each)

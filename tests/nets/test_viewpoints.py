"""What one camera sees of what another sees, in a scene of two planes; angles; refusals."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from shalabench.api import Camera, DataSpec, Modality
from shalabench.nets.viewpoints import angle, seen_from, why_no_views

pytestmark = pytest.mark.float64

SIDE = 64
AHEAD = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
LEFT = Camera(AHEAD, (0.0, 0.0, 0.0), (1.0, 1.0))
RIGHT = Camera(AHEAD, (-0.5, 0.0, 0.0), (1.0, 1.0))  # half a unit to the right
WALL, SCREEN, EDGE = 2.0, 1.0, 0.25  # depths; the screen covers |x| < .25, all of y


def depth_of(camera):
    """Depth `[1, SIDE, SIDE]` of a wall behind a screen, by intersection."""
    u = (torch.arange(SIDE, dtype=torch.float64) + 0.5) / SIDE - 0.5
    x = u * SCREEN - camera.translation[0]  # where the ray meets the screen's plane
    return torch.where(x.abs() < EDGE, SCREEN, WALL).expand(1, SIDE, SIDE)


def is_seen(depth, camera, given):
    """The same from the scene itself: does the screen stand between the point and the camera?"""
    u = (torch.arange(SIDE, dtype=torch.float64) + 0.5) / SIDE - 0.5
    x = u * depth[0, 0] - camera.translation[0]  # world, [SIDE]
    place = (x + given.translation[0]) / depth[0, 0] + 0.5
    centre = -given.translation[0]
    crossing = centre + (x - centre) * SCREEN / depth[0, 0]
    hidden = (depth[0, 0] > SCREEN) & (crossing.abs() < EDGE)
    return (place >= 0) & (place < 1) & ~hidden


@pytest.mark.parametrize(("camera", "given"), [(LEFT, RIGHT), (RIGHT, LEFT)])
def test_a_point_is_seen_unless_the_plane_before_it_hides_it(camera, given):
    depth, other = depth_of(camera), depth_of(given)
    seen = seen_from(depth, camera, other, given)[0]
    expected = is_seen(depth, camera, given)
    assert (seen == seen[0]).all()
    wrong = (seen[0] != expected).nonzero()[:, 0]
    assert len(wrong) <= 1  # the pixel on the shadow's edge
    hidden = (depth[0, 0] == WALL) & ~expected
    assert hidden.sum() >= 8
    assert expected.sum() >= 8


def test_a_view_sees_all_of_itself():
    depth = depth_of(LEFT)
    assert seen_from(depth, LEFT, depth, LEFT).all()
    assert seen_from(depth.half(), LEFT, depth.half(), LEFT).all()


def test_where_there_is_no_surface_nothing_is_seen():
    depth = depth_of(LEFT).clone()
    depth[0, :5] = 0
    seen = seen_from(depth, LEFT, depth_of(LEFT), LEFT)
    assert not seen[0, :5].any()
    assert seen[0, 5:].all()


def test_a_point_behind_the_other_camera_is_not_seen():
    behind = Camera(AHEAD, (0.0, 0.0, -3.0), (1.0, 1.0))
    assert not seen_from(depth_of(LEFT), LEFT, torch.full((1, SIDE, SIDE), 9.0), behind).any()


def test_each_tuple_is_judged_by_its_own_depth():
    near = torch.full((1, SIDE, SIDE), 0.5, dtype=torch.float64)
    depth = depth_of(LEFT)
    both = seen_from(depth.repeat(2, 1, 1), LEFT, torch.cat([depth, near]), LEFT)
    assert both[0].all()
    assert not both[1].any()


def test_a_ring_s_opposite_cameras_differ_by_twice_the_zenith_s_angle():
    ring = [Camera.orbit(i * 22.5, 30, 1.5, 280 / 256) for i in range(16)]
    assert angle(ring[0], ring[0]) == pytest.approx(0, abs=1e-5)
    assert angle(ring[0], ring[8]) == pytest.approx(120)
    assert angle(ring[0], ring[3]) == pytest.approx(angle(ring[0], ring[13]))


def test_data_that_are_no_views_are_refused_with_the_reason():
    view = Modality("a", "image", (3, 8, 8), camera=LEFT)
    spec = DataSpec("d", 1, (view, replace(view, name="b")), 0, {}, "", "")
    assert why_no_views(spec) is None
    bare = replace(spec, modalities=(view, Modality("b", "image", (3, 8, 8))))
    assert why_no_views(bare) == "The dataset 'd' has no cameras for b."
    assert "one view only" in why_no_views(replace(spec, modalities=(view,)))
    other = replace(spec, modalities=(view, replace(view, name="b", shape=(3, 9, 9))))
    assert "not squares of one size" in why_no_views(other)

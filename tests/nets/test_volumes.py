"""The shared volume's geometry: where voxels are seen, what a frustum meets, what nothing adds."""

from __future__ import annotations

import math

import pytest
import torch

from shalabench.api import Camera
from shalabench.nets.unet import UNet
from shalabench.nets.volumes import (
    DepthAttention,
    SharedVolume,
    VolumeConfig,
    frustum,
    project,
    unproject,
    voxels,
)

pytestmark = pytest.mark.float64

RING = [Camera.orbit(90.0 * k, 30.0, 1.5, 280 / 256) for k in range(4)]
SMALL = VolumeConfig(side=4, depths=4, view_width=8, width=8, frustum_width=8, heads=2)


def test_projection_agrees_with_the_camera_s_own():
    points = torch.rand(7, 3, dtype=torch.float64) - 0.5
    for camera, seen in zip(RING, project(RING, points), strict=True):
        for point, place in zip(points, seen, strict=True):
            assert place.tolist() == pytest.approx(camera.project(tuple(point.tolist())))


def test_a_frustum_s_points_are_seen_at_the_pixels_and_depths_that_they_stand_for():
    depths = torch.tensor([0.7, 1.5, 2.2], dtype=torch.float64)
    for camera in RING:
        points = frustum(camera, 5, depths)
        assert points.shape == (3, 5, 5, 3)
        for d, v, u in ((0, 0, 4), (1, 2, 2), (2, 4, 1)):
            due = ((u + 0.5) / 5, (v + 0.5) / 5, depths[d].item())
            assert camera.project(tuple(points[d, v, u].tolist())) == pytest.approx(due)


def test_a_voxel_gets_the_feature_of_the_pixel_that_shows_it():
    """Each view's feature map holds its own pixel coordinates; bilinear reading returns them."""
    side, pixels = 6, 64
    centres = voxels(side, 0.3)
    seen = project(RING, centres)[..., :2]  # [N, V, V, V, 2] in widths
    line = (torch.arange(pixels, dtype=torch.float64) + 0.5) / pixels
    v, u = torch.meshgrid(line, line, indexing="ij")
    maps = torch.stack([u, v]).expand(1, len(RING), 2, pixels, pixels)
    found = unproject(maps, 2 * seen - 1)[0].unflatten(0, (len(RING), 2))  # [N, 2, V, V, V]
    torch.testing.assert_close(found.movedim(1, -1), seen, rtol=0, atol=1e-9)


def test_a_point_goes_through_volume_and_frustum_to_its_own_pixel():
    """A blob put into the volume around a point is met on the ray that shows the point."""
    side, pixels, half = 32, 64, 0.5
    point = torch.tensor([0.11, -0.23, 0.17], dtype=torch.float64)
    blob = (-(voxels(side, half) - point).square().sum(-1) / (2 * 0.05**2)).exp()
    steps = 1.5 + 3**0.5 / 2 * ((torch.arange(48, dtype=torch.float64) + 0.5) / 24 - 1)
    for camera in RING:
        grid = frustum(camera, pixels, steps) / half
        met = torch.nn.functional.grid_sample(blob[None, None], grid[None], align_corners=False)
        picture = met[0, 0].sum(0)
        line = torch.arange(pixels, dtype=torch.float64) + 0.5
        x = (picture.sum(0) * line).sum() / picture.sum()
        y = (picture.sum(1) * line).sum() / picture.sum()
        due = camera.project(tuple(point.tolist()))
        assert math.dist((x, y), (due[0] * pixels, due[1] * pixels)) < 0.5


def test_depth_attention_equals_a_loop_over_pixels_and_heads():
    torch.manual_seed(0)
    net = DepthAttention(8, 8, 2).double()
    torch.nn.init.normal_(net.leave.weight)
    h, along = torch.randn(2, 8, 3, 3).double(), torch.randn(2, 8, 5, 3, 3).double()
    ours = net(h, along)
    active = torch.nn.functional.silu(net.norm(along))
    query, key, value = net.query(h), net.key(active), net.value(active)
    for b in range(2):
        for y in range(3):
            for x in range(3):
                found = []
                for head in (slice(0, 4), slice(4, 8)):
                    scores = [query[b, head, y, x] @ key[b, head, d, y, x] / 2 for d in range(5)]
                    weights = torch.stack(scores).softmax(0)
                    found.append(sum(w * value[b, head, d, y, x] for d, w in enumerate(weights)))
                added = net.leave.weight[:, :, 0, 0] @ torch.cat(found)
                torch.testing.assert_close(ours[b, :, y, x], h[b, :, y, x] + added)


@pytest.fixture
def looking():
    torch.manual_seed(0)
    unet = UNet(3, 0, 8, 8, 1, bottom=2)
    shared = SharedVolume(RING, 3, 8, unet.levels, SMALL).double()
    for net in shared.attention:
        torch.nn.init.normal_(net.leave.weight)
    return shared, [torch.randn(2, channels, side, side) for channels, side in unet.levels]


def test_a_volume_of_zeros_adds_nothing_at_any_scale(looking):
    shared, features = looking
    attend = shared.attend(torch.zeros(2, 8, 4, 4, 4), torch.tensor([3, 500]), torch.tensor([0, 2]))
    for level, h in enumerate(features):
        assert torch.equal(attend(level, h), h)


def test_every_noisy_view_reaches_every_target_through_the_volume(looking):
    shared, features = looking
    t, target = torch.tensor([3, 500]), torch.tensor([1, 2])
    views = torch.randn(2, 4, 3, 8, 8, requires_grad=True)
    attend = shared.attend(shared.build(views, t), t, target)
    total = sum((attend(level, h) - h).square().sum() for level, h in enumerate(features))
    (slope,) = torch.autograd.grad(total, views)
    assert (slope.abs().amax((2, 3, 4)) > 0).all()

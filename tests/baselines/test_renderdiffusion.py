"""RenderDiffusion's objective against a loop over rays, what supervises it, and its planes."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from helpers.cameras import NAMES, RING, N, spec_of

from baselines.renderdiffusion import RenderDiffusion
from shalabench.api import Rng
from shalabench.nets.planes import PlaneField
from shalabench.nets.rays import Rays, composite, cross_cube, stratify

pytestmark = pytest.mark.float64

SIDE = 8


def build(dtype=torch.float64, **settings):
    torch.set_default_dtype(dtype)  # float32 as in use, where the weights are
    small = {"width": 8, "blocks": 1, "bottom": 2, "plane_width": 4, "hidden": 6, "samples": 5}
    small |= {"timesteps": 20, "sampling_steps": 20}
    model = RenderDiffusion(spec_of(RING), RenderDiffusion.Config(**{**small, **settings}))
    torch.nn.init.normal_(model.unet.leave[-1].weight)
    return model.to(dtype).eval()


def views_of(n, dtype=torch.float64):
    made = torch.rand(n, N, 3, SIDE, SIDE, dtype=dtype)
    made[..., :3] = 1
    return {name: made[:, k] for k, name in enumerate(NAMES)}


def plane_at(plane, a, b):
    """Bilinear reading of a plane `[P, H, W]` at (a, b) in -1..1, columns by a, rows by b."""
    side = plane.shape[-1]
    x, y, total = (a + 1) / 2 * side - 0.5, (b + 1) / 2 * side - 0.5, 0
    for column in (math.floor(x), math.floor(x) + 1):
        for row in (math.floor(y), math.floor(y) + 1):
            if 0 <= column < side and 0 <= row < side:
                total = total + (1 - abs(x - column)) * (1 - abs(y - row)) * plane[:, row, column]
    return total


def shine(model, planes, camera, pixel, place):
    """One ray over white, sample by sample."""
    v, u = divmod(pixel, SIDE)
    ahead = [(u + 0.5) / SIDE - 0.5, (v + 0.5) / SIDE - 0.5]
    ahead = [ahead[0] / camera.focal[0], ahead[1] / camera.focal[1], 1.0]
    direction = [sum(camera.rotation[i][k] * ahead[i] for i in range(3)) for k in range(3)]
    near, far, half = -math.inf, math.inf, model.config.half
    for o, d in zip(camera.position, direction, strict=True):
        near = max(near, min((-half - o) / d, (half - o) / d))
        far = min(far, max((-half - o) / d, (half - o) / d))
    light, colour = 1.0, torch.zeros(3)
    for s in range(len(place)) if far > near else ():
        depth = near + (far - near) * (s + place[s].item()) / len(place)
        x, y, z = ((o + depth * d) / half for o, d in zip(camera.position, direction, strict=True))
        found = plane_at(planes[0], x, y) + plane_at(planes[1], x, z) + plane_at(planes[2], y, z)
        raw = model.field.layers(found / 3)
        density = 20 * torch.log1p(torch.exp(raw[0] - 3))
        opaque = 1 - torch.exp(-density * (far - near) / len(place) * math.hypot(*direction))
        colour = colour + light * opaque * (torch.sigmoid(raw[1:]) * 1.002 - 0.001)
        light = light * (1 - opaque)
    return colour + light


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"error": "squared", "patch": 2, "code": True, "clean": 0.5},
        {"multiview_supervision": True},
    ],
)
def test_the_objective_and_its_gradient_equal_a_loop_over_rays(settings):
    model = build(rays=6, network={"family": "conv", "width": 0.1, "hidden": 5}, **settings)
    c = model.config
    multiview = c.multiview_supervision
    views, b = views_of(3), 3
    ours, terms = model._loss(SimpleNamespace(views=views), Rng(9), 0)
    rng = Rng(9)
    view, t = rng.fork("view").integers(N, b), rng.fork("t").integers(21, b)
    t = t * (rng.fork("clean").uniform(b) >= c.clean)
    if c.clean:
        assert set((t == 0).tolist()) == {False, True}
    noise, second = (
        rng.fork("noise").normal(b, 3, SIDE, SIDE),
        rng.fork("other view").integers(N, b),
    )
    total, count = 0, 0
    for i in range(b):
        clean = 2 * views[NAMES[view[i]]][i] - 1
        noisy = model._schedule.signal[t[i]] * clean + model._schedule.sigma[t[i]] * noise[i]
        pose = torch.tensor([*sum(RING[view[i]].rotation, ()), *RING[view[i]].position])
        known = [pose] if model.code is None else [pose, model.code((noisy[None] + 1) / 2)[0]]
        patches = torch.nn.functional.pixel_unshuffle(noisy[None], c.patch)
        planes = model.unet(patches, t[i : i + 1], None, model.look(torch.cat(known))[None])
        planes = planes.view(3, 4, SIDE // c.patch, SIDE // c.patch)
        for name, number in (("own", view), ("other", second))[: 1 + multiview]:
            images = torch.stack([views[NAMES[number[k]]][k] for k in range(b)])
            pixels = model._pixels(images, rng.fork(name).fork("pixels"))[i]
            place = rng.fork(name).fork("place").uniform(b, 6, 5)[i]
            for k, pixel in enumerate(pixels.tolist()):
                due = images[i].flatten(1)[:, pixel]
                off = shine(model, planes, RING[number[i]], pixel, place[k]) - due
                total = total + (off.abs() if c.error == "absolute" else off**2).sum()
                count += 3
    loop = total / (count / (1 + multiview))
    assert set(terms) == {"own", "other"} if multiview else {"own"}
    torch.testing.assert_close(ours, loop)
    weights = list(model.parameters())
    for own, due in zip(
        torch.autograd.grad(ours, weights), torch.autograd.grad(loop, weights), strict=True
    ):
        torch.testing.assert_close(own, due)


def test_only_the_noised_view_of_an_object_supervises_by_default():
    model, views = build(), views_of(4)
    for image in views.values():
        image.requires_grad_()
    rng = Rng(7)
    model._loss(SimpleNamespace(views=views), rng, 0)[0].backward()
    used = torch.stack([views[name].grad.flatten(1).abs().amax(1) > 0 for name in NAMES], 1)
    due = torch.nn.functional.one_hot(Rng(7).fork("view").integers(N, 4), N).bool()
    assert torch.equal(used, due)


def test_a_dense_field_hides_and_an_empty_one_shows_white():
    colour = torch.tensor([[[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]]).expand(3, 2, 3)
    density = torch.tensor([[1e4, 1e4], [0.0, 1e4], [0.0, 0.0]])
    due = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 1.0]])
    torch.testing.assert_close(composite(density, colour, torch.ones(3, 1))[0], due)


def test_rays_enter_and_leave_the_cube_where_its_faces_are():
    origin = torch.tensor([2.0, 0.0, 0.0])
    slope = math.hypot(1, 0.1)
    directions = torch.tensor([[-1.0, 0, 0], [-1 / slope, 0.1 / slope, 0], [0.0, 1.0, 0]])
    near, far = cross_cube(origin, directions, 0.5)
    torch.testing.assert_close(near[:2], torch.tensor([1.5, 1.5 * slope]))
    torch.testing.assert_close(far[:2], torch.tensor([2.5, 2.5 * slope]))
    assert near[2] == far[2]


def test_a_ball_in_the_field_is_drawn_where_each_camera_sees_it():
    side, centre = 48, torch.tensor([0.2, -0.1, 0.15])
    rays = Rays(RING, side, 0.5, cross_cube).double()
    view = torch.arange(N)[:, None].expand(N, side * side)
    origin, direction, near, far = rays.cast(view, torch.arange(side * side).expand(N, -1))
    depth = stratify(near, far, torch.full((N, side * side, 64), 0.5))
    points = origin[..., None, :] + depth[..., None] * direction[..., None, :]
    inside = (points - centre).norm(dim=-1) < 0.1
    length = ((far - near) / 64)[..., None]
    seen = 1 - composite(200.0 * inside, torch.zeros(*inside.shape, 1), length)[0][..., 0]
    line = torch.arange(side) + 0.5
    for camera, picture in zip(RING, seen.view(N, side, side), strict=True):
        x = (picture.sum(0) * line).sum() / picture.sum()
        y = (picture.sum(1) * line).sum() / picture.sum()
        u, v, _ = camera.project(tuple(centre.tolist()))
        assert math.dist((x, y), (u * side, v * side)) < 0.5


def test_the_planes_are_of_xy_xz_and_yz():
    field = PlaneField(1, 2, 3, 0.5)
    field.layers = torch.nn.Identity()
    line = (torch.arange(4.0) + 0.5) / 4 * 2 - 1
    for plane, (first, second) in enumerate(((0, 1), (0, 2), (1, 2))):
        for axis, ramp in ((first, line.expand(4, 4)), (second, line[:, None].expand(4, 4))):
            planes = torch.zeros(1, 3, 1, 4, 4)
            planes[0, plane, 0] = ramp
            points = torch.tensor([[[0.1, -0.2, 0.3]]])
            density, _ = field(planes, points)
            due = 20 * torch.nn.functional.softplus(points[0, 0, axis] / 0.5 / 3 - 3)
            torch.testing.assert_close(density[0, 0], due)


def test_half_of_the_rays_go_to_what_is_not_white():
    model = build(rays=4000)
    image = torch.ones(2, 3, SIDE, SIDE)
    image[0, 1, 2, 5] = 0.2  # a single dark pixel; the other view is blank
    drawn = model._pixels(image, Rng(0))
    assert abs((drawn[0] == 2 * SIDE + 5).double().mean() - (0.5 + 0.5 / 64)) < 0.03
    assert drawn[1].unique().numel() == SIDE * SIDE


def test_without_a_number_every_pixel_is_cast_once():
    drawn = build(rays=0)._pixels(torch.rand(2, 3, SIDE, SIDE), Rng(0))
    assert torch.equal(drawn, torch.arange(SIDE * SIDE).expand(2, -1))


@torch.no_grad()
def test_a_reconstruction_without_noise_is_one_pass_and_with_noise_the_last_step_s_planes():
    views = views_of(2, torch.float32)
    model = build(torch.float32)
    seen = model.translate({"v1": views["v1"]}, ["v3"], Rng(0))["v3"]
    number = torch.full((2,), 1)
    planes = model.planes(2 * views["v1"] - 1, torch.zeros(2).long(), number)
    torch.testing.assert_close(seen, model.render(planes, torch.full((2,), 3)))
    noisy = build(torch.float32, start=0.5)
    noisy.load_state_dict(model.state_dict())
    called = []
    noisy.planes = lambda *args: called.append(model.planes(*args)) or called[-1]
    seen = noisy.translate({"v1": views["v1"]}, ["v3"], Rng(0))["v3"]
    assert len(called) == 10
    torch.testing.assert_close(seen, model.render(called[-1], torch.full((2,), 3)))


@torch.no_grad()
def test_the_planes_of_several_given_views_are_averaged():
    model, views = build(torch.float32), views_of(2, torch.float32)
    given = {name: views[name] for name in ("v0", "v2")}
    planes = [
        model.planes(2 * x - 1, torch.zeros(2).long(), torch.full((2,), NAMES.index(name)))
        for name, x in given.items()
    ]
    seen = model.translate(given, ["v1"], Rng(0))["v1"]
    torch.testing.assert_close(seen, model.render(sum(planes) / 2, torch.full((2,), 1)))


@torch.no_grad()
def test_objects_beyond_the_first_sixteen_have_their_own_randomness():
    model, views = build(torch.float32, start=0.5, sampling_steps=2), views_of(18, torch.float32)
    whole = model.translate({"v0": views["v0"]}, ["v1"], Rng(0))["v1"]
    last = model.translate({"v0": views["v0"][17:]}, ["v1"], Rng(0, first=17))["v1"]
    torch.testing.assert_close(whole[17:], last, rtol=1e-4, atol=1e-5)
    assert (
        model.sample(18, Rng(1))["v2"][17:] - model.sample(1, Rng(1, first=17))["v2"]
    ).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (spec_of([None] * 4), "no cameras"),
        (spec_of(RING, (3, 8, 6)), "not squares"),
        (spec_of([RING[0], RING[2], RING[1], RING[3]]), None),
    ],
)
def test_what_has_no_cameras_is_skipped_with_the_reason(spec, reason):
    found = RenderDiffusion.skip(spec, RenderDiffusion.Config())
    assert found is None if reason is None else reason in found

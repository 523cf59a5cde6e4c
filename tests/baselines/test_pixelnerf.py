"""pixelNeRF's objective against a loop over rays and samples, and what its field reads."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from helpers.cameras import NAMES, RING, N, spec_of

from baselines.pixelnerf import PixelNeRF, encode
from shalabench.api import Rng

pytestmark = pytest.mark.float64

SIDE = 8
SMALL = {
    "channels": (8, 8),
    "stem": 1,
    "encoder_blocks": 1,
    "width": 6,
    "blocks": 4,
    "radius": 0.5,
    "samples": 5,
    "importance": 3,
    "around": 2,
    "rays": 3,
}


def build(**settings):
    model = PixelNeRF(spec_of(RING), PixelNeRF.Config(**{**SMALL, **settings}))
    for field in (model.coarse, model.fine):
        for block in field.blocks:  # as they start they are empty
            torch.nn.init.normal_(block[3].weight, std=0.3)
    return model.eval()


def views_of(n):
    made = torch.rand(n, N, 3, SIDE, SIDE)
    made[..., :3] = 1
    return {name: made[:, k] for k, name in enumerate(NAMES)}


def read_map(features, x, y):
    """Bilinear reading of `[F, h, w]` at (x, y) in widths, the border's pixels beyond it."""
    side = features.shape[-1]
    x, y = (min(max(a * side - 0.5, 0), side - 1) for a in (x, y))
    total = 0
    for column in {math.floor(x), min(math.floor(x) + 1, side - 1)}:
        for row in {math.floor(y), min(math.floor(y) + 1, side - 1)}:
            total = total + (1 - abs(x - column)) * (1 - abs(y - row)) * features[:, row, column]
    return total


def field_by_formula(model, field, features, cameras, point, direction):
    """Density and colour at one point of the world, given `[F, h, w]` of each camera's view."""
    states = []
    for own, camera in zip(features, cameras, strict=True):
        turn = torch.tensor(camera.rotation)
        x, y, _ = camera.project(tuple(point.tolist()))
        seen, local = read_map(own, x, y), turn @ point
        angles = [1.5 * 2**k * a for k in range(6) for a in local]
        known = [*local, *map(torch.sin, angles), *map(torch.cos, angles), *(turn @ direction)]
        states.append((field.enter(torch.stack(known)), seen))
    width = model.config.width
    weight, bias = field.inject.weight[:, :, 0, 0], field.inject.bias
    for number in range(3):
        rows = slice(number * width, (number + 1) * width)
        states = [(h + weight[rows] @ seen + bias[rows], seen) for h, seen in states]
        states = [(h + field.blocks[number](h), seen) for h, seen in states]
    h = sum(h for h, _ in states) / len(states)
    for block in field.blocks[3:]:
        h = h + block(h)
    raw = field.leave(torch.relu(h))
    density = torch.relu(raw[3])
    if model.config.density == "softplus":
        density = torch.log1p(torch.exp(raw[3] - 1))
    return model.config.density_unit * density, torch.sigmoid(raw[:3])


def shine(model, field, features, cameras, origin, direction, depths, far):
    """One ray over white, and the weight of each sample."""
    light, colour, weights = 1.0, torch.zeros(3), []
    for depth, end in zip(depths, [*depths[1:], far], strict=True):
        point = origin + depth * direction
        density, own = field_by_formula(model, field, features, cameras, point, direction)
        opaque = 1 - torch.exp(-density * (end - depth))
        weights.append(light * opaque)
        colour = colour + light * opaque * own
        light = light * (1 - opaque)
    return colour + light, torch.stack(weights).detach()


def fine_depths(near, far, depths, weights, drawn, around, spread):
    """Coarse, resampled and nearby depths, sorted, by inverting the distribution step by step."""
    made, shares = list(depths), (weights + 1e-5) / (weights + 1e-5).sum()
    part = (far - near) / len(depths)
    for u in drawn.tolist():
        below = 0.0
        for k, share in enumerate(shares.tolist()):
            if u <= below + share or k == len(shares) - 1:
                made.append(near + part * (k + min((u - below) / share, 1.0)))
                break
            below += share
    centre = (weights * torch.stack(list(depths))).sum()
    normal = torch.distributions.Normal(0.0, 1.0)
    made += [min(max(centre + spread * normal.icdf(u), near), far) for u in around]
    return sorted(torch.as_tensor(d) for d in made)


@pytest.mark.parametrize(
    "settings",
    [{"density_unit": 3.0}, {"given": 2, "density": "softplus", "density_unit": 4.0, "stem": 2}],
)
def test_the_objective_and_its_gradient_equal_a_loop_over_rays(settings):
    model, views, b = build(**settings), views_of(2), 2
    c = model.config
    ours, terms = model._loss(SimpleNamespace(views=views), Rng(3), 0)
    assert ours.item() == pytest.approx(terms["coarse"].item() + terms["fine"].item())
    rng = Rng(3)
    given = rng.fork("given").uniform(b, N).argsort(1)[:, : c.given]
    x = torch.stack(list(views.values()), 1)
    view, pixel = model._draw_pixels(x, rng.fork("pixels"))
    own = rng.fork("samples")
    places = {
        what: own.fork(what).uniform(b, c.rays, count)
        for what, count in (("coarse", 5), ("importance", 3), ("around", 2))
    }
    total = 0
    for i in range(b):
        cameras = [RING[g] for g in given[i]]
        features = [model.encoder(2 * views[NAMES[g]][i : i + 1] - 1)[0] for g in given[i]]
        for r in range(c.rays):
            camera, (row, column) = RING[view[i, r]], divmod(pixel[i, r].item(), SIDE)
            ahead = [((column + 0.5) / SIDE - 0.5), ((row + 0.5) / SIDE - 0.5)]
            ahead = torch.tensor([ahead[0] / camera.focal[0], ahead[1] / camera.focal[1], 1.0])
            direction = torch.tensor(camera.rotation).T @ (ahead / ahead.norm())
            origin = torch.tensor(camera.position)
            along = -(origin @ direction)
            half = math.sqrt(c.radius**2 - (origin @ origin - along**2))
            near, far = along - half, along + half
            depths = [near + (far - near) * (s + places["coarse"][i, r, s]) / 5 for s in range(5)]
            scene = features, cameras, origin, direction
            coarse, weights = shine(model, model.coarse, *scene, depths, far)
            drawn = places["importance"][i, r], places["around"][i, r]
            finer = fine_depths(near, far, depths, weights, *drawn, c.spread)
            fine, _ = shine(model, model.fine, *scene, finer, far)
            due = views[NAMES[view[i, r]]][i, :, row, column]
            total = total + ((coarse - due) ** 2).mean() + ((fine - due) ** 2).mean()
    loop = total / (b * c.rays)
    # Draws are float32: the depths of the two differ by that.
    torch.testing.assert_close(ours, loop, rtol=1e-6, atol=1e-8)
    weights = list(model.parameters())
    slopes = torch.autograd.grad(ours, weights), torch.autograd.grad(loop, weights)
    assert sum(slope.abs().sum() > 0 for slope in slopes[0]) > len(weights) - 3
    for mine, due in zip(*slopes, strict=True):
        torch.testing.assert_close(mine, due, rtol=1e-4, atol=1e-7)


def test_coordinates_keep_themselves_and_gain_six_octaves_from_1_5():
    made = encode(torch.tensor([[0.2, -0.4, 1.1]]))[0]
    assert made.shape == (39,)
    assert made[:3].tolist() == [0.2, -0.4, 1.1]
    assert made[3 + 3 * 5 + 1].item() == pytest.approx(math.sin(48 * -0.4))
    assert made[21 + 3 * 2 + 2].item() == pytest.approx(math.cos(6 * 1.1))


def test_rays_go_to_the_object_as_often_as_asked_and_never_past_the_sphere():
    x = torch.ones(1, N, 3, SIDE, SIDE)
    x[0, 2, :, 3, 4] = 0
    model = build(rays=2000, foreground=0.5)
    view, pixel = model._draw_pixels(x, Rng(1))
    dark = (view == 2) & (pixel == 3 * SIDE + 4)
    assert dark.float().mean().item() == pytest.approx(0.5, abs=0.05)
    assert (model.rays.far > model.rays.near)[view, pixel].all()
    assert len(view[~dark].unique()) == N


def test_nothing_at_test_is_drawn_and_the_order_of_given_views_does_not_matter():
    model, x = build(), views_of(3)
    given = {name: x[name] for name in ("v0", "v2")}
    one = model.translate(given, ["v1", "v3"], Rng(1))
    other = model.translate(dict(reversed(given.items())), ["v3", "v1"], Rng(2))
    for name in ("v1", "v3"):
        torch.testing.assert_close(one[name], other[name])
    alone = model.translate({"v0": x["v0"]}, ["v1"], Rng(1))["v1"]
    assert (alone - one["v1"]).abs().max() > 1e-3


def test_a_point_reads_the_maps_where_the_given_view_sees_it():
    model = build(channels=(8,))
    points = torch.tensor([[[0.3, 0.0, 0.0], [-0.3, 0.1, 0.0]]])
    given = torch.tensor([[1]])
    place = model.rays.project(points, torch.tensor([1]))[0][0]
    towards = torch.tensor([0.0, 0.0, 1.0]).expand(1, 2, 3)
    read = model.maps(torch.rand(1, 1, 3, SIDE, SIDE))[0].detach().requires_grad_()
    _, colour = model.query(model.coarse, read, points, towards, given)
    for k in range(2):
        (slope,) = torch.autograd.grad(colour[0, k].sum(), read, retain_graph=True)
        rows, columns = (slope[0, 0].abs().sum(-1) > 0).nonzero().T
        assert len(rows) == 4
        assert abs((columns.double().mean() + 0.5) / SIDE - place[k, 0]) < 0.5 / SIDE
        assert abs((rows.double().mean() + 0.5) / SIDE - place[k, 1]) < 0.5 / SIDE


@pytest.mark.parametrize(
    ("shape", "cameras", "said"),
    [
        ((3, 8, 8), [None] * N, "no cameras"),
        ((3, 8, 6), RING, "not squares"),
    ],
)
def test_data_that_it_cannot_render_are_refused_in_a_sentence(shape, cameras, said):
    assert said in PixelNeRF.skip(spec_of(cameras, shape), PixelNeRF.Config())
    assert "there are fewer" in PixelNeRF.skip(spec_of(RING), PixelNeRF.Config(given=5))
    assert PixelNeRF.skip(spec_of(RING), PixelNeRF.Config()) is None


@pytest.mark.parametrize("blocks", [3, 4])
def test_inference_gives_what_training_gives_with_any_number_of_rays_at_a_time(blocks, monkeypatch):
    model, x = build(blocks=blocks), views_of(3)
    given = {name: x[name] for name in ("v0", "v2")}
    pixels = torch.arange(SIDE**2).expand(3, -1)
    numbers, view = torch.tensor([[0, 2]] * 3), torch.ones_like(pixels)
    maps = model.maps(torch.stack(list(given.values()), 1))
    due = model.render(maps, numbers, view, pixels, None)[1]
    white = (model.rays.far > model.rays.near)[1, :, None]
    due = torch.where(white, due, 1.0).transpose(1, 2).unflatten(2, (SIDE, SIDE))
    for points in (1, 300, 1 << 20):
        monkeypatch.setattr("baselines.pixelnerf._CACHED", points)
        with torch.inference_mode():
            made = model.translate(given, ["v3", "v1"], Rng(1))
        torch.testing.assert_close(made["v1"], due)

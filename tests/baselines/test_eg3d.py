"""EG3D's losses against loops, its networks against their definitions, and inversion."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from helpers.cameras import NAMES, RING, N, spec_of

from baselines.eg3d import EG3D, AdversarialStage
from shalabench.api import Rng
from shalabench.nets.inversion import descend, misfit
from shalabench.nets.stylegan import ModulatedConv, Synthesis, logistic
from shalabench.nets.viewpoints import camera_vector

pytestmark = pytest.mark.float64

SIDE = 16
SMALL = {
    "latent": 6,
    "channel_base": 64,
    "channel_max": 8,
    "plane_side": 8,
    "plane_width": 4,
    "hidden": 5,
    "features": 4,
    "refiner_width": 4,
    "radius": 0.5,
    "box": 0.5,
    "density_unit": 5.0,
    "samples": 5,
    "importance": 0,
    "smoothness_points": 6,
    "candidates": 8,
    "style_steps": 25,
    "layer_steps": 15,
}


def build(**settings):
    return EG3D(spec_of(RING, (3, SIDE, SIDE)), EG3D.Config(**{**SMALL, **settings})).eval()


def test_the_logistic_loss_equals_its_formula():
    logits = torch.tensor([-3.0, 0.0, 2.5])
    due = sum(math.log(1 + math.exp(-x)) for x in logits.tolist()) / 3
    assert logistic(logits).item() == pytest.approx(due)


def test_r1_equals_half_the_squared_slope_by_differences():
    model = build()
    torch.nn.init.normal_(model.discriminator.enter.bias, std=0.1)
    image, raw = torch.rand(2, 3, SIDE, SIDE), torch.rand(2, 3, SIDE // 2, SIDE // 2)
    view, step, total = torch.tensor([0, 3]), 1e-5, 0.0
    for x in (image, raw):
        for at in range(0, x.numel(), 7):  # every seventh pixel
            sides = []
            for sign in (1, -1):
                moved = x.clone()
                moved.view(-1)[at] += sign * step
                pair = (moved, raw) if x is image else (image, moved)
                with torch.no_grad():
                    sides.append(model.realness(*pair, view).sum().item())
            total += ((sides[0] - sides[1]) / (2 * step)) ** 2
    image.requires_grad_(), raw.requires_grad_()
    slopes = torch.autograd.grad(model.realness(image, raw, view).sum(), [image, raw])
    seventh = sum(s.reshape(-1)[::7].square().sum() for s in slopes).item()
    assert seventh == pytest.approx(total, rel=1e-5)
    whole = sum(s.square().sum() for s in slopes).item()
    assert model.penalty(image, raw, view).item() == pytest.approx(whole / 2 / 2)  # half, mean of 2


def test_roughness_is_the_mean_change_of_the_density_over_its_distance():
    model, planes = build(distance=0.3), torch.randn(2, 3, 4, 8, 8)
    rng, total = Rng(5), 0.0
    place = (2 * rng.fork("place").uniform(2, 6, 3) - 1) * 0.5
    shift = rng.fork("shift").normal(2, 6, 3) * 0.3 * 0.5
    for i in range(2):
        for k in range(6):
            ends = [
                model.generator.query(planes[i : i + 1], p.double()[None, None])[0].item()
                for p in (place[i, k], place[i, k] + shift[i, k])
            ]
            total += abs(ends[0] - ends[1]) / 12
    assert model.roughness(planes, Rng(5)).item() == pytest.approx(total, rel=1e-6)


def test_a_step_of_each_player_follows_its_loss_alone():
    model = build(batch_size=3, r1_every=2, smoothness_every=2)
    stage = AdversarialStage(model)
    x = torch.rand(3, N, 3, SIDE, SIDE)
    batch = SimpleNamespace(views={n: x[:, k] for k, n in enumerate(NAMES)})
    batch = type("Batch", (), {"views": batch.views, "__len__": lambda self: 3})()
    lines = {"generator": [], "discriminator": []}
    inner = stage.descend
    stage.descend = lambda part, loss: (lines[part].append(loss.item()), inner(part, loss))
    for _ in range(2):
        terms = stage.update(batch, Rng(2))
        due = terms["generator"]
        lazy = "roughness" in terms
        if lazy:
            due = due + 0.25 * terms["roughness"]
        assert lines["generator"].pop() == pytest.approx(due.item())
        due = terms["real"] + terms["made"]
        if lazy:
            due = due + 0.3 * terms["r1"]
        assert lines["discriminator"].pop() == pytest.approx(due.item())
        assert not any("psnr" in name or "error" in name for name in terms)
    assert not lazy  # the second update has neither
    names = [name for name, _ in model.named_parameters()]
    sizes = {part: len(descent.parameters) for part, descent in stage._parts.items()}
    assert sizes["generator"] == sum(name.startswith("generator") for name in names)
    assert sum(sizes.values()) == len(names)


def test_the_real_view_is_one_of_the_tuple_s_with_its_camera():
    stage = AdversarialStage(build())
    x = torch.arange(64 * N).view(64, N, 1, 1, 1).expand(-1, -1, 3, SIDE, SIDE).double()
    views = {n: x[:, k] for k, n in enumerate(NAMES)}
    batch = type("Batch", (), {"views": views, "__len__": lambda self: 64})()
    real, view = stage._real(batch, Rng(1))
    assert real[:, 0, 0, 0].tolist() == [i * N + v for i, v in enumerate(view.tolist())]
    assert len(view.unique()) == N


def test_scaling_inputs_and_outputs_is_modulating_each_item_s_weights():
    layer = ModulatedConv(3, 5, 3, style=4)
    torch.nn.init.normal_(layer.bias)
    x, w = torch.randn(2, 3, 6, 6), torch.randn(2, 4)
    made = layer(x, w)
    for i in range(2):
        weight = layer.weight * layer.scale * layer.style(w)[i][None, :, None, None]
        weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
        due = torch.nn.functional.conv2d(x[i : i + 1], weight, layer.bias, padding=1)[0]
        torch.testing.assert_close(made[i], due)


def test_each_resolution_listens_to_its_own_style():
    net, styles = Synthesis(4, [6, 5, 4], 3), torch.randn(1, 3, 4, requires_grad=True)
    image = net(styles)
    assert image.shape == (1, 3, 16, 16)
    (slope,) = torch.autograd.grad(image.square().sum(), styles)
    assert (slope.abs().sum((0, 2)) > 0).all()


def test_the_three_planes_are_xy_xz_and_yz():
    model = build()
    points = torch.tensor([[[0.2, -0.1, 0.3]]])
    seen = []
    for plane in range(3):
        planes = torch.zeros(1, 3, 4, 8, 8, requires_grad=True)
        density, _ = model.generator.query(planes, points)
        (slope,) = torch.autograd.grad(density.sum(), planes)
        weight = slope[0, plane, 0].abs() / slope[0, plane, 0].abs().sum()
        middle = (torch.arange(8) + 0.5) / 8 - 0.5  # of a box from -0.5 to 0.5
        seen.append(((weight.sum(0) * middle).sum().item(), (weight.sum(1) * middle).sum().item()))
    for found, due in zip(seen, [(0.2, -0.1), (0.2, 0.3), (-0.1, 0.3)], strict=True):
        assert found == pytest.approx(due)


def test_rendered_features_equal_max_s_midpoint_rule_ray_by_ray():
    model, view = build(importance=3), torch.tensor([2])
    g, c = model.generator, model.config
    planes = 3 * torch.randn(1, 3, 4, 8, 8)
    made = g.render(planes, view, None)[0]
    for k in (0, 3, 10):
        origin, towards, near, far = (x[0] for x in g.rays.cast(view, g.rays.lit[2, k][None]))
        part = (far - near) / c.samples
        depths = [near + part * (s + 0.5) for s in range(c.samples)]
        raw = [g.query(planes, (origin + d * towards)[None, None])[0].item() for d in depths]
        light, weights = 1.0, []
        for x in raw:
            opaque = 1 - math.exp(-c.density_unit * math.log1p(math.exp(x - 1)) * part)
            weights.append(light * opaque + 1e-5)
            light *= 1 - opaque
        for u in (1 / 6, 0.5, 5 / 6):
            below = 0.0
            for s, weight in enumerate(weights):
                share = weight / sum(weights)
                if u <= below + share:
                    depths.append(near + part * (s + (u - below) / share))
                    break
                below += share
        depths.sort()
        found = [g.query(planes, (origin + d * towards)[None, None]) for d in depths]
        light, total = 1.0, torch.zeros(c.features)
        for s in range(len(depths) - 1):
            sigma = (found[s][0] + found[s + 1][0]).item() / 2
            sigma = c.density_unit * math.log1p(math.exp(sigma - 1))
            opaque = 1 - torch.exp(-sigma * (depths[s + 1] - depths[s]))
            total = total + light * opaque * (found[s][1] + found[s + 1][1])[0, 0] / 2
            light = light * (1 - opaque)
        torch.testing.assert_close(made[k], total + light)


def test_a_camera_vector_is_its_pose_in_the_world_and_its_intrinsics():
    label = torch.tensor(camera_vector(RING[1]))
    pose, lens = label[:16].view(4, 4), label[16:].view(3, 3)
    ahead = pose @ torch.tensor([0.0, 0.0, 1.5, 1.0])
    torch.testing.assert_close(ahead, torch.tensor([0.0, 0.0, 0.0, 1.0]))  # it looks at the middle
    point = torch.tensor([0.1, 0.2, -0.1])
    seen = lens @ (torch.linalg.inv(pose) @ torch.cat([point, torch.ones(1)]))[:3]
    x, y, depth = RING[1].project(tuple(point.tolist()))
    torch.testing.assert_close(seen / seen[2], torch.tensor([x, y, 1.0]))
    assert seen[2].item() == pytest.approx(depth)


def test_misfit_equals_a_loop_over_pixels_and_blocks():
    made, images = torch.rand(2, 1, 3, 8, 8), torch.rand(2, 1, 3, 8, 8)
    for i in range(2):
        off = (made - images)[i, 0]
        due = (off**2).sum() / off.numel()
        for block in (2, 4):
            cells = [
                off[:, r : r + block, s : s + block].mean().abs()
                for r in range(0, 8, block)
                for s in range(0, 8, block)
            ]
            due = due + sum(cells) / len(cells) / 2
        assert misfit(made, images)[i].item() == pytest.approx(due.item())


def test_descent_finds_each_item_s_minimum_by_itself():
    goal = torch.tensor([[1.0, -2.0], [0.5, 3.0]])

    def fit(goal):
        return lambda x: (x - goal).square().sum(1)

    both = descend(fit(goal), torch.zeros(2, 2), 200, 0.1)
    torch.testing.assert_close(both, goal, atol=1e-2, rtol=0)
    alone = descend(fit(goal[1:]), torch.zeros(1, 2), 200, 0.1)
    torch.testing.assert_close(both[1:], alone)


def test_inversion_lowers_its_loss_and_each_layer_s_style_lowers_it_further():
    model = build(prior=0.0)
    model.measure()
    with torch.no_grad():
        w = model.generator.mapping(torch.randn(2, 6))
        images = model._seen(model.generator.spread(w), torch.tensor([0]))
    view, errors = torch.tensor([0]), []
    for steps in ((0, 0), (25, 0), (25, 15)):
        object.__setattr__(model.config, "style_steps", steps[0])
        object.__setattr__(model.config, "layer_steps", steps[1])
        with torch.inference_mode():
            styles = model.invert(images, view, Rng(3))
            errors.append(misfit(model._seen(styles, view), images))
    assert (errors[1] < 0.5 * errors[0]).all()
    assert (errors[2] < errors[1]).all()
    assert all(p.grad is None for p in model.parameters())


def test_the_mean_and_covariance_of_w_are_measured():
    model = build()
    model.measure()
    w = model.generator.mapping(torch.randn(20_000, 6)).detach()
    torch.testing.assert_close(model.w_mean, w.mean(0), atol=0.05, rtol=0)
    torch.testing.assert_close(model.w_root @ model.w_root.T, torch.cov(w.T), atol=0.1, rtol=0.1)


@pytest.mark.parametrize(
    ("shape", "cameras", "said"),
    [
        ((3, 16, 16), [None] * N, "no cameras"),
        ((3, 16, 8), RING, "not squares"),
        ((3, 12, 12), RING, "powers of two"),
        ((5, 16, 16), RING, "do not fit into 4 features"),
    ],
)
def test_data_that_it_cannot_render_are_refused_in_a_sentence(shape, cameras, said):
    assert said in EG3D.skip(spec_of(cameras, shape), EG3D.Config(**SMALL))

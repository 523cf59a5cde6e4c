"""SyncDreamer's two objectives against loops, what it drops, rolling, and guidance."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from helpers.cameras import RING, N, spec_of

from baselines.syncdreamer import SyncDreamer, _Condition, _roll
from shalabench.api import Rng

pytestmark = pytest.mark.float64

SPEC = spec_of(RING)


def build(dtype=torch.float64, **settings):
    small = {
        "network": {"family": "conv", "width": 0.25, "hidden": 8},
        "volume": {"side": 4, "depths": 4, "view_width": 8, "width": 8, "frustum_width": 8},
        "patch": 2,
        "width": 8,
        "blocks": 1,
        "bottom": 2,
        "timesteps": 20,
        "sampling_steps": 3,
    }
    torch.set_default_dtype(dtype)  # float32 as in use, where the weights are
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = SyncDreamer(SPEC, SyncDreamer.Config(**{**small, **settings}))
        for weight in (
            model.single.unet.leave[-1].weight,
            *(net.leave.weight for net in model.volume.attention),
        ):
            torch.nn.init.normal_(weight)
    return model.to(dtype).eval()


def views_of(n, dtype=torch.float64, seed=0):
    made = torch.rand(n, N, 3, 8, 8, generator=torch.Generator().manual_seed(seed)).to(dtype)
    return {f"v{k}": made[:, k] for k in range(N)}


def harmonics(number):
    angles = [math.tau * number / N * m for m in (1, 2, 3, 4)]
    return [*map(math.sin, angles), *map(math.cos, angles)]


def by_hand(model, views, rng, b, volume):
    """One object's error, from the formula: the mean square of v = signal noise - sigma x."""
    n_objects = len(views["v0"])
    given = rng.fork("given").integers(N, n_objects)[b].item()
    slot = int(rng.fork("drop").uniform(n_objects)[b] / model.config.drop)
    kept = [(0, 1, 1), (1, 0, 1), (1, 1, 0), (0, 0, 1), (0, 0, 0), (1, 1, 1)][min(slot, 5)]
    target = rng.fork("target").integers(N, n_objects)[b]
    t = 1 + rng.fork("t").integers(20, n_objects)[b]
    noise = rng.fork("noise").normal(n_objects, N, 12, 4, 4)[b].double()
    signal, sigma = model._schedule.signal[t], model._schedule.sigma[t]
    start = given if kept[0] or kept[1] else 0
    rolled = [model._patches(views[f"v{(start + k) % N}"][b : b + 1])[0] for k in range(N)]
    noisy = [signal * x + sigma * e for x, e in zip(rolled, noise, strict=True)]
    image = model._patches(views[f"v{given}"][b : b + 1])
    attend = None
    if volume:
        solid = model.volume.build(torch.stack(noisy)[None], t[None]) * kept[2]
        attend = model.volume.attend(solid, t[None], target[None])
    known = [*harmonics(target.item()), kept[0], kept[1]]
    if model.config.absolute:
        known += harmonics(target.item() + start)
    vector = torch.cat([kept[0] * model.single.embed(image)[0], image.new_tensor(known)])[None]
    output = model.single.unet(noisy[target][None], t[None], kept[1] * image, vector, attend)[0]
    return (output - (signal * noise[target] - sigma * rolled[target])).square().mean()


@pytest.mark.parametrize("volume", [False, True])
@pytest.mark.parametrize("absolute", [False, True])
def test_the_objective_and_its_gradient_equal_a_loop_over_objects(volume, absolute):
    model, views, rng = build(drop=0.15, absolute=absolute), views_of(8), Rng(3)
    loss = model._volume_loss if volume else model._single_loss
    trained = list((model.volume if volume else model.single).parameters())
    ours, _ = loss(SimpleNamespace(views=views), rng, 0)
    loop = sum(by_hand(model, views, Rng(3), b, volume) for b in range(8)) / 8
    torch.testing.assert_close(ours, loop)
    grads = [torch.autograd.grad(x, trained, allow_unused=True) for x in (ours, loop)]
    assert any(g is not None and g.abs().max() > 0 for g in grads[0])
    for own, due in zip(*grads, strict=True):
        assert (own is None) == (due is None)
        if own is not None:
            torch.testing.assert_close(own, due)


def test_the_second_stage_leaves_the_first_s_denoiser_alone():
    model = build(torch.float32)
    second = model.stages()[1]
    second.begin(None)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    second.update(SimpleNamespace(views=views_of(4, torch.float32)), Rng(0))
    second.finish(None)
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(key.startswith("volume.") for key in changed)
    assert all(p.requires_grad for p in model.parameters())


def test_each_condition_is_dropped_as_often_as_asked_and_rolling_with_the_whole_input():
    model, n = build(drop=0.05), 20_000
    known = model._drop(torch.zeros(n, 1, 1, 1), torch.full((n,), 3), Rng(0))
    counts = Counter(map(tuple, known.kept.long().tolist()))
    for kept in ((0, 1, 1), (1, 0, 1), (1, 1, 0), (0, 0, 1), (0, 0, 0)):
        assert abs(counts.pop(kept) / n - 0.05) < 0.006
    assert list(counts) == [(1, 1, 1)]
    assert torch.equal(known.first == 0, (known.kept[:, :2] == 0).all(1))


def test_nothing_is_dropped_where_the_probability_is_zero():
    known = build(drop=0.0)._drop(torch.zeros(500, 1, 1, 1), torch.zeros(500).long(), Rng(0))
    assert (known.kept == 1).all()


def test_rolling_brings_the_given_view_to_the_front_and_back():
    x, first = torch.arange(8).view(2, 4), torch.tensor([1, 3])
    assert _roll(x, first).tolist() == [[1, 2, 3, 0], [7, 4, 5, 6]]
    assert torch.equal(_roll(_roll(x, first), -first), x)


def test_a_turned_object_is_generated_turned():
    """The rig is a ring: giving view 1 is giving view 0 of the object turned by one view."""
    model, image = build(torch.float32), views_of(3, torch.float32)["v0"]
    names = SPEC.names
    model.config = model.config.model_copy(update={"guidance": 1.0})
    from_0 = model.translate({"v0": image}, names, Rng(1))
    from_1 = model.translate({"v1": image}, names, Rng(1))
    for k in range(N):
        torch.testing.assert_close(from_1[f"v{(k + 1) % N}"], from_0[f"v{k}"])


def test_guidance_extrapolates_from_the_prediction_without_condition():
    x, t = torch.randn(2, N, 12, 4, 4).double(), torch.tensor([7, 7])
    known = _Condition(
        torch.randn(2, 12, 4, 4).double(), torch.tensor([1, 2]), torch.ones(2, 3).double()
    )
    outputs = {}
    for weight in (0.0, 1.0, 2.5):
        model = build(guidance=weight)
        outputs[weight] = model._predict(x, t, model.single.embed(known.image), known)
    free, held = outputs[0.0], outputs[1.0]
    assert (free - held).abs().max() > 1e-3
    torch.testing.assert_close(outputs[2.5], free + 2.5 * (held - free))
    # Without a condition the absolute number of a view is all that its denoiser is told.
    nothing = _Condition(known.image[:1], known.first[:1], torch.zeros(1, 3).double())
    alone = model.single(x[:1, 3], t[:1], torch.tensor([0]), torch.zeros(1, 8).double(), nothing)
    torch.testing.assert_close(free[:1, 3], alone)


def test_several_given_views_are_refused_with_the_next_step():
    model, views = build(torch.float32), views_of(1, torch.float32)
    with pytest.raises(ValueError, match="Give one of them"):
        model.translate({"v0": views["v0"], "v1": views["v1"]}, ["v2"], Rng(0))


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (spec_of([None] * 4), "no cameras"),
        (spec_of(RING, (3, 8, 6)), "not squares"),
        (spec_of(RING, (3, 9, 9)), "patches of 2"),
        (spec_of([RING[0], RING[2], RING[1], RING[3]]), "ring"),
        (spec_of([*RING[:3], replace(RING[3], focal=(1.0, 1.0))]), "ring"),
        (SPEC, None),
    ],
)
def test_what_cannot_be_a_rig_is_skipped_with_the_reason(spec, reason):
    found = SyncDreamer.skip(spec, SyncDreamer.Config(patch=2))
    assert found is None if reason is None else reason in found

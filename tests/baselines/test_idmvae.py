"""IDMVAE's terms against loops written from reproduction/idmvae.md, and without them MMVAE+."""

from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch
from helpers.exact import exact_denoiser
from helpers.objectives import FakeBatch
from helpers.toys import toy_data
from torch import nn

from baselines.idmvae import IDMVAE, LatentDenoiser, contrast, data_loss
from baselines.mmvae_plus import MMVAEPlus
from shalabench.api import Modality, Rng
from shalabench.config.settings import resolve
from shalabench.nets.backbones import Network, encoder
from shalabench.nets.diffusion import make_schedule

double = pytest.mark.float64
NAMES, B, DZ, DW = ("a", "b", "c"), 4, 3, 2
MISSING = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0]]).bool()
PRESENT = pytest.mark.parametrize("present", [None, MISSING], ids=["complete", "missing"])
OFF = {"contrast": 0.0, "reencoding": 0.0, "diffusion": 0.0}


def build(spec, network, **settings):
    sizes = {"shared_dim": DZ, "private_dim": DW, "prior": {"width": 8}}
    return IDMVAE(spec, IDMVAE.Config(network=network, **(sizes | settings)))


def contrast_by_loop(a, b, temperature=1.0):
    """Over the rows of both, from the definition."""
    rows = [x / x.norm() for x in [*a, *b]]
    losses = []
    for i, row in enumerate(rows):
        partner = (i + len(a)) % len(rows)
        powers = [math.e ** (row @ other / temperature) for other in rows]
        losses.append(-torch.log(powers[partner] / (sum(powers) - powers[i])))
    return sum(losses) / len(losses) if losses else torch.zeros(())


def alone(a, b, temperature=1.0):
    return contrast(a[None], b[None], torch.ones(1, len(a)).bool(), temperature)[0]


@double
def test_the_contrast_has_its_constants():
    same = torch.ones(5, 3)
    assert alone(same, same).item() == pytest.approx(math.log(9))
    assert alone(torch.randn(1, 3), torch.randn(1, 3)).item() == pytest.approx(0.0)
    apart = 7 * torch.eye(5)
    assert alone(apart, apart).item() == pytest.approx(math.log(math.e + 8) - 1)


@double
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_contrast_equals_the_loop_over_the_pairs_that_count(temperature):
    a, b = torch.randn(2, 3, 6, 4)
    there = torch.tensor([[1] * 6, [1, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 0]]).bool()
    a.requires_grad_()
    found = contrast(a, b, there, temperature)
    due = [contrast_by_loop(a[p][there[p]], b[p][there[p]], temperature) for p in range(3)]
    torch.testing.assert_close(found, torch.stack(due))
    slopes = (torch.autograd.grad(x.sum(), a)[0] for x in (found, torch.stack(due)))
    torch.testing.assert_close(*slopes)
    none = contrast(a, b, torch.zeros(3, 6).bool(), temperature)
    assert none.tolist() == [0.0] * 3


@double
def test_the_schedule_is_the_sigmoid_from_minus_three_to_three():
    schedule = make_schedule("sigmoid", 50, "data")

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    for t in range(50):
        share = (sigmoid(3) - sigmoid(6 * t / 50 - 3)) / (sigmoid(3) - sigmoid(-3))
        assert schedule.signal[t].item() ** 2 == pytest.approx(share, abs=1e-6)
    assert schedule.signal[50] < 0.03


@double
def test_the_denoising_error_is_summed_and_weighted_by_the_clipped_ratio():
    """A point mass has no error; predicting 0 has |z_0|^2 times the mean ratio."""
    schedule = make_schedule("sigmoid", 30, "data")
    z0 = torch.randn(1, 3).expand(60_000, 3)
    assert data_loss(lambda z, t: z0, schedule, z0, Rng(0)).abs().max() == 0
    ratios = [
        min(max((schedule.signal[t] / schedule.sigma[t]).item() ** 2, 1), 100) for t in range(1, 31)
    ]
    assert {1, 100} & set(ratios)
    errors = data_loss(lambda z, t: 0 * z, schedule, z0, Rng(0))
    expected = sum(ratios) / 30 * (z0[0] ** 2).sum().item()
    assert errors.mean().item() == pytest.approx(expected, rel=0.03)


def posteriors(model, views):
    q_z = {n: model.shared[n](views[n]) for n in NAMES}
    return q_z, {n: model.private[n](views[n]) for n in NAMES}


def noise_of(model, rng, dim):
    kind = rng.laplace if model.config.family == "laplace" else rng.normal
    return kind(B, 3 * dim).view(B, 3, dim).permute(1, 0, 2)


def cross_by_loop(model, views, there):
    q_z, _ = posteriors(model, views)
    total = 0.0
    for m, n in permutations(range(3), 2):
        rows = there[m] & there[n]
        a, b = q_z[NAMES[m]].mean[rows], q_z[NAMES[n]].mean[rows]
        total = total + contrast_by_loop(a, b) / 2
    return total


def reencoding_by_loop(model, views, there, rng):
    q_z, q_w = posteriors(model, views)
    noise_z, noise_w = noise_of(model, rng, DZ), noise_of(model, rng, DW)
    total = 0.0
    for m, n in enumerate(NAMES):
        z = q_z[n].mean + q_z[n].scale * noise_z[m]
        w = q_w[n].mean + q_w[n].scale * noise_w[m]
        rows = [i for i in range(B) if there[m, i] and there[m, i - 1]]
        made = {"z": [], "w": []}
        for i in rows:
            for kind, latent in (("z", [w[i - 1], z[i]]), ("w", [w[i], z[i - 1]])):
                out = model.decoders[n](torch.cat(latent)[None])
                if n == "c":  # a text: the probabilities of its tokens
                    out = out.exp() / out.exp().sum(-1, keepdim=True)
                tower = model.shared if kind == "z" else model.private
                made[kind].append(tower[n](out).mean[0])
        for kind, q in (("z", q_z[n]), ("w", q_w[n])):
            total = total + contrast_by_loop(q.mean[rows], made[kind]) / 2
    return total


def diffusion_by_loop(model, views, there, rng):
    s, total = model.schedule, 0.0
    parts = zip("zw", posteriors(model, views), strict=True)
    for kind, q in parts:
        for m, n in enumerate(NAMES):
            part = model.denoisers["shared" if kind == "z" else "private"]
            denoiser = part if kind == "z" else part[n]
            source, losses, rows = rng.fork("w", m), [], slice(B)
            if kind == "z":
                source, rows = rng.fork("z"), slice(m * B, (m + 1) * B)
            count, dim = (3 * B, DZ) if kind == "z" else (B, DW)
            t = 1 + source.integers(s.steps, count)[rows]
            noise = source.normal(count, dim)[rows]
            for i in there[m].nonzero().flatten():
                a, b, z0 = s.signal[t[i]], s.sigma[t[i]], q[n].mean[i]
                ratio = min(max((a / b).item() ** 2, 1), 100)
                out = denoiser((a * z0 + b * noise[i])[None], t[i][None])[0]
                losses.append(ratio * ((out - z0) ** 2).sum())
            total = total + sum(losses) / len(losses)
    return total / 3


@double
@PRESENT
@pytest.mark.parametrize("family", ["laplace", "normal"])
def test_the_loss_is_that_of_mmvae_plus_and_three_weighted_terms(
    spec, network, views, family, present
):
    weights = {"contrast": 3.0, "reencoding": 5.0, "diffusion": 7.0}
    model = build(spec, network, family=family, **weights)
    sizes = {"shared_dim": DZ, "private_dim": DW, "family": family}
    plain = MMVAEPlus(spec, MMVAEPlus.Config(network=network, **sizes))
    plain.load_state_dict(model.state_dict(), strict=False)
    there = torch.ones(3, B).bool() if present is None else present.T
    batch, rng = FakeBatch(views, present), Rng(7)
    loss, terms = model._loss(batch, rng, 0)
    due = {
        "contrast": cross_by_loop(model, views, there),
        "reencoding": reencoding_by_loop(model, views, there, Rng(7).fork("reencoding")),
        "diffusion": diffusion_by_loop(model, views, there, Rng(7).fork("diffusion")),
    }
    expected = plain._loss(batch, Rng(7), 0)[0].detach()
    parameters = list(model.parameters())
    for name, value in due.items():
        torch.testing.assert_close(terms[name], value)
        expected = expected + weights[name] * value.detach()
        found, other = (
            torch.autograd.grad(x, parameters, materialize_grads=True, retain_graph=True)
            for x in (terms[name], value)
        )
        for ours, theirs in zip(found, other, strict=True):
            torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(loss, expected)


def test_gradients_reach_decoders_through_texts_and_encoders_through_diffusion(
    spec, network, views
):
    model = build(spec, network)
    x = {n: v.float() if v.is_floating_point() else v for n, v in views.items()}
    terms = model._loss(FakeBatch(x), Rng(7), 0)[1]
    reached = {
        "reencoding": [model.decoders["c"], model.shared["c"], model.private["a"]],
        "diffusion": [model.shared["b"], model.private["c"], *model.denoisers.values()],
    }
    for name, parts in reached.items():
        model.zero_grad()
        terms[name].backward(retain_graph=True)
        for part in parts:
            assert any(p.grad is not None and p.grad.abs().max() > 0 for p in part.parameters())


def test_without_weights_it_is_mmvae_plus_bit_for_bit(tmp_path):
    """Initial weights, four updates, samples and translations."""
    data, made = toy_data(tmp_path), []
    for name, cls in (("mmvae+", MMVAEPlus), ("idmvae", IDMVAE)):
        config = resolve(name, "toy", "smoke", ()).model
        if cls is IDMVAE:
            config = config.model_copy(update=OFF)
        torch.manual_seed(5)
        model = cls(data.spec, config)
        (stage,) = model.stages()
        split = data.split("train")
        stage.begin(split)
        model.train()
        for step in range(4):
            torch.manual_seed(step)
            stage.update(split.batch(torch.arange(8 * step, 8 * step + 8)), Rng(step))
        model.eval()
        views = data.split("test").batch(torch.arange(3)).views
        first, *others = data.spec.names
        with torch.no_grad():
            out = model.sample(3, Rng(1)), model.translate({first: views[first]}, others, Rng(1))
        made.append((model.state_dict(), *out))
    for one, other in zip(*made, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one)


@torch.no_grad()
def test_terms_do_not_disturb_the_draws_of_the_bound(spec, network, views):
    x = {n: v.float() if v.is_floating_point() else v for n, v in views.items()}
    model = build(spec, network)
    full = model._loss(FakeBatch(x), Rng(7), 0)[1]
    model.config = model.config.model_copy(update=OFF)
    bare = model._loss(FakeBatch(x), Rng(7), 0)[1]
    assert set(full) - set(bare) == set(OFF)
    assert all(torch.equal(full[key], bare[key]) for key in bare)


@double
@torch.no_grad()
def test_priors_are_samples_of_the_diffusions(spec, network):
    """With the exact denoiser of N(2, .5) for z and of N(-1, .2) for one w."""
    model = build(spec, network)
    for part in (model.denoisers, model.denoisers["private"]):
        for name in list(part):
            if isinstance(part[name], LatentDenoiser):
                part[name] = Exact(exact_denoiser(model.schedule, 2.0, 0.5))
    model.denoisers["private"]["b"] = Exact(exact_denoiser(model.schedule, -1.0, 0.2))
    z, w = model.prior(5000, Rng(1)), model.private_prior(5000, Rng(1), "b")
    assert (z.shape, w.shape) == ((5000, DZ), (5000, DW))
    assert (z.mean(0) - 2).abs().max() < 0.03
    assert (z.std(0) - 0.5).abs().max() < 0.03
    assert (w.mean(0) + 1).abs().max() < 0.02
    assert (w.std(0) - 0.2).abs().max() < 0.02


class Exact(nn.Module):
    def __init__(self, denoise):
        super().__init__()
        self.denoise = denoise

    def forward(self, z, t):
        return self.denoise(z, t)


@torch.no_grad()
def test_targets_take_private_latents_of_the_diffusion_and_given_views_their_own(
    spec, network, views
):
    model = build(spec, network)
    given = {"a": views["a"].float()}
    before = model.translate(given, ["a", "b"], Rng(1))
    nn.init.constant_(model.denoisers["private"]["b"].leave[1].bias, 3.0)
    after = model.translate(given, ["a", "b"], Rng(1))
    assert torch.equal(before["a"], after["a"])
    assert not torch.allclose(before["b"], after["b"])


@double
@torch.no_grad()
@pytest.mark.parametrize("family", ["conv", "mst", "cub"])
def test_probabilities_of_one_token_are_encoded_as_the_token(family):
    text = Modality("t", "text", (32,), "categorical", vocabulary=tuple("abcde"))
    network = encoder(text, Network(family=family, width=0.1)).eval()
    ids = torch.randint(5, (3, 32))
    soft = nn.functional.one_hot(ids, 5).double()
    torch.testing.assert_close(network(soft), network(ids))

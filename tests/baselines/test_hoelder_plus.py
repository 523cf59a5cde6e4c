"""Hoelder+'s objective against a loop over components, written from reproduction/hoelder.md."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from helpers.objectives import FakeBatch
from helpers.rings import SPEC as RING
from scipy.integrate import quad
from torch import nn
from torch.distributions import Normal

from baselines.hoelder_plus import HoelderPlus
from shalabench.api import Rng
from shalabench.config.settings import resolve
from shalabench.nets.likelihoods import log_likelihood

pytestmark = pytest.mark.float64

NAMES, B, DZ = ("a", "b", "c"), 4, 3
OWNERS = [*((n,) for n in NAMES), *combinations(NAMES, 2)]
MISSING = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [1, 1, 0]]).bool()
PRESENT = pytest.mark.parametrize("present", [None, MISSING], ids=["complete", "missing"])
KINDS = pytest.mark.parametrize(
    "settings",
    [{"private_dim": 2}, {"private_dim": 2, "hierarchical": True}, {"private_dim": 0}],
    ids=["plus", "plus-plus", "plain"],
)
UNWARNED = pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")


def build(spec, network, **settings):
    model = HoelderPlus(spec, HoelderPlus.Config(network=network, shared_dim=DZ, **settings))
    nn.init.normal_(model.auxiliary, std=0.5)
    return model


def pair(p, q):
    """The Bhattacharyya coefficient of two diagonal Gaussians, and the normalised root product."""
    precision = (1 / p.variance + 1 / q.variance) / 2
    mean = (p.mean / p.variance + q.mean / q.variance) / (2 * precision)
    both = p.variance + q.variance
    coefficient = ((2 * p.scale * q.scale / both).sqrt()).prod() * torch.exp(
        -((p.mean - q.mean) ** 2 / (4 * both)).sum()
    )
    return coefficient, Normal(mean, precision**-0.5)


def private_posterior(model, name, x, z):
    network = model.private[name]
    if not model.config.hierarchical:
        q = network(x)
        return Normal(q.mean[0], q.scale[0])
    features = network[0](x)[0]
    q = network[1](torch.cat([features, z])[None])
    return Normal(q.mean[0], q.scale[0])


def bound_by_loop(model, spec, views, present, rng):
    dw, count = model.config.private_dim, len(OWNERS)
    noise_z = rng.normal(B, count * DZ).view(B, count, DZ)
    noise_w = {n: rng.fork("private", n).normal(B, count * dw).view(B, count, dw) for n in NAMES}
    p = Normal(0.0, 1.0)
    total = 0.0
    for i in range(B):
        inside = [n for m, n in enumerate(NAMES) if present is None or present[i, m]]
        q = {n: model.shared[n](views[n][i : i + 1]) for n in inside}
        q = {n: Normal(x.mean[0], x.scale[0]) for n, x in q.items()}
        parts = {(n,): (1.0, q[n]) for n in inside}
        for a, b in combinations(inside, 2):
            coefficient, product = pair(q[a], q[b])
            parts[a, b] = 2 * coefficient, product
        norm = sum(factor for factor, _ in parts.values())
        for owners, (factor, component) in parts.items():
            k = OWNERS.index(owners)
            z = component.mean + component.scale * noise_z[i, k]
            mixture = sum(f * c.log_prob(z).sum().exp() for f, c in parts.values()) / norm
            value = model.config.beta * (p.log_prob(z).sum() - mixture.log())
            for n in inside:
                m = NAMES.index(n)
                x = views[n][i : i + 1]
                if n in owners:
                    q_w = private_posterior(model, n, x, z)
                    w = q_w.mean + q_w.scale * noise_w[n][i, k]
                    value = value + model.config.beta * (p.log_prob(w) - q_w.log_prob(w)).sum()
                else:
                    w = torch.exp(model.auxiliary[m] / 2) * noise_w[n][i, k]
                decoded = model.decoders[n](torch.cat([w, z])[None])
                value = value + spec[n].weight * log_likelihood(spec[n], decoded, x)[0]
            total = total + factor / norm * value
    return total / B


@UNWARNED
@PRESENT
@KINDS
def test_the_bound_equals_the_loop_in_value_and_gradient(spec, network, views, settings, present):
    model = build(spec, network, **settings)
    value, _ = model._loss(FakeBatch(views, present), Rng(7), 0)
    expected = -bound_by_loop(model, spec, views, present, Rng(7))
    torch.testing.assert_close(value, expected)
    weights = list(model.parameters())
    found, due = (
        torch.autograd.grad(x, weights, materialize_grads=True) for x in (value, expected)
    )
    for ours, other in zip(found, due, strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-6, atol=1e-8)


def test_absent_views_change_nothing(spec, network, views):
    model = build(spec, network, private_dim=2)
    before, _ = model._loss(FakeBatch(views, MISSING), Rng(7), 0)
    changed = {n: x.clone() for n, x in views.items()}
    for m, n in enumerate(NAMES):
        changed[n][~MISSING[:, m]] = 0
    after, _ = model._loss(FakeBatch(changed, MISSING), Rng(7), 0)
    assert torch.equal(before, after)


class Fixed(nn.Module):
    def __init__(self, mean, scale):
        super().__init__()
        self.mean, self.scale = mean, scale

    def forward(self, x):
        shape = len(x), 1
        return Normal(torch.full(shape, self.mean), torch.full(shape, self.scale))


@torch.no_grad()
def test_latents_of_given_modalities_are_drawn_from_the_mixture(spec, network):
    """The first two moments and a tail of 100,000 draws against quadrature."""
    model = HoelderPlus(spec, HoelderPlus.Config(network=network, shared_dim=1, private_dim=2))
    model.shared = nn.ModuleDict({"a": Fixed(0.0, 1.0), "b": Fixed(1.0, 0.5), "c": Fixed(3.0, 2.0)})
    experts = [(0.0, 1.0), (1.0, 0.5), (3.0, 2.0)]
    z = model.encode({n: torch.zeros(100_000, 1) for n in NAMES}, Rng(1))[:, 0]

    def square(x):
        return (
            sum(
                math.exp(-((x - m) ** 2) / (4 * s**2)) / math.sqrt(s * math.sqrt(2 * math.pi))
                for m, s in experts
            )
            ** 2
        )

    def mean_of(function):
        parts = [
            quad(lambda x, f=f: f(x) * square(x), -20, 25, points=[0, 1, 2, 3], limit=400)[0]
            for f in (function, lambda _: 1.0)
        ]
        return parts[0] / parts[1]

    mean = mean_of(lambda x: x)
    assert abs(z.mean() - mean) < 0.02
    assert abs(z.var() - mean_of(lambda x: (x - mean) ** 2)) < 0.05
    assert abs((z > 2).double().mean() - mean_of(lambda x: float(x > 2))) < 0.006


@torch.no_grad()
def test_one_given_modality_has_its_own_posterior(spec, network, views):
    model = build(spec, network, private_dim=2)
    q = model.shared["b"](views["b"])
    z = model.encode({"b": views["b"]}, Rng(3))
    torch.testing.assert_close(z, q.mean + q.scale * Rng(3).normal(B, 1, DZ)[:, 0])


@torch.no_grad()
def test_private_latents_of_given_modalities_follow_z_where_hierarchical(spec, network, views):
    for hierarchical in (False, True):
        model = build(spec, network, private_dim=2, hierarchical=hierarchical)
        z = torch.randn(B, DZ)
        w = model.private_draw("a", views["a"], z, Rng(3))
        for i in range(B):
            q = private_posterior(model, "a", views["a"][i : i + 1], z[i])
            noise = Rng(3).fork("private", "a").normal(B, 1, 2)[i, 0]
            torch.testing.assert_close(w[i], q.mean + q.scale * noise)
        moved = model.private_draw("a", views["a"], z + 1, Rng(3))
        assert torch.equal(w, moved) != hierarchical


@torch.no_grad()
def test_all_latents_are_encoded_and_decoded_in_one_order(spec, network, views):
    model = build(spec, network, private_dim=2, hierarchical=True).float()
    x = {n: v.float() if v.is_floating_point() else v for n, v in views.items()}
    rebuilt = model.reconstruct(x, Rng(1))
    z = model.encode_all(x, Rng(1))
    assert z.shape == (B, DZ + 3 * 2)
    for n, view in model.decode_all(z, Rng(2)).items():
        torch.testing.assert_close(view, rebuilt[n])


def test_the_logged_terms_are_of_each_modality_s_own_expert(spec, network, views):
    model = build(spec, network, private_dim=2)
    terms = model._loss(FakeBatch(views, MISSING), Rng(7), 0)[1]
    assert set(terms) == {"nll_a", "nll_b", "nll_c", "rate_shared", "rate_private", "log_overlap"}
    rng = Rng(7)
    noise_z = rng.normal(B, 6 * DZ).view(B, 6, DZ)
    noise_w = rng.fork("private", "b").normal(B, 12).view(B, 6, 2)
    losses = []
    for i in MISSING[:, 1].nonzero().flatten():
        x = views["b"][i : i + 1]
        q, q_w = model.shared["b"](x), model.private["b"](x)
        z, w = q.mean + q.scale * noise_z[i, 1], q_w.mean + q_w.scale * noise_w[i, 1]
        decoded = model.decoders["b"](torch.cat([w, z], -1))
        losses.append(-2.5 * log_likelihood(spec["b"], decoded, x)[0])
    torch.testing.assert_close(terms["nll_b"], torch.stack(losses).mean())


def test_what_cannot_be_trained_is_refused_with_the_nearest_value(spec):
    skip, config = HoelderPlus.skip, HoelderPlus.Config
    assert skip(spec, config()) is None
    assert "use model.family=normal." in skip(spec, config(family="laplace"))
    assert "at least 1" in skip(spec, config(hierarchical=True, private_dim=0))
    reason = skip(RING, config())
    assert "136" in reason
    assert "55 (M = 10)" in reason
    assert resolve("hoelder+", "toy", "quick", []).model.family == "normal"

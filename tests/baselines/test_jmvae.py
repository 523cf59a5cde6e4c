"""JMVAE-kl's objective against a loop written from eq. 4 of its paper."""

from __future__ import annotations

import pytest
import torch
from helpers.objectives import FakeBatch, assert_float32_under_autocast

from baselines.jmvae import JMVAE
from shalabench.api import Rng
from shalabench.nets.experts import product_of_all
from shalabench.nets.likelihoods import log_likelihood

pytestmark = pytest.mark.float64

NAMES = ("a", "b", "c")


def build(spec, network, **settings):
    sizes = {"latent_dim": 3, "feature_dim": 4, "fusion_width": 5}
    return JMVAE(spec, JMVAE.Config(network=network, **sizes, **settings))


def divergence(mean, var, other_mean, other_var):
    """KL between two Gaussians of one dimension, by the formula."""
    return 0.5 * (torch.log(other_var / var) + (var + (mean - other_mean) ** 2) / other_var - 1)


def loss_by_loop(model, spec, views, factor, rng):
    c, noise, one = model.config, rng.normal(4, 1, 3)[:, 0].double(), torch.ones(())
    joined = model.fuse(torch.cat([model.joint[n](views[n]) for n in NAMES], 1))
    single = {n: model.encoders[n](views[n]) for n in NAMES}
    total = 0.0
    for i in range(4):
        mean, var = joined.mean[i], joined.scale[i] ** 2
        z = mean + joined.scale[i] * noise[i]
        for n in NAMES:
            decoded, x = model.decoders[n](z[None]), views[n][i : i + 1]
            total = total - spec[n].weight * log_likelihood(spec[n], decoded, x)[0] / 4
        for d in range(3):
            rate = c.beta * divergence(mean[d], var[d], 0 * one, one)
            for n in NAMES:
                other = single[n].mean[i, d], single[n].scale[i, d] ** 2
                rate = rate + c.alpha * divergence(mean[d], var[d], *other)
            total = total + factor * rate / 4
    return total


@pytest.mark.parametrize(
    ("warmup", "step", "factor"), [(0.0, 0, 1.0), (0.5, 1, 0.4), (0.5, 9, 1.0)]
)
def test_the_loss_equals_the_loop_in_value_and_gradient(spec, network, views, warmup, step, factor):
    model = build(spec, network, alpha=0.3, beta=1.7, warmup=warmup, steps=10)
    value, _ = model.loss(FakeBatch(views), Rng(7), step)
    expected = loss_by_loop(model, spec, views, factor, Rng(7))
    torch.testing.assert_close(value, expected)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(value, parameters)
    loop = torch.autograd.grad(expected, parameters)
    for own, other in zip(ours, loop, strict=True):
        torch.testing.assert_close(own, other)


@torch.no_grad()
def test_the_posterior_depends_on_what_is_given(spec, network, views):
    """All: the joint encoder. One: its own. Two: the product of theirs, in either order."""
    model = build(spec, network)

    def same(p, q):
        torch.testing.assert_close(p.mean, q.mean)
        torch.testing.assert_close(p.scale, q.scale)

    shuffled = {n: views[n] for n in ("c", "a", "b")}
    same(model.posterior(shuffled), model.joint_posterior(views))
    same(model.posterior({"b": views["b"]}), model.encoders["b"](views["b"]))
    pair = {n: views[n] for n in ("a", "c")}
    expected = product_of_all(model.experts(pair), prior=0.0)
    same(model.posterior(pair), expected)
    same(model.posterior(dict(reversed(pair.items()))), expected)


@torch.no_grad()
def test_a_joint_sample_is_a_decoded_prior_latent(spec, network):
    model = build(spec, network).float()
    made = model.sample(3, Rng(1))
    again = model.decode(model.prior(3, Rng(1).fork("shared")), Rng(1))
    assert all(torch.equal(made[n], again[n]) for n in NAMES)


def test_the_objective_is_in_float32_under_autocast(spec, network, views):
    model = build(spec, network).float()
    x = {n: v.float() if v.is_floating_point() else v for n, v in views.items()}
    assert_float32_under_autocast(lambda: model.loss(FakeBatch(x), Rng(7), 0))

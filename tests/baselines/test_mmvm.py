"""MMVM's objective against a loop written from its formula, with all modalities and with some."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.objectives import FakeBatch, assert_float32_under_autocast, batch_of
from torch.distributions import Normal

from baselines.mmvm import MMVM
from shalabench.api import Rng
from shalabench.nets.likelihoods import log_likelihood

pytestmark = pytest.mark.float64

NAMES = ("a", "b", "c")
# Items with all, two, one and two modalities.
MASK = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 1, 1]], dtype=torch.bool)


def build(spec, network, **settings):
    return MMVM(spec, MMVM.Config(network=network, latent_dim=3, **settings))


def divergence(mean, var, other_mean, other_var):
    """KL between two Gaussians `[D]`, by the formula."""
    terms = torch.log(other_var / var) + (var + (mean - other_mean) ** 2) / other_var - 1
    return 0.5 * terms.sum()


def loss_by_loop(model, spec, views, present, a, rng):
    """Loops over items, modalities, samples and the experts of the prior."""
    samples, beta = model.config.samples, model.config.beta
    noise = rng.normal(4, 3 * samples * 3).view(4, 3, samples, 3).double()
    q = {n: model.encoders[n](views[n]) for n in NAMES}
    total = 0.0
    for i in range(4):
        here = [m for m in range(3) if present is None or present[i, m]]
        for m in here:
            name = NAMES[m]
            mean, scale = q[name].mean[i], q[name].scale[i]
            apart = 0.0
            for k in range(samples):
                z = mean + scale * noise[i, m, k]
                decoded, x = model.decoders[name](z[None]), views[name][i : i + 1]
                nll = -spec[name].weight * log_likelihood(spec[name], decoded, x)[0]
                total = total + nll / samples / 4
                densities = [
                    Normal(q[NAMES[j]].mean[i], q[NAMES[j]].scale[i]).log_prob(z).sum()
                    for j in here
                ]
                h = torch.stack(densities).exp().mean().log()
                apart = apart + (Normal(mean, scale).log_prob(z).sum() - h) / samples
            if model.config.divergence == "pairwise":
                others = [(q[NAMES[j]].mean[i], q[NAMES[j]].scale[i] ** 2) for j in here]
                apart = sum(divergence(mean, scale**2, *o) for o in others) / len(here)
            standard = divergence(mean, scale**2, torch.zeros(3), torch.ones(3))
            total = total + beta * (a * standard + (1 - a) * apart) / 4
    return total


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("kind", ["pairwise", "sampled"])
@pytest.mark.parametrize("present", [None, MASK], ids=["complete", "incomplete"])
@pytest.mark.parametrize(("anneal", "a"), [(0.0, 0.0), (2.0, 1e-10 ** (1 / 20))])
def test_the_loss_equals_the_loop_in_value_and_gradient(
    spec, network, views, samples, kind, present, anneal, a
):
    settings = {"samples": samples, "divergence": kind, "anneal": anneal}
    model = build(spec, network, beta=1.7, steps=10, **settings)
    batch = batch_of(views, present)
    value, _ = model._loss(batch, Rng(7), 1)
    expected = loss_by_loop(model, spec, batch.views, present, a, Rng(7))
    torch.testing.assert_close(value, expected)
    parameters = list(model.parameters())
    ours = torch.autograd.grad(value, parameters, materialize_grads=True)
    loop = torch.autograd.grad(expected, parameters, materialize_grads=True)
    for own, other in zip(ours, loop, strict=True):
        torch.testing.assert_close(own, other)


def test_the_divergence_is_below_its_bound_and_below_log_m(spec, network, views):
    """Why the published code's pairwise bound is the default: the divergence can cost no more."""
    exact = build(spec, network, divergence="sampled", samples=500)
    with torch.no_grad():
        for name in NAMES:
            exact.encoders[name][1].mean.weight.mul_(100)  # posteriors far apart
    bound = build(spec, network, samples=500)
    bound.load_state_dict(exact.state_dict())
    terms = [m._loss(FakeBatch(views), Rng(7), 9)[1]["kl_mixture"] for m in (exact, bound)]
    assert 0 < terms[0] < terms[1]
    assert terms[0] < 3 * math.log(3) + 1e-9
    assert terms[1] > 3 * math.log(3)


def test_an_absent_view_does_not_count(spec, network, views):
    model = build(spec, network)
    other = {n: x.flip(-1) if x.is_floating_point() else 2 - x for n, x in views.items()}
    mixed = {
        n: torch.where(MASK[:, m].view(-1, *(1,) * (x.dim() - 1)), x, other[n])
        for m, (n, x) in enumerate(views.items())
    }
    value, _ = model._loss(FakeBatch(views, MASK), Rng(7), 0)
    torch.testing.assert_close(model._loss(FakeBatch(mixed, MASK), Rng(7), 0)[0], value)


def test_the_weight_of_the_standard_normal_falls_as_in_the_code(spec, network):
    """exp(step (log 1e-10 - log 1) / length), never below 1e-10."""
    model = build(spec, network, steps=100, anneal=0.5)
    for step in (0, 1, 25, 50, 99):
        expected = max(math.exp(step * math.log(1e-10) / 50), 1e-10)
        assert model.standard_weight(step) == pytest.approx(expected)


@torch.no_grad()
def test_targets_share_one_latent_and_a_given_one_keeps_its_own(spec, network, views):
    model = build(spec, network).float()
    x = {n: v.float() if v.is_floating_point() else v for n, v in views.items()}
    z = model.encode({"a": x["a"]}, Rng(1).fork("shared"))
    made = model.translate({"a": x["a"]}, ["b", "c"], Rng(1))
    expected = model.decode(z, Rng(2))
    assert all(torch.equal(made[n], expected[n]) for n in ("b", "c"))
    before = model.reconstruct(x, Rng(1))
    model.encoders["a"][1].mean.bias.add_(3.0)
    after = model.reconstruct(x, Rng(1))
    assert [n for n in NAMES if not torch.equal(before[n], after[n])] == ["a"]


@torch.no_grad()
def test_several_given_modalities_are_a_mixture_of_their_posteriors(spec, network, views):
    model = build(spec, network).float()
    given = {n: views[n][:1].repeat(2000, *(1,) * (views[n].dim() - 1)) for n in ("a", "c")}
    given["a"] = given["a"].float()
    experts = torch.stack([model.encode({n: x}, Rng(1)) for n, x in given.items()])  # [2, B, D]
    chosen = (model.encode(given, Rng(1)) == experts).all(-1)
    assert (chosen.sum(0) == 1).all()
    assert abs(chosen[0].float().mean() - 0.5) < 0.05


@torch.no_grad()
def test_translations_do_not_depend_on_the_batch_size(spec, network, views):
    """Of a model without joint samples, which the contract suite passes over."""
    model = build(spec, network)

    def make(first, n):
        given = {k: views[k][first : first + n] for k in ("a", "b")}
        return model.translate(given, NAMES, Rng(5, first=first))

    whole, parts = make(0, 4), [make(0, 1), make(1, 3)]
    for n in NAMES:
        torch.testing.assert_close(whole[n], torch.cat([p[n] for p in parts]))


def test_the_objective_is_in_float32_under_autocast(spec, network, views):
    model = build(spec, network, divergence="sampled").float()
    x = {n: v.float() if v.is_floating_point() else v for n, v in views.items()}
    assert_float32_under_autocast(lambda: model._loss(FakeBatch(x, MASK), Rng(7), 5))

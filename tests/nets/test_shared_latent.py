"""Objectives over one shared latent against loops written from the formulas."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from helpers.objectives import (
    MISSING,
    STANDARD,
    D,
    FakeBatch,
    assert_equal_to_loop,
    build,
    kl,
    there,
)
from helpers.rings import SPEC
from torch.distributions import Laplace, Normal

from baselines.codevae import CoDEVAE
from baselines.crmvae import CRMVAE
from baselines.helvae import HELVAE
from baselines.mmjsd import MMJSD
from baselines.mmvae import MMVAE
from baselines.mohelvae import MoHELVAE
from baselines.mopoe import MoPoE
from baselines.mvae import MVAE
from baselines.mvtcae import MVTCAE
from baselines.mwbvae import MWBVAE
from baselines.wbvae import WBVAE
from shalabench.api import Rng
from shalabench.nets.experts import (
    choose_components,
    product_of_experts,
    sliced_components,
    subsets,
)
from shalabench.nets.likelihoods import log_likelihood
from shalabench.nets.posteriors import softmax_scale

pytestmark = pytest.mark.float64

NAMES, B = ("a", "b", "c"), 4
SHARED = [MVAE, MoPoE, MMJSD, MMVAE, HELVAE, MoHELVAE, WBVAE, MWBVAE, CoDEVAE, CRMVAE]


def product(experts, prior):
    """Normalised product of Gaussians `[D]`, by the formula of reproduction/index.md's notation."""
    precisions = [1 / (q.variance + 1e-8) for q in experts]
    means = [q.mean for q in experts]
    if prior:
        precisions, means = [*precisions, 1 / (torch.ones(D) + 1e-8)], [*means, torch.zeros(D)]
    total = sum(precisions)
    mean = sum(p * m for p, m in zip(precisions, means, strict=True)) / total
    return Normal(mean, total**-0.5)


def expert(model, views, name, i):
    q = model.encoders[name](views[name][i : i + 1])
    return type(q)(q.mean[0], q.scale[0])


def density(model, spec, views, name, i, z):
    m = spec[name]
    decoded = model.decoders[name](z[None])
    return m.weight * log_likelihood(m, decoded, views[name][i : i + 1])[0]


@pytest.mark.parametrize("present", [None, MISSING], ids=["complete", "missing"])
@pytest.mark.parametrize("prior_expert", ["always", "several"])
@pytest.mark.parametrize("k", [0, 2])
@pytest.mark.parametrize("single", ["modality", "one"])
def test_mvae_s_bound_equals_the_loop(spec, network, views, present, prior_expert, k, single):
    settings = {"prior_expert": prior_expert, "random_subsets": k, "single_weights": single}
    model = build(MVAE, spec, network, **settings)
    noise = Rng(7).normal(B, 4 + k, D).double()
    chosen = Rng(7).fork("subsets").uniform(B, k, 3) < 0.5
    total = 0.0
    for i in range(B):
        own = there(present, i)
        sets = [own] + [[n] if n in own else [] for n in NAMES]
        sets += [[n for m, n in enumerate(NAMES) if chosen[i, r, m] and n in own] for r in range(k)]
        for s, members in enumerate(sets):
            if not members:
                continue
            prior = prior_expert == "always" or len(members) > 1
            q = product([expert(model, views, n, i) for n in members], prior)
            z = q.mean + q.scale * noise[i, s]
            total = total + 2.5 * kl(q)
            own_one = single == "one" and 1 <= s <= 3  # an ELBO of one modality
            total = total - sum(
                density(model, spec, views, n, i, z) / (spec[n].weight if own_one else 1)
                for n in members
            )
    assert_equal_to_loop(model, views, present, total / B)


@pytest.mark.parametrize("present", [None, MISSING], ids=["complete", "missing"])
def test_mopoe_s_bound_equals_the_loop(spec, network, views, present):
    model = build(MoPoE, spec, network)
    noise, level = Rng(7).normal(B, 1, D).double(), Rng(7).fork("component").uniform(B)
    total = 0.0
    for i in range(B):
        own = there(present, i)
        order = [
            [n for m, n in enumerate(NAMES) if number >> m & 1]
            for number in range(1, 2 ** len(NAMES))
        ]
        order = [members for members in order if set(members) <= set(own)]
        products = [
            product([expert(model, views, n, i) for n in members], len(members) == len(own))
            for members in order
        ]
        q = products[int(level[i] * len(order))]
        z = q.mean + q.scale * noise[i, 0]
        total = total + 2.5 * sum(kl(q) for q in products) / len(products)
        total = total - sum(density(model, spec, views, n, i, z) for n in own)
    assert_equal_to_loop(model, views, present, total / B)


@pytest.mark.parametrize("present", [None, MISSING], ids=["complete", "missing"])
@pytest.mark.parametrize("mixture", ["posteriors", "with-prior"])
def test_mmjsd_s_bound_equals_the_loop(spec, network, views, present, mixture):
    model = build(MMJSD, spec, network, mixture=mixture)
    noise, level = Rng(7).normal(B, 1, D).double(), Rng(7).fork("component").uniform(B)
    total = 0.0
    for i in range(B):
        own = there(present, i)
        experts = [expert(model, views, n, i) for n in own]
        everyone = [*experts, STANDARD]
        pi = 1 / len(everyone)
        precision = sum(pi / (q.variance + 1e-8) for q in everyone)
        mean = sum(pi * q.mean / (q.variance + 1e-8) for q in everyone) / precision
        f = Normal(mean, precision**-0.5)
        components = everyone if mixture == "with-prior" else experts
        q = components[int(level[i] * len(components))]
        z = q.mean + q.scale * noise[i, 0]
        total = total + 2.5 * sum(pi * kl(q, f) for q in everyone)
        total = total - sum(density(model, spec, views, n, i, z) for n in own)
    assert_equal_to_loop(model, views, present, total / B)


def test_mvtcae_s_objective_equals_the_loop(spec, network, views):
    model = build(MVTCAE, spec, network, ratio=0.7)
    noise, total = Rng(7).normal(B, 1, D).double(), 0.0
    for i in range(B):
        experts = [expert(model, views, n, i) for n in NAMES]
        q = product(experts, prior=False)
        z = q.mean + q.scale * noise[i, 0]
        fidelity = sum(density(model, spec, views, n, i, z) for n in NAMES)
        rate = 0.7 / 3 * sum(kl(q, q_m) for q_m in experts) + 0.3 * kl(q)
        total = total + 2.5 * rate - (3 - 0.7) / 3 * fidelity
    assert_equal_to_loop(model, views, None, total / B)


@pytest.mark.parametrize("present", [None, MISSING], ids=["complete", "missing"])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("family", ["laplace", "normal"])
@pytest.mark.parametrize("bound", ["looser", "tight"])
def test_mmvae_s_bound_equals_the_loop(spec, network, views, present, samples, family, bound):
    if bound == "tight" and present is not None:
        pytest.skip("defined on complete tuples")
    settings = {"importance_samples": samples, "family": family, "bound": bound}
    model = build(MMVAE, spec, network, **settings)
    torch.nn.init.normal_(model.prior_raw)
    log_w = log_weights(model, spec, views, present, samples)
    total = 0.0
    for own in log_w:
        if bound == "tight":
            total = total + torch.cat(own).exp().mean().log()
        else:
            total = total + sum(w.exp().mean().log() for w in own) / len(own)
    # exp underflows in a plain loop: the weights are shifted by a constant.
    shift = log_weights.shift
    assert_equal_to_loop(model, views, present, -(total / B + shift))


def log_weights(model, spec, views, present, samples):
    """For each item and each present expert `[K]`, shifted by `log_weights.shift`."""
    laplace = model.config.family == "laplace"
    kind, rng = (Laplace, Rng(7).laplace) if laplace else (Normal, Rng(7).normal)
    noise = rng(B, 3 * samples * D).view(B, 3, samples, D).double()
    raw = model.prior_raw
    prior = kind(torch.zeros(D), softmax_scale(raw) if laplace else torch.exp(raw / 2))
    out = []
    for i in range(B):
        own = there(present, i)
        experts = {n: expert(model, views, n, i) for n in own}
        rows = []
        for m, name in enumerate(NAMES):
            if name not in own:
                continue
            row = []
            for k in range(samples):
                z = experts[name].mean + experts[name].scale * noise[i, m, k]
                mixture = torch.stack([q.log_prob(z).sum() for q in experts.values()])
                value = sum(density(model, spec, views, n, i, z) for n in own)
                value = value + prior.log_prob(z).sum()
                row.append(value - mixture.logsumexp(0) + math.log(len(own)))
            rows.append(torch.stack(row))
        out.append(rows)
    shift = torch.cat([w for rows in out for w in rows]).mean().detach()
    log_weights.shift = shift
    return [[w - shift for w in rows] for rows in out]


@pytest.mark.parametrize(("estimator", "power"), [("stl", 1), ("dreg", 2)])
def test_mmvae_s_gradients_through_the_draws_alone(spec, network, views, estimator, power):
    """v on every way, for dreg v once more through the draws, by hand for one encoder's bias."""
    model = build(MMVAE, spec, network, importance_samples=3, estimator=estimator)
    value, _ = model.loss(FakeBatch(views), Rng(7), 0)
    bias = model.encoders["a"][1].mean.bias
    ours = torch.autograd.grad(value, bias)[0]
    noise = Rng(7).laplace(B, 9 * D).view(B, 3, 3, D).double()
    expected = torch.zeros(D)
    experts = [[expert(model, views, n, i) for n in NAMES] for i in range(B)]
    prior = Laplace(torch.zeros(D), softmax_scale(model.prior_raw).detach())
    for i in range(B):
        slopes, weights = [], []
        for k in range(3):
            q = experts[i][0]
            z = (q.mean + q.scale * noise[i, 0, k]).detach().requires_grad_()
            mixture = torch.stack(
                [Laplace(e.mean.detach(), e.scale.detach()).log_prob(z).sum() for e in experts[i]]
            )
            value = sum(density(model, spec, views, n, i, z) for n in NAMES)
            value = value + prior.log_prob(z).sum() - mixture.logsumexp(0) + math.log(3)
            slopes.append(torch.autograd.grad(value, z)[0])
            weights.append(value.detach())
        v = torch.stack(weights).softmax(0)
        expected = expected - (v[:, None] ** power * torch.stack(slopes)).sum(0) / (3 * B)
    torch.testing.assert_close(ours, expected)


def test_products_are_as_exact_under_autocast():
    experts = Normal(torch.randn(3, 4, 5).float(), torch.rand(3, 4, 5).float() * 0.2 + 0.01)
    members = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    exact = product_of_experts(experts, members, 1.0)
    with torch.autocast("cpu", torch.bfloat16):
        q = product_of_experts(experts, members, 1.0)
    torch.testing.assert_close(q.mean, exact.mean, rtol=0, atol=0)
    torch.testing.assert_close(q.scale, exact.scale, rtol=0, atol=0)


def test_a_product_of_gaussians_is_the_normalised_density():
    a, b = Normal(torch.tensor([[1.0]]), torch.tensor([[2.0]])), Normal(-1.0, 0.5)
    stacked = Normal(torch.tensor([[[1.0]], [[-1.0]]]), torch.tensor([[[2.0]], [[0.5]]]))
    q = product_of_experts(stacked, torch.ones(1, 2), 1.0)
    x = torch.linspace(-3, 3, 7)
    product_ = a.log_prob(x)[0] + b.log_prob(x) + Normal(0.0, 1.0).log_prob(x)
    difference = product_ - Normal(q.mean.item(), q.scale.item()).log_prob(x)
    torch.testing.assert_close(difference, difference[0].expand(7), rtol=0, atol=1e-6)


@pytest.mark.parametrize("powers", [(0.25, 0.25), (0.7, 0.1), (2.0, 0.5)])
@pytest.mark.parametrize("prior", [0.0, 0.5])
def test_a_product_of_powers_is_the_normalised_density(powers, prior):
    """Precisions add up with their powers, and so do the means that they weight, in closed form."""
    mean, scale = torch.tensor([[0.3, -1.2], [-2.0, 0.4]]), torch.tensor([[2.0, 0.7], [0.5, 1.3]])
    q = product_of_experts(Normal(mean[:, None], scale[:, None]), torch.tensor([powers]), prior)
    a = torch.tensor(powers)[:, None]
    precision = (a / scale**2).sum(0) + prior
    torch.testing.assert_close(q.variance[0, 0], 1 / precision)
    torch.testing.assert_close(q.mean[0, 0], (a * mean / scale**2).sum(0) / precision)
    x = torch.linspace(-3, 3, 7)[:, None]
    density = (a[:, None] * Normal(mean[:, None], scale[:, None]).log_prob(x)).sum(0)
    difference = density + prior * Normal(0.0, 1.0).log_prob(x) - q.log_prob(x)[0]
    torch.testing.assert_close(difference, difference[:1].expand(7, 2), rtol=0, atol=1e-6)


def test_each_item_and_product_can_have_powers_of_its_own():
    experts = Normal(torch.randn(3, 4, 2), torch.rand(3, 4, 2) + 0.5)
    powers, prior = 2 * torch.rand(5, 4, 3), torch.rand(5, 4)
    q = product_of_experts(experts, powers, prior)
    for s in range(5):
        for i in range(4):
            alone = Normal(experts.mean[:, i : i + 1], experts.scale[:, i : i + 1])
            one = product_of_experts(alone, powers[s, i][None], prior[s, i].item())
            torch.testing.assert_close(q.mean[s, i], one.mean[0, 0])
            torch.testing.assert_close(q.scale[s, i], one.scale[0, 0])


def test_subsets_are_all_non_empty_ones_with_the_full_set_last():
    found = {tuple(row.nonzero().flatten().tolist()) for row in subsets(4)}
    assert found == {c for k in range(1, 5) for c in combinations(range(4), k)}
    assert subsets(4)[-1].all()


def test_components_are_drawn_by_weight():
    weights = torch.tensor([0.0, 1.0, 3.0])[:, None].expand(-1, 20_000)
    counts = choose_components(weights, Rng(1)).bincount(minlength=3) / 20_000
    torch.testing.assert_close(counts, torch.tensor([0.0, 0.25, 0.75]), rtol=0, atol=0.015)


def test_slices_are_equal_and_the_last_takes_the_rest():
    assert sliced_components(3, 8).tolist() == [0, 0, 1, 1, 2, 2, 2, 2]
    assert sliced_components(9, 4).tolist() == [8] * 4


def test_mopoe_refuses_sixteen_views_for_their_65_535_subsets():
    assert "2^M subsets of modalities: M is 16, at most 10" in MoPoE.skip(SPEC, MoPoE.Config())


@pytest.mark.parametrize("cls", SHARED)
def test_absent_views_change_nothing(spec, network, views, cls):
    model = build(cls, spec, network)
    before, _ = model.loss(FakeBatch(views, MISSING), Rng(7), 0)
    changed = dict(views, b=torch.where(MISSING[:, 1].view(-1, 1, 1, 1), views["b"], 9.0))
    after, _ = model.loss(FakeBatch(changed, MISSING), Rng(7), 0)
    assert torch.equal(before, after)


def test_the_prior_of_mmvae_widens_in_one_dimension_alone_where_it_is_gaussian(spec, network):
    """A sum of scales bound to D would throw what the posteriors do not need into one dimension."""
    model = build(MMVAE, spec, network, family="normal")
    before = model.prior(4000, Rng(3)).std(0)
    with torch.no_grad():
        model.prior_raw[0] += 2.0
    ratio = model.prior(4000, Rng(3)).std(0) / before
    assert torch.allclose(ratio, torch.tensor([math.e, *[1.0] * (D - 1)]), rtol=1e-6)

"""Methods that pool their experts, against loops written from the formulas.

Posteriors come from torch.linalg, an optimiser's minimum or quadrature, not from the pooling.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import pytest
import torch
from helpers.objectives import MISSING, D, FakeBatch, assert_equal_to_loop, build, kl, there
from helpers.rings import SPEC as RING
from torch.distributions import Normal

from baselines.codevae import CoDEVAE
from baselines.crmvae import CRMVAE
from baselines.helvae import HELVAE
from baselines.mohelvae import MoHELVAE
from baselines.mopoe import MoPoE
from baselines.mwbvae import MWBVAE
from baselines.wbvae import WBVAE
from shalabench.api import ConfigErrors, Modality, Rng
from shalabench.config.ablations import read_ablation
from shalabench.config.plan import plan_ablation
from shalabench.config.settings import resolve
from shalabench.nets.likelihoods import log_likelihood

pytestmark = pytest.mark.float64

NAMES, B = ("a", "b", "c"), 4
PRESENT = pytest.mark.parametrize("present", [None, MISSING], ids=["complete", "missing"])
# Numbers 1 to 7 in binary, as the components are numbered.
SETS = [[n for m, n in enumerate(NAMES) if number >> m & 1] for number in range(1, 8)]


def experts(model, views, i):
    """The posterior `[D]` of each modality of item i."""
    made = {n: model.encoders[n](views[n][i : i + 1]) for n in NAMES}
    return {n: Normal(q.mean[0], q.scale[0]) for n, q in made.items()}


def density(model, spec, views, name, i, z):
    m = spec[name]
    return m.weight * log_likelihood(m, model.decoders[name](z[None]), views[name][i : i + 1])[0]


def consensus(qs, rho=0.4):
    """The best linear unbiased combination, dimension by dimension."""
    mean, scale = torch.stack([q.mean for q in qs]), torch.stack([q.scale for q in qs])
    correlation = torch.full((len(qs), len(qs)), rho).fill_diagonal_(1.0)
    inverse = torch.linalg.inv(scale.T[:, :, None] * correlation * scale.T[:, None])  # [D, M, M]
    variance = 1 / inverse.sum((1, 2))
    return Normal((inverse.sum(1) * mean.T).sum(1) * variance, variance.sqrt())


def barycentre(qs):
    """The two quantiles at one standard deviation are means of the experts' ones."""
    high = sum(q.mean + q.scale for q in qs) / len(qs)
    low = sum(q.mean - q.scale for q in qs) / len(qs)
    return Normal((high + low) / 2, (high - low) / 2)


def hellinger(qs):
    """Moments of the mixture of the products sqrt(q_i q_j), written over ordered pairs."""
    weights, means, squares = [], [], []
    for a in qs:
        for b in qs:
            precision = (1 / a.variance + 1 / b.variance) / 2
            mean = (a.mean / a.variance + b.mean / b.variance) / (2 * precision)
            logs = (a.log_prob(mean) + b.log_prob(mean)) / 2 - Normal(
                mean, precision**-0.5
            ).log_prob(mean)
            weights.append(logs.sum().exp())
            means.append(mean)
            squares.append(1 / precision + mean**2)
    w = torch.stack(weights) / sum(weights)
    mean = (w[:, None] * torch.stack(means)).sum(0)
    return Normal(mean, ((w[:, None] * torch.stack(squares)).sum(0) - mean**2).sqrt())


def product(qs, prior=False):
    precision = sum(1 / (q.variance + 1e-8) for q in qs) + prior / (1 + 1e-8)
    mean = sum(q.mean / (q.variance + 1e-8) for q in qs) / precision
    return Normal(mean, precision**-0.5)


RULES = {
    "product": product,
    "product-prior": lambda qs: product(qs, True),
    "consensus": consensus,
    "barycentre": barycentre,
    "hellinger": hellinger,
}


def bound(model, spec, views, present, rule, all_subsets, sliced=False):
    """The objective of a full set or of all subsets, as a loop."""
    n = len(views["a"])
    noise, level = Rng(7).normal(n, 1, D).double(), Rng(7).fork("component").uniform(n)
    total = 0.0
    for i in range(n):
        own, qs = there(present, i), experts(model, views, i)
        sets = [s for s in SETS if set(s) <= set(own)] if all_subsets else [own]
        pooled = [rule([qs[n] for n in s]) for s in sets]
        which = min(i // (n // len(sets)), len(sets) - 1) if sliced else level[i] * len(sets)
        q = pooled[int(which)]
        z = q.mean + q.scale * noise[i, 0]
        total = total + model.config.beta * sum(kl(q) for q in pooled) / len(pooled)
        total = total - sum(density(model, spec, views, name, i, z) for name in own)
    return total / n


@PRESENT
@pytest.mark.parametrize(
    ("cls", "pooling", "all_subsets"),
    [
        (HELVAE, "hellinger", False),
        (MoHELVAE, "hellinger", True),
        (WBVAE, "barycentre", False),
        (MWBVAE, "barycentre", True),
    ],
)
def test_pooled_bounds_equal_the_loop(spec, network, views, present, cls, pooling, all_subsets):
    model = build(cls, spec, network, beta=1.7)
    expected = bound(model, spec, views, present, RULES[pooling], all_subsets)
    assert_equal_to_loop(model, views, present, expected)


@PRESENT
@pytest.mark.parametrize("training", ["full", "subsets"])
@pytest.mark.parametrize("pooling", RULES)
def test_each_row_of_the_ablation_equals_the_loop(spec, network, views, present, pooling, training):
    model = build(HELVAE, spec, network, pooling=pooling, training=training)
    expected = bound(model, spec, views, present, RULES[pooling], training == "subsets")
    assert_equal_to_loop(model, views, present, expected)


def test_mopoe_differs_from_pooled_products_only_by_the_prior_in_the_full_set(spec, network, views):
    ours = build(HELVAE, spec, network, pooling="product", training="subsets")
    theirs = build(MoPoE, spec, network)
    theirs.load_state_dict(ours.state_dict())
    sets, _ = ours._pool(ours.experts(views), torch.ones(3, B).bool(), ours.rule(ours.config))
    others, _ = theirs.products(theirs.experts(views), torch.ones(3, B).bool())
    assert torch.equal(sets.mean[:-1], others.mean[:-1])
    assert torch.equal(sets.scale[:-1], others.scale[:-1])
    assert (sets.scale[-1] > others.scale[-1]).all()


@PRESENT
@pytest.mark.parametrize("weights", ["learned", "uniform"])
def test_codevae_s_objective_equals_the_loop(spec, network, views, present, weights):
    model = build(CoDEVAE, spec, network, weights=weights, beta=1.7, entropy=50.0)
    logits = torch.zeros(7)
    if weights == "learned":
        torch.nn.init.normal_(model.logits)
        logits = model.logits
    noise, total = Rng(7).normal(B, 7, D).double(), 0.0
    for i in range(B):
        own, qs = there(present, i), experts(model, views, i)
        inside = [s for s in range(7) if set(SETS[s]) <= set(own)]
        w = logits[inside].softmax(0)
        for weight, s in zip(w, inside, strict=True):
            q = consensus([qs[n] for n in SETS[s]])
            z = q.mean + q.scale * noise[i, s]
            fidelity = sum(density(model, spec, views, n, i, z) for n in own)
            total = total + weight * (1.7 * kl(q) - fidelity)
        if weights == "learned":
            total = total + 50 * (w * w.log()).sum()
    assert_equal_to_loop(model, views, present, total / B)


def test_codevae_s_weights_have_the_optimum_of_the_closed_form(spec, network, views):
    """At fixed networks w_S = softmax(-L_S / 1000), with -1000 logsumexp(-L_S / 1000)."""
    model = build(CoDEVAE, spec, network)
    batch = FakeBatch(views)
    with torch.no_grad():
        losses = []
        for s in range(7):
            model.logits.fill_(-1e4)
            model.logits[s] = 0.0
            losses.append(model.loss(batch, Rng(7), 0)[0])
        losses = torch.stack(losses)
        model.logits.zero_()
    descent = torch.optim.LBFGS([model.logits], lr=1, max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        descent.zero_grad()
        value = model.loss(batch, Rng(7), 0)[0]
        (model.logits.grad,) = torch.autograd.grad(value, [model.logits])
        return value

    descent.step(closure)
    expected = (-losses / 1000).softmax(0)
    torch.testing.assert_close(model.logits.softmax(0), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(closure(), -1000 * (-losses / 1000).logsumexp(0))


@PRESENT
@pytest.mark.parametrize("k", [1, 3])
def test_drawn_subsets_give_the_mean_over_all(spec, network, views, present, k):
    """Over many draws, in value; with the noise of each subset equal."""
    full = build(CoDEVAE, spec, network, weights="uniform")
    some = build(CoDEVAE, spec, network, weights="uniform", subsets=k)
    some.load_state_dict(full.state_dict())
    quiet = torch.zeros(1)

    class Quiet(Rng):
        def normal(self, *shape):
            return quiet.expand(shape)

        def fork(self, *names):
            return Rng(self.seed_of).fork(*names)

    def value(model, seed):
        rng = Quiet(seed)
        rng.seed_of = seed
        return model.loss(FakeBatch(views, present), rng, 0)[0]

    with torch.no_grad():
        expected = value(full, 0)
        drawn = torch.stack([value(some, seed) for seed in range(600)])
    error = drawn.std() / len(drawn) ** 0.5
    assert error > 0
    assert abs(drawn.mean() - expected) < 4 * error


def test_drawn_subsets_are_different_and_of_present_modalities(spec, network):
    model = build(CoDEVAE, spec, network, weights="uniform", subsets=3)
    for seed in range(20):
        members, valid = model._sets(MISSING.T, Rng(seed))
        for i, row in enumerate(MISSING):
            inside = members[valid[:, i], i]
            assert len(inside) == min(3, 2 ** int(row.sum()) - 1)
            assert len({tuple(s.tolist()) for s in inside}) == len(inside)
            assert not (inside & ~row).any()


@PRESENT
def test_crmvae_s_objective_equals_the_loop(spec, network, views, present):
    model = build(CRMVAE, spec, network, beta=1.7)
    noise = Rng(7).normal(B, 1, D).double()
    unimodal, total = Rng(7).fork("unimodal").normal(B, 3, D).double(), 0.0
    for i in range(B):
        own, qs = there(present, i), experts(model, views, i)
        q = product([qs[n] for n in own])
        z = q.mean + q.scale * noise[i, 0]
        divergence = kl(q) + sum(kl(q, qs[n]) for n in own)
        total = total + 1.7 * divergence / (len(own) + 1)
        for m, n in enumerate(NAMES):
            if n in own:
                alone = qs[n].mean + qs[n].scale * unimodal[i, m]
                both = density(model, spec, views, n, i, z) + density(
                    model, spec, views, n, i, alone
                )
                total = total - both / (2 * (len(own) + 1))
    assert_equal_to_loop(model, views, present, total / B)


@pytest.mark.parametrize(
    ("cls", "rule"),
    [(HELVAE, hellinger), (MWBVAE, barycentre), (CoDEVAE, consensus), (CRMVAE, product)],
)
def test_latents_of_given_modalities_are_drawn_from_their_pooled_posterior(
    spec, network, views, cls, rule
):
    model = build(cls, spec, network)
    for given in (s for k in (1, 2, 3) for s in combinations(NAMES, k)):
        z = model.encode({n: views[n] for n in given}, Rng(3))
        noise = Rng(3).normal(B, 1, D)[:, 0]
        for i in range(B):
            qs = experts(model, views, i)
            q = rule([qs[n] for n in given])
            torch.testing.assert_close(z[i], q.mean + q.scale * noise[i])


def test_overlaps_are_logged_over_present_pairs(spec, network, views):
    model = build(HELVAE, spec, network)
    logs = []
    for i in range(B):
        qs = experts(model, views, i)
        for a, b in combinations(there(MISSING, i), 2):
            p, q = qs[a], qs[b]
            both = p.variance + q.variance
            s = (2 * p.scale * q.scale / both).sqrt() * (
                -((p.mean - q.mean) ** 2) / (4 * both)
            ).exp()
            logs.append(s.log().sum())
    terms = model.loss(FakeBatch(views, MISSING), Rng(7), 0)[1]
    torch.testing.assert_close(terms["log_overlap"], torch.stack(logs).mean())


def test_mohelvae_is_helvae_trained_on_subsets(spec, network, views):
    one = build(HELVAE, spec, network, training="subsets")
    other = build(MoHELVAE, spec, network)
    other.load_state_dict(one.state_dict())
    values = [model.loss(FakeBatch(views), Rng(7), 0)[0] for model in (one, other)]
    assert torch.equal(*values)


def test_slices_are_by_position(spec, network, views):
    """Of 16 items, each of the first six subsets gets two, and the full set the rest."""
    many = {name: torch.cat([x] * 4) for name, x in views.items()}
    model = build(MoHELVAE, spec, network, components="slices")
    assert_equal_to_loop(model, many, None, bound(model, spec, many, None, hellinger, True, True))


@pytest.mark.parametrize("cls", [MoHELVAE, MWBVAE, CoDEVAE])
def test_sixteen_views_are_refused_for_their_65_535_subsets(cls):
    assert "65,535" in cls.skip(RING, cls.Config())
    assert HELVAE.skip(RING, HELVAE.Config()) is None
    assert "model.training=full" in HELVAE.skip(RING, HELVAE.Config(training="subsets"))
    assert "model.subsets=127 or fewer" in CoDEVAE.skip(RING, CoDEVAE.Config())
    assert CoDEVAE.skip(RING, CoDEVAE.Config(subsets=127, weights="uniform")) is None
    more = CoDEVAE.Config(subsets=128, weights="uniform")
    assert CoDEVAE.skip(RING, more).endswith("use 1 to 127.")


def test_a_correlation_out_of_range_is_refused_before_training(spec):
    """Where there is a consensus; three modalities allow more than -1/2."""
    for config in (CoDEVAE.Config(rho=-0.5), CoDEVAE.Config(rho=1.0)):
        assert "more than -0.5 and less than 1" in CoDEVAE.skip(spec, config)
    assert CoDEVAE.skip(spec, CoDEVAE.Config(rho=-0.49)) is None
    assert HELVAE.skip(spec, HELVAE.Config(rho=2.0)) is None
    assert "is 0.99." in HELVAE.skip(spec, HELVAE.Config(rho=2.0, pooling="consensus"))


def test_numbers_of_subsets_that_cannot_be_drawn_are_refused(spec):
    config = CoDEVAE.Config(subsets=7, weights="uniform")
    assert CoDEVAE.skip(spec, config) is None
    assert "use 1 to 7, or all." in CoDEVAE.skip(spec, config.model_copy(update={"subsets": 8}))
    assert "model.weights=uniform" in CoDEVAE.skip(spec, CoDEVAE.Config(subsets=3))
    views = (*RING.modalities, Modality("more", "image", (3, 8, 8)))
    assert "17" in CoDEVAE.skip(replace(RING, modalities=views), config)
    for wrong in ("0", "1.5", "some"):
        with pytest.raises(ConfigErrors, match=r"model\.subsets is .*'all'"):
            resolve("codevae", "toy", "smoke", [f"model.subsets={wrong}"])


def test_posteriors_are_gaussian_by_name():
    """A family that cannot be pooled is refused before training: there is no such setting."""
    with pytest.raises(ConfigErrors, match=r"model\.family"):
        resolve("helvae", "toy", "smoke", ["model.family=laplace"])


def test_the_ablation_has_each_pooling_under_each_training():
    runs = plan_ablation(read_ablation("pooling"), "toy", "quick", [0])
    found = {(r.resolved.model.pooling, r.resolved.model.training) for r in runs}
    assert found == {(p, t) for p in RULES for t in ("full", "subsets")}
    assert len({(r.resolved.model.beta, r.resolved.model.steps) for r in runs}) == 1

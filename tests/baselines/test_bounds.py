"""Bounds on the evidence where it is known: linear decoders, Gaussian noise, one tuple X.

z ~ N(0, I) and x_m = W_m z + V_m w_m + sigma_m e, with V_m = 0 for methods without private latents.
The columns of a modality's W and V are orthogonal, so that exact posteriors are diagonal, as those
of the methods are. Weights and beta are 1. Encoders give the posterior that a test asks for: at one
X, a linear encoder's offset can put it anywhere. Means are over 20,000 draws.

What is bounded is not always log p(X). MVAE adds up the ELBOs of several subsets, and bounds the
sum of their evidences. CMVAE's evidence is under its clusters. MMVAE+, MVEBM and CMVAE bound the
evidence if the auxiliary priors r_n are p(w_n), and so does Hoelder+; as published they are
learned, and the objective then lacks KL(r_n || p(w_n)), so that it can exceed the evidence. mmJSD's
divergence is from f, the geometric mean of the experts and N(0, I). Where N(0, I) is a component of
the mixture that is decoded, as in MoPoE's code, its objective bounds the evidence under the prior
f, which depends on the encoders; with the posteriors alone, as in its own code, we know of nothing
that it bounds. Either can exceed log p(X).

CoDE-VAE's weighted bounds do not exceed log p(X), but the entropy that it adds to them does; it is
taken off here.

Not here, as they do not bound log p(X): MVTCAE (terms of total correlation), CRMVAE (terms of
single modalities), IDMVAE (terms of contrast), MMVM (a latent a
modality, and a prior made of the posteriors of the very X), MLD (deterministic autoencoders) and
SBM-AE (one ELBO a modality, and a diffusion whose loss is weighted for samples). Nor is the value
of the doubly reparametrised estimators a bound: only their gradient counts.
"""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from helpers.objectives import FakeBatch
from torch import nn
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from baselines.cmvae import CMVAE
from baselines.codevae import CoDEVAE
from baselines.helvae import HELVAE
from baselines.hoelder_plus import HoelderPlus
from baselines.jmvae import JMVAE
from baselines.mmjsd import MMJSD
from baselines.mmvae import MMVAE
from baselines.mmvae_plus import MMVAEPlus
from baselines.mohelvae import MoHELVAE
from baselines.mopoe import MoPoE
from baselines.mvae import MVAE
from baselines.mvebm import MVEBM
from baselines.mwbvae import MWBVAE
from baselines.wbvae import WBVAE
from shala.inference import Inference
from shalabench.api import DataSpec, Modality, Rng
from shalabench.nets.experts import stack_posteriors, subsets
from shalabench.nets.pooling import pool

pytestmark = pytest.mark.float64

SHAPES = {"a": (3, 1, 1), "b": (1, 2, 2), "c": (5, 1, 1)}
SIGMA = {"a": 0.5, "b": 0.8, "c": 1.1}
NAMES, D, B, CALLS = tuple(SHAPES), 2, 1000, 20
SETS = [names for k in range(1, len(NAMES) + 1) for names in combinations(NAMES, k)]
TRAINED = [*((name,) for name in NAMES), NAMES]  # MVAE's subsets
SPEC = DataSpec(
    name="linear",
    version=1,
    modalities=tuple(Modality(n, "image", SHAPES[n], "normal", SIGMA[n]) for n in NAMES),
    classes=0,
    sizes={},
    fingerprint="",
    source="",
)


class Fixed(nn.Module):
    """An encoder that gives every item the same posterior, batch shape `[D]` to `[B, D]`."""

    def __init__(self, q):
        super().__init__()
        self.q = q

    def forward(self, x):
        return Normal(self.q.mean.expand(len(x), -1), self.q.scale.expand(len(x), -1))


class Linear(nn.Module):
    """A decoder `[N, D]` to images."""

    def __init__(self, weight, shape):
        super().__init__()
        self.weight, self.shape = weight, shape

    def forward(self, z):
        return (z @ self.weight.T).unflatten(-1, self.shape)


class Problem:
    """W and V of every modality, one tuple X, and what is known of it in closed form.

    Args:
        seed: Of W, V and X.
        private: Length of V's one column.
        shared: Factor of W.
    """

    def __init__(self, seed, private=0.0, shared=1.0):
        torch.manual_seed(seed)
        self.W, self.V, self.x, z = {}, {}, {}, torch.randn(D)
        for name, shape in SHAPES.items():
            pixels = math.prod(shape)
            columns = torch.linalg.qr(torch.randn(pixels, D + 1))[0]
            self.W[name] = columns[:, :D] * (0.7 + 0.6 * torch.rand(D)) * shared
            self.V[name] = columns[:, D:] * private
            noise = SIGMA[name] * torch.randn(pixels)
            self.x[name] = self.W[name] @ z + self.V[name] @ torch.randn(1) + noise

    def batch(self):
        return FakeBatch({n: x.view(SHAPES[n]).expand(B, -1, -1, -1) for n, x in self.x.items()})

    def evidence(self, names=NAMES, prior=None):
        """log p(x_m for m in names), as the density of all their pixels together."""
        prior = prior or standard(D)
        W, x = (torch.cat([part[n] for n in names]) for part in (self.W, self.x))
        noise = [self.V[n] @ self.V[n].T + SIGMA[n] ** 2 * torch.eye(len(self.x[n])) for n in names]
        covariance = (W * prior.variance) @ W.T + torch.block_diag(*noise)
        return MultivariateNormal(W @ prior.mean, covariance).log_prob(x)

    def factors(self):
        """The likelihood of each modality as a density of z."""
        return {n: likelihood(self.W[n], self.x[n], SIGMA[n]) for n in NAMES}

    def posterior(self, names=NAMES, prior=None):
        """p(z | x_m for m in names)."""
        factors = self.factors()
        return product([prior or standard(D), *(factors[n] for n in names)])

    def private_posteriors(self):
        """p(w_m | x_m) of each modality, given any z: the columns are orthogonal."""
        return {
            n: product([standard(1), likelihood(self.V[n], self.x[n], SIGMA[n])]) for n in NAMES
        }


def standard(dim):
    return Normal(torch.zeros(dim), torch.ones(dim))


def likelihood(weight, x, sigma):
    """N(x; weight z, sigma^2) as a density of z."""
    precision = (weight**2).sum(0) / sigma**2
    return Normal(weight.T @ x / sigma**2 / precision, precision**-0.5)


def product(factors, powers=None):
    """The normalised product of Gaussians to some powers, 1 where none are said."""
    weights = [a / q.variance for a, q in zip(powers or [1] * len(factors), factors, strict=True)]
    mean = sum(a * q.mean for a, q in zip(weights, factors, strict=True)) / sum(weights)
    return Normal(mean, sum(weights) ** -0.5)


def blurred(q):
    """Near q: what an encoder might have learned."""
    scale = q.scale * (0.2 * torch.randn_like(q.scale)).exp()
    return Normal(q.mean + 0.3 * q.scale * torch.randn_like(q.mean), scale)


def kl(q, p):
    return kl_divergence(q, p).sum()


def mean_of(values):
    values = list(values)
    return sum(values) / len(values)


def build(method, network, problem, experts, private=None, **settings):
    """A method with the problem's decoders, given posteriors, and beta 1.

    Args:
        method: Its class; `Inference` is ShaLa's first stage.
        network: Of the parts that are then replaced.
        problem: The decoders.
        experts: Each modality's posterior, and under "all" a joint encoder's.
        private: The posterior of each modality's private latent, where the method has one.
        settings: Of the method.
    """
    weights = {n: problem.W[n] for n in NAMES}
    if method is Inference:
        model = Inference(SPEC, network, D, 3, 4)
        model.encoders = nn.ModuleDict({n: nn.Flatten() for n in NAMES})
        model.fuse, model.head = nn.Identity(), Fixed(experts["all"])
    elif private is None:
        sizes = {"latent_dim": D, "beta": 1.0}
        model = method(SPEC, method.Config(network=network, **sizes, **settings))
        model.encoders = nn.ModuleDict({n: Fixed(experts[n]) for n in NAMES})
        if method is JMVAE:
            model.joint = nn.ModuleDict({n: nn.Flatten() for n in NAMES})
            model.fuse = Fixed(experts["all"])
    else:
        sizes = {"shared_dim": D, "private_dim": 1, "family": "normal", "beta": 1.0}
        model = method(SPEC, method.Config(network=network, **(sizes | settings)))
        model.shared = nn.ModuleDict({n: Fixed(experts[n]) for n in NAMES})
        model.private = nn.ModuleDict({n: Fixed(private[n]) for n in NAMES})
        weights = {n: torch.cat([problem.V[n], problem.W[n]], 1) for n in NAMES}
    model.decoders = nn.ModuleDict({n: Linear(weights[n], SHAPES[n]) for n in NAMES})
    return model


@torch.no_grad()
def bound_of(model, problem):
    """The mean of the model's objective over draws, and its standard error."""
    batch, values = problem.batch(), []
    for call in range(CALLS):
        if isinstance(model, Inference):
            value = -model.elbo(batch.views, 1.0, Rng(call))[0]
        elif isinstance(model, MVEBM):
            value = model.evidence(batch.views, None, Rng(call))[0]
        else:
            private = isinstance(model, MMVAEPlus | CMVAE | HoelderPlus)
            value = -(model._loss if private else model.loss)(batch, Rng(call), 0)[0]
        values.append(value)
    values = torch.stack(values)
    return values.mean(), values.std() / CALLS**0.5


def assert_equal(bound, expected):
    """Within four standard errors; where every draw gives the same, within rounding."""
    mean, error = bound
    assert abs(mean - expected) <= 4 * error + 1e-6, (mean, error, expected)


def assert_not_above(bound, evidence):
    mean, error = bound
    assert mean <= evidence + 4 * error, (mean, error, evidence)


SEEDS = pytest.mark.parametrize("seed", range(2))
BOUNDS = pytest.mark.parametrize("bound", ["looser", "tight"])
SAMPLES = pytest.mark.parametrize("samples", [1, 3])


@SEEDS
@pytest.mark.parametrize("k", [0, 2])
def test_mvae_s_bound_is_tight_where_experts_are_the_likelihood_s_factors(network, seed, k):
    """Each product with the prior is the subset's posterior; random subsets may be empty."""
    problem = Problem(seed)
    model = build(MVAE, network, problem, problem.factors(), random_subsets=k)
    expected = sum(problem.evidence(names) for names in TRAINED)
    expected = expected + k * sum(problem.evidence(names) for names in SETS) / 2 ** len(NAMES)
    assert_equal(bound_of(model, problem), expected)


@SEEDS
@pytest.mark.parametrize("prior_expert", ["always", "several"])
def test_mvae_s_bound_falls_short_by_each_product_s_divergence(network, seed, prior_expert):
    """ELBO(q) = log p(X) - KL(q || p(z|X)), which proves that it never exceeds log p(X)."""
    problem = Problem(seed)
    experts = {n: blurred(q) for n, q in problem.factors().items()}
    model = build(MVAE, network, problem, experts, prior_expert=prior_expert)
    expected = 0.0
    for names in TRAINED:
        prior = [standard(D)] if prior_expert == "always" or len(names) > 1 else []
        q = product([*(experts[n] for n in names), *prior])
        expected = expected + problem.evidence(names) - kl(q, problem.posterior(names))
    assert_equal(bound_of(model, problem), expected)


@SEEDS
def test_mopoe_s_bound_falls_short_by_the_mean_divergence_of_its_products(network, seed):
    problem = Problem(seed)
    experts = {n: blurred(q) for n, q in problem.factors().items()}
    gaps = []
    for names in SETS:
        prior = [standard(D)] if names == NAMES else []
        q = product([*(experts[n] for n in names), *prior])
        gaps.append(kl(q, problem.posterior()))
    model = build(MoPoE, network, problem, experts)
    assert_equal(bound_of(model, problem), problem.evidence() - mean_of(gaps))


@SEEDS
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "blurred"])
@pytest.mark.parametrize("method", [HELVAE, MoHELVAE, WBVAE, MWBVAE, CoDEVAE])
def test_bounds_of_pooled_experts_fall_short_by_the_mean_divergence_of_what_is_pooled(
    network, seed, method, exact
):
    """Barycentre and Hellinger pooling of equal experts are the expert, so exact ones are tight."""
    problem = Problem(seed)
    posterior = problem.posterior()
    experts = {n: posterior if exact else blurred(posterior) for n in NAMES}
    model = build(method, network, problem, experts)
    stacked = stack_posteriors(list(experts.values()))
    stacked = Normal(stacked.mean[:, None], stacked.scale[:, None])
    if method is CoDEVAE:
        torch.nn.init.normal_(model.logits)
        sets = pool(stacked, subsets(3), "consensus", model.config.rho)
    else:
        rule = method.rule(model.config)
        sets = pool(stacked, subsets(3) if rule.subsets else torch.ones(1, 3).bool(), rule.pooling)
    gaps = kl_divergence(sets, posterior).sum(-1)[:, 0]  # [S]
    assert (gaps.max() < 1e-9) == (exact and method is not CoDEVAE)
    mean, error = bound_of(model, problem)
    if method is CoDEVAE:
        w = model.logits.detach().softmax(0)
        mean, gap = mean + 1000 * (w * w.log()).sum(), (w * gaps).sum()
    else:
        gap = gaps.mean()
    assert_equal((mean, error), problem.evidence() - gap)
    assert_not_above((mean, error + 1e-9), problem.evidence())


@SEEDS
@pytest.mark.parametrize("exact", [True, False], ids=["exact", "blurred"])
def test_bounds_of_joint_encoders_fall_short_by_their_divergence(network, seed, exact):
    """ShaLa's first stage, and JMVAE, whose unimodal divergences only lower it."""
    problem = Problem(seed)
    experts = {n: blurred(problem.posterior()) for n in (*NAMES, "all")}
    if exact:
        experts["all"] = problem.posterior()
    expected = problem.evidence() - kl(experts["all"], problem.posterior())
    assert_equal(bound_of(build(Inference, network, problem, experts), problem), expected)
    for alpha in (0.0, 0.7):
        model = build(JMVAE, network, problem, experts, warmup=0.0, alpha=alpha)
        apart = sum(kl(experts["all"], experts[n]) for n in NAMES)
        assert_equal(bound_of(model, problem), expected - alpha * apart)


@SEEDS
@BOUNDS
@SAMPLES
def test_every_draw_of_mmvae_gives_the_evidence_where_experts_are_the_posterior(
    network, seed, bound, samples
):
    problem = Problem(seed)
    experts = dict.fromkeys(NAMES, problem.posterior())
    settings = {"family": "normal", "bound": bound, "importance_samples": samples}
    mean, error = bound_of(build(MMVAE, network, problem, experts, **settings), problem)
    assert error < 1e-6
    torch.testing.assert_close(mean, problem.evidence())


@SEEDS
@BOUNDS
def test_mmvae_s_bound_rises_with_samples_and_does_not_exceed_the_evidence(network, seed, bound):
    problem = Problem(seed)
    experts = {n: blurred(problem.posterior()) for n in NAMES}
    found = []
    for samples in (1, 3):
        settings = {"family": "normal", "bound": bound, "importance_samples": samples}
        found.append(bound_of(build(MMVAE, network, problem, experts, **settings), problem))
        assert_not_above(found[-1], problem.evidence())
    (one, _), (three, error) = found
    assert three > one + 4 * error


@SEEDS
@pytest.mark.parametrize("raw", [0.0, -3.0], ids=["prior", "narrow"])
def test_hoelder_plus_s_bound_falls_short_by_the_private_divergences_of_each_component(
    network, seed, raw
):
    """Equal experts are the posterior, each weighs 1/9 and each pair 2/9, with two owners."""
    problem = Problem(seed, private=0.6)
    due = problem.private_posteriors()
    private = {n: blurred(q) for n, q in due.items()}
    experts = dict.fromkeys(NAMES, problem.posterior())
    model = build(HoelderPlus, network, problem, experts, private)
    nn.init.constant_(model.auxiliary, raw)
    r = Normal(torch.zeros(1), torch.full((1,), math.exp(raw / 2)))
    gap = 0.0
    for n in NAMES:
        other = kl(r, due[n]) - kl(r, standard(1))
        for size, weight in ((1, 1 / 9), (2, 2 / 9)):
            for owners in combinations(NAMES, size):
                gap = gap + weight * (kl(private[n], due[n]) if n in owners else other)
    assert_equal(bound_of(model, problem), problem.evidence() - gap)


@SEEDS
def test_hoelder_s_bound_falls_short_by_the_mixture_s_divergence(network, seed):
    """KL((sum sqrt q_m)^2 / Z || p(z|X)) on a grid of two dimensions; nothing is private."""
    problem = Problem(seed)
    experts = {n: blurred(problem.posterior()) for n in NAMES}
    private = dict.fromkeys(NAMES, Normal(torch.zeros(0), torch.ones(0)))
    model = build(HoelderPlus, network, problem, experts, private, private_dim=0)
    for n in NAMES:
        model.decoders[n].weight = problem.W[n]
    q = problem.posterior()
    axes = [torch.linspace(-9, 9, 600) * q.scale[d] + q.mean[d] for d in range(D)]
    grid = torch.cartesian_prod(*axes)
    cell = math.prod((axis[1] - axis[0]).item() for axis in axes)
    roots = sum((e.log_prob(grid).sum(-1) / 2).exp() for e in experts.values())
    density = roots**2 / (cell * (roots**2).sum())
    apart = density.clamp(min=1e-300).log() - q.log_prob(grid).sum(-1)
    assert_equal(bound_of(model, problem), problem.evidence() - cell * (density * apart).sum())


PRIVATE = pytest.mark.parametrize("method", [MMVAEPlus, MVEBM, CMVAE])


def build_private(method, network, problem, private, raw=0.0, exact=True, **settings):
    """A method with private latents whose shared mixture is the exact posterior, or near it.

    CMVAE has a cluster an expert, each as likely as the others given X, so that its posterior is a
    mixture of the experts. `raw` is the log-variance of every r_n.

    Returns:
        The model, and its evidence.
    """
    posteriors, evidence, clusters = [problem.posterior()] * 3, problem.evidence(), None
    if method is MVEBM:
        settings = {"energy_width": 4} | settings
    if method is CMVAE:
        settings = {"clusters": 3} | settings
        clusters = torch.randn(3, D)
        priors = [Normal(mean, torch.ones(D)) for mean in clusters]
        posteriors = [problem.posterior(prior=p) for p in priors]
        each = torch.stack([problem.evidence(prior=p) for p in priors])  # [C]
        log_pi = (-each).log_softmax(0)
        evidence = (log_pi + each).logsumexp(0)
    posteriors = posteriors if exact else [blurred(q) for q in posteriors]
    experts = dict(zip(NAMES, posteriors, strict=True))
    model = build(method, network, problem, experts, private, **settings)
    nn.init.constant_(model.auxiliary, raw)
    if clusters is not None:
        model.clusters.means.data, model.clusters.logits.data = clusters, log_pi
    return model, evidence


@SEEDS
@PRIVATE
@pytest.mark.parametrize("raw", [0.0, -3.0], ids=["prior", "narrow"])
def test_bounds_with_private_latents_fall_short_by_the_divergences_of_those(
    network, seed, method, raw
):
    """Own: KL(q_m || p(w_m|X)); of the others KL(r_n || p(w_n|X)) - KL(r_n || p(w_n)).

    The latter vanishes where r_n is p(w_n).
    """
    problem = Problem(seed, private=0.6)
    due = problem.private_posteriors()
    private = {n: blurred(q) for n, q in due.items()}
    model, evidence = build_private(method, network, problem, private, raw)
    r = Normal(torch.zeros(1), torch.full((1,), math.exp(raw / 2)))
    own = mean_of(kl(private[n], due[n]) for n in NAMES)
    other = mean_of(kl(r, due[n]) - kl(r, standard(1)) for n in NAMES)
    assert_equal(bound_of(model, problem), evidence - own - (len(NAMES) - 1) * other)


@SEEDS
@SAMPLES
@pytest.mark.parametrize("method", [MMVAEPlus, CMVAE])
def test_bounds_with_private_latents_do_not_exceed_the_evidence(network, seed, method, samples):
    problem = Problem(seed, private=0.6)
    private = {n: blurred(q) for n, q in problem.private_posteriors().items()}
    settings = {"exact": False, "importance_samples": samples}
    model, evidence = build_private(method, network, problem, private, **settings)
    assert_not_above(bound_of(model, problem), evidence)


@SEEDS
@PRIVATE
def test_auxiliary_priors_other_than_the_private_ones_can_exceed_the_evidence(
    network, seed, method
):
    """Where X has nothing private, a narrow r_n says so, and the bound does not pay for it."""
    problem = Problem(seed, private=1.0)
    for n, v in problem.V.items():
        problem.x[n] = problem.x[n] - v @ (v.T @ problem.x[n])
    exact = problem.private_posteriors()
    model, evidence = build_private(method, network, problem, exact, raw=-4.0)
    mean, error = bound_of(model, problem)
    assert mean > evidence + 4 * error


@SEEDS
def test_mmjsd_with_the_prior_in_its_mixture_bounds_the_evidence_under_its_own_prior(network, seed):
    """It falls short by the mean divergence of all components from the posterior under f."""
    problem = Problem(seed, shared=0.5)  # else log p(X|z) varies by tens of nats over N(0, I)
    experts = {n: blurred(problem.posterior((n,))) for n in NAMES}
    components = [*experts.values(), standard(D)]
    f = product(components, [1 / len(components)] * len(components))
    gap = mean_of(kl(q, problem.posterior(prior=f)) for q in components)
    model = build(MMJSD, network, problem, experts, mixture="with-prior")
    assert_equal(bound_of(model, problem), problem.evidence(prior=f) - gap)


@SEEDS
@pytest.mark.parametrize("mixture", ["posteriors", "with-prior"])
def test_mmjsd_s_objective_can_exceed_the_evidence_under_the_standard_prior(network, seed, mixture):
    """An unlikely X and decoders that tell little: f follows the experts away from N(0, I)."""
    problem = Problem(seed, shared=0.25)
    problem.x = {n: 10 * x for n, x in problem.x.items()}
    experts = dict.fromkeys(NAMES, problem.posterior())
    mean, error = bound_of(build(MMJSD, network, problem, experts, mixture=mixture), problem)
    assert mean > problem.evidence() + 4 * error

"""Poolings against published constants, quadrature, matrix inverses and finite differences."""

from __future__ import annotations

import math
from itertools import combinations
from typing import get_args

import numpy as np
import pytest
import torch
from helpers.rings import SPEC as RING
from scipy.integrate import quad
from torch.distributions import Laplace, Normal, kl_divergence

from shalabench.nets.experts import product_of_experts, subsets
from shalabench.nets.pooling import (
    Pooling,
    hoelder_log_prob,
    hoelder_mixture,
    log_overlaps,
    pool,
    pool_all,
    refuse_rho,
    refuse_subsets,
)

POOLINGS = get_args(Pooling)
EACH = pytest.mark.parametrize("pooling", POOLINGS)
RHO = 0.3
THREE = (0.0, 1.0, 3.0), (1.0, 0.5, 2.0)  # means and scales of the worked example


def experts(means, scales):
    """Of one item in one dimension."""
    return Normal(torch.tensor(means).view(-1, 1, 1), torch.tensor(scales).view(-1, 1, 1))


def random_experts(m=4, b=3, d=2, seed=0, dtype=torch.float64):
    torch.manual_seed(seed)
    mean, log_scale = torch.randn(2, m, b, d, dtype=torch.float64)
    return Normal(mean.to(dtype), (0.5 * log_scale).exp().to(dtype))


def moments(q):
    return q.mean.item(), q.variance.item()


@pytest.mark.float64
@pytest.mark.parametrize(
    ("rho", "mean", "variance"),
    [(0.0, 7.0, 0.75), (0.4, 7.530012, 0.963907), (0.7, 8.539475, 0.971349)],
)
def test_the_consensus_has_the_constants_of_the_recipe(rho, mean, variance):
    """Means 4 and 8, variances 3 and 1; at .7 the mean is outside the experts' range."""
    q = pool_all(experts((4.0, 8.0), (3**0.5, 1.0)), "consensus", rho)
    assert moments(q) == pytest.approx((mean, variance), abs=5e-7)


@pytest.mark.float64
@pytest.mark.parametrize("rho", [-0.3, 0.0, 0.4, 0.9])
def test_the_consensus_is_the_best_unbiased_combination(rho):
    """Its weights come from the inverse of the errors' covariance, for every subset."""
    q, members = random_experts(), subsets(4)
    pooled = pool(q, members, "consensus", rho)
    for s, row in enumerate(members):
        inside = row.nonzero().flatten()
        correlation = torch.full((len(inside), len(inside)), rho).fill_diagonal_(1.0)
        for b in range(3):
            for d in range(2):
                scale, mean = q.scale[inside, b, d], q.mean[inside, b, d]
                inverse = torch.linalg.inv(torch.outer(scale, scale) * correlation)
                variance = 1 / inverse.sum()
                expected = torch.stack([inverse.sum(0) @ mean * variance, variance])
                found = torch.stack([pooled.mean[s, b, d], pooled.variance[s, b, d]])
                torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)


def test_equal_experts_are_as_sure_as_each_rule_says():
    """Five of unit variance: .2 by the product, .52 by a consensus of rho .4, 1 by the last two."""
    q = experts((0.0,) * 5, (1.0,) * 5)
    variances = [pool_all(q, pooling, 0.4).variance.item() for pooling in POOLINGS]
    assert variances == pytest.approx([0.2, 1 / 6, 0.52, 1.0, 1.0], rel=1e-6)


@pytest.mark.float64
def test_the_barycentre_minimises_the_weighted_distance():
    """Squared 2-Wasserstein distances, in closed form and by the quantile functions."""
    q = experts(*THREE)
    pooled = pool_all(q, "barycentre")
    assert (pooled.mean.item(), pooled.scale.item()) == pytest.approx((4 / 3, 3.5 / 3))
    u = torch.linspace(0.01, 0.99, 99)
    torch.testing.assert_close(pooled.icdf(u)[0], q.icdf(u).mean(0)[0])

    def distance(mean, scale):
        return ((q.mean - mean) ** 2 + (q.scale - scale) ** 2).mean()

    at = torch.tensor([pooled.mean.item(), pooled.scale.item()], requires_grad=True)
    (slope,) = torch.autograd.grad(distance(*at), at)
    assert slope.abs().max() < 1e-12
    assert all(distance(*(at + 0.01 * torch.randn(2))) > distance(*at) for _ in range(20))


@pytest.mark.float64
def test_hellinger_pooling_has_the_constants_of_the_recipe():
    q = experts(*THREE)
    assert moments(pool_all(q, "hellinger")) == pytest.approx((1.056566, 2.003991), abs=5e-7)
    overlaps = log_overlaps(q).exp().flatten()
    weights = torch.cat([torch.ones(3), 2 * overlaps])
    assert weights.sum().item() == pytest.approx(6.689549, abs=5e-7)
    expected = [0.149487, 0.149487, 0.149487, 0.2189, 0.1705, 0.1621]
    assert (weights / weights.sum()).tolist() == pytest.approx(expected, abs=5e-5)


@pytest.mark.float64
@pytest.mark.parametrize("seed", range(3))
def test_hellinger_pooling_has_the_moments_of_the_density(seed):
    """Quadrature of (sum_m sqrt q_m)^2 in one dimension, for every subset."""
    q, members = random_experts(3, 1, 1, seed), subsets(3)
    pooled = pool(q, members, "hellinger")
    for s, row in enumerate(members):
        inside = [(q.mean[m].item(), q.scale[m].item()) for m in row.nonzero().flatten()]

        def density(x, inside=inside):
            roots = (math.exp(-(((x - a) / s) ** 2) / 4) / s**0.5 for a, s in inside)
            return sum(roots) ** 2

        raw = [quad(lambda x, k=k: x**k * density(x), -30, 30, limit=200)[0] for k in range(3)]
        mean, square = raw[1] / raw[0], raw[2] / raw[0]
        found = pooled.mean[s].item(), pooled.variance[s].item()
        assert found == pytest.approx((mean, square - mean**2), abs=1e-8)


@pytest.mark.float64
def test_hellinger_pooling_has_the_moments_of_the_density_in_two_dimensions():
    """On a grid: overlaps are products over dimensions, so that dimensions are not apart."""
    q = random_experts(3, 1, 2)
    x = torch.linspace(-15, 15, 1501)
    grid = torch.stack(torch.meshgrid(x, x, indexing="ij"), -1)  # [N, N, 2]
    roots = [
        (Normal(q.mean[m, 0], q.scale[m, 0]).log_prob(grid).sum(-1) / 2).exp() for m in range(3)
    ]
    density = sum(roots) ** 2
    density = (density / density.sum())[..., None]
    mean = (density * grid).sum((0, 1))
    variance = (density * (grid - mean) ** 2).sum((0, 1))
    pooled = pool_all(q, "hellinger")
    torch.testing.assert_close(pooled.mean[0], mean, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(pooled.variance[0], variance, rtol=1e-7, atol=1e-7)


@pytest.mark.float64
def test_overlaps_are_the_bhattacharyya_coefficients():
    """And exp(-D / 8) where unit Gaussians are one standard deviation apart in D dimensions."""
    q = random_experts(3, 1, 1)
    for (i, j), found in zip(combinations(range(3), 2), log_overlaps(q).exp(), strict=True):
        a, b = (Normal(q.mean[m].item(), q.scale[m].item()) for m in (i, j))

        def root(x, a=a, b=b):
            x = torch.tensor(x)
            return ((a.log_prob(x) + b.log_prob(x)) / 2).exp().item()

        assert found.item() == pytest.approx(quad(root, -25, 25, limit=200)[0], abs=1e-9)
    unit = Normal(torch.tensor([0.0, 1.0]).view(2, 1, 1).expand(2, 1, 512), torch.ones(2, 1, 512))
    assert log_overlaps(unit).item() == pytest.approx(-64)
    apart = pool_all(unit, "hellinger")  # the mixture's moments
    assert apart.mean[0, 0].item() == pytest.approx(0.5)
    assert apart.variance[0, 0].item() == pytest.approx(1.25)


@pytest.mark.float64
@pytest.mark.parametrize("prior", [False, True])
def test_products_are_those_of_experts(prior):
    q, members = random_experts(), subsets(4)
    pooled = pool(q, members, "product-prior" if prior else "product")
    expected = product_of_experts(q, members, float(prior))
    assert torch.equal(pooled.mean, expected.mean)
    assert torch.equal(pooled.scale, expected.scale)


@pytest.mark.float64
@pytest.mark.parametrize("pooling", [p for p in POOLINGS if p != "product-prior"])
def test_the_pooled_posterior_of_one_expert_is_the_expert(pooling):
    q = random_experts()
    pooled = pool(q, torch.eye(4).bool(), pooling, RHO)
    torch.testing.assert_close(pooled.mean, q.mean, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(pooled.scale, q.scale, rtol=1e-7, atol=1e-7)


@pytest.mark.float64
@EACH
def test_subsets_of_one_call_are_those_of_single_calls(pooling):
    """Where items have members of their own too; who is left out has no influence."""
    q = random_experts()
    members = torch.rand(5, 3, 4) < 0.6
    members[..., 0] |= ~members.any(-1)
    pooled = pool(q, members, pooling, RHO)
    for s in range(5):
        for b in range(3):
            inside = members[s, b].nonzero().flatten()
            alone = Normal(q.mean[inside, b : b + 1], q.scale[inside, b : b + 1])
            expected = pool_all(alone, pooling, RHO)
            torch.testing.assert_close(pooled.mean[s, b], expected.mean[0])
            torch.testing.assert_close(pooled.scale[s, b], expected.scale[0])


@pytest.mark.float64
@EACH
def test_gradients_are_those_of_finite_differences(pooling):
    """Also where a subset is empty, and for each output alone."""
    q = random_experts(3, 2, 2)
    members = torch.cat([subsets(3), torch.zeros(1, 3).bool()])

    def pooled(mean, log_scale):
        made = pool(Normal(mean, log_scale.exp()), members, pooling, RHO)
        return made.mean, made.scale

    given = [x.clone().requires_grad_() for x in (q.mean, q.scale.log())]
    assert torch.autograd.gradcheck(pooled, given)


@EACH
def test_an_empty_set_has_the_standard_normal(pooling):
    q = random_experts(dtype=torch.float32)
    pooled = pool(q, torch.zeros(2, 4).bool(), pooling, RHO)
    standard = Normal(torch.zeros(2, 3, 2), torch.ones(2, 3, 2))
    assert kl_divergence(pooled, standard).max() < 1e-12


@EACH
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_float32_suffices_where_experts_agree_on_nothing(pooling, precision):
    """Means 100 apart at scales from e^-3 to e^3, also within an update in bfloat16."""
    torch.manual_seed(1)
    mean, log_scale = 100 * torch.randn(5, 8, 20), 6 * torch.rand(5, 8, 20) - 3
    members = subsets(5)
    due = pool(Normal(mean.double(), log_scale.double().exp()), members, pooling, RHO)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        found = pool(Normal(mean, log_scale.exp()), members, pooling, RHO)
    assert found.mean.dtype == torch.float32
    away = ((found.mean.double() - due.mean) / due.scale).abs().max().item()
    assert away < 2e-2 if pooling == "consensus" else away < 2e-3
    assert (found.scale.double() / due.scale - 1).abs().max() < 2e-5


def test_scales_at_the_ends_of_their_range_stay_finite():
    """Heads give log-variances from -20 to 20."""
    ends = torch.tensor([-10.0, 10.0, -10.0, 10.0]).view(4, 1, 1).requires_grad_()
    mean = torch.tensor([-1e3, 1e3, 0.0, 5.0]).view(4, 1, 1).requires_grad_()
    for pooling in POOLINGS:
        q = pool(Normal(mean, ends.exp()), subsets(4), pooling, RHO)
        slopes = torch.autograd.grad(q.mean.sum() + q.scale.log().sum(), (mean, ends))
        assert all(x.isfinite().all() for x in (q.mean, q.scale, *slopes)), pooling
        assert (q.scale > 0).all()


@EACH
def test_laplace_experts_are_refused(pooling):
    with pytest.raises(TypeError, match=r"Gaussian experts, not those of Laplace.*'normal'"):
        pool_all(Laplace(torch.zeros(2, 1, 1), torch.ones(2, 1, 1)), pooling)


@pytest.mark.parametrize(
    ("rho", "nearest"),
    [(1.0, "0.99"), (7.0, "0.99"), (-0.5, "-0.49"), (-3.0, "-0.49"), (math.nan, "0.99")],
)
def test_a_correlation_out_of_range_is_refused_with_the_nearest_value(spec, rho, nearest):
    reason = refuse_rho(spec, rho)
    assert f"model.rho is {rho:g}" in reason
    assert "more than -0.5 and less than 1" in reason
    assert reason.endswith(f"is {nearest}.")
    assert refuse_rho(spec, float(nearest)) is None
    covariance = np.full((3, 3), float(nearest)) + (1 - float(nearest)) * np.eye(3)
    assert np.linalg.eigvalsh(covariance).min() > 0


def test_more_subsets_than_can_be_trained_are_refused(spec):
    assert refuse_subsets(spec, "Leave it") is None
    reason = refuse_subsets(RING, "Leave it")
    assert all(part in reason for part in ("M is 16", "65,535", "1,023 (M = 10)", "Leave it."))


@pytest.mark.float64
def test_the_hoelder_mixture_has_the_weights_of_the_recipe():
    _, log_pi = hoelder_mixture(experts(*THREE))
    expected = [0.149487, 0.149487, 0.149487, 0.2189, 0.1705, 0.1621]
    assert log_pi.exp().flatten().tolist() == pytest.approx(expected, abs=5e-5)
    alike = hoelder_mixture(experts((2.0, 2.0), (0.5, 0.5)))[1].exp().flatten()
    assert alike.tolist() == pytest.approx([0.25, 0.25, 0.5])
    apart = hoelder_mixture(experts((0.0, 50.0, 100.0), (1.0, 1.0, 1.0)))[1].exp().flatten()
    assert apart.tolist() == pytest.approx([1 / 3] * 3 + [0.0] * 3)  # MMVAE+'s mixture


@pytest.mark.float64
@pytest.mark.parametrize("there", [[1, 1, 1], [1, 0, 1], [0, 1, 0]])
def test_the_density_of_the_hoelder_mixture_is_the_square_of_the_sum_of_roots(there):
    """Against quadrature of the members alone, at several points; what is absent is far away."""
    q, inside = experts((0.0, 1.0, 3.0), (1.0, 0.5, 2.0)), torch.tensor(there).bool()

    def square(z):
        roots = [
            math.exp(Normal(q.mean[m, 0, 0], q.scale[m, 0, 0]).log_prob(torch.tensor(z)) / 2)
            for m in range(3)
            if inside[m]
        ]
        return sum(roots) ** 2

    norm = quad(square, -20, 25, points=[0, 1, 3], limit=200)[0]
    points = torch.tensor([-1.5, 0.3, 1.0, 4.2])
    found = hoelder_log_prob(q, points[:, None, None], inside[:, None])[:, 0]
    expected = [math.log(square(z) / norm) for z in points.tolist()]
    assert found.tolist() == pytest.approx(expected, abs=1e-9)


@pytest.mark.float64
@pytest.mark.parametrize("missing", [False, True])
def test_the_hoelder_mixture_and_its_density_agree(missing):
    """In two dimensions, where overlaps are products."""
    q = random_experts()
    there = torch.tensor([[1, 1, 0, 1], [0, 1, 0, 0], [1, 1, 1, 1]]).bool().T if missing else None
    components, log_pi = hoelder_mixture(q, there)
    z = torch.randn(5, 3, 2)
    densities = log_pi + components.log_prob(z[:, None]).sum(-1)  # [5, K, B]
    torch.testing.assert_close(hoelder_log_prob(q, z, there), densities.logsumexp(1))
    torch.testing.assert_close(log_pi.exp().sum(0), torch.ones(3))
    pooled = pool(q, torch.ones(1, 4).bool(), "hellinger")
    if not missing:
        mean = (log_pi.exp()[..., None] * components.mean).sum(0)
        torch.testing.assert_close(mean, pooled.mean[0])


@pytest.mark.float64
def test_gradients_of_the_hoelder_mixture_agree_with_finite_differences():
    there = torch.tensor([[1, 1], [1, 0], [1, 1]]).bool()

    def mixed(mean, log_scale, z):
        q = Normal(mean, log_scale.exp())
        components, log_pi = hoelder_mixture(q, there)
        counted = log_pi.exp()
        return counted, components.mean, components.scale, hoelder_log_prob(q, z, there)

    torch.manual_seed(3)
    inputs = [torch.randn(3, 2, 2), 0.3 * torch.randn(3, 2, 2), torch.randn(4, 2, 2)]
    assert torch.autograd.gradcheck(mixed, [x.requires_grad_() for x in inputs])

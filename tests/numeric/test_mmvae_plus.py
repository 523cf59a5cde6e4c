"""MMVAE+'s objective against a loop written from the formula of recipes.md section 4."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Laplace, Normal

from baselines.mmvae_plus import MMVAEPlus
from harness.api import Rng
from nets.likelihoods import log_likelihood
from nets.posteriors import softmax_scale

NAMES = ("a", "b", "c")


class FakeBatch:
    def __init__(self, views):
        self.views = views


def build(spec, network, **settings):
    config = MMVAEPlus.Config(network=network, shared_dim=3, private_dim=2, **settings)
    model = MMVAEPlus(spec, config)
    torch.nn.init.normal_(model.auxiliary, std=0.5)
    return model


def draws(model, samples, rng):
    """The noise of each draw in the order of the model: z, w, then r_n a target."""
    kind = rng.laplace if model.config.family == "laplace" else rng.normal

    def take(dim):
        return kind(4, 3 * samples * dim).view(4, 3, samples, dim).permute(1, 2, 0, 3).double()

    return take(3), take(2), [take(2) for _ in NAMES]


def weights_by_loop(model, spec, views, samples, rng, detach=False):
    """log W_m^k `[M, K, B]` by loops over experts, samples, items and targets."""
    laplace = model.config.family == "laplace"
    dist = Laplace if laplace else Normal
    noise_z, noise_w, noise_r = draws(model, samples, rng)
    q_z = {n: model.shared[n](views[n]) for n in NAMES}
    q_w = {n: model.private[n](views[n]) for n in NAMES}
    frozen = [{n: (q.mean, q.scale) for n, q in part.items()} for part in (q_z, q_w)]
    if detach:
        frozen = [{n: (m.detach(), s.detach()) for n, (m, s) in p.items()} for p in frozen]
    out, used = [], []
    for m, name in enumerate(NAMES):
        for k in range(samples):
            for i in range(4):
                z = q_z[name].mean[i] + q_z[name].scale[i] * noise_z[m, k, i]
                w = q_w[name].mean[i] + q_w[name].scale[i] * noise_w[m, k, i]
                used.append((z, w))
                value = 0.0
                for n, target in enumerate(NAMES):
                    raw = model.auxiliary[n]
                    scale = softmax_scale(raw) if laplace else torch.exp(raw / 2)
                    private = w if n == m else scale * noise_r[n][m, k, i]
                    decoded = model.decoders[target](torch.cat([private, z])[None])
                    x = views[target][i : i + 1]
                    value = (
                        value + spec[target].weight * log_likelihood(spec[target], decoded, x)[0]
                    )
                mixture = torch.stack(
                    [dist(*(p[i] for p in frozen[0][j])).log_prob(z).sum() for j in NAMES]
                ).logsumexp(0) - math.log(3)
                own = dist(*(p[i] for p in frozen[1][name])).log_prob(w).sum()
                prior = dist(0.0, 1.0)
                value = value + model.config.beta * (
                    prior.log_prob(z).sum() + prior.log_prob(w).sum() - mixture - own
                )
                out.append(value)
    return torch.stack(out).view(3, samples, 4), used


def gradients(value, model):
    found = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return [g for g in found if g is not None]


def assert_close(ours, loop):
    assert len(ours) == len(loop)
    for own, other in zip(ours, loop, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("family", ["laplace", "normal"])
def test_the_bound_equals_the_loop_in_value_and_gradient(spec, network, views, samples, family):
    model = build(spec, network, importance_samples=samples, family=family)
    log_w, _ = weights_by_loop(model, spec, views, samples, Rng(7))
    expected = -(log_w.exp().mean(1).log() if samples == 1 else _log_mean(log_w)).mean()
    value, _ = model._loss(FakeBatch(views), Rng(7), 0)
    torch.testing.assert_close(value, expected)
    assert_close(gradients(value, model), gradients(expected, model))


def _log_mean(log_w):
    return log_w.logsumexp(1) - math.log(log_w.shape[1])


@pytest.mark.parametrize("estimator", ["dreg", "dreg-published"])
def test_the_doubly_reparametrised_gradient_equals_the_loop(spec, network, views, estimator):
    model = build(spec, network, importance_samples=3, estimator=estimator)
    value, _ = model._loss(FakeBatch(views), Rng(7), 0)
    ours = gradients(value, model)

    log_w, used = weights_by_loop(model, spec, views, 3, Rng(7), detach=estimator == "dreg")
    v = log_w.detach().softmax(1)
    for (z, w), weight in zip(used, v.flatten(), strict=True):
        z.register_hook(lambda grad, weight=weight: weight * grad)
        w.register_hook(lambda grad, weight=weight: weight * grad)
    expected = -(v * log_w).sum(1).mean()
    assert_close(ours, gradients(expected, model))


def test_dreg_has_the_plain_estimator_s_expectation(spec, network, views):
    """Encoder gradients agree in the mean over many draws."""
    sums = {}
    for estimator in ("iwae", "dreg"):
        torch.manual_seed(0)
        model = build(spec, network, importance_samples=3, estimator=estimator, beta=1.0)
        head = model.shared["b"][1].mean.bias
        total = []
        for seed in range(400):
            value, _ = model._loss(FakeBatch(views), Rng(seed), 0)
            total.append(torch.autograd.grad(value, head)[0].double())
        sums[estimator] = torch.stack(total)
    plain, dreg = sums["iwae"], sums["dreg"]
    error = (plain.var(0) / len(plain) + dreg.var(0) / len(dreg)).sqrt()
    assert ((plain.mean(0) - dreg.mean(0)).abs() < 4 * error).all()


@torch.no_grad()
def test_private_latents_of_targets_come_from_the_fixed_prior(spec, network, views):
    model = build(spec, network)
    given = {"a": views["a"].float()}
    before = model.float().translate(given, ["b"], Rng(1))["b"]
    model.auxiliary.fill_(5.0)
    assert torch.equal(before, model.translate(given, ["b"], Rng(1))["b"])


@torch.no_grad()
def test_joint_samples_can_share_one_private_latent(spec, network):
    model = build(spec, network, joint_private="shared").float()
    rng = Rng(1)
    private = [model._prior_private(3, rng, "all") for _ in NAMES]
    made = model.sample(3, rng)
    z = model.prior(3, rng.fork("shared"))
    expected = model.decoders["b"](torch.cat([private[1], z], -1))
    torch.testing.assert_close(made["b"], expected)

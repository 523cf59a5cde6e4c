"""MMVAE+'s objective against a loop written from the formula of reproduction/mmvae-plus.md."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.objectives import FakeBatch, assert_close, assert_float32_under_autocast
from torch.distributions import Laplace, Normal

from baselines.mmvae_plus import MMVAEPlus
from shalabench.api import Rng
from shalabench.nets.experts import mixture_log_prob
from shalabench.nets.importance import detached as _detached
from shalabench.nets.importance import doubly_reparametrised as _dreg
from shalabench.nets.importance import importance_bound as _bound
from shalabench.nets.likelihoods import log_likelihood
from shalabench.nets.posteriors import softmax_scale

pytestmark = pytest.mark.float64

NAMES = ("a", "b", "c")


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


def weights_by_loop(model, spec, views, samples, rng, detach=False, leaves=False):
    """log W_m^k `[M, K, B]` by loops over experts, samples, items and targets.

    Also the draws, as functions of the encoders, and as the weights' arguments, which are the same
    unless `leaves` cuts them off; `detach` cuts the posteriors' densities off from the encoders.
    """
    laplace = model.config.family == "laplace"
    dist = Laplace if laplace else Normal
    noise_z, noise_w, noise_r = draws(model, samples, rng)
    q_z = {n: model.shared[n](views[n]) for n in NAMES}
    q_w = {n: model.private[n](views[n]) for n in NAMES}
    frozen = [{n: (q.mean, q.scale) for n, q in part.items()} for part in (q_z, q_w)]
    if detach:
        frozen = [{n: (m.detach(), s.detach()) for n, (m, s) in p.items()} for p in frozen]
    out, made, used = [], [], []
    for m, name in enumerate(NAMES):
        for k in range(samples):
            for i in range(4):
                z = q_z[name].mean[i] + q_z[name].scale[i] * noise_z[m, k, i]
                w = q_w[name].mean[i] + q_w[name].scale[i] * noise_w[m, k, i]
                made += [z, w]
                if leaves:
                    z, w = (x.detach().requires_grad_() for x in (z, w))
                used += [z, w]
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
    return torch.stack(out).view(3, samples, 4), made, used


def gradients(value, model, **options):
    weights = list(model.parameters())
    return torch.autograd.grad(value, weights, materialize_grads=True, **options)


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("family", ["laplace", "normal"])
def test_the_bound_equals_the_loop_in_value_and_gradient(spec, network, views, samples, family):
    model = build(spec, network, importance_samples=samples, family=family)
    log_w, _, _ = weights_by_loop(model, spec, views, samples, Rng(7))
    expected = -(log_w.exp().mean(1).log() if samples == 1 else _log_mean(log_w)).mean()
    value, _ = model._loss(FakeBatch(views), Rng(7), 0)
    torch.testing.assert_close(value, expected)
    assert_close(gradients(value, model), gradients(expected, model))


def _log_mean(log_w):
    return log_w.logsumexp(1) - math.log(log_w.shape[1])


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("family", ["laplace", "normal"])
def test_the_doubly_reparametrised_gradient_equals_the_loop(spec, network, views, family, samples):
    """v^2 on the way through the draws, v on every other way; no hook here."""
    settings = {"importance_samples": samples, "estimator": "dreg", "family": family}
    model = build(spec, network, **settings)
    value, _ = model._loss(FakeBatch(views), Rng(7), 0)
    ours = gradients(value, model)

    log_w, made, used = weights_by_loop(
        model, spec, views, samples, Rng(7), detach=True, leaves=True
    )
    v = log_w.detach().softmax(1)
    direct = gradients(-(v * log_w).sum(1).mean(), model, retain_graph=True)
    slopes = torch.autograd.grad(log_w.sum(), used)
    factors = (v**2).flatten().repeat_interleave(2) / -12  # a z and a w each; mean over M and B
    onward = [f * slope for f, slope in zip(factors, slopes, strict=True)]
    through = gradients(made, model, grad_outputs=onward)
    assert_close(ours, [d + t for d, t in zip(direct, through, strict=True)])


def test_the_published_dreg_has_the_plain_gradient(spec, network, views):
    """As MMVAE+'s code runs it: densities in the graph, and a hook on a copy of the draws."""
    model = build(spec, network, importance_samples=3)
    plain = gradients(model._loss(FakeBatch(views), Rng(7), 0)[0], model, retain_graph=True)
    log_w, made, _ = weights_by_loop(model, spec, views, 3, Rng(7))
    calls = []
    torch.cat(made).register_hook(calls.append)
    published = gradients(-(log_w.detach().softmax(1) * log_w).sum(1).mean(), model)
    assert_close(plain, published)
    assert not calls


def errors_of_dreg(experts, samples, beta):
    """How far dreg's mean gradient is from iwae's, in standard errors: shared `[2]`, private `[2]`.

    A small problem with scalar latents and the fidelity -2 (z + w / 2 - 1.2)^2; the gradients are
    those of the first expert's mean and log-scale.
    """
    found = {"iwae": [], "dreg": []}
    for estimator, gradients_ in found.items():
        torch.manual_seed(len(estimator) + ord(estimator[0]))
        for _ in range(20):
            centre = torch.tensor([[-0.7, 0.9, 0.2], [0.5, -0.3, 0.1]])[:, :experts]
            width = torch.tensor([[-0.5, -0.1, -0.7], [0.1, -0.4, 0.2]])[:, :experts]
            leaves = [centre.clone().requires_grad_(), width.clone().requires_grad_()]
            mean, scale = (x[..., None, None].expand(-1, -1, 10_000, 1) for x in leaves)
            q_z, q_w = (Normal(mean[i], scale[i].exp(), validate_args=False) for i in range(2))
            z, w = (q.rsample((samples,)).transpose(0, 1) for q in (q_z, q_w))  # [M, K, B, 1]
            if estimator == "dreg":
                q_z, q_w = _detached(q_z), _detached(q_w)
            rate_w = Normal(q_w.mean[:, None], q_w.scale[:, None]).log_prob(w)[..., 0]
            rate = mixture_log_prob(q_z, z) + rate_w
            prior = (Normal(0.0, 1.0).log_prob(z) + Normal(0.0, 1.0).log_prob(w))[..., 0]
            log_w = -2 * (z + w / 2 - 1.2)[..., 0] ** 2 + beta * (prior - rate)
            value = _bound(log_w) if estimator == "iwae" else _dreg(log_w, (z, w))
            grads = torch.autograd.grad(value, leaves)
            gradients_.append(torch.stack([g[:, 0] for g in grads], -1))  # [2, 2]
    plain, dreg = torch.stack(found["iwae"]), torch.stack(found["dreg"])
    error = ((plain.var(0) + dreg.var(0)) / len(plain)).sqrt()
    return (plain.mean(0) - dreg.mean(0)).abs() / error


@pytest.mark.parametrize(("experts", "samples", "beta"), [(1, 3, 1.0), (1, 1, 2.5), (3, 1, 2.5)])
def test_dreg_has_the_plain_estimator_s_expectation(experts, samples, beta):
    assert (errors_of_dreg(experts, samples, beta) < 4).all()


def test_dreg_is_biased_for_the_shared_latent_of_several_experts():
    """The published estimator takes the mixture for the density that was drawn from."""
    shared, private = errors_of_dreg(experts=3, samples=3, beta=1.0)
    assert (shared > 20).all()
    assert (private < 4).all()


def test_dreg_is_biased_for_another_beta():
    """The square of the weights is right for beta = 1 only."""
    assert (errors_of_dreg(experts=1, samples=3, beta=2.5) > 20).any()


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
    private = [model.private_prior(3, rng, "all") for _ in NAMES]
    made = model.sample(3, rng)
    z = model.prior(3, rng.fork("shared"))
    expected = model.decoders["b"](torch.cat([private[1], z], -1))
    torch.testing.assert_close(made["b"], expected)


@torch.no_grad()
def test_several_given_modalities_are_a_mixture_of_their_experts(spec, network, views):
    model = build(spec, network).float()
    given = {n: views[n][:1].repeat(2000, *(1,) * (views[n].dim() - 1)) for n in ("a", "c")}
    given["a"] = given["a"].float()
    experts = torch.stack([model.encode({n: x}, Rng(1)) for n, x in given.items()])  # [2, B, Dz]
    z = model.encode(given, Rng(1))
    chosen = (z == experts).all(-1)
    assert (chosen.sum(0) == 1).all()
    assert abs(chosen[0].float().mean() - 0.5) < 0.05


@torch.no_grad()
def test_a_target_that_is_given_keeps_its_own_private_latent(spec, network, views):
    model = build(spec, network).float()
    x = {n: v.float() if v.is_floating_point() else v for n, v in views.items()}
    before = model.translate({"a": x["a"]}, ["a", "b"], Rng(1))
    rebuilt = model.reconstruct(x, Rng(1))
    model.private["a"][1].mean.bias.add_(3.0)
    after = model.translate({"a": x["a"]}, ["a", "b"], Rng(1))
    assert not torch.allclose(before["a"], after["a"])
    assert torch.equal(before["b"], after["b"])
    again = model.reconstruct(x, Rng(1))
    assert [n for n in NAMES if not torch.equal(rebuilt[n], again[n])] == ["a"]


@pytest.mark.parametrize("estimator", ["iwae", "dreg"])
def test_the_objective_is_in_float32_under_autocast(spec, network, views, estimator):
    model = build(spec, network, importance_samples=3, estimator=estimator).float()
    x = {n: v.float() if v.is_floating_point() else v for n, v in views.items()}
    value = assert_float32_under_autocast(lambda: model._loss(FakeBatch(x), Rng(7), 0))
    assert all(g.isfinite().all() for g in gradients(value, model))

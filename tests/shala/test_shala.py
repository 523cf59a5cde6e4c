"""ShaLa's objectives against loops written from the formulas."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from shala.inference import Inference
from shala.model import ShaLa, ShaLaConfig
from shala.prior import DiffusionPrior, PriorConfig
from shala.transfer import transfer_latent
from shalabench.api import Rng
from shalabench.nets.diffusion import make_schedule

pytestmark = pytest.mark.float64

D, F = 3, 5


def elbo_by_loop(model, views, beta, noise):
    """-[sum_m lambda_m log p(x_m|z) - beta KL(q || N(0, I))], item by item, mean over the batch."""
    total = 0.0
    for i in range(4):
        h = torch.cat([model.encoders[n](views[n][i : i + 1]) for n in ("a", "b", "c")], -1)
        fused = model.fuse(h)
        mean, log_var = model.head.mean(fused)[0], model.head.log_var(fused)[0]
        z = mean + torch.exp(log_var / 2) * noise[i]
        out = {n: model.decoders[n](z[None])[0] for n in ("a", "b", "c")}
        a = sum(-abs(x - o) / 0.75 - math.log(1.5) for x, o in pairs(views["a"][i], out["a"]))
        b = sum(
            -0.5 * ((x - o) / 0.5) ** 2 - math.log(0.5) - 0.5 * math.log(2 * math.pi)
            for x, o in pairs(views["b"][i], out["b"])
        )
        c = sum(
            out["c"][p, views["c"][i, p]] - torch.log(torch.exp(out["c"][p]).sum())
            for p in range(4)
        )
        kl = sum(0.5 * (torch.exp(v) + m**2 - 1 - v) for m, v in zip(mean, log_var, strict=True))
        total = total - (a + 2.5 * b + 3.0 * c - beta * kl)
    return total / 4


def pairs(x, o):
    return zip(x.flatten(), o.flatten(), strict=True)


@pytest.mark.parametrize("beta", [0.1, 2.5])
def test_stage_one_equals_the_loop_in_value_and_gradient(spec, network, views, beta):
    model = Inference(spec, network, D, F, 11)
    noise = Rng(3).normal(4, 1, D)[:, 0].double()
    value, terms = model.elbo(views, beta, Rng(3))
    expected = elbo_by_loop(model, views, beta, noise)
    torch.testing.assert_close(value, expected)
    parts = sum(v for k, v in terms.items() if k.startswith("nll")) + beta * terms["kl"]
    torch.testing.assert_close(value, parts)
    weights = list(model.parameters())
    ours = torch.autograd.grad(value, weights)
    loop = torch.autograd.grad(expected, weights)
    for own, other in zip(ours, loop, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize(
    ("prediction", "adapters"),
    [("noise", False), ("velocity", False), ("data", False), ("velocity", True)],
)
def test_stage_two_equals_the_loop(spec, prediction, adapters):
    config = PriorConfig(
        prediction=prediction, timesteps=20, width=16, blocks=2, drop=0.5, adapters=adapters
    )
    prior = DiffusionPrior(spec, config, D, F)
    nn.init.normal_(prior.denoiser.leave[-1].weight)
    if adapters:
        nn.init.normal_(prior.adapters)
    z0, h = torch.randn(6, D) * 3 + 1, torch.randn(3, 6, F)
    prior.fit_scale(z0, torch.full_like(z0, 0.1), h)
    which = torch.tensor([0, 1, 2, 0, 1, 2])
    value = prior.loss(z0, h[which, torch.arange(6)], which, Rng(5))

    rng = Rng(5)
    dropped = rng.uniform(6) < 0.5
    t, noise = 1 + rng.integers(20, 6), rng.normal(6, D).double()
    schedule = make_schedule("cosine", 20, prediction)
    total = 0.0
    assert dropped.any()
    assert not dropped.all()
    for i in range(6):
        s, sigma = schedule.signal[t[i]].double(), schedule.sigma[t[i]].double()
        scaled = (z0[i] - prior.latent_mean) / prior.latent_std
        condition = (h[which[i], i] - prior.feature_mean[which[i]]) / prior.feature_std[which[i]]
        if adapters:
            condition = condition @ prior.adapters[which[i]]
        condition = prior.tokens[3] if dropped[i] else condition + prior.tokens[which[i]]
        z_t = s * scaled + sigma * noise[i]
        out = prior.denoiser(z_t[None], t[i : i + 1], condition[None])[0]
        target = {"noise": noise[i], "data": scaled, "velocity": s * noise[i] - sigma * scaled}
        total = total + ((out - target[prediction]) ** 2).mean()
    torch.testing.assert_close(value.double(), total / 6, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("which", [[0, 1, 2, 1], [2, 2, 0, 2]])
def test_conditions_on_views_are_the_encoded_views_that_were_drawn(spec, network, views, which):
    config = ShaLaConfig(network=network, latent_dim=D, feature_dim=F, prior={"condition": "view"})
    model = ShaLa(spec, config)
    encoders = model.prior_net.encoders
    one_by_one = [encoders[spec.names[m]](views[spec.names[m]][[i]]) for i, m in enumerate(which)]
    drawn = model._encode_drawn(views, torch.tensor(which))
    torch.testing.assert_close(drawn, torch.cat(one_by_one))
    drawn.sum().backward()
    moved = {m for m in range(3) if any(p.grad.any() for p in encoders[spec.names[m]].parameters())}
    assert moved == set(which)


def test_adapters_change_nothing_at_first(spec):
    h, which = torch.randn(6, F), torch.tensor([0, 1, 2, 2, 1, 0])
    plain, adapted = (
        DiffusionPrior(spec, PriorConfig(width=16, adapters=x), D, F) for x in (False, True)
    )
    adapted.load_state_dict(plain.state_dict(), strict=False)
    torch.testing.assert_close(adapted.condition(h, which), plain.condition(h, which))


def test_standardised_latents_have_unit_variance_over_the_aggregate_posterior(spec):
    prior = DiffusionPrior(spec, PriorConfig(width=16), D, F)
    mean, std = torch.randn(4000, D) * torch.tensor([1.0, 0.1, 5.0]), torch.rand(4000, D)
    prior.fit_scale(mean, std, None)
    z = (mean + std * torch.randn(4000, D) - prior.latent_mean) / prior.latent_std
    torch.testing.assert_close(z.std(0), torch.ones(D), rtol=0.05, atol=0)


def guided_prior(spec, **settings):
    prior = DiffusionPrior(spec, PriorConfig(width=16, blocks=1, **settings), D, F)
    nn.init.normal_(prior.denoiser.leave[-1].weight)
    return prior


def test_guidance_is_the_stated_combination(spec):
    prior, z, t = guided_prior(spec, guidance=1.5), torch.randn(2, D), torch.tensor([7, 7])
    h = {"b": torch.randn(2, F)}
    conditional = prior.denoiser(z, t, h["b"].float() + prior.tokens[1])
    free = prior.denoiser(z, t, prior.tokens[3].expand(2, -1))
    guided = prior._guided(h, 2, Rng(0), "average")(z, t)
    torch.testing.assert_close(guided, 2.5 * conditional - 1.5 * free, rtol=1e-5, atol=1e-6)


def test_several_given_modalities_average_their_predictions(spec):
    prior, z, t = guided_prior(spec), torch.randn(2, D), torch.tensor([7, 7])
    h = {"a": torch.randn(2, F), "c": torch.randn(2, F)}
    both = prior._guided(h, 2, Rng(0), "average")(z, t)
    single = [prior._guided({n: x}, 2, Rng(0), "average")(z, t) for n, x in h.items()]
    torch.testing.assert_close(both, (single[0] + single[1]) / 2, rtol=1e-5, atol=1e-6)
    random = prior._guided(h, 2, Rng(0), "random")(z, t)
    for row in range(2):
        distance = [(random[row] - s[row]).abs().max() for s in single]
        assert min(distance) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "ancestral"])
def test_a_weak_transfer_keeps_the_source(spec, sampler):
    prior = guided_prior(spec, sampler=sampler)
    source, h = torch.randn(20, D), {"a": torch.randn(20, F), "b": torch.randn(20, F)}
    kept = [
        (transfer_latent(prior, source, h, strength, Rng(1)) - source).abs().max()
        for strength in (0.001, 0.01, 1.0)
    ]
    assert kept[0] < 0.1
    assert kept[0] < kept[1] < kept[2]


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "ancestral"])
def test_a_full_transfer_forgets_the_source(spec, sampler):
    # An exact signal of 0 at T would leave nothing; the schedule leaves less than 0.001.
    prior = guided_prior(spec, prediction="data", sampler=sampler, timesteps=100)
    h, one = {"a": torch.randn(20, F)}, torch.randn(20, D)
    first, second = (transfer_latent(prior, z, h, 1.0, Rng(1)) for z in (one, one + 4))
    torch.testing.assert_close(first, second, rtol=1e-2, atol=1e-2)
    other = transfer_latent(prior, one, {"a": h["a"] + 1}, 1.0, Rng(1))
    assert (first - other).abs().max() > 0.1


@pytest.mark.parametrize("strength", [0.0, 1.5])
def test_a_transfer_of_impossible_strength_is_told(spec, strength):
    with pytest.raises(ValueError, match="strength"):
        transfer_latent(guided_prior(spec), torch.zeros(1, D), {}, strength, Rng(1))


@torch.no_grad()
def test_a_transfer_s_guidance_replaces_the_settings_one(spec):
    plain, strong = guided_prior(spec), guided_prior(spec, guidance=3.0)
    strong.load_state_dict(plain.state_dict())
    source, h = torch.randn(3, D), {"a": torch.randn(3, F)}

    def carried(prior, guidance):
        return transfer_latent(prior, source, h, 0.7, Rng(1), guidance)

    torch.testing.assert_close(carried(plain, 3.0), carried(strong, None))
    torch.testing.assert_close(carried(strong, 0.0), carried(plain, None))
    assert (carried(plain, None) - carried(strong, None)).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "ancestral"])
def test_a_trace_goes_from_scaled_noise_to_the_sample(spec, sampler):
    prior = guided_prior(spec, sampler=sampler, timesteps=200, sampling_steps=50)
    prior.fit_scale(torch.randn(40, D), torch.rand(40, D), None)
    noise = torch.randn(6, D)
    trace = prior.trace(noise, (1, 0.251, 0), Rng(1))
    assert list(trace) == [1, {"ddim": 0.26, "dpm++": 0.26, "ancestral": 0.25}[sampler], 0]
    torch.testing.assert_close(trace[1], noise * prior.latent_std + prior.latent_mean)
    assert torch.equal(trace[0], prior.generate(noise, {}, Rng(1)))

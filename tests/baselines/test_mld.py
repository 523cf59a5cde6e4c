"""MLD's two objectives against loops, what it keeps clean, and its sampler on Gaussian latents."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from helpers.objectives import ConstantCoders, assert_same_gradients, batch_of

from baselines.mld import MLD
from shalabench.api import Rng
from shalabench.nets.diffusion import make_schedule
from shalabench.nets.latents import LatentDiffusion, LatentDiffusionConfig
from shalabench.nets.likelihoods import log_likelihood

pytestmark = pytest.mark.float64

NAMES, D = ("a", "b", "c"), 2
SCARCE = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 1, 1]]).bool()


def build(spec, network, **prior):
    settings = {"timesteps": 20, "width": 16, "blocks": 2, "sampling_steps": 5, **prior}
    model = MLD(spec, MLD.Config(network=network, latent_dim=D, prior=settings))
    torch.nn.init.normal_(model.diffusion.denoiser.leave[-1].weight)
    return model


def singles(model, views):
    """Model and views in float32, as in use: the random numbers are float32."""
    torch.set_default_dtype(torch.float32)
    x = {n: v.float() if v.is_floating_point() else v for n, v in views.items()}
    return model.float().eval(), x


@pytest.mark.parametrize("there", [None, SCARCE])
def test_stage_one_equals_the_loop_in_value_and_gradient(spec, network, views, there):
    model = build(spec, network)
    value, terms = model.coders.loss(batch_of(views, there), 0.0, Rng(3))
    total = 0.0
    for column, name in enumerate(NAMES):
        items = [i for i in range(4) if there is None or there[i, column]]
        for i in items:
            x = views[name][i : i + 1]
            output = model.coders.decoders[name](model.coders.encoders[name](x))
            density = log_likelihood(spec[name], output, x)[0]
            total = total - spec[name].weight * density / len(items)
    torch.testing.assert_close(value, total)
    torch.testing.assert_close(value, sum(terms.values()))
    assert_same_gradients(value, total, model.coders)


def test_autoencoders_share_nothing(spec, network, views):
    coders = build(spec, network).coders
    _, terms = coders.loss(batch_of(views), 0.0, Rng(3))
    terms["nll_b"].backward()
    for towers in (coders.encoders, coders.decoders):
        for name in NAMES:
            touched = any(p.grad is not None for p in towers[name].parameters())
            assert touched == (name == "b")


def masked_loss_by_loop(diffusion, z0, kept, there):
    """Item by item: the error on the modalities that are neither kept nor absent."""
    rng, schedule = Rng(5), diffusion.schedule
    noise = rng.normal(*z0.shape).double()
    times, total = 1 + rng.integers(20, len(z0)), 0.0
    for i, t in enumerate(times.tolist()):
        z_t, own, clean = torch.zeros(3, D), torch.zeros(1, 3).long(), []
        for m in range(3):
            clean.append((z0[i, m] - diffusion.mean[m]) / diffusion.std[m])
            if not there[i, m]:
                own[0, m], z_t[m] = 20, noise[i, m] * schedule.sigma[20]
            elif kept[i, m]:
                own[0, m], z_t[m] = 0, clean[m]
            else:
                own[0, m] = t
                z_t[m] = schedule.signal[t] * clean[m] + schedule.sigma[t] * noise[i, m]
        output = diffusion.predict(z_t[None], own)[0]
        error, count = 0.0, 0
        for m in range(3):
            if there[i, m] and not kept[i, m]:
                s, sigma = schedule.signal[t], schedule.sigma[t]
                target = {
                    "noise": noise[i, m],
                    "data": clean[m],
                    "velocity": s * noise[i, m] - sigma * clean[m],
                }[schedule.prediction]
                error, count = error + ((output[m] - target) ** 2).sum(), count + D
        total = total + error / count
    return total / len(z0)


@pytest.mark.parametrize("prediction", ["noise", "velocity", "data"])
@pytest.mark.parametrize("complete", [True, False])
def test_stage_two_equals_the_loop_in_value_and_gradient(spec, network, prediction, complete):
    diffusion = build(spec, network, prediction=prediction).diffusion
    z0 = torch.randn(4, 3, D) * 3 + 1
    there = torch.ones(4, 3).bool() if complete else SCARCE
    diffusion.fit_scale(z0, there)
    kept = torch.tensor([[0, 0, 1], [1, 0, 0], [0, 0, 0], [0, 1, 0]]).bool()
    value = diffusion.loss(z0, kept, Rng(5), None if complete else there)
    loop = masked_loss_by_loop(diffusion, z0, kept, there)
    torch.testing.assert_close(value, loop, rtol=1e-5, atol=1e-7)
    assert_same_gradients(value, loop, diffusion.denoiser)


def test_the_scale_is_that_of_what_is_there():
    diffusion = LatentDiffusion(2, 3, LatentDiffusionConfig(width=16))
    z = torch.randn(500, 2, 3) * torch.tensor([0.1, 1.0, 7.0]) + 4
    there = torch.rand(500, 2) < 0.5
    diffusion.fit_scale(z.where(there[..., None], 1e6), there)
    for m in range(2):
        scaled = diffusion.standardise(z)[there[:, m], m]
        torch.testing.assert_close(scaled.mean(0), torch.zeros(3), rtol=0, atol=1e-6)
        torch.testing.assert_close(scaled.std(0, False), torch.ones(3), rtol=1e-6, atol=0)


def test_kept_subsets_are_proper_and_uniform(spec, network):
    model = build(spec, network, joint=0.25)
    kept = model.draw_kept(14_000, Rng(0))
    counts = Counter(map(tuple, kept.int().tolist()))
    assert (1, 1, 1) not in counts
    assert len(counts) == 7
    for subset, count in counts.items():
        expected = 14_000 * (0.75 / 6 if any(subset) else 0.25)
        assert abs(count - expected) < 4 * math.sqrt(expected), subset


def test_kept_subsets_of_incomplete_tuples_leave_something_to_denoise(spec, network):
    model = build(spec, network, joint=0.0)
    there = SCARCE[torch.arange(4000) % 4]
    kept = model.draw_kept(4000, Rng(0), there)
    assert not (kept & ~there).any()
    assert (there & ~kept).any(1).all()
    assert kept.any(0).all()
    assert not kept[2::4].any()  # one modality is there, so it is the one to denoise


def exact_denoiser(schedule, covariance):
    """The best denoiser of N(0, covariance) latents `[B, M, D]` with a time for each modality."""

    def predict(z, times, _=None):
        out, dim = torch.empty_like(z), z.shape[-1]
        for row in times.unique(dim=0):
            items = (times == row).all(1).expand(len(z))  # times may have one row
            signal = schedule.signal[row].double().repeat_interleave(dim)
            sigma = schedule.sigma[row].double().repeat_interleave(dim)
            noisy = signal[:, None] * covariance * signal + torch.diag(sigma**2)
            data = z[items].flatten(1).double() @ torch.linalg.solve(
                noisy, signal[:, None] * covariance
            )
            noise = (z[items].flatten(1) - signal * data) / sigma.clamp(min=1e-9)
            out[items] = noise.view(-1, *z.shape[1:]).to(out)
        return out

    return predict


def gaussian(modalities, dim):
    """A strongly correlated covariance of latents with unit variances."""
    factor = torch.randn(modalities * dim, 3) + 0.1
    covariance = factor @ factor.T + 0.2 * torch.eye(modalities * dim)
    scale = covariance.diag().rsqrt()
    return scale[:, None] * covariance * scale


def conditional_moments(covariance, held, value):
    """Mean and covariance of the other dimensions given those that are held."""
    free = ~held
    gain = covariance[free][:, held] @ covariance[held][:, held].inverse()
    rest = covariance[free][:, free] - gain @ covariance[held][:, free]
    return gain @ value, rest


@torch.no_grad()
@pytest.mark.parametrize("sampler", ["ddim", "dpm++", "ancestral"])
def test_samples_of_gaussian_latents_have_the_exact_conditional_moments(spec, network, sampler):
    settings = {"timesteps": 1000, "sampling_steps": 250, "sampler": sampler}
    model = build(spec, network, **settings).float()
    covariance = gaussian(3, D)
    model.diffusion.predict = exact_denoiser(model.diffusion.schedule, covariance)
    n, kept = 10_000, torch.tensor([True, False, False])
    latents = torch.zeros(n, 3, D)
    latents[:, 0] = torch.tensor([1.0, -0.5])
    model._modules.pop("coders")
    model.coders = ConstantCoders(latents, kept)
    z = model.complete({"a": None}, n, Rng(0)).double()
    torch.testing.assert_close(z[:, 0], latents[:, 0].double(), rtol=0, atol=0)
    mean, rest = conditional_moments(covariance, kept.repeat_interleave(D), latents[0, 0])
    free = z[:, 1:].flatten(1)
    torch.testing.assert_close(free.mean(0), mean, rtol=0, atol=0.05)
    torch.testing.assert_close(free.T.cov(), rest, rtol=0, atol=0.05)

    model.coders = ConstantCoders(latents, torch.zeros(3).bool())
    joint = model.complete({}, n, Rng(0)).double().flatten(1)
    torch.testing.assert_close(joint.T.cov(), covariance, rtol=0, atol=0.06)


@torch.no_grad()
def test_the_denoiser_sees_given_latents_clean_at_time_zero(spec, network, views):
    model, x = singles(build(spec, network), views)
    model.diffusion.fit_scale(torch.randn(50, 3, D) * 3 + 1)
    clean = model.diffusion.standardise(model.coders.encode({"b": x["b"]}))[:, 1]
    real, seen = model.diffusion.predict, []

    def watch(z, times, *network):
        seen.append(times)
        torch.testing.assert_close(z[:, 1], clean, rtol=0, atol=0)
        return real(z, times, *network)

    model.diffusion.predict = watch
    made = model.translate({"b": x["b"]}, ["a", "b"], Rng(1))
    assert len(seen) == 5
    for times in seen:
        assert (times[:, 1] == 0).all()
        assert (times[:, 0] > 0).all()
        assert torch.equal(times[:, 0], times[:, 2])
    expected = model.coders.decode(model.coders.encode({"b": x["b"]}), ["b"])["b"]
    torch.testing.assert_close(made["b"], expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_complete_tuple_is_encoded_without_diffusion(spec, network, views):
    model, x = singles(build(spec, network), views)
    z = model.encode(x, Rng(1))
    assert torch.equal(z, model.encode(x, Rng(2)))
    decoded, rebuilt = model.decode(z, Rng(0)), model.reconstruct(x, Rng(0))
    for name in NAMES:
        torch.testing.assert_close(decoded[name], rebuilt[name])


def test_the_linear_schedule_is_the_authors_diffusion():
    """exp of minus half the integral of beta(t) = 0.1 + 19.9 t, at t = k / 1000."""
    schedule = make_schedule("linear", 1000, "noise")
    t = torch.arange(1, 1001) / 1000
    expected = torch.exp(-0.25 * 19.9 * t**2 - 0.05 * t).float()
    torch.testing.assert_close(schedule.signal[1:], expected, rtol=0.03, atol=1e-4)

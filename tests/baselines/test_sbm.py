"""SBM-VAE's two objectives against loops, its corrector, and its sampler on Gaussian latents."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from helpers.objectives import ConstantCoders, assert_same_gradients, batch_of

from baselines.sbm import SBM
from shalabench.api import Rng
from shalabench.nets.diffusion import make_schedule
from shalabench.nets.likelihoods import log_likelihood
from shalabench.nets.solvers import correct

pytestmark = pytest.mark.float64

NAMES, D = ("a", "b", "c"), 2
SCARCE = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 1, 0], [0, 1, 1]]).bool()


def build(spec, network, beta=0.5, **prior):
    settings = {"timesteps": 20, "width": 16, "blocks": 2, "sampling_steps": 5, **prior}
    model = SBM(spec, SBM.Config(network=network, latent_dim=D, beta=beta, prior=settings))
    torch.nn.init.normal_(model.diffusion.denoiser.leave[-1].weight)
    return model


@pytest.mark.parametrize("beta", [0.5, 2.0])
@pytest.mark.parametrize("there", [None, SCARCE])
def test_stage_one_equals_the_loop_in_value_and_gradient(spec, network, views, there, beta):
    """Each modality's own evidence lower bound, with beta."""
    coders = build(spec, network, beta).coders
    value, terms = coders.loss(batch_of(views, there), beta, Rng(3))
    total = 0.0
    for column, name in enumerate(NAMES):
        noise = Rng(3).fork(name).normal(4, 1, D)[:, 0].double()
        items = [i for i in range(4) if there is None or there[i, column]]
        for i in items:
            x = views[name][i : i + 1]
            trunk, head = coders.encoders[name]
            features = trunk(x)
            mean, log_var = head.mean(features)[0], head.log_var(features)[0]
            z = mean + torch.exp(log_var / 2) * noise[i]
            density = log_likelihood(spec[name], coders.decoders[name](z[None]), x)[0]
            divergence = 0.5 * (log_var.exp() + mean**2 - 1 - log_var).sum()
            total = total - (spec[name].weight * density - beta * divergence) / len(items)
    torch.testing.assert_close(value, total)
    parts = sum(v * (beta if k.startswith("kl") else 1) for k, v in terms.items())
    torch.testing.assert_close(value, parts)
    assert_same_gradients(value, total, coders)


@pytest.mark.parametrize("standardise", [True, False])
@pytest.mark.parametrize("prediction", ["noise", "velocity"])
def test_stage_two_is_plain_denoising_of_the_posterior_means(
    spec, network, views, prediction, standardise
):
    model = build(spec, network, prediction=prediction, standardise=standardise)
    stage = model.stages()[1]
    data = SimpleNamespace(batches=lambda size: iter([batch_of(views)]))
    stage.begin(data)
    index = torch.tensor([2, 0, 3, 3])
    value, _ = stage._loss(SimpleNamespace(index=index), Rng(9), 0)

    diffusion, rng = model.diffusion, Rng(9).fork("noise")
    means = torch.stack([model.coders.encoders[n](views[n]).mean for n in NAMES], 1).detach()
    mean, std = means.mean(0), means.std(0, False)
    noise, total = rng.normal(4, 3, D).double(), 0.0
    for i, t in enumerate((1 + rng.integers(20, 4)).tolist()):
        s, sigma = diffusion.schedule.signal[t], diffusion.schedule.sigma[t]
        clean = (means[index[i]] - mean) / std if standardise else means[index[i]]
        out = diffusion.predict((s * clean + sigma * noise[i])[None], torch.full((1, 3), t))[0]
        target = noise[i] if prediction == "noise" else s * noise[i] - sigma * clean
        total = total + ((out - target) ** 2).mean() / 4
    torch.testing.assert_close(value, total, rtol=1e-5, atol=1e-7)
    assert_same_gradients(value, total, diffusion.denoiser)


def gaussian_denoiser(schedule, covariance):
    """The best denoiser of N(0, covariance) latents `[B, M, D]`, all at the same time."""

    def denoise(z, t):
        signal, sigma = schedule.signal[t[0]].double(), schedule.sigma[t[0]].double()
        noisy = signal**2 * covariance + sigma**2 * torch.eye(len(covariance))
        data = z.flatten(1).double() @ torch.linalg.solve(noisy, signal * covariance)
        return ((z.flatten(1) - signal * data) / sigma).view_as(z).to(z)

    return denoise


def gaussian(size):
    factor = torch.randn(size, 3)
    covariance = factor @ factor.T + 0.2 * torch.eye(size)
    scale = covariance.diag().rsqrt()
    return scale[:, None] * covariance * scale


@pytest.mark.parametrize("t", [5, 50])
def test_a_correction_equals_the_formula(t):
    schedule, z = make_schedule("linear", 100, "noise"), torch.randn(4, 3, D)
    denoise = gaussian_denoiser(schedule, gaussian(3 * D))
    ours = correct(denoise, schedule, z, t, 0.16, Rng(2))
    noise = Rng(2).normal(4, 3, D).double()
    for i in range(4):
        score = -denoise(z[i : i + 1], torch.tensor([t]))[0] / schedule.sigma[t]
        alpha = 1 - (1e-4 + (0.02 - 1e-4) * (t - 1) / 99) * 10  # 1 - beta_t of the schedule
        step = 2 * alpha * (0.16 * schedule.sigma[t]) ** 2
        expected = z[i] + step * score + torch.sqrt(2 * step) * noise[i]
        torch.testing.assert_close(ours[i], expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_corrections_keep_and_reach_the_noised_distribution():
    """From its samples, and from elsewhere."""
    schedule, covariance = make_schedule("linear", 100, "noise"), gaussian(4)
    denoise = gaussian_denoiser(schedule, covariance)
    signal, sigma = schedule.signal[40].double(), schedule.sigma[40].double()
    noisy = signal**2 * covariance + sigma**2 * torch.eye(4)
    inside = torch.randn(10_000, 4) @ torch.linalg.cholesky(noisy).T
    for start, steps in ((inside, 20), (torch.full((10_000, 4), 2.0), 300)):
        z, rng = start.view(-1, 2, D), Rng(0)
        for _ in range(steps):
            z = correct(denoise, schedule, z, 40, 0.2, rng)
        assert z.flatten(1).mean(0).abs().max() < 0.06
        torch.testing.assert_close(z.flatten(1).T.cov(), noisy, rtol=0, atol=0.08)


def with_gaussian_latents(model, covariance, latents, kept):
    exact = gaussian_denoiser(model.diffusion.schedule, covariance)
    model.diffusion.predict = lambda z, times, _=None: exact(z, times[:, 0])
    model._modules.pop("coders")
    model.coders = ConstantCoders(latents, kept)
    return model


@torch.no_grad()
@pytest.mark.parametrize(
    ("sampler", "corrections"), [("ddim", 0), ("dpm++", 0), ("ancestral", 0), ("ancestral", 2)]
)
def test_joint_samples_of_gaussian_latents_have_the_exact_covariance(
    spec, network, sampler, corrections
):
    settings = {"timesteps": 1000, "sampling_steps": 250, "sampler": sampler}
    model = build(spec, network, corrections=corrections, **settings).float()
    covariance = gaussian(3 * D)
    model = with_gaussian_latents(model, covariance, None, torch.zeros(3).bool())
    z = model.complete({}, 10_000, Rng(0)).double().flatten(1)
    torch.testing.assert_close(z.T.cov(), covariance, rtol=0, atol=0.06)


@torch.no_grad()
def test_replacement_leans_to_the_conditional_and_corrections_come_closer(spec, network):
    """Replacing alone is known to be biased; with corrections it approaches the conditional."""
    covariance = gaussian(3 * D)
    held = torch.tensor([True] * D + [False] * 2 * D)
    latents = torch.zeros(4000, 3, D)
    latents[:, 0] = torch.tensor([1.0, -1.0])
    exact = covariance[~held][:, held] @ covariance[held][:, held].inverse() @ latents[0, 0]
    errors = []
    for corrections in (0, 8, 32):
        model = build(
            spec, network, timesteps=1000, sampling_steps=100, corrections=corrections, ratio=0.3
        ).float()
        kept = torch.tensor([True, False, False])
        model = with_gaussian_latents(model, covariance, latents, kept)
        z = model.complete({"a": None}, 4000, Rng(0)).double()
        torch.testing.assert_close(z[:, 0], latents[:, 0], rtol=0, atol=0)
        errors.append((z[:, 1:].flatten(1).mean(0) - exact).norm() / exact.norm())
    assert 1 > errors[0] > 2 * errors[1] > 3 * errors[2], errors


@torch.no_grad()
@pytest.mark.parametrize("corrections", [0, 2])
def test_given_latents_are_noised_to_every_step(spec, network, views, corrections):
    torch.set_default_dtype(torch.float32)
    x = {n: v.float() if v.is_floating_point() else v for n, v in views.items()}
    x = {n: v[:1].repeat(3000, *(1,) * (v.dim() - 1)) for n, v in x.items()}
    model = build(spec, network, corrections=corrections).float()
    model.diffusion.fit_scale(torch.randn(50, 3, D) * 3 + 1)
    given = {"a": x["a"], "c": x["c"]}
    clean = model.diffusion.standardise(model.coders.encode(given))[0]
    real, seen = model.diffusion.predict, []

    def watch(z, times, *network):
        assert (times == times[0, 0]).all()
        seen.append(int(times[0, 0]))
        signal = model.diffusion.schedule.signal[seen[-1]]
        sigma = model.diffusion.schedule.sigma[seen[-1]]
        for m in (0, 2):
            assert (z[:, m].mean(0) - signal * clean[m]).abs().max() < 5 * sigma / 3000**0.5
            torch.testing.assert_close(z[:, m].std(0) / sigma, torch.ones(D), rtol=0.08, atol=0)
        return real(z, times, *network)

    model.diffusion.predict = watch
    made = model.translate(given, ["a", "b"], Rng(1))
    assert seen == [t for t in (20, 16, 12, 8, 4) for _ in range(1 + corrections)]
    expected = model.coders.decode(model.coders.encode(given), ["a"])["a"]
    torch.testing.assert_close(made["a"], expected, rtol=1e-4, atol=1e-4)
    assert made["b"].std(0).max() > 0


@torch.no_grad()
def test_a_reconstruction_is_of_a_posterior_sample_and_a_given_latent_is_the_mean(
    spec, network, views
):
    torch.set_default_dtype(torch.float32)
    x = {n: v.float() if v.is_floating_point() else v for n, v in views.items()}
    model = build(spec, network).float()
    assert not torch.equal(model.reconstruct(x, Rng(0))["a"], model.reconstruct(x, Rng(1))["a"])
    z = model.encode(x, Rng(0)).view(4, 3, D)
    for m, name in enumerate(NAMES):
        torch.testing.assert_close(z[:, m], model.coders.encoders[name](x[name]).mean)

"""Samplers against closed forms and against their formulas."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from helpers.exact import exact_denoiser

from shalabench.api import Rng
from shalabench.nets.diffusion import end_in_noise, make_schedule
from shalabench.nets.solvers import _times, sample, sample_ancestral, sample_ddim, sample_dpm

pytestmark = pytest.mark.float64

KINDS = ["noise", "velocity", "data"]
SPACINGS = ["uniform", "log-snr"]


def kept(solve, schedule, std, steps, spacing):
    """The share of the variance N(0, std^2) that a deterministic sampler keeps, exactly.

    Its denoiser is linear, so the sampler multiplies its start by a number.
    """
    denoise = exact_denoiser(schedule, 0.0, std)
    return (solve(denoise, schedule, torch.ones(1, 1), steps, spacing=spacing) / std).item() ** 2


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_samplers_recover_a_gaussian_from_its_exact_denoiser(prediction, kind):
    schedule = make_schedule(kind, 400, prediction)
    denoise = exact_denoiser(schedule, 1.0, 0.5)
    rng = Rng(0)
    start = rng.normal(20_000, 2)
    for samples in (
        sample_ddim(denoise, schedule, start, 100),
        sample_dpm(denoise, schedule, start, 50),
        sample_ancestral(denoise, schedule, start, rng),
    ):
        assert abs(samples.mean() - 1.0) < 0.02
        assert abs(samples.std() - 0.5) < 0.02


@pytest.mark.parametrize("prediction", KINDS)
def test_a_reverse_process_may_start_halfway(prediction):
    schedule = make_schedule("cosine", 200, prediction)
    denoise = exact_denoiser(schedule, 1.0, 0.5)
    z0 = 1.0 + 0.5 * torch.randn(20_000, 1)
    z = schedule.diffuse(z0, torch.full((20_000,), 100), torch.randn(20_000, 1))
    for samples in (
        sample_ddim(denoise, schedule, z, 50, start=100),
        sample_dpm(denoise, schedule, z, 25, start=100, spacing="log-snr"),
        sample_ancestral(denoise, schedule, z, Rng(0), start=100),
    ):
        assert abs(samples.mean() - 1.0) < 0.02
        assert abs(samples.std() - 0.5) < 0.02


@pytest.mark.parametrize("start", [None, 3])
def test_ancestral_steps_equal_the_posterior_of_the_forward_process(start):
    """Equations 6 and 7 of Ho et al. 2020, which moments of the samples hardly show."""
    schedule, z = make_schedule("cosine", 6, "data"), torch.randn(5, 2)

    def denoise(z, t):
        return torch.tanh(z) + t[:, None] / 6

    ours = sample_ancestral(denoise, schedule, z, Rng(2), start=start)
    rng, product = Rng(2), schedule.signal.double() ** 2  # the products of the 1 - beta
    for t in range(start or 6, 0, -1):
        beta = 1 - product[t] / product[t - 1]
        mean = product[t - 1].sqrt() * beta * denoise(z, torch.full((5,), t))
        mean = (mean + (1 - beta).sqrt() * (1 - product[t - 1]) * z) / (1 - product[t])
        variance = (1 - product[t - 1]) / (1 - product[t]) * beta
        z = mean + variance.sqrt() * rng.normal(5, 2)
    torch.testing.assert_close(ours, z, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("solve", [sample_ddim, sample_dpm])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_solvers_call_the_denoiser_as_often_as_asked_and_never_at_zero(solve, spacing):
    schedule, times, revised = make_schedule("cosine", 200, "data"), [], []

    def denoise(z, t):
        times.append(t[0].item())
        return z

    def revise(z, t):
        revised.append(t)
        return z

    for steps, start in ((50, None), (50, 10), (1, None), (7, 1), (200, None), (150, 160)):
        times.clear(), revised.clear()
        z = torch.zeros(2, 1)
        solve(denoise, schedule, z, steps, start=start, revise=revise, spacing=spacing)
        assert len(times) == min(steps, start or 200)
        assert times == sorted(set(times), reverse=True)
        assert (times[0], times[-1] > 0) == (start or 200, True)
        assert revised == [*times, 0]


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_dpm_steps_equal_the_published_algorithm(prediction, spacing):
    """Algorithm 2 of Lu et al. 2022, in the terms of the paper."""
    schedule, start = make_schedule("cosine", 60, prediction), torch.randn(5, 2)

    def denoise(z, t):
        return torch.tanh(1.5 * z) + t[:, None] / 60

    def predict(x, t):
        times = torch.full((5,), t)
        return schedule.split(x, times, denoise(x, times))[0]

    alpha, sigma = schedule.signal.double(), schedule.sigma.double()
    lam = (alpha / sigma).log()
    t = _times(schedule, 8, 50, spacing)
    x, data = start, []
    for i in range(1, 9):
        data.append(predict(x, t[i - 1]))
        h = lam[t[i]] - lam[t[i - 1]]
        if i in (1, 8):  # the first step, and the last
            mixed = data[-1]
        else:
            r = (lam[t[i - 1]] - lam[t[i - 2]]) / h
            mixed = (1 + 1 / (2 * r)) * data[-1] - 1 / (2 * r) * data[-2]
        x = sigma[t[i]] / sigma[t[i - 1]] * x - alpha[t[i]] * ((-h).exp() - 1) * mixed
    ours = sample_dpm(denoise, schedule, start, 8, start=50, spacing=spacing)
    torch.testing.assert_close(ours, x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x, data[-1])  # the end is the last prediction of the data


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_a_first_order_step_is_that_of_ddim(kind):
    schedule, z = make_schedule(kind, 100, "velocity"), torch.randn(5, 2)

    def denoise(z, t):
        return torch.tanh(z)

    for steps in (1, 2):  # with two, the first and the last are of first order
        ours, ddim = (f(denoise, schedule, z, steps) for f in (sample_dpm, sample_ddim))
        torch.testing.assert_close(ours, ddim, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("std", [0.5, 1.0])
def test_the_error_of_dpm_falls_fourfold_when_steps_double(kind, std):
    schedule = make_schedule(kind, 20_000, "velocity")  # many times: rounding them is no matter
    for solve, order in ((sample_ddim, 1), (sample_dpm, 2)):
        errors = [abs(kept(solve, schedule, std, n, "log-snr") ** 0.5 - 1) for n in (40, 80, 160)]
        for coarse, fine in pairwise(errors):
            assert coarse / fine == pytest.approx(2**order, rel=0.1)


@pytest.mark.parametrize("prediction", KINDS)
@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("std", [0.1, 0.2, 0.5, 1.0, 2.0])
def test_twenty_steps_of_dpm_keep_the_variance(prediction, kind, std):
    schedule = make_schedule(kind, 1000, prediction)
    assert 0.97 < kept(sample_dpm, schedule, std, 20, "log-snr") < 1.035
    assert 0.97 < kept(sample_dpm, schedule, std, 10, "log-snr") < 1.085
    assert kept(sample_ddim, schedule, std, 20, "uniform") < 0.89


def test_a_schedule_that_ends_in_noise_has_no_first_ratio():
    """The half log-SNR is minus infinity at T."""
    for kind in ("cosine", "linear"):
        schedule = end_in_noise(make_schedule(kind, 1000, "velocity"))
        assert 0.97 < kept(sample_dpm, schedule, 0.5, 20, "log-snr") < 1.035


def test_ddim_narrows_clusters_as_the_product_of_its_steps():
    """For the cosine schedule and s = .1, fifty steps keep three quarters of the variance."""
    schedule, std, factor = make_schedule("cosine", 1000, "noise"), 0.1, 1.0
    signal, sigma = schedule.signal.double(), schedule.sigma.double()
    for now in range(1000, 0, -20):
        mix = signal[now - 20] * signal[now] * std**2 + sigma[now - 20] * sigma[now]
        factor *= mix / ((signal[now] * std) ** 2 + sigma[now] ** 2)
    ours = kept(sample_ddim, schedule, std, 50, "uniform")
    assert ours == pytest.approx((factor.item() / std) ** 2, rel=1e-4)
    assert ours == pytest.approx(0.746, abs=0.001)


@pytest.mark.parametrize(
    ("solve", "spacing", "least", "most"),
    [(sample_ddim, "uniform", 0.74, 0.80), (sample_dpm, "log-snr", 1.02, 1.08)],
)
def test_two_clusters_keep_their_shares_and_dpm_their_width(solve, spacing, least, most):
    """A quantile of the start is a quantile of the samples: the map is monotone."""
    schedule = make_schedule("cosine", 1000, "velocity")
    denoise = exact_denoiser(schedule, (-1.0, 1.0), 0.1, (0.7, 0.3))
    n = 20_000
    start = torch.special.ndtri((torch.arange(n) + 0.5) / n)[:, None]
    samples = solve(denoise, schedule, start, 20, spacing=spacing)
    right = samples > 0
    assert right.double().mean().item() == pytest.approx(0.3, abs=0.006)
    for cluster, mean in ((samples[right], 1.0), (samples[~right], -1.0)):
        assert cluster.mean().item() == pytest.approx(mean, abs=0.015)
        assert least < cluster.std().item() / 0.1 < most


def test_even_times_start_at_the_end_as_trailing_ones():
    """Lin et al. 2024, Table 2: round(flip(arange(T, 0, -T / S)))."""
    schedule = make_schedule("cosine", 1000, "data")
    for steps in (7, 10, 20, 50, 250):
        trailing = [round(1000 - k * 1000 / steps) for k in range(steps)]
        assert _times(schedule, steps, None, "uniform") == [*trailing, 0]


@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_times_even_in_the_ratio_are_the_nearest_integers(kind):
    schedule = make_schedule(kind, 1000, "data")
    times = _times(schedule, 20, None, "log-snr")
    lowest, highest = max(schedule.log_snr[1000], -5.1), schedule.log_snr[1]
    assert times[0] == 1000
    assert times[-2:] == [1, 0]
    for k, t in enumerate(times[1:-1], 1):
        wanted = lowest + k * (highest - lowest) / 19
        nearest = min(abs(x - wanted) for x in schedule.log_snr[1:])
        assert abs(schedule.log_snr[t] - wanted) == pytest.approx(nearest)


def test_the_log_snr_is_that_of_the_curves():
    schedule = make_schedule("linear", 50, "noise")
    log_snr = torch.tensor(schedule.log_snr)
    torch.testing.assert_close(log_snr.exp(), (schedule.signal / schedule.sigma).double())
    assert schedule.predicting("data").log_snr is schedule.log_snr
    assert end_in_noise(schedule.predicting("data")).log_snr[-1] == -torch.inf


def test_a_sampler_is_chosen_by_name():
    schedule, z = make_schedule("cosine", 50, "velocity"), torch.randn(4, 2)

    def denoise(z, t):
        return torch.tanh(z)

    def by_name(name, steps, spacing="log-snr"):
        return sample(name, denoise, schedule, z, Rng(1), steps=steps, start=40, spacing=spacing)

    options = {"start": 40, "spacing": "log-snr"}
    assert torch.equal(by_name("ddim", 9), sample_ddim(denoise, schedule, z, 9, **options))
    assert torch.equal(by_name("dpm++", 9), sample_dpm(denoise, schedule, z, 9, **options))
    ancestral = sample_ancestral(denoise, schedule, z, Rng(1), steps=9, **options)
    assert torch.equal(by_name("ancestral", 9), ancestral)
    every = sample_ancestral(denoise, schedule, z, Rng(1), start=40)
    assert torch.equal(by_name("ancestral", None), every)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_dpm_leaves_what_a_revision_keeps(spacing):
    schedule, fixed = make_schedule("cosine", 100, "velocity"), torch.randn(4, 1)

    def revise(z, t):
        return torch.cat([fixed, z[:, 1:]], 1)

    def denoise(z, t):
        return torch.tanh(z.sum(1, keepdim=True)).expand_as(z)

    made = sample_dpm(denoise, schedule, torch.randn(4, 2), 9, revise=revise, spacing=spacing)
    assert torch.equal(made[:, :1], fixed)

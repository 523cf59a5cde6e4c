"""Schedules and samplers against closed forms."""

from __future__ import annotations

import pytest
import torch
from helpers.exact import exact_denoiser

from shalabench.api import Rng, sampling
from shalabench.nets.diffusion import (
    VectorDenoiser,
    embed_time,
    end_in_noise,
    make_schedule,
)
from shalabench.nets.solvers import sample_ancestral, sample_ddim

pytestmark = pytest.mark.float64

KINDS = ["noise", "velocity", "data"]


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("steps", [50, 1000])
def test_the_forward_process_preserves_variance_and_ends_in_noise(kind, steps):
    schedule = make_schedule(kind, steps, "noise")
    torch.testing.assert_close(
        schedule.signal**2 + schedule.sigma**2, torch.ones(steps + 1).float()
    )
    assert schedule.signal[0] == 1
    assert schedule.signal[-1] < 0.01
    assert (schedule.signal.diff() < 0).all()


def test_iterated_one_step_transitions_equal_the_closed_form():
    schedule = make_schedule("cosine", 30, "noise")
    z, z0 = torch.full((200_000,), 2.0), 2.0
    for t in range(1, 21):
        alpha = schedule.signal[t] / schedule.signal[t - 1]
        z = alpha * z + (1 - alpha**2).sqrt() * torch.randn_like(z)
    assert abs(z.mean() - schedule.signal[20] * z0) < 0.01
    assert abs(z.std() - schedule.sigma[20]) < 0.01


@pytest.mark.parametrize("prediction", KINDS)
def test_data_and_noise_are_recovered_from_the_target(prediction):
    schedule = make_schedule("cosine", 50, prediction)
    z0, noise, t = torch.randn(5, 3), torch.randn(5, 3), torch.tensor([1, 5, 20, 40, 49])
    z_t = schedule.diffuse(z0, t, noise)
    data, eps = schedule.split(z_t, t, schedule.target(z0, t, noise))
    torch.testing.assert_close(data, z0, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(eps, noise, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prediction", ["velocity", "data"])
@pytest.mark.parametrize("kind", ["cosine", "linear"])
def test_a_schedule_can_end_in_pure_noise(kind, prediction):
    """Algorithm 1 of Lin et al. 2024: nothing of the data at T, t = 1 as it was."""
    before = make_schedule(kind, 400, prediction)
    after = end_in_noise(before)
    assert after.signal[-1] == 0
    assert after.sigma[-1] == 1
    assert after.signal[0] == 1
    torch.testing.assert_close(after.signal[1], before.signal[1])
    torch.testing.assert_close(after.signal**2 + after.sigma**2, torch.ones(401).float())
    assert (after.signal.diff() < 0).all()
    rng = Rng(0)
    denoise = exact_denoiser(after, 1.0, 0.5)
    start = rng.normal(20_000, 2)
    for samples in (
        sample_ddim(denoise, after, start, 100),
        sample_ancestral(denoise, after, start, rng),
    ):
        assert abs(samples.mean() - 1.0) < 0.02
        assert abs(samples.std() - 0.5) < 0.02


def test_noise_prediction_cannot_end_in_pure_noise():
    with pytest.raises(ValueError, match="Choose 'velocity' or 'data'"):
        end_in_noise(make_schedule("cosine", 10, "noise"))


def test_a_denoiser_of_any_width_embeds_time_and_an_even_one_as_published():
    t = torch.tensor([1, 500])
    assert embed_time(t, 7).shape == (2, 7)
    angles = t[:, None] * 10_000.0 ** (-torch.arange(3) / 3)
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    torch.testing.assert_close(embed_time(t, 6), waves, check_dtype=False, atol=1e-3, rtol=0)
    denoiser = VectorDenoiser(4, 3, 9, 1).double()
    assert denoiser(torch.ones(2, 4).double(), t, torch.ones(2, 3).double()).shape == (2, 4)


def test_a_schedule_moves_with_its_network_and_adds_nothing_to_the_state():
    network = torch.nn.Module()
    network.schedule = make_schedule("cosine", 20, "noise")
    assert not network.state_dict()
    assert network.to("meta").schedule.sigma.device.type == "meta"
    of_data = network.schedule.predicting("data")
    assert (of_data.prediction, network.schedule.prediction) == ("data", "noise")
    assert of_data.signal is network.schedule.signal


def denoiser_of(dim=4, condition=3):
    denoiser = VectorDenoiser(dim, condition, 16, 3)
    torch.nn.init.normal_(denoiser.leave[-1].weight)
    torch.nn.init.normal_(denoiser.leave[-1].bias)
    return denoiser


def test_a_vector_denoiser_equals_its_formula():
    denoiser, z, t = denoiser_of(), torch.randn(5, 4), torch.arange(1, 6)
    condition, silu = torch.randn(5, 3), torch.nn.functional.silu
    context = denoiser.time(embed_time(t, 16)) + denoiser.condition(condition)
    x = denoiser.enter(z)
    for block in denoiser.blocks:
        scale, shift = block.modulate(silu(context)).chunk(2, dim=-1)
        x = x + block.layers(block.norm(x) * (1 + scale) + shift)
    torch.testing.assert_close(denoiser(z, t, condition), denoiser.leave(x))


def test_a_mixture_of_conditions_is_the_weighted_sum_of_their_predictions():
    denoiser, z, t = denoiser_of(), torch.randn(5, 4), torch.full((5,), 7)
    own, other, shared = torch.randn(5, 3), torch.randn(5, 3), torch.randn(1, 3)
    mixed = denoiser.mix([own, other, shared], [1.5, 1.5, -2.0])(z, t)
    parts = [denoiser(z, t, c) for c in (own, other, shared.expand(5, -1))]
    torch.testing.assert_close(mixed, 1.5 * (parts[0] + parts[1]) - 2 * parts[2])
    alone = denoiser.mix([shared], [1.0])(z, t)
    torch.testing.assert_close(alone, parts[2])
    torch.testing.assert_close(denoiser(z, t[:1], shared), parts[2])


@torch.no_grad()
def test_a_sampler_in_bf16_is_close_to_float32_and_changes_no_weight():
    torch.set_default_dtype(torch.float32)
    denoiser, z, t = denoiser_of().float(), torch.randn(50, 4), torch.full((50,), 7)
    own, shared = torch.randn(50, 3), torch.randn(1, 3)
    before = {key: x.clone() for key, x in denoiser.state_dict().items()}

    def predict():
        return denoiser.mix([own, shared], [3.0, -2.0])(z, t)

    exact = predict()
    with sampling("bf16"):
        rough = predict()
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert (rough - exact).norm() < 0.05 * exact.norm()
    assert torch.equal(predict(), exact)
    for key, x in denoiser.state_dict().items():
        assert torch.equal(x, before[key])

"""docs/priors.md shows what the samplers keep now."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from shalabench.nets.diffusion import make_schedule


@pytest.fixture(scope="module")
def spread(load):
    return load("spread")


def test_the_page_shows_the_computed_table(spread):
    text = spread.PAGE.read_text(encoding="utf-8")
    assert "<!-- spread -->" in text
    assert spread.render_page(text) == text


def test_the_ancestral_sampler_s_variance_is_that_of_its_recursion(spread):
    schedule, std = make_schedule("cosine", 1000, "data"), 0.2
    signal, sigma = schedule.signal.double(), schedule.sigma.double()
    variance, times = torch.ones(()).double(), list(range(1000, -1, -20))
    for now, then in pairwise(times):
        alpha = signal[now] / signal[then]
        gain = signal[now] * std**2 / ((signal[now] * std) ** 2 + sigma[now] ** 2)
        of_z = alpha * sigma[then] ** 2 / sigma[now] ** 2
        of_data = signal[then] * (1 - alpha**2) / sigma[now] ** 2
        noise = (1 - alpha**2) * sigma[then] ** 2 / sigma[now] ** 2
        variance = (of_z + of_data * gain) ** 2 * variance + noise
    ours = spread.measure("ancestral", "uniform", 50, std, "cosine")
    assert ours == pytest.approx((variance.sqrt() / std).item(), rel=1e-4)
    for prediction in ("noise", "data"):
        other = spread.measure("ancestral", "uniform", 50, std, "cosine", prediction)
        assert other == pytest.approx(ours, rel=1e-4)

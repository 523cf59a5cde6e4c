"""Langevin dynamics against a density that is known."""

from __future__ import annotations

import pytest
import torch

from shalabench.api import Rng
from shalabench.nets.langevin import gradient_of, sample_langevin

pytestmark = pytest.mark.float64

MEAN = torch.tensor([1.5, -0.5], dtype=torch.float64)
SCALE = torch.tensor([0.6, 1.4], dtype=torch.float64)


def gaussian(z):
    return (-0.5 * ((z - MEAN) / SCALE) ** 2).sum(-1)


def test_many_small_steps_give_the_gaussian_of_its_energy():
    """Four standard errors, and the step's own bias: the variance grows by 1 / (1 - s^2/4 v)."""
    chains, size = 20_000, 0.2
    z, slope = sample_langevin(gradient_of(gaussian), torch.zeros(chains, 2), 400, size, Rng(0))
    assert ((z.mean(0) - MEAN).abs() < 4 * SCALE / chains**0.5).all()
    variance = SCALE**2 / (1 - size**2 / (4 * SCALE**2))
    assert ((z.var(0) / variance - 1).abs() < 4 * (2 / chains) ** 0.5).all()
    correlation = torch.corrcoef(z.T)[0, 1]
    assert correlation.abs() < 4 / chains**0.5
    assert slope.shape == (chains,)


def test_one_step_is_the_formula():
    z = torch.randn(5, 2)
    found, slope = sample_langevin(gradient_of(gaussian), z, 1, 0.4, Rng(3))
    climb = (MEAN - z) / SCALE**2
    torch.testing.assert_close(found, z + 0.08 * climb + 0.4 * Rng(3).normal(5, 2))
    torch.testing.assert_close(slope, climb.norm(dim=1))


def test_the_gradient_needs_no_gradients_switched_on():
    with torch.inference_mode():
        z = torch.zeros(3, 2)
        torch.testing.assert_close(gradient_of(gaussian)(z), (MEAN / SCALE**2).expand(3, 2))


def test_the_gradient_leaves_none_with_parameters():
    net = torch.nn.Linear(2, 1)
    gradient_of(lambda z: net(z)[..., 0])(torch.zeros(3, 2))
    assert all(p.grad is None for p in net.parameters())

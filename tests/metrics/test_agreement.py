"""Agreement and total variation against plain sums, and against new draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from shalabench.metrics.agreement import agreement, expected_variation, variation


def test_agreement_is_that_of_pairs_and_nothing_agrees_with_what_is_not_read():
    values = torch.tensor([[1, 2, -1], [1, 3, -1], [1, 3, 4]])
    expected = [[1, 0, 0], [1, 0.5, 0], [1, 0.5, 0]]
    assert agreement(values).tolist() == expected
    pairs = [(values[i] == values[j]) & (values[i] >= 0) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert torch.equal(agreement(values).mean(0), torch.stack(pairs).double().mean(0))


def test_variation_is_that_of_histograms_and_its_spread_that_of_new_draws():
    rng = np.random.default_rng(1)
    groups, truth = torch.arange(400) % 2, torch.arange(400) // 2 % 4
    odds = np.array([[0.55, 0.15, 0.15, 0.15], [0.1, 0.1, 0.1, 0.7]])

    def draw():
        uniform = rng.uniform(size=400)
        return torch.from_numpy((uniform[:, None] > odds[groups].cumsum(1)).sum(1))

    found = [variation(draw(), truth, groups, 4) for _ in range(400)]
    values = draw()
    by_hand = 0.0
    for g in (0, 1):
        p = np.bincount(values[groups == g], minlength=4) / 200
        by_hand += np.abs(p - 0.25).sum() / 4
    assert variation(values, truth, groups, 4).mean().item() == pytest.approx(by_hand)
    spread = torch.stack([x.mean() for x in found]).std().item()
    within = torch.stack([(x[0::2].var() + x[1::2].var()) / 2 for x in found]).mean()
    assert (within / 400).sqrt().item() == pytest.approx(spread, rel=0.12)
    unread = values.where(torch.arange(400) >= 200, -1)
    assert variation(unread, truth, groups, 4).mean() > 0.5


def test_the_expected_variation_is_the_mean_over_draws():
    groups, truth = torch.arange(60) % 3, torch.tensor([0, 0, 0, 1, 1, 2]).repeat(10)
    counts = torch.zeros(3, 3).index_put((groups, truth), torch.ones(60), accumulate=True)
    total = 0.0  # by summing over all outcomes of each binomial
    for n, k in ((20, int(k)) for row in counts for k in row):
        q = k / n
        odds = [math.comb(n, x) * q**x * (1 - q) ** (n - x) for x in range(n + 1)]
        total += sum(p * abs(x - n * q) for x, p in enumerate(odds)) / 2 / 60
    assert expected_variation(truth, groups, 3) == pytest.approx(total)
    assert expected_variation(torch.zeros(60, dtype=torch.int64), groups, 3) == 0

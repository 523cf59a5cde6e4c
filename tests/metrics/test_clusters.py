"""Standard errors of means over tuples that share sources."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shalabench.datasets.sources.digits import pair_evenly, part_digits, read_digits
from shalabench.metrics.scores import Clusters, mean_score


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0, dtype=torch.double):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def test_the_error_of_one_source_a_tuple_is_that_of_the_means_of_the_sources():
    source = torch.arange(50).repeat(8)  # a wide spread between sources
    values = 3 * normal(50)[source] + normal(400, seed=1)
    expected = values.view(8, 50).mean(0).std() / 50**0.5
    assert Clusters(source[None] * 7).error(values).item() == pytest.approx(expected.item())
    score = mean_score("m", values, clusters=Clusters(source[None]), n=50)
    assert (score.n, score.stderr) == (50, pytest.approx(expected.item()))


def test_differences_between_strata_count_as_those_of_independent_tuples():
    source, strata = torch.arange(50).repeat(8), (torch.arange(50) % 5).repeat(8)
    values = 3 * normal(50)[source] + normal(400, seed=1)
    means = values.view(8, 50).mean(0).view(10, 5)  # the five strata are columns
    within = (means - means.mean(0)).square().sum() / 45 / 50
    for offset in (0, 100):
        between = (means.mean(0) + offset * torch.arange(5)).var(correction=0) / 400
        error = Clusters(source[None], strata).error(values + offset * strata)
        assert error.item() == pytest.approx((within + between).sqrt().item())


def test_the_error_is_that_of_independent_tuples_where_sources_have_no_effect():
    """Such as for a model that always generates one class."""
    strata = torch.arange(400) % 4
    right, clusters = strata == 0, Clusters(torch.arange(400)[None] % 100, strata)
    assert mean_score("m", right, clusters=clusters).stderr == pytest.approx(
        (0.25 * 0.75 / 400) ** 0.5
    )


def test_the_moments_are_those_of_dense_matrices():
    n, generator = 60, seeded(3)
    sources = torch.randint(12, (3, n), generator=generator)  # some tuples have one twice
    strata = torch.randint(4, (n,), generator=generator)
    z = torch.nn.functional.one_hot(sources).sum(0).double()  # [n, 12]
    same = (strata[:, None] == strata).double()
    p = torch.eye(n) - same / same.sum(1)
    k = z.T @ p.double() @ z
    clusters = Clusters(sources, strata)
    assert clusters.free == n - 4
    assert clusters.trace == pytest.approx(k.trace().item())
    assert clusters.norm == pytest.approx(k.square().sum().item())
    assert clusters.squares == pytest.approx(z.sum(0).square().sum().item())


@pytest.mark.parametrize("effects", [(1, 1), (1, 0), (0, 1), (0, 0)])
def test_crossed_sources_of_unequal_use_add_up(effects):
    """Every one of 30 sources with every one of 20; only the first, or the second, has effects."""
    a, b = torch.arange(30).repeat_interleave(20), torch.arange(20).repeat(30)
    first, second = (x * normal(4000, g, seed=g) for x, g in zip(effects, (30, 20), strict=True))
    values = first[:, a] + second[:, b] + normal(4000, 600)
    variance = Clusters(torch.stack([a, 30 + b])).error(values).square().mean().item()
    expected = effects[0] / 30 + effects[1] / 20 + 1 / 600
    assert variance == pytest.approx(expected, rel=0.15 if any(effects) else 0.25)
    assert variance > 0.97 * expected


def test_sources_that_all_tuples_share_give_no_error():
    assert Clusters(torch.zeros(1, 10, dtype=torch.long)).error(normal(10)) is None
    strata = torch.arange(10) % 2
    assert Clusters(strata[None], strata).error(normal(10)) is None


def test_tuples_without_shared_sources_have_the_binomial_error():
    right, clusters = torch.arange(100) < 80, Clusters(torch.arange(200).view(2, 100))
    assert mean_score("m", right, clusters=clusters).stderr == pytest.approx(0.04)


REPLICATIONS = 2000


def scans_of(modalities):
    """The scans `[M, 2000]` of test tuples as polydigits and mst-digits have them; the classes."""
    digits, labels = read_digits()
    part = part_digits(len(digits), 0)["test"]
    chosen, own = pair_evenly(part, labels, 2000, modalities, np.random.default_rng(0))
    found, scans = torch.from_numpy(np.stack(chosen)).unique(return_inverse=True)
    assert len(found) == 360
    return scans, torch.from_numpy(own)


@pytest.mark.parametrize("modalities", [2, 5])
@pytest.mark.parametrize(
    ("spread", "alike", "binary"),
    [
        (0, 0, False),  # no effect of scans
        (0, 0, True),
        (0.1, 1, False),  # weak effects
        (0.5, 0, False),  # other effects in each modality
        (0.5, 1, False),  # a scan has one effect in all modalities
        (0.5, 1, True),
    ],
)
def test_95_percent_intervals_cover_the_truth_in_93_to_97_percent(
    modalities, spread, alike, binary
):
    scans, classes = scans_of(modalities)
    values = normal(REPLICATIONS, 2000, seed=3, dtype=torch.float)
    common = normal(REPLICATIONS, 360, seed=1, dtype=torch.float)
    for m, scan in enumerate(scans if spread else ()):
        own = common if alike else normal(REPLICATIONS, 360, seed=4 + m, dtype=torch.float)
        values += spread * own[:, scan]
    if binary:  # right or wrong, each half the time
        values = (values > 0).float() - 0.5
    error = Clusters(scans, classes).error(values)
    covered = (values.mean(1).abs() < 1.96 * error).double().mean().item()
    assert 0.93 <= covered <= 0.97
    if spread == 0.5:  # and those of independent tuples do not
        naive = values.std(1) / 2000**0.5
        assert (values.mean(1).abs() < 1.96 * naive).double().mean().item() < 0.9

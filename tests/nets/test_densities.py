"""Likelihoods, posteriors and random numbers against independent implementations."""

from __future__ import annotations

import pytest
import scipy.stats
import torch
from torch.distributions import Bernoulli, Categorical, Laplace, Normal

from shalabench.api import Modality, Rng
from shalabench.nets.experts import mixture_log_prob
from shalabench.nets.likelihoods import log_likelihood, view_of
from shalabench.nets.posteriors import LaplaceHead, NormalHead, draw, kl_to_standard

pytestmark = pytest.mark.float64


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("laplace", lambda o: Laplace(o, 0.3)),
        ("normal", lambda o: Normal(o, 0.3)),
        ("bernoulli", lambda o: Bernoulli(logits=o)),
    ],
)
def test_image_likelihoods_equal_the_reference(name, reference):
    modality = Modality("x", "image", (2, 3, 3), name, 0.3)
    output, target = torch.randn(5, 4, 2, 3, 3), (torch.rand(4, 2, 3, 3) > 0.5).double()
    ours = log_likelihood(modality, output, target)
    expected = reference(output).log_prob(target).flatten(2).sum(-1)
    torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-4)


def test_text_likelihood_equals_the_categorical_and_sums_to_one():
    modality = Modality("x", "text", (2,), "categorical", vocabulary=tuple("abc"))
    output, target = torch.randn(6, 4, 2, 3), torch.randint(3, (4, 2))
    expected = Categorical(logits=output).log_prob(target.expand(6, 4, 2)).sum(-1)
    torch.testing.assert_close(log_likelihood(modality, output, target).double(), expected)
    every = torch.cartesian_prod(torch.arange(3), torch.arange(3))  # [9, 2]
    mass = log_likelihood(modality, output[0, :1].expand(9, -1, -1), every).exp().sum()
    assert abs(mass - 1) < 1e-5


def test_the_published_text_likelihood_takes_log_softmax_for_probabilities():
    """reproduction/pitfalls.md: softmax (.84, .04, .006, .11) becomes (.016, .297, .484, .203)."""
    modality = Modality("x", "text", (1,), "categorical-published", vocabulary=tuple("abcd"))
    s = torch.tensor([0.84, 0.04, 0.006, 0.11])
    output = (s / s.sum()).log().view(1, 1, 4)
    made = [log_likelihood(modality, output, torch.tensor([[t]])).exp().item() for t in range(4)]
    assert made == pytest.approx([0.016, 0.297, 0.484, 0.203], abs=8e-3)  # two digits are given
    assert sum(made) == pytest.approx(1, abs=1e-6)
    assert view_of(modality, output).tolist() == [[2]]
    certain = torch.tensor([[[0.0, 500.0]]])
    assert torch.isfinite(log_likelihood(modality, certain, torch.tensor([[1]]))).all()


def test_an_unknown_likelihood_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'cauchy'.*laplace"):
        log_likelihood(Modality("x", "image", (1, 2, 2), "cauchy"), torch.zeros(1), torch.zeros(1))


def test_views_are_means():
    image = Modality("x", "image", (1, 2, 2), "bernoulli")
    torch.testing.assert_close(
        view_of(image, torch.zeros(1, 1, 2, 2)), torch.full((1, 1, 2, 2), 0.5)
    )
    text = Modality("x", "text", (2,), "categorical", vocabulary=tuple("ab"))
    assert view_of(text, torch.tensor([[[0.0, 1.0], [2.0, 1.0]]])).tolist() == [[1, 0]]


def test_kl_equals_monte_carlo():
    q = NormalHead(4, 3)(torch.randn(2, 4))
    z = draw(q, Rng(0), 200_000)  # [K, 2, 3]
    estimate = (q.log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1).mean(0)
    torch.testing.assert_close(kl_to_standard(q), estimate.to(q.mean.dtype), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("head", [NormalHead, LaplaceHead])
def test_draws_have_the_posterior_s_moments(head):
    q = head(4, 3)(torch.randn(2, 4))
    z = draw(q, Rng(0), 100_000)
    torch.testing.assert_close(z.mean(0), q.mean, rtol=0, atol=0.03)
    torch.testing.assert_close(z.std(0), q.stddev, rtol=0.03, atol=0)


def test_laplace_scales_sum_to_the_dimension():
    q = LaplaceHead(4, 6)(torch.randn(5, 4))
    torch.testing.assert_close(
        q.scale.sum(-1), torch.full((5,), 6.0).to(q.scale.dtype), atol=1e-4, rtol=0
    )


def test_mixture_density_equals_the_mean_of_the_experts():
    experts = Laplace(torch.randn(3, 4, 2), torch.rand(3, 4, 2) + 0.1)
    z = torch.randn(5, 4, 2)
    expected = torch.stack(
        [Laplace(experts.loc[m], experts.scale[m]).log_prob(z).sum(-1).exp() for m in range(3)]
    ).mean(0)
    torch.testing.assert_close(mixture_log_prob(experts, z).exp(), expected)


@pytest.mark.parametrize(
    ("kind", "law"), [("uniform", "uniform"), ("normal", "norm"), ("laplace", "laplace")]
)
def test_random_numbers_follow_their_law(kind, law):
    sample = getattr(Rng(11), kind)(500, 200).flatten().double()
    assert scipy.stats.kstest(sample.numpy(), law).pvalue > 1e-3
    assert abs(torch.corrcoef(torch.stack([sample[:-1], sample[1:]]))[0, 1]) < 0.02


def test_random_numbers_do_not_depend_on_the_batch():
    whole = Rng(3).normal(8, 5)
    parts = [Rng(3, first=f).normal(n, 5) for f, n in ((0, 3), (3, 1), (4, 4))]
    assert torch.equal(whole, torch.cat(parts))


def test_random_numbers_differ_between_calls_forks_and_seeds():
    rng = Rng(3)
    drawn = [rng.normal(4), rng.normal(4), Rng(4).normal(4), Rng(3).fork("a").normal(4)]
    for i, one in enumerate(drawn):
        assert all(not torch.equal(one, other) for other in drawn[:i])
    rng.normal(7)
    assert torch.equal(rng.fork("a").normal(4), Rng(3).fork("a").normal(4))


def test_integers_are_uniform_and_in_range():
    counts = torch.bincount(Rng(1).integers(5, 100_000), minlength=5)
    assert len(counts) == 5
    assert scipy.stats.chisquare(counts.numpy()).pvalue > 1e-3

#!/usr/bin/env bash
# scikit-learn 1.9.1: `score` and `score_samples` of BayesianGaussianMixture should be log-likelihoods
# (documentation), but exp(score_samples) is no density: it integrates to less than 1. They use posterior
# means of the logarithms of weights and precisions, which the fit needs, and do not normalise. What is
# missing grows with dimensions and with few items a component: here 4 to 6 nats an item in 64 dimensions.
# So a Bayesian mixture can seem worse than a GaussianMixture on held-out latents, though its density
# (weights_, means_ and covariances_, from which `sample` draws) is better: below, in 5 of 10 draws.
# Upstream: scikit-learn/scikit-learn#10148, open since 2017. Put the parameters in a GaussianMixture.
# This matters for users who compare mixtures with the prior of this project (prior.kind=gmm): that is a
# GaussianMixture, whose `score` is right, and so its number of components is (shalabench/priors/mixture.py).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet 'scikit-learn==1.9.1' 'scipy==1.17.1' 'numpy==2.4.6'
OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore - << 'END'
import numpy as np
import scipy
import sklearn
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.mixture import BayesianGaussianMixture, GaussianMixture

print("scikit-learn", sklearn.__version__, "scipy", scipy.__version__, "numpy", np.__version__)


def fit(kind, x, components):
    return kind(n_components=components, random_state=0, max_iter=500).fit(x)


def density(m, x):
    """Log-density of the mixture with these weights, means and covariances, by SciPy."""
    parts = zip(m.weights_, m.means_, m.covariances_)
    each = [np.log(w) + multivariate_normal.logpdf(x, mean, c) for w, mean, c in parts]
    return logsumexp(each, axis=0)


def mass(log_density, grid):
    return np.trapezoid(np.exp(log_density), grid.ravel())


random = np.random.default_rng(0)
grid = np.linspace(-200, 200, 400_001)[:, None]
for n in (20, 100, 1000):
    x = random.normal(random.choice([-3.0, 3.0], (n, 1)), 1.0)
    plain, bayes = (fit(kind, x, 2) for kind in (GaussianMixture, BayesianGaussianMixture))
    values = [mass(plain.score_samples(grid), grid), mass(bayes.score_samples(grid), grid)]
    values.append(mass(density(bayes, grid), grid))
    print(f"one dimension, {n} items: integral {values[0]:.4f} (GaussianMixture), {values[1]:.4f}", end="")
    print(f" (Bayesian), {values[2]:.4f} (the Bayesian one's parameters)")
    assert abs(values[0] - 1) < 1e-3 and abs(values[2] - 1) < 1e-3
    assert values[1] < 1 - 2 / n, "The Bayesian density is normalised now."


def compare(seed, d, clusters, n):
    """Held-out scores of ten components: plain, Bayesian, and with the latter's parameters."""
    random = np.random.default_rng(seed)
    centres = 2 * random.normal(size=(clusters, d))
    shapes = random.normal(size=(clusters, d, d)) / d**0.5
    k = random.integers(clusters, size=n + 4000)
    z = centres[k] + np.einsum("nij,nj->ni", shapes[k], random.normal(size=(n + 4000, d)))
    z += 0.5 * random.normal(size=z.shape)
    plain, bayes = (fit(kind, z[:n], 10) for kind in (GaussianMixture, BayesianGaussianMixture))
    same, held = GaussianMixture(10), z[n:]
    for name in ("weights_", "means_", "covariances_", "precisions_cholesky_"):
        setattr(same, name, getattr(bayes, name))
    assert abs(same.score(held) - density(bayes, held).mean()) < 1e-6, "SciPy differs."
    return plain.score(held), bayes.score(held), same.score(held)


for n in (1500, 2500):
    plain, bayes, same = compare(0, 64, 10, n)
    print(f"64 dimensions, {n} items: held-out score {plain:.2f} (GaussianMixture), {bayes:.2f}", end="")
    print(f" (Bayesian), {same:.2f} (the Bayesian one's parameters in a GaussianMixture)")
    assert same - bayes > 3, "The Bayesian score is a log-likelihood now."
plain, bayes, same = np.array([compare(seed, 16, 4, 800) for seed in range(10)]).T
by_density, by_score = (same > plain).sum(), (bayes > plain).sum()
print(f"16 dimensions, 800 items: the Bayesian mixture is better in {by_density} of 10 draws", end="")
print(f" by its density, in {by_score} by its score")
assert by_density - by_score >= 3, "Density and score agree now."
END

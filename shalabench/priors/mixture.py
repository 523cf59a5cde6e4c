"""A Gaussian mixture fitted to latents: the cheap lower bound of every learned prior.

What a prior adds to it is what the prior's learning is worth (Ghosh et al. 2020 fit one to
deterministic autoencoders; pythae and MultiVae call it a sampler).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shalabench.api import Batch, BenchError, Rng, Split, Stage
from shalabench.config.training import PriorSettings
from shalabench.priors.fitted import FittedPrior, Latents

if TYPE_CHECKING:
    from sklearn.mixture import GaussianMixture

_TRIED = (5, 10, 20, 40)  # components of which validation chooses
_TRIAL_TUPLES = 5_000  # Training tuples that each of them is fitted to, a quarter of the default.


class GaussianMixturePrior(FittedPrior):
    """A mixture of Gaussians, fitted by EM.

    A chosen number of components leaves the other rows of its tensors unused, with weight 0.
    """

    name = "mixture"
    weights: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, dim: int, settings: PriorSettings):
        super().__init__(dim, settings)
        count = max(_TRIED) if settings.components == "auto" else settings.components
        self.register_buffer("weights", torch.ones(count) / count)  # [K]
        self.register_buffer("means", torch.zeros(count, dim))  # [K, D]
        self.register_buffer("factors", torch.eye(dim).repeat(count, 1, 1))  # [K, D, D]

    def stage(self, latents: Latents) -> Stage:
        return FitMixture(self, latents)

    def sample(self, n: int, rng: Rng) -> Tensor:
        last = int((self.weights > 0).sum()) - 1
        which = torch.searchsorted(self.weights.cumsum(0), rng.uniform(n)).clamp(max=last)
        noise = rng.normal(n, self.dim)
        z = self.means[which]
        for c, factor in enumerate(self.factors[: last + 1]):
            z = torch.where((which == c)[:, None], z + noise @ factor.T, z)
        return z


class FitMixture(Stage):
    """Encodes training tuples and fits the mixture to them by EM; it has no updates.

    Where the number of components is "auto", it is the one under which the validation tuples are
    most likely.

    Args:
        mixture: What is fitted.
        latents: Of the trained method.
    """

    name, steps, batch_size = "mixture", 0, 1
    sections = ("model", "train", "prior")
    module: GaussianMixturePrior

    def __init__(self, mixture: GaussianMixturePrior, latents: Latents):
        self.module, self._latents = mixture, latents

    def update(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        raise RuntimeError("The mixture is fitted at once, when the stage finishes.")

    def finish(self, data: Split) -> None:
        settings = self.module.settings
        latents = self._encode(data.head(settings.tuples), "encode")
        wanted = settings.components
        count = self._choose(latents, data) if wanted == "auto" else wanted
        if count > len(latents):
            raise BenchError(
                f"prior.components is {count}, but there are only {len(latents)} training tuples "
                "to fit the mixture to. Set it to at most that number, or to auto."
            )
        fitted = _fit(latents, count, settings.covariance)
        covariances = torch.from_numpy(fitted.covariances_)
        if settings.covariance == "diag":
            covariances = torch.diag_embed(covariances)
        self.module.weights.zero_()
        self.module.weights[:count] = torch.from_numpy(fitted.weights_)
        self.module.means[:count] = torch.from_numpy(fitted.means_)
        self.module.factors[:count] = torch.linalg.cholesky(covariances)

    def _choose(self, latents: Tensor, data: Split) -> int:
        """The number of components that gives validation tuples the highest mean log-density."""
        if self.validation is None:
            raise BenchError(
                "prior.components is auto, and there is no validation split to choose it on. Set "
                "a number."
            )
        held_out = self._encode(self.validation.to(data.device), "validation")
        some = latents[:_TRIAL_TUPLES]
        allowed = [k for k in _TRIED if k <= min(len(some), len(held_out))]
        if not allowed:
            raise BenchError(
                f"prior.components is auto, and the validation split has {len(held_out)} tuples; "
                f"at least {min(_TRIED)} are needed to choose it. Set a number, such as "
                "--set prior.components=1."
            )
        best, likelihood = allowed[0], -float("inf")
        for count in allowed:
            fitted = _fit(some, count, self.module.settings.covariance)
            reached = fitted.score(held_out.numpy())
            if reached <= likelihood:
                break
            best, likelihood = count, reached
        return best

    def _encode(self, split: Split, purpose: str) -> Tensor:
        """Latents `[N, D]` float64 on the CPU."""
        return self._latents.encode(split, "mixture", purpose).cpu().double()

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing was kept."""


def _fit(latents: Tensor, components: int, covariance: str) -> GaussianMixture:
    from sklearn.mixture import GaussianMixture  # a second of import that few runs need

    mixture = GaussianMixture(components, covariance_type=covariance, random_state=0)
    return mixture.fit(latents.numpy())

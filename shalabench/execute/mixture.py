"""A Gaussian mixture fitted to encodings: the cheap lower bound of every learned prior.

What a prior adds to it is what the prior's learning is worth (Ghosh et al. 2020 fit one to
deterministic autoencoders; pythae and MultiVae call it a sampler).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shalabench.api import Batch, Model, Rng, Split, Stage, derive_seed
from shalabench.config.training import PriorSettings
from shalabench.execute.priors import FittedPrior

_ENCODING_BATCH = 1000  # Tuples at a time.


class GaussianMixturePrior(FittedPrior):
    """A mixture of `settings.components` Gaussians, fitted by EM."""

    name = "mixture"
    reads = ("components", "covariance", "tuples")
    weights: Tensor
    means: Tensor
    factors: Tensor

    def __init__(self, dim: int, settings: PriorSettings):
        super().__init__(dim, settings)
        count = settings.components
        self.register_buffer("weights", torch.ones(count) / count)  # [K]
        self.register_buffer("means", torch.zeros(count, dim))  # [K, D]
        self.register_buffer("factors", torch.eye(dim).repeat(count, 1, 1))  # [K, D, D]

    def stage(self, model: Model) -> Stage:
        return FitMixture(self, model)

    def sample(self, n: int, rng: Rng) -> Tensor:
        thresholds = self.weights.cumsum(0)
        which = torch.searchsorted(thresholds, rng.uniform(n)).clamp(max=len(thresholds) - 1)
        noise = rng.normal(n, self.dim)
        z = self.means[which]
        for c, factor in enumerate(self.factors):
            z = torch.where((which == c)[:, None], z + noise @ factor.T, z)
        return z


class FitMixture(Stage):
    """Encodes training tuples and fits the mixture to them by EM; it has no updates.

    Args:
        mixture: What is fitted.
        model: Trained; it encodes.
    """

    name, steps, batch_size = "mixture", 0, 1
    sections = ("model", "train", "prior")
    module: GaussianMixturePrior

    def __init__(self, mixture: GaussianMixturePrior, model: Model):
        self.module, self._model = mixture, model

    def update(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        raise RuntimeError("The mixture is fitted at once, when the stage finishes.")

    @torch.no_grad()
    def finish(self, data: Split) -> None:
        from sklearn.mixture import GaussianMixture  # a second of import that few runs need

        settings, latents = self.module.settings, []
        for number, batch in enumerate(data.head(settings.tuples).batches(_ENCODING_BATCH)):
            seed = derive_seed("mixture", "encode")
            rng = Rng(seed, first=number * _ENCODING_BATCH, device=data.device)
            latents.append(self._model.encode(batch.views, rng).float().cpu())
        fitted = GaussianMixture(
            settings.components, covariance_type=settings.covariance, random_state=0
        ).fit(torch.cat(latents).double().numpy())
        covariances = torch.from_numpy(fitted.covariances_)
        if settings.covariance == "diag":
            covariances = torch.diag_embed(covariances)
        self.module.weights.copy_(torch.from_numpy(fitted.weights_))
        self.module.means.copy_(torch.from_numpy(fitted.means_))
        self.module.factors.copy_(torch.linalg.cholesky(covariances))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing was kept."""

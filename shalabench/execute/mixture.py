"""A Gaussian mixture fitted to a trained model's encodings, in place of its prior.

The cheap floor of every learned prior: what it adds to this is what the prior's learning is worth
(Ghosh et al. 2020 fit one to deterministic autoencoders; pythae and MultiVae call it a sampler).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from shalabench.api import Batch, DataSpec, Model, Rng, Settings, Split, Stage, Views, derive_seed
from shalabench.config.settings import PriorSettings

BUFFERS = "mixture_"  # how their names begin
_ENCODING_BATCH = 1000  # Tuples at a time.


def with_mixture(cls: type[Model], settings: PriorSettings) -> type[Model]:
    """A method whose joint samples come from a mixture fitted after its own training.

    Args:
        cls: A method that has `encode` and `decode`.
        settings: Of the mixture.
    """

    class Mixed(cls):
        __doc__ = f"{cls.__doc__} Its prior is a Gaussian mixture fitted to its encodings."

        @classmethod
        def skip(cls_, spec: DataSpec, config: Settings) -> str | None:
            if not all(callable(getattr(cls, name, None)) for name in ("encode", "decode")):
                return "It has no shared latent that a mixture could be fitted to (prior.kind=gmm)."
            if spec.missing:
                return "A mixture is fitted to encodings of complete tuples (prior.kind=gmm)."
            return super().skip(spec, config)

        def __init__(self, spec: DataSpec, config: Settings):
            super().__init__(spec, config)
            dim, count = _latent_dim(self), settings.components
            self.register_buffer("mixture_weights", torch.ones(count) / count)
            self.register_buffer("mixture_means", torch.zeros(count, dim))
            self.register_buffer("mixture_factors", torch.eye(dim).repeat(count, 1, 1))

        def stages(self) -> list[Stage]:
            return [*super().stages(), FitMixture(self, settings)]

        def prior(self, n: int, rng: Rng) -> Tensor:
            """Latents `[n, D]` of the fitted mixture."""
            thresholds = self.mixture_weights.cumsum(0)
            which = torch.searchsorted(thresholds, rng.uniform(n)).clamp(max=len(thresholds) - 1)
            noise = rng.normal(n, self.mixture_means.shape[1])
            z = self.mixture_means[which]
            for c, factor in enumerate(self.mixture_factors):
                z = torch.where((which == c)[:, None], z + noise @ factor.T, z)
            return z

        def sample(self, n: int, rng: Rng) -> Views:
            return self.decode(self.prior(n, rng.fork("shared")), rng)

    Mixed.__name__ = cls.__name__
    return Mixed


class FitMixture(Stage):
    """Encodes training tuples and fits the mixture to them by EM; it has no updates.

    Args:
        model: Trained, with the buffers `mixture_*`.
        settings: Of the mixture.
    """

    name, steps, batch_size = "mixture", 0, 1

    def __init__(self, model: Model, settings: PriorSettings):
        self._model, self._settings = model, settings

    def update(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        raise RuntimeError("The mixture is fitted at once, when the stage finishes.")

    @torch.no_grad()
    def finish(self, data: Split) -> None:
        from sklearn.mixture import GaussianMixture  # a second of import that few runs need

        latents = []
        for number, batch in enumerate(data.head(self._settings.tuples).batches(_ENCODING_BATCH)):
            seed = derive_seed("mixture", "encode")
            rng = Rng(seed, first=number * _ENCODING_BATCH, device=data.device)
            latents.append(self._model.encode(batch.views, rng).float().cpu())
        fitted = GaussianMixture(
            self._settings.components, covariance_type=self._settings.covariance, random_state=0
        ).fit(torch.cat(latents).double().numpy())
        covariances = torch.from_numpy(fitted.covariances_)
        if self._settings.covariance == "diag":
            covariances = torch.diag_embed(covariances)
        for name, value in (
            ("weights", torch.from_numpy(fitted.weights_)),
            ("means", torch.from_numpy(fitted.means_)),
            ("factors", torch.linalg.cholesky(covariances)),
        ):
            getattr(self._model, f"mixture_{name}").copy_(value)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing was kept."""


@torch.no_grad()
def _latent_dim(model: Model) -> int:
    """D, by encoding one blank tuple."""
    blank = {
        m.name: torch.zeros(1, *m.shape, dtype=torch.float if m.kind == "image" else torch.long)
        for m in model.spec.modalities
    }
    return model.encode(blank, Rng(0)).shape[1]

"""VAEs with one latent for all modalities, without their objective and joint posterior."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shalabench.api import Batch, DataSpec, GradientStage, Model, Rng, Settings, Stage, Views
from shalabench.nets.backbones import decode_each, decoder, encoder, initialise
from shalabench.nets.experts import stack_posteriors
from shalabench.nets.likelihoods import log_likelihood, view_of
from shalabench.nets.posteriors import LaplaceHead, NormalHead, Posterior
from shalabench.nets.stacked import apply_each


class SharedLatent(Model):
    """An encoder and a decoder for each modality, and N(0, I) as prior of the shared latent.

    A method derives from it and gives `loss` and `encode`. Then it can sample, translate and
    reconstruct. Its settings have at least `network`, `latent_dim`, `steps`, `batch_size` and
    `optimiser`.
    """

    max_given = None

    def __init__(
        self, spec: DataSpec, config: Settings, head: type[NormalHead | LaplaceHead] = NormalHead
    ):
        super().__init__(spec, config)
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        for m in spec.modalities:
            trunk = encoder(m, config.network)
            self.encoders[m.name] = nn.Sequential(trunk, head(trunk.features, config.latent_dim))
            self.decoders[m.name] = decoder(m, config.latent_dim, config.network)
        initialise(self, config.network)

    def stages(self) -> list[Stage]:
        c = self.config
        return [
            GradientStage(
                "vae", self.loss, self, c.optimiser, steps=c.steps, batch_size=c.batch_size
            )
        ]

    @abstractmethod
    def loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """The scalar to descend, a mean over the batch, and the terms to log."""

    @abstractmethod
    def encode(self, given: Views, rng: Rng) -> Tensor:
        """One sample `[B, D]` of the posterior of the given modalities."""

    def experts(self, views: Views) -> Posterior:
        """The unimodal posteriors stacked, batch shape `[M, B, D]`, in the order of `views`."""
        networks = [self.encoders[self.spec[name].name] for name in views]
        return stack_posteriors(apply_each(networks, list(views.values())))

    def log_likelihoods(self, views: Views, z: Tensor | Sequence[Tensor]) -> Tensor:
        """lambda_m log p(x_m | z) of all modalities in nats, `[M, ..., B]`.

        Args:
            views: All modalities, `[B, ...]` each.
            z: Latents `[..., B, D]`, of all modalities or of each.
        """
        modalities = self.spec.modalities
        latents = [z] * len(modalities) if isinstance(z, Tensor) else z
        outputs = decode_each([self.decoders[m.name] for m in modalities], latents)
        densities = [
            m.weight * log_likelihood(m, output, views[m.name])
            for m, output in zip(modalities, outputs, strict=True)
        ]
        return torch.stack(densities)

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Latents `[n, D]` of N(0, I)."""
        return rng.normal(n, self.config.latent_dim)

    def decode(self, z: Tensor, rng: Rng) -> Views:
        """Decoder means of all modalities at latents `[n, D]`; `rng` is not used."""
        return self._views(z, self.spec.names)

    def sample(self, n: int, rng: Rng) -> Views:
        return self.decode(self.prior(n, rng.fork("shared")), rng)

    def translate(self, given: Views, targets: Sequence[str], rng: Rng) -> Views:
        return self._views(self.encode(given, rng.fork("shared")), targets)

    def reconstruct(self, views: Views, rng: Rng) -> Views:
        return self.translate(views, self.spec.names, rng)

    def _views(self, z: Tensor, targets: Sequence[str]) -> Views:
        return {n: view_of(self.spec[n], self.decoders[self.spec[n].name](z)) for n in targets}


def own_losses(names: Sequence[str], log_likelihoods: Tensor, there: Tensor) -> dict[str, Tensor]:
    """The terms to log: minus the mean log-likelihood of each modality over tuples that have it.

    Args:
        names: Names of the M modalities.
        log_likelihoods: `[M, B]`.
        there: `[M, B]` bool.
    """
    sums = -log_likelihoods.where(there, 0.0).sum(1)
    means = sums / there.sum(1).clamp(min=1)
    return dict(zip((f"nll_{name}" for name in names), means, strict=True))


def presence(batch: Batch, modalities: int) -> Tensor:
    """Whether each view of each tuple is there, `[M, B]` bool."""
    if batch.present is not None:
        return batch.present.T
    return torch.ones(modalities, len(batch), dtype=torch.bool, device=batch.index.device)

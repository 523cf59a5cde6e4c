"""The architectural inference model (section 3.3): all features fused into one posterior."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from shalabench.api import DataSpec, Rng, Views
from shalabench.nets.backbones import Network, decoder, encoder, initialise
from shalabench.nets.likelihoods import log_likelihood, view_of
from shalabench.nets.posteriors import NormalHead, draw, kl_to_standard
from shalabench.nets.stacked import apply_each


class Inference(nn.Module):
    """The networks of stage 1: features, the fused posterior, and decoders (eq. 2).

    h_i = I_i(x_i), h = fuse(h_1..h_M), q(z|X) = N(mu(h), V(h)), and p(x_i|z).

    Args:
        spec: The data's modalities.
        network: Family of the encoders and decoders.
        latent: D, size of the shared latent.
        feature: Size of each h_i.
        fusion: Width of the two layers of the fusion.
    """

    def __init__(self, spec: DataSpec, network: Network, latent: int, feature: int, fusion: int):
        super().__init__()
        self.spec = spec
        self.encoders = nn.ModuleDict()
        self.decoders = nn.ModuleDict()
        for modality in spec.modalities:
            trunk = encoder(modality, network)
            self.encoders[modality.name] = nn.Sequential(trunk, nn.Linear(trunk.features, feature))
            self.decoders[modality.name] = decoder(modality, latent, network)
        self.fuse = nn.Sequential(
            nn.Linear(feature * len(spec.modalities), fusion),
            nn.SiLU(),
            nn.Linear(fusion, fusion),
            nn.SiLU(),
        )
        self.head = NormalHead(fusion, latent)
        initialise(self, network)

    def features(self, views: Views) -> dict[str, Tensor]:
        """The deterministic features h_i `[B, F]` of the given modalities."""
        found = apply_each([self.encoders[self.spec[n].name] for n in views], list(views.values()))
        return dict(zip(views, found, strict=True))

    def posterior(self, features: dict[str, Tensor]) -> Normal:
        """q(z|X) with batch shape `[B, D]` from the features of all modalities."""
        stacked = torch.cat([features[name] for name in self.spec.names], dim=-1)
        fused = apply_each([self.fuse], [stacked])
        return apply_each([self.head], fused)[0]

    def decode(self, z: Tensor, targets: tuple[str, ...]) -> Views:
        """Decoder means of the targets at latents `[B, D]`."""
        return {n: view_of(self.spec[n], self.decoders[n](z)) for n in targets}

    def elbo(
        self, views: Views, beta: float | Tensor, rng: Rng
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the evidence lower bound, from one posterior sample, mean over the batch.

        Args:
            views: All modalities, `[B, ...]` each.
            beta: Factor of the KL divergence.
            rng: Noise of the posterior sample.

        Returns:
            The loss, and the terms to log in nats: minus the weighted log-likelihood of each
            modality, and the KL divergence.
        """
        posterior = self.posterior(self.features(views))
        z = draw(posterior, rng)[0]  # [B, D]
        outputs = apply_each(list(self.decoders.values()), [z] * len(self.decoders))
        terms = {
            f"nll_{m.name}": -m.weight * log_likelihood(m, output, views[m.name]).mean()
            for m, output in zip(self.spec.modalities, outputs, strict=True)
        }
        divergence = kl_to_standard(posterior).mean()
        return sum(terms.values()) + beta * divergence, terms | {"kl": divergence}

"""A separate autoencoder for each modality, the first stage of two-stage methods."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from shalabench.api import Batch, DataSpec, Rng, Split, Views
from shalabench.nets.backbones import Network, decoder, encoder, initialise
from shalabench.nets.likelihoods import log_likelihood, view_of
from shalabench.nets.posteriors import NormalHead, draw, kl_to_standard
from shalabench.nets.precision import widen
from shalabench.nets.stacked import apply_each

_ENCODING_BATCH = 1000  # Tuples at a time when the whole training split is encoded.


class UnimodalCoders(nn.Module):
    """A separate encoder and decoder for each modality.

    Args:
        spec: The data's modalities.
        network: Family of the networks.
        dim: D, size of each latent.
        variational: Whether the encoders give Gaussian posteriors; else they give points.
    """

    def __init__(self, spec: DataSpec, network: Network, dim: int, *, variational: bool):
        super().__init__()
        self.spec, self.dim, self.variational = spec, dim, variational
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        head = NormalHead if variational else nn.Linear
        for m in spec.modalities:
            trunk = encoder(m, network)
            self.encoders[m.name] = nn.Sequential(trunk, head(trunk.features, dim))
            self.decoders[m.name] = decoder(m, dim, network)
        initialise(self, network)

    def loss(self, batch: Batch, beta: float, rng: Rng) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum over modalities of -log p(x_m | z_m) + beta KL(q(z_m | x_m) || N(0, I)).

        The term of a modality is the mean over the tuples that have it, in nats. Points have no
        divergence. The parts of the sum are returned beside it.
        """
        there, terms, total = batch.present, {}, 0.0
        names, views = self.spec.names, batch.views
        codes = apply_each([self.encoders[n] for n in names], [views[n] for n in names])
        latents = [self._draw(code, rng.fork(n)) for n, code in zip(names, codes, strict=True)]
        outputs = apply_each([self.decoders[n] for n in names], latents)
        for column, (m, code) in enumerate(zip(self.spec.modalities, codes, strict=True)):
            weights = _weights(there, column)
            density = log_likelihood(m, outputs[column], views[m.name])  # [B]
            terms[f"nll_{m.name}"] = -m.weight * _mean(density, weights)
            total = total + terms[f"nll_{m.name}"]
            if self.variational:
                terms[f"kl_{m.name}"] = _mean(kl_to_standard(code), weights)
                total = total + beta * terms[f"kl_{m.name}"]
        return torch.as_tensor(total), terms

    def _draw(self, code: Any, rng: Rng) -> Tensor:
        return draw(code, rng)[0] if self.variational else code

    def encode(self, views: Views) -> Tensor:
        """Latents `[B, M, D]` (posterior means), 0 for modalities without a view."""
        n = len(next(iter(views.values())))
        device = next(self.parameters()).device
        found = {self.spec[name].name: self._point(name, x) for name, x in views.items()}
        blank = torch.zeros(n, self.dim, device=device)
        return torch.stack([found.get(name, blank) for name in self.spec.names], 1)

    def _point(self, name: str, x: Tensor) -> Tensor:
        code = self.encoders[name](x)
        return code.mean if self.variational else widen(code)

    def given(self, views: Collection[str], device: torch.device) -> Tensor:
        """Whether each modality is among the views, `[M]` bool."""
        return torch.stack([torch.full((), n in views, device=device) for n in self.spec.names])

    def decode(self, z: Tensor, targets: Iterable[str]) -> Views:
        """Decoder means of the targets at latents `[B, M, D]`."""
        made = {}
        for name in targets:
            modality = self.spec[name]  # a KeyError names an unknown modality
            column = self.spec.modalities.index(modality)
            made[name] = view_of(modality, self.decoders[name](z[:, column]))
        return made

    def reconstruct(self, views: Views, rng: Rng) -> Views:
        """Decoder means at posterior samples, or at the encoders' points."""
        made = {}
        for name, x in views.items():
            z = self._draw(self.encoders[self.spec[name].name](x), rng.fork(name))
            made[name] = view_of(self.spec[name], self.decoders[name](z))
        return made

    @torch.no_grad()
    def encode_split(self, data: Split) -> tuple[Tensor, Tensor | None]:
        """Latents `[N, M, D]` of a split, and `[N, M]` bool if tuples are incomplete."""
        was_training = self.training
        self.eval()
        batches = list(data.batches(_ENCODING_BATCH))
        latents = torch.cat([self.encode(batch.views) for batch in batches])
        there = [batch.present for batch in batches]
        self.train(was_training)
        return latents, None if there[0] is None else torch.cat(there)


def _weights(there: Tensor | None, column: int) -> Tensor | None:
    return None if there is None else there[:, column]


def _mean(x: Tensor, there: Tensor | None) -> Tensor:
    """Mean of `[B]` over the items that are there; 0 if there are none."""
    return x.mean() if there is None else x.where(there, 0.0).sum() / there.sum().clamp(min=1)

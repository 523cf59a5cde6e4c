"""MMVM (Sutter et al., Unity by Diversity, NeurIPS 2024).

One VAE for each modality. Only their prior, the mixture of all modalities' posteriors, links them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from shalabench.api import (
    Batch,
    DataSpec,
    GradientStage,
    Model,
    Now,
    Optimiser,
    Rng,
    Search,
    Settings,
    Stage,
    Views,
    register_model,
    rise,
    setting,
)
from shalabench.nets.backbones import Network, decode_each, decoder, encoder, initialise
from shalabench.nets.experts import draw_mixture, mixture_log_prob, stack_posteriors
from shalabench.nets.likelihoods import log_likelihood, view_of
from shalabench.nets.posteriors import NormalHead, draw, kl_to_standard
from shalabench.nets.private import draw_experts
from shalabench.nets.stacked import apply_each

_CODE = "MMVM code, ModelConfig.py, mv_mixedprior_vae.py (reproduction/mmvm.md)"
_END = 1e-10  # Last value of the annealed weight; the code's guard against log 0.


class MMVMConfig(Settings):
    """Settings; the defaults are those of the published code, for a translated PolyMNIST."""

    network: Network = Network()
    latent_dim: int = setting(
        256,
        "D, size of each modality's latent.",
        _CODE,
        search=Search(choices=(16, 32, 64, 128)),
        ge=1,
    )
    beta: float = setting(
        1.0, "Factor of the divergences.", _CODE, search=Search(0.1, 10, log=True), ge=0
    )
    divergence: Literal["pairwise", "sampled"] = setting(
        "pairwise",
        "KL(q_m || h): its upper bound mean_j KL(q_m || q_j) in closed form, or by samples.",
        f"{_CODE}; the divergence itself is at most log M and hardly binds",
    )
    samples: int = setting(1, "Draws of each posterior.", _CODE, ge=1)
    anneal: float = setting(
        1.28,
        "Multiple of the updates over which the weight of N(0, I) falls to 1e-10; 0 is none.",
        f"{_CODE}: 300,000 updates",
        search=Search(choices=(0.0, 0.64, 1.28)),  # none, half of the published, the published
        stretches=True,
        ge=0,
    )
    steps: int = setting(
        234_000, "Updates.", f"{_CODE}: 500 epochs of 60,000 at 128", counts_updates=True, ge=1
    )
    batch_size: int = setting(128, "Tuples an update.", _CODE, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=5e-4), "Of the training.", _CODE, search=True)


@register_model("mmvm", paper="Sutter et al.: Unity by Diversity (NeurIPS 2024)", version=1)
class MMVM(Model):
    """A latent for each modality, and one prior h(z|X) = mean_j q_j(z|x_j) for all of them.

    That prior needs data, and the authors evaluate no joint samples (their code plots decoded draws
    of N(0, I)). So the model has neither a prior nor joint samples here. Given several modalities,
    h is the mixture of their posteriors; the authors condition on one modality.
    """

    Config = MMVMConfig
    max_given = None
    incomplete = True

    def __init__(self, spec: DataSpec, config: MMVMConfig):
        super().__init__(spec, config)
        self.encoders, self.decoders = nn.ModuleDict(), nn.ModuleDict()
        for m in spec.modalities:
            trunk = encoder(m, config.network)
            head = NormalHead(trunk.features, config.latent_dim)
            self.encoders[m.name] = nn.Sequential(trunk, head)
            self.decoders[m.name] = decoder(m, config.latent_dim, config.network)
        initialise(self, config.network)

    def stages(self) -> list[Stage]:
        c = self.config
        return [
            GradientStage(
                "vae", self._loss, self, c.optimiser, steps=c.steps, batch_size=c.batch_size
            )
        ]

    def _loss(self, batch: Batch, rng: Rng, step: Now) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the bound, summed over the present modalities, mean over the batch.

        sum_m -lambda_m log p(x_m | z_m) + beta [a KL(q_m || N(0, I)) + (1 - a) KL(q_m || h)],
        where h is the mixture of the present modalities' posteriors, and a falls from 1 to 0.
        """
        views, present = batch.views, batch.present
        names = self.spec.names
        found = apply_each([self.encoders[n] for n in names], [views[n] for n in names])
        q = stack_posteriors(found)  # [M, B, D]
        z = draw_experts(q, rng.normal, self.config.samples)  # [M, K, B, D]
        if present is None:
            present = torch.ones(z.shape[2], len(z), dtype=torch.bool, device=z.device)
        there = present.T  # [M, B]
        outputs = decode_each([self.decoders[n] for n in names], z)  # M times [K, B, ...]
        fidelity = [
            -m.weight * log_likelihood(m, output, views[m.name]).mean(0)
            for m, output in zip(self.spec.modalities, outputs, strict=True)
        ]  # M times [B]
        nll = torch.stack(fidelity).where(there, 0.0)
        apart = self.divergence(q, z, present).where(there, 0.0)  # [M, B]
        rate = kl_to_standard(q).where(there, 0.0)
        a = self.standard_weight(step)
        loss = (nll + self.config.beta * (a * rate + (1 - a) * apart)).sum(0).mean()
        counts = there.sum(1).clamp(min=1)
        terms = dict(zip((f"nll_{n}" for n in names), nll.sum(1) / counts, strict=True))
        return loss, terms | {"kl": rate.sum(0).mean(), "kl_mixture": apart.sum(0).mean()}

    def divergence(self, q: Normal, z: Tensor, present: Tensor) -> Tensor:
        """KL(q_m || h), or its bound, in nats.

        Args:
            q: The posteriors, batch shape `[M, B, D]`.
            z: Draws of each, `[M, K, B, D]`.
            present: `[B, M]` bool, the posteriors that make up h.

        Returns:
            `[M, B]`; the value of an absent modality m means nothing.
        """
        own = Normal(q.mean[:, None], q.scale[:, None], validate_args=False)  # [M, 1, B, D]
        if self.config.divergence == "sampled":
            return (own.log_prob(z).sum(-1) - mixture_log_prob(q, z, present)).mean(1)
        pairs = kl_divergence(own, q).sum(-1)  # [M, M, B]
        return pairs.where(present.T, 0.0).sum(1) / present.sum(1)

    def standard_weight(self, step: Now) -> float | Tensor:
        """The weight of N(0, I) at an update; it falls geometrically to 1e-10."""
        length = self.config.anneal * self.config.steps
        return _END ** rise(step - 1, length) if length else 0.0

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, D]` of the mixture of the given modalities' posteriors."""
        return draw_mixture({n: self._posterior(n, x) for n, x in given.items()}, rng)

    def decode(self, z: Tensor, rng: Rng) -> Views:
        """Decoder means of all modalities at one latent `[n, D]`; `rng` is not used."""
        return {name: self._decode(name, z) for name in self.spec.names}

    def translate(self, given: Views, targets: Sequence[str], rng: Rng) -> Views:
        """Targets at a sample of the mixture; a given target at a sample of its posterior."""
        z = self.encode(given, rng.fork("shared"))
        own = {
            n: draw(self._posterior(n, given[n]), rng.fork("own", n))[0]
            for n in targets
            if n in given
        }
        return {name: self._decode(name, own.get(name, z)) for name in targets}

    def reconstruct(self, views: Views, rng: Rng) -> Views:
        return self.translate(views, self.spec.names, rng)

    def _posterior(self, name: str, x: Tensor) -> Normal:
        return self.encoders[self.spec[name].name](x)

    def _decode(self, name: str, z: Tensor) -> Tensor:
        return view_of(self.spec[name], self.decoders[name](z))

"""MMVAE+ (Palumbo, Daunhawer, Vogt, ICLR 2023).

A mixture of experts over a shared latent, private latents, and learned auxiliary priors that keep
the private latents out of the cross terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from harness.api import (
    Batch,
    DataSpec,
    GradientStage,
    Model,
    Optimiser,
    Rng,
    Settings,
    Stage,
    Views,
    register_model,
    setting,
)
from nets.backbones import Network, initialise
from nets.importance import doubly_reparametrised, importance_bound
from nets.private import Family, PrivateExperts, private_networks

_CODE = "MMVAE+ code, 2024 release (recipes.md section 4)"


class MMVAEPlusConfig(Settings):
    """Settings, with those of the published PolyMNIST experiment as defaults."""

    network: Network = Network()
    shared_dim: int = setting(32, "Size of the shared latent z.", _CODE, ge=1)
    private_dim: int = setting(32, "Size of each private latent w_m.", _CODE, ge=1)
    family: Family = setting("laplace", "Of posteriors and priors.", _CODE)
    auxiliary_start: float = setting(
        0.0, "Raw scale of r_n at the start: a log variance if normal, a logit if laplace.", _CODE
    )
    importance_samples: int = setting(1, "K, samples of each expert.", _CODE, ge=1)
    estimator: Literal["iwae", "dreg", "dreg-published"] = setting(
        "iwae",
        "Gradient: plain, doubly reparametrised, or the code's without the detachment.",
        f"{_CODE}; trap 5",
    )
    beta: float = setting(2.5, "Factor of the divergence terms.", _CODE, ge=0)
    joint_private: Literal["independent", "shared"] = setting(
        "independent",
        "Private latents of a joint sample: one each, or one for all.",
        f"{_CODE}; trap 7",
    )
    steps: int = setting(117_000, "Updates.", f"{_CODE}: 250 epochs of 60,000 at 128", ge=1)
    batch_size: int = setting(128, "Tuples an update.", _CODE, ge=1)
    optimiser: Optimiser = Optimiser(lr=1e-3, amsgrad=True)


@register_model("mmvae+", paper="Palumbo, Daunhawer, Vogt: MMVAE+ (ICLR 2023)", version=1)
class MMVAEPlus(Model):
    """Shared and private latents; a private latent reaches another modality's decoder never."""

    Config = MMVAEPlusConfig
    max_given = None
    incomplete = True

    def __init__(self, spec: DataSpec, config: MMVAEPlusConfig):
        super().__init__(spec, config)
        self.shared, self.private, self.decoders = private_networks(
            spec, config.network, config.family, config.shared_dim, config.private_dim
        )
        # r_n: zero mean and a learned scale; the method needs it learned (trap 6).
        shape = len(spec.modalities), config.private_dim
        self.auxiliary = nn.Parameter(torch.full(shape, config.auxiliary_start))
        initialise(self, config.network)

    @property
    def _experts(self) -> PrivateExperts:
        parts = self.shared, self.private, self.decoders, self.auxiliary
        return PrivateExperts(self.spec, self.config.family, *parts)

    def stages(self) -> list[Stage]:
        c = self.config
        return [
            GradientStage(
                "vae", self._loss, self, c.optimiser, steps=c.steps, batch_size=c.batch_size
            )
        ]

    def _loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        c, present = self.config, batch.present
        log_w, terms, draws = self._experts.log_weights(
            batch.views,
            rng,
            self._experts.standard_log_prob,
            samples=c.importance_samples,
            beta=c.beta,
            present=present,
            detach=c.estimator == "dreg",
        )
        if c.estimator == "iwae":
            bound = importance_bound(log_w, present)
        else:
            bound = doubly_reparametrised(log_w, draws, present)
        # The published code sums over the batch; Adam's update is the same but for its epsilon.
        return -bound, terms

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, Dz]` of the mixture of the given modalities' experts."""
        return self._experts.encode(given, rng)

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Shared latents `[n, Dz]` of the fixed prior."""
        return self._experts.noise(rng)(n, self.config.shared_dim)

    def decode(self, z: Tensor, rng: Rng) -> Views:
        """Decoder means at shared latents `[n, Dz]`, private latents from their prior."""
        one = self.config.joint_private == "shared"
        return {
            name: self._experts.view(
                name, z, self._prior_private(len(z), rng, "all" if one else name)
            )
            for name in self.spec.names
        }

    def sample(self, n: int, rng: Rng) -> Views:
        return self.decode(self.prior(n, rng.fork("shared")), rng)

    def translate(self, given: Views, targets: Sequence[str], rng: Rng) -> Views:
        z = self.encode(given, rng.fork("shared"))
        return self._experts.decode(z, targets, given, rng)

    def reconstruct(self, views: Views, rng: Rng) -> Views:
        return self.translate(views, self.spec.names, rng)

    def _prior_private(self, n: int, rng: Rng, name: str) -> Tensor:
        return self._experts.private_prior(n, rng, name)

"""MMVAE+ (Palumbo, Daunhawer, Vogt, ICLR 2023).

A mixture of experts over a shared latent, and a private latent for each modality. Learned auxiliary
priors keep the private latents out of the cross-modal terms.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from shalabench.api import (
    Batch,
    GradientStage,
    Optimiser,
    Rng,
    Search,
    Settings,
    Stage,
    Views,
    register_model,
    setting,
)
from shalabench.nets.backbones import Network
from shalabench.nets.experts import Experts
from shalabench.nets.private import Family, PrivateLatents

_CODE = "MMVAE+ code, 2024 release (reproduction/mmvae-plus.md)"


class MMVAEPlusConfig(Settings):
    """Settings; the defaults are those of the published PolyMNIST experiment."""

    network: Network = Network()
    shared_dim: int = setting(
        32, "Size of the shared latent z.", _CODE, search=Search(choices=(16, 32, 64)), ge=1
    )
    private_dim: int = setting(
        32, "Size of each private latent w_m.", _CODE, search=Search(choices=(16, 32, 64)), ge=1
    )
    family: Family = setting("laplace", "Of posteriors and priors.", _CODE)
    auxiliary_start: float = setting(
        0.0, "Raw scale of r_n at the start: a log variance if normal, a logit if laplace.", _CODE
    )
    importance_samples: int = setting(1, "K, samples of each expert.", _CODE, ge=1)
    experts: Experts = setting(
        "all",
        "Experts that each tuple samples: all, or a number of them, drawn at random.",
        _CODE,
    )
    estimator: Literal["iwae", "dreg"] = setting(
        "iwae",
        "Gradient: plain, which that of the code's 'dreg' equals, or doubly reparametrised.",
        f"{_CODE}; trap 5, and its hook is on a copy that the loss does not see",
    )
    beta: float = setting(
        2.5, "Factor of the divergence terms.", _CODE, search=Search(0.1, 10, log=True), ge=0
    )
    joint_private: Literal["independent", "shared"] = setting(
        "independent",
        "Private latents of a joint sample: one each, or one for all.",
        f"{_CODE}; trap 7",
    )
    steps: int = setting(
        117_000, "Updates.", f"{_CODE}: 250 epochs of 60,000 at 128", counts_updates=True, ge=1
    )
    batch_size: int = setting(128, "Tuples an update.", _CODE, ge=1)
    optimiser: Optimiser = setting(
        Optimiser(lr=1e-3, amsgrad=True), "Of the training.", _CODE, search=True
    )


@register_model("mmvae+", paper="Palumbo, Daunhawer, Vogt: MMVAE+ (ICLR 2023)", version=1)
class MMVAEPlus(PrivateLatents):
    """Shared and private latents; a private latent reaches only its modality's decoder."""

    Config = MMVAEPlusConfig

    def stages(self) -> list[Stage]:
        c = self.config
        return [
            GradientStage(
                "vae", self._loss, self, c.optimiser, steps=c.steps, batch_size=c.batch_size
            )
        ]

    def _loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        return self.importance_loss(batch, rng, self.standard_log_prob)

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Shared latents `[n, Dz]` of the fixed prior."""
        return self.noise(rng)(n, self.config.shared_dim)

    def decode(self, z: Tensor, rng: Rng) -> Views:
        if self.config.joint_private == "independent":
            return super().decode(z, rng)
        w = self.private_prior(len(z), rng, "all")
        return {name: self.view(name, z, w) for name in self.spec.names}

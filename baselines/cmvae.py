"""CMVAE (Palumbo, Laguna, Chopard, Vogt, ICLR 2024).

MMVAE+ with a mixture of clusters as prior of the shared latent. In D-CMVAE, diffusion decoders
generate the images, conditioned on those of the autoencoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from shalabench.api import (
    Batch,
    DataSpec,
    GradientStage,
    Optimiser,
    Rng,
    Search,
    Settings,
    Split,
    Stage,
    Views,
    derive_seed,
    register_model,
    setting,
)
from shalabench.nets.backbones import Network
from shalabench.nets.clusters import ClusterPrior
from shalabench.nets.experts import Experts
from shalabench.nets.private import Family, PrivateLatents, draw_experts
from shalabench.nets.refiner import RefinerConfig, Refiners, images

_CODE = "CMVAE code, 2024 release (reproduction/cmvae.md)"
_ENCODING_BATCH = 500  # Tuples at a time when clusters are pruned.


class CMVAEConfig(Settings):
    """Settings; the defaults are those of the published PolyMNIST experiment."""

    network: Network = Network()
    shared_dim: int = setting(
        32, "Size of the shared latent z.", _CODE, search=Search(choices=(16, 32, 64)), ge=1
    )
    private_dim: int = setting(
        32, "Size of each private latent w_m.", _CODE, search=Search(choices=(16, 32, 64)), ge=1
    )
    clusters: int = setting(
        40, "C, clusters before the pruning.", _CODE, search=Search(choices=(10, 20, 40)), ge=1
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
    prune: bool = setting(True, "Drop clusters after the training.", _CODE)
    prune_items: int = setting(
        5000,
        "Training tuples that the pruning looks at.",
        "our choice: the code takes test tuples, but the test split chooses nothing here",
        ge=1,
    )
    decoders: Literal["vae", "diffusion"] = setting(
        "vae",
        "Of images: the autoencoder's, or diffusion decoders conditioned on its output (D-CMVAE).",
        f"{_CODE}, which has no diffusion; the paper's D-CMVAE has, on CUB",
    )
    steps: int = setting(
        117_000, "Updates.", f"{_CODE}: 250 epochs of 60,000 at 128", counts_updates=True, ge=1
    )
    batch_size: int = setting(128, "Tuples an update.", _CODE, ge=1)
    optimiser: Optimiser = setting(
        Optimiser(lr=1e-3, amsgrad=True), "Of the training.", _CODE, search=True
    )
    diffusion: RefinerConfig = RefinerConfig()


@register_model(
    "cmvae", paper="Palumbo, Laguna, Chopard, Vogt: CMVAE and D-CMVAE (ICLR 2024)", version=1
)
class CMVAE(PrivateLatents):
    """MMVAE+ with a learned mixture as shared prior, whose number of clusters is pruned."""

    Config = CMVAEConfig

    def __init__(self, spec: DataSpec, config: CMVAEConfig):
        super().__init__(spec, config)
        self.clusters = ClusterPrior(config.clusters, config.shared_dim, config.family == "laplace")
        self.refiners = Refiners(spec, config.diffusion) if self._refines else None

    @classmethod
    def skip(cls, spec: DataSpec, config: CMVAEConfig) -> str | None:
        if config.decoders == "diffusion" and not images(spec):
            return "Diffusion decoders are for images, and the data have none."
        odd = [m.name for m in images(spec) if m.shape[1] != m.shape[2]]
        if config.decoders == "diffusion" and odd:
            return f"Diffusion decoders are for squares, and {', '.join(odd)} are none."
        return super().skip(spec, config)

    @property
    def _refines(self) -> bool:
        return self.config.decoders == "diffusion"

    def stages(self) -> list[Stage]:
        c = self.config
        first = GradientStage(
            "vae",
            self._loss,
            self,
            c.optimiser,
            steps=c.steps,
            batch_size=c.batch_size,
            finish=self._prune if c.prune else None,
        )
        if not self._refines:
            return [first]
        second = GradientStage(
            "diffusion",
            self._diffusion_loss,
            self.refiners,
            c.diffusion.optimiser,
            steps=c.diffusion.steps,
            batch_size=c.diffusion.batch_size,
            ema=c.diffusion.ema,
        )
        return [first, second]

    def _loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        loss, terms = self.importance_loss(batch, rng, self.clusters.log_prob)
        log_pi = self.clusters.log_pi
        perplexity = (-(log_pi.exp() * log_pi).sum()).exp()  # effective number of clusters under pi
        return loss, terms | {"clusters": perplexity}

    @torch.no_grad()
    def _prune(self, data: Split) -> None:
        """Drop clusters by the first `prune_items` training tuples, with one draw of each expert.

        The published code uses held-out tuples of the test split.
        """
        found, marks, seed = [], [], derive_seed("pruning")
        for batch in data.head(self.config.prune_items).batches(_ENCODING_BATCH):
            rng = Rng(seed, first=int(batch.index[0]), device=data.device)
            q, _ = self.posteriors(batch.views)
            z = draw_experts(q, self.noise(rng), 1)[:, 0]  # [M, B, Dz]
            found.append(self.clusters.component_log_prob(z))
            marks.append(batch.present)
        present = None if marks[0] is None else torch.cat(marks)
        self.clusters.prune(torch.cat(found, 1), self.config.beta, present)

    def _diffusion_loss(
        self, batch: Batch, rng: Rng, step: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Denoising error, conditioned on the reconstruction of each image from itself."""
        views, coarse = batch.views, {}
        with torch.no_grad():
            for m in images(self.spec):
                own, noise = {m.name: views[m.name]}, rng.fork("coarse", m.name)
                z = self.encode(own, noise.fork("shared"))
                coarse |= super().decode_given(z, [m.name], own, noise)
        present = batch.present
        return self.refiners.loss(views, coarse, rng.fork("diffusion"), present)

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Shared latents `[n, Dz]` from the mixture of the clusters that were kept."""
        return self.clusters.draw(n, rng)

    def decode_given(self, z: Tensor, targets: Sequence[str], given: Views, rng: Rng) -> Views:
        coarse = super().decode_given(z, targets, given, rng)
        return self.refiners.refine(coarse, rng.fork("diffusion")) if self._refines else coarse

    def decode_all(self, z: Tensor, rng: Rng) -> Views:
        coarse = super().decode_all(z, rng)
        return self.refiners.refine(coarse, rng.fork("diffusion")) if self._refines else coarse

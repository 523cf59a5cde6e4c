"""CRMVAE (Suzuki, Matsuo, submitted to ICLR 2023): a product of experts that all reconstruct."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import kl_divergence

from shalabench.api import Batch, Optimiser, Rng, Search, Settings, Views, register_model, setting
from shalabench.nets.backbones import Network
from shalabench.nets.pooling import pool_all
from shalabench.nets.posteriors import draw, kl_to_standard
from shalabench.nets.shared_latent import SharedLatent, own_losses, presence

_CODE = "MultiVae's PolyMNIST script of commit 12109df (reproduction/crmvae.md)"


class CRMVAEConfig(Settings):
    """Settings; the defaults are those of MultiVae's PolyMNIST experiment."""

    network: Network = setting(Network(family="conv"), "Encoders and decoders.", _CODE)
    latent_dim: int = setting(
        512, "D, size of the latent.", _CODE, search=Search(choices=(16, 32, 64, 128)), ge=1
    )
    beta: float = setting(
        1.0, "Factor of the divergences.", _CODE, search=Search(0.1, 10, log=True), ge=0
    )
    steps: int = setting(
        105_000, "Updates.", f"{_CODE}: 500 epochs of 210", counts_updates=True, ge=1
    )
    batch_size: int = setting(256, "Tuples an update.", _CODE, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=5e-4), "Of the training.", _CODE, search=True)


@register_model("crmvae", paper="Suzuki, Matsuo: CRMVAE (submitted to ICLR 2023)", version=1)
class CRMVAE(SharedLatent):
    """q(z|X) is the product of the experts without N(0, I). Each expert decodes its view too."""

    Config = CRMVAEConfig
    incomplete = True

    def loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the objective as in MultiVae's code, mean over the batch.

        sum_m -lambda_m [log p(x_m | z) + log p(x_m | z_m)] / (2 M + 2)
        + beta [KL(q || N(0, I)) + sum_m KL(q || q_m)] / (M + 1), with z ~ q and z_m ~ q_m. M is the
        number of the tuple's present modalities, over which m goes.
        """
        names = self.spec.names
        experts = self.experts(batch.views)  # [M, B, D]
        there = presence(batch, len(names))
        q = pool_all(experts, "product", there=there)  # [B, D]
        z = draw(q, rng)[0]
        noise = rng.fork("unimodal").normal(len(batch), len(names), z.shape[-1]).transpose(0, 1)
        own = experts.mean + experts.scale * noise  # [M, B, D]
        latents = [torch.stack([z, z_m]) for z_m in own]
        density = self.log_likelihoods(batch.views, latents).where(there[:, None], 0.0)
        rate = kl_to_standard(q)  # [B]
        apart = kl_divergence(q, experts).sum(-1).where(there, 0.0).sum(0)  # [B]
        count = there.sum(0) + 1
        divergence = self.config.beta * (rate + apart) / count
        loss = (divergence - density.sum((0, 1)) / (2 * count)).mean()
        terms = own_losses(names, density[:, 0], there)
        return loss, terms | {"kl": rate.mean(), "kl_unimodal": apart.mean()}

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, D]` of the product of the given modalities' experts."""
        return draw(pool_all(self.experts(given), "product"), rng)[0]

"""MVAE (Wu and Goodman, NeurIPS 2018): a product of experts, trained on several subsets."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from shalabench.api import (
    Batch,
    Now,
    Optimiser,
    Rng,
    Search,
    Settings,
    Views,
    register_model,
    rise,
    setting,
)
from shalabench.nets.backbones import Network
from shalabench.nets.experts import product_of_all, product_of_experts
from shalabench.nets.posteriors import draw, kl_to_standard
from shalabench.nets.shared_latent import SharedLatent, own_losses, presence

_CODE = "MoPoE code, --method poe, job_polymnist (reproduction/mvae.md)"


class MVAEConfig(Settings):
    """Settings; the defaults are those of the published PolyMNIST experiment."""

    network: Network = setting(Network(family="conv"), "Encoders and decoders.", _CODE)
    latent_dim: int = setting(
        512, "D, size of the latent.", _CODE, search=Search(choices=(16, 32, 64, 128)), ge=1
    )
    beta: float = setting(
        2.5, "Factor of the divergences.", _CODE, search=Search(0.1, 10, log=True), ge=0
    )
    warmup: float = setting(
        0.0,
        "Part of the updates over which beta rises linearly from 0.",
        _CODE,
        stretches=True,
        ge=0,
        le=1,
    )
    prior_expert: Literal["always", "several"] = setting(
        "always",
        "Multiply N(0, I) into every product, or only into those of several experts.",
        "Wu and Goodman 2018 and their code; 'several' is MVTCAE's code (trap 11)",
    )
    random_subsets: int = setting(
        0,
        "k, random subsets besides the full set and the single modalities.",
        _CODE,
        search=Search(choices=(0, 1, 2)),  # Wu and Goodman 2018 take random subsets
        ge=0,
    )
    single_weights: Literal["modality", "one"] = setting(
        "modality",
        "Weight of the log-likelihood in an ELBO of one modality: lambda_m, or 1.",
        "our choice; 'one' is MoPoE's code, whose look-up is commented out. It matters only if "
        "weights are not 1 (reproduction/mvae.md)",
    )
    steps: int = setting(
        70_200, "Updates.", f"{_CODE}: 300 epochs of 234", counts_updates=True, ge=1
    )
    batch_size: int = setting(256, "Tuples an update.", _CODE, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=5e-4), "Of the training.", _CODE, search=True)


@register_model("mvae", paper="Wu, Goodman: MVAE (NeurIPS 2018)", version=1)
class MVAE(SharedLatent):
    """q(z|X) is the product of the unimodal posteriors and N(0, I)."""

    Config = MVAEConfig
    incomplete = True

    def loss(self, batch: Batch, rng: Rng, step: Now) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the sum of the subsets' ELBOs (section 2.2), mean over the batch.

        The subsets are all present modalities, each single one, and k random ones. A modality is
        encoded once, and decoded in one call at the latents of all subsets that contain it.
        """
        c, names = self.config, self.spec.names
        q = self.experts(batch.views)  # [M, B, D]
        there = presence(batch, len(names))
        members = self._subsets(there, rng.fork("subsets"))  # [S, B, M]
        products = product_of_experts(q, members, self._prior_power(members))  # [S, B, D]
        noise = rng.normal(len(batch), len(members), c.latent_dim).transpose(0, 1)
        z = products.mean + products.scale * noise
        latents = [_rows(z, m, len(names)) for m in range(len(names))]
        densities = self.log_likelihoods(batch.views, latents)  # [M, R, B]
        fidelity, own = 0.0, []
        for m, (name, density) in enumerate(zip(names, densities, strict=True)):
            if c.single_weights == "one":
                weight = self.spec[name].weight
                density = torch.cat([density[:1], density[1:2] / weight, density[2:]])
            density = density.where(_rows(members[..., m], m, len(names)), 0.0)
            fidelity = fidelity + density.sum(0)
            own.append(density[0])
        rates = kl_to_standard(products).where(members.any(-1), 0.0)  # [S, B]
        factor = rise(step, c.warmup * c.steps)
        loss = (factor * c.beta * rates.sum(0) - fidelity).mean()
        return loss, own_losses(names, torch.stack(own), there) | {"kl": rates[0].mean()}

    def _subsets(self, there: Tensor, rng: Rng) -> Tensor:
        """`[S, B, M]` bool from `[M, B]`: all present modalities, single ones, random subsets."""
        modalities, batch = there.shape
        single = torch.eye(modalities, dtype=torch.bool, device=there.device)[:, None]
        chosen = rng.uniform(batch, self.config.random_subsets, modalities).transpose(0, 1) < 0.5
        return torch.cat([there.T[None], single & there.T, chosen & there.T])

    def _prior_power(self, members: Tensor) -> Tensor:
        """Power of N(0, I) in each product, `[S, B]`; 1 for a product without experts."""
        if self.config.prior_expert == "always":
            return torch.ones(members.shape[:-1], device=members.device)
        return (members.sum(-1) != 1).float()

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, D]` of the product of the given modalities' experts."""
        prior = self.config.prior_expert == "always" or len(given) > 1
        return draw(product_of_all(self.experts(given), prior=float(prior)), rng)[0]


def _rows(x: Tensor, m: int, modalities: int) -> Tensor:
    """Rows of `[S, ...]` with modality m: all present, m alone, and the random subsets."""
    return torch.cat([x[:1], x[1 + m : 2 + m], x[1 + modalities :]])

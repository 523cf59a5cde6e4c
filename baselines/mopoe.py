"""MoPoE-VAE (Sutter, Daunhawer, Vogt, ICLR 2021): a mixture of the products of all subsets."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from shalabench.api import (
    Batch,
    DataSpec,
    Optimiser,
    Rng,
    Search,
    Settings,
    Views,
    register_model,
    setting,
)
from shalabench.nets.backbones import Network
from shalabench.nets.experts import (
    choose_components,
    pick,
    product_of_all,
    product_of_experts,
    sliced_components,
    subsets,
)
from shalabench.nets.posteriors import draw, kl_to_standard
from shalabench.nets.shared_latent import SharedLatent, own_losses, presence

_CODE = "MoPoE code, job_polymnist (reproduction/mopoe.md)"
_MOST = 10  # Modalities: 1,023 subsets.


class MoPoEConfig(Settings):
    """Settings; the defaults are those of the published PolyMNIST experiment."""

    network: Network = setting(Network(family="conv"), "Encoders and decoders.", _CODE)
    latent_dim: int = setting(
        512, "D, size of the latent.", _CODE, search=Search(choices=(16, 32, 64, 128)), ge=1
    )
    beta: float = setting(
        2.5, "Factor of the divergence.", _CODE, search=Search(0.1, 10, log=True), ge=0
    )
    components: Literal["random", "slices"] = setting(
        "random",
        "Subset of an item's sample: random, or by the item's position in the batch.",
        "the paper, eq. 5; 'slices' is the code's (reproduction/mopoe.md)",
    )
    steps: int = setting(
        70_200, "Updates.", f"{_CODE}: 300 epochs of 234", counts_updates=True, ge=1
    )
    batch_size: int = setting(256, "Tuples an update.", _CODE, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=5e-4), "Of the training.", _CODE, search=True)


@register_model("mopoe", paper="Sutter, Daunhawer, Vogt: MoPoE (ICLR 2021)", version=1)
class MoPoE(SharedLatent):
    """q(z|X) is the mixture, over all subsets, of the product of a subset's experts.

    N(0, I) is a factor of the full set's product only, as in the published code.
    """

    Config = MoPoEConfig
    incomplete = True

    @classmethod
    def skip(cls, spec: DataSpec, config: Settings) -> str | None:
        count = len(spec.modalities)
        if count > _MOST:
            return f"It takes all 2^M subsets of modalities: M is {count}, at most {_MOST}."
        return None

    def loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the bound of eq. 6, with one sample for each tuple, mean over the batch.

        sum_m -lambda_m log p(x_m | z) + beta mean_S KL(q_S || N(0, I)), where S goes over the
        subsets of the present modalities.
        """
        names = self.spec.names
        q = self.experts(batch.views)  # [M, B, D]
        there = presence(batch, len(names))
        products, valid = self.products(q, there)  # [S, B, D], [S, B]
        sliced = self.config.components == "slices" and batch.present is None
        if sliced:
            which = sliced_components(len(valid), len(batch), valid.device)
        else:
            which = choose_components(valid.float(), rng.fork("component"))
        z = draw(pick(products, which), rng)[0]  # [B, D]
        density = self.log_likelihoods(batch.views, z).where(there, 0.0)  # [M, B]
        rate = kl_to_standard(products).where(valid, 0.0).sum(0) / valid.sum(0)
        loss = (self.config.beta * rate - density.sum(0)).mean()
        return loss, own_losses(names, density, there) | {"kl": rate.mean()}

    def products(self, q: torch.distributions.Normal, there: Tensor) -> tuple:
        """The product of every subset, and whether all of the subset is present.

        Args:
            q: Experts, batch shape `[M, B, D]`.
            there: `[M, B]` bool.

        Returns:
            Batch shape `[S, B, D]`, and `[S, B]` bool.
        """
        members = subsets(len(there), there.device)[:, None]  # [S, 1, M]
        valid = (there.T | ~members).all(-1)  # [S, B]
        full = members.sum(-1) == there.sum(0)
        # Subsets that do not count get the prior too: an empty product has no density.
        return product_of_experts(q, members & there.T, (full | ~valid).float()), valid

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, D]` of the product of the given modalities' experts."""
        full = set(given) == set(self.spec.names)
        return draw(product_of_all(self.experts(given), prior=float(full)), rng)[0]

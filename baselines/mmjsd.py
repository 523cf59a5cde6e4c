"""mmJSD (Sutter, Daunhawer, Vogt, NeurIPS 2020): a generalised Jensen-Shannon divergence."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from shalabench.api import Batch, Optimiser, Rng, Search, Settings, Views, register_model, setting
from shalabench.nets.backbones import Network
from shalabench.nets.experts import (
    choose_components,
    draw_mixture,
    pick,
    product_of_experts,
    sliced_components,
)
from shalabench.nets.posteriors import draw
from shalabench.nets.shared_latent import SharedLatent, own_losses, presence

_CODE = "MoPoE code, --method jsd, job_polymnist (reproduction/mmjsd.md)"


class MMJSDConfig(Settings):
    """Settings; the defaults are those of the published PolyMNIST experiment."""

    network: Network = setting(Network(family="conv"), "Encoders and decoders.", _CODE)
    latent_dim: int = setting(
        512, "D, size of the latent.", _CODE, search=Search(choices=(16, 32, 64, 128)), ge=1
    )
    beta: float = setting(
        2.5, "Factor of the divergence.", _CODE, search=Search(0.1, 10, log=True), ge=0
    )
    mixture: Literal["posteriors", "with-prior"] = setting(
        "posteriors",
        "Whether N(0, I) is a component of the mixture that is decoded in training.",
        "the paper and its code (reproduction/mmjsd.md); 'with-prior': pitfalls, trap 9",
    )
    components: Literal["random", "slices"] = setting(
        "random",
        "Component of an item's sample: random, or by the item's position in the batch.",
        "the paper; 'slices' is the code's (reproduction/mmjsd.md)",
    )
    several: Literal["mixture", "geometric"] = setting(
        "mixture",
        "Posterior of several given modalities: mixture, or geometric mean with N(0, I).",
        "mmJSD and MoPoE code; 'geometric' is MVTCAE's code (reproduction/mmjsd.md)",
    )
    steps: int = setting(
        70_200, "Updates.", f"{_CODE}: 300 epochs of 234", counts_updates=True, ge=1
    )
    batch_size: int = setting(256, "Tuples an update.", _CODE, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=5e-4), "Of the training.", _CODE, search=True)


@register_model("mmjsd", paper="Sutter, Daunhawer, Vogt: mmJSD (NeurIPS 2020)", version=1)
class MMJSD(SharedLatent):
    """A mixture of experts with a dynamic prior: the geometric mean of experts and N(0, I)."""

    Config = MMJSDConfig
    incomplete = True

    def loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the bound of eq. 10, with one sample for each tuple, mean over the batch.

        sum_m -lambda_m log p(x_m | z) + beta sum_v pi_v KL(q_v || f), where v goes over the present
        experts and N(0, I), with equal weights pi, and f is their geometric mean.
        """
        names = self.spec.names
        q = self.experts(batch.views)  # [M, B, D]
        there = presence(batch, len(names))
        f = geometric_mean(q, there)  # [B, D]
        standard = Normal(torch.zeros_like(f.mean), torch.ones_like(f.mean), validate_args=False)
        own = kl_divergence(q, f).sum(-1).where(there, 0.0).sum(0)  # [B]
        rate = (own + kl_divergence(standard, f).sum(-1)) / (1 + there.sum(0))
        z = draw(self._component(q, standard, there, rng.fork("component")), rng)[0]  # [B, D]
        density = self.log_likelihoods(batch.views, z).where(there, 0.0)  # [M, B]
        loss = (self.config.beta * rate - density.sum(0)).mean()
        return loss, own_losses(names, density, there) | {"divergence": rate.mean()}

    def _component(self, q: Normal, standard: Normal, there: Tensor, rng: Rng) -> Normal:
        """The posterior `[B, D]` from which each tuple's sample is drawn."""
        weights = there
        if self.config.mixture == "with-prior":
            mean, scale = torch.cat([q.mean, standard.mean[None]]), [*q.scale, standard.scale]
            q = Normal(mean, torch.stack(scale), validate_args=False)
            weights = torch.cat([there, torch.ones_like(there[:1])])
        if self.config.components == "slices" and there.all():
            which = sliced_components(len(weights), weights.shape[1], weights.device)
        else:
            which = choose_components(weights.float(), rng)
        return pick(q, which)

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, D]` of the mixture, or geometric mean, of the given modalities' experts."""
        if self.config.several == "geometric" and len(given) > 1:
            q = self.experts(given)
            there = torch.ones(q.mean.shape[:2], dtype=torch.bool, device=q.mean.device)
            return draw(geometric_mean(q, there), rng)[0]
        return draw_mixture({n: self.encoders[self.spec[n].name](x) for n, x in given.items()}, rng)


def geometric_mean(q: Normal, there: Tensor) -> Normal:
    """The equally weighted geometric mean of the present experts and N(0, I) (eq. 9).

    Args:
        q: Experts, batch shape `[M, B, D]`.
        there: `[M, B]` bool.

    Returns:
        Batch shape `[B, D]`.
    """
    weight = 1 / (1 + there.sum(0))  # [B]
    f = product_of_experts(q, (there * weight).T[None], weight[None])
    return Normal(f.mean[0], f.scale[0], validate_args=False)

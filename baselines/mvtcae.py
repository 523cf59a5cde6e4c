"""MVTCAE (Hwang, Kim, Hong, Lee, NeurIPS 2021): a product of experts and total correlation."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import kl_divergence

from shalabench.api import Batch, Optimiser, Rng, Search, Settings, Views, register_model, setting
from shalabench.nets.backbones import Network
from shalabench.nets.experts import product_of_all
from shalabench.nets.posteriors import draw, kl_to_standard
from shalabench.nets.shared_latent import SharedLatent

_CODE = "MVTCAE code, main_mmnist.py (reproduction/mvtcae.md)"


class MVTCAEConfig(Settings):
    """Settings; the defaults are those of the published PolyMNIST experiment."""

    network: Network = setting(Network(family="conv"), "Encoders and decoders.", _CODE)
    latent_dim: int = setting(
        512, "D, size of the latent.", _CODE, search=Search(choices=(16, 32, 64, 128)), ge=1
    )
    beta: float = setting(
        2.5, "Factor of the divergences.", _CODE, search=Search(0.1, 10, log=True), ge=0
    )
    ratio: float = setting(
        5 / 6,
        "alpha: weight of the conditional term, against the joint rate.",
        _CODE,
        search=Search(0.5, 0.99),  # at 1 nothing holds the joint posterior to the prior
        ge=0,
        le=1,
    )
    steps: int = setting(
        70_200, "Updates.", f"{_CODE}: 300 epochs of 234", counts_updates=True, ge=1
    )
    batch_size: int = setting(256, "Tuples an update.", _CODE, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=1e-3), "Of the training.", _CODE, search=True)


@register_model("mvtcae", paper="Hwang, Kim, Hong, Lee: MVTCAE (NeurIPS 2021)", version=1)
class MVTCAE(SharedLatent):
    """q(z|X) is the product of the experts without N(0, I), and each expert learns to match it."""

    Config = MVTCAEConfig

    def loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the objective of eq. 9, scaled as in the code, mean over the batch.

        (M - a) / M sum_m -lambda_m log p(x_m | z) + beta [a / M sum_m KL(q || q_m)
        + (1 - a) KL(q || N(0, I))], z ~ q.
        """
        names, a = self.spec.names, self.config.ratio
        experts = self.experts(batch.views)  # [M, B, D]
        q = product_of_all(experts, prior=0.0)  # [B, D]
        density = self.log_likelihoods(batch.views, draw(q, rng)[0]).mean(1)  # [M]
        conditional = kl_divergence(q, experts).sum(-1).mean(1).sum()
        rate = kl_to_standard(q).mean()
        count = len(names)
        divergence = a / count * conditional + (1 - a) * rate
        loss = self.config.beta * divergence - (count - a) / count * density.sum()
        terms = dict(zip((f"nll_{name}" for name in names), -density, strict=True))
        return loss, terms | {"kl": rate, "kl_unimodal": conditional}

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, D]` of the product of the given modalities' experts."""
        return draw(product_of_all(self.experts(given), prior=0.0), rng)[0]

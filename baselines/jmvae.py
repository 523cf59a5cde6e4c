"""JMVAE-kl (Suzuki, Nakayama, Matsuo 2016).

A joint encoder of all modalities, and one encoder for each modality. Each learns to match the joint
posterior from its modality only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from shalabench.api import (
    Batch,
    DataSpec,
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
from shalabench.nets.backbones import Network, encoder, initialise
from shalabench.nets.experts import product_of_all
from shalabench.nets.posteriors import NormalHead, draw, kl_to_standard
from shalabench.nets.shared_latent import SharedLatent
from shalabench.nets.stacked import apply_each

_CODE = "MultiVae's benchmarking_on_partial_polymnist (reproduction/jmvae.md)"
_CHOICE = "our choice: the paper has two modalities (reproduction/jmvae.md)"


class JMVAEConfig(Settings):
    """Settings; the paper has no PolyMNIST, so the defaults are those of a later benchmark.

    That benchmark lowers the rate on a plateau of the loss, and keeps the epoch with the best
    validation loss. Here the rate is constant and the last update counts, as for every method.
    """

    network: Network = Network()
    latent_dim: int = setting(
        512, "D, size of the latent.", _CODE, search=Search(choices=(16, 32, 64, 128)), ge=1
    )
    feature_dim: int = setting(128, "Size of each modality's features in the joint.", _CHOICE, ge=1)
    fusion_width: int = setting(512, "Units of the fusion's two layers.", _CHOICE, ge=1)
    alpha: float = setting(
        0.1, "Factor of the unimodal divergences.", _CODE, search=Search(0.01, 1, log=True), ge=0
    )
    beta: float = setting(
        1.0,
        "Factor of the divergence from the prior.",
        _CODE,
        search=Search(0.1, 10, log=True),
        ge=0,
    )
    warmup: float = setting(
        0.25,
        "Part of the updates over which all divergences' factor rises linearly from 0.",
        f"{_CODE}: 200 of 800 epochs",
        stretches=True,
        ge=0,
        le=1,
    )
    steps: int = setting(
        168_000, "Updates.", f"{_CODE}: 800 epochs of 54,000 at 256", counts_updates=True, ge=1
    )
    batch_size: int = setting(256, "Tuples an update.", _CODE, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=1e-3), "Of the training.", _CODE, search=True)


@register_model("jmvae", paper="Suzuki, Nakayama, Matsuo: JMVAE-kl (2016)", version=1)
class JMVAE(SharedLatent):
    """A joint Gaussian posterior of all modalities, and one of each modality.

    The latent is drawn from the joint posterior if all modalities are given, and from q(z|x_m) if
    one is. For several it is drawn from the product of these without a prior factor, as in
    MultiVae; the paper has two modalities and does not define this case.
    """

    Config = JMVAEConfig

    def __init__(self, spec: DataSpec, config: JMVAEConfig):
        super().__init__(spec, config)
        self.joint, width = nn.ModuleDict(), config.fusion_width
        for m in spec.modalities:
            trunk = encoder(m, config.network)
            self.joint[m.name] = nn.Sequential(trunk, nn.Linear(trunk.features, config.feature_dim))
        self.fuse = nn.Sequential(
            nn.Linear(config.feature_dim * len(spec.modalities), width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            NormalHead(width, config.latent_dim),
        )
        initialise(self.joint, config.network)
        initialise(self.fuse, config.network)

    def loss(self, batch: Batch, rng: Rng, step: Now) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the bound of eq. 4, with one posterior sample, mean over the batch.

        sum_m -lambda_m log p(x_m | z) + t [beta KL(q(z|X) || p(z)) + alpha sum_m KL(q(z|X) ||
        q(z|x_m))], where t rises from 0 to 1.
        """
        c, views = self.config, batch.views
        posterior = self.joint_posterior(views)
        density = self.log_likelihoods(views, draw(posterior, rng)[0]).mean(1)  # [M]
        rate = kl_to_standard(posterior).mean()
        unimodal = kl_divergence(posterior, self.experts(views)).sum(-1).mean(1).sum()
        factor = rise(step, c.warmup * c.steps)
        loss = factor * (c.beta * rate + c.alpha * unimodal) - density.sum()
        terms = dict(zip((f"nll_{name}" for name in self.spec.names), -density, strict=True))
        return loss, terms | {"kl": rate, "kl_unimodal": unimodal}

    def joint_posterior(self, views: Views) -> Normal:
        """q(z|X) with batch shape `[B, D]` of all modalities."""
        names = self.spec.names
        features = apply_each([self.joint[n] for n in names], [views[n] for n in names])
        return self.fuse(torch.cat(features, -1))

    def posterior(self, given: Views) -> Normal:
        """The posterior `[B, D]` given all modalities, one, or several."""
        for name in given:
            self.spec[name]  # a KeyError names an unknown modality
        if set(given) == set(self.spec.names):
            return self.joint_posterior(given)
        return product_of_all(self.experts(given), prior=0.0)

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, D]` of the posterior of the given modalities."""
        return draw(self.posterior(given), rng)[0]

"""MMVAE (Shi, Siddharth, Paige, Torr, NeurIPS 2019): an importance-weighted mixture of experts."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Laplace, Normal

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
    Experts,
    choose_experts,
    draw_mixture,
    mixture_log_prob,
    refuse_experts,
)
from shalabench.nets.importance import detached, doubly_reparametrised, importance_bound
from shalabench.nets.posteriors import LaplaceHead, NormalHead, softmax_scale
from shalabench.nets.private import draw_experts
from shalabench.nets.shared_latent import SharedLatent, own_losses, presence

_CODE = "MMVAE code (reproduction/mmvae.md)"
_PLUS = "MMVAE+ code, whose comparison gave the published row (reproduction/mmvae.md)"


class MMVAEConfig(Settings):
    """Settings; the paper has no PolyMNIST, so the defaults are those of MMVAE+'s comparison."""

    network: Network = Network()
    latent_dim: int = setting(
        64,
        "D, size of the latent.",
        f"{_PLUS}: 32 + 32",
        search=Search(choices=(16, 32, 64, 128)),
        ge=1,
    )
    family: Literal["laplace", "normal"] = setting("laplace", "Of posteriors and prior.", _CODE)
    learn_prior: bool = setting(True, "Learn the prior's scale.", f"{_CODE}: --learn-prior")
    importance_samples: int = setting(
        1, "K, samples of each expert.", "our choice; the paper has 30, with dreg", ge=1
    )
    experts: Experts = setting(
        "all",
        "Experts that each tuple samples: all, or a number of them, drawn at random.",
        _CODE,
    )
    estimator: Literal["iwae", "stl", "dreg"] = setting(
        "iwae",
        "Gradient: plain, only through the samples (Roeder et al. 2017), or doubly "
        "reparametrised (Tucker et al. 2019).",
        f"{_CODE}: dreg for K > 1, which runs as stl, because its hook is on a copy of the samples",
    )
    bound: Literal["looser", "tight"] = setting(
        "looser",
        "Mean of the experts' bounds, or one bound over all experts' samples.",
        f"{_CODE}: --looser, used for the paper's results",
    )
    beta: float = setting(
        1.0,
        "Factor of the divergence.",
        "Shi et al. 2019: the bound",
        search=Search(0.1, 10, log=True),
        ge=0,
    )
    steps: int = setting(
        117_000, "Updates.", f"{_PLUS}: 250 epochs of 468", counts_updates=True, ge=1
    )
    batch_size: int = setting(128, "Tuples an update.", _PLUS, ge=1)
    optimiser: Optimiser = setting(
        Optimiser(lr=1e-3, amsgrad=True), "Of the training.", _PLUS, search=True
    )


@register_model("mmvae", paper="Shi, Siddharth, Paige, Torr: MMVAE (NeurIPS 2019)", version=1)
class MMVAE(SharedLatent):
    """q(z|X) is the equally weighted mixture of the unimodal posteriors."""

    Config = MMVAEConfig
    incomplete = True

    @classmethod
    def skip(cls, spec: DataSpec, config: MMVAEConfig) -> str | None:
        if spec.missing and config.bound == "tight":
            return "The tight bound takes all experts' samples; use model.bound=looser."
        if config.experts != "all" and config.bound == "tight":
            return (
                f"model.experts is {config.experts}, but the tight bound is estimated without bias "
                "from all experts only; use model.experts=all or model.bound=looser."
            )
        return refuse_experts(spec, config.experts)

    def __init__(self, spec: DataSpec, config: MMVAEConfig):
        head = {"laplace": LaplaceHead, "normal": NormalHead}[config.family]
        super().__init__(spec, config, head)
        raw = torch.zeros(config.latent_dim)
        self.prior_raw = nn.Parameter(raw, requires_grad=config.learn_prior)

    def loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the bound of eq. 3 (or its looser form, appendix A), mean over the batch.

        log w_m^k = sum_n lambda_n log p(x_n | z_m^k) + beta [log p(z_m^k) - log mean_j q_j(z_m^k)]
        for K samples z_m^k of each present expert; of k of these, drawn for each tuple, if the
        setting `experts` is a number.
        """
        c, names = self.config, self.spec.names
        q = self.experts(batch.views)  # [M, B, D]
        choice = choose_experts(c.experts, q, rng, batch.present)
        z = draw_experts(choice.pick(q), self._noise(rng), c.importance_samples)  # [k, K, B, D]
        if c.bound == "tight":
            z = z.flatten(0, 1)[None]  # [1, M K, B, D]: all samples in one bound
        if c.estimator != "iwae":
            q = detached(q)
        there = presence(batch, len(names))
        density = self.log_likelihoods(batch.views, z)  # [M, (k, K), B]
        density = density.where(there[:, None, None], 0.0)
        rate = mixture_log_prob(q, z, batch.present) - self.prior_log_prob(z)
        log_w = density.sum(0) - c.beta * rate
        if c.estimator == "dreg":
            bound = doubly_reparametrised(log_w, (z,), choice.present)
        else:
            bound = importance_bound(log_w, choice.present)
        own = density.flatten(1, 2).mean(1)  # over all experts' samples
        return -bound, own_losses(names, own, there) | {"rate": rate.mean()}

    def prior_log_prob(self, z: Tensor) -> Tensor:
        """log p(z) of latents `[..., D]`; `[...]` in nats."""
        kind = Laplace if self.config.family == "laplace" else Normal
        scale = self._prior_scale()
        return kind(torch.zeros_like(scale), scale, validate_args=False).log_prob(z).sum(-1)

    def _prior_scale(self) -> Tensor:
        """Scales `[D]` of the prior, of the posteriors' form: those of a Laplace sum to D."""
        laplace = self.config.family == "laplace"
        return softmax_scale(self.prior_raw) if laplace else (0.5 * self.prior_raw).exp()

    def _noise(self, rng: Rng):
        return rng.laplace if self.config.family == "laplace" else rng.normal

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Latents `[n, D]` of the prior."""
        return self._noise(rng)(n, self.config.latent_dim) * self._prior_scale()

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, D]` of the mixture of the given modalities' experts."""
        return draw_mixture({n: self.encoders[self.spec[n].name](x) for n, x in given.items()}, rng)

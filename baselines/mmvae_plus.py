"""MMVAE+ (Palumbo, Daunhawer, Vogt, ICLR 2023).

A mixture of experts over a shared latent, private latents, and learned auxiliary priors that keep
the private latents out of the cross terms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributions import Laplace, Normal

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
from nets.backbones import Network, decoder, encoder, initialise
from nets.experts import draw_mixture, mixture_log_prob
from nets.likelihoods import view_of
from nets.posteriors import LaplaceHead, NormalHead, Posterior, draw, softmax_scale
from nets.private import cross_log_likelihoods, draw_experts, stack_posteriors

_CODE = "MMVAE+ code, 2024 release (recipes.md section 4)"


class MMVAEPlusConfig(Settings):
    """Settings, with those of the published PolyMNIST experiment as defaults."""

    network: Network = Network()
    shared_dim: int = setting(32, "Size of the shared latent z.", _CODE, ge=1)
    private_dim: int = setting(32, "Size of each private latent w_m.", _CODE, ge=1)
    family: Literal["laplace", "normal"] = setting("laplace", "Of posteriors and priors.", _CODE)
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

    def __init__(self, spec: DataSpec, config: MMVAEPlusConfig):
        super().__init__(spec, config)
        head = {"laplace": LaplaceHead, "normal": NormalHead}[config.family]
        self.shared, self.private, self.decoders = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for m in spec.modalities:
            for towers, dim in (
                (self.shared, config.shared_dim),
                (self.private, config.private_dim),
            ):
                trunk = encoder(m, config.network)
                towers[m.name] = nn.Sequential(trunk, head(trunk.features, dim))
            inputs = config.private_dim + config.shared_dim
            self.decoders[m.name] = decoder(m, inputs, config.network)
        # r_n: zero mean and a learned scale; the method needs it learned (trap 6).
        self.auxiliary = nn.Parameter(torch.zeros(len(spec.modalities), config.private_dim))
        initialise(self, config.network)

    def stages(self) -> list[Stage]:
        c = self.config
        return [
            GradientStage(
                "vae", self._loss, self, c.optimiser, steps=c.steps, batch_size=c.batch_size
            )
        ]

    def _loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        log_w, terms, draws = self.log_weights(batch.views, rng)
        bound = _bound(log_w) if self.config.estimator == "iwae" else _dreg(log_w, draws)
        # The published code sums over the batch; Adam's update is the same but for its epsilon.
        return -bound, terms

    def log_weights(
        self, views: Views, rng: Rng
    ) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor, Tensor]]:
        """The log importance weights of the objective (eq. 8 of the paper, with beta).

        log W_m^k = sum_n lambda_n log p(x_n | z_m^k, w) + beta [log p(z_m^k) + log p(w_m^k)
        - log 1/M sum_j q_j(z_m^k) - log q_m(w_m^k)], where w is w_m^k for n = m and a draw of the
        auxiliary prior r_n for every other n.

        Args:
            views: All modalities, `[B, ...]` each.
            rng: Noise of every draw.

        Returns:
            `[M, K, B]` in nats, the terms to log, and the draws (z `[M, K, B, Dz]`,
            w `[M, K, B, Dw]`), through which the doubly reparametrised gradient goes.
        """
        samples = self.config.importance_samples
        q_z, q_w = self._posteriors(views)  # batch shapes [M, B, D]
        z = self._draw_all(q_z, rng, samples)  # [M, K, B, Dz]
        w = self._draw_all(q_w, rng, samples)  # [M, K, B, Dw]
        if self.config.estimator == "dreg":
            q_z, q_w = _detached(q_z), _detached(q_w)
        fidelity, own = self._fidelity(views, z, w, rng)  # [M, K, B], [M]
        own_w = type(q_w)(q_w.mean[:, None], q_w.scale[:, None], validate_args=False)
        rate_z = mixture_log_prob(q_z, z) - self._standard(z).log_prob(z).sum(-1)
        rate_w = own_w.log_prob(w).sum(-1) - self._standard(w).log_prob(w).sum(-1)
        log_w = fidelity - self.config.beta * (rate_z + rate_w)
        terms = {f"nll_{n}": -value for n, value in zip(self.spec.names, own, strict=True)}
        terms |= {"rate_shared": rate_z.mean(), "rate_private": rate_w.mean()}
        return log_w, terms, (z, w)

    def _fidelity(
        self, views: Views, z: Tensor, w: Tensor, rng: Rng
    ) -> tuple[Tensor, list[Tensor]]:
        """Weighted log-likelihoods summed over targets `[M, K, B]`, and each one's own mean."""
        laplace = self.config.family == "laplace"
        scales = softmax_scale(self.auxiliary) if laplace else (0.5 * self.auxiliary).exp()
        noise = partial(self._noise, rng)
        densities = cross_log_likelihoods(
            self.spec, self.decoders, views, (z, w), scales, noise
        )  # M times [M, K, B]
        weighted = list(zip(self.spec.modalities, densities, strict=True))
        own = [m.weight * density[n].mean() for n, (m, density) in enumerate(weighted)]
        return sum(m.weight * density for m, density in weighted), own

    def _posteriors(self, views: Views) -> tuple[Posterior, Posterior]:
        z, w = (
            stack_posteriors([towers[name](views[name]) for name in self.spec.names])
            for towers in (self.shared, self.private)
        )
        return z, w

    def _draw_all(self, q: Posterior, rng: Rng, samples: int) -> Tensor:
        """Samples `[M, K, B, D]` of posteriors `[M, B, D]`, items first in the randomness."""
        return draw_experts(q, partial(self._noise, rng), samples)

    def _noise(self, rng: Rng, *shape: int) -> Tensor:
        return (rng.laplace if self.config.family == "laplace" else rng.normal)(*shape)

    def _standard(self, like: Tensor) -> Posterior:
        """The fixed prior: mean 0 and scale 1 (for "normal" too; trap 8)."""
        kind = Laplace if self.config.family == "laplace" else Normal
        return kind(torch.zeros_like(like), torch.ones_like(like), validate_args=False)

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, Dz]` of the mixture of the given modalities' experts."""
        return draw_mixture({n: self._shared(n, x) for n, x in given.items()}, rng)

    def _shared(self, name: str, x: Tensor) -> Posterior:
        return self.shared[self.spec[name].name](x)

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Shared latents `[n, Dz]` of the fixed prior."""
        return self._noise(rng, n, self.config.shared_dim)

    def sample(self, n: int, rng: Rng) -> Views:
        z = self.prior(n, rng.fork("shared"))
        one = self.config.joint_private == "shared"
        return {
            name: self._decode(name, z, self._prior_private(n, rng, "all" if one else name))
            for name in self.spec.names
        }

    def translate(self, given: Views, targets: Sequence[str], rng: Rng) -> Views:
        z = self.encode(given, rng.fork("shared"))
        made = {}
        for name in targets:
            if name in given:
                private = self._private(name, given[name], rng)
            else:
                private = self._prior_private(len(z), rng, name)
            made[name] = self._decode(name, z, private)
        return made

    def reconstruct(self, views: Views, rng: Rng) -> Views:
        return self.translate(views, self.spec.names, rng)

    def _private(self, name: str, x: Tensor, rng: Rng) -> Tensor:
        return draw(self.private[self.spec[name].name](x), rng.fork("private", name))[0]

    def _prior_private(self, n: int, rng: Rng, name: str) -> Tensor:
        return self._noise(rng.fork("private", name), n, self.config.private_dim)

    def _decode(self, name: str, z: Tensor, private: Tensor) -> Tensor:
        modality = self.spec[name]
        return view_of(modality, self.decoders[name](torch.cat([private, z], -1)))


def _bound(log_w: Tensor) -> Tensor:
    """The importance-weighted bound from log weights `[M, K, B]`, a scalar."""
    return (log_w.logsumexp(1) - math.log(log_w.shape[1])).mean()


def _dreg(log_w: Tensor, draws: tuple[Tensor, Tensor]) -> Tensor:
    """The doubly reparametrised surrogate (Tucker et al. 2019): only its gradient counts.

    Published for K > 1 and the mixture, where it is biased for the shared latent: the weights are
    normalised over the draws of one expert, the density is that of all. It has the plain
    gradient's expectation for K = 1, and for beta = 1 on the private latents.
    """
    weights = log_w.detach().softmax(1)  # [M, K, B]
    for sample in draws:
        if sample.requires_grad:
            sample.register_hook(lambda grad: weights.unsqueeze(-1) * grad)
    return (weights * log_w).sum(1).mean()


def _detached(q: Posterior) -> Posterior:
    return type(q)(q.mean.detach(), q.scale.detach(), validate_args=False)

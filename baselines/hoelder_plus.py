"""Hoelder, Hoelder+ and Hoelder++ (Vo, Martinez-Garcia, Valera, ICML 2026).

The posterior of the shared latent is the Hoelder pooling of the experts with alpha = 1/2 itself: a
mixture of the experts and of their pairs. Private latents are those of MMVAE+.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributions import Normal

from shalabench.api import (
    Batch,
    DataSpec,
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
from shalabench.nets.backbones import Network, decode_each, initialise
from shalabench.nets.experts import choose_components, pick, stack_posteriors
from shalabench.nets.likelihoods import log_likelihood
from shalabench.nets.pooled import mean_log_overlap
from shalabench.nets.pooling import hoelder_log_prob, hoelder_mixture, pairs_of
from shalabench.nets.posteriors import NormalHead, Posterior, draw
from shalabench.nets.private import Family, PrivateLatents, draw_experts
from shalabench.nets.shared_latent import own_losses, presence
from shalabench.nets.stacked import apply_each

_KIN = "our choice: as mmvae+; only the swept betas are public (reproduction/hoelder.md)"
_MOST = 10  # Modalities of which all 55 components are decoded.


class HoelderPlusConfig(Settings):
    """Settings; the defaults are those of MMVAE+, but for the family."""

    network: Network = Network()
    shared_dim: int = setting(
        32, "Size of the shared latent z.", _KIN, search=Search(choices=(16, 32, 64)), ge=1
    )
    private_dim: int = setting(
        32,
        "Size of each private latent w_m; 0 is Hoelder, which has none.",
        _KIN,
        search=Search(choices=(16, 32, 64)),
        ge=0,
    )
    hierarchical: bool = setting(
        False,
        "Whether q(w_m | x_m, z) replaces q(w_m | x_m): Hoelder++.",
        "summary of the paper (reproduction/hoelder.md)",
    )
    family: Family = setting(
        "normal",
        "Of posteriors and priors; the pairs of Laplace experts have no closed form.",
        "summary of the paper (reproduction/hoelder.md)",
    )
    auxiliary_start: float = setting(0.0, "Log variance of r_n at the start.", _KIN)
    beta: float = setting(
        2.5, "Factor of the divergence terms.", _KIN, search=Search(0.1, 10, log=True), ge=0
    )
    steps: int = setting(
        117_000, "Updates.", f"{_KIN}: 250 epochs of 60,000 at 128", counts_updates=True, ge=1
    )
    batch_size: int = setting(128, "Tuples an update.", _KIN, ge=1)
    optimiser: Optimiser = setting(
        Optimiser(lr=1e-3, amsgrad=True), "Of the training.", _KIN, search=True
    )


@register_model(
    "hoelder+",
    paper="Vo, Martinez-Garcia, Valera: Hoelder, Hoelder+, Hoelder++ (ICML 2026)",
    version=1,
)
class HoelderPlus(PrivateLatents):
    """The exact Hoelder mixture, all components of which are decoded and weighted."""

    Config = HoelderPlusConfig
    owned: Tensor

    def __init__(self, spec: DataSpec, config: HoelderPlusConfig):
        super().__init__(spec, config)
        numbers = range(len(spec.modalities))
        components = [(n,) for n in numbers] + list(combinations(numbers, 2))
        owned = [[k for k, c in enumerate(components) if n in c] for n in numbers]
        # The M components that each modality is of: [M, M].
        self.register_buffer("owned", torch.tensor(owned), persistent=False)
        if config.hierarchical:
            for network in self.private.values():
                trunk = cast(nn.Sequential, network)[0]
                head = NormalHead(trunk.features + config.shared_dim, config.private_dim)
                initialise(head, config.network)
                cast(nn.Sequential, network)[1] = head

    @classmethod
    def skip(cls, spec: DataSpec, config: Any) -> str | None:
        if config.family != "normal":
            return (
                f"model.family is '{config.family}', but Hoelder pooling has a closed form for "
                "Gaussian experts only; use model.family=normal."
            )
        if config.hierarchical and not config.private_dim:
            return (
                "model.hierarchical is true, but model.private_dim is 0, so that there is no "
                "private latent to condition; use a private_dim of at least 1, or "
                "model.hierarchical=false."
            )
        count = len(spec.modalities)
        if count <= _MOST:
            return None
        return (
            f"It decodes the posteriors of all modalities and of all pairs of them, M (M + 1) / 2 "
            f"subsets, of which M = {count} modalities have {count * (count + 1) // 2}. At most "
            f"{_MOST * (_MOST + 1) // 2} (M = {_MOST}) can be trained. Use helvae, which decodes "
            "one posterior."
        )

    def stages(self) -> list[Stage]:
        c = self.config
        return [
            GradientStage(
                "vae", self._loss, self, c.optimiser, steps=c.steps, batch_size=c.batch_size
            )
        ]

    def _loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus sum_c pi_c L_c with one draw of each component c, mean over the batch.

        L_c = sum_n lambda_n log p(x_n | z_c, w_n) + beta [log p(z_c) - log q(z_c | X)
        + sum_{n in c} (log p(w_n) - log q(w_n | x_n))], where n in c are the one or two modalities
        of the component, whose w_n are drawn from their posteriors; other w_n are drawn from r_n.
        Modalities that are not there count neither in the mixture nor in the sums.
        """
        c, names, views = self.config, self.spec.names, batch.views
        there, noise = presence(batch, len(names)), self.noise(rng)
        q = stack_posteriors(apply_each([self.shared[n] for n in names], [views[n] for n in names]))
        components, log_pi = hoelder_mixture(q, there)
        z = draw_experts(components, noise, 1)[:, 0]  # [K, B, Dz]
        w, rate_w = self._private_draws(views, z, rng)
        inputs = [torch.cat([each, z], -1) for each in w]
        outputs = decode_each([self.decoders[n] for n in names], inputs)
        density = torch.stack(
            [
                m.weight * log_likelihood(m, output, views[m.name])
                for m, output in zip(self.spec.modalities, outputs, strict=True)
            ]
        ).where(there[:, None], 0.0)  # [M, K, B]
        rate_z = hoelder_log_prob(q, z, there) - self.standard_log_prob(z)
        value = density.sum(0) - c.beta * (rate_z + rate_w)
        # A component of an absent expert has no weight, and its value means nothing.
        counted = self._counted(there)
        pi = log_pi.exp().where(counted, 0.0)
        bound = (pi * value.where(counted, 0.0)).sum(0).mean()
        terms = own_losses(names, torch.einsum("mmb->mb", density[:, : len(names)]), there)
        rates = {"rate_shared": rate_z, "rate_private": rate_w}
        terms |= {n: (pi * x.where(counted, 0.0)).sum(0).mean() for n, x in rates.items()}
        return -bound, terms | {"log_overlap": mean_log_overlap(q, there)}

    def _private_draws(self, views: Views, z: Tensor, rng: Rng) -> tuple[list[Tensor], Tensor]:
        """Each decoder's private latents under each component, and what their posteriors cost.

        Args:
            views: All modalities, `[B, ...]` each.
            z: A draw of each component, `[K, B, Dz]`.
            rng: Noise of the draws.

        Returns:
            For each modality `[K, B, Dw]`, and the sum of log q(w_n | x_n) - log p(w_n) over the
            modalities of each component, `[K, B]`.
        """
        names, (count, batch) = self.spec.names, z.shape[:2]
        dim = self.config.private_dim
        if not dim:
            return [z[..., :0]] * len(names), z.new_zeros(count, batch)
        networks = [cast(nn.Sequential, self.private[n]) for n in names]
        if self.config.hierarchical:
            networks = [network[0] for network in networks]
        encoded = apply_each(networks, [views[n] for n in names])
        latents, rate = [], z.new_zeros(count, batch)
        for n, name in enumerate(names):
            own = self.owned[n]
            q = self._private_posterior(name, encoded[n], z[own])
            source = rng.fork("private", name)
            noise = source.normal(batch, count * dim).view(batch, count, dim).transpose(0, 1)
            drawn = q.mean + q.scale * noise[own]
            latents.append((self.scales[n] * noise).index_copy(0, own, drawn))
            cost = q.log_prob(drawn).sum(-1) - self.standard_log_prob(drawn)
            rate = rate.index_add(0, own, cost)
        return latents, rate

    def _private_posterior(self, name: str, encoded: Any, z: Tensor) -> Posterior:
        """q(w_n | x_n, z) `[k, B, Dw]` at latents `[k, B, Dz]`.

        Args:
            name: The modality.
            encoded: Its features `[B, F]` if hierarchical, else q(w_n | x_n), `[B, Dw]`.
            z: Shared latents.
        """
        if not self.config.hierarchical:
            shape = len(z), *encoded.mean.shape
            mean, scale = encoded.mean.expand(shape), encoded.scale.expand(shape)
            return Normal(mean, scale, validate_args=False)
        head = cast(nn.Sequential, self.private[name])[1]
        features = encoded.expand(len(z), *encoded.shape)
        return head(torch.cat([features, z.to(features.dtype)], -1))

    def _counted(self, there: Tensor) -> Tensor:
        """Whether all modalities of a component are `there` `[M, B]`: `[K, B]` bool."""
        i, j = pairs_of(len(there), there.device)
        return torch.cat([there, there[i] & there[j]])

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Shared latents `[n, Dz]` of N(0, I)."""
        return rng.normal(n, self.config.shared_dim)

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, Dz]` of the Hoelder mixture of the given modalities' experts."""
        q = stack_posteriors([self.shared[self.spec[n].name](x) for n, x in given.items()])
        components, log_pi = hoelder_mixture(q)
        which = choose_components(log_pi.exp(), rng.fork("component"))
        return draw(pick(components, which), rng)[0]

    def private_draw(self, name: str, x: Tensor, z: Tensor, rng: Rng) -> Tensor:
        if not self.config.hierarchical:
            return super().private_draw(name, x, z, rng)
        features = cast(nn.Sequential, self.private[name])[0](x)
        q = self._private_posterior(name, features, z[None])
        return q.mean[0] + q.scale[0] * rng.fork("private", name).normal(*q.mean[0].shape)

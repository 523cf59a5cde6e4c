"""VAEs with shared and private latents: each sampled expert's draw is decoded for every modality.

An expert's private latent reaches only its modality's decoder. Every other decoder gets a draw of
an auxiliary prior (Palumbo et al. 2023, eq. 8).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Laplace, Normal

from shalabench.api import Batch, DataSpec, Model, Rng, Settings, Views
from shalabench.nets.backbones import decode_each, decoder, encoder, initialise
from shalabench.nets.experts import (
    Choice,
    choose_experts,
    draw_mixture,
    mixture_log_prob,
    refuse_experts,
    stack_posteriors,
)
from shalabench.nets.importance import (
    detached,
    doubly_reparametrised,
    expert_mean,
    importance_bound,
)
from shalabench.nets.likelihoods import log_likelihood, view_of
from shalabench.nets.posteriors import LaplaceHead, NormalHead, Posterior, draw, softmax_scale
from shalabench.nets.stacked import apply_each

Family = Literal["laplace", "normal"]
Noise = Callable[..., Tensor]
"""`rng.normal` or `rng.laplace`: from a shape with items first to standard noise."""
LogDensity = Callable[[Tensor], Tensor]
"""From latents `[..., D]` to log-densities `[...]` in nats."""


class PrivateLatents(Model):
    """Encoders of a shared latent z and private latents w_m, and a decoder of both, by modality.

    A method derives from it and gives `prior` and `stages`. Then it can sample, translate and
    reconstruct. Its settings have at least `network`, `shared_dim` (Dz), `private_dim` (Dw),
    `family`, `auxiliary_start` and `experts`.
    """

    max_given = None
    incomplete = True

    def __init__(self, spec: DataSpec, config: Settings):
        super().__init__(spec, config)
        head = {"laplace": LaplaceHead, "normal": NormalHead}[config.family]
        self.shared, self.private, self.decoders = (nn.ModuleDict() for _ in range(3))
        for m in spec.modalities:
            for towers, dim in (
                (self.shared, config.shared_dim),
                (self.private, config.private_dim),
            ):
                trunk = encoder(m, config.network, private=towers is self.private)
                towers[m.name] = nn.Sequential(trunk, head(trunk.features, dim))
            size = config.private_dim + config.shared_dim
            self.decoders[m.name] = decoder(m, size, config.network, private=config.private_dim)
        # r_n has mean 0 and a scale, which must be learned (trap 6).
        shape = len(spec.modalities), config.private_dim
        self.auxiliary = nn.Parameter(torch.full(shape, config.auxiliary_start))
        initialise(self, config.network)

    @classmethod
    def skip(cls, spec: DataSpec, config: Any) -> str | None:
        return refuse_experts(spec, config.experts)

    @abstractmethod
    def prior(self, n: int, rng: Rng) -> Tensor:
        """Shared latents `[n, Dz]` for joint generation."""

    def importance_loss(
        self,
        batch: Batch,
        rng: Rng,
        log_prior: LogDensity,
        encoded: tuple[Posterior, Posterior] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the bound of MMVAE+ under a shared prior, and the terms to log.

        The settings `importance_samples`, `beta` and `estimator` define it. The published code sums
        over the batch, which changes Adam's update only through its epsilon.
        """
        c = self.config
        log_w, terms, draws, present = self.log_weights(
            batch.views,
            rng,
            log_prior,
            samples=c.importance_samples,
            beta=c.beta,
            present=batch.present,
            detach=c.estimator == "dreg",
            encoded=encoded,
        )
        if c.estimator == "iwae":
            return -importance_bound(log_w, present), terms
        return -doubly_reparametrised(log_w, draws, present), terms

    def log_weights(
        self,
        views: Views,
        rng: Rng,
        prior: LogDensity,
        *,
        samples: int,
        beta: float,
        present: Tensor | None = None,
        detach: bool = False,
        encoded: tuple[Posterior, Posterior] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor], tuple[Tensor, Tensor], Tensor | None]:
        """The log importance weights of the objective (Palumbo et al. 2023, eq. 8, with beta).

        log W_m^k = sum_n lambda_n log p(x_n | z_m^k, w) + beta [log p(z_m^k) + log p(w_m^k)
        - log mean_j q_j(z_m^k) - log q_m(w_m^k)], where w is w_m^k for n = m and a draw of the
        auxiliary prior r_n for every other n; n and j go over the present modalities. m goes over
        k of them, drawn for each tuple, if the setting `experts` is a number; else k is M.

        Args:
            views: All modalities, `[B, ...]` each; absent ones do not count.
            rng: Noise of every draw.
            prior: log p(z).
            samples: K, samples of each expert.
            beta: Factor of the divergence terms.
            present: `[B, M]` bool; None is all present. The weights of absent experts are finite
                but mean nothing.
            detach: Whether densities have gradients to the encoders only through the draws.
            encoded: What `posteriors` gives for the views, where it is known.

        Returns:
            `[k, K, B]` in nats, the terms to log, the draws (z `[k, K, B, Dz]`,
            w `[k, K, B, Dw]`), and which of the k experts count, `[B, k]` bool or None for all.
        """
        noise = self.noise(rng)
        q_z, q_w = encoded or self.posteriors(views)  # batch shapes [M, B, D]
        choice = choose_experts(self.config.experts, q_z, rng, present)
        q_w = choice.pick(q_w)  # [k, B, Dw]
        z = draw_experts(choice.pick(q_z), noise, samples)  # [k, K, B, Dz]
        w = draw_experts(q_w, noise, samples)  # [k, K, B, Dw]
        if detach:
            q_z, q_w = detached(q_z), detached(q_w)
        densities = cross_log_likelihoods(
            self.spec, self.decoders, views, (z, w), self.scales, noise, choice.which
        )  # M times [k, K, B]
        fidelity, own = self._weigh(densities, present, choice)
        own_w = type(q_w)(q_w.mean[:, None], q_w.scale[:, None], validate_args=False)
        rate_z = mixture_log_prob(q_z, z, present) - prior(z)
        rate_w = own_w.log_prob(w).sum(-1) - self.standard_log_prob(w)
        log_w = fidelity - beta * (rate_z + rate_w)
        terms = {f"nll_{n}": -value for n, value in zip(self.spec.names, own, strict=True)}
        rates = {"rate_shared": rate_z, "rate_private": rate_w}
        terms |= {n: expert_mean(x, choice.present) for n, x in rates.items()}
        return log_w, terms, (z, w), choice.present

    def _weigh(
        self, densities: list[Tensor], present: Tensor | None, choice: Choice
    ) -> tuple[Tensor, list[Tensor]]:
        """Weighted log-likelihoods: sums over targets `[k, K, B]`, and means by modality.

        A mean is under the modality's own expert, or under all that were drawn if some were not.
        """
        total, own = 0.0, []
        for n, (modality, density) in enumerate(zip(self.spec.modalities, densities, strict=True)):
            if present is None or choice.present is None:
                mean = (density[n] if choice.everyone else density).mean()
            else:
                density = torch.where(present[:, n], density, 0.0)
                if choice.everyone:
                    under, there = density[n], present[:, n]
                else:
                    there = present[:, n] & choice.present.T  # [k, B]
                    under = density.where(there[:, None], 0.0)
                mean = under.sum() / (density.shape[1] * there.sum().clamp(min=1))
            total = total + modality.weight * density
            own.append(modality.weight * mean)
        return torch.as_tensor(total), own

    @property
    def scales(self) -> Tensor:
        """Scales `[M, Dw]` of the auxiliary priors."""
        laplace = self.config.family == "laplace"
        return softmax_scale(self.auxiliary) if laplace else (0.5 * self.auxiliary).exp()

    def posteriors(self, views: Views) -> tuple[Posterior, Posterior]:
        """Posteriors of the shared and of the private latents, batch shapes `[M, B, D]`."""
        names = self.spec.names
        networks = [self.shared[n] for n in names] + [self.private[n] for n in names]
        found = apply_each(networks, [views[n] for n in names] * 2)
        return stack_posteriors(found[: len(names)]), stack_posteriors(found[len(names) :])

    def noise(self, rng: Rng) -> Noise:
        """The source of standard noise of the family."""
        return rng.laplace if self.config.family == "laplace" else rng.normal

    def standard_log_prob(self, x: Tensor) -> Tensor:
        """Log-density `[...]` of the fixed prior at `[..., D]`; its scale is 1 (trap 8)."""
        kind = Laplace if self.config.family == "laplace" else Normal
        prior = kind(torch.zeros_like(x), torch.ones_like(x), validate_args=False)
        return prior.log_prob(x).sum(-1)

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, Dz]` of the mixture of the given modalities' experts."""
        return draw_mixture({n: self.shared[self.spec[n].name](x) for n, x in given.items()}, rng)

    def private_prior(self, n: int, rng: Rng, name: str) -> Tensor:
        """Private latents `[n, Dw]` of the fixed prior, not of r_n (trap 6)."""
        return self.noise(rng.fork("private", name))(n, self.config.private_dim)

    def private_draw(self, name: str, x: Tensor, z: Tensor, rng: Rng) -> Tensor:
        """A sample `[B, Dw]` of a view's private latent; here it does not depend on z `[B, Dz]`."""
        return draw(self.private[name](x), rng.fork("private", name))[0]

    def view(self, name: str, z: Tensor, w: Tensor) -> Tensor:
        """Decoder mean of a modality at shared and private latents `[B, Dz]`, `[B, Dw]`."""
        return view_of(self.spec[name], self.decoders[name](torch.cat([w, z], -1)))

    def decode_given(self, z: Tensor, targets: Sequence[str], given: Views, rng: Rng) -> Views:
        """Decoder means at shared latents `[B, Dz]`.

        Args:
            z: Shared latents.
            targets: Names of the modalities to decode.
            given: Views `[B, ...]` whose private latents are encoded; the others are drawn.
            rng: Noise of the private latents.
        """
        made = {}
        for name in targets:
            self.spec[name]  # a KeyError names an unknown modality
            if name in given:
                w = self.private_draw(name, given[name], z, rng)
            else:
                w = self.private_prior(len(z), rng, name)
            made[name] = self.view(name, z, w)
        return made

    def decode(self, z: Tensor, rng: Rng) -> Views:
        """Decoder means at shared latents `[n, Dz]`, with private latents from their prior."""
        return self.decode_given(z, self.spec.names, {}, rng)

    def encode_all(self, views: Views, rng: Rng) -> Tensor:
        """Shared and private latents `[B, Dz + M Dw]` of complete tuples, one sample of each."""
        z = self.encode(views, rng.fork("shared"))
        private = [self.private_draw(n, views[n], z, rng) for n in self.spec.names]
        return torch.cat([z, *private], -1)

    def decode_all(self, z: Tensor, rng: Rng) -> Views:
        """Decoder means at shared and private latents `[n, Dz + M Dw]`."""
        shared, *private = z.split(
            [self.config.shared_dim, *(self.config.private_dim for _ in self.spec.names)], -1
        )
        pairs = zip(self.spec.names, private, strict=True)
        return {name: self.view(name, shared, w) for name, w in pairs}

    def sample(self, n: int, rng: Rng) -> Views:
        return self.decode(self.prior(n, rng.fork("shared")), rng)

    def translate(self, given: Views, targets: Sequence[str], rng: Rng) -> Views:
        return self.decode_given(self.encode(given, rng.fork("shared")), targets, given, rng)

    def reconstruct(self, views: Views, rng: Rng) -> Views:
        return self.translate(views, self.spec.names, rng)


def draw_experts(experts: Posterior, noise: Noise, samples: int) -> Tensor:
    """Reparametrised samples `[M, K, B, D]` of stacked posteriors `[M, B, D]`, of any number M.

    Args:
        experts: The posteriors.
        noise: Standard noise of their family.
        samples: K, the number of samples of each expert for each item.
    """
    modalities, batch, dim = experts.mean.shape
    drawn = _expert_noise(noise, modalities, samples, batch, dim)
    return experts.mean[:, None] + experts.scale[:, None] * drawn


def cross_log_likelihoods(
    spec: DataSpec,
    decoders: nn.ModuleDict,
    views: Views,
    latents: tuple[Tensor, Tensor],
    scales: Tensor,
    noise: Noise,
    experts: Tensor,
) -> list[Tensor]:
    """Log p(x_n | z, w) of every target n under every expert's draw, without modality weights.

    Args:
        spec: The modalities.
        decoders: By modality, from private and shared latent together `[N, Dw + Dz]`.
        views: All modalities, `[B, ...]` each.
        latents: The experts' draws z `[k, K, B, Dz]` and w `[k, K, B, Dw]`.
        scales: `[M, Dw]` of the zero-mean auxiliary priors r_n. Decoder n gets a draw of r_n in
            place of w if the expert is another modality's.
        noise: Standard noise of that prior's family, drawn anew for every expert and target.
        experts: Numbers of their modalities, `[k, B]`, or `[k, 1]` if all items have the same.

    Returns:
        For each target in the order of `spec`, `[k, K, B]` in nats.
    """
    z, w = latents
    inputs = []
    for n in range(len(spec.modalities)):
        private = scales[n] * _expert_noise(noise, *w.shape)
        own = (experts == n)[:, None, :, None]  # [k, 1, B, 1]
        inputs.append(torch.cat([torch.where(own, w, private), z], -1))
    outputs = decode_each([decoders[name] for name in spec.names], inputs)
    return [
        log_likelihood(m, output, views[m.name])
        for m, output in zip(spec.modalities, outputs, strict=True)
    ]


def _expert_noise(noise: Noise, modalities: int, samples: int, batch: int, dim: int) -> Tensor:
    """Noise `[M, K, B, D]`, drawn with the items first."""
    drawn = noise(batch, modalities * samples * dim).view(batch, modalities, samples, dim)
    return drawn.permute(1, 2, 0, 3)

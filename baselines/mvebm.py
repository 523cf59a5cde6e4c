"""MVEBM (Yuan, Cui, Li, Han, ECCV 2024).

MMVAE+'s generator and mixture of experts, with an energy-based prior on the shared latent:
p_a(z) = exp(f_a(z)) p_0(z) / Z. No code is public; what the abstracts leave open is our choice
(recipes.md section 8).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.distributions import Laplace, Normal

from harness.api import (
    Batch,
    DataSpec,
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
from nets.langevin import gradient_of, sample_langevin
from nets.likelihoods import view_of
from nets.posteriors import LaplaceHead, NormalHead, Posterior, draw, softmax_scale
from nets.precision import widen
from nets.private import Noise, cross_log_likelihoods, draw_experts, stack_posteriors

_CHOICE = "not given in what is public: our choice (recipes.md section 8)"
_BACKBONE = "as MMVAE+, whose networks it takes (recipes.md sections 4 and 8)"


class MVEBMConfig(Settings):
    """Settings; the backbone's are MMVAE+'s."""

    network: Network = Network()
    shared_dim: int = setting(32, "Size of the shared latent z.", _BACKBONE, ge=1)
    private_dim: int = setting(32, "Size of each private latent w_m.", _BACKBONE, ge=1)
    family: Literal["laplace", "normal"] = setting("laplace", "Of posteriors and p_0.", _BACKBONE)
    beta: float = setting(2.5, "Factor of the divergence terms.", _BACKBONE, ge=0)
    energy_width: int = setting(200, "Units of the two layers of f_a.", _CHOICE, ge=1)
    energy_bound: float = setting(
        20.0, "Largest |f_a|, by a tanh, so that Z is finite; 0 bounds nothing.", _CHOICE, ge=0
    )
    langevin_steps: int = setting(20, "Langevin steps from p_0 in training.", _CHOICE, ge=1)
    sample_steps: int = setting(60, "Langevin steps from p_0 when sampling.", _CHOICE, ge=1)
    step_size: float = setting(0.4, "s, the standard deviation of a step's noise.", _CHOICE, gt=0)
    steps: int = setting(117_000, "Updates.", _BACKBONE, ge=1)
    batch_size: int = setting(128, "Tuples an update, and chains.", _BACKBONE, ge=1)
    optimiser: Optimiser = Optimiser(lr=1e-3, amsgrad=True)
    energy_optimiser: Optimiser = Optimiser(lr=1e-4)


class Energy(nn.Module):
    """f_a, the negative energy: latents `[..., D]` to `[...]` in nats; 0 everywhere at the start.

    Always in full precision: Langevin steps follow its gradient.
    """

    def __init__(self, dim: int, width: int, bound: float):
        super().__init__()
        self.bound = bound
        self.layers = nn.Sequential(
            nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.leave = nn.Linear(width, 1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, z: Tensor) -> Tensor:
        with torch.autocast(z.device.type, enabled=False):
            f = self.leave(self.layers(widen(z))).squeeze(-1)
        return self.bound * torch.tanh(f / self.bound) if self.bound else f


@register_model("mvebm", paper="Yuan, Cui, Li, Han: MVEBM (ECCV 2024)", version=1)
class MVEBM(Model):
    """MMVAE+ with a learned energy on the shared latent, sampled by short-run Langevin dynamics."""

    Config = MVEBMConfig
    max_given = None
    incomplete = True

    def __init__(self, spec: DataSpec, config: MVEBMConfig):
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
        self.auxiliary = nn.Parameter(torch.zeros(len(spec.modalities), config.private_dim))
        initialise(self, config.network)
        self.energy = Energy(config.shared_dim, config.energy_width, config.energy_bound)

    def stages(self) -> list[Stage]:
        return [AlternatingStage(self)]

    def evidence(
        self, views: Views, present: Tensor | None, rng: Rng
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The evidence lower bound without log Z, with one draw of every present expert.

        mean over m of sum_n lambda_n log p(x_n | z_m, w) + beta [f_a(z_m) + log p_0(z_m)
        + log p(w_m) - log mean_j q_j(z_m) - log q_m(w_m)], with m, n and j over the present
        modalities and w as in MMVAE+; then the mean over the tuples.

        Args:
            views: All modalities, `[B, ...]` each; those of an absent one do not count.
            present: `[B, M]` bool, or None where all are.
            rng: Noise of every draw.

        Returns:
            The scalar to ascend, the terms to log, and the draws z `[M, 1, B, Dz]`.
        """
        c, noise = self.config, self._noise(rng)
        q_z, q_w = (
            stack_posteriors([towers[name](views[name]) for name in self.spec.names])
            for towers in (self.shared, self.private)
        )
        z, w = draw_experts(q_z, noise, 1), draw_experts(q_w, noise, 1)  # [M, 1, B, D]
        laplace = c.family == "laplace"
        scales = softmax_scale(self.auxiliary) if laplace else (0.5 * self.auxiliary).exp()
        densities = cross_log_likelihoods(self.spec, self.decoders, views, (z, w), scales, noise)
        there = _there(z, present)  # [M, 1, B]
        weighted = [m.weight * d for m, d in zip(self.spec.modalities, densities, strict=True)]
        fidelity = sum(d.where(there[n], 0.0) for n, d in enumerate(weighted))  # [M, 1, B]
        own_w = type(q_w)(q_w.mean[:, None], q_w.scale[:, None], validate_args=False)
        rate_z = mixture_log_prob(q_z, z, present) - self.prior_log_density(z)
        rate_w = own_w.log_prob(w).sum(-1) - self._base(w).log_prob(w).sum(-1)
        terms = {
            f"nll_{name}": -_mean(weighted[n][n], there[n])
            for n, name in enumerate(self.spec.names)
        }
        terms |= {
            "rate_shared": expert_mean(rate_z, there),
            "rate_private": expert_mean(rate_w, there),
        }
        return expert_mean(fidelity - c.beta * (rate_z + rate_w), there), terms, z

    def contrast(
        self, z: Tensor, present: Tensor | None, rng: Rng
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """What f_a ascends: E_q f_a - E_{p_a} f_a, the latter by short-run Langevin from p_0.

        Args:
            z: Draws `[M, 1, B, Dz]` of the experts, the positives.
            present: `[B, M]` bool, or None where all are.
            rng: Randomness of the B chains.

        Returns:
            The scalar to ascend, and the terms to log.
        """
        negatives, slope = self._langevin(z.shape[2], self.config.langevin_steps, rng)
        positive = expert_mean(self.energy(z.detach()), _there(z, present))
        negative = self.energy(negatives).mean()
        gap = positive - negative
        return gap, {
            "energy_positive": positive,
            "energy_negative": negative,
            "energy_gap": gap,
            "langevin_gradient": slope.mean(),
        }

    def prior_log_density(self, z: Tensor) -> Tensor:
        """f_a(z) + log p_0(z) of latents `[..., Dz]`, without log Z; `[...]`."""
        return self.energy(z) + self._base(z).log_prob(z).sum(-1)

    def _langevin(self, n: int, steps: int, rng: Rng) -> tuple[Tensor, Tensor]:
        start = self._noise(rng.fork("start"))(n, self.config.shared_dim).to(self.auxiliary.dtype)
        gradient = gradient_of(self.prior_log_density)
        return sample_langevin(gradient, start, steps, self.config.step_size, rng.fork("steps"))

    def _noise(self, rng: Rng) -> Noise:
        return rng.laplace if self.config.family == "laplace" else rng.normal

    def _base(self, like: Tensor) -> Posterior:
        """p_0, and the private latents' prior: mean 0 and scale 1."""
        kind = Laplace if self.config.family == "laplace" else Normal
        return kind(torch.zeros_like(like), torch.ones_like(like), validate_args=False)

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, Dz]` of the mixture of the given modalities' experts; no Langevin."""
        return draw_mixture({n: self.shared[self.spec[n].name](x) for n, x in given.items()}, rng)

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Shared latents `[n, Dz]`: the ends of longer Langevin chains from p_0."""
        return self._langevin(n, self.config.sample_steps, rng)[0]

    def decode(self, z: Tensor, rng: Rng) -> Views:
        """Decoder means at shared latents `[n, Dz]`, private latents from their prior."""
        return {name: self._decode(name, z, rng) for name in self.spec.names}

    def sample(self, n: int, rng: Rng) -> Views:
        return self.decode(self.prior(n, rng.fork("shared")), rng)

    def translate(self, given: Views, targets: Sequence[str], rng: Rng) -> Views:
        z = self.encode(given, rng.fork("shared"))
        return {name: self._decode(name, z, rng, given.get(name)) for name in targets}

    def reconstruct(self, views: Views, rng: Rng) -> Views:
        return self.translate(views, self.spec.names, rng)

    def _decode(self, name: str, z: Tensor, rng: Rng, x: Tensor | None = None) -> Tensor:
        """The view at z, with the private latent of `x`, or of the prior where there is none."""
        modality, rng = self.spec[name], rng.fork("private", name)
        if x is None:
            private = self._noise(rng)(len(z), self.config.private_dim)
        else:
            private = draw(self.private[name](x), rng)[0]
        return view_of(modality, self.decoders[name](torch.cat([private, z], -1)))


class AlternatingStage(Stage):
    """Ascends the evidence with f_a fixed, then f_a's contrast with the rest fixed, in turn.

    Args:
        model: What is trained.
    """

    name = "vae"

    def __init__(self, model: MVEBM):
        c = model.config
        self.steps, self.batch_size, self._model, self._step = c.steps, c.batch_size, model, 0
        energy = list(model.energy.parameters())
        held = {id(p) for p in energy}
        networks = [p for p in model.parameters() if id(p) not in held]
        self._parts = {
            "networks": (networks, c.optimiser, c.optimiser.build(networks)),
            "energy": (energy, c.energy_optimiser, c.energy_optimiser.build(energy)),
        }

    def update(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        present = batch.present
        bound, terms, z = self._model.evidence(batch.views, present, rng.fork("evidence"))
        self._ascend("networks", bound)
        gap, energies = self._model.contrast(z, present, rng.fork("contrast"))
        self._ascend("energy", gap)
        self._step += 1
        return {n: value.detach() for n, value in ({"loss": -bound} | terms | energies).items()}

    def _ascend(self, part: str, value: Tensor) -> None:
        parameters, settings, optimiser = self._parts[part]
        for group in optimiser.param_groups:
            group["lr"] = settings.rate(self._step, self.steps)
        optimiser.zero_grad(set_to_none=True)
        (-value).backward(inputs=parameters)  # the other part gets no gradient
        if settings.clip:
            torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        held = {name: optimiser.state_dict() for name, (_, _, optimiser) in self._parts.items()}
        return {"step": self._step, "optimisers": held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        for name, (_, _, optimiser) in self._parts.items():
            optimiser.load_state_dict(state["optimisers"][name])


def _there(z: Tensor, present: Tensor | None) -> Tensor:
    """`present` `[B, M]`, or all, as `[M, 1, B]` beside the experts' draws `[M, 1, B, D]`."""
    if present is None:
        return torch.ones(z.shape[:-1], dtype=torch.bool, device=z.device)
    return present.T.unsqueeze(1)


def expert_mean(x: Tensor, there: Tensor) -> Tensor:
    """Mean of `[M, 1, B]` over each tuple's present experts `[M, 1, B]`, then over the tuples."""
    return (x.where(there, 0.0).sum(0) / there.sum(0)).mean()


def _mean(x: Tensor, there: Tensor) -> Tensor:
    """Mean of `x` where `there`, both `[1, B]`; 0 where there is nothing."""
    return x.where(there, 0.0).sum() / there.sum().clamp(min=1)

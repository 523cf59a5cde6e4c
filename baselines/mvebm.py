"""MVEBM (Yuan, Cui, Li, Han, ECCV 2024).

MMVAE+'s generator and mixture of experts, with an energy-based prior on the shared latent:
p_a(z) = exp(f_a(z)) p_0(z) / Z. No code is public. Details that the abstracts do not give are our
choice (reproduction/mvebm.md).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from shalabench.api import (
    Batch,
    DataSpec,
    Optimiser,
    PartedStage,
    Rng,
    Search,
    Settings,
    Stage,
    Views,
    register_model,
    setting,
)
from shalabench.nets.backbones import Network
from shalabench.nets.experts import Experts
from shalabench.nets.importance import expert_mean, importance_bound
from shalabench.nets.langevin import gradient_of, sample_langevin
from shalabench.nets.precision import autocast_off, widen
from shalabench.nets.private import PrivateLatents

_CHOICE = "not published: our choice (reproduction/mvebm.md)"
_BACKBONE = "as MMVAE+, whose networks it takes (reproduction/mvebm.md)"


class MVEBMConfig(Settings):
    """Settings; those of the networks are MMVAE+'s."""

    network: Network = Network()
    shared_dim: int = setting(
        32, "Size of the shared latent z.", _BACKBONE, search=Search(choices=(16, 32, 64)), ge=1
    )
    private_dim: int = setting(
        32, "Size of each private latent w_m.", _BACKBONE, search=Search(choices=(16, 32, 64)), ge=1
    )
    family: Literal["laplace", "normal"] = setting("laplace", "Of posteriors and p_0.", _BACKBONE)
    auxiliary_start: float = setting(
        0.0,
        "Raw scale of r_n at the start: a log variance if normal, a logit if laplace.",
        _BACKBONE,
    )
    experts: Experts = setting(
        "all",
        "Experts that each tuple samples: all, or a number of them, drawn at random.",
        _BACKBONE,
    )
    beta: float = setting(
        2.5, "Factor of the divergence terms.", _BACKBONE, search=Search(0.1, 10, log=True), ge=0
    )
    energy_width: int = setting(200, "Units of the two layers of f_a.", _CHOICE, ge=1)
    energy_bound: float = setting(
        20.0, "Largest |f_a|, by a tanh, so that Z is finite; 0 sets no bound.", _CHOICE, ge=0
    )
    energy_wait: float = setting(
        0.0,
        "Part of the updates before f_a is trained; until then f_a is 0.",
        _CHOICE,
        search=Search(0, 0.9),  # the later, the less f_a runs away from its chains
        stretches=True,
        ge=0,
        lt=1,
    )
    energy_decay: float = setting(
        0.0, "Factor of the mean of f_a squared, at positives and at negatives.", _CHOICE, ge=0
    )
    langevin_steps: int = setting(20, "Langevin steps from p_0 in training.", _CHOICE, ge=1)
    sample_steps: int = setting(60, "Langevin steps from p_0 when sampling.", _CHOICE, ge=1)
    step_size: float = setting(0.4, "s, the standard deviation of a step's noise.", _CHOICE, gt=0)
    steps: int = setting(117_000, "Updates.", _BACKBONE, counts_updates=True, ge=1)
    batch_size: int = setting(128, "Tuples an update, and chains.", _BACKBONE, ge=1)
    optimiser: Optimiser = setting(
        Optimiser(lr=1e-3, amsgrad=True), "Of all but the energy.", _BACKBONE, search=True
    )
    energy_optimiser: Optimiser = setting(Optimiser(lr=1e-4), "Of the energy.", _CHOICE)


class Energy(nn.Module):
    """The negative energy f_a, from latents `[..., D]` to `[...]` in nats; 0 at the start.

    It is computed in full precision, because Langevin steps follow its gradient.
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
        with autocast_off(z):
            f = self.leave(self.layers(widen(z))).squeeze(-1)
        return self.bound * torch.tanh(f / self.bound) if self.bound else f


@register_model("mvebm", paper="Yuan, Cui, Li, Han: MVEBM (ECCV 2024)", version=1)
class MVEBM(PrivateLatents):
    """MMVAE+ with an energy-based shared prior, sampled by short-run Langevin dynamics."""

    Config = MVEBMConfig

    def __init__(self, spec: DataSpec, config: MVEBMConfig):
        super().__init__(spec, config)
        self.energy = Energy(config.shared_dim, config.energy_width, config.energy_bound)

    def stages(self) -> list[Stage]:
        return [EnergyStage(self)]

    def evidence(
        self, views: Views, present: Tensor | None, rng: Rng
    ) -> tuple[Tensor, dict[str, Tensor], Tensor, Tensor | None]:
        """The evidence lower bound without log Z, from one draw of every present expert.

        If the setting `experts` is a number, k of them are drawn for each tuple.

        mean over m of sum_n lambda_n log p(x_n | z_m, w) + beta [f_a(z_m) + log p_0(z_m)
        + log p(w_m) - log mean_j q_j(z_m) - log q_m(w_m)], with m, n and j over the present
        modalities and w as in MMVAE+; then the mean over the tuples.

        Args:
            views: All modalities, `[B, ...]` each; absent ones do not count.
            present: `[B, M]` bool; None is all present.
            rng: Noise of every draw.

        Returns:
            The scalar to ascend, the terms to log, the draws z `[k, 1, B, Dz]` (k is M without the
            setting), and which of them count, `[B, k]` bool or None for all.
        """
        log_w, terms, (z, _), counted = self.log_weights(
            views, rng, self.prior_log_density, samples=1, beta=self.config.beta, present=present
        )
        return importance_bound(log_w, counted), terms, z, counted

    def contrast(
        self, z: Tensor, present: Tensor | None, rng: Rng
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The objective of f_a: E_q f_a - E_{p_a} f_a, with p_a by short-run Langevin from p_0.

        A penalty, `energy_decay` times E_q f_a^2 + E_{p_a} f_a^2, is subtracted. It keeps f_a small
        enough for the chains to follow.

        Args:
            z: Draws `[k, 1, B, Dz]` of k experts, the positives.
            present: `[B, k]` bool, those that count; None is all of them.
            rng: Randomness of the B chains.

        Returns:
            The scalar to ascend, and the terms to log.
        """
        negatives, slope = self._langevin(z.shape[2], self.config.langevin_steps, rng)
        at_positive, at_negative = self.energy(z.detach()), self.energy(negatives)
        positive, negative = expert_mean(at_positive, present), at_negative.mean()
        gap = positive - negative
        size = expert_mean(at_positive**2, present) + (at_negative**2).mean()
        return gap - self.config.energy_decay * size, {
            "energy_positive": positive,
            "energy_negative": negative,
            "energy_gap": gap,
            "langevin_gradient": slope.mean(),
        }

    def prior_log_density(self, z: Tensor) -> Tensor:
        """f_a(z) + log p_0(z) of latents `[..., Dz]`, without log Z; `[...]`."""
        return self.energy(z) + self.standard_log_prob(z)

    def _langevin(self, n: int, steps: int, rng: Rng) -> tuple[Tensor, Tensor]:
        start = self.noise(rng.fork("start"))(n, self.config.shared_dim).to(self.auxiliary.dtype)
        gradient = gradient_of(self.prior_log_density)
        return sample_langevin(gradient, start, steps, self.config.step_size, rng.fork("steps"))

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Shared latents `[n, Dz]`: the last points of longer Langevin chains from p_0."""
        return self._langevin(n, self.config.sample_steps, rng)[0]


class EnergyStage(PartedStage):
    """Raises the evidence with f_a fixed, then the contrast of f_a with the rest fixed, in turn."""

    def __init__(self, model: MVEBM):
        c = model.config
        self._model, self._wait = model, round(c.energy_wait * c.steps)
        energy = {id(p) for p in model.energy.parameters()}
        networks = [p for p in model.parameters() if id(p) not in energy]
        parts = {
            "networks": (networks, c.optimiser),
            "energy": (model.energy.parameters(), c.energy_optimiser),
        }
        super().__init__("vae", parts, steps=c.steps, batch_size=c.batch_size)

    @property
    def phase(self) -> bool:
        """Whether the next update trains f_a."""
        return self._step >= self._wait

    def work(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        bound, terms, z, counted = self._model.evidence(
            batch.views, batch.present, rng.fork("evidence")
        )
        self.descend("networks", -bound)
        gain, energies = self._model.contrast(z, counted, rng.fork("contrast"))
        if self.phase:
            self.descend("energy", -gain)
        return {"loss": -bound} | terms | energies

"""IDMVAE (Zhang, Shen, Wang, ICLR 2026).

MMVAE+ with three more terms: a contrast of the modalities' shared latents, a contrast of latents
with those of re-encoded mixtures, and diffusion priors of all latents, trained jointly.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from shalabench.api import (
    Batch,
    DataSpec,
    GradientStage,
    Optimiser,
    Rng,
    Search,
    Settings,
    Stage,
    register_model,
    setting,
)
from shalabench.nets.backbones import Network, decode_each
from shalabench.nets.diffusion import Denoiser, Schedule, embed_time, make_schedule
from shalabench.nets.experts import Experts
from shalabench.nets.likelihoods import mean_of
from shalabench.nets.pooling import pairs_of
from shalabench.nets.posteriors import Posterior
from shalabench.nets.precision import autocast_off, for_sampling, widen
from shalabench.nets.private import Family, PrivateLatents, draw_experts
from shalabench.nets.shared_latent import presence
from shalabench.nets.solvers import sample_ddim
from shalabench.nets.stacked import apply_each

_CODE = "IDMVAE code (reproduction/idmvae.md)"
_KIN = "our choice: as mmvae+, for data that the paper does not have (reproduction/idmvae.md)"


class PriorConfig(Settings):
    """Settings of the diffusion priors; they are trained with all else."""

    width: int = setting(512, "Units of a denoiser's layers.", _CODE, ge=8)
    timesteps: int = setting(1000, "T, steps of the forward process.", _CODE, ge=2)
    sampling_steps: int = setting(100, "Denoiser calls of a sample, by DDIM.", _CODE, ge=1)


class IDMVAEConfig(Settings):
    """Settings; without the weights of the three terms the defaults are those of MMVAE+."""

    network: Network = Network()
    shared_dim: int = setting(
        32, "Size of the shared latent z.", _KIN, search=Search(choices=(16, 32, 64)), ge=1
    )
    private_dim: int = setting(
        32, "Size of each private latent w_m.", _KIN, search=Search(choices=(16, 32, 64)), ge=1
    )
    family: Family = setting("laplace", "Of posteriors and of the bound's priors.", _KIN)
    auxiliary_start: float = setting(
        0.0, "Raw scale of r_n at the start: a log variance if normal, a logit if laplace.", _KIN
    )
    importance_samples: int = setting(1, "K, samples of each expert.", _CODE, ge=1)
    experts: Experts = setting(
        "all",
        "Experts that each tuple samples: all, or a number of them, drawn at random.",
        _CODE,
    )
    estimator: Literal["iwae", "dreg"] = setting(
        "iwae", "Gradient of the bound: plain or doubly reparametrised.", _CODE
    )
    beta: float = setting(
        2.5, "Factor of the divergence terms.", _CODE, search=Search(0.1, 10, log=True), ge=0
    )
    contrast: float = setting(
        80.0,
        "Weight of the contrast between modalities; 0 for none.",
        f"{_CODE}: PolyMNIST-Quadrant",
        search=Search(1, 100, log=True),
        ge=0,
    )
    reencoding: float = setting(
        20.0,
        "Weight of the contrast with re-encoded mixtures; 0 for none.",
        f"{_CODE}: PolyMNIST-Quadrant",
        ge=0,
    )
    diffusion: float = setting(
        1.0,
        "Weight of the diffusion priors; 0 for the fixed priors alone.",
        f"{_CODE}: PolyMNIST-Quadrant",
        ge=0,
    )
    temperature: float = setting(1.0, "Temperature of both contrasts.", _CODE, gt=0)
    prior: PriorConfig = PriorConfig()
    steps: int = setting(
        117_000, "Updates.", f"{_KIN}: 250 epochs of 60,000 at 128", counts_updates=True, ge=1
    )
    batch_size: int = setting(128, "Tuples an update.", _CODE, ge=1)
    optimiser: Optimiser = setting(
        Optimiser(lr=1e-3, amsgrad=True), "Of the training.", _KIN, search=True
    )


@register_model("idmvae", paper="Zhang, Shen, Wang: IDMVAE (ICLR 2026)", version=1)
class IDMVAE(PrivateLatents):
    """MMVAE+ whose latents are disentangled by contrasts, and whose priors are diffusions.

    With all three weights at 0 it is MMVAE+. A term without weight is not computed, and its random
    numbers are forked, so that it changes no other draw.
    """

    Config = IDMVAEConfig

    def __init__(self, spec: DataSpec, config: IDMVAEConfig):
        super().__init__(spec, config)
        self.denoisers = nn.ModuleDict()
        if config.diffusion:
            width = config.prior.width
            self.denoisers["shared"] = LatentDenoiser(config.shared_dim, width)
            self.denoisers["private"] = nn.ModuleDict(
                {name: LatentDenoiser(config.private_dim, width) for name in spec.names}
            )
            self.schedule = make_schedule("sigmoid", config.prior.timesteps, "data")

    def stages(self) -> list[Stage]:
        c = self.config
        return [
            GradientStage(
                "vae", self._loss, self, c.optimiser, steps=c.steps, batch_size=c.batch_size
            )
        ]

    def _loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        c = self.config
        encoded = self.posteriors(batch.views)
        loss, terms = self.importance_loss(batch, rng, self.standard_log_prob, encoded)
        there = presence(batch, len(self.spec.names))  # [M, B]
        added = {
            "contrast": (c.contrast, lambda: self.cross_contrast(encoded[0], there)),
            "reencoding": (
                c.reencoding,
                lambda: self.reencoding_contrast(encoded, there, rng.fork("reencoding")),
            ),
            "diffusion": (
                c.diffusion,
                lambda: self.diffusion_loss(encoded, there, rng.fork("diffusion")),
            ),
        }
        for name, (weight, term) in added.items():
            if weight:
                terms[name] = value = term()
                loss = loss + weight * value
        return loss, terms

    def cross_contrast(self, q_z: Posterior, there: Tensor) -> Tensor:
        """Sum of the losses of ordered pairs of modalities over M - 1, a scalar in nats.

        Each is the contrast of the means of z over the tuples that have both modalities. It is M
        times the mean over pairs, as in the code. One modality has no pair.

        Args:
            q_z: Batch shape `[M, B, Dz]`.
            there: `[M, B]` bool.
        """
        i, j = pairs_of(len(there), there.device)
        losses = contrast(q_z.mean[i], q_z.mean[j], there[i] & there[j], self.config.temperature)
        return 2 * losses.sum() / max(len(there) - 1, 1)

    def reencoding_contrast(
        self, encoded: tuple[Posterior, Posterior], there: Tensor, rng: Rng
    ) -> Tensor:
        """Whether a mixture keeps what it was made of; a sum over modalities, in nats.

        A view is decoded from a tuple's z and the w of the tuple before it in the batch, and its z
        is encoded: it is contrasted with the tuple's. Likewise for w with the z of the tuple
        before it. Half of the sum of both losses counts. Contrasted are means; a text is encoded as
        the probabilities of its tokens, so that gradients reach the decoder.

        Args:
            encoded: Posteriors of z and w, batch shapes `[M, B, D]`.
            there: `[M, B]` bool; a mixture counts where both of its tuples have the modality.
            rng: Noise of the draws.
        """
        noise, names = self.noise(rng), self.spec.names
        z, w = (draw_experts(q, noise, 1)[:, 0] for q in encoded)  # [M, B, D]
        before_z, before_w = z.roll(1, 1), w.roll(1, 1)
        mixed = torch.cat([torch.cat([before_w, z], -1), torch.cat([w, before_z], -1)], 1)
        outputs = decode_each([self.decoders[n] for n in names], list(mixed))
        made = [mean_of(m, x) for m, x in zip(self.spec.modalities, outputs, strict=True)]
        size = z.shape[1]
        found = apply_each(
            [self.shared[n] for n in names] + [self.private[n] for n in names],
            [x[:size] for x in made] + [x[size:] for x in made],
        )
        both, tau = there & there.roll(1, 1), self.config.temperature
        again = torch.stack([q.mean for q in found[: len(names)]])
        losses = contrast(encoded[0].mean, again, both, tau)
        again = torch.stack([q.mean for q in found[len(names) :]])
        return 0.5 * (losses + contrast(encoded[1].mean, again, both, tau)).sum()

    def diffusion_loss(
        self, encoded: tuple[Posterior, Posterior], there: Tensor, rng: Rng
    ) -> Tensor:
        """Denoising errors of the means of z and of w, the mean over modalities of their sum.

        All modalities share the denoiser of z. The errors have gradients to the encoders.

        Args:
            encoded: Posteriors of z and w, batch shapes `[M, B, D]`.
            there: `[M, B]` bool.
            rng: Times and noise.
        """
        shared, private = self._denoisers()
        q_z, q_w = encoded
        rows = q_z.mean.flatten(0, 1)  # [M B, Dz]
        errors = data_loss(shared, self.schedule, rows, rng.fork("z")).view_as(there)
        own = [
            data_loss(network, self.schedule, q_w.mean[m], rng.fork("w", m))
            for m, network in enumerate(private.values())
        ]
        total = (errors + torch.stack(own)).where(there, 0.0).sum(1)  # [M]
        return (total / there.sum(1).clamp(min=1)).mean()

    def _denoisers(self) -> tuple[nn.Module, dict[str, nn.Module]]:
        private = cast(nn.ModuleDict, self.denoisers["private"])
        return self.denoisers["shared"], dict(private.items())

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Shared latents `[n, Dz]` of the diffusion prior; without its weight, of the fixed one."""
        if not self.config.diffusion:
            return self.noise(rng)(n, self.config.shared_dim)
        return self._sample(self._denoisers()[0], n, self.config.shared_dim, rng)

    def private_prior(self, n: int, rng: Rng, name: str) -> Tensor:
        """Private latents `[n, Dw]` of a modality's diffusion prior; as for `prior`."""
        if not self.config.diffusion:
            return super().private_prior(n, rng, name)
        source = rng.fork("private", name)
        return self._sample(self._denoisers()[1][name], n, self.config.private_dim, source)

    def _sample(self, denoiser: nn.Module, n: int, dim: int, rng: Rng) -> Tensor:
        steps, network = self.config.prior.sampling_steps, for_sampling(denoiser)
        return sample_ddim(network, self.schedule, rng.normal(n, dim), steps)


class LatentDenoiser(nn.Module):
    """Predicts z_0 from z_t `[N, D]` and t `[N]`: two layers, a time, two more (IDMVAE code)."""

    def __init__(self, dim: int, width: int):
        super().__init__()
        self.width = width
        self.enter = nn.Sequential(nn.Linear(dim, width), nn.GELU(), nn.Linear(width, width))
        self.time = nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
        self.leave = nn.Sequential(nn.GELU(), nn.Linear(width, dim))

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        dtype = self.leave[1].weight.dtype
        time = self.time(embed_time(t, self.width).to(dtype))
        return self.leave(self.enter(z.to(dtype)) + time)


def data_loss(denoiser: Denoiser, schedule: Schedule, z0: Tensor, rng: Rng) -> Tensor:
    """Squared error of predicted data at uniform t, times its signal-to-noise ratio; `[N]`.

    It is summed over dimensions. The ratio signal^2 / sigma^2 is clipped to [1, 100].

    Args:
        denoiser: It predicts z_0.
        schedule: The forward process.
        z0: `[N, D]`.
        rng: Times and noise.
    """
    t = 1 + rng.integers(schedule.steps, len(z0))
    noise = rng.normal(*z0.shape)
    ratio = (schedule.signal[t] / schedule.sigma[t]).square().clamp(1, 100)
    output = widen(denoiser(schedule.diffuse(z0, t, noise), t))
    return ratio * (output - z0).square().sum(-1)


def contrast(a: Tensor, b: Tensor, there: Tensor, temperature: float) -> Tensor:
    """NT-Xent of paired rows (Chen et al. 2020, eq. 1) in nats, for P sets of pairs: `[P]`.

    The 2B rows are those of a and of b. A row's loss is minus the log of the share that its partner
    has of exp(cosine similarity / temperature), summed over all rows but itself. A pair alone has
    the loss 0.

    Args:
        a: `[P, B, D]`.
        b: `[P, B, D]`.
        there: The pairs that count, `[P, B]` bool; the others are left out of all sums.
        temperature: Above 0.
    """
    size = a.shape[1]
    rows = functional.normalize(widen(torch.cat([a, b], 1)), dim=-1)
    with autocast_off(rows):
        logits = rows @ rows.mT / temperature  # [P, 2B, 2B]
    counted = there.repeat(1, 2)
    others = ~torch.eye(2 * size, dtype=torch.bool, device=rows.device)
    # The least number, not minus infinity: the gradient of a row without others is not NaN.
    low = torch.finfo(logits.dtype).min
    shares = logits.masked_fill(~(counted[:, None] & others), low).log_softmax(-1)
    partner = torch.arange(2 * size, device=rows.device).roll(size)
    own = shares.gather(-1, partner.expand(len(a), -1)[..., None])[..., 0]  # [P, 2B]
    return -own.where(counted, 0.0).sum(1) / counted.sum(1).clamp(min=1)

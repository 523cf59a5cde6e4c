"""ShaLa as a model of the benchmark: settings, two training stages, generation and transfer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from shala.inference import Inference
from shala.prior import SAMPLING, DiffusionPrior, PriorConfig
from shala.transfer import transfer_latent
from shalabench.api import (
    Batch,
    DataSpec,
    GradientStage,
    Model,
    Now,
    Optimiser,
    Rng,
    Search,
    Settings,
    Split,
    Stage,
    Views,
    register_model,
    rise,
    setting,
)
from shalabench.nets.backbones import Network, encoder
from shalabench.nets.posteriors import draw

_OPEN = "our choice, not given in the paper"
_RAGGED = "prior.condition=view encodes as many views of a modality as are drawn"
_ENCODING_BATCH = 1000  # Tuples at a time when the whole training split is encoded.


class ShaLaConfig(Settings):
    """Settings of the inference model and of the diffusion prior."""

    network: Network = Network()
    latent_dim: int = setting(
        64,
        "D, size of the shared latent.",
        f"{_OPEN} (reproduction/shala.md)",
        search=Search(choices=(16, 32, 64, 128)),
        ge=1,
    )
    feature_dim: int = setting(
        64,
        "Size of each h_i.",
        f"{_OPEN}: a bottleneck",
        search=Search(choices=(16, 32, 64, 128)),
        ge=1,
    )
    fusion_width: int = setting(
        512, "Units of the fusion's two layers.", f"{_OPEN}: 'several linear layers'", ge=1
    )
    beta: float = setting(
        1.0,
        "Factor of the KL divergence.",
        "ShaLa paper, section 3.2: the ELBO",
        search=Search(0.1, 10, log=True),
        ge=0,
    )
    kl_warmup: float = setting(
        0.0,
        "Fraction of stage 1 in which beta rises linearly.",
        _OPEN,
        stretches=True,
        ge=0,
        le=1,
    )
    steps: int = setting(
        117_000,
        "Updates of stage 1.",
        "MMVAE+ code: 250 epochs of 60,000 at 128",
        counts_updates=True,
        ge=1,
    )
    batch_size: int = setting(128, "Tuples in an update of stage 1.", "MMVAE+ code", ge=1)
    optimiser: Optimiser = setting(
        Optimiser(lr=1e-3, amsgrad=True),
        "Optimiser of stage 1.",
        "MMVAE+ code (reproduction/mmvae-plus.md)",
        search=True,
    )
    prior: PriorConfig = PriorConfig()


@register_model("shala", paper="Cui, Chen, Zhang, Klenk: ShaLa (AAAI 2026)", version=1)
class ShaLa(Model):
    """Features of all modalities fused into one posterior, and a diffusion prior of the latent."""

    Config = ShaLaConfig
    max_given = None

    def __init__(self, spec: DataSpec, config: ShaLaConfig):
        super().__init__(spec, config)
        self.inference = Inference(
            spec, config.network, config.latent_dim, config.feature_dim, config.fusion_width
        )
        self.prior_net = DiffusionPrior(spec, config.prior, config.latent_dim, config.feature_dim)
        if config.prior.condition == "view":  # Table 5: condition on x_j by separate encoders
            self.prior_net.encoders = nn.ModuleDict()
            for modality in spec.modalities:
                trunk = encoder(modality, config.network)
                self.prior_net.encoders[modality.name] = nn.Sequential(
                    trunk, nn.Linear(trunk.features, config.feature_dim)
                )

    def stages(self) -> list[Stage]:
        c = self.config
        return [
            GradientStage(
                "inference",
                self._inference_loss,
                self.inference,
                c.optimiser,
                steps=c.steps,
                batch_size=c.batch_size,
                ignores=("prior",),
            ),
            GradientStage(
                "prior",
                self._prior_loss,
                self.prior_net,
                c.prior.optimiser,
                steps=c.prior.steps,
                batch_size=c.prior.batch_size,
                ema=c.prior.ema,
                begin=self._encode_training_data,
                finish=self._forget_training_data,
                ignores=tuple(f"prior.{name}" for name in SAMPLING),
                host="" if c.prior.condition == "feature" else _RAGGED,
            ),
        ]

    def _inference_loss(
        self, batch: Batch, rng: Rng, step: Now
    ) -> tuple[Tensor, dict[str, Tensor]]:
        beta = self.config.beta * rise(step, self.config.kl_warmup * self.config.steps)
        return self.inference.elbo(batch.views, beta, rng)

    @torch.no_grad()
    def _encode_training_data(self, data: Split) -> None:
        was_training = self.inference.training
        self.inference.eval()
        means, stds, features = [], [], []
        for batch in data.batches(_ENCODING_BATCH):
            h = self.inference.features(batch.views)
            posterior = self.inference.posterior(h)
            means.append(posterior.mean)
            stds.append(posterior.stddev)
            features.append(torch.stack([h[name] for name in self.spec.names]))
        self._latents = torch.cat(means), torch.cat(stds), torch.cat(features, dim=1)
        learned = self.config.prior.condition == "view"
        self.prior_net.fit_scale(*self._latents[:2], None if learned else self._latents[2])
        self.inference.train(was_training)

    def _forget_training_data(self, data: Split) -> None:
        del self._latents

    def _prior_loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        means, stds, features = self._latents
        index = batch.index
        z0 = means[index] + stds[index] * rng.normal(len(index), means.shape[1])
        which = rng.integers(len(self.spec.modalities), len(index))
        learned = self.config.prior.condition == "view"
        h = self._encode_drawn(batch.views, which) if learned else features[which, index]
        return self.prior_net.loss(z0, h, which, rng), {}

    def _encode_drawn(self, views: Views, which: Tensor) -> Tensor:
        """Conditions `[B, F]` of the drawn modalities `[B]`; only these views are encoded."""
        drawn = {name: views[name][which == m] for m, name in enumerate(self.spec.names)}
        grouped = torch.cat(list(self._conditions(drawn).values()))
        return grouped[which.argsort(stable=True).argsort()]

    def _conditions(self, given: Views) -> dict[str, Tensor]:
        if self.config.prior.condition == "view":
            return {n: self.prior_net.encoders[self.spec[n].name](x) for n, x in given.items()}
        return self.inference.features(given)

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A latent sample `[B, D]` given some modalities.

        It is drawn from q(z|X) if all modalities are given, else from the conditional prior.
        """
        if set(given) == set(self.spec.names):
            return draw(self.inference.posterior(self.inference.features(given)), rng)[0]
        n = len(next(iter(given.values())))
        start = self.prior_net.noise(n, rng.fork("start"))
        return self.prior_net.generate(start, self._conditions(given), rng.fork("reverse"))

    def prior(self, n: int, rng: Rng) -> Tensor:
        """Latents `[n, D]` of the unconditional diffusion prior."""
        return self.prior_net.generate(
            self.prior_net.noise(n, rng.fork("start")), {}, rng.fork("reverse")
        )

    def trace(self, n: int, times: Sequence[float], rng: Rng) -> dict[float, Tensor]:
        """The latents of `prior` at several times of the reverse process (Figure 4)."""
        start = self.prior_net.noise(n, rng.fork("start"))
        return self.prior_net.trace(start, times, rng.fork("reverse"))

    def decode(self, z: Tensor, rng: Rng) -> Views:
        """Decoder means at latents `[n, D]`; `rng` is not used."""
        return self.inference.decode(z, self.spec.names)

    def sample(self, n: int, rng: Rng) -> Views:
        return self.decode(self.prior(n, rng), rng)

    def translate(self, given: Views, targets: Sequence[str], rng: Rng) -> Views:
        for name in [*given, *targets]:
            self.spec[name]  # a KeyError names an unknown modality
        n = len(next(iter(given.values())))
        start = self.prior_net.noise(n, rng.fork("start"))
        z = self.prior_net.generate(start, self._conditions(given), rng.fork("reverse"))
        return self.inference.decode(z, tuple(targets))

    def reconstruct(self, views: Views, rng: Rng) -> Views:
        return self.inference.decode(self.encode(views, rng), self.spec.names)

    def transfer(
        self,
        source: Views,
        reference: Views,
        strength: float,
        rng: Rng,
        *,
        guidance: float | None = None,
    ) -> Views:
        z = self.encode(source, rng.fork("source"))
        features = self._conditions(reference)
        z = transfer_latent(self.prior_net, z, features, strength, rng, guidance)
        return self.inference.decode(z, self.spec.names)

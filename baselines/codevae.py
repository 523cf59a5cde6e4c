"""CoDE-VAE (Mancisidor, Jenssen, Yu, Kampffmeyer, ICML 2025): a consensus of dependent experts."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator
from torch import Tensor, nn

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
from shalabench.nets.experts import subsets
from shalabench.nets.pooled import present_subsets
from shalabench.nets.pooling import pool, pool_all, refuse_rho, refuse_subsets
from shalabench.nets.posteriors import draw, kl_to_standard
from shalabench.nets.shared_latent import SharedLatent, own_losses, presence

_CODE = "CoDE-VAE code, CoDE.py, CoDEVAE_MST.py (reproduction/codevae.md)"
_POLYMNIST = "CoDE-VAE code, the default of CoDEVAE_MMNIST.py (reproduction/codevae.md)"
_KIN = "our choice, as its script for PolyMNIST is not public: as mopoe (reproduction/codevae.md)"
_DECODED = 7  # Modalities of which all 127 subsets are decoded, and as many of more modalities.
_DRAWN = 16  # Modalities of whose 65,535 subsets some can be drawn.


def _check_subsets(value: Any) -> Any:
    if value == "all" or (type(value) is int and value >= 1):
        return value
    raise ValueError("write 'all', or a number of subsets from 1 to 2^M - 1 for M modalities")


class CoDEVAEConfig(Settings):
    """Settings; of the published ones, those of PolyMNIST are not public."""

    network: Network = setting(Network(family="conv"), "Encoders and decoders.", _KIN)
    latent_dim: int = setting(
        512, "D, size of the latent.", _KIN, search=Search(choices=(16, 32, 64, 128)), ge=1
    )
    beta: float = setting(
        2.5, "Factor of the divergences.", _POLYMNIST, search=Search(0.1, 10, log=True), ge=0
    )
    rho: float = setting(
        0.4,
        "Correlation of the experts' errors.",
        "CoDE-VAE code, train_codevae_mst.py (reproduction/codevae.md)",
        search=Search(choices=(0.0, 0.2, 0.4, 0.6, 0.8)),
    )
    weights: Literal["learned", "uniform"] = setting(
        "learned", "Weights of the subsets' bounds.", f"{_CODE}: --subsets_trainable_weights"
    )
    entropy: float = setting(
        1000.0, "Factor of the entropy of learned weights, in nats a nat.", _CODE, gt=0
    )
    subsets: Annotated[Literal["all"] | int, BeforeValidator(_check_subsets)] = setting(
        "all",
        "Subsets that each tuple of an update decodes: all, or k drawn at random; k needs "
        "weights=uniform.",
        _CODE,
    )
    steps: int = setting(
        70_200, "Updates.", f"{_KIN}: 300 epochs of 234", counts_updates=True, ge=1
    )
    batch_size: int = setting(256, "Tuples an update.", _KIN, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=5e-4), "Of the training.", _KIN, search=True)


@register_model(
    "codevae", paper="Mancisidor, Jenssen, Yu, Kampffmeyer: CoDE-VAE (ICML 2025)", version=1
)
class CoDEVAE(SharedLatent):
    """The bounds of all subsets, each under the consensus of its experts, with learned weights."""

    Config = CoDEVAEConfig
    incomplete = True

    def __init__(self, spec: DataSpec, config: Settings):
        super().__init__(spec, config)
        if config.weights == "learned":
            self.logits = nn.Parameter(torch.zeros(2 ** len(spec.modalities) - 1))

    @classmethod
    def skip(cls, spec: DataSpec, config: Settings) -> str | None:
        modalities = len(spec.modalities)
        most = 2 ** min(modalities, _DECODED) - 1
        if reason := refuse_rho(spec, config.rho):
            return reason
        if config.subsets == "all":
            instead = f"Use model.weights=uniform and model.subsets={most} or fewer"
            return refuse_subsets(spec, instead, _DECODED)
        if modalities > _DRAWN:
            return (
                f"It numbers all subsets: the data have {modalities} modalities, at most {_DRAWN}."
            )
        if config.subsets > most:
            return (
                f"model.subsets is {config.subsets}, but of {modalities} modalities at most {most} "
                f"subsets are decoded; use 1 to {most}{', or all' * (modalities <= _DECODED)}."
            )
        if config.weights == "learned":
            return (
                f"model.subsets is {config.subsets}, but weights are learned from all subsets; use "
                "model.weights=uniform or model.subsets=all."
            )
        return None

    def loss(self, batch: Batch, rng: Rng, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Minus the weighted bounds of subsets and the entropy of the weights, mean over the batch.

        sum_S w_S [sum_m -lambda_m log p(x_m | z_S) + beta KL(q_S || N(0, I))] - entropy H(w), with
        one draw z_S of each q_S. S goes over the subsets of the present modalities, and m over all
        present ones, also those outside S. w is normalised over a tuple's S.
        """
        c, names = self.config, self.spec.names
        q = self.experts(batch.views)  # [M, B, D]
        there = presence(batch, len(names))
        members, valid = self._sets(there, rng)  # [S, B, M], [S, B]
        pooled = pool(q, members, "consensus", c.rho)  # [S, B, D]
        noise = rng.normal(len(batch), len(valid), c.latent_dim).transpose(0, 1)
        densities = self.log_likelihoods(batch.views, pooled.mean + pooled.scale * noise)
        densities = densities.where(there[:, None], 0.0)  # [M, S, B]
        rates = kl_to_standard(pooled)  # [S, B]
        learned = c.weights == "learned"
        logits = self.logits if learned else torch.zeros_like(rates[:, 0])
        log_w = logits[:, None].masked_fill(~valid, -math.inf).log_softmax(0)
        w = log_w.exp()
        loss = (w * (c.beta * rates - densities.sum(0))).sum(0).mean()
        own = (w * densities).sum(1)  # [M, B]
        terms = own_losses(names, own, there) | {"kl": (w * rates).sum(0).mean()}
        if learned:
            entropy = -(w * log_w.where(valid, 0.0)).sum(0).mean()
            loss, terms = loss - c.entropy * entropy, terms | {"entropy": entropy}
        return loss, terms

    def _sets(self, there: Tensor, rng: Rng) -> tuple[Tensor, Tensor]:
        """The subsets of each tuple, `[S, B, M]` bool, and whether they count, `[S, B]` bool.

        A number of them is drawn evenly and without replacement among those of the tuple's present
        modalities; a tuple with fewer subsets has all of them.

        Args:
            there: `[M, B]` bool.
            rng: Randomness of the choice.
        """
        if self.config.subsets == "all":
            return present_subsets(there)
        members = subsets(len(there), there.device)
        valid = (members.float() @ (~there).float() == 0).T  # [B, 2^M - 1]
        keys = rng.fork("subsets").uniform(*valid.shape).masked_fill(~valid, -1.0)
        which = keys.topk(self.config.subsets, 1).indices  # [B, k]
        return members[which.T], valid.gather(1, which).T

    def encode(self, given: Views, rng: Rng) -> Tensor:
        """A sample `[B, D]` of the consensus of the given modalities' experts."""
        return draw(pool_all(self.experts(given), "consensus", self.config.rho), rng)[0]

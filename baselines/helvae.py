"""HELVAE (Vo, Valera, AISTATS 2026): experts pooled by the Hellinger distance."""

from __future__ import annotations

from typing import Literal

from shalabench.api import Optimiser, Search, Settings, register_model, setting
from shalabench.nets.backbones import Network
from shalabench.nets.pooled import PooledLatent, Rule
from shalabench.nets.pooling import Pooling

_KIN = "our choice: as mopoe, whose code theirs extends (reproduction/helvae.md)"


class HELVAEConfig(Settings):
    """Settings; nothing is published for PolyMNIST, so the defaults are those of MoPoE there."""

    network: Network = setting(Network(family="conv"), "Encoders and decoders.", _KIN)
    latent_dim: int = setting(
        512, "D, size of the latent.", _KIN, search=Search(choices=(16, 32, 64, 128)), ge=1
    )
    beta: float = setting(
        2.5, "Factor of the divergence.", _KIN, search=Search(0.1, 10, log=True), ge=0
    )
    pooling: Pooling = setting(
        "hellinger",
        "How experts make one posterior.",
        "HELVAE code, mm_div.py (reproduction/helvae.md); the others are for the ablation pooling",
    )
    rho: float = setting(
        0.4,
        "Correlation of the experts' errors; only pooling=consensus reads it.",
        "CoDE-VAE code, train_codevae_mst.py (reproduction/codevae.md)",
    )
    training: Literal["full", "subsets"] = setting(
        "full",
        "Sets that are trained: all modalities, or all subsets as a mixture, which is mohelvae.",
        "HELVAE code, run_epochs.py (reproduction/helvae.md)",
    )
    steps: int = setting(
        70_200, "Updates.", f"{_KIN}: 300 epochs of 234", counts_updates=True, ge=1
    )
    batch_size: int = setting(256, "Tuples an update.", _KIN, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=5e-4), "Of the training.", _KIN, search=True)


@register_model("helvae", paper="Vo, Valera: HELVAE (AISTATS 2026)", version=1)
class HELVAE(PooledLatent):
    """One evidence lower bound of all modalities, under the Hellinger pooling of their experts."""

    Config = HELVAEConfig

    @classmethod
    def rule(cls, config: HELVAEConfig) -> Rule:
        return Rule(config.pooling, config.rho, subsets=config.training == "subsets")

"""MoHELVAE (Vo, Valera, AISTATS 2026): MoPoE with Hellinger pooling in place of products."""

from __future__ import annotations

from typing import Literal

from shalabench.api import Optimiser, Search, Settings, register_model, setting
from shalabench.nets.backbones import Network
from shalabench.nets.pooled import PooledLatent, Rule

_KIN = "our choice: as mopoe, whose code theirs extends (reproduction/helvae.md)"


class MoHELVAEConfig(Settings):
    """Settings; nothing is published for PolyMNIST, so the defaults are those of MoPoE there."""

    network: Network = setting(Network(family="conv"), "Encoders and decoders.", _KIN)
    latent_dim: int = setting(
        512, "D, size of the latent.", _KIN, search=Search(choices=(16, 32, 64, 128)), ge=1
    )
    beta: float = setting(
        2.5, "Factor of the divergence.", _KIN, search=Search(0.1, 10, log=True), ge=0
    )
    components: Literal["random", "slices"] = setting(
        "random",
        "Subset of an item's sample: random, or by the item's position in the batch.",
        "our choice: as mopoe; 'slices' is the code's (reproduction/helvae.md)",
    )
    steps: int = setting(
        70_200, "Updates.", f"{_KIN}: 300 epochs of 234", counts_updates=True, ge=1
    )
    batch_size: int = setting(256, "Tuples an update.", _KIN, ge=1)
    optimiser: Optimiser = setting(Optimiser(lr=5e-4), "Of the training.", _KIN, search=True)


@register_model("mohelvae", paper="Vo, Valera: HELVAE (AISTATS 2026)", version=1)
class MoHELVAE(PooledLatent):
    """q(z|X) is the mixture, over all subsets, of the Hellinger pooling of a subset's experts."""

    Config = MoHELVAEConfig

    @classmethod
    def rule(cls, config: MoHELVAEConfig) -> Rule:
        return Rule("hellinger", subsets=True, sliced=config.components == "slices")

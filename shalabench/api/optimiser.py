"""Settings of a gradient descent."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from shalabench.api.settings import Search, Settings, setting

if TYPE_CHECKING:
    import torch
    from torch import nn


class Optimiser(Settings):
    """Settings of a gradient descent."""

    name: Literal["adam", "adamw"] = setting(
        "adam", "Update rule.", "the baselines' code (reproduction/polymnist.md)"
    )
    lr: float = setting(
        1e-3,
        "Peak learning rate.",
        "MMVAE+ code (reproduction/mmvae-plus.md)",
        search=Search(1 / 4, 4, log=True, relative=True),  # data differ in it more than methods do
        gt=0,
    )
    betas: tuple[float, float] = setting(
        (0.9, 0.999), "Decay of the moment estimates.", "Kingma and Ba 2015"
    )
    amsgrad: bool = setting(False, "Keep the maximum of the second moment.", "torch's default")
    weight_decay: float = setting(0.0, "Decay of the weights.", "torch's default for Adam", ge=0)
    schedule: Literal["constant", "cosine"] = setting(
        "constant",
        "Learning rate after the warm-up: constant, or a half cosine to 0.",
        "the baselines' code (reproduction/polymnist.md)",
    )
    warmup: float = setting(
        0.0,
        "Part of the steps over which the rate rises linearly from 0.",
        "our choice: none published",
        ge=0,
        lt=1,
    )
    clip: float = setting(
        0.0,
        "Largest norm of the whole gradient; 0 does not clip.",
        "our choice: none published",
        ge=0,
    )

    def build(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The optimiser, fused into one kernel where the device has it."""
        import torch  # settings are read without it

        kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self.name]
        fused = parameters[0].device.type in ("cpu", "cuda")
        return kind(
            parameters,
            lr=self.lr,
            betas=self.betas,
            amsgrad=self.amsgrad,
            weight_decay=self.weight_decay,
            fused=fused,
        )

    def rate(self, step: int, steps: int) -> float:
        """Learning rate of update `step` (counted from 0) of `steps`."""
        rise = self.warmup * steps
        if step < rise:
            return self.lr * (step + 1) / (rise + 1)
        if self.schedule == "constant":
            return self.lr
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))

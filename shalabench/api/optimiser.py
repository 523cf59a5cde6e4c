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
    schedule: Literal["constant", "cosine", "wsd"] = setting(
        "constant",
        "Learning rate after the warm-up: constant, a half cosine to 0, or constant with a fall to "
        "0 at the end (wsd; docs/progress.md).",
        "the baselines' code (reproduction/polymnist.md)",
    )
    warmup: float = setting(
        0.0,
        "Warm-up, in which the rate rises linearly from 0: a fraction of the updates if below 1, "
        "else a number of updates.",
        "our choice: none published",
        ge=0,
    )
    cooldown: float = setting(
        0.1,
        "Fraction of the updates in which the rate of wsd falls, as 1 - sqrt(the part done).",
        "Hägele et al. 2024, section 4: 10 to 20 % of the steps, and 1 - sqrt before a line",
        gt=0,
        lt=1,
    )
    clip: float = setting(
        0.0,
        "Clip the gradient to this norm; 0 does not clip.",
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
        rise = self.warmup if self.warmup >= 1 else self.warmup * steps
        if step < rise:
            return self.lr * (step + 1) / (rise + 1)
        if self.schedule == "constant":
            return self.lr
        if self.schedule == "wsd":
            fall = self._fall(steps)
            done = max(0, step - (steps - fall)) / max(fall, 1)
            return self.lr * (1 - math.sqrt(done))
        return self.lr * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(steps - rise, 1)))

    def common(self, steps: int, others: int) -> int:
        """Number of first updates with the same rates in trainings of `steps` and of `others`."""
        least = min(steps, others)
        if steps == others:
            return least
        if self.schedule == "cosine" or 0 < self.warmup < 1:
            return 0
        return least - self._fall(least) if self.schedule == "wsd" else least

    def _fall(self, steps: int) -> int:
        """Updates over which wsd's rate falls."""
        return round(self.cooldown * steps)

"""The contract of a training stage, and the ordinary stage that descends a gradient."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from shalabench.api.dataset import Batch, Split
from shalabench.api.random import Rng
from shalabench.api.settings import Settings, setting

Loss = Callable[[Batch, Rng, int], tuple[Tensor, dict[str, Tensor]]]
"""`(batch, rng, step) -> (scalar to descend, terms to log as 0-d tensors)`."""


class Stage(ABC):
    """One phase of training. `update` is the whole contract; the rest has defaults.

    Attributes:
        name: Unique within its model; part of every seed.
        steps: Number of updates.
        batch_size: Tuples an update is given.
        module: The part of the model that holds all that the stage learns; None is the whole.
        ignores: Settings of the model that neither this stage nor one before it reads, by dotted
            key, or the beginning of several. Runs that differ in nothing else share its weights.
        sections: Sections of a run's settings on which its weights depend.
    """

    name: str
    steps: int
    batch_size: int
    module: nn.Module | None = None
    ignores: tuple[str, ...] = ()
    sections: tuple[str, ...] = ("model", "train")

    def begin(self, data: Split) -> None:  # noqa: B027 - optional by design
        """Prepare; called before the first update and after each resume, so it must be repeatable.

        Args:
            data: The training split, on the training device.
        """

    @abstractmethod
    def update(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """Do one training step.

        Args:
            batch: `batch_size` tuples; their views are converted only if read.
            rng: Random numbers of this step. Torch's global generator is seeded for the step too,
                so that dropout layers resume exactly.

        Returns:
            Loss terms as 0-d tensors on the device; reading them (a synchronisation) is the
            caller's.
        """

    def finish(self, data: Split) -> None:  # noqa: B027 - optional by design
        """Conclude, after the last update."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """All that the next update depends on beyond the model's own weights."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""


class Optimiser(Settings):
    """Settings of a gradient descent."""

    name: Literal["adam", "adamw"] = setting(
        "adam", "Update rule.", "the baselines' code (reproduction/polymnist.md)"
    )
    lr: float = setting(
        1e-3, "Peak learning rate.", "MMVAE+ code (reproduction/mmvae-plus.md)", gt=0
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


class GradientStage(Stage):
    """Descends one loss with one optimiser, the ordinary case.

    Args:
        name: Unique within the model.
        loss: Gives the scalar to descend and the terms to log.
        module: The part of the model that is trained; only its parameters that require gradients
            are.
        optimiser: How to descend.
        steps: Number of updates.
        batch_size: Tuples an update.
        ema: Decay of an exponential moving average of the weights, which replaces them at the
            stage's end; 0 keeps none.
        begin: Called with the training split before the first update and after each resume.
        finish: Called with the training split after the last update.
        ignores: As `Stage.ignores`.
    """

    module: nn.Module

    def __init__(
        self,
        name: str,
        loss: Loss,
        module: nn.Module,
        optimiser: Optimiser,
        *,
        steps: int,
        batch_size: int,
        ema: float = 0.0,
        begin: Callable[[Split], None] | None = None,
        finish: Callable[[Split], None] | None = None,
        ignores: tuple[str, ...] = (),
    ):
        self.name, self.steps, self.batch_size = name, steps, batch_size
        self.module, self.ignores = module, ignores
        self._loss, self._settings = loss, optimiser
        self._begin, self._finish = begin, finish
        self._parameters = [p for p in module.parameters() if p.requires_grad]
        self._optimiser = optimiser.build(self._parameters)
        self._average = (
            AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(ema)) if ema else None
        )
        self._step = 0

    def begin(self, data: Split) -> None:
        if self._begin:
            self._begin(data)

    def update(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        for group in self._optimiser.param_groups:
            group["lr"] = self._settings.rate(self._step, self.steps)
        loss, terms = self._loss(batch, rng, self._step)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if self._settings.clip:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._settings.clip)
        self._optimiser.step()
        if self._average is not None:
            self._average.update_parameters(self.module)
        self._step += 1
        return {"loss": loss.detach()} | {name: value.detach() for name, value in terms.items()}

    def finish(self, data: Split) -> None:
        if self._average is not None:
            self.module.load_state_dict(self._average.module.state_dict())
        if self._finish:
            self._finish(data)

    def state_dict(self) -> dict[str, Any]:
        average = None if self._average is None else self._average.state_dict()
        return {"step": self._step, "optimiser": self._optimiser.state_dict(), "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        self._optimiser.load_state_dict(state["optimiser"])
        if self._average is not None:
            self._average.load_state_dict(state["average"])

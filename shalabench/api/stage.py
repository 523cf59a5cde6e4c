"""The contract of a training stage, and the usual stage: gradient descent on a loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from shalabench.api.dataset import Batch, Split
from shalabench.api.descent import Descent, MovingAverage
from shalabench.api.optimiser import Optimiser
from shalabench.api.random import Rng

Now = int | Tensor
"""Number of an update, from 0: an integer; a 0-d float64 tensor if a CUDA graph captures it."""
Loss = Callable[[Batch, Rng, Now], tuple[Tensor, dict[str, Tensor]]]
"""`(batch, rng, step) -> (loss, terms to log as 0-d tensors)`."""


class Stage(ABC):
    """One phase of training. `update` is the whole contract; the rest has defaults.

    Attributes:
        name: Unique within its model; part of every seed.
        steps: Number of updates.
        batch_size: Tuples in an update.
        module: The part of the model that contains all trained weights of the stage; None for the
            whole model.
        ignores: Settings that neither this stage nor an earlier one uses: dotted keys within
            `section`, or the first parts of such keys. Runs that differ only in these share the
            weights of the stage.
        section: The section of a run's settings that has those of the stage.
        sections: Sections of a run's settings on which its weights depend.
        validation: The validation split on the CPU, which `finish` may use for choices; None if
            there is none. It is set before the training.
    """

    name: str
    steps: int
    batch_size: int
    module: nn.Module | None = None
    ignores: tuple[str, ...] = ()
    section: str = "model"
    sections: tuple[str, ...] = ("model", "train")
    validation: Split | None = None

    def begin(self, data: Split) -> None:  # noqa: B027 - optional by design
        """Prepare the training; called before the first update and after each resume.

        It must give the same result each time.

        Args:
            data: The training split, on the training device.
        """

    @abstractmethod
    def update(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """Do one update.

        Args:
            batch: `batch_size` tuples; their views are converted only if read.
            rng: Random numbers of this update. Torch's global generator is seeded for it too, so
                that dropout layers resume exactly.

        Returns:
            Loss terms as 0-d tensors on the device. The caller reads them, which synchronises.
        """

    def finish(self, data: Split) -> None:  # noqa: B027 - optional by design
        """End the training; called after the last update."""

    def common(self, steps: int) -> int:
        """Number of first updates that a training of `steps` updates has in common; 0 if unknown.

        Settings that are fractions of the updates (`setting(stretches=True)`) do not count here.
        """
        return 0

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that the next update depends on, without the model's weights."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state from `state_dict`."""


class PartedStage(Stage):
    """Gradient descent on losses of one or several parts of a model.

    An update has two parts: steps on the host, which are the same for all such stages, and `work`
    on the device. `work` may be captured as a CUDA graph and replayed. So it must not wait for the
    device. Of the values on the host that change between updates, it may depend only on `phase`.

    Args:
        name: Unique within the model.
        parts: The parameters of each part and the settings of its optimiser, by the part's name.
        steps: Number of updates.
        batch_size: Tuples in an update.
        average: A module and the decay of the moving average that replaces its parameters at the
            stage's end; `work` calls its `update`. None or a decay of 0 keeps none.

    Attributes:
        host: The reason why `work` cannot be captured; empty if it can.
    """

    host: str = ""

    def __init__(
        self,
        name: str,
        parts: Mapping[str, tuple[Iterable[nn.Parameter], Optimiser]],
        *,
        steps: int,
        batch_size: int,
        average: tuple[nn.Module, float] | None = None,
    ):
        self.name, self.steps, self.batch_size, self._step = name, steps, batch_size, 0
        self.average = MovingAverage(*average) if average and average[1] else None
        self._parts = {part: Descent(*given) for part, given in parts.items()}
        self._now: Tensor | None = None

    @abstractmethod
    def work(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        """Descend each part's loss and return the terms to log, as 0-d tensors."""

    @property
    def phase(self) -> Hashable:
        """Value by which `work` branches in the next update; each phase has its own graph."""
        return None

    @property
    def now(self) -> Now:
        """Number of the update, from 0: a tensor if `work` may be captured."""
        return self._step if self._now is None else self._now

    def use_graphs(self, device: torch.device) -> None:
        """Keep the values that the host sets before each update in tensors."""
        self._now = torch.zeros((), dtype=torch.float64, device=device)
        for descent in self._parts.values():
            descent.use_graphs()

    def prepare(self) -> None:
        """Set the values that depend on the number of the update."""
        for descent in self._parts.values():
            descent.set_rate(self._step, self.steps)
        if self._now is not None:
            self._now.fill_(self._step)

    def advance(self) -> None:
        """Count an update."""
        self._step += 1

    def update(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        self.prepare()
        terms = self.work(batch, rng)
        self.advance()
        return {name: value.detach() for name, value in terms.items()}

    def common(self, steps: int) -> int:
        parts = self._parts.values()
        return min((part.settings.common(self.steps, steps) for part in parts), default=0)

    def descend(self, part: str, loss: Tensor) -> None:
        """Take one step of a part's optimiser; the other parts get no gradient."""
        self._parts[part].descend(loss)

    def finish(self, data: Split) -> None:
        if self.average is not None:
            self.average.apply()

    def state_dict(self) -> dict[str, Any]:
        states = {part: descent.state_dict() for part, descent in self._parts.items()}
        average = None if self.average is None else self.average.state_dict()
        return {"step": self._step, "optimisers": states, "average": average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        for part, descent in self._parts.items():
            descent.load_state_dict(state["optimisers"][part])
        if self.average is not None:
            self.average.load_state_dict(state["average"])


def rise(now: Now, length: float) -> float | Tensor:
    """The factor of a linear warm-up after update `now`, which reaches 1 after `length` updates."""
    if not length:
        return 1.0
    share = (now + 1) / length
    return share.clamp(max=1.0).float() if isinstance(share, Tensor) else min(1.0, share)


class GradientStage(PartedStage):
    """Gradient descent on one loss with one optimiser, the usual case.

    Args:
        name: Unique within the model.
        loss: Returns the loss and the terms to log.
        module: The part of the model to train. Parameters that require no gradient stay fixed.
        optimiser: Settings of the optimiser.
        steps: Number of updates.
        batch_size: Tuples in an update.
        ema: Decay of an exponential moving average of the weights, which replaces them at the
            stage's end; 0 keeps none.
        begin: Called with the training split before the first update and after each resume.
        finish: Called with the training split after the last update.
        ignores: As `Stage.ignores`.
        host: As `PartedStage.host`.
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
        host: str = "",
    ):
        trained = [p for p in module.parameters() if p.requires_grad]
        super().__init__(
            name,
            {"all": (trained, optimiser)},
            steps=steps,
            batch_size=batch_size,
            average=(module, ema),
        )
        self.module, self.ignores, self.host = module, ignores, host
        self._loss, self._settings = loss, optimiser
        self._begin, self._finish = begin, finish

    def begin(self, data: Split) -> None:
        if self._begin:
            self._begin(data)

    def work(self, batch: Batch, rng: Rng) -> dict[str, Tensor]:
        loss, terms = self._loss(batch, rng, self.now)
        self.descend("all", loss)
        if self.average is not None:
            self.average.update()
        return {"loss": loss} | terms

    def finish(self, data: Split) -> None:
        super().finish(data)
        if self._finish:
            self._finish(data)

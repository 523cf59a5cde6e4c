"""Training of several parts of a model in turn, each by its own optimiser."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from shalabench.api import Optimiser, Stage


class AlternatingStage(Stage):
    """Updates the parts of a model in turn, each by its own loss.

    A method derives from it and gives `update`. There it calls `descend` once for each part, and
    adds 1 to `_step` at the end.

    Args:
        name: Unique within the model.
        parts: The parameters of each part and the settings of its optimiser, by the part's name.
        steps: Number of updates.
        batch_size: Tuples an update.
    """

    def __init__(
        self,
        name: str,
        parts: Mapping[str, tuple[Iterable[nn.Parameter], Optimiser]],
        *,
        steps: int,
        batch_size: int,
    ):
        self.name, self.steps, self.batch_size, self._step = name, steps, batch_size, 0
        self._parts = {}
        for part, (parameters, settings) in parts.items():
            kept = list(parameters)
            self._parts[part] = kept, settings, settings.build(kept)

    def descend(self, part: str, loss: Tensor) -> None:
        """Take one step of a part's optimiser; the other parts get no gradient."""
        parameters, settings, optimiser = self._parts[part]
        for group in optimiser.param_groups:
            group["lr"] = settings.rate(self._step, self.steps)
        optimiser.zero_grad(set_to_none=True)
        loss.backward(inputs=parameters)
        if settings.clip:
            torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        states = {part: optimiser.state_dict() for part, (*_, optimiser) in self._parts.items()}
        return {"step": self._step, "optimisers": states}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        for part, (*_, optimiser) in self._parts.items():
            optimiser.load_state_dict(state["optimisers"][part])

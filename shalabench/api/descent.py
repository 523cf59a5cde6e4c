"""Gradient descent and the moving average of weights; no step waits for the device."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from shalabench.api.optimiser import Optimiser


class Descent:
    """Some parameters and the optimiser that updates them.

    Args:
        parameters: The parameters to train.
        settings: Settings of the optimiser.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], settings: Optimiser):
        self.parameters, self.settings = list(parameters), settings
        self.optimiser = settings.build(self.parameters)
        self._graphs = False

    def use_graphs(self) -> None:
        """Keep the learning rate in a tensor, which a captured step reads."""
        self._graphs = True
        for group in self.optimiser.param_groups:
            group["capturable"] = self.parameters[0].is_cuda
            group["lr"] = torch.tensor(float(group["lr"]), device=self.parameters[0].device)

    def set_rate(self, step: int, steps: int) -> None:
        """Set the learning rate of update `step` (counted from 0) of `steps`."""
        rate = self.settings.rate(step, steps)
        for group in self.optimiser.param_groups:
            if self._graphs:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def descend(self, loss: Tensor) -> None:
        """Take one step down a loss; other parameters get no gradient."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward(inputs=self.parameters)
        if self.settings.clip:
            torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        self.optimiser.step()

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state, with the learning rate as a number."""
        state = self.optimiser.state_dict()
        groups = [group | {"lr": float(group["lr"])} for group in state["param_groups"]]
        return state | {"param_groups": groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave, whether or not it was used with graphs."""
        self.optimiser.load_state_dict(state)
        for group in self.optimiser.param_groups:
            group["capturable"] = False
        if self._graphs:
            self.use_graphs()


class MovingAverage:
    """An exponential moving average of a module's parameters; the first update copies them.

    Args:
        module: Module whose parameters are averaged. Its buffers are not.
        decay: Factor of the previous average at each update.
    """

    def __init__(self, module: nn.Module, decay: float):
        self.decay, self.started = decay, False
        self._names = [name for name, _ in module.named_parameters()]
        self._live: list[Tensor] = list(module.parameters())
        self._means = [p.detach().clone() for p in self._live]

    @torch.no_grad()
    def update(self) -> None:
        """Add the current parameters to the average."""
        if self.started:
            torch._foreach_lerp_(self._means, self._live, 1 - self.decay)
        else:
            torch._foreach_copy_(self._means, self._live)
        self.started = True

    @torch.no_grad()
    def apply(self) -> None:
        """Replace the parameters by their averages."""
        torch._foreach_copy_(self._live, self._means)

    def state_dict(self) -> dict[str, Any]:
        """The averages by the parameters' names, and whether there was an update."""
        means = dict(zip(self._names, self._means, strict=True))
        return {"means": means, "started": self.started}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.started = state["started"]
        torch._foreach_copy_(self._means, [state["means"][name] for name in self._names])

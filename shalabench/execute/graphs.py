"""Updates as CUDA graphs: one launch an update instead of hundreds (`train.graphs`)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor

from shalabench.api import BenchError, PartedStage, Rng, Split, Stage
from shalabench.api.tape import KeyTape

_WARM = 3  # ordinary updates before a capture, as torch asks for

Replay = Callable[[], None]
Capture = Callable[[Callable[[], None]], Replay]
"""Runs some work once, and returns what repeats its work on the device."""


class GraphError(BenchError):
    """A stage was to be captured and cannot be."""


def capturable(stages: Sequence[Stage]) -> list[PartedStage]:
    """The stages, of which each update can be captured.

    Raises:
        GraphError: One cannot; the message tells why.
    """
    found = []
    for stage in stages:
        split = isinstance(stage, PartedStage)
        if not split or stage.host:
            reason = stage.host if split else "its updates do not part host and device"
            raise GraphError(
                f"train.graphs is true, and no graph can hold the stage '{stage.name}': {reason}. "
                "Set train.graphs=false."
            )
        found.append(stage)
    return found


def capture_on_gpu(work: Callable[[], None]) -> Replay:
    """Capture some work as a CUDA graph."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


@dataclass
class _Phase:
    """What a graph needs."""

    tape: KeyTape
    updates: int = 0
    terms: dict[str, Tensor] = field(default_factory=dict)
    replay: Replay | None = None


class GraphedUpdates:
    """The updates of one stage: a few ordinary ones in each phase, then replays of a graph.

    A replay reads the tuples' numbers, the keys of the random draws, the learning rates and the
    number of the update from tensors that are set before it.

    Args:
        stage: Capturable; its state is loaded.
        data: The training split, on the device.
        size: Tuples an update.
        arithmetic: Makes the context of an update.
        capture: How work is captured.
    """

    def __init__(
        self,
        stage: PartedStage,
        data: Split,
        size: int,
        arithmetic: Callable[[], AbstractContextManager[object]],
        capture: Capture = capture_on_gpu,
    ):
        self._stage, self._data, self._arithmetic = stage, data, arithmetic
        self._capture = capture
        self._index = torch.zeros(size, dtype=torch.int64, device=data.device)
        self._phases: dict[Hashable, _Phase] = {}
        stage.use_graphs(data.device)

    def update(self, index: Tensor, seed: int) -> dict[str, Tensor]:
        """Do an update.

        Args:
            index: `[size]` int64, the tuples' numbers in the split.
            seed: Of the update's random numbers.

        Returns:
            Loss terms, 0-d; the next update overwrites them.
        """
        phase = self._phases.setdefault(self._stage.phase, _Phase(KeyTape(self._data.device)))
        self._index.copy_(index)
        self._stage.prepare()
        if phase.updates < _WARM:
            with _aside(self._data.device):
                phase.terms = self._work(phase.tape.note(seed))
        else:
            if phase.replay is None:
                phase.replay = self._captured(phase)
            phase.tape.fill(seed)
            phase.replay()
        phase.updates += 1
        self._stage.advance()
        return phase.terms

    def _captured(self, phase: _Phase) -> Replay:
        rng = phase.tape.replay()  # makes the tensor of the keys, outside of the graph

        def work() -> None:
            phase.terms = self._work(rng)

        try:
            return self._capture(work)
        except RuntimeError as error:
            raise GraphError(
                f"train.graphs is true, and the capture of the stage '{self._stage.name}' failed: "
                f"{error} Set train.graphs=false."
            ) from error

    def _work(self, rng: Rng) -> dict[str, Tensor]:
        with self._arithmetic():
            terms = self._stage.work(self._data.batch(self._index), rng)
        return {name: value.detach() for name, value in terms.items()}


@contextmanager
def _aside(device: torch.device) -> Iterator[None]:
    """A stream beside the current one, as torch asks for before a capture; nothing on a CPU."""
    if device.type != "cuda":
        yield
        return
    main, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    side.wait_stream(main)
    with torch.cuda.stream(side):
        yield
    main.wait_stream(side)

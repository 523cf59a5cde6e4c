"""GPUs of this machine, shared out between processes."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence

import torch


def visible_gpus() -> tuple[str, ...]:
    """The GPUs that this process sees, each as CUDA_VISIBLE_DEVICES names it."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return tuple(map(str, range(count)) if named is None else named.split(",")[:count])


def gpus_for(device: str, gpus: float) -> tuple[str, ...] | None:
    """Between which GPUs the processes of a command are spread.

    Args:
        device: As `--device` names it.
        gpus: GPUs a run.

    Returns:
        Names of GPUs; none where they are hidden. None where every process sees what this one sees.
    """
    if gpus == 0:
        return ()
    if device not in ("auto", "cuda"):  # a chosen one is counted among all
        return None
    return visible_gpus() or None


class Shares:
    """Which GPU each process gets: the one with fewest at the time, in turns.

    Args:
        gpus: As `gpus_for` gives them.
    """

    def __init__(self, gpus: Sequence[str] | None):
        self._gpus = gpus
        self._running: Counter[str] = Counter()
        self._begun: Counter[str] = Counter()

    def take(self) -> str | None:
        """CUDA_VISIBLE_DEVICES of a process that begins; None leaves it as it is."""
        if not self._gpus:
            return None if self._gpus is None else ""
        gpu = min(self._gpus, key=lambda name: (self._running[name], self._begun[name]))
        self._running[gpu] += 1
        self._begun[gpu] += 1
        return gpu

    def give_back(self, gpu: str | None) -> None:
        """A process has ended that had been given this."""
        if gpu:
            self._running[gpu] -= 1

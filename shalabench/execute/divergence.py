"""Losses that run away, and do not come back to where they were."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from shalabench.api import Diverged

_AWAY = 1000.0  # times the greatest term of the reading before
_PATIENCE = 3  # readings, so that a spike may pass
_RECOVERY = 20  # readings after a spike, in which the loss comes back to what it was
_TOLERANCE = 0.1  # of the loss before a spike


@dataclass
class Runaway:
    """Stops a training that a spike of its losses has ruined.

    There are two kinds. Gaussian heads can stay far away: a log-variance at its bound has no
    gradient any more. Or the losses come back, but the posterior has collapsed: in a training of
    ShaLa on PolyMNIST (constant rate of .003), the loss was 6,404 before and 8,100 for good, the
    KL 75 before and .9.

    Attributes:
        calm: The greatest term before it ran away.
        away: Readings since.
        before: The loss before it ran away, until it has recovered.
        back: Readings since the terms came back.
        loss: The loss of the last calm reading.
    """

    calm: float | None = None
    away: int = 0
    before: float | None = None
    back: int = 0
    loss: float | None = None

    def read(self, stage: str, step: int, terms: Mapping[str, float]) -> None:
        """Note a reading of the loss terms.

        Raises:
            Diverged: They stayed away, or did not recover.
        """
        parts = {name: value for name, value in terms.items() if name != "loss"} or terms
        term = max(parts, key=lambda name: abs(parts[name]))
        size = abs(parts[term])
        if self.calm is not None and size > _AWAY * max(self.calm, 1.0):
            self.away, self.back = self.away + 1, 0
            self.before = self.loss if self.before is None else self.before
            if self.away == _PATIENCE:
                raise Diverged(stage, step, term, parts[term])
            return
        self.calm, self.away, self.loss = size, 0, terms.get("loss")
        if self.before is None or self.loss is None:
            return
        self.back += 1
        if self.loss <= self.before + _TOLERANCE * abs(self.before):
            self.before, self.back = None, 0
        elif self.back == _RECOVERY:
            raise Diverged(stage, step, "loss", self.loss, before=self.before)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return asdict(self)

    @classmethod
    def restored(cls, state: object) -> Runaway:
        """Go on from a checkpoint's state; that of older versions, a pair, is forgotten."""
        return cls(**state) if isinstance(state, dict) else cls()

"""Pictures that are read, but not as they are: what is wrong with them, counted and named."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

ENLARGED = "are smaller than the resolution and were enlarged"
NOT_WHITE = "have no mask and a background that is not white, and count as car throughout"
SCALED = "have a mask of 0 and 1, which was taken for 0 and 255"
MASK = "have a mask that does not reach 255, so that no pixel is all car"
EMPTY = "hold no object"
_NAMED = 3


@dataclass
class Flaws:
    """Names of the pictures that have each flaw, by what is wrong with them."""

    found: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, flaws: Iterable[str]) -> None:
        """Note what is wrong with a picture."""
        for flaw in flaws:
            self.found.setdefault(flaw, []).append(name)

    def to_array(self) -> np.ndarray:
        """For a file of arrays: JSON in UTF-8, uint8 `[n]`."""
        return np.frombuffer(json.dumps(self.found).encode(), np.uint8)

    def merge_array(self, array: Any) -> None:
        """Add what `to_array` gave.

        Raises:
            ValueError: It is no such array.
        """
        for flaw, names in json.loads(bytes(array)).items():
            self.found.setdefault(flaw, []).extend(names)

    def describe(self) -> str:
        """All flaws with their number of pictures and the first names; empty where none is."""
        return "; ".join(
            f"pictures that {flaw}: {len(names):,} ({_first(names)})"
            for flaw, names in self.found.items()
        )


def _first(names: list[str]) -> str:
    rest = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{rest}"

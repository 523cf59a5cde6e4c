"""Values reported in papers, which are shown beside ours and never mixed with them."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).parent / "published.csv"


@dataclass(frozen=True)
class Published:
    """One published value.

    Attributes:
        condition: Of an ablation, a resolution ("128 px"), or a setting that its method has for no
            other value ("model.decoders=diffusion"); empty for a main value.
        value: As published, with its digits.
        source: Authors, year and table.
        note: What one should know of it.
        protocol: How it was measured, where rows of one table differ in that.
    """

    dataset: str
    method: str
    metric: str
    condition: str
    value: str
    source: str
    note: str
    protocol: str = ""

    @property
    def resolution(self) -> str:
        """The condition, where that is a resolution; else empty."""
        return self.condition if self.condition.endswith(" px") else ""

    @property
    def setting(self) -> tuple[str, str] | None:
        """Key and value, where the condition is a setting."""
        key, equals, value = self.condition.partition("=")
        return (key, value) if equals else None


def read_published(file: Path = FILE) -> list[Published]:
    """Every value of the file."""
    with file.open(encoding="utf-8", newline="") as lines:
        return [Published(**row) for row in csv.DictReader(lines, restval="")]

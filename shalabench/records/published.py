"""Values reported elsewhere, which are shown beside ours and never mixed with them.

A value may be reported by several sources. `published.csv` holds the values and
`published_sources.csv` how each source measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shalabench.api.errors import BenchError, unknown
from shalabench.records.sheets import Check, filled, number, one_of, read_sheet, spread

FILE = Path(__file__).parent / "published.csv"
SOURCES = Path(__file__).parent / "published_sources.csv"
MAIN = "cui2026"  # ShaLa's paper, whose tables this benchmark runs again


@dataclass(frozen=True)
class Published:
    """One published value.

    Attributes:
        condition: Of an ablation, a resolution ("128 px"), or a setting that its method has for no
            other value ("model.decoders=diffusion"); empty for a main value.
        value: As published, with its digits.
        spread: What is published behind ±; empty where nothing is.
        key: Of its source in `read_sources`.
        source: Authors, year and table.
        note: What one should know of it.
        protocol: How it was measured, where rows of one table differ in that.
    """

    dataset: str
    method: str
    metric: str
    condition: str
    value: str
    spread: str
    key: str
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

    @property
    def text(self) -> str:
        """Value and spread, as a cell shows them."""
        return f"{self.value} ± {self.spread}" if self.spread else self.value


@dataclass(frozen=True)
class Source:
    """Who published values, and how they were measured.

    Attributes:
        kind: A paper, or a reproduction of papers; from where, if not from the source itself.
        items: Size of the test set.
        classifiers: Which ones, and in which mode.
        given: Which subsets of modalities are given, and what is averaged.
        fid: Number of images and extractor.
    """

    key: str
    citation: str
    kind: str
    items: str
    classifiers: str
    given: str
    fid: str


@cache
def read_published(file: Path = FILE) -> tuple[Published, ...]:
    """Every value of the file.

    Raises:
        ConfigErrors: It holds mistakes.
    """
    checks: dict[str, Check] = {name: filled for name in ("dataset", "method", "metric", "source")}
    key = one_of(f"source in {SOURCES.name}", lambda: list(read_sources()))
    checks |= {"value": number, "spread": spread, "key": key}
    unique = "key", "dataset", "method", "metric", "condition"
    return tuple(read_sheet(file, Published, checks, unique))


@cache
def read_sources(file: Path = SOURCES) -> dict[str, Source]:
    """Every source by its key, the main one first.

    Raises:
        ConfigErrors: The file holds mistakes.
    """
    checks: dict[str, Check] = dict.fromkeys(("key", "citation", "kind"), filled)
    return {source.key: source for source in read_sheet(file, Source, checks, ["key"])}


def published_by(key: str = MAIN) -> list[Published]:
    """The values of one source.

    Raises:
        BenchError: There is no such source.
    """
    if key not in read_sources():
        raise BenchError(unknown("source", key, read_sources()))
    return [p for p in read_published() if p.key == key]

"""Ablations: a method in variants of some of its settings, as configs/ablations names them."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shalabench.api.errors import BenchError, unknown

FOLDER = Path(__file__).parent / "ablations"


@dataclass(frozen=True)
class Variant:
    """One row of an ablation.

    Attributes:
        label: Of the row.
        set: Values by dotted key.
        scale: Factors of the values that dataset and preset give, by dotted key.
        printed: The condition under which the paper's figures are in results/published.csv.
    """

    label: str
    set: dict[str, Any]
    scale: dict[str, float]
    printed: str = ""

    @property
    def name(self) -> str:
        """As the published figures' rows call it, where there are such."""
        return self.printed or self.label

    def values(self, base: dict[str, Any]) -> dict[str, Any]:
        """The variant's values, of those without it; whole numbers stay whole and above 0."""
        scaled = {key: factor * base[key] for key, factor in self.scale.items()}
        whole = {k: max(1, round(v)) for k, v in scaled.items() if isinstance(base[k], int)}
        return self.set | scaled | whole


@dataclass(frozen=True)
class Ablation:
    """What is varied, of which method, and the metric that is looked at."""

    name: str
    title: str
    source: str
    model: str
    metric: str
    variants: tuple[Variant, ...]

    @property
    def keys(self) -> set[str]:
        """Dotted keys of all that is varied."""
        return {key for v in self.variants for key in (*v.set, *v.scale)}


def ablations() -> list[str]:
    """Names of the files in configs/ablations."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def read_ablation(name: str) -> Ablation:
    """An ablation by its name.

    Raises:
        BenchError: There is none of that name.
    """
    if name not in ablations():
        raise BenchError(unknown("ablation", name, ablations()))
    table = tomllib.loads((FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    variants = tuple(Variant(**{"set": {}, "scale": {}, **row}) for row in table.pop("variants"))
    return Ablation(name=name, variants=variants, **table)


def settings_of(ablation: Ablation, base: dict[str, Any]) -> list[tuple[str, ...]]:
    """The --set arguments of each variant; those that change nothing are left out.

    So the variant that dataset and preset have anyway is their own run, and not trained again.

    Args:
        ablation: With variants.
        base: Every value of dataset and preset, by dotted key.
    """
    return [
        tuple(
            f"{key}={str(value).lower() if isinstance(value, bool) else value}"
            for key, value in variant.values(base).items()
            if value != base[key]
        )
        for variant in ablation.variants
    ]

"""Ablations: a method in variants of some of its settings, one TOML file an ablation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from shalabench.api.errors import BenchError, ConfigErrors, unknown
from shalabench.config.files import read_toml

FOLDER = Path(__file__).parent / "ablations"


class Variant(BaseModel):
    """One row of an ablation.

    Attributes:
        label: Of the row.
        set: Values by dotted key.
        scale: Factors of the values that dataset and preset give, by dotted key.
        published: The condition of the paper's values in records/published.csv; empty for none.
    """

    model_config = ConfigDict(frozen=True, extra="allow")  # `read_toml` names what is unknown

    label: str
    set: dict[str, Any] = {}
    scale: dict[str, float] = {}
    published: str = ""

    @property
    def name(self) -> str:
        """The published condition where there is one, else the label."""
        return self.published or self.label

    def values(self, base: dict[str, Any]) -> dict[str, Any]:
        """The variant's values, given those without it; whole numbers stay whole and above 0."""
        scaled = {key: factor * base[key] for key, factor in self.scale.items()}
        whole = {k: max(1, round(v)) for k, v in scaled.items() if isinstance(base[k], int)}
        return self.set | scaled | whole


class Ablation(BaseModel):
    """What is varied, of which method, and the metric shown; `name` is that of the file."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str = ""
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
    """Names of the files in the folder ablations."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def read_ablation(name: str) -> Ablation:
    """An ablation by its name.

    Raises:
        BenchError: There is none of that name.
        ConfigErrors: Its file holds mistakes.
    """
    if name not in ablations():
        raise BenchError(unknown("ablation", name, ablations()))
    mistakes: list[str] = []
    ablation = read_toml(FOLDER / f"{name}.toml", Ablation, mistakes)
    if mistakes or ablation is None:
        raise ConfigErrors(mistakes)
    return ablation.model_copy(update={"name": name})


def settings_of(ablation: Ablation, base: dict[str, Any]) -> list[tuple[str, ...]]:
    """The --set arguments of each variant, without those that change nothing.

    A variant equal to what dataset and preset give is thus their run, and is not trained again.

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

"""Ablations: a method in variants of some of its settings, one TOML file an ablation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from shalabench.api.errors import BenchError, ConfigErrors, unknown
from shalabench.config.files import read_toml
from shalabench.config.nested import leaves

FOLDER = Path(__file__).parent / "ablations"
Word = Annotated[str, Field(min_length=1)]


def _by_dotted_key(table: Any) -> Any:
    """A table with nested ones, as TOML makes of keys without quotes, by dotted key."""
    return dict(leaves(table)) if isinstance(table, Mapping) else table


class Variant(BaseModel):
    """One row of an ablation.

    Attributes:
        label: Of the row.
        set: Values by dotted key.
        scale: Factors of the values that dataset and preset give, by dotted key.
        published: The condition of the paper's values in records/published.csv; empty for none.
    """

    model_config = ConfigDict(frozen=True, extra="allow")  # `read_toml` names what is unknown

    label: Word
    set: Annotated[dict[str, Any], BeforeValidator(_by_dotted_key)] = {}
    scale: Annotated[
        dict[str, Annotated[float, Field(gt=0, allow_inf_nan=False)]],
        BeforeValidator(_by_dotted_key),
    ] = {}
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
    title: Word
    source: Word
    model: Word
    metric: Word
    variants: tuple[Variant, ...] = Field(min_length=1)

    @field_validator("variants")
    @classmethod
    def _differ(cls, variants: tuple[Variant, ...]) -> tuple[Variant, ...]:
        name, times = Counter(variant.name for variant in variants).most_common(1)[0]
        if times > 1:
            raise ValueError(f"{times} variants are called '{name}'; name each otherwise")
        return variants

    @property
    def keys(self) -> set[str]:
        """Dotted keys of all that is varied."""
        return {key for v in self.variants for key in (*v.set, *v.scale)}


def ablations() -> list[str]:
    """Names of the files in the folder ablations."""
    return sorted(file.stem for file in FOLDER.glob("*.toml"))


def readable() -> tuple[list[Ablation], list[str]]:
    """The ablations whose files hold no mistake, and the first mistake of each other file."""
    found, broken = [], []
    for name in ablations():
        try:
            found.append(read_ablation(name))
        except ConfigErrors as error:
            broken.append(f"The ablation '{name}' is left out: {error.messages[0]}")
    return found, broken


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
        raise ConfigErrors(mistakes or [f"{FOLDER / name}.toml is a link to nothing. Restore it."])
    return ablation.model_copy(update={"name": name})


def check_keys(ablation: Ablation, base: Mapping[str, Any]) -> None:
    """Raise ConfigErrors where what is varied is no setting, or is scaled and is no number.

    Args:
        ablation: With variants.
        base: Every value of dataset and preset, by dotted key.
    """
    mistakes = []
    for number, variant in enumerate(ablation.variants):
        where = f"ablations/{ablation.name}.toml, variants.{number}"
        for key in (*variant.set, *variant.scale):
            if key not in base:
                mistakes.append(f"{unknown('setting', key, base)} ({where})")
            elif key in variant.scale and not is_number(base[key]):
                mistakes.append(
                    f"{key} is {base[key]!r}, which is no number to scale; write it under set in "
                    f"place of scale ({where})."
                )
    if mistakes:
        raise ConfigErrors(dict.fromkeys(mistakes))


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


def is_number(value: Any) -> bool:
    """Whether a setting can be scaled."""
    return isinstance(value, int | float) and not isinstance(value, bool)

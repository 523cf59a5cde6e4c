"""Frozen settings whose every default says where it comes from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Frozen configuration; unknown keys, NaN and infinity are errors.

    Subclass it for each component's `Config`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False
    )


@dataclass(frozen=True)
class Search:
    """What `shala-bench tune` tries for a setting: numbers from `low` to `high`, or `choices`.

    The value of the preset always belongs to it.

    Attributes:
        low, high: The least and the greatest number.
        log: Whether its logarithm is searched.
        relative: Whether `low` and `high` are factors of the preset's value.
        choices: The values, in place of a range.
    """

    low: float | None = None
    high: float | None = None
    log: bool = False
    relative: bool = False
    choices: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        is_range = self.low is not None and self.high is not None and self.low < self.high
        if is_range == bool(self.choices):
            raise ValueError(f"{self} is neither a range from low to high nor a list of choices.")


@dataclass(frozen=True)
class Dial:
    """What `shala-bench tune --dials` tries for a setting that only samplers read.

    Attributes:
        neutral: The value that leaves samples as they are.
        choices: The values, of which `neutral` is one.
        of: The samples that it changes: "joint", or "cross" for translation.
    """

    neutral: float
    choices: tuple[float, ...]
    of: Literal["joint", "cross"]

    def __post_init__(self) -> None:
        if self.neutral not in self.choices:
            raise ValueError(f"The neutral value {self.neutral} is none of {self.choices}.")


def setting(
    default: Any,
    meaning: str,
    source: str,
    *,
    search: Search | bool = False,
    dial: Dial | None = None,
    counts_updates: bool = False,
    stretches: bool = False,
    **limits: Any,
) -> Any:
    """Declare one setting with its meaning and the origin of its default.

    Args:
        default: The value used where no layer says otherwise.
        meaning: What it does, with its unit.
        source: Where the default comes from: a section of a paper or of the recipes, or
            "not given in the paper: our choice, because ...".
        search: What `shala-bench tune` tries. True, for nested settings: what these declare, as
            for nested settings without a declaration of their own.
        dial: What `shala-bench tune --dials` tries, where only samplers read it.
        counts_updates: Whether it is the number of updates of a stage, which tuning shortens.
        stretches: Whether it is a part of that number, which the loss reads, such as a warm-up. A
            training is continued by a longer one (docs/progress.md) only if it is 0.
        **limits: Bounds as pydantic's `Field` takes them (`ge`, `gt`, `le`, `lt`).

    Returns:
        A pydantic field.
    """
    extra: dict[str, Any] = {"source": source}
    if search:
        extra["search"] = asdict(search) if isinstance(search, Search) else True
    if dial:
        extra["dial"] = asdict(dial)
    if counts_updates:
        extra["counts_updates"] = True
    if stretches:
        extra["stretches"] = True
    return Field(default, description=meaning, json_schema_extra=extra, **limits)

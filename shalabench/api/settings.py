"""Frozen settings, each with the source of its default."""

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
    """The search space of a setting for `shala-bench tune`: a range of numbers, or `choices`.

    It always includes the value of the preset.

    Attributes:
        low, high: The least and the greatest number.
        log: Whether the search is uniform in the logarithm.
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
    """The values that `shala-bench tune --dials` tries for a setting that only samplers use.

    Attributes:
        neutral: The value that leaves samples as they are.
        choices: The values to try, with `neutral`.
        of: Which samples it changes: "joint", or "cross" for translation.
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
        default: The value that is used if no layer changes it.
        meaning: The meaning of the setting, with its unit.
        source: The source of the default: a section of a paper, published code, a page of
            docs/reproduction, or "our choice, not given in the paper", with the reason.
        search: The search space for `shala-bench tune`. For nested settings, True uses the search
            spaces that they declare. So do nested settings that are declared without `setting`.
        dial: The values for `shala-bench tune --dials`, if only samplers use the setting.
        counts_updates: Whether it is the number of updates of a stage. Short trials of tuning
            reduce it.
        stretches: Whether it is a fraction of the number of updates that the loss uses, such as a
            warm-up. Only if it is 0 can a longer training continue a shorter one
            (docs/progress.md).
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

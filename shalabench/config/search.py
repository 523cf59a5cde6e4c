"""What tuning varies: the search space that a method declares, and shortened trainings."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from pydantic import BaseModel

from shalabench.api import Settings

Space = dict[str, dict[str, Any]]  # by dotted key: {"choices"} or {"low", "high", "log"}


def space_of(settings: Settings, fixed: Collection[str] = ()) -> Space:
    """The values to try of every setting that declares them.

    The value of the preset always belongs to them. Numbers have three significant digits.

    Args:
        settings: Of a method, as the preset gives them.
        fixed: Dotted keys of settings that are not to be varied.
    """
    space: Space = {}
    for key, value, extra in _declared(settings):
        search = extra.get("search")
        if not search or key in fixed:
            continue
        if search["choices"]:
            space[key] = {"choices": sorted({*search["choices"], value})}
            continue
        factor = value if search["relative"] else 1.0
        low, high = (rounded(search[end] * factor) for end in ("low", "high"))
        space[key] = {"low": min(low, value), "high": max(high, value), "log": search["log"]}
    return space


def updates_of(settings: Settings) -> dict[str, int]:
    """The number of updates of every stage, by dotted key."""
    return {key: v for key, v, extra in _declared(settings) if extra.get("counts_updates")}


def values_at(settings: Settings, keys: Collection[str]) -> dict[str, Any]:
    """The values of some settings by dotted key."""
    return {key: value for key, value, _ in _declared(settings) if key in keys}


def rounded(value: Any) -> Any:
    """A float to three significant digits; any other value itself."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _declared(
    settings: BaseModel, prefix: str = "", *, searched: bool = True
) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """(dotted key, value, declaration) of every setting.

    Args:
        settings: Their values.
        prefix: Before every key.
        searched: Whether the searches count that they declare.
    """
    for name, field in type(settings).model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            inner = searched and (not extra or bool(extra.get("search")))
            yield from _declared(value, f"{prefix}{name}.", searched=inner)
        else:
            yield f"{prefix}{name}", value, extra if searched else {**extra, "search": False}

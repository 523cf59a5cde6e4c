"""What tuning varies: search spaces that methods declare, shortened trainings, and dials."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping
from typing import Any, get_origin

from pydantic import BaseModel

from shalabench.api import Settings

Space = dict[str, dict[str, Any]]  # by dotted key: {"choices"} or {"low", "high", "log"}

PROTOCOLS = ("joint", "cross")
"""The samples that dials change: joint ones, and those of translation."""


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


def stretching(settings: Settings) -> dict[str, Any]:
    """The settings that are a part of the updates (`setting(stretches=True)`), by dotted key."""
    return {key: v for key, v, extra in _declared(settings) if extra.get("stretches")}


def values_at(settings: Settings, keys: Collection[str]) -> dict[str, Any]:
    """The values of some settings by dotted key."""
    return {key: value for key, value, _ in _declared(settings) if key in keys}


def dials_of(section: str, settings: Settings) -> Space:
    """The dials that settings declare: {"neutral", "choices", "of"} by dotted key.

    Args:
        section: Of the settings, as in "model.prior.guidance".
        settings: Of a method, or of every method's samplers.
    """
    declared = _declared(settings, f"{section}.")
    return {
        key: {**extra["dial"], "choices": list(extra["dial"]["choices"])}
        for key, _, extra in declared
        if "dial" in extra
    }


def grid(dials: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The values of all dials to try, the neutral ones first, then those nearest to them.

    The dials of joint samples and of translation are independent, so that both vary at once.
    """
    parts = []
    for protocol in PROTOCOLS:
        own = {key: dial for key, dial in dials.items() if dial["of"] == protocol}
        steps = [
            sorted(dial["choices"], key=lambda value: abs(value - dial["neutral"]))
            for dial in own.values()
        ]
        places = sorted(itertools.product(*(range(len(values)) for values in steps)), key=sum)
        parts.append(
            [
                {key: values[i] for key, values, i in zip(own, steps, place, strict=True)}
                for place in places
            ]
        )
    return [
        {key: value for part in parts for key, value in part[i if i < len(part) else 0].items()}
        for i in range(max(map(len, parts)))
    ]


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
        searched: Whether search spaces that they declare count.
    """
    for name, field in type(settings).model_fields.items():
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            inner = searched and (not extra or bool(extra.get("search")))
            yield from _declared(value, f"{prefix}{name}.", searched=inner)
        else:
            yield f"{prefix}{name}", value, extra if searched else {**extra, "search": False}


def free_tables(classes: Mapping[str, type[BaseModel]]) -> Iterator[str]:
    """Dotted keys of the settings whose keys are free, such as names of modalities.

    Args:
        classes: Settings by the name of their section.
    """
    for name, cls in classes.items():
        for key, field in cls.model_fields.items():
            part = field.annotation
            if get_origin(part) is dict:
                yield f"{name}.{key}"
            elif isinstance(part, type) and issubclass(part, BaseModel):
                yield from free_tables({f"{name}.{key}": part})

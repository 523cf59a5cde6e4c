"""Frozen settings whose every default says where it comes from."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Frozen configuration; unknown keys are errors. Subclass it for each component's `Config`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def setting(default: Any, meaning: str, source: str, **limits: Any) -> Any:
    """Declare one setting with its meaning and the origin of its default.

    Args:
        default: The value used where no layer says otherwise.
        meaning: What it does, with its unit.
        source: Where the default comes from: a section of a paper or of the recipes, or
            "not given in the paper: our choice, because ...".
        **limits: Bounds as pydantic's `Field` takes them (`ge`, `gt`, `le`, `lt`).

    Returns:
        A pydantic field.
    """
    return Field(default, description=meaning, json_schema_extra={"source": source}, **limits)

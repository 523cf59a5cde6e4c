"""Nested tables of settings, and their values by dotted key."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def put(table: dict[str, Any], key: str, value: Any) -> None:
    """Enter a value by its dotted key."""
    *path, last = key.split(".")
    for step in path:
        table = table.setdefault(step, {})
    table[last] = value


def nest(values: Mapping[str, Any], section: str) -> dict[str, Any]:
    """The values of one section, of all of a record's by dotted key, as a nested table."""
    table: dict[str, Any] = {}
    for key, value in values.items():
        if key.startswith(f"{section}."):
            put(table, key.removeprefix(f"{section}."), value)
    return table


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two nested tables as one; of a value that both have, the one above."""
    merged = dict(below)
    for key, value in above.items():
        nested = isinstance(value, dict) and isinstance(below.get(key), dict)
        merged[key] = merge(below[key], value) if nested else value
    return merged


def leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The values of nested tables, by dotted key."""
    for key, value in table.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value

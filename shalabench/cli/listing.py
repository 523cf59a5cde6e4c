"""What there is to run, and with which settings."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

from shalabench.api import ABILITIES, has_ability
from shalabench.api.registry import broken, entries
from shalabench.config.plan import Run
from shalabench.config.settings import DEFAULT, describe_preset, presets

KINDS = {"models": "model", "datasets": "dataset", "evaluators": "evaluator", "presets": "preset"}


def describe_all(kinds: list[str]) -> dict[str, list[dict[str, str]]]:
    """Name and facts of every component of the given kinds, as plain values."""
    return {kind: _describe(kind) for kind in kinds}


def _describe(kind: str) -> list[dict[str, str]]:
    if kind == "presets":
        return [{"name": name, "about": describe_preset(name)} for name in presets()]
    found = []
    for name, entry in entries(KINDS[kind]).items():
        facts = {"name": name, "version": str(entry.version)}
        if kind == "models":
            able = [word for word, ability in ABILITIES.items() if has_ability(entry.cls, ability)]
            facts |= {"abilities": ", ".join(able), "paper": entry.paper}
        else:
            facts["about"] = (entry.cls.__doc__ or "").strip().splitlines()[0]
        found.append(facts)
    for item in broken(KINDS[kind]):
        found.append({"name": item.module, "version": "broken", "about": item.reason})
    return found


def render_all(found: dict[str, list[dict[str, str]]]) -> str:
    """The lists as tables."""
    from tabulate import tabulate

    parts = [
        f"{kind}\n{tabulate(rows, headers='keys', disable_numparse=True)}"
        for kind, rows in found.items()
    ]
    return "\n\n".join(parts)


def describe_settings(run: Run) -> list[dict[str, Any]]:
    """Every setting of a run with its origin and source, as plain values."""
    origins = run.resolved.origins
    values = {**run.resolved.values(), **run.resolved.choices()}
    for key in origins.keys() - values.keys():  # such as data.digits, silent at its default
        values[key] = attrgetter(key)(run.resolved)
    return [
        {
            "setting": key,
            "value": value,
            "origin": origins[key].layer if key in origins else DEFAULT,
            "source": origins[key].source if key in origins else "",
        }
        for key, value in values.items()
    ]


def render_settings(found: dict[str, list[dict[str, Any]]]) -> str:
    """The settings as tables, one a model."""
    from tabulate import tabulate

    parts = [
        f"{model}\n{tabulate(rows, headers='keys', disable_numparse=True)}"
        for model, rows in found.items()
    ]
    return "\n\n".join(parts)

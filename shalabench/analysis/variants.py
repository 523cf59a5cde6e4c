"""Which runs are the variants of an ablation, and how their rows are called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shalabench.config.ablations import Ablation, Variant, ablations, read_ablation
from shalabench.records.published import Published


def rows_of(ablation: Ablation, runs: Sequence[dict[str, Any]]) -> list[dict[str, Any] | None]:
    """Runs as an ablation's rows: the run under its variant's label, None where it is in none.

    Args:
        ablation: With variants.
        runs: What records hold of runs, with "model", "dataset", "preset", "overrides" and
            "settings". What a scaled variant scales is read from a run that overrides nothing that
            the ablation varies. Runs with other overrides are rows of their own, which the label
            names, where these have several variants. Of runs that differ in what nobody overrode,
            such as a machine's precision, those with the most variants are shown.
    """
    groups: dict[tuple[str, ...], dict[str, list[int]]] = {}
    for i, run in enumerate(runs):
        if run["model"] == ablation.model:
            others = [o for o in run["overrides"] if o.partition("=")[0] not in ablation.keys]
            key = run["dataset"], run["preset"], *others
            groups.setdefault(key, {}).setdefault(_rest(ablation, run), []).append(i)
    found: list[dict[str, Any] | None] = [None] * len(runs)
    for (_, _, *others), alike in groups.items():
        named = [_names(ablation, {i: runs[i] for i in members}) for members in alike.values()]
        own = max(named, key=lambda names: len(set(names.values())))
        if others and len(set(own.values())) < 2:
            continue
        for i, name in own.items():
            label = " ".join([name, *(f"[{text}]" for text in others)])
            found[i] = {**runs[i], "label": label}
    return found


def as_rows(ablation: Ablation, records: Sequence[Any]) -> list[Any]:
    """The records that are in an ablation, each under its variant's label (`rows_of`)."""
    runs = rows_of(ablation, [record.run for record in records])
    both = zip(records, runs, strict=True)
    return [replace(record, run=run) for record, run in both if run]


def ablation_of(labels: Sequence[str]) -> Ablation | None:
    """The ablation in whose table rows are called so, or None."""
    for ablation in map(read_ablation, ablations()):
        own = [f"{label_of(ablation, variant)} " for variant in ablation.variants]
        if all(f"{label} ".startswith(tuple(own)) for label in labels):
            return ablation
    return None


def _rest(ablation: Ablation, run: dict[str, Any]) -> str:
    """The settings of a training that the ablation does not vary."""
    settings = {
        key: value
        for key, value in run["settings"].items()
        if key not in ablation.keys and not key.startswith("evaluators.")
    }
    return json.dumps(settings, sort_keys=True)


def _names(ablation: Ablation, runs: dict[int, dict[str, Any]]) -> dict[int, str]:
    """The variant of each run, by number; runs of no variant are left out."""
    plain = (
        run["settings"]
        for run in runs.values()
        if not any(text.partition("=")[0] in ablation.keys for text in run["overrides"])
    )
    base = next(plain, {})
    return {
        i: label_of(ablation, variant)
        for i, run in runs.items()
        for variant in reversed(ablation.variants)  # the first that fits is kept
        if _is(variant, run["settings"], base)
    }


def _is(variant: Variant, settings: dict[str, Any], base: dict[str, Any]) -> bool:
    if not variant.scale.keys() <= base.keys():
        return False
    due = variant.values(base)
    return all(settings.get(key) == value for key, value in due.items())


def label_of(ablation: Ablation, variant: Variant) -> str:
    """What a row is called."""
    return f"{ablation.model} ({variant.name})"


def printed_of(ablation: Ablation, published: Sequence[Published]) -> list[Published]:
    """The paper's figures of the variants."""
    conditions = {v.published for v in ablation.variants if v.published}
    return [p for p in published if p.method == ablation.model and p.condition in conditions]


def in_order(ablation: Ablation, rows: Sequence[Any]) -> list[Any]:
    """A table's rows in the order of the variants, then those of further settings."""
    order = [label_of(ablation, variant) for variant in ablation.variants]

    def place(row: Any) -> tuple[bool, int]:
        named = [i for i, name in enumerate(order) if f"{row.label} ".startswith(f"{name} ")]
        return row.label not in order, named[0] if named else len(order)

    return sorted(rows, key=place)

"""Which runs are the variants of an ablation, and how their rows are called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from shalabench.config.ablations import Ablation, Variant, is_number, readable
from shalabench.records.columns import REFERENCE, RunRow
from shalabench.records.frame import Records
from shalabench.records.published import Published


def as_rows(ablation: Ablation, records: Records) -> Records:
    """The records that are in an ablation, each under its variant's label.

    What a scaled variant scales is read from a run that overrides nothing that the ablation varies.
    Runs with other overrides are rows of their own, which the label names, where these have several
    variants. Of runs that differ in what nobody overrode, such as a machine's precision, those with
    the most variants are shown.
    """
    keys = ablation.keys
    groups: dict[tuple[Any, ...], list[tuple[int, RunRow]]] = {}
    for place, run in enumerate(records.rows):
        if run.model == ablation.model:
            extra = tuple(text for text in run.overrides if text.partition("=")[0] not in keys)
            groups.setdefault((run.dataset, run.preset, extra), []).append((place, run))
    labels: dict[int, str] = {}
    for (_, _, extra), alike in groups.items():
        parts: dict[str, list[tuple[int, RunRow]]] = {}
        for place, run in alike:
            parts.setdefault(_rest(keys, run.settings), []).append((place, run))
        named = [_names(ablation, keys, part) for part in parts.values()]
        names = max(named, key=lambda part: len(set(part.values())))
        if not extra or len(set(names.values())) > 1:
            for place, name in names.items():
                apart = [REFERENCE] if records.rows[place].label else []
                labels[place] = " ".join([name, *(f"[{text}]" for text in extra), *apart])
    places = sorted(labels)
    shown = records.runs.iloc[places]
    return records.of(shown.assign(label=[labels[place] for place in places]))


def ablation_of(labels: Sequence[str]) -> Ablation | None:
    """The ablation in whose table rows are called so, or None."""
    for ablation in readable()[0]:
        starts = [f"{label_of(ablation, variant)} " for variant in ablation.variants]
        if all(f"{label} ".startswith(tuple(starts)) for label in labels):
            return ablation
    return None


def _rest(keys: set[str], settings: dict[str, Any]) -> str:
    """The settings of a training that an ablation does not vary."""
    rest = {
        key: value
        for key, value in settings.items()
        if key not in keys and not key.startswith("evaluators.")
    }
    return json.dumps(rest, sort_keys=True)


def _names(ablation: Ablation, keys: set[str], runs: list[tuple[int, RunRow]]) -> dict[int, str]:
    """The variant of each run, by its place; runs of no variant are left out."""
    plain = (
        run.settings
        for _, run in runs
        if not any(text.partition("=")[0] in keys for text in run.overrides)
    )
    base: dict[str, Any] = next(plain, {})
    return {
        place: label_of(ablation, variant)
        for place, run in runs
        for variant in reversed(ablation.variants)  # the first that fits is kept
        if _is(variant, run.settings, base)
    }


def _is(variant: Variant, settings: dict[str, Any], base: dict[str, Any]) -> bool:
    if not all(is_number(base.get(key)) for key in variant.scale):
        return False
    return all(settings.get(key) == value for key, value in variant.values(base).items())


def label_of(ablation: Ablation, variant: Variant) -> str:
    """What a row is called."""
    return f"{ablation.model} ({variant.name})"


def published_of(ablation: Ablation, published: Sequence[Published]) -> list[Published]:
    """The paper's values of the variants."""
    conditions = {v.published for v in ablation.variants if v.published}
    return [p for p in published if p.method == ablation.model and p.condition in conditions]


def in_variant_order(ablation: Ablation, rows: Sequence[Any]) -> list[Any]:
    """A table's rows in the order of the variants, then those of further settings."""
    order = [label_of(ablation, variant) for variant in ablation.variants]

    def order_of(row: Any) -> tuple[bool, int]:
        named = [i for i, name in enumerate(order) if f"{row.label} ".startswith(f"{name} ")]
        return row.label not in order, named[0] if named else len(order)

    return sorted(rows, key=order_of)

"""Which runs are the variants of an ablation, and how their rows are called."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pandas as pd

from shalabench.config.ablations import Ablation, Variant, is_number, readable
from shalabench.records.columns import REFERENCE
from shalabench.records.frame import Records
from shalabench.records.published import Published


def as_rows(ablation: Ablation, records: Records) -> Records:
    """The records that are in an ablation, each under its variant's label.

    What a scaled variant scales is read from a run that overrides nothing that the ablation varies.
    Runs with other overrides are rows of their own, which the label names, where these have several
    variants. Of runs that differ in what nobody overrode, such as a machine's precision, those with
    the most variants are shown.
    """
    runs = records.runs[records.runs["model"] == ablation.model]
    if runs.empty:
        return records.of(runs)
    others = runs["overrides"].map(
        lambda texts: tuple(text for text in texts if text.partition("=")[0] not in ablation.keys)
    )
    labels = pd.Series("", index=runs.index, dtype=object)
    for (_, _, extra), alike in runs.groupby([runs["dataset"], runs["preset"], others], sort=False):
        rest = alike["settings"].map(lambda settings: _rest(ablation, settings))
        named = [_names(ablation, group) for _, group in alike.groupby(rest, sort=False)]
        names = max(named, key=pd.Series.nunique)
        if not extra or names.nunique() > 1:
            labels[names.index] = [" ".join([name, *(f"[{x}]" for x in extra)]) for name in names]
    kept = labels != ""
    apart = runs["label"].map(lambda label: f" {REFERENCE}" if label else "")
    return records.of(runs.assign(label=labels + apart)[kept])


def ablation_of(labels: Sequence[str]) -> Ablation | None:
    """The ablation in whose table rows are called so, or None."""
    for ablation in readable()[0]:
        starts = [f"{label_of(ablation, variant)} " for variant in ablation.variants]
        if all(f"{label} ".startswith(tuple(starts)) for label in labels):
            return ablation
    return None


def _rest(ablation: Ablation, settings: dict[str, Any]) -> str:
    """The settings of a training that the ablation does not vary."""
    rest = {
        key: value
        for key, value in settings.items()
        if key not in ablation.keys and not key.startswith("evaluators.")
    }
    return json.dumps(rest, sort_keys=True)


def _names(ablation: Ablation, runs: pd.DataFrame) -> pd.Series:
    """The variant of each run, by the frame's index; runs of no variant are left out."""
    plain = (
        settings
        for settings, overrides in zip(runs["settings"], runs["overrides"], strict=True)
        if not any(text.partition("=")[0] in ablation.keys for text in overrides)
    )
    base: dict[str, Any] = next(plain, {})
    names = {
        index: label_of(ablation, variant)
        for index, settings in runs["settings"].items()
        for variant in reversed(ablation.variants)  # the first that fits is kept
        if _is(variant, settings, base)
    }
    return pd.Series(names, dtype=object)


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


def in_order(ablation: Ablation, rows: Sequence[Any]) -> list[Any]:
    """A table's rows in the order of the variants, then those of further settings."""
    order = [label_of(ablation, variant) for variant in ablation.variants]

    def order_of(row: Any) -> tuple[bool, int]:
        named = [i for i, name in enumerate(order) if f"{row.label} ".startswith(f"{name} ")]
        return row.label not in order, named[0] if named else len(order)

    return sorted(rows, key=order_of)

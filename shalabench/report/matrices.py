"""Scores of pairs: of a given modality and a target, or of a method and a part of a metric."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from shalabench.records.columns import RunRow
from shalabench.records.frame import Records
from shalabench.report.sections import Section


def matrices(
    own: Records, runs: Sequence[RunRow] = ()
) -> dict[str, tuple[list[str], list[str], dict[tuple[str, str], float]]]:
    """Scores of one given modality and one target, averaged over runs.

    Args:
        own: The records of a row.
        runs: Only these of them, where given.

    Returns:
        By metric: the given ones, the targets, and the value of each pair. Only metrics within
        [0, 1] of which more is better, so that one scale of colours fits all.
    """
    runs = runs or own.rows
    known = [name for run in runs for name in run.data.get("modalities", [])]
    values: dict[str, dict[tuple[str, str], list[float]]] = {}
    for result in (result for run in runs for result in own.results[run.train_id]):
        for score in result.content["scores"]:
            facts = result.metrics.get(score["metric"], {})
            is_single = len(score["given"]) == 1 and score["target"] is not None
            if is_single and facts.get("direction") == "higher":
                pair = score["given"][0], score["target"]
                values.setdefault(score["metric"], {}).setdefault(pair, []).append(score["value"])
    shown = {}
    for metric, found in values.items():
        pairs = {pair: math.fsum(own) / len(own) for pair, own in found.items()}
        if all(0 <= value <= 1 for value in pairs.values()):
            order = list(dict.fromkeys([*known, *sorted({n for pair in pairs for n in pair})]))
            given, targets = ([n for n in order if any(p[i] == n for p in pairs)] for i in (0, 1))
            shown[metric] = given, targets, pairs
    return shown


def by_attribute(section: Section) -> dict[str, tuple[list[str], list[str], dict]]:
    """Parts of a metric, such as attributes, averaged over a row's runs.

    Returns:
        By metric: the methods, at last what guessing gives; the parts; the share of each pair that
        is right, none where it was not asked for.
    """
    readings = [
        (metric, row, part, entry["value"] if label else entry["chance"])
        for label, own in (*section.rows, ("", section.records))
        for row in [section.names[label] if label else "guessing"]
        for result in own.all_results()
        for metric, parts in result.details.get("parts", {}).items()
        if result.metrics.get(metric, {"role": ""})["role"] == "method"
        for part, entry in parts.items()
    ]
    frame = pd.DataFrame(readings, columns=["metric", "row", "part", "value"]).dropna()
    shown = {}
    for metric, group in frame.groupby("metric", sort=False):
        means = group.astype({"value": float}).groupby(["row", "part"], sort=False)["value"].mean()
        rows, parts = (list(means.index.unique(level)) for level in ("row", "part"))
        shown[str(metric)] = rows, parts, means.to_dict()
    return shown

"""Lines below a table: its bounds, and rows that are not ranked with each other."""

from __future__ import annotations

import itertools
from typing import Any

from shalabench.analysis.reported import matches
from shalabench.analysis.rows import Row
from shalabench.records.frame import Records


def bounds_notes(records: Records, metrics: dict[str, Any]) -> list[str]:
    """Floors, ceilings, and the accuracy of the classifiers."""
    bounds: dict[str, list[str]] = {}
    for result in records.all_results():
        size = result.details.get("row", {}).get("resolution", "")
        for name, m in result.metrics.items():
            if m["role"] == "classifier":
                parts = [s for s in result.content["scores"] if s["metric"] == name and s["target"]]
                line = "Classifiers on real test data"
                texts = [f"{s['target']} {s['value']:.{m['digits']}f}" for s in parts]
            elif m["role"] in ("floor", "ceiling") and name in result.summaries:
                s = result.summaries[name]
                where = f"{s.n:,} test items" + (f", {size}" if size else "")
                line = f"{m['role'].capitalize()}, {m['meaning']} ({where})"
                is_of_shown = any(matches(name, m["of"]) for name in metrics)
                texts = [f"{m['of']} {s.value:.{m['digits']}f}"] if is_of_shown else []
            else:
                continue
            bounds.setdefault(line, []).extend(texts)
    return [
        f"{line}: {', '.join(dict.fromkeys(texts))}." for line, texts in bounds.items() if texts
    ]


def apart_notes(rows: list[Row], metrics: dict[str, Any]) -> list[str]:
    """Rows that are not ranked with each other for a reason that no column shows."""
    notes = []
    resolutions = dict.fromkeys(row.facts.get("resolution") for row in rows)
    for name, resolution in itertools.product(metrics, resolutions):
        alike: dict[str, list[str]] = {}
        for row in rows:
            if name in row.data and row.facts.get("resolution") == resolution:
                alike.setdefault(row.data[name], []).append(row.label)
        if len(alike) > 1:
            groups = "; ".join(", ".join(labels) for labels in alike.values())
            notes.append(
                "Not ranked with each other, because the data, the classifiers or the evaluator's "
                f"version differ: {groups}."
            )
    return list(dict.fromkeys(notes))

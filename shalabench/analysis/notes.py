"""Lines below a table: its bounds, and rows that are not ranked with each other."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from shalabench.analysis.fitting import Detail, Legend, wrap_note
from shalabench.analysis.reported import matches
from shalabench.analysis.rows import Row
from shalabench.records.frame import Records


def for_terminal(
    parts: Sequence[tuple[str, list[str], list[str], list[str]]], width: int, *, every: bool
) -> str:
    """Tables and notes of at most a width; a note of several tables stands once, at the end.

    Args:
        parts: Title, drawn tables, notes and names of columns that are left out, of each.
        width: In letters. Tables may be wider.
        every: Whether details are shown. If not, their number is.
    """
    kept = [[n for n in notes if every or not isinstance(n, Detail)] for _, _, notes, _ in parts]
    count = Counter(note for notes in kept for note in dict.fromkeys(notes))
    lines: list[str] = []
    shared: dict[str, list[str]] = {}
    for (title, drawn, *_), notes in zip(parts, kept, strict=True):
        own = []
        for note in dict.fromkeys(notes):
            if len(parts) > 1 and (count[note] > 1 or isinstance(note, Legend)):
                shared.setdefault(note, []).append(title)
            else:
                own.append(note)
        lines += [wrap_note(title, width, ""), "", "\n\n".join(drawn), ""]
        lines += [wrap_note(note, width) for note in own]
        lines += [""] if own and len(parts) > 1 else []
    for note, titles in shared.items():
        anywhere = isinstance(note, Legend) or len(titles) == len(parts)
        lines.append(wrap_note(note if anywhere else f"{'; '.join(titles)}: {note}", width))
    if names := dict.fromkeys(name for *_, left_out in parts for name in left_out):
        text = f"Not shown in {width} columns: {', '.join(names)}. Add --wide or --columns NAMES."
        lines.append(wrap_note(text, width))
    hidden = {note for _, _, notes, _ in parts for note in notes if isinstance(note, Detail)}
    if hidden and not every:
        lines.append(
            wrap_note(f"{len(hidden)} more note{'s' * (len(hidden) > 1)}: --notes.", width)
        )
    return "\n".join(lines).rstrip()


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
        Detail(f"{line}: {', '.join(dict.fromkeys(texts))}.")
        for line, texts in bounds.items()
        if texts
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

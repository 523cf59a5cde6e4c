"""Published values and the rows of a table that they stand in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shalabench.analysis.rows import Row
from shalabench.analysis.verdicts import ranked
from shalabench.records.published import Published, published_by, read_sources


def matches(name: str, asked: str) -> bool:
    """Whether a metric is the one asked for, or of that family."""
    return name == asked or name.startswith(f"{asked}/")


def label_of_published(p: Published) -> str:
    """The row of a published value; a resolution stands in a column, a setting as in our rows."""
    if p.setting:
        return f"{p.method} [{p.condition}]"
    return f"{p.method} ({p.condition})" if p.condition and not p.resolution else p.method


def rows_of_published(p: Published, rows: list[Row]) -> list[Row]:
    """The rows that a published value stands in: of its method, resolution and condition."""
    if p.setting:
        key, value = p.setting
        return [r for r in rows if r.method == p.method and str(r.settings.get(key)) == value]
    if p.resolution:
        alike = [row for row in rows if row.facts.get("resolution") == p.resolution]
    else:
        alike = [row for row in rows if not row.other_data]
    main = not p.condition or p.resolution
    name = label_of_published(p)
    return ranked([r for r in alike if name in (r.label, r.method if main else "")])


def main_values(published: Iterable[Published], dataset: str, metric: str) -> list[Published]:
    """The main values; those under a condition where a method has no others."""
    chosen = [p for p in published if p.dataset == dataset and matches(p.metric, metric)]
    main = {(p.method, p.metric) for p in chosen if not p.condition}
    return [p for p in chosen if not p.condition or (p.method, p.metric) not in main]


def add_reported(rows: list[Row], dataset: str, metric: str) -> None:
    """Give rows what every source published of a metric, or of that family; none adds a row.

    Args:
        rows: Of one table.
        dataset: For which the values are published.
        metric: As asked for.
    """
    for key in read_sources():
        for p in main_values(published_by(key), dataset, metric):
            for row in rows_of_published(p, rows):
                row.reported = (*row.reported, p)


def others(row: Row, metric: str, source: str) -> str:
    """What other sources published in a row, each with its key: "0.67 multivae; 0.66 sutter2021".

    Args:
        row: Of a table.
        metric: Of the values.
        source: The key of the source that is left out.
    """
    found = [p for p in row.reported if p.metric == metric and p.key != source]
    return "; ".join(f"{p.text} {p.key}" for p in found)


def source_notes(rows: Sequence[Row], metrics: Iterable[str], source: str) -> list[str]:
    """Lines on the sources besides the one in the column: who, and how they measured."""
    shown = set(metrics)
    used = [p for row in rows for p in row.reported if p.metric in shown and p.key != source]
    notes = []
    for key, about in read_sources().items():
        mine = [p for p in used if p.key == key]
        if not mine:
            continue
        texts = dict.fromkeys(f"{p.method}, {p.metric}: {p.note}" for p in mine if p.note)
        measured = f"test tuples: {about.items}; classifiers: {about.classifiers}"
        if any(p.metric.startswith("fid/") for p in mine):
            measured += f"; FID: {about.fid}"
        ends = [f"{about.citation}, {about.kind}", measured, f"given: {about.given}", *texts]
        notes.append(f"{key}: {'; '.join(ends)}.")
    return notes

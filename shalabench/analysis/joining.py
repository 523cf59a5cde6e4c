"""Rows that differ in one setting as one row, with a column for each of its values."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from shalabench.analysis.rows import Row

Metrics = Mapping[str, tuple[str, int, str]]


def alike(rows: Sequence[Row], apart: tuple[str, ...]) -> list[list[Row]]:
    """Rows of one method that differ only in the settings whose keys begin with one of `apart`."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        rest = {k: v for k, v in row.settings.items() if not f"{k}.".startswith(apart)}
        groups.setdefault(json.dumps([row.method, rest], sort_keys=True), []).append(row)
    return list(groups.values())


def join(
    rows: Sequence[Row], label: str, column: Callable[[str, Row], str], base: Row | None = None
) -> Row:
    """Rows as one, without their costs and published values.

    Args:
        rows: At least one.
        label: Of the new row.
        column: The name of a metric's column for one of the rows; empty: it is left out.
        base: Gives what no column holds; the last one if None.
    """
    base = base or rows[-1]
    row = replace(base, label=label, is_variant=label != base.method)
    row.cells, row.scores, row.data, row.collapsed, row.published = {}, {}, {}, {}, {}
    row.costs, row.runs = None, tuple(name for own in rows for name in own.runs)
    for own in rows:
        for name in own.cells:
            if not (place := column(name, own)):
                continue
            for kind in ("cells", "scores", "data", "collapsed"):
                if name in getattr(own, kind):
                    getattr(row, kind)[place] = getattr(own, kind)[name]
    return row


def join_by_number(
    groups: Sequence[Sequence[Row]],
    metrics: Metrics,
    label_of: Callable[[Row], str],
    number_of: Callable[[Row], int],
    text_of: Callable[[int], str],
) -> tuple[list[Row], dict[str, tuple[str, int, str]]]:
    """Groups of rows that differ in a number alone as a row each, by metric and rising number.

    Args:
        groups: With one row at least.
        metrics: Measured ones.
        label_of: Gives a row's label without the number.
        number_of: Gives a row's number.
        text_of: Writes it in a column's name.
    """
    rows = [row for group in groups for row in group]
    texts = dict.fromkeys(text_of(n) for n in sorted(set(map(number_of, rows))))

    def column(name: str, row: Row) -> str:
        return f"{name} {text_of(number_of(row))}"

    filled = {column(name, row) for row in rows for name in row.cells}
    columns = {
        f"{name} {text}": facts
        for name, facts in metrics.items()
        for text in texts
        if f"{name} {text}" in filled
    }
    return [join(group, label_of(group[-1]), column) for group in groups], columns

"""Tables by the number of modalities: scores, and the CPU time of a training."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial

from shalabench.analysis.joining import Metrics, alike, join_by_number
from shalabench.analysis.rows import Cell, Row

SECONDS = "CPU s"
MEANING = (
    "M: the number of modalities. CPU s: processor seconds of a training of all stages, mean over "
    "seeds; the number of updates is the same for every M."
)
_APART = ("data.modalities.", "evaluators.")
_NUMBER = re.compile(r"\d+")  # of modalities, in the words on a source
_COUNT = re.compile(r" \[data\.modalities=[^\]]*\]")


def groups_of(rows: Sequence[Row], counts: Mapping[str, int]) -> list[list[Row]]:
    """Rows that differ in the number of modalities alone, by rising number.

    Each has its CPU seconds among its cells.

    Args:
        rows: Of one table, with their costs.
        counts: Number of modalities by the name of a run.
    """
    groups = []
    for group in alike([row for row in rows if row.runs and row.cells], _APART):
        for row in group:
            seconds = row.costs.cpu_seconds if row.costs else None
            if seconds is not None:
                row.cells[SECONDS] = Cell(seconds, None, len(row.runs), 0)
        groups.append(sorted(group, key=lambda row: count_of(row, counts)))
    return groups


def count_of(row: Row, counts: Mapping[str, int]) -> int:
    """The number of modalities of a row."""
    return counts[row.runs[0]]


def label_of(row: Row) -> str:
    """A row's label without the number of modalities."""
    return _COUNT.sub("", row.label)


def source_notes(
    rows: Sequence[Row], counts: Mapping[str, int], sources: Mapping[str, str]
) -> list[str]:
    """A line for each method whose data have other sources with other numbers of modalities.

    Args:
        rows, counts: As `split_by_modalities` takes them.
        sources: The words on the data's source by the name of a run.
    """
    notes = []
    for group in groups_of(rows, counts):
        numbers: dict[str, list[str]] = {}
        for row in group:
            kind = _NUMBER.sub("", sources[row.runs[0]])
            numbers.setdefault(kind, []).append(f"M={count_of(row, counts)}")
        if len(numbers) > 1:
            parts = " and ".join(", ".join(texts) for texts in numbers.values())
            notes.append(
                f"{label_of(group[-1])}: the data of {parts} have different sources, so that not "
                "only the number of modalities differs."
            )
    return notes


def split_by_modalities(
    rows: Sequence[Row], metrics: Metrics, counts: Mapping[str, int]
) -> tuple[list[Row], dict[str, tuple[str, int, str]]]:
    """One row for each method, and a column for each metric and number of modalities.

    Args:
        rows: As `make_rows` gives them, with their costs.
        metrics: Measured ones.
        counts: Number of modalities by the name of a run.
    """
    shown = {**metrics, SECONDS: ("", 0, "")}
    number_of = partial(count_of, counts=counts)
    return join_by_number(groups_of(rows, counts), shown, label_of, number_of, "M={}".format)

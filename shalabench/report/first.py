"""What stands on the first page beside the leads: the methods by dataset, and samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from shalabench.analysis.rows import GATE, Cell
from shalabench.config.tuned import with_dials
from shalabench.report.pictures import Picture, Pictures
from shalabench.report.sections import Section, variation

_SAMPLES = 4  # methods whose samples are shown


class Column(NamedTuple):
    """A dataset with the metric that sums it up.

    Attributes:
        section: The dataset.
        metric: Its first headline.
        direction: "higher" or "lower".
        digits: Of a value.
        is_tested: Whether the best is marked after a test.
    """

    section: Section
    metric: str
    direction: str
    digits: int
    is_tested: bool


Line = list[tuple[Cell, str] | None]  # by column: a value, and what its settings vary


class Strip(NamedTuple):
    """Samples of the best methods of a dataset.

    Attributes:
        column: The dataset, and the metric by which the methods are in order.
        pictures: Row label, value and picture, the best mean first.
    """

    column: Column
    pictures: list[tuple[str, Cell, Picture]]


def overview(sections: Sequence[Section]) -> tuple[list[Column], list[tuple[str, Line]]]:
    """Every method by dataset, in the order of the first column.

    Cells are of the preset's settings; where only variants were measured, of the best, with what it
    varies. Runs of the regression gate, and runs with dials of a preset that is there, are left out
    if there are others.
    """
    apart = {(s.dataset, name) for s in sections for name in (GATE, with_dials(s.preset))}
    results = [s for s in sections if (s.dataset, s.preset) not in apart] or sections
    columns = list(filter(None, map(_column, results)))
    lines: dict[str, Line] = {}
    for place, (section, metric, *_) in enumerate(columns):
        for row, cell in section.ranked(metric, plain=True):
            cells = lines.setdefault(row.method, [None] * len(columns))
            cells[place] = cells[place] or (cell, variation(row.label))
    first = [method for method, cells in lines.items() if cells[0]]
    rest = sorted(lines.keys() - first)
    return columns, [(method, lines[method]) for method in (*first, *rest)]


def _column(section: Section) -> Column | None:
    metric = next(iter(section.headlines()), None)
    if metric is None:
        return None
    direction, digits, _ = section.table_with(metric).metrics[metric]
    is_tested = any(cell.mark == "best" for _, cell in section.ranked(metric))
    return Column(section, metric, direction, digits, is_tested)


def strip(sections: Sequence[Section], pictures: Pictures) -> Strip | None:
    """Joint samples of the methods with the best means, on the first dataset that has pictures."""
    for column in filter(None, map(_column, sections)):
        found: list[tuple[str, Cell, Picture]] = []
        for row, cell in column.section.ranked(column.metric, plain=True):
            label, own = column.section.records_of(row)
            if cell.mark != "collapsed" and len(found) < _SAMPLES:
                every = (picture for run in own.rows for picture in pictures.of(run, own))
                joint = next((picture for picture in every if picture.kind == "joint"), None)
                found += [(label, cell, joint)] if joint else []
        if found:
            return Strip(column, found)
    return None

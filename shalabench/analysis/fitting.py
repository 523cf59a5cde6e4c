"""Tables that fit a terminal: columns that are left out, and cells and notes that are wrapped."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal

NARROW = 80  # columns where the output is no terminal
_GAP = 2  # blanks between columns
_MAIN = ("joint", "cross")  # shown first where not all metrics fit
_LABEL, _HEADING, _SOURCES = 30, 20, 24  # to which these are wrapped
_LEAST, _LEAST_CELL = 14, 10  # to which labels and other cells are wrapped at most


class Detail(str):
    """A note that a terminal shows only where all are asked for."""

    __slots__ = ()


class Legend(str):
    """A note on signs and columns, which needs no table to refer to."""

    __slots__ = ()


@dataclass(frozen=True)
class Column:
    """A column of a table of methods.

    Attributes:
        kind: What stands in it.
        of: The fact or the metric.
        cells: The heading first.
    """

    kind: Literal["label", "fact", "value", "published", "protocol", "sources"]
    of: str
    cells: list[str]

    @property
    def width(self) -> int:
        """Of the widest line of a cell."""
        return _width(self.cells)

    def wrapped(self, width: int, heading: int | None = None) -> Column:
        """The same with longer cells on several lines."""
        widths = [heading or width, *[width] * (len(self.cells) - 1)]
        return replace(self, cells=list(map(wrap, self.cells, widths)))


def duration(seconds: float | None, unknown: str = "not recorded") -> str:
    """Such as 40 s, 12 min or 3.5 h.

    Args:
        seconds: None or NaN where it is not known.
        unknown: What stands there then.
    """
    if seconds is None or seconds != seconds:
        return unknown
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def terminal_width() -> int:
    """Columns of the terminal; where there is none, those of $COLUMNS or 80."""
    return max(shutil.get_terminal_size((NARROW, 24)).columns, NARROW // 2)


def wrap(text: str, width: int) -> str:
    """A text on lines of at most a width, parted at blanks; longer words after their signs.

    What is in brackets stays on a line if it fits.
    """
    lines: list[str] = []
    for line in text.splitlines():
        units = re.split(r" (?=[(\[])", line)
        texts = [word for u in units for word in ([u] if len(u) <= width else u.split(" "))]
        words = [part for word in texts for part in _parted(word, width)]
        lines.append("")
        for word, glued in words:
            sign = "" if glued or not lines[-1] else " "
            if lines[-1] and len(lines[-1]) + len(sign) + len(word) > width:
                lines.append(word)
            else:
                lines[-1] += sign + word
    return "\n".join(lines)


def _parted(word: str, width: int) -> list[tuple[str, bool]]:
    """A word's parts, and whether each belongs to the one before."""
    parts, glued = [], False
    while len(word) > width:
        signs = [n + 1 for n, sign in enumerate(word[:width]) if sign in "/=,;.:_-" and n]
        end = signs[-1] if signs else width
        parts.append((word[:end], glued))
        word, glued = word[end:], True
    return [*parts, (word, glued)]


def wrap_note(text: str, width: int, indent: str = "  ") -> str:
    """A line below a table, on several where it is wider."""
    return textwrap.fill(
        text,
        width,
        initial_indent=indent,
        subsequent_indent=f"{indent}  ",
        break_on_hyphens=False,
    )


def draw(
    rows: Sequence[Sequence[Any]], head: Sequence[str], width: int, right: Container[int] = ()
) -> str:
    """Rows as a plain table whose widest columns are wrapped until it fits.

    Args:
        rows: Of cells.
        head: The headings.
        width: Of the terminal.
        right: Numbers of the columns that are aligned to the right.
    """
    columns = [list(map(str, column)) for column in zip(head, *rows, strict=True)]
    widths = list(map(_width, columns))
    while sum(widths) + _GAP * (len(widths) - 1) > width and max(widths) > _LEAST_CELL:
        widths[widths.index(max(widths))] -= 1
    pairs = zip(columns, widths, strict=True)
    return plain([[wrap(cell, n) for cell in column] for column, n in pairs], right)


def plain(columns: Sequence[Sequence[str]], right: Container[int] = ()) -> str:
    """Columns, whose cells may have several lines, as a plain table with a rule.

    Args:
        columns: Each with its heading first.
        right: Numbers of those that are aligned to the right.
    """
    widths = list(map(_width, columns))
    lines = []
    for n, row in enumerate(zip(*columns, strict=True)):
        for parts in zip_longest(*(cell.splitlines() for cell in row), fillvalue=""):
            ends = (
                part.rjust(size) if i in right else part.ljust(size)
                for i, (part, size) in enumerate(zip(parts, widths, strict=True))
            )
            lines.append((" " * _GAP).join(ends).rstrip())
        if n == 0:
            lines.append((" " * _GAP).join("-" * size for size in widths))
    return "\n".join(lines)


def fit(
    columns: Sequence[Column], width: int, *, every: bool
) -> tuple[list[Column], list[str], list[str]]:
    """The columns that fit, in their order, notes on facts, and metrics that are left out.

    Facts that do not fit become notes. Of the metrics, joint and cross values and those with
    published ones come first.

    Args:
        columns: Of a table: its labels, facts and metrics.
        width: Of the terminal.
        every: Whether all metrics stay, whatever their width.
    """
    shown = list(columns)
    if size(shown) > width:
        shown = [_narrowed(column) for column in columns]
    if size(shown) <= width:
        return shown, [], []
    kinds = ("fact", "protocol")
    texts = [c for c in columns if c.kind in kinds and not _tells_apart(c)]
    notes = [note for column in texts if (note := _as_note(column, columns[0]))]
    gone = {(c.kind, c.of) for c in texts}
    label, *others = [c for c in shown if (c.kind, c.of) not in gone]
    facts = [c for c in others if c.kind == "fact"]
    groups: dict[str, list[Column]] = {}
    for column in others[len(facts) :]:
        groups.setdefault(column.of, []).append(column)
    kept: list[str] = []
    for of in sorted(groups, key=lambda of: not _is_main(groups[of])):
        more = [*facts, *(c for name in (*kept, of) for c in groups[name])]
        wider = [label, *more]
        if _is_main(groups[of]) or not kept:
            wider = squeeze(wider, width)
        if kept and not every and size(wider) > width:
            break
        label = wider[0]
        kept.append(of)
    found = [label, *facts, *(c for of in groups if of in kept for c in groups[of])]
    left_out = [groups[of][0].cells[0].replace("\n", "") for of in groups if of not in kept]
    return found, notes, left_out


def size(columns: Sequence[Column]) -> int:
    """Of a drawn table, in letters."""
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


def squeeze(columns: list[Column], width: int) -> list[Column]:
    """The same with the labels wrapped to what the others leave of a width."""
    free = width - size(columns) + columns[0].width
    return [columns[0].wrapped(max(free, _LEAST)), *columns[1:]]


def _narrowed(column: Column) -> Column:
    if column.kind == "label":
        return column.wrapped(_LABEL)
    if column.kind == "sources":
        parted = [cell.replace("; ", ";\n") for cell in column.cells]
        return replace(column, cells=parted).wrapped(_SOURCES)
    if column.kind == "published":
        return column.wrapped(column.width, len("published,"))
    return column.wrapped(column.width, _HEADING) if column.kind == "value" else column


def _tells_apart(column: Column) -> bool:
    """Whether rows of one label differ in a fact."""
    return column.of == "resolution" and len(set(column.cells[1:])) > 1


def _is_main(group: list[Column]) -> bool:
    name = group[0].cells[0].replace("\n", " ").rpartition("/")[2].split()[0]  # "joint own": joint
    return name in _MAIN or any(column.kind == "published" for column in group)


def _as_note(column: Column, labels: Column) -> str:
    """What is in a column: "supervision: aligned views (shala, cmvae); views (eg3d)."."""
    name, *cells = column.cells
    if name == "reduced":  # each row that is has a note of its own
        return ""
    rows: dict[str, list[str]] = {}
    for text, label in zip(cells, labels.cells[1:], strict=True):
        if text != "-" and label not in rows.setdefault(text, []):
            rows[text].append(label)
    if len(rows) == 1:
        return f"{name}: {next(iter(rows))}."
    texts = [f"{text} ({', '.join(of)})" for text, of in rows.items()]
    return f"{name}: {'; '.join(texts)}." if texts else ""


def _width(cells: Sequence[str]) -> int:
    return max(len(line) for cell in cells for line in cell.splitlines() or [""])

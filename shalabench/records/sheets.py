"""CSV files of the project, checked while they are read. Free of pydantic, as tables must be."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from shalabench.api.errors import ConfigErrors, unknown

T = TypeVar("T")
Check = Callable[[str], Any]
"""The value of a cell; raises a ValueError that says what was expected."""


def read_sheet(
    file: Path, row: type[T], checks: Mapping[str, Check], unique: Sequence[str]
) -> list[T]:
    """The rows of a file whose columns are the fields of a data class.

    Args:
        file: CSV in UTF-8, its first line the names of the columns.
        row: The data class.
        checks: By column; every other cell is taken as it is.
        unique: Columns whose values no two rows share.

    Raises:
        ConfigErrors: All mistakes together, each with its file, line, column and wrong value.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            reader = csv.reader(text, strict=True)
            lines = [(reader.line_num, cells) for cells in reader if cells]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigErrors([f"{file} does not read as CSV: {error}. {_AGAIN}"]) from error
    columns = [field.name for field in fields(row)]  # type: ignore[arg-type]
    head = lines[0][1] if lines else []
    mistakes = list(_wrong_head(file, head, columns))
    found, places = [], []
    for number, cells in lines[1:] if not mistakes else ():
        place = f"{file}, line {number}"
        if len(cells) != len(head):
            mistakes.append(f"{place} has {len(cells)} cells; {len(head)} were expected. {_AGAIN}")
            continue
        values: dict[str, Any] = {}
        for column, cell in zip(head, cells, strict=True):
            try:
                values[column] = checks.get(column, str)(cell)
            except ValueError as error:
                mistakes.append(f"{place}, column {column}: '{cell}' {error}. Correct it.")
        found.append(values)
        places.append(tuple(cells[head.index(column)] for column in unique))
    for same, times in Counter(places).items():
        if times > 1:
            named = ", ".join(f"{c} '{v}'" for c, v in zip(unique, same, strict=True))
            mistakes.append(f"{file} has {times} rows of {named}. Keep one of them.")
    if mistakes:
        raise ConfigErrors(mistakes)
    return [row(**values) for values in found]


_AGAIN = "Correct it, or restore it from the release."


def _wrong_head(file: Path, head: Sequence[str], columns: Sequence[str]) -> Iterator[str]:
    for name in head:
        if name not in columns:
            yield unknown(f"column of {file}", name, columns)
    for name in columns:
        if head.count(name) != 1:
            yield f"{file} has {head.count(name)} columns '{name}'; one was expected. {_AGAIN}"


def filled(cell: str) -> str:
    """A cell that is not empty."""
    if not cell.strip():
        raise ValueError("is empty, and a text was expected")
    return cell


def number(cell: str) -> str:
    """A finite number, with its digits as they are written."""
    try:
        finite = abs(float(cell)) < float("inf")
    except ValueError:
        finite = False
    if not finite:
        raise ValueError("is no number; one such as 0.815 was expected")
    return cell


def spread(cell: str) -> str:
    """A number from 0 up, or nothing."""
    if cell and number(cell) and float(cell) < 0:
        raise ValueError("is below 0; a spread is not")
    return cell


def count(cell: str) -> int:
    """A whole number from 1 up."""
    if not (cell.isdecimal() and int(cell) > 0):
        raise ValueError("is no whole number from 1 up")
    return int(cell)


def one_of(kind: str, known: Callable[[], Sequence[str]]) -> Check:
    """A name of a list."""

    def check(cell: str) -> str:
        if cell not in known():
            raise ValueError(f"is wrong. {unknown(kind, cell, known()).removesuffix('.')}")
        return cell

    return check

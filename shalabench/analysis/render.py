"""Tables as text, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from shalabench.analysis.costs import FIELDS, cost_columns, is_undertrained
from shalabench.analysis.fitting import (
    NARROW,
    Column,
    Detail,
    Legend,
    fit,
    plain,
    size,
    squeeze,
)
from shalabench.analysis.notes import for_terminal
from shalabench.analysis.reported import others, source_notes
from shalabench.analysis.rows import FACTS, NOT_RUN, Cell, Row
from shalabench.analysis.verdicts import SYMBOLS
from shalabench.api.errors import ConfigErrors, unknown
from shalabench.records.published import MAIN, Published

if TYPE_CHECKING:
    from shalabench.analysis.tables import Table

Format = Literal["text", "markdown", "latex", "csv", "json"]
_ALONE = (
    r"\documentclass{article}\usepackage{booktabs}\begin{document} "
    "% with this and the last line uncommented, the file compiles alone",
    r"\end{document}",
)
_LATEX = str.maketrans(
    {c: rf"\{c}" for c in "_%&#${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "\n": " "}
)


def render(
    tables: Sequence[Table],
    form: Format,
    *,
    costs: bool = False,
    sources: bool = False,
    wide: bool = False,
    columns: Sequence[str] = (),
    width: int | None = None,
    notes: bool = True,
) -> str:
    """Tables as text.

    Args:
        tables: What is shown.
        form: "csv" and "json" hold every value, the others what people read.
        costs: Whether a second table has the costs, where they are no columns.
        sources: Whether the values of all sources are shown.
        wide: Whether there are columns for both. In text, costs are columns if these fit.
        columns: Only these metrics, by name or last part of it.
        width: Of the terminal that text is for: what does not fit is left out, and lines that
            several tables have stand once, below the last. None leaves text as it is.
        notes: Whether text for a terminal has all notes.

    Raises:
        BenchError: No table has one of the columns.
    """
    names = _chosen(tables, columns)
    if form == "json":
        return json.dumps([_plain(table) for table in tables], indent=1)
    if form == "csv":
        return _csv(tables)
    how = _How(form, costs, sources or wide, wide, width, names)
    parts = [_readable(table, how) for table in tables]
    if form != "text" or width is None:
        text = "\n\n".join(_joined(*part[:3], form) for part in parts)
        return f"% {_ALONE[0]}\n{text}\n% {_ALONE[1]}" if form == "latex" else text
    return for_terminal(parts, width, every=notes)


@dataclass(frozen=True)
class _How:
    """What `render` was asked for."""

    form: Format
    costs: bool
    sources: bool
    wide: bool
    width: int | None
    columns: frozenset[str]


def _chosen(tables: Sequence[Table], asked: Sequence[str]) -> frozenset[str]:
    """The metrics that are asked for by their name or its last part; all where none is."""
    known = {name: _short(name, table.metrics) for table in tables for name in table.metrics}
    wrong = [text for text in asked if text not in known and text not in known.values()]
    if wrong:
        names = {*known.values()}
        raise ConfigErrors([unknown("column", text, names) for text in wrong])
    return frozenset(name for name, short in known.items() if not {name, short}.isdisjoint(asked))


def _readable(table: Table, how: _How) -> tuple[str, list[str], list[str], list[str]]:
    """A table's title, its parts, its notes, and metrics that are left out."""
    form, width = how.form, how.width
    columns = _columns(table, form, how.sources)
    added: list[str] = []
    left_out: list[str] = []
    if how.columns:
        columns = [c for c in columns if c.kind in ("label", "fact") or c.of in how.columns]
    if form == "text" and width and not how.wide:
        columns, added, left_out = fit(columns, width, every=bool(how.columns))
    if how.sources:
        added += source_notes(table.rows, table.metrics, table.source)
    spent, legend = cost_columns(table.rows, lambda text: _escaped(text, form))
    spending = [Column("fact", texts[0], list(texts)) for texts in zip(*spent, strict=True)]
    joined = [*columns, *spending]
    fits = form == "text" and not how.costs and spent and size(joined) <= (width or NARROW)
    drawn = [joined if how.wide or fits else columns]
    if spent and how.costs and not how.wide:
        drawn.append([columns[0], *spending])
    if form == "text" and width and not how.wide:
        drawn = [squeeze(part, width) for part in drawn]
    added += map(Legend, legend if spent and (how.wide or fits or how.costs) else [])
    where = table.preset if table.preset == NOT_RUN else f"preset {table.preset}"
    shown = {column.of for column in columns}
    hidden = tuple(f"{n}{sign}" for n in table.metrics if n not in shown for sign in ": ")
    notes = [
        Detail(note) if hidden and note.startswith(hidden) else note
        for note in (*table.notes, *added)
    ]
    return f"{table.dataset}, {where}", [_drawn(part, form) for part in drawn], notes, left_out


def _joined(title: str, drawn: list[str], notes: list[str], form: Format) -> str:
    if form == "latex":
        head, *lines = ("% " + " ".join(text.split()) for text in (title, *notes))
        return "\n".join([head, *drawn, *lines])
    mark = "**" if form == "markdown" else ""
    start = "- " if form == "markdown" else "  "
    lines = [f"{start}{note}" for note in notes]
    return "\n".join([f"{mark}{title}{mark}", "", "\n\n".join(drawn), "", *lines])


def _drawn(columns: Sequence[Column], form: Format) -> str:
    if form == "text":
        return plain([column.cells for column in columns])
    from tabulate import tabulate

    style = {"markdown": "github", "latex": "latex_raw"}[form]
    grid = list(zip(*(column.cells for column in columns), strict=True))
    drawn = tabulate(grid[1:], grid[0], tablefmt=style, disable_numparse=True)
    if form == "latex":
        for rule in ("top", "mid", "bottom"):  # of booktabs, for three plain lines
            drawn = drawn.replace(r"\hline", rf"\{rule}rule", 1)
    return drawn


def _columns(table: Table, form: Format, sources: bool) -> list[Column]:
    """Labels, facts, and a measured and a published column for each metric."""
    proxy = "" if table.published_for == table.dataset else f", {table.published_for}"
    proxy = ", other data" if table.apart and not proxy else proxy
    proxy += "" if table.source == MAIN else f", {table.source}"
    rows, facts = table.rows, fact_columns(table)
    texts = [[_escaped(text, form) for text in fact_texts(row, facts)] for row in rows]
    columns = [Column("label", "method", ["method", *(_named(row, form) for row in rows)])]
    columns += [Column("fact", n, [n, *(line[i] for line in texts)]) for i, n in enumerate(facts)]
    for name, (_, digits, _) in table.metrics.items():
        published = published_name(name, table)
        with_value = [row for row in rows if published in row.published]
        cells = [row.cells.get(name) for row in rows]
        measured = [
            _shown(cell, digits, form) if cell else _escaped(row.missing, form)
            for cell, row in zip(cells, rows, strict=True)
        ]
        heading = _escaped(_short(name, table.metrics), form)
        columns.append(Column("value", name, [heading, *measured]))
        if with_value:
            values = [row.published.get(published, "-") for row in rows]
            heading = f"published{_escaped(proxy, form)}"
            columns.append(Column("published", name, [heading, *values]))
        if any(row.published_protocol for row in with_value):
            protocols = [_escaped(row.published_protocol or "-", form) for row in rows]
            columns.append(Column("protocol", name, ["published protocol", *protocols]))
        more = [others(row, published, table.source) if sources else "" for row in rows]
        if any(more):
            heading = f"other sources{_escaped(proxy, form)}"
            found = [_escaped(text, form) or "-" for text in more]
            columns.append(Column("sources", name, [heading, *found]))
    return columns


def _named(row: Row, form: Format) -> str:
    """A row's label, with a double dagger where it is undertrained."""
    mark = {"latex": r"$^\ddagger$"}.get(form, " ‡") if is_undertrained(row) else ""
    return _escaped(row.label, form) + mark


def fact_columns(table: Table) -> list[str]:
    """Names of the facts that some row depends on."""
    return [name for name in FACTS if any(name in row.facts for row in table.rows)]


def fact_texts(row: Row, facts: Sequence[str]) -> list[str]:
    """A row's facts in a word each; what is reduced is written in full below the table."""
    words = {name: row.facts.get(name, "-") for name in facts}
    if words.get("reduced", "-") != "-":
        words["reduced"] = "yes" if words["reduced"] else "no"
    return list(words.values())


def published_name(name: str, table: Table) -> str:
    """The name under which a metric's values are published: its name, or that of its family.

    A family's values stand beside the first metric of it.
    """
    family = name.split("/")[0]
    first = next(n for n in table.metrics if n.split("/")[0] == family)
    beside = family not in table.metrics and first == name
    return family if beside and any(family in row.published for row in table.rows) else name


def _escaped(text: str, form: Format) -> str:
    """Text in which the format's marks are escaped."""
    if form == "latex":
        return text.translate(_LATEX)
    return text.replace("|", r"\|") if form == "markdown" else text


def _short(name: str, metrics: dict[str, Any]) -> str:
    alone = name.split("/", 1)[-1]
    return alone if sum(n.split("/", 1)[-1] == alone for n in metrics) == 1 else name


def _shown(cell: Cell, digits: int, form: Format) -> str:
    text = f"{cell.mean:.{digits}f}"
    between = r" $\pm$ " if form == "latex" else " ± "
    error = "" if cell.stderr is None else f"{between}{cell.stderr:.{digits}f}"
    symbol = SYMBOLS.get(cell.mark, "")
    bold = {"markdown": f"**{text}**", "latex": rf"\textbf{{{text}}}"}
    if cell.mark == "best" and form in bold:
        text, symbol = bold[form], ""
    if symbol and form == "latex":
        symbol = {"†": r"$^\dagger$"}.get(symbol, f"$^{symbol}$")
    return f"{text}{symbol}{error} ({cell.seeds})"


def _plain(table: Table) -> dict[str, Any]:
    """A table as plain values."""
    facts = ("direction", "digits", "meaning")
    shown = ("label", "method", "facts", "published_protocol", "missing", "reason")
    rows = [
        {
            **{key: getattr(row, key) for key in shown},
            "measured": {name: vars(cell) for name, cell in row.cells.items()},
            "collapsed": {name: found._asdict() for name, found in row.collapsed.items()},
            "published": {name: float(value) for name, value in row.published.items()},
            "reported": [_reported(p) for p in row.reported if p.metric in table.metrics],
            "costs": row.costs.plain() | {"stages": row.costs.stages} if row.costs else None,
        }
        for row in table.rows
    ]
    return {
        **{key: getattr(table, key) for key in ("dataset", "preset", "published_for", "notes")},
        "published_source": table.source,
        "metrics": {n: dict(zip(facts, m, strict=True)) for n, m in table.metrics.items()},
        "rows": rows,
    }


def _reported(p: Published) -> dict[str, Any]:
    """A published value as plain values."""
    shown = {key: getattr(p, key) for key in ("metric", "condition", "key", "source", "note")}
    return shown | {"value": float(p.value), "spread": float(p.spread) if p.spread else None}


def _csv(tables: Sequence[Table]) -> str:
    lines = []
    for table in tables:
        for row in (row for row in table.rows if row.missing != NOT_RUN):
            for name in dict.fromkeys([*table.metrics, *row.published]):
                cell, published = row.cells.get(name), row.published.get(name)
                values: list[Any] = ["", "", "", "", 0, ""]
                if cell:
                    ends = cell.interval or ("", "")
                    values = [cell.mean, cell.stderr, *ends, cell.seeds, cell.n]
                if cell or published:
                    where = table.dataset, table.preset, row.label, name
                    more = others(row, name, table.source)
                    costs = row.costs.plain().values() if row.costs else [None] * len(FIELDS)
                    lines.append([*where, *values, published, more or None, *costs])
    head = ["dataset", "preset", "method", "metric", "mean", "stderr", "low", "high", "seeds", "n"]
    head += ["published", "other_sources", *FIELDS]
    cells = [[_inert(value) for value in line] for line in lines]
    frame = pd.DataFrame(cells, columns=head, dtype=object)
    return frame.to_csv(index=False, lineterminator="\n").rstrip("\n")


def _inert(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula; numbers, and texts of them, stay."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value

"""Tables as text, Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from shalabench.analysis.rows import FACTS, NOT_RUN, Cell, Row
from shalabench.analysis.verdicts import SYMBOLS

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


def render(tables: Sequence[Table], form: Format) -> str:
    """Tables as text; "csv" and "json" hold every value, the others what people read."""
    if form == "json":
        return json.dumps([_plain(table) for table in tables], indent=1)
    if form == "csv":
        return _csv(tables)
    text = "\n\n".join(_readable(table, form) for table in tables)
    return f"% {_ALONE[0]}\n{text}\n% {_ALONE[1]}" if form == "latex" else text


def _readable(table: Table, form: Format) -> str:
    from tabulate import tabulate

    heading, *lines = _grid(table, form)
    style = {"text": "simple", "markdown": "github", "latex": "latex_raw"}[form]
    drawn = tabulate(lines, heading, tablefmt=style, disable_numparse=True)
    where = table.preset if table.preset == NOT_RUN else f"preset {table.preset}"
    title = f"{table.dataset}, {where}"
    if form == "latex":
        head, *notes = ("% " + " ".join(text.split()) for text in (title, *table.notes))
        for rule in ("top", "mid", "bottom"):  # of booktabs, for three plain lines
            drawn = drawn.replace(r"\hline", rf"\{rule}rule", 1)
        return "\n".join([head, drawn, *notes])
    mark = "**" if form == "markdown" else ""
    notes = [f"- {note}" if form == "markdown" else f"  {note}" for note in table.notes]
    return "\n".join([f"{mark}{title}{mark}", "", drawn, "", *notes])


def _grid(table: Table, form: Format) -> list[list[str]]:
    """Heading and lines, a measured and a published column for each metric."""
    proxy = "" if table.published_for == table.dataset else f", {table.published_for}"
    facts = fact_columns(table)
    heading = ["method", *facts]
    lines = [[_escaped(t, form) for t in (r.label, *fact_texts(r, facts))] for r in table.rows]
    for name, (_, digits, _) in table.metrics.items():
        published = published_name(name, table)
        with_value = [row for row in table.rows if published in row.published]
        count = bool(with_value) + any(row.published_protocol for row in with_value)
        heading += [_escaped(_short(name, table.metrics), form)]
        heading += [f"published{_escaped(proxy, form)}", "published protocol"][:count]
        for line, row in zip(lines, table.rows, strict=True):
            cell = row.cells.get(name)
            measured = _shown(cell, digits, form) if cell else _escaped(row.missing, form)
            protocol = _escaped(row.published_protocol or "-", form)
            line += [measured, *[row.published.get(published, "-"), protocol][:count]]
    return [heading, *lines]


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
        }
        for row in table.rows
    ]
    return {
        **{key: getattr(table, key) for key in ("dataset", "preset", "published_for", "notes")},
        "metrics": {n: dict(zip(facts, m, strict=True)) for n, m in table.metrics.items()},
        "rows": rows,
    }


def _csv(tables: Sequence[Table]) -> str:
    lines = []
    for table in tables:
        for row in table.rows:
            for name in dict.fromkeys([*table.metrics, *row.published]):
                cell, published = row.cells.get(name), row.published.get(name)
                values: list[Any] = ["", "", "", "", 0, ""]
                if cell:
                    ends = cell.interval or ("", "")
                    values = [cell.mean, cell.stderr, *ends, cell.seeds, cell.n]
                if cell or published:
                    where = table.dataset, table.preset, row.label, name
                    lines.append([*where, *values, published])
    head = ["dataset", "preset", "method", "metric", "mean", "stderr", "low", "high", "seeds", "n"]
    frame = pd.DataFrame(lines, columns=[*head, "published"], dtype=object)
    return frame.to_csv(index=False, lineterminator="\n").rstrip("\n")

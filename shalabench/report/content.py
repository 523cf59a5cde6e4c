"""What stands on a dataset's page and on a run's page, as plain facts for the templates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from shalabench.analysis.costs import COLUMNS, costs_of
from shalabench.analysis.render import fact_columns, fact_texts, published_name
from shalabench.analysis.rows import Row
from shalabench.analysis.tables import Table
from shalabench.analysis.variants import label_of
from shalabench.analysis.verdicts import best_first
from shalabench.config.nested import leaves
from shalabench.records.frame import Records, Result
from shalabench.records.published import MAIN, Source, read_sources
from shalabench.records.store import LETTERS, RunFolder
from shalabench.report.charts import mean_time
from shalabench.report.glance import gap, standing
from shalabench.report.matrices import matrices
from shalabench.report.sections import Section, parts_of
from shalabench.report.words import device

_BOUNDS = ("Floor", "Ceiling", "Chance")  # how notes on them begin
_LOG_LINES = 30  # of a failure
_EVENTS = 8


def table_facts(tables: list[Table], *, in_order: bool = False) -> list[dict[str, Any]]:
    """All tables; rows without any value in the first one only, which says why.

    Args:
        tables: What is shown.
        in_order: Whether rows stay in their order; else the best stands first.
    """
    parts = [part for table in tables for part in parts_of(table)]
    if not parts:
        return []
    shown = parts[:1]
    for part in parts[1:]:
        rows = [row for row in part.rows if (row.cells | row.published).keys() & part.metrics]
        shown += [replace(part, rows=rows)] if rows else []
    return [_table_facts(part, in_order) for part in shown]


def _table_facts(table: Table, in_order: bool) -> dict[str, Any]:
    """A table as columns and lines with the published values and the gaps."""
    names = {metric: published_name(metric, table) for metric in table.metrics}
    published = {m for m, name in names.items() if any(name in r.published for r in table.rows)}
    gaps = {m for m in published if not table.apart and any(gap(r, m) for r in table.rows)}
    columns = fact_columns(table)
    values = {fact: {fact_texts(row, [fact])[0] for row in table.rows} for fact in columns}
    facts = [fact for fact in columns if len(values[fact]) > 1]
    first = next(iter(table.metrics))
    rows = table.rows
    if not in_order:
        rows = best_first(rows, first, 1 if table.metrics[first][0] == "higher" else -1)
        rows += sorted((r for r in table.rows if first not in r.cells), key=lambda r: r.label)

    return {
        "title": _title(list(table.metrics)),
        "columns": [
            {
                "name": name.split("/", 1)[-1].replace("-", " "),
                "direction": direction,
                "meaning": meaning,
                "published": name in published,
                "gaps": name in gaps,
            }
            for name, (direction, _, meaning) in table.metrics.items()
        ],
        "lines": [
            (
                row,
                fact_texts(row, facts),
                [_entry(row, m, table, name) for m, name in names.items()],
            )
            for row in rows
        ],
        "facts": facts,
        "shared": [(f, *values[f]) for f in columns if f not in facts],
        "bounds": [note for note in table.notes if note.startswith(_BOUNDS)],
        "apart": table.apart,
    }


def _title(metrics: list[str]) -> str:
    """The family of a table's metrics; of a series such as subset-2, subset-3 also its name."""
    family, _, name = metrics[0].partition("/")
    family = family.upper() if len(family) < 4 else family.capitalize()
    start = name.rpartition("-")[0]
    is_series = len(metrics) > 1 and start and all(f"/{start}-" in other for other in metrics)
    return f"{family} by {start}" if is_series else family


def _entry(row: Row, metric: str, table: Table, name: str) -> dict[str, Any]:
    return {
        "cell": row.cells.get(metric),
        "digits": table.metrics[metric][1],
        "published": row.published.get(name, ""),
        "gap": gap(row, metric),
        "standing": standing(row, metric, table),
    }


def matrix_facts(section: Section) -> list[tuple[str, list[tuple[str, Any]]]]:
    """By metric: each method's matrix."""
    by_row = [(label, matrices(own)) for label, own in section.rows]
    names = dict.fromkeys(name for _, metrics in by_row for name in metrics)
    shown = [(n, [(label, ms[n]) for label, ms in by_row if n in ms]) for n in names]
    return [(name, own) for name, own in shown if any(len(m[2]) > 1 for _, m in own)]


def cost_facts(section: Section, pages: dict[str, str]) -> list[dict[str, Any]]:
    """A row's tuples, training and evaluation time, memory, parameters and devices."""
    rows = []
    target = next(filter(None, section.records.runs["proxy_for"]), section.dataset)
    for label, own in section.rows:
        evaluation = [
            sum(result.provenance.get("seconds") or 0 for result in own.results[training])
            for training in own.runs["train_id"]
            if own.results[training]
        ]
        memory = own.runs["peak_memory"].max()
        spent = costs_of(own.rows, target)
        cells = spent.cells() if spent else ["-"] * len(COLUMNS)
        rows.append(
            {
                "label": label,
                "runs": [(run, pages[run.run]) for run in own.rows],
                "tuples": cells[:3],
                "undertrained": spent.undertrained if spent else "",
                "seconds": mean_time(own, "seconds"),
                "cpu_seconds": mean_time(own, "cpu_seconds"),
                "evaluation": sum(evaluation) / len(evaluation) if evaluation else None,
                "memory": 0 if math.isnan(memory) else memory,
                "parameters": next(iter(own.runs["parameters"].dropna()), None),
                "devices": sorted({device(facts) for facts in own.runs["provenance"] if facts}),
            }
        )
    return sorted(rows, key=lambda row: (row["seconds"] is None, row["seconds"], row["label"]))


def reported_facts(section: Section) -> list[tuple[Source, list[dict[str, str]]]]:
    """By source, but the one in the tables' columns: its values for the methods here."""
    found: dict[str, dict[tuple[str, ...], dict[str, str]]] = {}
    for table in section.tables:
        for row in table.rows:
            for p in row.reported:
                if p.key != MAIN and p.metric in table.metrics:
                    facts = {"method": p.method, "metric": p.metric, "value": p.text}
                    where = found.setdefault(p.key, {})
                    where[p.method, p.metric, p.condition] = facts | {"note": p.note}
    return [(read_sources()[key], list(values.values())) for key, values in found.items()]


def study_names(section: Section) -> dict[str, str]:
    """The variants of ablations by row label; the preset's settings are marked."""
    rows = [own.runs for _, own in (*section.rows, *section.varied)]
    changed = {run.run for runs in rows for run in runs.itertuples() if run.overrides}
    names = {}
    for ablation, tables in section.studies:
        short = {label_of(ablation, variant): variant.name for variant in ablation.variants}
        for row in (row for table in tables for row in table.rows):
            mark = " (the preset's)" if row.runs and changed.isdisjoint(row.runs) else ""
            names[row.label] = short.get(row.label, row.label) + mark
    return names


def data_sentences(section: Section) -> list[str]:
    """What the data are, and how many tuples of them there are."""
    sentences = []
    for data in section.records.runs["data"]:
        sizes = ", ".join(f"{n:,} {split}" for split, n in data.get("sizes", {}).items())
        sentences.append("; tuples: ".join(filter(None, (data["source"], sizes))))
    return list(dict.fromkeys(sentences))


def named_files(results: list[Result], what: str) -> Iterator[tuple[str, str]]:
    """Kind and name of the "pictures" or "texts" of evaluations, in order of their names."""
    pairs = [(name, result) for result in results for name in getattr(result, what)]
    for name, result in sorted(pairs, key=lambda pair: pair[0]):
        stem = Path(name).stem.removeprefix("samples-")
        yield stem.removesuffix(f"-{result.eval_id[:LETTERS]}"), name


def run_facts(run: Any, own: Records) -> dict[str, Any]:
    """The facts of a run's page, but for pictures.

    Args:
        run: A row of `own.runs`.
        own: Of its row in the section.
    """
    results, folder = own.results[run.train_id], own.folders[run.train_id]
    failure = folder.failed or {}
    traceback = str(failure.get("traceback") or "").splitlines()
    texts = ((kind, folder.text(name)) for kind, name in named_files(results, "texts"))
    return {
        "run": run,
        "results": results,
        "texts": [(kind, text) for kind, text in texts if text is not None],
        "matrices": list(matrices(own, [run]).items()),
        "settings": [
            (key, value, *[*run.origins.get(key, ()), "", ""][:2])
            for key, value in sorted(run.settings.items())
        ],
        "scores": _scores(results),
        "failure": failure,
        "log": "\n".join(traceback[-_LOG_LINES:]),
        "events": _events(folder) if failure else [],
        "provenance": list(leaves(run.provenance)),
        "device": device(run.provenance),
    }


def _scores(results: list[Result]) -> list[tuple[str, str, str, str, int, str]]:
    """Summaries: metric, shown value, error and interval, items, meaning."""
    rows = []
    for result in results:
        intervals = result.details.get("intervals", {})
        for name, score in result.summaries.items():
            facts = result.metrics.get(name, {"digits": 3, "meaning": ""})
            digits = facts["digits"]
            error = "" if score.stderr is None else f"{score.stderr:.{digits}f}"
            interval = " to ".join(f"{end:.{digits}f}" for end in intervals.get(name, ()))
            value = f"{score.value:.{digits}f}"
            rows.append((name, value, error, interval, score.n, facts["meaning"]))
    return rows


def _events(folder: RunFolder) -> list[str]:
    """The last events, a line each."""
    lines = []
    for event in list(folder.events())[-_EVENTS:]:
        facts = ", ".join(f"{k} {v}" for k, v in event.items() if k not in ("time", "kind"))
        lines.append(f"{event['kind']}: {facts}")
    return lines

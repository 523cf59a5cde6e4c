"""Tables from records: measured beside published, with errors, and what is missing and why."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from harness.api.errors import BenchError, unknown
from harness.api.records import Score
from harness.published import Published, read_published
from harness.store import RunFolder, Store

Format = Literal["text", "markdown", "latex", "csv", "json"]
_LEVEL = 0.05  # of the tests behind the bold print
_CEILING = "classifier/accuracy"


@dataclass(frozen=True)
class Cell:
    """One method's figure, over its seeds.

    Attributes:
        mean: Over seeds.
        stderr: Over seeds, or over test items where there is one seed; None where unknown.
        seeds: Number of runs.
        n: Test items a run.
        best: Whether nothing is significantly better.
    """

    mean: float
    stderr: float | None
    seeds: int
    n: int
    best: bool = False


@dataclass
class Row:
    """One method in one variant of its settings.

    Attributes:
        label: The method, with the settings that were overridden.
        cells: By metric.
        published: By metric, as printed.
        missing: Why there is no figure, where there is none.
    """

    label: str
    method: str
    cells: dict[str, Cell] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)
    missing: str = ""


@dataclass
class Table:
    """All methods on one dataset with one preset.

    Attributes:
        metrics: Shown as columns, by name, with (direction, digits, meaning).
        notes: Lines below the table.
        printed_for: The dataset that the published figures are for.
    """

    dataset: str
    preset: str
    metrics: dict[str, tuple[str, int, str]]
    rows: list[Row]
    notes: list[str]
    printed_for: str


def _age(result: dict[str, Any]) -> tuple[int, int]:
    return result["version"], result["provenance"].get("finished", 0)


class _Records:
    """A run's records as the tables see them: the last result of each evaluator on one split."""

    def __init__(self, folder: RunFolder, split: str):
        self.name, self.run, self.trained = folder.path.name, folder.run, folder.trained
        self.failed, self._folder = folder.failed, folder
        last: dict[str, dict[str, Any]] = {}
        found = [r for r in folder.results() if r["split"] == split]
        for result in sorted(found, key=_age):
            last[result["evaluator"]] = result
        self.results = list(last.values())

    def state(self) -> str:
        """How the run stands."""
        return self._folder.state()


def make_tables(
    stores: Sequence[Store],
    metric: str,
    *,
    dataset: str | None = None,
    preset: str | None = None,
    models: Sequence[str] = (),
    split: str = "test",
    mix: bool = False,
) -> list[Table]:
    """Read the stores into tables, one for each dataset and preset.

    Args:
        stores: Where records lie.
        metric: A metric, or the beginning of several ("coherence").
        dataset: Only this one.
        preset: Only this one.
        models: Only these.
        split: What was measured on.
        mix: Whether runs of different code, packages' precision or data may share a row.

    Raises:
        BenchError: The metric or dataset is unknown, or records would be mixed.
    """
    folders = _unique([_Records(f, split) for store in stores for f in store.runs()])
    published = read_published()
    _check_names(folders, published, metric, dataset)
    groups: dict[tuple[str, str], list[_Records]] = {}
    for folder in folders:
        run = folder.run
        place = run["dataset"], run["preset"]
        asked = dataset in (None, place[0]) and preset in (None, place[1])
        if asked and (not models or run["model"] in models):
            groups.setdefault(place, []).append(folder)
    for name in sorted({p.dataset for p in published if dataset in (None, p.dataset)}):
        if not any(group[0] == name for group in groups):
            groups.setdefault((name, "not run"), [])
    tables = [
        _table(key, found, metric, published, models, mix) for key, found in sorted(groups.items())
    ]
    return [table for table in tables if table.metrics]


def _unique(folders: list[_Records]) -> list[_Records]:
    """One folder a training: a run that lies in two stores counts once."""
    return list({folder.run["train_id"]: folder for folder in folders}.values())


def _check_names(
    folders: list[_Records], published: list[Published], metric: str, dataset: str | None
) -> None:
    scored = {s["metric"] for f in folders for r in f.results for s in r["scores"]}
    metrics = scored | {p.metric for p in published}
    if not any(_matches(name, metric) for name in metrics):
        families = {name.split("/")[0] for name in metrics}
        raise BenchError(unknown("metric", metric, metrics | families))
    datasets = {f.run["dataset"] for f in folders} | {p.dataset for p in published}
    if dataset is not None and dataset not in datasets:
        raise BenchError(unknown("dataset", dataset, datasets))


def _matches(name: str, asked: str) -> bool:
    return name == asked or name.startswith(asked + "/")


def _table(
    key: tuple[str, str],
    folders: list[_Records],
    metric: str,
    published: list[Published],
    models: Sequence[str],
    mix: bool,
) -> Table:
    dataset, preset = key
    twin = next((f.run["data"].get("twin", "") for f in folders), "")
    printed = [p for p in published if p.dataset == (twin or dataset) and not p.condition]
    printed = [p for p in printed if _matches(p.metric, metric)]
    results = [r for f in folders for r in f.results]
    metrics = _metrics(results, [] if twin else printed, metric)
    rows = _rows(folders, metrics, mix)
    ran = {row.method for row in rows}
    for p in printed:
        if (models and p.method not in models) or (twin and p.method not in ran):
            continue
        own = [row for row in rows if row.method == p.method]
        if not own:
            rows.append(Row(p.method, p.method, missing="not run"))
        for row in own or rows[-1:]:
            row.published[p.metric] = p.value
    _mark_best(rows, metrics)
    order = list(dict.fromkeys(p.method for p in printed))
    rows.sort(key=lambda r: (order.index(r.method) if r.method in order else -1, r.label))
    notes = _notes(folders, results, metrics, printed, rows)
    return Table(dataset, preset, metrics, rows, notes, twin or dataset)


def _metrics(
    results: list[dict[str, Any]], printed: list[Published], asked: str
) -> dict[str, tuple[str, int, str]]:
    known = {m["name"]: m for r in results for m in r["metrics"]}
    scored = [s["metric"] for r in results for s in r["scores"] if Score.from_json(s).is_summary]
    names = [n for n in dict.fromkeys([*known, *scored]) if n in scored and _matches(n, asked)]
    names += [p.metric for p in printed if p.metric not in names]
    found = {}
    for name in dict.fromkeys(names):
        m = known.get(name)
        found[name] = (m["direction"], m["digits"], m["meaning"]) if m else ("", 3, "")
    return found


def _rows(folders: list[_Records], metrics: dict[str, Any], mix: bool) -> list[Row]:
    variants: dict[str, list[_Records]] = {}
    for folder in folders:
        variants.setdefault(_variant(folder.run), []).append(folder)
    rows = []
    for own in variants.values():
        run = own[0].run
        label = " ".join([run["model"], *(f"[{text}]" for text in run["overrides"])])
        row = Row(label, run["model"], missing=_why(own))
        if not mix:
            _refuse_mixture(label, own)
        for name in metrics:
            scores = [s for f in own if (s := _summary(f, name)) is not None]
            if scores:
                row.cells[name] = _cell(scores)
        rows.append(row)
    return rows


def _variant(run: dict[str, Any]) -> str:
    """What the seeds of one row have in common."""
    return json.dumps([run["model"], run["model_version"], run["settings"]], sort_keys=True)


def _why(folders: list[_Records]) -> str:
    states = Counter(folder.state() for folder in folders)
    states.pop("done", None)
    told = []
    for state, count in states.items():
        first = next(f for f in folders if f.state() == state)
        reason = f": {first.failed['reason']}" if first.failed else ""
        told.append(f"{count} {state}{reason}")
    return "; ".join(told)


def _refuse_mixture(label: str, folders: list[_Records]) -> None:
    facts: dict[str, dict[str, str]] = {}
    for folder in folders:
        name, trained = folder.name, folder.trained
        if trained:
            facts.setdefault("source code", {})[trained["provenance"]["source"]] = name
            facts.setdefault("network code", {})[trained["provenance"]["nets"]] = name
        facts.setdefault("data", {})[folder.run["data"]["fingerprint"]] = name
        for result in folder.results:
            own = f"evaluator {result['evaluator']}"
            digests = [c["digest"] for c in result["classifiers"].values()]
            state = json.dumps([result["version"], result["settings"], digests])
            facts.setdefault(own, {})[state] = name
    for what, values in facts.items():
        if len(values) > 1:
            first, second, *_ = values.values()
            raise BenchError(
                f"The runs of '{label}' differ in their {what}: {first} and {second}, for two. Run "
                "the older again, name one --store, or add --mix to average them all the same."
            )


def _summary(folder: _Records, metric: str) -> Score | None:
    for result in folder.results:
        for data in result["scores"]:
            score = Score.from_json(data)
            if score.metric == metric and score.is_summary:
                return score
    return None


def _cell(scores: list[Score]) -> Cell:
    values = [score.value for score in scores]
    mean, k = sum(values) / len(values), len(values)
    if k == 1:
        return Cell(mean, scores[0].stderr, 1, scores[0].n)
    variance = sum((v - mean) ** 2 for v in values) / (k - 1)
    return Cell(mean, math.sqrt(variance / k), k, scores[0].n)


def _mark_best(rows: list[Row], metrics: dict[str, tuple[str, int, str]]) -> None:
    for name, (direction, _, _) in metrics.items():
        cells = {i: row.cells[name] for i, row in enumerate(rows) if name in row.cells}
        if len(cells) < 2 or not direction:
            continue
        sign = 1 if direction == "higher" else -1
        top = max(cells.values(), key=lambda cell: sign * cell.mean)
        for i, cell in cells.items():
            if cell is top or not _differs(cell, top):
                rows[i].cells[name] = Cell(cell.mean, cell.stderr, cell.seeds, cell.n, best=True)


def _differs(a: Cell, b: Cell) -> bool:
    """Whether two means differ significantly: Welch's test over seeds, else over test items."""
    if a.stderr is None or b.stderr is None or a.stderr + b.stderr == 0:
        return a.mean != b.mean
    t = abs(a.mean - b.mean) / math.hypot(a.stderr, b.stderr)
    if a.seeds < 2 or b.seeds < 2:
        return math.erfc(t / math.sqrt(2)) < _LEVEL
    from scipy.special import stdtr  # a tenth of a second, and only where seeds are compared

    spread = (a.stderr**2 + b.stderr**2) ** 2
    freedom = spread / (a.stderr**4 / (a.seeds - 1) + b.stderr**4 / (b.seeds - 1))
    return 2 * float(stdtr(freedom, -t)) < _LEVEL


def _notes(
    folders: list[_Records],
    results: list[dict[str, Any]],
    metrics: dict[str, Any],
    printed: list[Published],
    rows: list[Row],
) -> list[str]:
    notes = [f"{name}: {meaning}." for name, (_, _, meaning) in metrics.items() if meaning]
    ceilings = [
        f"{s['target']} {s['value']:.3f}"
        for r in results
        for s in r["scores"]
        if s["metric"] == _CEILING and s["target"]
    ]
    if ceilings:
        notes.append(f"Classifiers on real test data: {', '.join(dict.fromkeys(ceilings))}.")
    notes += [f"Data: {text}." for text in dict.fromkeys(f.run["data"]["source"] for f in folders)]
    sizes = sorted({c.n for row in rows for c in row.cells.values()})
    if sizes:
        notes.append(f"Test items a figure: {', '.join(f'{n:,}' for n in sizes)}.")
    if any(c.seeds == 1 for row in rows for c in row.cells.values()):
        notes.append("One seed: the error is that over test items, not over trainings.")
    notes += [f"{row.label}: {row.missing}." for row in rows if row.missing and row.cells]
    if any(row.missing == "not run" for row in rows):
        notes.append("-: not run here, or not published.")
    sources = dict.fromkeys(p.source for p in printed)
    notes += [f"Published: {source}." for source in sources]
    return notes


def render(tables: list[Table], form: Format) -> str:
    """Tables as text; "csv" and "json" hold every figure, the others what one reads."""
    if form == "json":
        return json.dumps([_plain(table) for table in tables], indent=1)
    if form == "csv":
        return _csv(tables)
    return "\n\n".join(_readable(table, form) for table in tables)


def _readable(table: Table, form: Format) -> str:
    from tabulate import tabulate

    header, body = ["method"], []
    for name in table.metrics:
        header.append(_short(name, table.metrics))
        if any(name in row.published for row in table.rows):
            other = table.printed_for if table.printed_for != table.dataset else ""
            header.append(f"published, {other}" if other else "published")
    for row in table.rows:
        line = [row.label]
        for name, (_, digits, _) in table.metrics.items():
            cell = row.cells.get(name)
            line.append(_shown(cell, digits, form) if cell else (row.missing or "-"))
            if any(name in other.published for other in table.rows):
                line.append(row.published.get(name, "-"))
        body.append(line)
    style = {"text": "simple", "markdown": "github", "latex": "latex_raw"}[form]
    if form == "latex":
        escape = str.maketrans({"_": r"\_", "%": r"\%", "&": r"\&"})
        header, body = [h.translate(escape) for h in header], body
    grid = tabulate(body, header, tablefmt=style, disable_numparse=True)
    title = f"{table.dataset}, preset {table.preset}"
    if form == "latex":
        return "\n".join([f"% {title}", grid, *(f"% {note}" for note in table.notes)])
    mark = "**" if form == "markdown" else ""
    notes = [f"- {note}" if form == "markdown" else f"  {note}" for note in table.notes]
    return "\n".join([f"{mark}{title}{mark}", "", grid, "", *notes])


def _short(name: str, metrics: dict[str, Any]) -> str:
    alone = name.split("/", 1)[-1]
    return alone if sum(n.split("/", 1)[-1] == alone for n in metrics) == 1 else name


def _shown(cell: Cell, digits: int, form: Format) -> str:
    text = f"{cell.mean:.{digits}f}"
    between = r" $\pm$ " if form == "latex" else " ± "
    error = "" if cell.stderr is None else f"{between}{cell.stderr:.{digits}f}"
    bold = {"markdown": f"**{text}**", "latex": rf"\textbf{{{text}}}", "text": f"{text}*"}[form]
    return f"{bold if cell.best else text}{error} ({cell.seeds})"


def _plain(table: Table) -> dict[str, Any]:
    return {
        "dataset": table.dataset,
        "preset": table.preset,
        "metrics": {
            name: {"direction": d, "digits": g, "meaning": m}
            for name, (d, g, m) in table.metrics.items()
        },
        "rows": [
            {
                "label": row.label,
                "method": row.method,
                "measured": {name: vars(cell) for name, cell in row.cells.items()},
                "published": {name: float(value) for name, value in row.published.items()},
                "missing": row.missing,
            }
            for row in table.rows
        ],
        "published_for": table.printed_for,
        "notes": table.notes,
    }


def _csv(tables: list[Table]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ("dataset", "preset", "method", "metric", "mean", "stderr", "seeds", "n", "published")
    writer.writerow(head)
    for table in tables:
        for row in table.rows:
            for name in table.metrics:
                cell, value = row.cells.get(name), row.published.get(name, "")
                if cell:
                    figures = (cell.mean, cell.stderr, cell.seeds, cell.n)
                    writer.writerow((table.dataset, table.preset, row.label, name, *figures, value))
                elif value:
                    blank = ("", "", 0, "")
                    writer.writerow((table.dataset, table.preset, row.label, name, *blank, value))
    return out.getvalue().rstrip("\n")

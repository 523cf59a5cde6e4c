"""Tables from records: measured beside published, with errors, and what is missing and why."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Container, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from shalabench.analysis.statistics import LEVEL, difference
from shalabench.analysis.variants import as_rows, in_order, label_of, printed_of
from shalabench.api.errors import BenchError, unknown
from shalabench.api.records import Score
from shalabench.config.ablations import Ablation
from shalabench.records.gather import Gathered, Record, check_names, gather, source_of
from shalabench.records.ids import train_id
from shalabench.records.published import Published, read_published
from shalabench.records.store import Store

Format = Literal["text", "markdown", "latex", "csv", "json"]
_CEILING = "classifier/accuracy"
_FEW = 100  # items
_FLOOR = "floor/"  # before the metric whose floor it is: all but the protocol
_CHANCE = "chance/"  # before the family: what guessing scores, by what is given and what is made
_BOUND = re.compile(r"(floor|ceiling)-([a-z]+)/(.+)")  # "floor-white/psnr": its meaning says which
_NOT_RUN = "not run"
_INTERVALS = "; its 95 % bootstrap intervals are in the formats csv and json"
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
FACTS = ("resolution", "protocol", "supervision", "reduced")  # of a row, in columns


@dataclass(frozen=True)
class Cell:
    """One method's figure, over its seeds.

    Attributes:
        mean: Over seeds.
        stderr: Over seeds, or over test items where there is one seed; None where unknown.
        seeds: Number of runs.
        n: Test items a run.
        best: Whether nothing is significantly better.
        interval: 95 %, by bootstrap over test items, where there is one seed and the evaluator
            draws it.
        groups: Of the one seed's score.
    """

    mean: float
    stderr: float | None
    seeds: int
    n: int
    best: bool = False
    interval: tuple[float, float] | None = None
    groups: int | None = None


@dataclass
class Row:
    """One method in one variant of its settings.

    Attributes:
        label: The method, with the settings that tell it from others.
        cells: By metric.
        published: By metric, as printed.
        is_variant: Whether settings were not the preset's.
        other_data: Whether these were settings of the data, of which nothing is printed then.
        facts: What its figures hang on, by the names in `FACTS`; none for most data.
        settings: Of its runs, by dotted key.
        scores: By metric, of each seed.
        runs: The names of its records.
        data: By metric, of what data, classifiers and version of the evaluator its figure is: only
            figures of the same are ranked.
        printed_by: How the published figures were measured, where that differs between rows.
        missing: In a word, why there is no figure where there is none.
        reason: The same in full.
    """

    label: str
    method: str
    is_variant: bool = False
    other_data: bool = False
    cells: dict[str, Cell] = field(default_factory=dict)
    published: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, dict[int, Score]] = field(default_factory=dict)
    runs: tuple[str, ...] = ()
    data: dict[str, str] = field(default_factory=dict)
    printed_by: str = ""
    missing: str = ""
    reason: str = ""


@dataclass
class Table:
    """All methods on one dataset with one preset.

    Attributes:
        metrics: Shown as columns, by name, with (direction, digits, meaning).
        notes: Lines below the table.
        printed_for: The dataset that the published figures are for.
        apart: Why the published figures are of other data than ours, in words; empty where not.
    """

    dataset: str
    preset: str
    metrics: dict[str, tuple[str, int, str]]
    rows: list[Row]
    notes: list[str]
    printed_for: str
    apart: str


def make_tables(
    stores: Sequence[Store],
    metric: str,
    *,
    dataset: str | None = None,
    preset: str | None = None,
    models: Sequence[str] = (),
    split: str = "test",
    mix: bool = False,
    ablation: Ablation | None = None,
) -> list[Table]:
    """Read the stores into tables, one for each dataset and preset.

    Args:
        stores: Where records lie.
        metric, dataset, preset, models, mix, ablation: As in `tables_of`.
        split: What was measured on.

    Raises:
        BenchError: The metric or dataset is unknown, or records would be mixed.
    """
    found = gather(stores, split) if any(store.runs() for store in stores) else Gathered()
    filters = {"dataset": dataset, "preset": preset, "models": models}
    tables = tables_of(found.records, metric, **filters, mix=mix, ablation=ablation)
    for table in tables:
        table.notes += [f"Left out: {p.where}: {p.told}" for p in found.problems if p.is_loss]
    return tables


def tables_of(
    records: list[Record],
    metric: str,
    *,
    dataset: str | None = None,
    preset: str | None = None,
    models: Sequence[str] = (),
    mix: bool = False,
    ablation: Ablation | None = None,
) -> list[Table]:
    """Records as tables, one for each dataset and preset.

    Args:
        records: Each training once, all on one split.
        metric: A metric, or the beginning of several ("coherence").
        dataset: Only this one.
        preset: Only this one.
        models: Only these.
        mix: Whether runs of different code, packages' precision or data may share a row.
        ablation: Only its variants, a row each, beside what is printed of them.

    Raises:
        BenchError: The metric or dataset is unknown, or records would be mixed.
    """
    published = read_published()
    if ablation:
        published = printed_of(ablation, published)
        records = as_rows(ablation, records)
    scored = {s["metric"] for f in records for r in f.results for s in r["scores"]}
    metrics = scored | {p.metric for p in published}
    metrics |= {name.split("/")[0] for name in metrics}
    is_known = any(_matches(name, metric) for name in metrics)
    printed = {"dataset": [p.dataset for p in published], "model": [p.method for p in published]}
    mistakes = [] if is_known else [unknown("metric", metric, metrics)]
    check_names(records, dataset, preset, models, besides=printed, mistakes=mistakes)
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        run = record.run
        place = run["dataset"], run["preset"]
        asked = dataset in (None, place[0]) and preset in (None, place[1])
        if asked and (not models or run["model"] in models):
            groups.setdefault(place, []).append(record)
    for name in sorted({p.dataset for p in published if dataset in (None, p.dataset)}):
        if not any(group[0] == name for group in groups):
            groups.setdefault((name, _NOT_RUN), [])
    tables = [
        _table(key, found, metric, published, models, mix, ablation)
        for key, found in sorted(groups.items())
    ]
    tables = [table for table in tables if table.metrics and table.rows]
    if ablation and not dataset:  # a method's own run is one variant of every ablation of it
        tables = [t for t in tables if sum(bool(row.runs) for row in t.rows) > 1] or tables
    if not tables:
        raise BenchError(
            f"There is no figure of '{metric}' for what was asked, measured or published. Ask for "
            "another dataset, preset or method, or leave them out to see what there is."
        )
    return tables


def _matches(name: str, asked: str) -> bool:
    return name == asked or name.startswith(asked + "/")


def _table(
    key: tuple[str, str],
    records: list[Record],
    metric: str,
    published: list[Published],
    models: Sequence[str],
    mix: bool,
    ablation: Ablation | None,
) -> Table:
    dataset, preset = key
    data = [f.run["data"] for f in records]
    twin = next((own.get("twin", "") for own in data), "")
    departs = "; ".join(dict.fromkeys(own["departs"] for own in data if own.get("departs")))
    apart = f"printed for {twin}, which are other data" if twin else departs
    printed = _printed(published, twin or dataset, metric)
    results = [r for f in records for r in f.results]
    metrics = _metrics(results, [] if twin else printed, metric)
    records = _only_shown(records, metrics)
    if not mix:
        _refuse_other_measures(records, metrics)
    rows = _rows(records, metrics, mix)
    ran = {row.method for row in rows}
    for p in printed:
        own = _rows_of(p, rows)
        elsewhere = twin and (p.setting or p.method not in ran)  # a twin has rows of runs alone
        if (models and p.method not in models) or (elsewhere and not own):
            continue
        if not own:
            facts = {"resolution": p.resolution} if p.resolution else {}
            label = _label(p)
            own = [Row(label, p.method, label != p.method, facts=facts, missing=_NOT_RUN)]
            rows += own
        for row in own:
            row.published[p.metric], row.printed_by = p.value, p.protocol
    _mark_best(rows, metrics)
    order = list(dict.fromkeys(p.method for p in printed))
    rows.sort(key=lambda r: (order.index(r.method) if r.method in order else -1, *_place(r)))
    if ablation:
        names = [label_of(ablation, variant) for variant in ablation.variants]
        absent = dict.fromkeys(names).keys() - {row.label for row in rows}
        rows += [Row(label, ablation.model, True, missing=_NOT_RUN) for label in absent]
        rows = in_order(ablation, rows)
    notes = _notes(records, metrics, printed, rows)
    if ablation:
        notes.insert(0, f"{ablation.title} ({ablation.source}).")
    return Table(dataset, preset, metrics, rows, notes, twin or dataset, apart)


def _label(p: Published) -> str:
    """The row of a published figure; a resolution stands in a column, a setting as in our rows."""
    if p.setting:
        return f"{p.method} [{p.condition}]"
    return f"{p.method} ({p.condition})" if p.condition and not p.resolution else p.method


def _rows_of(p: Published, rows: list[Row]) -> list[Row]:
    """The rows that a published figure stands in: of its method, resolution and condition."""
    if p.setting:
        key, value = p.setting
        return [r for r in rows if r.method == p.method and str(r.settings.get(key)) == value]
    if p.resolution:
        alike = [row for row in rows if row.facts.get("resolution") == p.resolution]
    else:
        alike = [row for row in rows if not row.other_data]
    main = not p.condition or p.resolution
    return without_variants([r for r in alike if _label(p) in (r.label, r.method if main else "")])


def _place(row: Row) -> tuple[int, str]:
    """Rows of a method in order of their resolution in pixels."""
    return int(row.facts.get("resolution", "0 px").split()[0]), row.label


def _only_shown(records: list[Record], metrics: dict[str, Any]) -> list[Record]:
    """The records with the results that the table shows, and the settings of their evaluators.

    So rows differ by nothing that decides no figure of theirs, and runs that were made before an
    evaluator was there stand with those made after.
    """
    kept = []
    shown = {source_of(r) for f in records for r in f.results if _gives(r, metrics)}
    evaluators = tuple(f"evaluators.{source.split(' (')[0]}." for source in shown)
    for record in records:
        run = without_evaluators(record.run, but=evaluators)
        results = [r for r in record.results if source_of(r) in shown]
        kept.append(replace(record, run=run, results=results))
    return kept


def without_evaluators(run: dict[str, Any], but: tuple[str, ...] = ()) -> dict[str, Any]:
    """A run without evaluators' settings, but those whose keys begin so."""

    def stays(key: str) -> bool:
        return not key.startswith("evaluators.") or key.startswith(but)

    settings = {key: value for key, value in run["settings"].items() if stays(key)}
    return run | {"settings": settings, "overrides": [o for o in run["overrides"] if stays(o)]}


def _gives(result: dict[str, Any], metrics: Container[str]) -> bool:
    return any(s["metric"] in metrics for s in result["scores"])


def _refuse_other_measures(records: list[Record], metrics: dict[str, Any]) -> None:
    """Complain where a metric that depends on n has rows of two n, or of two extractors."""
    found: dict[str, dict[str, str]] = {}
    for record in records:
        for result in record.results:
            biased = {m["name"] for m in result["metrics"] if m.get("biased")} & set(metrics)
            for score in result["scores"]:
                if score["metric"] in biased and Score.from_json(score).is_summary:
                    real = result.get("details", {}).get("real")
                    used = json.dumps([score["n"], real, result.get("instruments")])
                    found.setdefault(score["metric"], {})[used] = record.name
    for name, by_measure in found.items():
        if len(by_measure) > 1:
            (a, first), (b, second), *_ = by_measure.items()
            told = [
                f"{record} with n = {json.loads(m)[0]:,}" for m, record in ((a, first), (b, second))
            ]
            raise BenchError(
                f"'{name}' depends on the number of images and on the extractor, and the runs "
                f"differ in these: {' and '.join(told)}. Evaluate again with the same "
                "evaluators.quality settings, name --models, --preset or --store, or add --mix."
            )


def _printed(published: list[Published], dataset: str, metric: str) -> list[Published]:
    """The main figures; those under a condition where a method has no others."""
    own = [p for p in published if p.dataset == dataset and _matches(p.metric, metric)]
    main = {(p.method, p.metric) for p in own if not p.condition}
    return [p for p in own if not p.condition or (p.method, p.metric) not in main]


def _metrics(
    results: list[dict[str, Any]], printed: list[Published], asked: str
) -> dict[str, tuple[str, int, str]]:
    known = {m["name"]: m for r in results for m in r["metrics"]}
    scored = [s["metric"] for r in results for s in r["scores"] if Score.from_json(s).is_summary]
    names = [n for n in dict.fromkeys([*known, *scored]) if n in scored and _matches(n, asked)]
    # A figure printed for a whole family, by some protocol of its own, stands beside the family's.
    known_families = {name.split("/")[0] for name in names}
    names += [p.metric for p in printed if p.metric not in known_families]
    found = {}
    for name in dict.fromkeys(names):
        m = known.get(name)
        found[name] = (m["direction"], m["digits"], m["meaning"]) if m else ("", 3, "")
    return found


def _rows(records: list[Record], metrics: dict[str, Any], mix: bool) -> list[Row]:
    rows = []
    for label, own in group_rows(records):
        run = own[0].run
        varied = run["label"] != run["model"] if "label" in run else bool(run["overrides"])
        row = Row(label, run["model"], varied, missing=_state(own), reason=_reason(own))
        row.facts, row.settings = _facts(own), run["settings"]
        row.other_data = any(text.startswith("data.") for text in run["overrides"])
        row.runs = tuple(record.name for record in own)
        if not mix:
            refuse_mixture(label, own)
        for name in metrics:
            scored = [(f.run["seed"], score) for f in own if (score := f.score(name)) is not None]
            if scored:
                cell = cell_of([score for _, score in scored])
                row.scores[name] = dict(scored)
                alone = own[0].interval(name) if len(own) == 1 else None
                row.cells[name] = replace(cell, interval=alone)
                row.data[name] = _data_of(own, name)
        rows.append(row)
    return rows


def _data_of(records: list[Record], metric: str) -> str:
    """Data, resolution, classifiers and version; views hidden in training change none of these."""
    found = set()
    for record, result in ((f, r) for f in records for r in f.results if _gives(r, [metric])):
        data = record.run["data"]
        judges = sorted(judge["digest"] for judge in result["classifiers"].values())
        print_ = data.get("complete") or data["fingerprint"]
        found.add(json.dumps([print_, judges, result["version"]]))
    return " ".join(sorted(found))


def group_rows(records: list[Record]) -> list[tuple[str, list[Record]]]:
    """The runs that differ in nothing but the seed and the data, each with the row's label."""
    variants: dict[str, list[Record]] = {}
    for record in records:
        variants.setdefault(_variant(record.run), []).append(record)
    return list(zip(_labels(list(variants.values())), variants.values(), strict=True))


def _facts(records: list[Record]) -> dict[str, str]:
    """What the results say of the row that they stand in."""
    told: dict[str, set[str]] = {}
    for result in (result for record in records for result in record.results):
        for name, text in result.get("details", {}).get("row", {}).items():
            told.setdefault(name, set()).add(text)
    return {name: ", ".join(sorted(told[name])) for name in FACTS if name in told}


def _variant(run: dict[str, Any]) -> str:
    """What the seeds of one row have in common: all that decides a number, but seed and data."""
    parts: dict[str, dict[str, Any]] = {"model": {}, "train": {}}
    rest = {}
    for key, value in run["settings"].items():
        part, _, below = key.partition(".")
        parts.get(part, rest)[below if part in parts else key] = value
    model, version, dataset = run["model"], run["model_version"], run["dataset"]
    training = train_id(model, version, parts["model"], dataset, "", parts["train"], seed=0)
    return json.dumps([training, rest], sort_keys=True)


def _labels(variants: list[list[Record]]) -> list[str]:
    """Names of the rows: what was overridden, and what else differs between rows of one name."""
    runs = [own[0].run for own in variants]
    names = [
        run.get("label") or " ".join([run["model"], *(f"[{text}]" for text in run["overrides"])])
        for run in runs
    ]
    facts = [{"version": run["model_version"], **run["settings"]} for run in runs]
    labels = []
    for name, own in zip(names, facts, strict=True):
        alike = [other for n, other in zip(names, facts, strict=True) if n == name]
        differing = [key for key in own if any(other.get(key) != own[key] for other in alike)]
        labels.append(" ".join([name, *(f"[{key}={own[key]}]" for key in differing)]))
    return labels


def _state(records: list[Record]) -> str:
    """In a word, why some of a row's figures may be missing."""
    states = dict.fromkeys(record.state for record in records if record.state != "done")
    return ", ".join(states) or "not measured"


def _reason(records: list[Record]) -> str:
    """The same in full, with the number of runs."""
    states = Counter(record.state for record in records if record.state != "done")
    told = []
    for state, count in states.items():
        reason = next((r.reason for r in records if r.state == state and r.reason), "")
        reason = " ".join(reason.split())
        told.append(f"{count} {state}" + (f" ({reason.rstrip('.')})" if reason else ""))
    return "; ".join(told)


def refuse_mixture(label: str, records: list[Record]) -> None:
    """Complain where runs of one row differ in code, data or classifiers."""
    facts: dict[str, dict[str, str]] = {}
    for record in records:
        if record.trained:
            provenance = record.trained["provenance"]
            facts.setdefault("source code", {})[provenance["source"]] = record.name
            facts.setdefault("network code", {})[provenance["nets"]] = record.name
        facts.setdefault("data", {})[record.run["data"]["fingerprint"]] = record.name
        for result in record.results:
            for what, state in (
                ("version", result["version"]),
                ("source code", result["provenance"]["source"]),
                ("classifiers", json.dumps([c["digest"] for c in result["classifiers"].values()])),
            ):
                facts.setdefault(f"{source_of(result)} {what}", {})[state] = record.name
    for what, values in facts.items():
        if len(values) > 1:
            first, second, *_ = values.values()
            raise BenchError(
                f"The runs of '{label}' differ in their {what}: {first} and {second}, for two. Run "
                "the older again, name one --store, or add --mix to average them all the same."
            )


def cell_of(scores: list[Score]) -> Cell:
    """Mean over seeds with its standard error; over test items where there is one seed."""
    values = [score.value for score in scores]
    mean, k = sum(values) / len(values), len(values)
    if k == 1:
        return Cell(mean, scores[0].stderr, 1, scores[0].n, groups=scores[0].groups)
    variance = sum((v - mean) ** 2 for v in values) / (k - 1)
    return Cell(mean, math.sqrt(variance / k), k, scores[0].n)


def _mark_best(rows: list[Row], metrics: dict[str, tuple[str, int, str]]) -> None:
    places = dict.fromkeys(place for row in rows for place in row.data.values())
    for (name, (direction, _, _)), place in itertools.product(metrics.items(), places):
        alike = without_variants([row for row in rows if row.data.get(name) == place])
        if len(alike) < 2 or not direction:
            continue
        sign = 1 if direction == "higher" else -1
        top = max(alike, key=lambda row: sign * row.cells[name].mean)
        for row in alike:
            if row is top or not is_behind(row, top, name, sign):
                row.cells[name] = replace(row.cells[name], best=True)


def without_variants(rows: list[Row]) -> list[Row]:
    """The rows that are ranked: a method's variants are not where its own settings are."""
    plain = {row.method for row in rows if not row.is_variant}
    return [row for row in rows if not (row.is_variant and row.method in plain)]


def is_behind(row: Row, top: Row, metric: str, sign: int) -> bool:
    """Whether a row is told apart from one with a better mean, and in the same sense.

    Args:
        row, top: Both with scores.
        metric: Of these.
        sign: 1 where more of it is better, -1 where less is.
    """
    found = difference(top.scores[metric], row.scores[metric])
    if found.p is None:  # no error is recorded
        return top.cells[metric].mean != row.cells[metric].mean
    return found.is_told and sign * found.value > 0


def _notes(
    records: list[Record],
    metrics: dict[str, Any],
    printed: list[Published],
    rows: list[Row],
) -> list[str]:
    results = [r for f in records for r in f.results]
    cells = [cell for row in rows for cell in row.cells.values()]
    notes = [f"{name}: {meaning}." for name, (_, _, meaning) in metrics.items() if meaning]
    told = {
        f"{source_of(r)} version {r['version']} on the {r['split']} split"
        for r in results
        if _gives(r, metrics)
    }
    if told:
        n = sorted({cell.n for cell in cells})
        sizes = ", ".join(f"{x:,}" for x in n) if len(n) < 4 else f"{n[0]:,} to {n[-1]:,}"
        notes.append(f"Protocol: {', '.join(sorted(told))}; test items a figure: {sizes}.")
    ceilings = [
        f"{s['target']} {s['value']:.3f}"
        for r in results
        for s in r["scores"]
        if s["metric"] == _CEILING and s["target"]
    ]
    if ceilings:
        notes.append(f"Classifiers on real test data: {', '.join(dict.fromkeys(ceilings))}.")
    notes += _floors(results, metrics)
    own_notes = (text for r in results for text in r.get("details", {}).get("notes", []))
    notes += dict.fromkeys(own_notes)
    notes += [f"Data: {text}." for text in dict.fromkeys(f.run["data"]["source"] for f in records)]
    notes += _few(rows, metrics)
    if cells:
        notes.append("In brackets: the number of seeds, over which the standard error is taken.")
    if any(cell.seeds == 1 for cell in cells):
        told = "(1), one seed: the error is that over test items, not over trainings"
        drawn = any(cell.interval for cell in cells)
        notes.append(f"{told}{_INTERVALS if drawn else ''}.")
    if any(cell.best for cell in cells):
        notes.append(
            f"Marked: the best, and what is not significantly worse (p >= {LEVEL}); where no error "
            "is recorded, the best alone."
        )
        notes += _apart(rows, metrics)
        if len(without_variants(rows)) < len(rows):
            notes.append("Variants of a method whose preset's settings ran are not ranked.")
    return [*notes, *_legend(metrics, printed, rows)]


def _few(rows: list[Row], metrics: dict[str, Any]) -> list[str]:
    """Figures of so few items that they say little, where others are of enough."""
    told = []
    for name in metrics:
        sizes = {row.label: row.cells[name].n for row in rows if name in row.cells}
        few = [f"{label} ({n})" for label, n in sizes.items() if n < _FEW <= max(sizes.values())]
        told += [f"{name} is of fewer than {_FEW} items in {', '.join(few)}."] if few else []
    return told


def _apart(rows: list[Row], metrics: dict[str, Any]) -> list[str]:
    """Rows that are not ranked with each other, though no column shows it."""
    told = {}
    resolutions = dict.fromkeys(row.facts.get("resolution") for row in rows)
    for name, resolution in itertools.product(metrics, resolutions):
        alike: dict[str, list[str]] = {}
        for row in rows:
            if name in row.data and row.facts.get("resolution") == resolution:
                alike.setdefault(row.data[name], []).append(row.label)
        if len(alike) > 1:
            groups = "; ".join(", ".join(labels) for labels in alike.values())
            told[
                "Not ranked with each other, as data, classifiers or the evaluator's version "
                f"differ: {groups}."
            ] = None
    return [*told]


def _floors(results: list[dict[str, Any]], metrics: dict[str, Any]) -> list[str]:
    """What real training data score in the place of generated ones, for the metrics shown."""
    told: dict[str, None] = {}
    for result in results:
        digits = {m["name"]: m["digits"] for m in result["metrics"]}
        for s in (Score.from_json(score) for score in result["scores"]):
            family = s.metric.removeprefix(_FLOOR) + "/"
            is_floor = s.metric.startswith(_FLOOR) and s.is_summary
            if is_floor and any(name.startswith(family) for name in metrics):
                value = f"{s.value:.{digits[s.metric]}f}"
                told[
                    f"Floor, {s.n:,} real training images of each modality against the real ones: "
                    f"{family[:-1]} {value}."
                ] = None
    return [*told, *_bounds(results, metrics)]


def _bounds(results: list[dict[str, Any]], metrics: dict[str, Any]) -> list[str]:
    """What needs no method to reach, and what no method can pass, for the metrics shown.

    Such a figure is called "floor-white/psnr" for all of "psnr", and its meaning tells the rest.
    """
    told: dict[str, list[str]] = {}
    for result in results:
        known = {m["name"]: m for m in result["metrics"]}
        size = result.get("details", {}).get("row", {}).get("resolution", "")
        for s in (Score.from_json(score) for score in result["scores"]):
            bound = _BOUND.fullmatch(s.metric)
            if bound and any(_matches(name, bound[3]) for name in metrics):
                m = known[s.metric]
                where = f"{s.n:,} test items" + (f", {size}" if size else "")
                line = f"{bound[1].capitalize()}, {m['meaning']} ({where})"
                told.setdefault(line, []).append(f"{bound[3]} {s.value:.{m['digits']}f}")
    return [f"{line}: {', '.join(dict.fromkeys(own))}." for line, own in told.items()]


def bounds_of(record: Record, metric: str) -> dict[str, float]:
    """What needs no method to reach or no method can pass, by its name: "floor: mean"."""
    found = {}
    for s in (Score.from_json(score) for result in record.results for score in result["scores"]):
        bound = _BOUND.fullmatch(s.metric)
        family = bound[3] if bound else s.metric.removeprefix(_FLOOR)
        is_bound = bound or family != s.metric
        if is_bound and s.is_summary and f"{metric}/".startswith(f"{family}/"):
            found[f"{bound[1]}: {bound[2]}" if bound else "floor: real images"] = s.value
        pair = f"{s.metric.removeprefix(_CHANCE)}/{'-'.join(s.given)}-to-{s.target}"
        if s.metric.startswith(_CHANCE) and pair == metric:
            found["chance"] = s.value
    return found


def _legend(metrics: dict[str, Any], printed: list[Published], rows: list[Row]) -> list[str]:
    """What is missing and why, and where the published figures are from."""
    notes = [f"{row.label}: {row.reason}." for row in rows if row.reason]
    reduced = {row.method: row.facts["reduced"] for row in rows if row.facts.get("reduced")}
    notes += [f"{method} is reduced: {what}." for method, what in reduced.items()]
    if any(row.missing == _NOT_RUN for row in rows):
        notes.append("not run: no run of the method is recorded here.")
    if any(row.missing == "not measured" and set(metrics) - set(row.cells) for row in rows):
        notes.append("not measured: the method or the evaluator does not give it, or has yet to.")
    printed = [p for p in printed if p.metric in metrics or _beside(p.metric, metrics)]
    if printed:
        if any(p.metric not in row.published for p in printed for row in rows):
            notes.append("-: not published.")
        shown = {row.method for row in rows}
        told = {(p.method, p.condition): p.note for p in printed if p.note and p.method in shown}
        notes += [f"Published {who} ({at}): {note}." for (who, at), note in told.items() if at]
        notes += [f"Published: {source}." for source in dict.fromkeys(p.source for p in printed)]
    return notes


def render(tables: list[Table], form: Format) -> str:
    """Tables as text; "csv" and "json" hold every figure, the others what one reads."""
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
    where = table.preset if table.preset == _NOT_RUN else f"preset {table.preset}"
    title = f"{table.dataset}, {where}"
    if form == "latex":
        head, *notes = ("% " + " ".join(text.split()) for text in (title, *table.notes))
        return "\n".join([head, _ruled(drawn), *notes])
    mark = "**" if form == "markdown" else ""
    notes = [f"- {note}" if form == "markdown" else f"  {note}" for note in table.notes]
    return "\n".join([f"{mark}{title}{mark}", "", drawn, "", *notes])


def _ruled(drawn: str) -> str:
    """The rules of booktabs in the places of three plain lines."""
    rules = iter((r"\toprule", r"\midrule", r"\bottomrule"))
    return re.sub(r"\\hline", lambda _: next(rules), drawn)


def _grid(table: Table, form: Format) -> list[list[str]]:
    """Heading and lines, a measured and a published column for each metric."""
    twin = table.printed_for
    other = "" if twin == table.dataset else f", {_escaped(twin, form)}"
    facts = fact_columns(table)
    heading = ["method", *facts]
    lines = [[_escaped(t, form) for t in (r.label, *told_facts(r, facts))] for r in table.rows]
    for name, (_, digits, _) in table.metrics.items():
        own = printed_name(name, table)
        printed = any(own in row.published for row in table.rows)
        by = printed and any(own in row.published and row.printed_by for row in table.rows)
        heading += [_escaped(_short(name, table.metrics), form)]
        heading += [f"published{other}", "published protocol"][: printed + by]
        for line, row in zip(lines, table.rows, strict=True):
            cell = row.cells.get(name)
            measured = _shown(cell, digits, form) if cell else _escaped(row.missing, form)
            protocol = _escaped(row.printed_by or "-", form)
            line += [measured, *[row.published.get(own, "-"), protocol][: printed + by]]
    return [heading, *lines]


def fact_columns(table: Table) -> list[str]:
    """Names of the facts that some row hangs on."""
    return [name for name in FACTS if any(name in row.facts for row in table.rows)]


def told_facts(row: Row, facts: Sequence[str]) -> list[str]:
    """A row's facts in a word each; what is reduced is told in full below the table."""
    words = [row.facts.get(name, "-") for name in facts]
    full = ["yes" if word not in ("", "-") else word or "no" for word in words]
    return [f if name == "reduced" else w for name, w, f in zip(facts, words, full, strict=True)]


def _beside(printed: str, metrics: dict[str, Any]) -> str | None:
    """The first metric of the family that a figure was printed for, if it is no metric itself."""
    return next((n for n in metrics if printed not in metrics and _matches(n, printed)), None)


def printed_name(name: str, table: Table) -> str:
    """The name under which a metric's published figures are printed."""
    family = name.split("/")[0]
    printed = any(family in row.published for row in table.rows)
    return family if printed and _beside(family, table.metrics) == name else name


def _escaped(text: str, form: Format) -> str:
    """Words that the format would else take for its own marks."""
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
                "facts": row.facts,
                "published_protocol": row.printed_by,
                "missing": row.missing,
                "reason": row.reason,
            }
            for row in table.rows
        ],
        "published_for": table.printed_for,
        "notes": table.notes,
    }


def _csv(tables: list[Table]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    head = ("dataset", "preset", "method", "metric", "mean", "stderr", "low", "high", "seeds", "n")
    writer.writerow((*head, "published"))
    for table in tables:
        for row in table.rows:
            alone = [name for name in row.published if name not in table.metrics]
            for name in (*table.metrics, *alone):
                cell, value = row.cells.get(name), row.published.get(name, "")
                if cell:
                    interval = cell.interval or ("", "")
                    figures = (cell.mean, cell.stderr, *interval, cell.seeds, cell.n)
                    writer.writerow((table.dataset, table.preset, row.label, name, *figures, value))
                elif value:
                    blank = ("", "", "", "", 0, "")
                    writer.writerow((table.dataset, table.preset, row.label, name, *blank, value))
    return out.getvalue().rstrip("\n")

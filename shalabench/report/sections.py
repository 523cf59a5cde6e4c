"""What may stand in one table: runs on the same data, judged by the same classifiers."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from shalabench.analysis.compare import is_of_data
from shalabench.analysis.statistics import Difference, against_constant, difference
from shalabench.analysis.tables import (
    Cell,
    Row,
    Table,
    bounds_of,
    group_rows,
    is_behind,
    printed_name,
    refuse_mixture,
    tables_of,
    without_evaluators,
    without_variants,
)
from shalabench.analysis.variants import rows_of
from shalabench.api.errors import BenchError
from shalabench.config.ablations import Ablation, ablations, read_ablation
from shalabench.records.gather import Gathered, Record
from shalabench.records.store import RunFolder

_HEADLINES = 3  # metrics that a dataset is summed up by
_FIRST = (
    "coherence/cross",
    "coherence/joint",
    "attributes/caption-to-image",
    "attributes/joint",
    "psnr/p1",
    "ssim/p1",
    "consistency/shape",
)
_SUBSET = "coherence/subset"
_CLASSES = "coherence/joint-classes"
_RECONSTRUCTION = "reconstruction/"
_REAL = "real images"  # a floor that no method can pass
_COLLAPSED = 2.0  # effective classes below which joint agreement means little
_LONGEST = 30  # letters of a name
_OVERRIDE = re.compile(r"\[([^=\]]+)=([^\]]*)\]")
_Key = tuple[str, str, str, str]  # dataset, preset, fingerprint, classifiers
_DIGEST = 8  # letters of a digest in a title


@dataclass
class Section:
    """One dataset with one preset, one fingerprint of the data and one set of classifiers.

    Attributes:
        variant: What tells it from another section of that dataset and preset, or "".
        records: What is shown, by row label.
        folders: Where each record lies, by its name.
        tables: One a family of metrics.
        left_out: Sentences on runs or tables that are not shown, and why.
        studies: Ablations, each with its tables.
        varied: Rows of ablations alone, which `records` lack.
    """

    dataset: str
    preset: str
    variant: str
    records: list[tuple[str, list[Record]]]
    folders: dict[str, RunFolder]
    tables: list[Table] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    studies: list[tuple[Ablation, list[Table]]] = field(default_factory=list)
    varied: list[tuple[str, list[Record]]] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.dataset}, preset {self.preset}"

    @property
    def runs(self) -> list[Record]:
        return [record for _, own in self.records for record in own]

    @cached_property
    def names(self) -> dict[str, str]:
        """A short name for each row, the same on all pages and in all figures."""
        rows = {label: own[0].run["model"] for label, own in self.records}
        rows |= {row.label: row.method for table in self.tables for row in table.rows}
        return _short_names(rows)

    def headlines(self) -> list[str]:
        """The metrics that sum it up, of those that some run has."""
        names = [
            name
            for table in self.tables
            for name, (direction, _, _) in table.metrics.items()
            if direction and any(name in row.cells for row in table.rows)
        ]
        main = [n for n in _FIRST if n in names]
        rest = [n for n in names if n not in main and not n.startswith((_SUBSET, _CLASSES))]
        return (main or rest)[:_HEADLINES]

    def table_with(self, metric: str) -> Table:
        """The table that holds a metric."""
        return next(table for table in self.tables if metric in table.metrics)

    def ranked(self, metric: str, *, own: bool = False) -> list[tuple[Row, Cell]]:
        """The rows that were measured, best first.

        Args:
            metric: By which.
            own: Only methods with their preset's own settings; a method that was measured with
                others alone stands with these.
        """
        table = self.table_with(metric)
        sign = -1 if table.metrics[metric][0] == "higher" else 1
        rows = [row for row in table.rows if metric in row.cells]
        measured = [(row, row.cells[metric]) for row in (without_variants(rows) if own else rows)]
        return sorted(measured, key=lambda pair: (sign * pair[1].mean, pair[0].label))

    def bounds(self, metric: str) -> dict[str, float]:
        """Floors and ceilings of a metric, by name; they are of the data, so of any run."""
        return {name: v for record in self.runs for name, v in bounds_of(record, metric).items()}

    def label_of(self, row: Row) -> str:
        """The label in `records` of a table's row, which may name an evaluator's settings too."""
        return next(label for label, own in self.records if any(r.name in row.runs for r in own))


@dataclass(frozen=True)
class Glance:
    """What a reader wants to know of one metric on one dataset.

    Attributes:
        variant: Label and figure of a variant that is better than all of them, or ().
        equals: Labels that are not told apart from the best.
        next: The runner-up, or None.
        lead: Best minus runner-up, or None.
        margin: What is known of the lead, or None.
        published: The best method's printed figure, or "".
        gap: Best minus printed, or None.
        printed_best: The method with the best printed figure and that figure, or "".
        apart: Why the printed figures are of other data, in words; empty where they are not.
        elsewhere: The best method's figures that were printed at other resolutions, in words.
        standing: Of the gap, a class for its colour and words.
        warning: Why the figure may mean little, or "".
    """

    metric: str
    direction: str
    digits: int
    best: Row
    cell: Cell
    variant: tuple[str, ...]
    equals: list[str]
    next: Row | None
    lead: float | None
    margin: Difference | None
    published: str
    gap: Difference | None
    printed_best: str
    apart: str
    elsewhere: str
    standing: tuple[str, str]
    warning: str

    @property
    def is_whole(self) -> bool:
        """Whether the margin is of all the trainings that the lead is the mean of."""
        return bool(self.margin) and math.isclose(self.margin.value, self.lead, abs_tol=1e-12)


def sections_of(found: Gathered) -> list[Section]:
    """Sort records so that nothing is averaged or ranked with what is not like it."""
    groups: dict[_Key, list[tuple[Record, RunFolder]]] = {}
    unjudged = []
    for record, folder in zip(found.records, found.folders, strict=True):
        run, judges = record.run, _judges(record)
        if not judges:
            unjudged.append((record, folder))
            continue
        key = run["dataset"], run["preset"], run["data"]["fingerprint"], judges
        groups.setdefault(key, []).append((record, folder))
    for record, folder in unjudged:
        place = record.run["dataset"], record.run["preset"], record.run["data"]["fingerprint"]
        key = next((key for key in sorted(groups) if key[:3] == place), (*place, ""))
        groups.setdefault(key, []).append((record, folder))
    # Of several sections of one dataset and preset, the one with the most runs comes first.
    order = sorted(groups, key=lambda key: (key[:2], -len(groups[key]), key))
    return [_section(key, groups[key], _variant(key, order)) for key in order]


def _judges(record: Record) -> str:
    """The classifiers behind a record's results, by modality."""
    judges = {
        name: judge["digest"]
        for result in record.results
        for name, judge in result["classifiers"].items()
    }
    return json.dumps(judges, sort_keys=True) if judges else ""


def _variant(key: _Key, keys: list[_Key]) -> str:
    """What tells a section from others of its dataset and preset."""
    alike = [other for other in keys if other[:2] == key[:2]]
    told = []
    if len({other[2] for other in alike}) > 1:
        told.append(f"data {key[2][:_DIGEST]}")
    if len({other[3] for other in alike if other[2] == key[2]}) > 1:
        digests = json.loads(key[3]).values() if key[3] else ["none"]
        told.append(f"classifiers {', '.join(d[:_DIGEST] for d in digests)}")
    return "; ".join(told)


def _section(key: _Key, members: list[tuple[Record, RunFolder]], variant: str) -> Section:
    rows, left_out = [], []
    for label, own in _rows([record for record, _ in members]):
        kept, told = _consistent(label, own)
        rows.append((label, sorted(kept, key=lambda r: (r.run["seed"], r.name))))
        left_out += told
    folders = {record.name: folder for record, folder in members}
    section = Section(key[0], key[1], variant, sorted(rows, key=_label), folders, [], left_out)
    _set_ablations_apart(section)
    section.tables = _tables(section, section.runs)
    return section


def _set_ablations_apart(section: Section) -> None:
    """Move the variants of ablations from the section's rows into tables of their own.

    The row of the preset's own settings stays, unless it is there from elsewhere as well: from a
    machine of other precision, say.
    """
    for ablation in map(read_ablation, ablations()):
        runs = section.runs + [record for _, own in section.varied for record in own]
        found = zip(runs, rows_of(ablation, [record.run for record in runs]), strict=True)
        labels = {record.name: run["label"] for record, run in found if run}
        rows = [(name, own) for name, own in section.records if _is_of(ablation, own)]
        theirs = {name for name, own in rows if all(r.name in labels for r in own)}
        elsewhere = any(name not in theirs and not _overrides(own) for name, own in rows)
        varied = {n: own for n, own in rows if n in theirs and (elsewhere or _overrides(own))}
        kept = {own[0].run["model"] for name, own in section.records if name not in varied}
        if len(set(labels.values())) > 1 and ablation.model in kept:
            shown = [record for record in runs if record.name in labels]
            tables = _tables(section, shown, ablation)
            told = [t for t in tables if sum(bool(row.cells) for row in t.rows) > 1]
            section.studies.append((ablation, told))
            section.varied += varied.items()
            section.records = [row for row in section.records if row[0] not in varied]


def _is_of(ablation: Ablation, records: list[Record]) -> bool:
    """Whether the runs of a row are of the ablation's method, and vary at most what it varies."""
    runs = [record.run for record in records]
    keys = {text.partition("=")[0] for run in runs for text in run["overrides"]}
    return keys <= ablation.keys and all(run["model"] == ablation.model for run in runs)


def _overrides(records: list[Record]) -> bool:
    return any(record.run["overrides"] for record in records)


def _tables(
    section: Section, records: list[Record], ablation: Ablation | None = None
) -> list[Table]:
    """One for each family of metrics; what cannot be tabulated is told in `left_out`."""
    place = {"dataset": section.dataset, "preset": section.preset, "ablation": ablation}
    tables = []
    for family in _families(records):
        try:
            tables += tables_of(records, family, **place)
        except BenchError as error:
            section.left_out.append(f"No table of '{family}': {error}")
    return tables


def _rows(records: list[Record]) -> list[tuple[str, list[Record]]]:
    """The runs of a row, whatever settings they were measured with."""
    measured = {r.name: r for r in records}
    rows = group_rows([replace(r, run=without_evaluators(r.run)) for r in records])
    return [(label, [measured[r.name] for r in own]) for label, own in rows]


def _short_names(rows: dict[str, str]) -> dict[str, str]:
    """The method, and of overridden settings those that tell its rows apart."""
    settings = {label: dict(_OVERRIDE.findall(label)) for label in rows}
    names, seen = {}, Counter()
    for label, method in sorted(rows.items()):
        alike = [settings[other] for other, own in rows.items() if own == method]
        own = settings[label].items()
        telling = [f"{k.split('.')[-1]}={v}" for k, v in own if any(o.get(k) != v for o in alike)]
        if own and not telling:
            telling = ["…"]
        name = " ".join([method, *telling] if own else label.split())
        name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        seen[name] += 1
        names[label] = f"{name} ({seen[name]})" if seen[name] > 1 else name
    return names


def variation(label: str) -> str:
    """What a row's settings vary, in short: "kind=gmm"; empty for the preset's own."""
    return ", ".join(f"{k.split('.')[-1]}={v}" for k, v in _OVERRIDE.findall(label))


def _label(row: tuple[str, list[Record]]) -> str:
    return row[0]


def _families(records: list[Record]) -> list[str]:
    names = [s["metric"] for record in records for r in record.results for s in r["scores"]]
    found = dict.fromkeys(n.split("/")[0] for n in names if not is_of_data(n))
    first = [metric.split("/")[0] for metric in _FIRST]
    return sorted(found, key=lambda n: first.index(n) if n in first else len(first))


def _consistent(label: str, records: list[Record]) -> tuple[list[Record], list[str]]:
    """The largest part of a row's runs that may be averaged, and sentences on the others."""
    try:
        refuse_mixture(label, records)
        return records, []
    except BenchError as error:
        reason = str(error).split(". ")[0]
    parts: dict[str, list[Record]] = {}
    for record in records:
        code = record.trained.get("provenance", {})
        results = record.results
        measured = [(r["evaluator"], r["version"], r["provenance"]["source"]) for r in results]
        marks = json.dumps([code.get("source"), code.get("nets"), measured])
        parts.setdefault(marks, []).append(record)

    kept = max(parts.values(), key=len)
    others = [record.name for record in records if record not in kept]
    return kept, [f"{reason}. Left out of the row: {', '.join(others)}."]


def glances(section: Section) -> Iterator[Glance]:
    """The headline of each metric that sums a section up."""
    for metric in section.headlines():
        table, ranked = section.table_with(metric), section.ranked(metric, own=True)
        direction, digits, _ = table.metrics[metric]
        sign = 1 if direction == "higher" else -1
        (best, cell), *rest = ranked
        first, other = section.ranked(metric)[0]
        variant = "" if first in (row for row, _ in ranked) else f"{other.mean:.{digits}f}"
        printed = [(r.method, r.published[metric]) for r in table.rows if metric in r.published]
        top = max(printed, key=lambda pair: sign * float(pair[1]), default=())
        yield Glance(
            metric,
            direction,
            digits,
            best,
            cell,
            (first.label, variant) if variant else (),
            [row.label for row, _ in rest if not is_behind(row, best, metric, sign)],
            rest[0][0] if rest else None,
            cell.mean - rest[0][1].mean if rest else None,
            difference(best.scores[metric], rest[0][0].scores[metric]) if rest else None,
            best.published.get(metric, ""),
            gap(best, metric),
            " ".join(top),
            table.apart,
            _elsewhere(best, metric, table),
            standing(gap(best, metric), direction, same_data=not table.apart),
            _warning(section, best, metric, sign),
        )


def _elsewhere(best: Row, metric: str, table: Table) -> str:
    """Figures printed for a method at other resolutions, with which ours is not compared."""
    name = printed_name(metric, table)
    others = [r for r in table.rows if r.method == best.method and r is not best]
    found = [(r.published[name], r.facts.get("resolution")) for r in others if name in r.published]
    return ", ".join(f"{value} at {resolution}" for value, resolution in found if resolution)


def gap(row: Row, metric: str) -> Difference | None:
    """Measured minus printed, where both are there."""
    if metric not in row.published or metric not in row.cells:
        return None
    cell = row.cells[metric]
    printed = float(row.published[metric])
    return against_constant(cell.mean, cell.stderr, cell.seeds, printed, cell.groups)


def standing(found: Difference | None, direction: str, *, same_data: bool) -> tuple[str, str]:
    """A class for colour and the same in words: how a figure stands to the printed one."""
    if found is None:
        return "", ""
    if not same_data:
        return "other", "other data"
    if not found.is_told:
        return "level", "not told apart" if found.p is not None else "not tested"
    better = (found.value > 0) == (direction != "lower")
    return ("above", "better") if better else ("below", "worse")


def _warning(section: Section, row: Row, metric: str, sign: int) -> str:
    found, value = [], row.cells[metric].mean
    classes = row.cells.get(_CLASSES)
    if metric == "coherence/joint" and classes and classes.mean < _COLLAPSED:
        found.append(
            f"Its agreeing samples show {classes.mean:.1f} effective classes: nearly collapsed, so "
            "that agreement means little."
        )
    if metric.startswith(_RECONSTRUCTION):
        found.append("Of reconstructions: it says nothing of what is generated.")
    digits = section.table_with(metric).metrics[metric][1]
    for name, bound in section.bounds(metric).items():
        kind, _, what = name.partition(": ")
        if kind == "floor" and what != _REAL and sign * (value - bound) <= 0:
            found.append(f"The floor '{what}', which needs no method, has {bound:.{digits}f}.")
    return " ".join(found)


def matrices(records: list[Record]) -> dict[str, tuple[list[str], list[str], dict]]:
    """Scores of one given modality and one target, averaged over a row's runs.

    Returns:
        By metric: the given ones, the targets, and the value of each pair. Only metrics within
        [0, 1] of which more is better, so that one scale of colours fits all.
    """
    found: dict[str, dict[tuple[str, str], list[float]]] = {}
    for record in records:
        for result in record.results:
            better = {m["name"] for m in result["metrics"] if m["direction"] == "higher"}
            for s in result["scores"]:
                if s["metric"] in better and len(s["given"]) == 1 and s["target"]:
                    pairs = found.setdefault(s["metric"], {})
                    pairs.setdefault((s["given"][0], s["target"]), []).append(s["value"])
    known = [name for record in records for name in record.run["data"].get("modalities", [])]
    order = list(
        dict.fromkeys([*known, *sorted({n for ps in found.values() for p in ps for n in p})])
    )
    shown = {}
    for metric, pairs in found.items():
        means = {pair: math.fsum(values) / len(values) for pair, values in pairs.items()}
        if all(0 <= value <= 1 for value in means.values()):
            given, targets = ([n for n in order if any(p[i] == n for p in means)] for i in (0, 1))
            shown[metric] = given, targets, means
    return shown


def by_attribute(section: Section) -> dict[str, tuple[list[str], list[str], dict]]:
    """Of the evaluator of that name, what its figures are made of, averaged over a row's runs.

    Returns:
        By metric: the methods, at last what guessing gives; the attributes; the share of each
        pair that is right, none where no caption names the attribute.
    """
    shown = {}
    for metric in dict.fromkeys(m for record in section.runs for m in _parts_of(record)):
        found: dict[tuple[str, str], list[float]] = {}
        for label, own in (*section.records, (None, section.runs)):
            for part, told in (p for r in own for p in _parts_of(r).get(metric, {}).items()):
                value = told["value"] if label else told["chance"]
                if value is not None:
                    row = section.names[label] if label else "guessing"
                    found.setdefault((row, part), []).append(value)
        means = {pair: math.fsum(values) / len(values) for pair, values in found.items()}
        rows, parts = (list(dict.fromkeys(pair[i] for pair in means)) for i in (0, 1))
        shown[metric] = rows, parts, means
    return shown


def _parts_of(record: Record) -> dict[str, dict[str, dict[str, float | None]]]:
    """By metric and attribute; not of what is measured without the method."""
    results = [
        r.get("details", {}).get("parts", {})
        for r in record.results
        if r["evaluator"] == "attributes"
    ]
    return {m: p for own in results for m, p in own.items() if m.startswith("attributes/")}


def states(records: list[Record]) -> Counter:
    """How many runs are in each state."""
    return Counter(record.state for record in records)

"""Sections of the report: runs on the same data, measured with the same classifiers."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pandas as pd

from shalabench.analysis.by_prior import (
    KINDS,
    by_network,
    merge_priors,
    metric_of,
    of_networks,
)
from shalabench.analysis.rows import GATE, Cell, Row, group_rows, refuse_mixture
from shalabench.analysis.tables import Table, matches, tables_of, without_evaluators
from shalabench.analysis.variants import as_rows
from shalabench.analysis.verdicts import best_first, ranked, set_marks
from shalabench.api.errors import BenchError
from shalabench.api.records import is_ranked
from shalabench.config.ablations import Ablation, readable
from shalabench.records.frame import Records

REAL_IMAGES = "real images"  # a floor that no method can pass
_FIRST = "polymnist"  # which every published method was measured on
_HEADLINES = 3  # metrics that a dataset is summed up by
_LONGEST = 30  # letters of a name
_OVERRIDE = re.compile(r"\[([^=\]]+)=([^\]]*)\]")
_SERIES = re.compile(r"(.+-)\d+")
_DIGEST = 8  # letters of a digest in a title
_Key = tuple[str, str, str, str]  # dataset, preset, fingerprint, classifiers
_NAME = re.compile(r"[a-z]+-([a-z]+)/")  # of a bound: "floor-white/psnr"


@dataclass
class Section:
    """One dataset with one preset, one fingerprint of the data and one set of classifiers.

    Attributes:
        variant: What differs from another section of that dataset and preset, or "".
        rows: The runs that are shown, by row label.
        tables: One a family of metrics.
        left_out: Sentences on runs or tables that are not shown, and why.
        studies: Ablations, each with its tables.
        varied: Rows of ablations alone, which `rows` lacks.
    """

    dataset: str
    preset: str
    variant: str
    rows: list[tuple[str, Records]]
    tables: list[Table] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    studies: list[tuple[Ablation, list[Table]]] = field(default_factory=list)
    varied: list[tuple[str, Records]] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.dataset}, preset {self.preset}"

    @cached_property
    def by_network(self) -> Section:
        """The same with one row for each trained network; itself if these have one prior each.

        Metrics that a prior changes have a column for each kind of prior. The records of a row are
        those of all priors.
        """
        if len(self.priors_of) == len(self.rows):
            return self
        known = dict(self.rows)
        rows = [(n, _joined([known[label] for label in own])) for n, own in self.priors_of.items()]
        return replace(self, rows=rows, tables=[_merged(table) for table in self.tables])

    @cached_property
    def priors_of(self) -> dict[str, list[str]]:
        """Labels of rows by the label of their networks."""
        rows = [
            Row(label, run.model, settings=run.settings)
            for label, own in self.rows
            for run in own.rows[:1]
        ]
        groups = by_network(rows)
        return {name: [row.label for row in group.values()] for name, group in groups.items()}

    @cached_property
    def records(self) -> Records:
        """The runs of all rows."""
        return _joined([own for _, own in self.rows])

    @cached_property
    def names(self) -> dict[str, str]:
        """A short name for each row, the same on all pages and in all figures."""
        rows = {label: own.runs["model"].iloc[0] for label, own in self.rows}
        rows |= {row.label: row.method for table in self.tables for row in table.rows}
        return _short_names(rows)

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """What the records say of each metric, by its name."""
        results = self.records.all_results()
        known = {name: facts for result in results for name, facts in result.metrics.items()}
        columns = (name for table in self.tables for name in table.metrics)
        return known | {name: known[m] for name in columns if (m := metric_of(name)) in known}

    def headlines(self) -> list[str]:
        """The metrics that sum it up: those that evaluators declare, else the first measured.

        Metrics that depend on the number of samples come last.
        """
        names = [
            name
            for table in self.tables
            for name, (direction, _, _) in table.metrics.items()
            if direction and any(name in row.cells for row in table.rows)
        ]
        main = [name for name in names if self.metrics[name]["headline"]]
        main.sort(key=lambda name: bool(self.metrics[name].get("biased")))
        main = main or [name for name in names if is_ranked(name)]
        first = list(dict.fromkeys(map(metric_of, main)))[:_HEADLINES]
        return [name for name in main if metric_of(name) in first]

    def table_with(self, metric: str) -> Table:
        """The table that holds a metric."""
        return next(table for table in self.tables if metric in table.metrics)

    def sign(self, metric: str) -> int:
        """1 where higher values are better, -1 where lower ones are."""
        return -1 if self.table_with(metric).metrics[metric][0] == "lower" else 1

    def ranked(self, metric: str, *, plain: bool = False) -> list[tuple[Row, Cell]]:
        """The rows that were measured, best first and collapsed models last.

        Args:
            metric: By which.
            plain: Only methods with their preset's settings; a method that was measured with others
                alone stands with these. Trained networks count once, with the best of their priors.
        """
        rows = [row for row in self.table_with(metric).rows if metric in row.cells]
        rows = best_first(ranked(rows) if plain else rows, metric, self.sign(metric))
        rows = of_networks(rows, metric) if plain else rows
        return [(row, row.cells[metric]) for row in rows]

    def bounds(self, metric: str) -> dict[str, float]:
        """Floors, ceilings and chance of a metric by name; they are of the data, so of any run."""
        found = {}
        for result in self.records.all_results():
            for name, score in result.summaries.items():
                facts = result.metrics[name]
                if facts["role"] in ("floor", "ceiling") and matches(metric, facts["of"]):
                    kind = _NAME.match(name)
                    found[f"{facts['role']}: {kind[1] if kind else REAL_IMAGES}"] = score.value
            for score in result.content["scores"]:  # what guessing scores, by given and target
                facts = result.metrics.get(score["metric"], {})
                if facts.get("role") == "chance" and score["target"]:
                    pair = f"{'-'.join(score['given'])}-to-{score['target']}"
                    if metric == f"{score['metric'].partition('/')[2]}/{pair}":
                        found["chance"] = score["value"]
        return found

    def records_of(self, row: Row) -> tuple[str, Records]:
        """The label and the runs of a table's row, which may name an evaluator's settings too."""
        return next(pair for pair in self.rows if not set(row.runs).isdisjoint(pair[1].runs["run"]))


def _merged(table: Table) -> Table:
    """A table with a row for each trained network, and new marks."""
    rows, metrics = merge_priors(table.rows, table.metrics)
    if len(rows) < len(table.rows):
        for row in rows:
            row.cells = {name: replace(cell, mark="") for name, cell in row.cells.items()}
        set_marks(rows, metrics)
    return replace(table, rows=rows, metrics=metrics)


def _joined(parts: list[Records]) -> Records:
    """Runs of several rows in one."""
    return parts[0].of(pd.concat([own.runs for own in parts]))


def sections_of(records: Records) -> list[Section]:
    """Sort records so that nothing is averaged or ranked with what is not like it."""
    groups: dict[_Key, list[int]] = {}
    without = []
    for place, run in enumerate(records.rows):
        if used := _classifiers(records, run.train_id):
            groups.setdefault((run.dataset, run.preset, run.fingerprint, used), []).append(place)
        else:
            without.append((place, (run.dataset, run.preset, run.fingerprint)))
    for place, start in without:
        key = next((key for key in sorted(groups) if key[:3] == start), (*start, ""))
        groups.setdefault(key, []).append(place)
    proxies = {run.dataset for run in records.rows if run.proxy_for}
    order = sorted(groups, key=lambda key: (_place(key, proxies), -len(groups[key]), key))
    found = readable()
    return [
        _section(
            key, records.of(records.runs.iloc[sorted(groups[key])]), _variant(key, order), found
        )
        for key in order
    ]


def _place(key: _Key, proxies: set[str]) -> tuple[Any, ...]:
    """PolyMNIST first, then published data, then proxies; runs of the regression gate last.

    Of several sections of one dataset and preset, the one with the most runs comes first.
    """
    dataset, preset, *_ = key
    return preset == GATE, dataset != _FIRST, dataset in proxies, dataset, preset


def _classifiers(records: Records, training: str) -> str:
    """The classifiers behind a run's results, by modality."""
    digests = {
        name: classifier["digest"]
        for result in records.results[training]
        for name, classifier in result.classifiers.items()
    }
    return json.dumps(digests, sort_keys=True) if digests else ""


def _variant(key: _Key, keys: list[_Key]) -> str:
    """What differs between a section and others of its dataset and preset."""
    alike = [other for other in keys if other[:2] == key[:2]]
    words = []
    if len({other[2] for other in alike}) > 1:
        words.append(f"data {key[2][:_DIGEST]}")
    if len({other[3] for other in alike if other[2] == key[2]}) > 1:
        digests = json.loads(key[3]).values() if key[3] else ["none"]
        words.append(f"classifiers {', '.join(d[:_DIGEST] for d in digests)}")
    return "; ".join(words)


def _section(
    key: _Key, records: Records, variant: str, found: tuple[list[Ablation], list[str]]
) -> Section:
    rows, left_out = [], []
    plain = records.of(without_evaluators(records.runs))
    for label, own in group_rows(plain):
        kept, sentences = _consistent(label, records.of(records.runs.loc[own.runs.index]))
        rows.append((label, kept.of(kept.runs.sort_values(["seed", "run"]))))
        left_out += sentences
    section = Section(key[0], key[1], variant, sorted(rows, key=lambda row: row[0]))
    ablations, broken = found
    section.left_out = left_out + broken
    _separate_ablations(section, ablations)
    section.tables = _tables(section, section.records)
    return section


def _consistent(label: str, own: Records) -> tuple[Records, list[str]]:
    """The largest part of a row's runs that may be averaged, and sentences on the others."""
    try:
        refuse_mixture(label, own)
        return own, []
    except BenchError as error:
        reason = str(error).split(". ")[0]

    def code(run: Any) -> str:
        results = own.results[run.train_id]
        measured = [(r.evaluator, r.version, r.provenance["source"]) for r in results]
        return json.dumps([run.source, run.nets, measured])

    parts = own.runs.groupby([code(run) for run in own.rows], sort=False)
    kept = max((part for _, part in parts), key=len)
    others = own.runs.loc[~own.runs.index.isin(kept.index), "run"]
    return own.of(kept), [f"{reason}. Left out of the row: {', '.join(others)}."]


def _separate_ablations(section: Section, ablations: Sequence[Ablation]) -> None:
    """Move the variants of ablations from the section's rows into tables of their own.

    The row of the preset's settings stays, unless it is there from elsewhere as well: from a
    machine of other precision, say.
    """
    for ablation in ablations:
        every = (own for _, own in (*section.rows, *section.varied))
        ours = [own for own in every if own.rows[0].model == ablation.model]
        if not ours:
            continue
        everything = _joined(ours)
        shown = as_rows(ablation, everything)
        members = set(shown.runs["run"])
        rows = [(label, own) for label, own in section.rows if _is_of(ablation, own)]
        theirs = {label for label, own in rows if members.issuperset(own.runs["run"])}
        elsewhere = any(label not in theirs and not _is_varied(own) for label, own in rows)
        moved = {n: own for n, own in rows if n in theirs and (elsewhere or _is_varied(own))}
        kept = {own.runs["model"].iloc[0] for n, own in section.rows if n not in moved}
        if shown.runs["label"].nunique() > 1 and ablation.model in kept:
            tables = _tables(section, everything, ablation)
            tables = [t for t in tables if sum(bool(row.cells) for row in t.rows) > 1]
            section.studies.append((ablation, tables))
            section.varied += moved.items()
            section.rows = [row for row in section.rows if row[0] not in moved]


def _is_of(ablation: Ablation, own: Records) -> bool:
    """Whether the runs of a row are of the ablation's method, and vary at most what it varies."""
    keys = {text.partition("=")[0] for texts in own.runs["overrides"] for text in texts}
    return keys <= ablation.keys and set(own.runs["model"]) == {ablation.model}


def _is_varied(own: Records) -> bool:
    return any(own.runs["overrides"])


def _tables(section: Section, records: Records, ablation: Ablation | None = None) -> list[Table]:
    """One for each family of metrics; what cannot be tabulated is named in `left_out`."""
    tables = []
    for family in _families(records):
        try:
            tables += tables_of(
                records,
                family,
                dataset=section.dataset,
                preset=section.preset,
                ablation=ablation,
            )
        except BenchError as error:
            section.left_out.append(f"No table of '{family}': {error}")
    return tables


def _families(records: Records) -> list[str]:
    """Families of the methods' metrics, those with a headline first."""
    metrics = {
        name: facts
        for result in records.all_results()
        for name, facts in result.metrics.items()  # in their order, which a set lacks
        if name in result.scored and facts["role"] == "method"
    }
    first = sorted(metrics, key=lambda name: not metrics[name]["headline"])
    return list(dict.fromkeys(name.split("/")[0] for name in first))


def _short_names(rows: dict[str, str]) -> dict[str, str]:
    """The method, and of overridden settings those that differ between its rows."""
    settings = {label: dict(_OVERRIDE.findall(label)) for label in rows}
    names: dict[str, str] = {}
    seen: Counter[str] = Counter()
    for label, method in sorted(rows.items()):
        alike = [settings[other] for other, own in rows.items() if own == method]
        own = settings[label].items()
        words = [_in_short(k, v) for k, v in own if any(o.get(k) != v for o in alike)]
        name = " ".join([method, *(words or ["…"])] if own else label.split())
        name = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        seen[name] += 1
        names[label] = f"{name} ({seen[name]})" if seen[name] > 1 else name
    return names


def variation(label: str) -> str:
    """What a row's settings vary, in short: "beta=2, mixture"; empty for the preset's."""
    return ", ".join(itertools.starmap(_in_short, _OVERRIDE.findall(label)))


def _in_short(key: str, value: str) -> str:
    if key == "prior.kind" and value in KINDS:
        return KINDS[value] if value == "gmm" else f"{KINDS[value]} prior"
    return f"{key.split('.')[-1]}={value}"


def parts_of(table: Table) -> list[Table]:
    """A table without its series, such as subset-2, subset-3, ...; then these alone."""
    starts = Counter(s[1] for s in map(_SERIES.fullmatch, table.metrics) if s)
    series = [n for n in table.metrics if (s := _SERIES.fullmatch(n)) and starts[s[1]] > 1]
    measured = {name for row in table.rows for name in row.cells}
    parts: list[Table] = []
    for names in ([n for n in table.metrics if n not in series], measured.intersection(series)):
        metrics = {name: facts for name, facts in table.metrics.items() if name in names}
        rows = [row for row in table.rows if metrics.keys() & row.cells.keys() or not parts]
        if metrics and rows:
            parts.append(replace(table, metrics=metrics, rows=rows))
    return parts


def states(runs: pd.DataFrame) -> Counter[str]:
    """How many runs are in each state."""
    return Counter(runs["state"])

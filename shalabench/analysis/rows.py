"""Rows of tables: the runs that differ in nothing but the seed, averaged and ranked."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from shalabench.analysis.statistics import mean_and_error
from shalabench.analysis.verdicts import Collapse, Mark, collapses, first_stages, sources_of
from shalabench.api.errors import BenchError
from shalabench.api.records import Score, is_ranked
from shalabench.records.columns import REFERENCE, RunRow
from shalabench.records.frame import Records
from shalabench.records.ids import NOT_IDENTITY
from shalabench.records.published import Published

if TYPE_CHECKING:
    from shalabench.analysis.costs import Costs

FACTS = ("resolution", "protocol", "supervision", "reduced")  # of a row, in columns
GATE = "gate"  # the preset of runs that check the code
NOT_RUN, NOT_MEASURED = "not run", "not measured"
_UNHASHED = {f"train.{key}" for key in NOT_IDENTITY}


@dataclass(frozen=True)
class Cell:
    """One method's score, over its seeds.

    Attributes:
        mean: Over seeds.
        stderr: Over seeds, or over test items where there is one seed; None where unknown.
        n: Test items of each run.
        mark: By the test over trainings, as `verdicts.set_marks` sets it.
        interval: 95 %, by bootstrap over test items, where there is one seed and the evaluator
            draws it.
        groups: Of the one seed's score.
    """

    mean: float
    stderr: float | None
    seeds: int
    n: int
    mark: Mark = ""
    interval: tuple[float, float] | None = None
    groups: int | None = None

    @classmethod
    def of(cls, scores: Sequence[Score]) -> Cell:
        """Mean over seeds with its standard error; over test items where there is one seed."""
        first, k = scores[0], len(scores)
        if k == 1:
            return cls(first.value, first.stderr, 1, first.n, groups=first.groups)
        return cls(*mean_and_error([score.value for score in scores]), k, first.n)


@dataclass
class Row:
    """One method in one variant of its settings.

    Attributes:
        label: The method, with the settings that differ from those of other rows.
        cells, published: By metric: measured, and as reported in the paper.
        is_variant: Whether settings were not the preset's.
        other_data: Whether these were settings of the data, for which nothing is published then.
        facts: What its values depend on, by the names in `FACTS`; none for most data.
        scores: By metric and seed.
        runs: The names of its runs.
        data: By metric, a key of the data, the classifiers and the evaluator's version. Only values
            of the same key are ranked with each other; a metric that ranks nothing has none.
        published_protocol: How the published values were measured, where rows differ in that.
        collapsed: The variety of samples by the metrics by which the models have collapsed.
        stages: By seed, what tells which other runs share its first stage.
        reported: What all sources published, the main one first.
        costs: What a training cost; None where none is recorded.
        missing: In a word, why there is no value where there is none.
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
    published_protocol: str = ""
    collapsed: dict[str, Collapse] = field(default_factory=dict)
    stages: dict[int, frozenset[str]] = field(default_factory=dict)
    reported: tuple[Published, ...] = ()
    costs: Costs | None = None
    missing: str = ""
    reason: str = ""


def make_rows(records: Records, metrics: Collection[str], *, mix: bool) -> list[Row]:
    """Average the runs of each variant.

    Args:
        records: Of one dataset and preset, without the results that are not shown.
        metrics: The columns.
        mix: Whether runs of different code, data or classifiers may share a row.
    """
    rows, sources = [], sources_of(records.rows)
    for label, group in group_rows(records):
        if not mix:
            refuse_mixture(label, group)
        run = group.rows[0]
        named = run.label.removesuffix(f" {REFERENCE}")
        varied = named != run.model if named else bool(run.overrides)
        row = Row(label, run.model, varied, settings=run.settings, facts=_facts(group))
        row.other_data = any(text.startswith("data.") for text in run.overrides)
        row.runs = tuple(each.run for each in group.rows)
        row.missing, row.reason = _why_missing(group)
        row.collapsed, row.stages = collapses(group), first_stages(group, sources)
        data = _data_of(group)
        for name in metrics:
            if scores := scores_of(group, name):
                row.scores[name] = scores
                if is_ranked(name):
                    row.data[name] = data[name]
                cell = Cell.of(list(scores.values()))
                drawn = group.all_results() if len(group.rows) == 1 else ()
                ends = [r.intervals[name] for r in drawn if name in r.intervals]
                interval = (ends[0][0], ends[0][1]) if ends else None
                row.cells[name] = replace(cell, interval=interval)
        rows.append(row)
    return rows


def scores_of(group: Records, metric: str) -> dict[int, Score]:
    """The summary of a metric by seed, of the runs that have one."""
    return {
        run.seed: result.summaries[metric]
        for run in group.rows
        for result in reversed(group.results[run.train_id])  # the first that has it is kept
        if metric in result.summaries
    }


def group_rows(records: Records) -> list[tuple[str, Records]]:
    """The runs that differ in nothing but the seed and the data, each with the row's label."""
    groups = records.group([_variant(run) for run in records.rows])
    return list(zip(_labels([group.rows[0] for group in groups]), groups, strict=True))


def _variant(run: RunRow) -> str:
    """What the seeds of one row have in common: all that decides a number, but seed and data."""
    settings = {key: value for key, value in run.settings.items() if key not in _UNHASHED}
    where = run.label.endswith(REFERENCE)
    return json.dumps([run.model, run.model_version, run.dataset, settings, where], sort_keys=True)


def _labels(runs: list[RunRow]) -> list[str]:
    """Names of the rows: what was overridden, and what else differs between rows of one name."""
    named: dict[str, list[dict[str, Any]]] = {}
    rows = []
    for run in runs:
        rows.append((run.name, {"version": run.model_version, **run.settings}))
        named.setdefault(run.name, []).append(rows[-1][1])
    labels = []
    for name, settings in rows:
        differing = [k for k, v in settings.items() if any(o.get(k) != v for o in named[name])]
        labels.append(" ".join([name, *(f"[{key}={settings[key]}]" for key in differing)]))
    return labels


def _facts(group: Records) -> dict[str, str]:
    """The facts on a row, from its results."""
    facts: dict[str, set[str]] = {}
    for result in group.all_results():
        for name, text in result.details.get("row", {}).items():
            facts.setdefault(name, set()).add(text)
    return {name: ", ".join(sorted(facts[name])) for name in FACTS if name in facts}


def _why_missing(group: Records) -> tuple[str, str]:
    """Why some of a row's values may be missing: in a word, and in full with the number of runs."""
    states: dict[str, list[str]] = {}
    for run in group.rows:
        if run.state != "done":
            states.setdefault(run.state, []).append(" ".join(run.reason.split()).rstrip("."))
    texts = []
    for state, reasons in states.items():
        reason = next(filter(None, reasons), "")
        texts.append(f"{len(reasons)} {state}" + (f" ({reason})" if reason else ""))
    return ", ".join(states) or NOT_MEASURED, "; ".join(texts)


def _data_of(group: Records) -> dict[str, str]:
    """By metric: data, classifiers and version; views hidden in training change none of these."""
    marks_of: dict[str, set[str]] = {}
    for run in group.rows:
        for result in group.results[run.train_id]:
            digests = sorted(c["digest"] for c in result.classifiers.values())
            data = run.data.get("complete") or run.fingerprint
            for name in result.scored:
                marks_of.setdefault(name, set()).add(json.dumps([data, digests, result.version]))
    return {name: " ".join(sorted(marks)) for name, marks in marks_of.items()}


def refuse_mixture(label: str, group: Records) -> None:
    """Refuse runs of one row that differ in code, data or classifiers.

    Raises:
        BenchError: It names two runs and what differs.
    """
    facts: dict[str, dict[Any, str]] = {}
    for run in group.rows:
        used = [("data", run.fingerprint)]
        if run.provenance:
            used += [("source code", run.source), ("network code", run.nets)]
            if "priors" in run.provenance:  # of a fitted prior; older runs do not tell
                used.append(("code of the fitted prior", run.provenance["priors"]))
        for result in group.results[run.train_id]:
            digests = json.dumps([c["digest"] for c in result.classifiers.values()])
            used += [
                (f"{result.label} version", result.version),
                (f"{result.label} source code", result.provenance["source"]),
                (f"{result.label} classifiers", digests),
            ]
        for what, state in used:
            facts.setdefault(what, {})[state] = run.run
    for what, values in facts.items():
        if len(values) > 1:
            first, second, *_ = values.values()
            raise BenchError(
                f"The runs of '{label}' differ in their {what}, such as {first} and {second}. Run "
                "the older again, name one --store, or add --mix to average them all the same."
            )


def refuse_other_measures(records: Records, metrics: Collection[str]) -> None:
    """Refuse rows of two n or two extractors for a metric that depends on these.

    Raises:
        BenchError: It names the metric, two runs and their n.
    """
    measures_of: dict[str, dict[str, tuple[str, int]]] = {}
    for run in records.rows:
        for result in records.results[run.train_id]:
            for name, score in result.summaries.items():
                if name in metrics and result.metrics[name].get("biased"):
                    used = json.dumps([score.n, result.details.get("real"), result.instruments])
                    measures_of.setdefault(name, {})[used] = run.run, score.n
    for name, measures in measures_of.items():
        if len(measures) > 1:
            first, second, *_ = (f"{run} with n = {n:,}" for run, n in measures.values())
            raise BenchError(
                f"'{name}' depends on the number of images and on the extractor, and the runs "
                f"differ in these: {first} and {second}. Evaluate again with the same "
                "evaluators.quality settings, name --models, --preset or --store, or add --mix."
            )

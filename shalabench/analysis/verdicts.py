"""Which rows of a table are best: a test over trainings, without models that have collapsed.

Every text, table, figure and comparison that ranks methods asks the functions here.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from shalabench.analysis.fitting import Legend
from shalabench.analysis.statistics import (
    LEVEL,
    SEEDS,
    UNTESTED,
    Difference,
    critical_range,
    difference,
    pooled_error,
)
from shalabench.api.records import Score
from shalabench.records.columns import RunRow
from shalabench.records.frame import Records
from shalabench.records.ids import NOT_IDENTITY

if TYPE_CHECKING:
    from shalabench.analysis.rows import Row

# Of a cell: "level" is not significantly worse than the best, "behind" is; "" was not ranked.
Mark = Literal["best", "level", "behind", "collapsed", ""]
SYMBOLS: dict[Mark, str] = {"best": "*", "level": "+", "collapsed": "†"}
FEW = f"{UNTESTED} (fewer than three seeds)"
MEANING = (
    "Best mean: * or bold. +: not significantly worse than it (Tukey's test over trainings, "
    f"{100 * LEVEL:.0f} %). No mark: significantly worse, or not ranked."
)
_LATER = ("prior.", "model.prior.", "sampling.", "evaluators.")  # settings of no first stage
_UNHASHED = {f"train.{key}" for key in NOT_IDENTITY}


class Collapse(NamedTuple):
    """The variety of a collapsed model's samples.

    Attributes:
        effective: Number of classes, mean over seeds; 0 where no samples agree.
        classes: Of the data.
        few: Whether fewer samples agree than there are classes, so that no model could show many.
    """

    effective: float
    classes: int
    few: bool

    @property
    def text(self) -> str:
        """All of it in words."""
        agree = ", few samples agree" if self.few else ""
        return f"{self.effective:.1f} of {self.classes} classes{agree}"


def collapses(group: Records) -> dict[str, Collapse]:
    """The metrics by which a row's models have collapsed: under half of the data's classes.

    The number of classes among samples that agree says what their agreement is worth. It is a
    metric `of` the one it belongs to. The data's number of classes is the length of the record's
    histogram; without one, nothing is said.

    Args:
        group: The runs of one row.
    """
    varieties: dict[str, dict[int, Score | None]] = {}
    classes = 0
    for run in group.rows:
        for result in reversed(group.results[run.train_id]):  # the first that has it is kept
            histogram = result.details.get("joint_histogram", {})
            classes = max(classes, len(histogram.get("agreeing", ())))
            for name, facts in result.metrics.items():
                if facts["role"] == "method" and facts["of"] in result.summaries:
                    scores = varieties.setdefault(facts["of"], {})
                    scores[run.seed] = result.summaries.get(name)
    found = {}
    for metric, scores in varieties.items():
        known = [score for score in scores.values() if score]
        mean = math.fsum(score.value for score in known) / max(len(known), 1)
        if mean < classes / 2:
            few = sum(score.n for score in known) < classes * len(scores)
            found[metric] = Collapse(mean, classes, few)
    return found


def sources_of(runs: Iterable[RunRow]) -> dict[str, str]:
    """The run from which each run with reused weights has them, by name."""
    pairs = ((run.run, run.provenance.get("reused") or {}) for run in runs)
    return {name: reused["run"] for name, reused in pairs if "run" in reused}


def first_stages(group: Records, sources: Mapping[str, str]) -> dict[int, frozenset[str]]:
    """Texts by seed that identify the first stage of a run.

    Two runs share a first stage if they have a text in common. The texts are the name of the run,
    the names of the runs that its weights come from, and everything that decides a first stage. If
    two runs are wrongly taken to share one, a test of pairs by seed is still valid but has less
    power.

    Args:
        group: The runs of one row.
        sources: As `sources_of` gives it.
    """
    stages = {}
    for run in group.rows:
        names, source = {run.run}, sources.get(run.run)
        while source and source not in names:
            names.add(source)
            source = sources.get(source)
        settings = {
            key: value
            for key, value in run.settings.items()
            if key not in _UNHASHED and not key.startswith(_LATER)
        }
        made_by = (run.model, run.model_version, run.fingerprint, run.source, run.nets)
        stages[run.seed] = frozenset({*names, json.dumps([*made_by, settings], sort_keys=True)})
    return stages


def sharing(a: Mapping[int, frozenset[str]], b: Mapping[int, frozenset[str]]) -> list[int]:
    """The seeds whose runs share a first stage."""
    return [seed for seed in sorted(a.keys() & b.keys()) if a[seed] & b[seed]]


def lead_of(best: Row, other: Row, metric: str) -> Difference:
    """The difference of two rows, as `compare` gives it."""
    shared = sharing(best.stages, other.stages)
    return difference(best.scores[metric], other.scores[metric], shared)


def best_first(rows: Iterable[Row], metric: str, sign: int) -> list[Row]:
    """Measured rows by their means, the best first; collapsed ones come last.

    Args:
        rows: Some without the metric, which are left out.
        metric: By which.
        sign: 1 where higher values are better, -1 where lower ones are.
    """
    measured = [row for row in rows if metric in row.cells]
    return sorted(
        measured, key=lambda r: (metric in r.collapsed, -sign * r.cells[metric].mean, r.label)
    )


def ranked(rows: list[Row]) -> list[Row]:
    """Those that are ranked: a method's variants are not where its preset's settings are."""
    plain = {row.method for row in rows if not row.is_variant}
    return [row for row in rows if not (row.is_variant and row.method in plain)]


def set_marks(rows: list[Row], metrics: Mapping[str, tuple[str, int, str]]) -> None:
    """Mark each metric's best, those that are not significantly worse, and collapsed models.

    A column is tested if every row that is ranked in it has three seeds or more. In others, no
    value is marked as the best. Rows of one method that have the same value for every seed are
    tested once and have one mark, such as those of several priors where the prior changes nothing.
    """
    for row, name in itertools.product(rows, metrics):
        if name in row.collapsed and name in row.cells:
            _set(row, name, "collapsed")
    for name, sign, alike in _columns(rows, metrics):
        if _few(alike, name):
            continue
        same = _of_same_values(alike, name)
        best, *others = (group[0] for group in same)
        shared = [sharing(best.stages, row.stages) for row in others]
        worse = behind([row.scores[name] for row in (best, *others)], sign, shared)
        marks: list[Mark] = ["best", *("behind" if is_behind else "level" for is_behind in worse)]
        for group, mark in zip(same, marks, strict=True):
            for row in group:
                _set(row, name, mark)


def _of_same_values(rows: Iterable[Row], metric: str) -> list[list[Row]]:
    """Rows of one method that have the same value for every seed, together; in their order."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        values = sorted((seed, score.value) for seed, score in row.scores[metric].items())
        groups.setdefault((row.method, *values), []).append(row)
    return list(groups.values())


def behind(
    scores: Sequence[Mapping[int, Score]], sign: int, shared: Sequence[Collection[int]]
) -> list[bool]:
    """Which rows are significantly worse than the one with the best mean.

    The best was chosen by its mean, so the test is one of all pairs: Tukey's (1953) studentised
    range, with Kramer's (1956) error where the numbers of seeds differ. It takes the spread of
    seeds from all rows. Rows differ in it, so the pair's own spread counts where that is larger,
    and the pair must differ in `compare` too. Rows that all share a first stage by seed are
    tested within seeds.

    Of nine equal rows with three seeds each, some row is called worse in 3.6 % of tables; in 6 to
    7 % where the spread of rows differs by a factor of 3 to 20. A row that is behind by four
    standard deviations of seeds is found with a probability of .79, by six with .99. Corrections
    that do not account for the choice of the best err more often: Holm's (1979) over comparisons
    with it in 9 to 11 %, Dunnett's (1955) in 15 %, Hsu's (1981) in 26 %.

    Args:
        scores: By seed, three or more a row; the best row is the first.
        sign: 1 where higher values are better, -1 where lower ones are.
        shared: Of each other row, the seeds whose first stage it shares with the best.
    """
    best, *others = scores
    if not others:
        return []
    common = sorted(set.intersection(*map(set, shared)))
    blocked = len(common) >= SEEDS
    columns = [
        [row[seed].value for seed in common] if blocked else [s.value for s in row.values()]
        for row in scores
    ]
    spread, freedom = pooled_error(columns, blocked=blocked)
    critical = critical_range(len(scores), freedom) / math.sqrt(2)
    means = [math.fsum(values) / len(values) for values in columns]
    worse = []
    for i, row in enumerate(others):
        value = sign * (means[0] - means[i + 1])
        least = critical * spread * math.sqrt(1 / len(columns[0]) + 1 / len(columns[i + 1]))
        worse.append(value > least and _differ(best, row, shared[i], critical, value))
    return worse


def _differ(
    best: Mapping[int, Score],
    row: Mapping[int, Score],
    shared: Collection[int],
    critical: float,
    value: float,
) -> bool:
    """Whether a pair differs in `compare`, and by more than its own spread explains."""
    lead = difference(best, row, shared)
    return lead.is_significant and value > critical * (lead.error or 0)


def notes_of(rows: list[Row], metrics: Mapping[str, tuple[str, int, str]]) -> list[str]:
    """What marks mean, what is not tested and why, and what has collapsed."""
    notes: list[str] = []
    marks = {cell.mark for row in rows for name, cell in row.cells.items() if name in metrics}
    if "best" in marks:
        notes.append(Legend(MEANING))
    columns: dict[str, list[str]] = {}
    for name, _, alike in _columns(rows, metrics):
        if few := _few(alike, name):
            who = "" if len(few) == len(alike) else f": {', '.join(few)}"
            columns.setdefault(f"{FEW}{who}.", []).append(name)
    for text, names in columns.items():
        every = len(columns) == 1 and "best" not in marks
        notes.append(f"{'No value is marked as the best' if every else ', '.join(names)}: {text}")
    for name in metrics:
        found = {row.label: row.collapsed[name] for row in rows if name in row.collapsed}
        if found:
            classes = next(iter(found.values())).classes
            texts = [f"{n} {x.effective:.1f}{' (few agree)' * x.few}" for n, x in found.items()]
            notes.append(
                f"{SYMBOLS['collapsed']}: collapsed, not ranked by {name}: the samples that agree "
                f"show under half of the data's {classes} classes: {', '.join(texts)}."
            )
    return notes


def verdict(
    diff: Difference, direction: str, names: tuple[str, str], collapsed: Mapping[str, Collapse]
) -> str:
    """Which of two sides is better, or why that is not said.

    Args:
        diff: First minus second.
        direction: "higher" or "lower".
        names: Of the sides.
        collapsed: The sides that have collapsed, by name.
    """
    if collapsed:
        return f"{' and '.join(collapsed)} collapsed"
    if not diff.is_significant:
        return "not significant" if diff.is_tested else "not tested"
    return f"{names[(diff.value > 0) != (direction != 'lower')]} is better"


def _columns(
    rows: list[Row], metrics: Mapping[str, tuple[str, int, str]]
) -> Iterable[tuple[str, int, list[Row]]]:
    """Metric, sign and the rows that are ranked with each other, the best first."""
    kinds = dict.fromkeys(data for row in rows for data in row.data.values())
    for (name, (direction, _, _)), data in itertools.product(metrics.items(), kinds):
        alike = ranked([row for row in rows if row.data.get(name) == data])
        sign = 1 if direction == "higher" else -1
        sound = [row for row in best_first(alike, name, sign) if name not in row.collapsed]
        if direction and len(alike) > 1 and sound:
            yield name, sign, sound


def _few(rows: list[Row], metric: str) -> list[str]:
    """The rows with too few seeds for a test."""
    return [row.label for row in rows if len(row.scores[metric]) < SEEDS]


def _set(row: Row, metric: str, mark: Mark) -> None:
    row.cells[metric] = replace(row.cells[metric], mark=mark)

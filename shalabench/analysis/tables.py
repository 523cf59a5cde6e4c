"""Tables from records: measured beside published, with errors, and what is missing and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from shalabench.analysis import by_modalities, by_prior
from shalabench.analysis.by_modalities import source_notes, split_by_modalities
from shalabench.analysis.by_prior import split_by_prior
from shalabench.analysis.costs import add_costs, undertrained_notes
from shalabench.analysis.external import external_notes
from shalabench.analysis.fitting import Detail, Legend
from shalabench.analysis.instruments import weak_classifiers
from shalabench.analysis.learning import modalities_of, notes_on, split_by_tuples
from shalabench.analysis.notes import apart_notes, bounds_notes
from shalabench.analysis.render import render
from shalabench.analysis.reported import (
    add_reported,
    label_of_published,
    main_values,
    matches,
    rows_of_published,
)
from shalabench.analysis.rows import (
    NOT_MEASURED,
    NOT_RUN,
    Row,
    make_rows,
    refuse_other_measures,
)
from shalabench.analysis.verdicts import notes_of, ranked, set_marks
from shalabench.api.errors import BenchError, unknown
from shalabench.api.records import is_ranked
from shalabench.records.frame import Records, check_names, load, refuse_unmeasured
from shalabench.records.published import MAIN, Published, published_by
from shalabench.records.store import Store

if TYPE_CHECKING:
    from shalabench.config.ablations import Ablation

__all__ = ["Row", "Table", "make_tables", "render", "tables_of", "without_evaluators"]
By = Literal["", "prior", "tuples", "modalities"]
_MEANINGS = {"prior": by_prior.MEANING, "modalities": by_modalities.MEANING}
_FEW = 100  # items


@dataclass
class Table:
    """All methods on one dataset with one preset.

    Attributes:
        metrics: Shown as columns, by name, with (direction, digits, meaning).
        notes: Lines below the table.
        published_for: The dataset that the published values are for.
        apart: Why the published values are of other data than ours, in words; empty where not.
        source: Key of the source of the published values in the column.
    """

    dataset: str
    preset: str
    metrics: dict[str, tuple[str, int, str]]
    rows: list[Row]
    notes: list[str]
    published_for: str
    apart: str
    source: str = MAIN


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
    source: str = MAIN,
    by: By = "",
) -> list[Table]:
    """Read the stores into tables, one for each dataset and preset.

    Args:
        metric, dataset, preset, models, mix, ablation, source, by: As in `tables_of`.
        split: What was measured on.

    Raises:
        BenchError: The metric or dataset is unknown, nothing was measured on the split, or records
            would be mixed.
    """
    records = load(stores, split, metric=metric, may_be_empty=True)
    if not any(records.results.values()):  # so that mistakes are named by all that there is
        records = load(stores, split, may_be_empty=True)
    refuse_unmeasured(records.select(dataset, preset, models), split)
    asked: dict[str, Any] = {"dataset": dataset, "preset": preset, "models": models}
    asked |= {"mix": mix, "ablation": ablation, "source": source, "by": by}
    tables = tables_of(records, metric, **asked)
    for table in tables:
        table.notes += [f"Left out: {p.where}: {p.text}" for p in records.problems if p.is_loss]
    return tables


def tables_of(
    records: Records,
    metric: str,
    *,
    dataset: str | None = None,
    preset: str | None = None,
    models: Sequence[str] = (),
    mix: bool = False,
    ablation: Ablation | None = None,
    source: str = MAIN,
    by: By = "",
) -> list[Table]:
    """Records as tables, one for each dataset and preset.

    Args:
        records: All on one split.
        metric: A metric, or the beginning of several ("coherence").
        dataset, preset, models: Only these.
        mix: Whether runs of different code, packages' precision or data may share a row.
        ablation: Only its variants, a row each, beside what is published of them.
        source: Of the published values that stand in a column, by its key.
        by: A column for each kind of prior, each number of training tuples (with a fit of each
            row) or each number of modalities, and nothing published.

    Raises:
        BenchError: The metric, dataset or source is unknown, no run has a score, or records would
            be mixed.
    """
    published = [] if by else published_by(source)
    if ablation:
        from shalabench.analysis.variants import as_rows, published_of

        published = published_of(ablation, published)
        records = as_rows(ablation, records)
    scored = set().union(*(result.scored for result in records.all_results()))
    known = scored | {p.metric for p in published}
    known |= {name.split("/")[0] for name in known}
    is_known = any(matches(name, metric) for name in known)
    besides = {"dataset": [p.dataset for p in published], "model": [p.method for p in published]}
    mistakes = [] if is_known or not known else [unknown("metric", metric, known)]
    check_names(records, dataset, preset, models, besides=besides, mistakes=mistakes)
    if not known:
        raise BenchError(
            f"There is no run of the ablation '{ablation.name}' here with a score. Run it with "
            f"python bench.py run --ablation {ablation.name} --dataset {dataset or 'polydigits'}."
            if ablation
            else "There is no run here with a score. Run a method with python bench.py run."
        )
    chosen, apart = _on_split(records.select(dataset, preset, models))
    groups = dict(iter(chosen.runs.groupby(["dataset", "preset"])))
    for name in {p.dataset for p in published if dataset in (None, p.dataset)}:
        if not any(key[0] == name for key in groups):
            groups[name, NOT_RUN] = chosen.runs[:0]
    tables = [
        _table(key, chosen.of(runs), metric, published, models, mix, ablation, by)
        for key, runs in sorted(groups.items(), key=lambda item: item[0])
    ]
    tables = [table for table in tables if table and table.metrics and table.rows]
    for table in tables:
        if n := apart.get((table.dataset, table.preset)):
            table.notes.append(
                Detail(f"Left out, measured on another split only: {n} run{'s' * (n > 1)}.")
            )
    if ablation and not dataset:  # a method's preset is one variant of every ablation of it
        tables = [t for t in tables if sum(bool(row.runs) for row in t.rows) > 1] or tables
    measured = set().union(*(result.scored for result in chosen.all_results()))
    if not tables and by == "prior" and any(matches(name, metric) for name in measured):
        raise BenchError(
            f"No prior changes what '{metric}' measures here: joint samples are measured by "
            "coherence/joint and by image quality such as kid. Ask for one of these families or "
            "for another dataset, or leave --by out."
        )
    if not tables:
        raise BenchError(
            f"There is no value of '{metric}' for what was asked, measured or published. Ask for "
            "another dataset, preset or method, or leave them out to see what there is."
        )
    return tables


def _on_split(records: Records) -> tuple[Records, Counter[tuple[str, str]]]:
    """The runs without those that were measured on another split only, and the number of these.

    Trials of tuning are measured on validation only: they would be rows without a value.
    """
    runs = records.runs
    is_apart = [not records.results[t] and bool(records.splits.get(t)) for t in runs["train_id"]]
    apart = runs.loc[is_apart]
    count = Counter(zip(apart["dataset"], apart["preset"], strict=True))
    return records.of(runs.loc[[not own for own in is_apart]]), count


def _table(
    key: tuple[str, str],
    records: Records,
    metric: str,
    published: list[Published],
    models: Sequence[str],
    mix: bool,
    ablation: Ablation | None,
    by: By,
) -> Table:
    dataset, preset = key
    proxy_for = next(iter(records.runs["proxy_for"]), "")
    apart = "; ".join(filter(None, records.runs["deviation"].unique()))
    apart = f"published for {proxy_for}, which are other data" if proxy_for else apart
    reported = main_values(published, proxy_for or dataset, metric)
    metrics = _metrics(records, [] if proxy_for else reported, metric)
    records = only_shown(records, metrics)
    if not mix:
        refuse_other_measures(records, metrics)
    rows, measured = make_rows(records, metrics, mix=mix), metrics
    fits: list[str] = []
    add_costs(rows, records, proxy_for or dataset)
    if by == "prior" and rows:
        rows, metrics = split_by_prior(rows, metrics)
    elif by == "modalities":
        sources = dict(zip(records.runs["run"], records.runs["data_source"], strict=True))
        fits = source_notes(rows, modalities_of(records), sources)
        rows, metrics = split_by_modalities(rows, metrics, modalities_of(records))
    elif by == "tuples":
        values = main_values(published_by(), proxy_for or dataset, metric)
        known = {(p.method, p.metric): p.value for p in values if not p.condition}
        fits = notes_on(rows, metrics, modalities_of(records), known, apart=bool(apart))
        rows, metrics = split_by_tuples(rows, metrics)
    ran = {row.method for row in rows}
    for p in reported:
        shown = rows_of_published(p, rows)
        elsewhere = proxy_for and (p.setting or p.method not in ran)  # its rows are only of runs
        if (models and p.method not in models) or (elsewhere and not shown):
            continue
        if not shown:
            facts = {"resolution": p.resolution} if p.resolution else {}
            label = label_of_published(p)
            shown = [Row(label, p.method, label != p.method, facts=facts, missing=NOT_RUN)]
            rows += shown
        for row in shown:
            row.published[p.metric], row.published_protocol = p.value, p.protocol
    if not ablation and not by:
        add_reported(rows, proxy_for or dataset, metric)
    set_marks(rows, metrics)
    order = list(dict.fromkeys(p.method for p in reported))
    rows.sort(key=lambda r: (order.index(r.method) if r.method in order else -1, *_place(r)))
    notes = []
    if ablation:
        from shalabench.analysis.variants import in_variant_order, label_of

        notes = [f"{ablation.title} ({ablation.source})."]
        names = [label_of(ablation, variant) for variant in ablation.variants]
        absent = dict.fromkeys(names).keys() - {row.label for row in rows}
        rows += [Row(label, ablation.model, True, missing=NOT_RUN) for label in absent]
        rows = in_variant_order(ablation, rows)
    notes += [*external_notes(records), *undertrained_notes(rows), *fits]
    notes += _notes(records, measured, metrics, reported, rows, _MEANINGS.get(by, ""))
    source = published[0].key if published else MAIN
    return Table(dataset, preset, metrics, rows, notes, proxy_for or dataset, apart, source)


def _place(row: Row) -> tuple[int, str]:
    """Rows of a method in order of their resolution in pixels."""
    return int(row.facts.get("resolution", "0 px").split()[0]), row.label


def only_shown(records: Records, metrics: Any) -> Records:
    """The results that have some metric, and the settings of their evaluators.

    Rows then differ only by what decides their values. Runs from before an evaluator existed share
    a row with later ones.
    """
    names = set(metrics)
    results = records.all_results()
    labels = {result.label for result in results if not names.isdisjoint(result.scored)}
    evaluators = {result.evaluator for result in results if result.label in labels}
    kept = {
        training: [result for result in records.results[training] if result.label in labels]
        for training in records.runs["train_id"]
    }
    return replace(records.of(without_evaluators(records.runs, evaluators)), results=kept)


def without_evaluators(runs: Any, but: Any = ()) -> Any:
    """A frame of runs without the settings of evaluators, but those named."""
    starts = tuple(f"evaluators.{name}." for name in but)

    def stays(key: str) -> bool:
        return not key.startswith("evaluators.") or key.startswith(starts)

    return runs.assign(
        settings=[{k: v for k, v in values.items() if stays(k)} for values in runs["settings"]],
        overrides=[tuple(filter(stays, texts)) for texts in runs["overrides"]],
    )


def _metrics(
    records: Records, published: list[Published], asked: str
) -> dict[str, tuple[str, int, str]]:
    """The columns: what was measured, and families of which values are published."""
    results = [r for r in records.all_results() if any(matches(n, asked) for n in r.scored)]
    known = {name: m for result in results for name, m in result.metrics.items()}
    scored = {name for result in results for name in result.summaries}
    names = [name for name in known if name in scored and matches(name, asked)]
    # A value published for a whole family, by some other protocol, stands beside the family's.
    families = {name.split("/")[0] for name in names}
    names += [p.metric for p in published if p.metric not in families]
    blank = {"direction": "", "digits": 3, "meaning": ""}
    facts = ((name, known.get(name, blank)) for name in names)
    return {name: (m["direction"], m["digits"], m["meaning"]) for name, m in facts}


def _notes(
    records: Records,
    measured: dict[str, Any],
    metrics: dict[str, Any],
    published: list[Published],
    rows: list[Row],
    meaning: str,
) -> list[str]:
    results = [r for r in records.all_results() if not r.scored.isdisjoint(measured)]
    cells = [cell for row in rows for cell in row.cells.values()]
    shown = [name for name in measured if any(n.split()[0] == name for n in metrics)]
    notes: list[str] = [
        Legend(f"{name}: {measured[name][2]}.") for name in shown if measured[name][2]
    ]
    notes += [meaning] if meaning else []
    protocols = {f"{r.label} version {r.version} on the {r.split} split" for r in results}
    if protocols:
        n = sorted({cell.n for cell in cells})
        sizes = ", ".join(f"{x:,}" for x in n) if len(n) < 4 else f"{n[0]:,} to {n[-1]:,}"
        notes.append(
            Detail(f"Protocol: {', '.join(sorted(protocols))}; test items a value: {sizes}.")
        )
    notes += [*bounds_notes(records, measured), *weak_classifiers(results)]
    unranked = [name for name in metrics if any(name in row.cells for row in rows)]
    if unranked := [name for name in unranked if not is_ranked(name)]:
        notes.append(f"Not ranked, for these features hardly see blur: {', '.join(unranked)}.")
    texts = dict.fromkeys(text for r in results for text in r.details.get("notes", []))
    methods = set(records.runs["model"])  # what is said of one of them is a detail
    notes += [Detail(t) if t.split()[0].rstrip(":") in methods else t for t in texts]
    notes += [f"Data: {text}." for text in records.runs["data_source"].unique()]
    notes += [
        f"Not compared with published values, because the data deviate from theirs: {text}."
        for text in filter(None, records.runs["deviation"].unique())
    ]
    for name in metrics:
        items = {row.label: row.cells[name].n for row in rows if name in row.cells}
        few = [f"{label} ({k})" for label, k in items.items() if k < _FEW <= max(items.values())]
        notes += [f"{name} has fewer than {_FEW} test items in {', '.join(few)}."] if few else []
    if cells:
        notes.append(
            Legend("In brackets: number of seeds. The standard error is over these seeds.")
        )
    if any(cell.seeds == 1 for cell in cells):
        notes.append(Legend("(1): one seed. The error is over test items, not over trainings."))
    if any(cell.interval for cell in cells):
        notes.append(Detail("The formats csv and json have 95 % bootstrap intervals over items."))
    notes += notes_of(rows, metrics)
    if cells:
        notes += apart_notes(rows, metrics)
        if len(ranked(rows)) < len(rows):
            notes.append(Legend("Variants are not ranked if the method also ran with its preset."))
    return [*notes, *_legend(metrics, published, rows)]


def _legend(metrics: dict[str, Any], published: list[Published], rows: list[Row]) -> list[str]:
    """What is missing and why, and where the published values are from."""
    notes = [f"{row.label}: {row.reason}." for row in rows if row.reason]
    reduced = {row.method: row.facts["reduced"] for row in rows if row.facts.get("reduced")}
    notes += [f"{method} is reduced: {what}." for method, what in reduced.items()]
    if any(row.missing == NOT_RUN for row in rows):
        notes.append(Legend("not run: no run of the method is recorded here."))
    if any(row.missing == NOT_MEASURED and set(metrics) - set(row.cells) for row in rows):
        text = "not measured: the method or evaluator has no such value, or has not run yet."
        notes.append(Legend(text))
    shown = [p for p in published if any(matches(name, p.metric) for name in metrics)]
    if shown:
        if any(p.metric not in row.published for p in shown for row in rows):
            notes.append(Legend("-: not published."))
        methods = {row.method for row in rows}
        texts = {(p.method, p.condition): p.note for p in shown if p.note and p.method in methods}
        notes += [f"Published {who} ({at}): {note}." for (who, at), note in texts.items() if at]
        notes += [f"Published: {source}." for source in dict.fromkeys(p.source for p in shown)]
    return notes

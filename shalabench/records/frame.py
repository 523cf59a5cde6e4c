"""Records of stores as pandas data frames, and the problems of those that are left out."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import pandas as pd

from shalabench.api.errors import BenchError, ConfigErrors, unknown
from shalabench.api.records import Score, is_ranked, is_summary
from shalabench.records.budgets import tuples_seen
from shalabench.records.columns import REFERENCE, RUNS, SCORES, RunRow, make_frame, run_rows
from shalabench.records.extractors import split_extractors
from shalabench.records.ids import without_later_settings
from shalabench.records.reading import DAMAGED, printable
from shalabench.records.store import RunFolder, Store

_OPTIONAL: dict[str, Any] = {"details": {}, "instruments": {}, "pictures": (), "texts": ()}


def _field(name: str) -> Any:
    """A property of `Result`: a field of its content."""
    if name in _OPTIONAL:
        return property(lambda result: result.content.get(name, _OPTIONAL[name]))
    return property(lambda result: result.content[name])


@dataclass(frozen=True)
class Result:
    """One evaluation of a run, of a form that was checked.

    Attributes:
        content: As recorded, with today's names.
    """

    content: dict[str, Any]

    eval_id, evaluator, version, split = map(_field, ("eval_id", "evaluator", "version", "split"))
    settings, classifiers, instruments = map(_field, ("settings", "classifiers", "instruments"))
    details, provenance = map(_field, ("details", "provenance"))
    pictures, texts = map(_field, ("pictures", "texts"))  # for `RunFolder.picture` and `.text`

    @property
    def intervals(self) -> dict[str, list[float]]:
        """95 % intervals over test items by metric, where the evaluator draws them."""
        return self.details.get("intervals", {})

    @property
    def extractor(self) -> str:
        """What its features are of; empty where it uses none."""
        return self.details.get("extractor", "")

    @property
    def label(self) -> str:
        """The evaluator, and the extractor where it has several."""
        return f"{self.evaluator} ({self.extractor})" if self.extractor else self.evaluator

    @cached_property
    def metrics(self) -> dict[str, dict[str, Any]]:
        """The description of each metric by its name; what ranks nothing is no headline."""
        return {
            m["name"]: m if is_ranked(m["name"]) else m | {"headline": False}
            for m in self.content["metrics"]
        }

    @cached_property
    def scored(self) -> set[str]:
        """The metrics that have a score."""
        return {score["metric"] for score in self.content["scores"]}

    @cached_property
    def summaries(self) -> dict[str, Score]:
        """The scores that sum the evaluation up, by metric."""
        scores = filter(is_summary, self.content["scores"])
        return {score["metric"]: Score.from_json(score) for score in scores}


@dataclass(frozen=True)
class Problem:
    """A record that is left out.

    Attributes:
        where: The run's folder, and the file in it.
        kind: "unreadable", "another schema" or "duplicate".
        text: What is wrong, in a sentence.
        is_loss: Whether results are missing because of it. A copy with the same results is no loss.
    """

    where: str
    kind: str
    text: str
    is_loss: bool = True


@dataclass
class Records:
    """The records of stores on one split: each training once, in the order of the folders.

    Attributes:
        runs: One row per training, with the columns of `RunRow`.
        results: By train_id, the last result of each evaluator's newest version.
        folders: By train_id, where the run lies: its events, pictures and texts.
        problems: What was left out and why.
        splits: By train_id, the splits that it was measured on.
    """

    runs: pd.DataFrame
    results: dict[str, list[Result]] = field(default_factory=dict)
    folders: dict[str, RunFolder] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    splits: dict[str, set[str]] = field(default_factory=dict)

    @cached_property
    def rows(self) -> list[RunRow]:
        """The rows of `runs` as named tuples."""
        return run_rows(self.runs)

    @cached_property
    def scores(self) -> pd.DataFrame:
        """One row per score, with the columns of `ScoreRow`."""
        rows = [s for run in self.rows for s in _scores(run, self.results[run.train_id])]
        return make_frame(rows, SCORES)

    def select(
        self, dataset: str | None, preset: str | None, models: Sequence[str] = ()
    ) -> Records:
        """The runs of a dataset, a preset and some models, where given, and all problems."""
        kept = self.runs
        for column, value in (("dataset", dataset), ("preset", preset)):
            kept = kept if value is None else kept[kept[column] == value]
        return self.of(kept[kept["model"].isin(models)] if models else kept)

    def of(self, runs: pd.DataFrame) -> Records:
        """The same with some of its runs, or with other columns of these."""
        return Records(runs, self.results, self.folders, self.problems, self.splits)

    def all_results(self) -> list[Result]:
        """The results of all runs, in the order of the runs."""
        return [result for run in self.rows for result in self.results[run.train_id]]

    def group(self, keys: Sequence[Any]) -> list[Records]:
        """The runs in groups of equal keys, in the order of each one's first run.

        Args:
            keys: One per run.
        """
        members: dict[Any, list[int]] = {}
        for number, key in enumerate(keys):
            members.setdefault(key, []).append(number)
        groups = []
        for numbers in members.values():
            groups.append(self.of(self.runs.iloc[numbers]))
            groups[-1].__dict__["rows"] = [self.rows[number] for number in numbers]
        return groups


def load(
    stores: Sequence[Store],
    split: str = "test",
    *,
    metric: str = "",
    may_be_empty: bool = False,
) -> Records:
    """Read all records of today's form, and list the others as problems.

    Args:
        stores: Where records lie.
        split: What was measured on.
        metric: Of packed records, only results with a score whose name begins so, to save time.
        may_be_empty: Whether stores without any run are allowed.

    Raises:
        BenchError: There is no run at all.
    """
    with _no_collector():
        return _load(stores, split, metric, may_be_empty)


def _load(stores: Sequence[Store], split: str, metric: str, may_be_empty: bool) -> Records:
    records = Records(pd.DataFrame())
    rows: dict[str, RunRow] = {}
    for store, folder in ((s, folder) for s in stores for folder in s.runs()):
        try:
            row, results, problems = _read(folder, metric)
        except DAMAGED as error:
            records.problems.append(_problem(folder.name, error))
            continue
        records.problems += problems
        training = row.train_id
        kept = _newest(result for result in results if result.split == split)
        splits = {result.split for result in results}
        if training in rows:
            held = records.results[training]
            records.splits[training] = splits = splits | records.splits[training]
            if held and not kept:
                continue
            if held:
                differs = held != kept
                what = "OTHER" if differs else "the same"
                text = f"{row.run} holds the same training, with {what} results, and is used."
                records.problems.append(Problem(rows[training].run, "duplicate", text, differs))
        used = {
            f"evaluators.{result.evaluator}.{key}": value
            for result in kept
            for key, value in result.settings.items()
        }
        label = f"{row.name} {REFERENCE}" if store.is_reference else ""
        settings = row.settings | used
        rows[training] = row._replace(settings=settings, store=str(store.root), label=label)
        records.results[training], records.folders[training] = kept, folder
        records.splits[training] = splits
    if not (rows or records.problems or may_be_empty):
        where = ", ".join(str(store.root) for store in stores)
        raise BenchError(f"There is no run in {where}. Name a folder of records with --store.")
    records.runs = make_frame(list(rows.values()), RUNS)
    return records


@contextmanager
def _no_collector() -> Iterator[None]:
    """Disable the garbage collector: what is parsed stays, so it need not look at it."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _read(folder: RunFolder, metric: str) -> tuple[RunRow, list[Result], list[Problem]]:
    """A row of `Records.runs`, the results that read, and what is wrong with the others."""
    run = _in_form("run", folder.run, "run.json", folder)
    trained, failed = folder.trained or {}, folder.failed or {}
    trained = trained and _in_form("trained", trained, "trained.json", folder)
    failed = failed and _in_form("failed", failed, "failed.json", folder)
    results: list[Result] = []
    problems: list[Problem] = []
    for name in folder.result_names(metric):
        try:
            content = _in_form("result", folder.result(name), name, folder)
            results += map(Result, split_extractors(content))
        except DAMAGED as error:
            problems.append(_problem(f"{folder.name}/results/{name}", error))
    provenance, data = trained.get("provenance", {}), run["data"]
    row: dict[str, Any] = {
        **{key: run[key] for key in ("train_id", "model", "model_version", "paper", "dataset")},
        **{key: run[key] for key in ("preset", "seed", "data")},
        "settings": without_later_settings(run["settings"]),
        **{key: provenance.get(key) or "" for key in ("device", "precision", "commit")},
        **{key: provenance.get(key) for key in ("seconds", "cpu_seconds", "peak_memory")},
        **{key: provenance.get(key, "") for key in ("source", "nets")},
        **{key: data.get(key, "") for key in ("fingerprint", "proxy_for", "deviation")},
        "run": folder.name,
        "overrides": tuple(run["overrides"]),
        "state": failed.get("status") or folder.state(),
        "reason": failed.get("reason") or folder.unmeasured(),
        "parameters": trained.get("parameters"),
        "tuples": tuples_seen(run["settings"], trained.get("last", {})) if trained else None,
        "stages": tuple(trained.get("last", ())),
        "data_source": data["source"],
        "origins": run.get("origins", {}),
        "provenance": provenance,
    }
    return RunRow(**row, store="", label=""), results, problems


def _in_form(kind: str, content: dict[str, Any], name: str, folder: RunFolder) -> dict[str, Any]:
    if folder.is_checked:
        return content
    from shalabench.records.schema import read  # pydantic, which packed records do not need

    return read(kind, content, name)


def _newest(results: Iterable[Result]) -> list[Result]:
    """The last result of each evaluator's newest version."""
    ordered = sorted(results, key=lambda r: (r.version, r.provenance.get("finished", 0)))
    return list({result.label: result for result in ordered}.values())


def _problem(where: str, error: Exception) -> Problem:
    kind = "unreadable" if isinstance(error, BenchError) else "another schema"
    text = str(error)
    if not isinstance(error, BenchError | ValueError):
        text = f"The record has another form ({type(error).__name__}: {error})."
    return Problem(printable(where), kind, " ".join(printable(text).split()))


def _scores(run: RunRow, results: list[Result]) -> Iterable[tuple[Any, ...]]:
    """Rows of `Records.scores`."""
    for result in results:
        about = (
            *(run.run, run.train_id, result.eval_id, run.dataset, run.preset, run.fingerprint),
            *(run.model, run.name, run.seed, result.split, result.evaluator, result.version),
            result.extractor,
        )
        for s in result.content["scores"]:
            name, m = s["metric"], result.metrics.get(s["metric"], {})
            interval = result.intervals.get(name) if is_summary(s) else None
            low, high = interval or (None, None)
            yield (
                *about,
                *(name, m.get("role", "method"), m.get("of", "")),
                *(tuple(s["given"]), s["target"], s["value"], s["stderr"], s["n"], s.get("groups")),
                *(low, high, m.get("direction", ""), m.get("digits", 3), m.get("meaning", "")),
                *(bool(m.get("biased")), bool(m.get("headline"))),
            )


def check_names(
    records: Records,
    dataset: str | None = None,
    preset: str | None = None,
    models: Sequence[str] = (),
    *,
    besides: Mapping[str, Iterable[str]] = MappingProxyType({}),
    mistakes: Sequence[str] = (),
) -> None:
    """Refuse names that are neither recorded nor registered.

    Args:
        records: What there is.
        dataset, preset, models: The names that were asked for.
        besides: Other names that are known, by "dataset" and "model".
        mistakes: Messages on other mistakes, which are reported with these.

    Raises:
        ConfigErrors: With the nearest names.
    """
    messages = list(mistakes)
    asked = [("dataset", dataset), ("preset", preset), *(("model", name) for name in models)]
    for kind, name in asked:
        known = {*records.runs[kind], *besides.get(kind, ())}
        if name and name not in known:
            known |= _registered(kind)
            messages += [] if name in known else [unknown(kind, name, known)]
    if messages:
        raise ConfigErrors(messages)


def _registered(kind: str) -> set[str]:
    from shalabench.api.registry import entries  # these import torch
    from shalabench.config.settings import presets

    if kind == "preset":
        return set(presets())
    return set(entries("model" if kind == "model" else "dataset"))


def refuse_unmeasured(records: Records, split: str) -> None:
    """Refuse a split that none of the measured runs has results on.

    Args:
        records: The runs that values are asked of.
        split: What is asked for.

    Raises:
        BenchError: It says which splits they were measured on.
    """
    splits = set().union(*(records.splits[training] for training in records.runs["train_id"]))
    if splits and split not in splits:
        raise BenchError(
            f"Nothing of what was asked for was measured on the {split} split, only on "
            f"{' and '.join(sorted(splits))}. Write --split {min(splits)}, or measure it with "
            f"python bench.py run --split {split}."
        )

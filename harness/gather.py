"""Records as they are found: the good ones, and what is wrong with the others. Free of torch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness.api.errors import BenchError
from harness.api.records import Score
from harness.store import RunFolder, Store

_RUN = {
    "train_id": str,
    "model": str,
    "model_version": int,
    "dataset": str,
    "preset": str,
    "seed": int,
    "overrides": list,
    "data": dict,
    "settings": dict,
}
_RESULT = {
    "evaluator": str,
    "version": int,
    "settings": dict,
    "split": str,
    "classifiers": dict,
    "metrics": list,
    "scores": list,
    "provenance": dict,
}


@dataclass(frozen=True)
class Record:
    """What a run's folder holds, read once.

    Attributes:
        name: Of the folder.
        run: With the settings of the evaluators whose results these are.
        results: One an evaluator and extractor, all on one split.
        state: As `RunFolder.state`, but for a finished training whose evaluation failed.
        reason: Why it failed, if it did.
    """

    name: str
    run: dict[str, Any]
    trained: dict[str, Any]
    results: list[dict[str, Any]]
    state: str
    reason: str

    @classmethod
    def read(cls, folder: RunFolder, split: str) -> Record:
        """What was measured on a split, the last result of each evaluator's newest version."""
        run, failure = folder.run, folder.failed or {}
        found = sorted((r for r in folder.results() if r["split"] == split), key=_age)
        last = {source_of(result): result for result in found}
        used = {
            f"evaluators.{result['evaluator']}.{key}": value
            for result in last.values()
            for key, value in result["settings"].items()
        }
        return cls(
            folder.path.name,
            {**run, "settings": {**run["settings"], **used}},
            folder.trained or {},
            list(last.values()),
            failure.get("status") or folder.state(),
            failure.get("reason", ""),
        )

    def interval(self, metric: str) -> tuple[float, float] | None:
        """Its 95 % interval over test items, or None where the evaluator gives none."""
        found = (r.get("details", {}).get("intervals", {}).get(metric) for r in self.results)
        return next((tuple(ends) for ends in found if ends), None)

    def score(self, metric: str) -> Score | None:
        """The summary of a metric, or None where it was not measured."""
        scores = (Score.from_json(s) for r in self.results for s in r["scores"])
        return next((s for s in scores if s.metric == metric and s.is_summary), None)


def _age(result: dict[str, Any]) -> tuple[int, int]:
    return result["version"], result["provenance"].get("finished", 0)


def source_of(result: dict[str, Any]) -> str:
    """The evaluator, and the extractor where it has several."""
    extractor = result.get("details", {}).get("extractor")
    return f"{result['evaluator']} ({extractor})" if extractor else result["evaluator"]


@dataclass(frozen=True)
class Problem:
    """A record that is left out.

    Attributes:
        where: The run's folder, and the file in it.
        kind: "unreadable", "another schema" or "duplicate".
        told: What is wrong, in a sentence.
        is_loss: Whether anything is not shown for it; a copy with the same results is none.
    """

    where: str
    kind: str
    told: str
    is_loss: bool = True


@dataclass
class Gathered:
    """What lies in some stores.

    Attributes:
        records: Each training once, in the order of the folders.
        folders: Where each record lies, in the same order.
        problems: What was left out and why.
    """

    records: list[Record] = field(default_factory=list)
    folders: list[RunFolder] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def only(self, fits: Callable[[Record], bool]) -> Gathered:
        """Those of the records that fit, and all problems."""
        pairs = zip(self.records, self.folders, strict=True)
        kept = [(record, folder) for record, folder in pairs if fits(record)]
        return Gathered([r for r, _ in kept], [f for _, f in kept], self.problems)


def gather(stores: Sequence[Store], split: str = "test") -> Gathered:
    """Read all that reads; name the rest.

    Args:
        stores: Where records lie.
        split: What was measured on.

    Raises:
        BenchError: There is no run at all.
    """
    found, kept = Gathered(), {}
    for store in stores:
        for folder in store.runs():
            checked = _Checked(folder.path)
            try:
                run = checked.run
                _check(run, _RUN, "run.json")
                record = Record.read(checked, split)
                _check_trained(record.trained)
            except (BenchError, KeyError, TypeError, ValueError, AttributeError) as error:
                found.problems.append(_problem(folder.path.name, error))
                continue
            found.problems += checked.problems()
            if run["train_id"] in kept:
                older = kept[run["train_id"]][0]
                other = older.results != record.results
                what = "OTHER" if other else "the same"
                told = f"{record.name} holds the same training, with {what} results, and is used."
                found.problems.append(Problem(older.name, "duplicate", told, other))
            kept[run["train_id"]] = record, folder
    if not kept and not found.problems:
        where = ", ".join(str(store.root) for store in stores)
        raise BenchError(f"There is no run in {where}. Name a folder of records with --store.")
    found.records = [record for record, _ in kept.values()]
    found.folders = [folder for _, folder in kept.values()]
    return found


class _Checked(RunFolder):
    """A run's folder whose unfit results are passed over."""

    def results(self) -> list[dict[str, Any]]:
        return [content for _, content in self._read() if not isinstance(content, Exception)]

    def problems(self) -> list[Problem]:
        """What is wrong with the results passed over."""
        return [
            _problem(f"{self.path.name}/results/{name}", content)
            for name, content in self._read()
            if isinstance(content, Exception)
        ]

    def _read(self) -> list[tuple[str, dict[str, Any] | Exception]]:
        found: list[tuple[str, dict[str, Any] | Exception]] = []
        for file in sorted((self.path / "results").glob("*.json")):
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
                _check(content, _RESULT, file.name)
                _check_result(content)
                found.append((file.name, content))
            except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
                found.append((file.name, error))
        return found


class _OtherSchema(ValueError):
    """A record reads, but says other things than ours do."""


def _check(content: Any, schema: dict[str, type], name: str) -> None:
    if not isinstance(content, dict):
        raise _OtherSchema(f"{name} holds a {type(content).__name__} where an object is expected.")
    for key, kind in schema.items():
        if not isinstance(content.get(key), kind):
            got = type(content[key]).__name__ if key in content else "nothing"
            raise _OtherSchema(f"{name} has {got} as '{key}' where a {kind.__name__} is expected.")
    if schema is _RUN and not {"fingerprint", "source"} <= set(content["data"]):
        raise _OtherSchema(f"{name} does not say which data were used ('data').")


def _check_result(result: dict[str, Any]) -> None:
    if not isinstance(result["provenance"].get("source"), str):
        raise _OtherSchema("provenance does not hold the evaluator's 'source'.")
    for judge in result["classifiers"].values():
        if not isinstance(judge, dict) or "digest" not in judge:
            raise _OtherSchema("a classifier is recorded without its 'digest'.")
    for metric in result["metrics"]:
        if not {"name", "direction", "digits", "meaning"} <= set(metric):
            raise _OtherSchema("a metric is described without name, direction, digits or meaning.")
    for score in result["scores"]:
        read = Score.from_json(score)
        if not math.isfinite(read.value):
            raise ValueError(f"the score '{read.metric}' is {read.value}.")


def _check_trained(trained: dict[str, Any]) -> None:
    if trained and not {"source", "nets"} <= set(trained["provenance"]):
        raise _OtherSchema("trained.json does not hold the 'source' and 'nets' of its code.")


def _problem(where: str, error: Exception) -> Problem:
    known = isinstance(error, _OtherSchema | KeyError | TypeError | AttributeError)
    told = f"'{error.args[0]}' is missing." if isinstance(error, KeyError) else str(error)
    return Problem(where, "another schema" if known else "unreadable", " ".join(told.split()))

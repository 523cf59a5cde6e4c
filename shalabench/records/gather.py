"""Records as they are found: the good ones, and what is wrong with the others. Free of torch."""

from __future__ import annotations

import contextlib
import json
import re
import reprlib
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from types import MappingProxyType
from typing import Any

from shalabench.api.errors import BenchError, ConfigErrors, unknown
from shalabench.api.records import Score
from shalabench.api.registry import entries
from shalabench.config.settings import presets
from shalabench.records.store import RunFolder, Store


@dataclass(frozen=True)
class _Kind:
    """What a value must be, where its type does not tell.

    Attributes:
        told: In words.
        fits: Whether a value is so.
    """

    told: str
    fits: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) <= sys.float_info.max


def _is_list(value: Any, of: Callable[[Any], bool], length: int) -> bool:
    return isinstance(value, list) and len(value) == length and all(map(of, value))


def _or_null(kind: _Kind) -> _Kind:
    return _Kind(f"{kind.told}, or null", lambda x: x is None or kind.fits(x))


_TEXT = _Kind("a str", lambda x: isinstance(x, str))
_NUMBER = _Kind("a finite number", _is_number)
_SIZE = _Kind("a number from 0 on", lambda x: _is_number(x) and x >= 0)
_WHOLE = _Kind("a whole number from 0 on", lambda x: type(x) is int and x >= 0)
_GROUPS = _Kind("a whole number from 2 on", lambda x: type(x) is int and x >= 2)
_DIGITS = _Kind("a whole number from 0 to 17", lambda x: type(x) is int and 0 <= x <= 17)
_DIRECTION = _Kind("'higher' or 'lower'", lambda x: x in ("higher", "lower"))
_ENDS = _Kind("a pair of numbers", lambda x: _is_list(x, _is_number, 2))
_ORIGIN = _Kind("a layer and its source", lambda x: _is_list(x, _TEXT.fits, 2))
_PIXELS = _Kind("a size such as '64 px'", lambda x: bool(re.match(r"\d+ px", str(x))))

# A key with a question mark may be missing; a star stands for every key; a list, for its items.
_RUN = {
    "train_id": str,
    "model": str,
    "model_version": int,
    "paper": str,
    "dataset": str,
    "preset": str,
    "seed": _WHOLE,
    "overrides": [str],
    "data": {
        "fingerprint": str,
        "source": str,
        "complete?": str,
        "twin?": str,
        "departs?": str,
        "sizes?": {"*": _WHOLE},
        "modalities?": [str],
    },
    "settings": dict,
    "origins?": {"*": _ORIGIN},
}
_TRAINED = {
    "parameters?": _or_null(_SIZE),
    "provenance": {
        "source": str,
        "nets": str,
        "commit?": _or_null(_TEXT),
        "packages?": dict,
        "seconds?": _or_null(_SIZE),
        "cpu_seconds?": _or_null(_SIZE),
        "peak_memory?": _or_null(_SIZE),
    },
}
_FAILED = {"status": str, "reason?": str}
_RESULT = {
    "eval_id": str,
    "evaluator": str,
    "version": int,
    "settings": dict,
    "split": str,
    "classifiers": {"*": {"digest": str}},
    "instruments?": dict,
    "metrics": [{"name": str, "direction": _DIRECTION, "digits": _DIGITS, "meaning": str}],
    "scores": [
        {
            "metric": str,
            "value": _NUMBER,
            "n": _WHOLE,
            "stderr": _or_null(_SIZE),
            "given": [str],
            "target": _or_null(_TEXT),
            "groups?": _GROUPS,
        }
    ],
    "details?": {
        "extractor?": str,
        "notes?": [str],
        "row?": {"*": str, "resolution?": _PIXELS},
        "intervals?": {"*": _ENDS},
        "by_angle?": [{"degrees": _NUMBER, "psnr": _NUMBER}],
        "parts?": {"*": {"*": {"value": _or_null(_NUMBER), "chance": _or_null(_NUMBER)}}},
    },
    "pictures?": [str],
    "texts?": [str],
    "provenance": {"source": str, "seconds?": _or_null(_SIZE), "finished?": _SIZE},
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


def refuse_unmeasured(
    stores: Sequence[Store],
    split: str,
    dataset: str | None = None,
    preset: str | None = None,
    models: Sequence[str] = (),
) -> None:
    """Complain where runs were measured, but none of them on a split.

    Args:
        stores: Where records lie.
        split: What figures are asked of.
        dataset, preset, models: Only of these runs.

    Raises:
        BenchError: It says which splits they were measured on.
    """
    others: set[str] = set()
    for folder in (_Checked(folder.path) for store in stores for folder in store.runs()):
        with contextlib.suppress(BenchError, _OtherSchema):
            run = folder.run
            fits = dataset in (None, run["dataset"]) and preset in (None, run["preset"])
            if fits and (not models or run["model"] in models):
                others |= {result["split"] for result in folder.results()}
        if split in others:
            return
    if others:
        raise BenchError(
            f"Nothing of what was asked for was measured on the {split} split, only on "
            f"{' and '.join(sorted(others))}. Write --split {min(others)}, or measure it with "
            f"python bench.py run --split {split}."
        )


def check_names(
    records: Sequence[Record],
    dataset: str | None = None,
    preset: str | None = None,
    models: Sequence[str] = (),
    *,
    besides: Mapping[str, Iterable[str]] = MappingProxyType({}),
    mistakes: Sequence[str] = (),
) -> None:
    """Complain of every name that is neither recorded nor registered.

    Args:
        records: What there is.
        dataset, preset, models: The names that were asked for.
        besides: Other names that are known, by "dataset" and "model".
        mistakes: Others that were made, told in one with these.

    Raises:
        ConfigErrors: With the nearest names.
    """
    found = []
    asked = [("dataset", dataset), ("preset", preset), *(("model", name) for name in models)]
    for kind, name in asked:
        known = {record.run[kind] for record in records} | set(besides.get(kind, ()))
        if name and name not in known:
            known |= set(presets() if kind == "preset" else entries(kind))  # which imports torch
            found += [] if name in known else [unknown(kind, name, known)]
    if found or mistakes:
        raise ConfigErrors([*found, *mistakes])


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
                record = Record.read(checked, split)
            except (BenchError, KeyError, TypeError, ValueError, AttributeError) as error:
                found.problems.append(_problem(folder.path.name, error))
                continue
            found.problems += checked.problems()
            training = record.run["train_id"]
            if training in kept:
                older = kept[training][0]
                other = older.results != record.results
                what = "OTHER" if other else "the same"
                told = f"{record.name} holds the same training, with {what} results, and is used."
                found.problems.append(Problem(older.name, "duplicate", told, other))
            kept[training] = record, folder
    if not kept and not found.problems:
        where = ", ".join(str(store.root) for store in stores)
        raise BenchError(f"There is no run in {where}. Name a folder of records with --store.")
    found.records = [record for record, _ in kept.values()]
    found.folders = [folder for _, folder in kept.values()]
    return found


class _Checked(RunFolder):
    """A run's folder whose records are as ours are; unfit results are passed over."""

    @property
    def run(self) -> dict[str, Any]:
        return _fit(super().run, _RUN, "run.json")

    @property
    def trained(self) -> dict[str, Any] | None:
        found = super().trained
        return found if found is None else _fit(found, _TRAINED, "trained.json")

    @property
    def failed(self) -> dict[str, Any] | None:
        found = super().failed
        return found if found is None else _fit(found, _FAILED, "failed.json")

    def results(self) -> list[dict[str, Any]]:
        return [content for _, content in self._contents if not isinstance(content, Exception)]

    def problems(self) -> list[Problem]:
        """What is wrong with the results passed over."""
        return [
            _problem(f"{self.path.name}/results/{name}", content)
            for name, content in self._contents
            if isinstance(content, Exception)
        ]

    @cached_property
    def _contents(self) -> list[tuple[str, dict[str, Any] | Exception]]:
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


class _Nothing:
    """In place of what is missing."""

    def __repr__(self) -> str:
        return "nothing"


def _fit(content: Any, schema: dict[str, Any], name: str) -> dict[str, Any]:
    """A file's content, which is as a schema says."""
    _check(content, schema, name)
    return content


def _check(content: Any, schema: Any, name: str, *keys: str) -> None:
    """Complain of the first value of a file that is not as a schema says."""
    if isinstance(schema, dict):
        _check(content, dict, name, *keys)
        for key, own in schema.items():
            for each in _keys(key, content):
                _check(content.get(each, _Nothing()), own, name, *keys, each)
    elif isinstance(schema, list):
        _check(content, list, name, *keys)
        for place, item in enumerate(content):
            _check(item, schema[0], name, *keys, str(place))
    elif not (schema.fits(content) if isinstance(schema, _Kind) else isinstance(content, schema)):
        told = schema.told if isinstance(schema, _Kind) else f"a {schema.__name__}"
        where = f" as '{'.'.join(keys)}'" if keys else ""
        raise _OtherSchema(f"{name} has {reprlib.repr(content)}{where} where {told} is expected.")


def _keys(key: str, content: dict[str, Any]) -> Iterable[str]:
    """The keys of some content that a schema's key stands for."""
    if key == "*":
        return content
    known = key.removesuffix("?")
    return (known,) if known == key or known in content else ()


def _check_result(result: dict[str, Any]) -> None:
    known, described = {f.name for f in fields(Score)}, {m["name"] for m in result["metrics"]}
    for score in result["scores"]:
        if newer := score.keys() - known:
            raise _OtherSchema(
                f"a score has '{min(newer)}', which this code does not know: the record was made "
                "by newer code. Update this code to read it."
            )
        if Score.from_json(score).is_summary and score["metric"] not in described:
            raise _OtherSchema(f"the metric '{score['metric']}' is scored and not described.")


def _problem(where: str, error: Exception) -> Problem:
    known = isinstance(error, _OtherSchema | KeyError | TypeError | AttributeError)
    told = f"'{error.args[0]}' is missing." if isinstance(error, KeyError) else str(error)
    return Problem(where, "another schema" if known else "unreadable", " ".join(told.split()))

"""What studies of trainings and of dials share: their data, their scores, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shalabench.api import BenchError, DataSpec
from shalabench.config.plan import Run
from shalabench.execute.incomplete import hide_views
from shalabench.execute.inputs import open_dataset
from shalabench.execute.made_by import CODE
from shalabench.execute.options import Options
from shalabench.execute.progress import Reporter
from shalabench.records.store import RunFolder
from shalabench.records.study import DialStudy, MethodDials, MethodStudy, Study


def spec_of(run: Run, options: Options) -> DataSpec:
    """What a run is trained on.

    Raises:
        BenchError: The data have no classes.
    """
    data = run.resolved.data
    spec = hide_views(open_dataset(run.dataset, data, options.paths), data.missing).spec
    if not spec.classes:
        raise BenchError(
            f"The dataset '{run.dataset}' has no classes, so it has no coherence to tune on. "
            "Choose a dataset with classes, such as polydigits."
        )
    return spec


def keep_able(
    runs: Sequence[Run], why_not: Callable[[Run], str | None], reporter: Reporter, work: str
) -> dict[str, Run]:
    """The runs that a study can take, by method; the others are reported with their reasons.

    Args:
        runs: One a method.
        why_not: Gives a reason in a sentence, or None.
        reporter: Shows them.
        work: What the study does, as in "to tune".

    Raises:
        BenchError: No run is left.
    """
    reasons = {run.model: why_not(run) for run in runs}
    for model, reason in reasons.items():
        if reason:
            reporter.say(f"{model} is left out: {reason}")
    if all(reasons.values()):
        first, reason = next(iter(reasons.items()))
        raise BenchError(f"No method is left {work}. {first}: {reason}")
    return {run.model: run for run in runs if not reasons[run.model]}


def read_scores(
    run: Run, folder: RunFolder, evaluator: str, metric: str = ""
) -> tuple[dict[str, dict[str, Any]], float]:
    """The newest scores of a run on the validation split, by metric, and the seconds they took.

    Args:
        run: Its settings are those of the evaluation.
        folder: Of the run.
        evaluator: Its name.
        metric: Beginning of a metric that is among them.

    Raises:
        BenchError: There is no such result, as where the split has too few tuples for it.
    """
    settings = run.resolved.evaluators[evaluator].model_dump(mode="json")
    results = [
        result
        for result in folder.results()
        if (result["evaluator"], result["split"]) == (evaluator, "validation")
        and result["settings"] == settings
        and any(score["metric"].startswith(metric) for score in result["scores"])
    ]
    if not results:
        raise BenchError(
            f"The run {folder.path.name} has no result of '{evaluator}' on the validation split to "
            "choose by. Its last line above says why."
        )
    result = max(results, key=lambda r: r["provenance"]["finished"])
    whole = [s for s in result["scores"] if not s["given"] and s["target"] is None]
    return {s["metric"]: s for s in whole}, result["provenance"]["seconds"]


def refuse_other(
    file: Path,
    old: Study | DialStudy,
    new: Study | DialStudy,
    methods: Mapping[str, MethodStudy | MethodDials],
) -> None:
    """Refuse to go on with a study of something else.

    Args:
        file: Of the old study.
        old, new: The study that is there, and the one that is asked for.
        methods: New entries, by method.

    Raises:
        BenchError: It names all that differs.
    """
    facts = sorted(type(new).model_fields.keys() - {"methods"})
    differing = [
        f"{name} {getattr(old, name)!r}, not {getattr(new, name)!r}"
        for name in facts
        if getattr(old, name) != getattr(new, name)
    ]
    for model, entry in methods.items():
        there = old.methods.get(model, entry)
        differing += [
            f"{name} of {model} {getattr(there, name)!r}, not {getattr(entry, name)!r}"
            for name in ("version", "overrides", "space")
            if getattr(there, name) != getattr(entry, name)
        ]
        if isinstance(there, MethodStudy) and isinstance(entry, MethodStudy):
            differing += _other_training(model, there, entry)
    if differing:
        raise BenchError(
            f"{file} is a study with another {'; another '.join(differing)}. To begin a new one, "
            "move that file away, or name another folder with --studies. Trainings in --store are "
            "used again where they are the same."
        )


def _other_training(model: str, old: MethodStudy, new: MethodStudy) -> list[str]:
    """What decides a method's trainings and differs, in words; nothing that a study lacks."""
    now = json.loads(json.dumps(new.settings))
    keys = sorted(old.settings.keys() | now.keys()) if old.settings else []
    code = [CODE[key] for key in old.code if old.code[key] != new.code.get(key)]
    return [
        *(f"code of {model} ({part})" for part in code),
        *(
            f"{key} of {model} {old.settings.get(key)!r}, not {now.get(key)!r}"
            for key in keys
            if old.settings.get(key) != now.get(key)
        ),
    ]

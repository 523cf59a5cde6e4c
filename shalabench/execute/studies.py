"""What studies of trainings and of dials share: data, runs, scores, files, and what they refuse."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from shalabench.api import BenchError, DataSpec
from shalabench.api.records import is_summary
from shalabench.config import tuned
from shalabench.config.plan import Run
from shalabench.execute.campaign import STOPPED_EXIT, Outcome, run_campaign
from shalabench.execute.incomplete import hide_views
from shalabench.execute.inputs import open_dataset
from shalabench.execute.made_by import CODE
from shalabench.execute.options import Options
from shalabench.execute.progress import Reporter
from shalabench.records.store import RunFolder, write_whole
from shalabench.records.study import DialStudy, Kind, MethodDials, MethodStudy, Study, read_study

Trials = TypeVar("Trials")


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


@contextmanager
def hold(study: Study | DialStudy, options: Options) -> Iterator[None]:
    """Hold a study, so that no other process works on it.

    Raises:
        BenchError: Another process does.
    """
    folder = RunFolder(options.store / f"study-{study.name}")
    with folder.lock(wait=False, locks=options.locks) as held:
        if not held:
            raise BenchError(f"Another process tunes {study.name} in {options.store}.")
        yield


def carry_out(
    jobs: Mapping[str, tuple[Run, Trials]],
    options: Options,
    reporter: Reporter,
    stop: threading.Event,
    record: Callable[[Run, Trials, Outcome], None],
) -> int:
    """Carry out the runs of some trials.

    Args:
        jobs: Each run with its trials, by the label of the run.
        options: As of a campaign.
        reporter: Shows what happens.
        stop: Once set, the runs end with a checkpoint.
        record: Called at the end of each run.

    Returns:
        `STOPPED_EXIT` if a run has not come to its end; else the exit code of the campaign.
    """

    def ended(key: str, outcome: Outcome) -> None:
        record(*jobs[key], outcome)

    summary = run_campaign([run for run, _ in jobs.values()], options, reporter, stop, ended)
    statuses = {outcome.status for outcome in summary.outcomes.values()}
    return STOPPED_EXIT if statuses & {"stopped", "busy"} else summary.exit_code


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
    whole = {score["metric"]: score for score in filter(is_summary, result["scores"])}
    return whole, result["provenance"]["seconds"]


def open_study(folder: Path, new: Kind, methods: Mapping[str, Any]) -> Kind:
    """The study in its file, or a new one, with an entry for every method.

    Args:
        folder: Of studies.
        new: What is asked for, without methods.
        methods: New entries, by method. Those that the study has stay.

    Raises:
        BenchError: The study that is there is of something else.
    """
    study, file = new, folder / f"{new.name}.json"
    if file.exists():
        study = read_study(file, type(new))
        _refuse_other(file, study, new, methods)
    study.methods |= {m: entry for m, entry in methods.items() if m not in study.methods}
    return study


def write_chosen(
    study: Study | DialStudy,
    folder: Path,
    chosen: Mapping[str, tuple[Mapping[str, Any], str]],
    section: str = "models",
) -> None:
    """Write what a study chose as a layer of settings; nothing where nothing is chosen.

    Args:
        study: Whose name the file has.
        folder: Of studies.
        chosen: By method, the values by dotted key, and what was spent, in words.
        section: As of `tuned.render`.
    """
    layer = {}
    for model, (values, effort) in chosen.items():
        overrides = study.methods[model].overrides
        given = f", with {' '.join(overrides)}" if overrides else ""
        layer[model] = values, f"study {study.name}: {effort}{given}"
    if layer:
        content = tuned.render(layer, section).encode()
        write_whole(folder / f"{study.name}.toml", content, "--studies")


def _refuse_other(
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
    # More seeds repeat what was chosen.
    facts = sorted(type(new).model_fields.keys() - {"methods", "seeds"})
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

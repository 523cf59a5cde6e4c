"""One run, from its settings to its records."""

from __future__ import annotations

import contextlib
import functools
import io
import threading
import traceback
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from shalabench.api import (
    Classifier,
    Diverged,
    Model,
    choose_precision,
    derive_seed,
    tensor_cores,
)
from shalabench.api.errors import BenchError, out_of_memory
from shalabench.api.registry import find
from shalabench.config.plan import Run
from shalabench.execute.backends import Emit, Event, is_over
from shalabench.execute.continuation import find_start
from shalabench.execute.description import check_description, describe_run, hint_of
from shalabench.execute.evaluation import Evaluation, evaluate, plan_evaluations
from shalabench.execute.fitness import why_not
from shalabench.execute.graphs import GraphError
from shalabench.execute.incomplete import hide_views
from shalabench.execute.inputs import (
    check_gpu_settings,
    choose_device,
    compile_networks,
    keep_freed_memory,
    load_classifiers,
    open_dataset,
    order_channels_last,
)
from shalabench.execute.measuring import (
    is_recorded,
    known_failures,
    measure_each,
    reasons_of,
)
from shalabench.execute.options import Options, Outcome, Status
from shalabench.execute.provenance import (
    describe_code,
    describe_history,
    describe_machine,
    describe_priors,
    peak_memory,
)
from shalabench.execute.sampling import set_temperatures
from shalabench.execute.tensors import read_weights
from shalabench.execute.trainer import Clock, Progress, Stopped, Watch, train
from shalabench.priors.fitted import identity_of, with_prior
from shalabench.records.digests import Damaged, digest_of
from shalabench.records.ids import train_id
from shalabench.records.store import Store, StoreError, write_whole


def perform(run: Run, options: Options, emit: Emit, stop: threading.Event) -> Outcome:
    """Train and evaluate one run, and record how it ended, whatever happens.

    Args:
        run: What to do.
        options: How and where.
        emit: Called with each event, for the display of progress.
        stop: Once set, the run ends with a checkpoint.
    """
    try:
        return _Runner(run, options, emit, stop).perform()
    except BenchError as error:
        return Outcome("failed", str(error))
    except Exception as error:  # before the run is recorded
        if not out_of_memory(error):
            raise
        text = "Out of memory before the training. Make the data or the model smaller with --set."
        return Outcome("failed", text)


class _Runner:
    def __init__(self, run: Run, options: Options, emit: Emit, stop: threading.Event):
        self.run, self.options = run, options
        self._should_stop = functools.partial(is_over, stop, options.deadline)
        self.entry = find("model", run.model)
        self.device = choose_device(options.device)
        check_gpu_settings(run.resolved.train, self.device)
        keep_freed_memory()
        if options.threads:
            torch.set_num_threads(options.threads)
        elif options.jobs > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // options.jobs))
        data = run.resolved.data
        self.complete = open_dataset(run.dataset, data, options.paths)  # what is evaluated on
        self.dataset = hide_views(self.complete, data.missing)  # what is trained on
        self.spec = self.dataset.spec
        precision = choose_precision(run.resolved.train.precision, self.device)
        loop = run.resolved.train.model_copy(update={"precision": precision})
        self.resolved = replace(run.resolved, train=loop)  # what is recorded is what was done
        self.method = with_prior(self.entry.cls, self.resolved.prior)
        self.identity = train_id(
            run.model,
            self.entry.version,
            self.resolved.model.model_dump(mode="json"),
            run.dataset,
            self.spec.fingerprint,
            loop.model_dump(mode="json"),
            run.seed,
            identity_of(self.entry.cls, self.resolved.prior),
            self.resolved.sampling.model_dump(mode="json"),
        )
        self.store = Store(options.store)
        self.folder = self.store.folder(run.model, run.dataset, run.preset, run.seed, self.identity)
        self.emit = functools.partial(_emit, emit, self.folder.path)

    def perform(self) -> Outcome:
        where = self.folder.path
        if self.folder.has_description():
            check_description(self.folder, self.identity, self.resolved.values())
        if reason := why_not(self.method, self.spec, self.resolved.model):
            self._describe_run()
            self.folder.write_json("failed.json", {"status": "skipped", "reason": reason})
            return Outcome("skipped", f"Skipped: {reason}", where)
        options = self.options
        networks = load_classifiers(self.complete, options.evaluators, options.archive, self.device)
        planned, skipped, failed = plan_evaluations(
            options.evaluators,
            self.resolved,
            self.method,
            self.spec,
            self.identity,
            networks,
            options.split,
        )
        todo = [e for e in planned if not is_recorded(e, self.folder)]
        failed |= {} if options.retry else known_failures(todo, self.folder)
        todo = [e for e in todo if e.evaluator.name not in failed]
        trained = self.folder.trained
        if trained and not todo:
            text = f"Nothing to do: recorded in {where}.{reasons_of(failed)}"
            return Outcome("failed" if failed else "already", text, where, skipped)
        if trained and not self.folder.weights.exists():
            text = (
                f"{where} is recorded without weights, so it cannot be evaluated again. Train it "
                f"in a store that does not have it, such as --store {self.store.root}-again."
            )
            return Outcome("failed", text, where)
        failure = None if trained else self.folder.failed  # of the training
        if failure and not options.retry:
            text = f"Not tried again after: {failure['reason']} Add --retry to do so."
            return Outcome(failure["status"], text, where)
        with self.folder.lock(wait=options.wait, locks=options.locks) as held:
            if not held:
                return Outcome("busy", f"Another process works on {where}.", where)
            return self._recorded(todo, skipped, failed, networks)

    def _recorded(
        self,
        todo: list[Evaluation],
        skipped: dict[str, str],
        failed: dict[str, str],
        networks: dict[str, Classifier],
    ) -> Outcome:
        """Train and evaluate, and record what goes wrong."""
        where = self.folder.path
        try:
            self._describe_run()
            with warnings.catch_warnings():
                warnings.showwarning = self._warn
                model = self._trained()
                set_temperatures(model, self.resolved.sampling)
                failed = failed | measure_each(
                    todo, self.folder, lambda e: self._evaluate(e, model, networks)
                )
        except Stopped:
            self.folder.log("stopped")
            return Outcome("stopped", f"Stopped; run again to go on. Kept in {where}.", where)
        except Diverged as error:
            facts = {"stage": error.stage, "step": error.step, "term": error.term}
            return self._failure("diverged", str(error), **facts)
        except (StoreError, GraphError, Damaged) as error:
            return Outcome("failed", str(error), where)
        except BenchError as error:  # a mistake that its message explains
            return self._failure("failed", str(error), traceback=traceback.format_exc())
        except Exception as error:  # recorded with its traceback
            if isinstance(error, torch.OutOfMemoryError) or out_of_memory(error):
                return self._failure("failed", hint_of(self.resolved, self.device))
            text = f"{type(error).__name__}: {error}. The traceback is in {where / 'failed.json'}."
            return self._failure("failed", text, traceback=traceback.format_exc())
        self.folder.clear_failure()
        text = f"Done; recorded in {where}.{reasons_of(failed)}"
        return Outcome("failed" if failed else "done", text, where, skipped)

    def _describe_run(self) -> None:
        if self.folder.has_description():
            return
        self.folder.write_json(
            "run.json",
            describe_run(
                self.run, self.entry, self.resolved, self.spec, self.complete.spec, self.identity
            ),
        )

    def _trained(self) -> Model:
        """The trained model, from its record where there is one."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.run.seed, "init"))
            model = self.method(self.spec, self.resolved.model)
        if self.resolved.train.channels_last:
            order_channels_last(model)
        model.to(self.device)
        if self.folder.trained and self.folder.weights.exists():
            digest = self.folder.trained.get("digest")
            model.load_state_dict(read_weights(self.folder.weights, digest, self.device))
            return model.eval()
        code = describe_code(self.entry)  # before the hours in which a file may be edited
        if self.resolved.prior.kind != "own":
            code |= describe_priors()
        made_by = {**code, **describe_machine(self.device)}
        self.folder.log("started", device=str(self.device), threads=torch.get_num_threads())
        data = self.dataset.split("train").to(self.device)
        if self.resolved.train.compile:
            compile_networks(model)
        loop, own = self.resolved.train, self.resolved.model
        start = functools.partial(find_start, self.store, self.folder, made_by, own)
        watch = Watch(self._should_stop, self._report, self.options.checkpoint_every, made_by)
        with tensor_cores(loop.tf32):
            last, clock = train(
                model,
                data,
                self.folder,
                self.run.seed,
                loop,
                watch,
                start,
                self.dataset.split("validation"),
            )
        self._record_training(model, last, clock, code)
        return model

    def _record_training(
        self, model: Model, last: dict[str, Any], clock: Clock, code: dict[str, Any]
    ) -> None:
        seconds, cpu_seconds = clock.read()
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        write_whole(self.folder.weights, file.getvalue())
        provenance = {
            **code,
            **describe_machine(self.device),
            "precision": self.resolved.train.precision,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(cpu_seconds, 1),
            "peak_memory": peak_memory(self.device),
            **describe_history(self.folder.events()),
        }
        self.folder.write_json(
            "trained.json",
            {
                "digest": digest_of(file.getvalue()),
                "parameters": sum(p.numel() for p in model.parameters()),
                "last": last,
                "provenance": provenance,
            },
        )
        self.folder.log("trained", seconds=round(seconds, 1))
        self.folder.drop_checkpoints()

    def _evaluate(
        self, evaluation: Evaluation, model: Model, networks: dict[str, Classifier]
    ) -> None:
        name = evaluation.evaluator.name

        def report(done: int, total: int) -> None:
            if self._should_stop():
                raise Stopped
            self.emit({"kind": "evaluating", "evaluator": name, "done": done, "total": total})

        if self._should_stop():
            raise Stopped
        evaluate(
            evaluation,
            model,
            self.spec,
            self.complete.split(evaluation.split).to(self.device),
            seed=self.run.seed,
            classifiers=networks,
            folder=self.folder,
            training=self.identity,
            report=report,
            splits=self.complete.split,
            cache=self.options.paths.cache,
            precision=choose_precision(self.resolved.evaluate.precision, self.device),
        )

    def _report(self, progress: Progress) -> None:
        self.emit({"kind": "progress", **vars(progress)})

    def _warn(self, message: Warning | str, *_: object, **__: object) -> None:
        self.emit({"kind": "warning", "text": str(message)})

    def _failure(self, status: Status, reason: str, **facts: Any) -> Outcome:
        with contextlib.suppress(StoreError):
            self.folder.write_json("failed.json", {"status": status, "reason": reason, **facts})
            self.folder.log("failed", status=status, reason=reason)
        return Outcome(status, reason, self.folder.path)


def _emit(emit: Emit, folder: Path, event: Event) -> None:
    emit({**event, "folder": folder})

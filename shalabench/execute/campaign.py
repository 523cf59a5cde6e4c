"""The driver: takes planned runs to recorded results, and outlives whatever goes wrong in one."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import io
import re
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import classifiers
from shalabench.api import (
    Classifier,
    DataPaths,
    Dataset,
    Diverged,
    Model,
    choose_precision,
    derive_seed,
)
from shalabench.api.errors import BenchError
from shalabench.api.registry import entries, find
from shalabench.config.plan import Run
from shalabench.execute.backends import Cancelled, Emit, Engine, InProcess, Processes, Ray
from shalabench.execute.evaluation import Evaluation, evaluate, plan_evaluations
from shalabench.execute.incomplete import hide_views, incomplete_spec, lacks_views
from shalabench.execute.mixture import with_mixture
from shalabench.execute.progress import Reporter
from shalabench.execute.provenance import describe_code, describe_machine, peak_memory
from shalabench.execute.reuse import find_loan
from shalabench.execute.trainer import Clock, Progress, Stopped, Watch, train
from shalabench.records.ids import train_id
from shalabench.records.store import Store, StoreError, write_whole

Status = Literal["done", "already", "skipped", "diverged", "failed", "stopped", "busy"]
STOPPED_EXIT = 3
_stop = threading.Event()


@dataclass(frozen=True)
class Options:
    """How and where to carry runs out; none of it changes a number.

    Attributes:
        evaluators: Names; every one that applies where empty.
        split: "test", or "validation" for a choice.
        archive: Classifiers to use in place of the shipped ones.
        device: "auto", "cpu" or "cuda[:n]".
        jobs: Processes at a time; 1 works in this process.
        engine: "local" or "ray".
        address: Of the Ray cluster.
        gpus: GPUs a Ray task.
        deadline: Time (seconds of the clock) at which to stop; None for never.
        checkpoint_every: Seconds between checkpoints.
        threads: Torch threads a run; None leaves torch's choice, shared out between jobs.
        retry: Whether to take up runs that failed or diverged before.
        wait: Whether to wait for runs that another process holds.
    """

    store: Path
    paths: DataPaths
    evaluators: tuple[str, ...] = ()
    split: Literal["test", "validation"] = "test"
    archive: Path | None = None
    device: str = "auto"
    jobs: int = 1
    engine: Literal["local", "ray"] = "local"
    address: str = "auto"
    gpus: float = 1.0
    deadline: float | None = None
    checkpoint_every: float = 60.0
    threads: int | None = None
    retry: bool = False
    wait: bool = False


@dataclass(frozen=True)
class Outcome:
    """How one run ended.

    Attributes:
        status: In a word.
        text: In a sentence.
        folder: Where it is recorded, if anywhere.
    """

    status: Status
    text: str
    folder: Path | None = None


@dataclass
class Summary:
    """How a campaign ended."""

    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0: all is recorded; 1: some run failed; 3: stopped before the end."""
        found = {outcome.status for outcome in self.outcomes.values()}
        if found & {"failed", "diverged"}:
            return 1
        return STOPPED_EXIT if found & {"stopped", "busy"} else 0


def drive(runs: Sequence[Run], options: Options, reporter: Reporter) -> Summary:
    """Carry out runs; what is done is not done again, and one failure stops no other.

    Runs that another process holds are put last and then waited for.

    Raises:
        BenchError: The device, the data or the classifiers are not there; nothing was begun.
    """
    _stop.clear()
    if options.engine == "local":  # a cluster's nodes have their own
        _check_surroundings(runs, options)
    summary = Summary()
    with _stopping():
        held = _drive_once(list(runs), options, reporter, summary)
        if held and not _stop.is_set():
            reporter.say(f"Waiting for {len(held)} runs that another process holds.")
            _drive_once(held, replace(options, wait=True), reporter, summary)
    return summary


def _drive_once(
    runs: list[Run], options: Options, reporter: Reporter, summary: Summary
) -> list[Run]:
    engine = _engine(options)
    keys = {label(run): run for run in runs}
    for key, run in keys.items():
        engine.submit(key, functools.partial(perform, run, options))
    for key, event in engine.events():
        reporter.show(key, event)
    for key in keys:
        try:
            summary.outcomes[key] = engine.result(key)
        except Cancelled:
            summary.outcomes[key] = Outcome("stopped", "Not begun; run again to go on.")
        except Exception as error:  # of a method's own code, before its training
            kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
            summary.outcomes[key] = Outcome("failed", f"{kind}{error}")
        reporter.say(f"{key}: {summary.outcomes[key].text}")
    return [run for key, run in keys.items() if summary.outcomes[key].status == "busy"]


def _check_surroundings(runs: Sequence[Run], options: Options) -> None:
    """Find what would fail every run alike, once and before any training."""
    device = choose_device(options.device)
    for name, settings in dict.fromkeys((r.dataset, r.resolved.data) for r in runs):
        dataset = open_dataset(name, settings.model_dump_json(), options.paths)
        load_classifiers(dataset, options, device)


def load_classifiers(
    dataset: Dataset, options: Options, device: torch.device
) -> dict[str, Classifier]:
    """The classifiers of a dataset, where an evaluator that is asked for uses them.

    Where none are shipped and no evaluator was named, there are none: what needs them is skipped.
    """
    names = options.evaluators or tuple(entries("evaluator"))
    if not any(find("evaluator", name).cls.uses_classifiers for name in names):
        return {}
    try:
        return classifiers.load(dataset.spec, device, options.archive)
    except classifiers.NotShipped:
        if options.evaluators:
            raise
        return {}


def label(run: Run) -> str:
    """A run in a few words, unique within a campaign."""
    changed = f" ({', '.join(run.overrides)})" if run.overrides else ""
    return f"{run.model}{changed} {run.dataset} {run.preset} seed {run.seed}"


def _engine(options: Options) -> Engine:
    if options.engine == "ray":
        return Ray(options.address, options.gpus, _stop)
    return Processes(options.jobs, _stop) if options.jobs > 1 else InProcess(_stop)


@contextlib.contextmanager
def _stopping():
    """Let an interrupt or a termination end the work after a checkpoint."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda *_: _stop.set())
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def perform(run: Run, options: Options, emit: Emit) -> Outcome:
    """Train and evaluate one run, and record how it ended, whatever that is."""
    with _stopping():
        try:
            return _Work(run, options, emit).do()
        except BenchError as error:
            return Outcome("failed", str(error))


def order_channels_last(model: nn.Module) -> None:
    """Lay out weights of two-dimensional convolutions channels last; volumes' stay as they are.

    `Module.to(memory_format=...)` refuses models that also have three-dimensional convolutions.
    """
    for weight in model.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one.

    Raises:
        BenchError: It is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise BenchError(f"--device is '{name}'; auto, cpu or cuda[:n] was expected.")
    device = torch.device(name)
    seen = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= seen:
        raise BenchError(f"--device is '{name}' and torch sees {seen} GPUs. Use cpu or auto.")
    return device


@functools.lru_cache(maxsize=2)
def open_dataset(name: str, settings: str, paths: DataPaths) -> Dataset:
    """A prepared dataset, kept in memory between runs of one process."""
    cls = find("dataset", name).cls
    # Views are hidden afterwards: the tuples are the same, and so are the files that keep them.
    dataset = cls(cls.Config.model_validate_json(settings).model_copy(update={"missing": 0.0}))
    dataset.prepare(paths)
    return dataset


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks; handing them back costs a page fault each 4 kB.

    Measured on a CPU: a fifth to a third of an update. Without glibc it does nothing.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)


class _Work:
    """One run's way from its settings to its records."""

    def __init__(self, run: Run, options: Options, emit: Emit):
        self.run, self.options, self.emit = run, options, emit
        self.entry = find("model", run.model)
        self.device = choose_device(options.device)
        precision = choose_precision(run.resolved.train.precision, self.device)
        loop = run.resolved.train.model_copy(update={"precision": precision})
        self.resolved = replace(run.resolved, train=loop)  # what is recorded is what was done
        keep_freed_memory()
        if options.threads:
            torch.set_num_threads(options.threads)
        elif options.jobs > 1:
            torch.set_num_threads(max(1, torch.get_num_threads() // options.jobs))
        settings = self.resolved.data.model_dump_json()
        self.dataset = open_dataset(run.dataset, settings, options.paths)
        self.spec = incomplete_spec(self.dataset.spec, self.resolved.data.missing)
        mixed = self.resolved.prior.kind == "gmm"
        self.cls = with_mixture(self.entry.cls, self.resolved.prior) if mixed else self.entry.cls
        self.identity = train_id(
            run.model,
            self.entry.version,
            self.resolved.model.model_dump(mode="json"),
            run.dataset,
            self.spec.fingerprint,
            self.resolved.train.model_dump(mode="json"),
            run.seed,
            self.resolved.prior.model_dump(mode="json") if mixed else {},
        )
        store = Store(options.store)
        self.folder = store.folder(run.model, run.dataset, run.preset, run.seed, self.identity)

    def do(self) -> Outcome:
        reason = lacks_views(self.cls, self.spec) or self.cls.skip(self.spec, self.resolved.model)
        if reason:
            self._open()
            self.folder.write_json("failed.json", {"status": "skipped", "reason": reason})
            return Outcome("skipped", f"Skipped: {reason}", self.folder.path)
        judges = load_classifiers(self.dataset, self.options, self.device)
        wanted, skipped = plan_evaluations(
            self.options.evaluators,
            self.resolved,
            self.cls,
            self.spec,
            self.identity,
            judges,
            self.options.split,
        )
        todo = [e for e in wanted if not self.folder.has_result(e.identity)]
        where = self.folder.path
        if self.folder.trained and not todo:
            return Outcome("already", f"Nothing to do: recorded in {where}.", where)
        if self.folder.trained and not self.folder.weights.exists():
            text = (
                f"{where} is recorded without weights, so nothing more can be measured of it, and "
                "a record is not written anew. Train it in another store, such as --store "
                "results/runs."
            )
            return Outcome("failed", text, where)
        failure = self.folder.failed
        if failure and not self.options.retry:
            text = f"Not tried again after: {failure['reason']} Add --retry to do so."
            return Outcome(failure["status"], text, where)
        with self.folder.lock(wait=self.options.wait) as held:
            if not held:
                return Outcome("busy", f"Another process works on {where}.", where)
            return self._recorded(todo, skipped, judges)

    def _recorded(
        self, todo: list[Evaluation], skipped: dict[str, str], judges: dict[str, Classifier]
    ) -> Outcome:
        where = self.folder.path
        try:
            self._open()
            model = self._trained()
            for evaluation in todo:
                if self._should_stop():
                    raise Stopped
                if not self.folder.has_result(evaluation.identity):
                    self._evaluate(evaluation, model, judges)
        except Stopped:
            self.folder.log("stopped")
            return Outcome("stopped", f"Stopped; run again to go on. Kept in {where}.", where)
        except Diverged as error:
            facts = {"stage": error.stage, "step": error.step, "term": error.term}
            return self._failure("diverged", str(error), **facts)
        except StoreError as error:
            return Outcome("failed", str(error), where)
        except (MemoryError, torch.OutOfMemoryError):
            return self._failure("failed", self._memory_hint())
        except Exception as error:  # the one place where tracebacks are recorded
            text = f"{type(error).__name__}: {error}. The traceback is in {where / 'failed.json'}."
            return self._failure("failed", text, traceback=traceback.format_exc())
        self.folder.clear_failure()
        notes = "".join(f" No {name}: {reason}" for name, reason in skipped.items())
        return Outcome("done", f"Done; recorded in {where}.{notes}", where)

    def _open(self) -> None:
        if (self.folder.path / "run.json").exists():
            return
        values = self.resolved.values()
        own = self.resolved.choices()  # such as a path of this machine
        origins = {k: [o.layer, o.source] for k, o in self.resolved.origins.items() if k in values}
        self.folder.write_json(
            "run.json",
            {
                "train_id": self.identity,
                "model": self.run.model,
                "model_version": self.entry.version,
                "paper": self.entry.paper,
                "dataset": self.run.dataset,
                "preset": self.run.preset,
                "seed": self.run.seed,
                "overrides": [o for o in self.run.overrides if o.split("=")[0].strip() not in own],
                "data": {
                    "fingerprint": self.spec.fingerprint,
                    "complete": self.dataset.spec.fingerprint,
                    "source": self.spec.source,
                    "twin": self.spec.proxy_for,
                    "departs": self.spec.deviation,
                    "sizes": self.spec.sizes,
                    "distinct": self.spec.distinct,
                    "modalities": [m.name for m in self.spec.modalities],
                },
                "settings": values,
                "origins": origins,
            },
        )

    def _trained(self) -> Model:
        model = self._build()
        if self.folder.trained and self.folder.weights.exists():
            state = torch.load(self.folder.weights, map_location=self.device, weights_only=True)
            model.load_state_dict(state)
            return model.eval()
        code = describe_code(self.entry)  # before the hours in which a file may be edited
        made_by = {**code, **describe_machine(self.device)}
        self.folder.log("started", device=str(self.device), threads=torch.get_num_threads())
        data = hide_views(self.dataset.split("train"), self.spec).to(self.device)
        if self.resolved.train.compile:
            compile_networks(model)
        with warnings.catch_warnings():
            warnings.showwarning = self._warn
            last, clock = train(
                model,
                data,
                self.folder,
                self.run.seed,
                self.resolved.train,
                self._watch(),
                functools.partial(find_loan, Store(self.options.store), self.folder, made_by),
            )
        self._keep(model, last, clock, code)
        return model

    def _build(self) -> Model:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(self.run.seed, "init"))
            model = self.cls(self.spec, self.resolved.model)
        if self.resolved.train.channels_last:
            order_channels_last(model)
        return model.to(self.device)

    def _keep(self, model: Model, last: dict[str, Any], clock: Clock, code: dict[str, Any]) -> None:
        seconds, cpu_seconds = clock.read()
        file = io.BytesIO()
        torch.save(model.state_dict(), file)
        write_whole(self.folder.weights, file.getvalue())
        events = list(self.folder.events())
        loans = [e for e in events if e["kind"] == "borrowed"]
        self.folder.write_json(
            "trained.json",
            {
                "digest": hashlib.sha256(file.getvalue()).hexdigest(),
                "parameters": sum(p.numel() for p in model.parameters()),
                "last": last,
                "provenance": {
                    **code,
                    **describe_machine(self.device),
                    "precision": self.resolved.train.precision,
                    "seconds": round(seconds, 1),
                    "cpu_seconds": round(cpu_seconds, 1),
                    "peak_memory": peak_memory(self.device),
                    "resumptions": sum(event["kind"] == "resumed" for event in events),
                    **(
                        {"borrowed": {k: loans[-1][k] for k in ("lender", "stages")}}
                        if loans
                        else {}
                    ),
                },
            },
        )
        self.folder.log("trained", seconds=round(seconds, 1))
        self.folder.drop_checkpoints()

    def _evaluate(
        self, evaluation: Evaluation, model: Model, judges: dict[str, Classifier]
    ) -> None:
        name = evaluation.evaluator.name

        def report(done: int, total: int) -> None:
            if self._should_stop():
                raise Stopped
            self.emit({"kind": "evaluating", "evaluator": name, "done": done, "total": total})

        split = self.dataset.split(evaluation.split).to(self.device)
        seed, folder = self.run.seed, self.folder
        with warnings.catch_warnings():
            warnings.showwarning = self._warn
            evaluate(
                evaluation,
                model,
                self.spec,
                split,
                seed,
                judges,
                folder,
                self.identity,
                report,
                self.dataset.split,
                self.options.paths.cache,
            )

    def _watch(self) -> Watch:
        def report(progress: Progress) -> None:
            self.emit({"kind": "progress", **vars(progress)})

        return Watch(self._should_stop, report, self.options.checkpoint_every)

    def _should_stop(self) -> bool:
        late = self.options.deadline is not None and time.time() >= self.options.deadline
        return late or _stop.is_set()

    def _warn(self, message: Warning | str, *_: object) -> None:
        self.emit({"kind": "warning", "text": str(message)})

    def _failure(self, status: Status, reason: str, **facts: Any) -> Outcome:
        with contextlib.suppress(StoreError):
            self.folder.write_json("failed.json", {"status": status, "reason": reason, **facts})
            self.folder.log("failed", status=status, reason=reason)
        return Outcome(status, reason, self.folder.path)

    def _memory_hint(self) -> str:
        sizes = {k: v for k, v in self.resolved.values().items() if k.endswith("batch_size")}
        told = ", ".join(f"{key} = {value}" for key, value in sizes.items())
        return f"Out of memory on {self.device} with {told}. Halve them with --set."


def compile_networks(module: nn.Module) -> None:
    """Compile each outermost part of a model that is called as a network.

    What does not compile runs as it is, with torch's warning that says so.
    """
    torch._dynamo.config.suppress_errors = True
    for part in module.children():
        if type(part).forward is nn.Module.forward:  # a container, or called by other methods
            compile_networks(part)
        else:
            part.compile()

"""Campaigns: many runs through one queue. One failed run stops no other."""

from __future__ import annotations

import functools
import shutil
import textwrap
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from shalabench.api import DataPaths
from shalabench.api.errors import BenchError
from shalabench.api.stopping import STOPPED_EXIT
from shalabench.config.plan import Run
from shalabench.execute.backends import (
    Cancelled,
    Emit,
    Engine,
    Event,
    InProcess,
    Processes,
    Ray,
    setting_on_signals,
)
from shalabench.execute.gpus import gpus_for
from shalabench.execute.inputs import choose_device, load_classifiers, open_dataset
from shalabench.execute.logs import Logs
from shalabench.execute.options import Options, Outcome
from shalabench.execute.progress import Reporter
from shalabench.execute.runner import perform
from shalabench.execute.slurm import Slurm

__all__ = ["STOPPED_EXIT", "Options", "Outcome", "Summary", "label", "run_campaign"]


@dataclass
class Summary:
    """How a campaign ended.

    Attributes:
        outcomes: By the label of the run.
    """

    outcomes: dict[str, Outcome] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0: all is recorded; 1: some run failed; 3: stopped before the end."""
        ends = {outcome.status for outcome in self.outcomes.values()}
        if ends & {"failed", "diverged"}:
            return 1
        return STOPPED_EXIT if ends & {"stopped", "busy"} else 0


def run_campaign(
    runs: Sequence[Run],
    options: Options,
    reporter: Reporter,
    stop: threading.Event | None = None,
    ended: Callable[[str, Outcome], None] = lambda key, outcome: None,
) -> Summary:
    """Carry out runs, but for those that are done already.

    Runs that another process holds are put last and then waited for.

    Args:
        runs: As `plan` gives them; those of one line (`Run.line`) one after another.
        options: How and where.
        reporter: Shows what happens.
        stop: Once set, the runs end with a checkpoint. An interrupt or a termination of the
            process sets it too.
        ended: Called with the label and the outcome of each run as soon as it has ended.

    Raises:
        BenchError: The device, the data, the classifiers or the package of a tracker are missing;
            nothing was begun.
    """
    stop = stop or threading.Event()
    if options.gpus == 0:
        options = _without_gpus(options)
    logs = Logs(options.trackers, options.store, reporter.say)
    if options.engine == "local":  # a cluster's nodes have their own
        _check_inputs(runs, options)
    else:
        options = _with_whole_paths(options)
    summary = Summary()
    with logs, setting_on_signals(stop):
        busy = _run_once(runs, options, reporter, summary, stop, ended, logs)
        if busy and not stop.is_set():
            reporter.say(f"Waiting for {len(busy)} runs that another process holds.")
            _run_once(busy, replace(options, wait=True), reporter, summary, stop, ended, logs)
    _tell_skipped(summary, options.verbose, reporter)
    return summary


def _tell_skipped(summary: Summary, verbose: bool, reporter: Reporter) -> None:
    """Say which evaluators do not apply: each reason on a line, or all of each run in full."""
    skipped = [
        (key, f"No {name}: {reason}")
        for key, outcome in summary.outcomes.items()
        for name, reason in outcome.skipped.items()
    ]
    if verbose:
        for key, text in skipped:
            reporter.say(f"{key}: {text}")
        return
    width = shutil.get_terminal_size((80, 24)).columns
    for text in dict.fromkeys(text for _, text in skipped):
        reporter.say(textwrap.shorten(text, width, placeholder=" ... (-v)"))


def label(run: Run) -> str:
    """A run in a few words, unique within a campaign."""
    changed = f" ({', '.join(run.overrides)})" if run.overrides else ""
    return f"{run.model}{changed} {run.dataset} {run.preset} seed {run.seed}"


def _run_once(
    runs: Sequence[Run],
    options: Options,
    reporter: Reporter,
    summary: Summary,
    stop: threading.Event,
    ended: Callable[[str, Outcome], None],
    logs: Logs,
) -> list[Run]:
    """Carry out every run once; returns those that another process holds."""
    engine = _engine(options, stop)
    keys = {label(run): run for run in runs}
    lines: dict[str, dict[str, Run]] = {}
    for key, run in keys.items():
        lines.setdefault(run.line or key, {})[key] = run
    for name, line in lines.items():
        engine.submit(name, functools.partial(_perform, line, options))
    reported = set()
    for name, event in engine.events():
        key = event.get("run", name)
        if event["kind"] == "ended":
            reported.add(key)
            logs.end(event["outcome"])
            ended(key, event["outcome"])
        else:
            reporter.show(key, event)
            logs.follow(event.get("folder"))
    outcomes: dict[str, Outcome] = {}
    for name, line in lines.items():
        try:
            outcomes |= engine.result(name)
        except Cancelled:
            outcomes |= dict.fromkeys(line, Outcome("stopped", "Not begun; run again to go on."))
        except Exception as error:  # of a method's code, before its training
            kind = "" if isinstance(error, BenchError) else f"{type(error).__name__}: "
            outcomes |= dict.fromkeys(line, Outcome("failed", f"{kind}{error}"))
    for key in keys:
        summary.outcomes[key] = outcome = outcomes[key]
        if key not in reported:  # the event was lost, or the run did not begin
            logs.end(outcome)
            ended(key, outcome)
        reporter.say(f"{key}: {outcome.text}")
    return [run for key, run in keys.items() if summary.outcomes[key].status == "busy"]


def _perform(
    line: Mapping[str, Run], options: Options, emit: Emit, stop: threading.Event
) -> dict[str, Outcome]:
    """Carry out a line of runs, and tell of each one's end while others go on.

    Runs after one that was stopped, or that another process holds, wait for it too.
    """
    outcomes: dict[str, Outcome] = {}
    waiting: Outcome | None = None
    for key, run in line.items():
        outcome = waiting or perform(run, options, functools.partial(_emit, emit, key), stop)
        if outcome.status == "stopped":
            waiting = Outcome("stopped", "Not begun; run again to go on.")
        elif outcome.status == "busy":
            waiting = replace(outcome, folder=None)
        outcomes[key] = outcome
        emit({"kind": "ended", "run": key, "outcome": outcome})
    return outcomes


def _emit(emit: Emit, key: str, event: Event) -> None:
    emit({**event, "run": key})


def _with_whole_paths(options: Options) -> Options:
    """Options for other machines, where a relative path would be in another working folder."""
    paths = DataPaths(options.paths.data.absolute(), options.paths.cache.absolute())
    archive = options.archive.absolute() if options.archive else None
    return replace(options, store=options.store.absolute(), paths=paths, archive=archive)


def _check_inputs(runs: Sequence[Run], options: Options) -> None:
    """Raise once, before any training, what would make every run fail."""
    device = choose_device(options.device)
    for name, settings in dict.fromkeys((r.dataset, r.resolved.data) for r in runs):
        dataset = open_dataset(name, settings, options.paths)
        load_classifiers(dataset, options.evaluators, options.archive, device)


def _without_gpus(options: Options) -> Options:
    """Options of runs that are to see no GPU.

    Raises:
        BenchError: A GPU is named.
    """
    if options.device not in ("auto", "cpu"):
        raise BenchError(
            f"--gpus-per-run 0 hides GPUs, and --device is '{options.device}'. Leave out either."
        )
    return replace(options, device="cpu")


def _engine(options: Options, stop: threading.Event) -> Engine:
    if options.engine == "ray":
        return Ray(options.address, options.gpus, stop, options.deadline)
    if options.engine == "slurm":
        folder = options.store / ".slurm"  # hidden, so that nobody looks for runs in it
        return Slurm(folder, options.slurm, options.gpus, stop, options.deadline)
    if options.jobs == 1:
        return InProcess(stop)
    return Processes(options.jobs, stop, gpus_for(options.device, options.gpus))

"""Processes that train and evaluate a small run, and may be killed at any moment."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from shalabench.api import DataPaths
from shalabench.config.plan import plan

FORK = multiprocessing.get_context("fork")  # a child that need not import everything again
TRACEBACK = 70  # exit code of a child that ended in one


def carry_out(store: Path, cache: Path, *, jobs: int = 1, hook: Any = None) -> None:
    """In a child: train and evaluate the run, and exit as the command line would."""
    from shalabench.execute.campaign import Options, run_campaign
    from shalabench.execute.progress import Reporter

    runs = plan(("mvae",), "toy", "smoke", range(jobs), ("evaluators.latents.items=20",))
    options = Options(
        store=store,
        paths=DataPaths(cache, cache),
        evaluators=("latents",),
        device="cpu",
        threads=1,
        jobs=jobs,
        checkpoint_every=0.02,
    )
    with hook or contextlib.nullcontext(), Reporter(io.StringIO()) as reporter:
        sys.exit(run_campaign(runs, options, reporter).exit_code)


def start(work: Callable[..., None], *arguments: Any, **named: Any) -> Any:
    """A child in a process group of its own that does some work."""

    def alone() -> None:
        os.setpgid(0, 0)
        try:
            work(*arguments, **named)
        except Exception:
            traceback.print_exc()
            os._exit(TRACEBACK)

    child = FORK.Process(target=alone)
    child.start()
    return child


def end(work: Callable[..., None], *arguments: Any, **named: Any) -> int:
    """The exit code of a child that does some work."""
    child = start(work, *arguments, **named)
    child.join()
    return child.exitcode


def dying_at(number: int, *, after: bool) -> Any:
    """A context in which the process is killed at the n-th file that it puts in place."""
    replace, count = os.replace, iter(range(number))

    def place(*paths: Any, **named: Any) -> None:
        is_last = next(count, None) == number - 1
        if is_last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*paths, **named)
        if is_last:
            os.kill(os.getpid(), signal.SIGKILL)

    return patch.object(os, "replace", place)


def counting(file: Path) -> Any:
    """A context that notes each file that is put in place by a letter."""
    replace = os.replace

    def place(*paths: Any, **named: Any) -> None:
        replace(*paths, **named)
        with file.open("a") as out:
            out.write("x")

    return patch.object(os, "replace", place)

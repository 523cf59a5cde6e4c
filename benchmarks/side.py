"""One side of a paired measurement: a process that times the work of one tree on request.

`Side` starts the process and talks to it; this file is also its program. The process measures the
tree that SHALA_BENCH_TREE names, on one thread. Of that tree it uses only what training itself
uses: `find`, `resolve`, `Stage.update` within `arithmetic`, and `evaluate`. It answers one line of
JSON on its standard output to each line on its standard input.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from inspect import signature
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch
from timing import TREE, Work, cpu_seconds


class Side:
    """A process that measures one method of a tree; a context that ends it.

    Args:
        tree: Root of a checkout.
    """

    def __init__(self, tree: Path):
        one = {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=tree,
            env=os.environ | one | {TREE: str(tree)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stdin.close()
        self._process.wait()

    def ask(self, order: str, **arguments: Any) -> Any:
        """What `Worker`'s method of that name returns.

        Raises:
            click.ClickException: It failed there.
        """
        try:
            self._process.stdin.write(json.dumps([order, arguments]) + "\n")
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise click.ClickException(f"The process that measures '{order}' ended before it did.")
        result, error = json.loads(answer)
        if error:
            raise click.ClickException(error)
        return result


class CutOff(Exception):
    """An evaluation took long enough; its argument is the number of all items over those done."""


class Worker:
    """A method of a tree, ready to be measured.

    Args:
        method: Registered name.
        dataset: Registered name.
        preset: Name of a preset.
        overrides: As of `bench.py --set`.
        data_root: Where published data lie.
        cache_dir: Where generated data are kept.
        batch: Tuples an update; the preset's if 0.
    """

    def __init__(
        self,
        method: str,
        dataset: str,
        preset: str,
        overrides: list[str],
        data_root: str,
        cache_dir: str,
        batch: int = 0,
    ):
        from shalabench.api import DataPaths, choose_precision
        from shalabench.api.registry import find
        from shalabench.config.settings import resolve
        from shalabench.execute.inputs import keep_freed_memory, open_dataset

        torch.set_num_threads(1)
        keep_freed_memory()
        self.method, self.batch = method, batch
        self.config = resolve(method, dataset, preset, overrides)
        paths = DataPaths(Path(data_root), Path(cache_dir))
        self.dataset = open_dataset(dataset, self.config.data, paths)
        self.cls = find("model", method).cls
        self.reason = self.cls.skip(self.dataset.spec, self.config.model)
        self.state: dict[str, Any] | None = None
        # Some older trees take a size.
        size = (self._parameters,) if len(signature(choose_precision).parameters) > 2 else ()
        asked = self.config.train.precision
        self.precision = choose_precision(asked, torch.device("cpu"), *size)
        self._updates: dict[int, Work] = {}

    def describe(self) -> dict[str, Any]:
        """The reason why it cannot run, or None, its stages and its precision."""
        if self.reason:
            return {"skip": self.reason}
        self.model = self._build()
        self.stages = self.model.stages()
        stages = [[stage.name, stage.steps, self._size(stage)] for stage in self.stages]
        return {"skip": None, "stages": stages, "precision": self.precision}

    def keep_weights(self, file: str) -> None:
        """Write the weights that every measurement starts from."""
        torch.save(self._build().state_dict(), file)

    def take_weights(self, file: str) -> None:
        """Start every measurement from the weights of the other side."""
        self.state = torch.load(file, weights_only=True)
        self.describe()

    def first_losses(self) -> list[float]:
        """Loss of each stage's first update in float32, from the same weights."""
        losses = []
        for i in range(len(self.stages)):
            stage = self._build().stages()[i]
            made = self._make_update(stage, "float32")()
            losses.append(made["loss"].item())
        return losses

    def update(self, stage: int, updates: int) -> list[float]:
        """CPU seconds of each of some updates; the first call of a stage warms up."""
        if stage not in self._updates:
            self._updates[stage] = self._make_update(self.stages[stage], self.precision)
        self.model.train()
        return [cpu_seconds(self._updates[stage]) for _ in range(updates)]

    def evaluators(self) -> list[str]:
        """Names of the evaluators that apply."""
        return [evaluation.evaluator.name for evaluation in self._plan(())]

    def evaluate(
        self, evaluator: str, tuples: int = 0, batches: int = 0, limit: float = 0
    ) -> dict[str, Any]:
        """CPU seconds of an evaluation of the untrained weights, and its summaries by metric.

        Args:
            evaluator: Registered name.
            tuples: Of the test split; all if 0.
            batches: Of each piece of work; the rest is estimated to take as long. All if 0.
            limit: CPU seconds after which it is cut off, and the rest estimated by the share of
                items that are done; none if 0. What is cut off has no summaries.
        """
        from shalabench.api import choose_precision
        from shalabench.execute.evaluation import evaluate
        from shalabench.records.store import Store

        (planned,) = self._plan((evaluator,))
        split = self.dataset.split("test")
        split = split.head(tuples) if tuples else split
        with tempfile.TemporaryDirectory() as scratch, few_batches(batches) as left_out:
            folder = Store(Path(scratch)).folder(self.method, "data", "preset", 0, "0" * 64)
            evaluation = (planned, self.model.eval(), self.dataset.spec, split, 0)
            known, began = self._classifiers((evaluator,)), time.process_time()

            def report(done: int, total: int) -> None:
                if limit and done and time.process_time() - began > limit:
                    raise CutOff(total / done)

            rest = (known, folder, "0" * 64, report, self.dataset.split)
            chosen = {}
            if hasattr(self.config, "evaluate"):  # not in older trees
                asked = self.config.evaluate.precision
                chosen["precision"] = choose_precision(asked, torch.device("cpu"))
            try:
                evaluate(*evaluation, *rest, **chosen)
                whole = 1.0
            except CutOff as cut:
                (whole,) = cut.args
            seconds = (time.process_time() - began + sum(left_out)) * whole
            scores = [score for result in folder.results() for score in result["scores"]]
        summaries = {s["metric"]: s["value"] for s in scores if not s.get("target")}
        return {"seconds": seconds, "scores": summaries}

    def forget_peak(self) -> None:
        """Let `peak` count from now on, where the system can do that (Linux)."""
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")

    def peak(self) -> float:
        """Most memory of this process, in MiB."""
        with suppress(OSError):
            for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) / 2**10
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20

    def _build(self):
        from step import build

        model = build(self.method, self.dataset.spec, self.config.model)
        if self.state is not None:
            model.load_state_dict(self.state)
        return model

    def _parameters(self) -> int:
        return sum(p.numel() for p in self._build().parameters())

    def _size(self, stage) -> int:
        return min(self.batch or stage.batch_size, self.dataset.spec.sizes["train"])

    def _make_update(self, stage, precision: str) -> Work:
        from step import make_update

        split = self.dataset.split("train").head(self._size(stage))
        stage.begin(split)
        return make_update(stage, split, precision)

    def _classifiers(self, evaluators: tuple[str, ...]) -> dict[str, Any]:
        from shalabench.execute.inputs import load_classifiers

        return load_classifiers(self.dataset, evaluators, None, torch.device("cpu"))

    def _plan(self, evaluators: tuple[str, ...]) -> list[Any]:
        from shalabench.execute.evaluation import plan_evaluations

        known = self._classifiers(evaluators)
        data = (self.dataset.spec, "0" * 64, known, "test")
        return plan_evaluations(evaluators, self.config, self.cls, *data)[0]


@contextmanager
def few_batches(batches: int) -> Iterator[list[float]]:
    """Within it, `EvalContext.map` makes only the first batches of every piece of work.

    The last batch made stands for those left out, whose CPU seconds are added to the list.
    """
    from shalabench.api import EvalContext

    whole, left_out = EvalContext.map, []

    def short(self, make, items, batch_size, *names):
        made: list[tuple[int, Any, float]] = []  # tuples, result, CPU seconds

        def timed(index, rng):
            if len(made) < batches:
                began = time.process_time()
                result = make(index, rng)
                made.append((len(index), result, time.process_time() - began))
                return result
            n, result, seconds = made[-1]
            left_out.append(seconds * len(index) / n)
            return _repeat(result, torch.arange(len(index)) % n)

        return whole(self, timed, items, batch_size, *names)

    with mock.patch.object(EvalContext, "map", short) if batches else nullcontext():
        yield left_out


def _repeat(made: Any, rows: torch.Tensor) -> Any:
    if isinstance(made, dict):
        return {key: value[rows] for key, value in made.items()}
    return made[rows]


def serve() -> None:
    """Answer orders until the standard input ends. The first must be "open"."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    worker = None
    for line in sys.stdin:
        order, arguments = json.loads(line)
        result, error = None, None
        try:
            if order == "open":
                worker = Worker(**arguments)
                result = worker.describe()
            else:
                result = getattr(worker, order)(**arguments)
        except Exception as fault:  # answered to the process that asked
            error = str(fault) or type(fault).__name__
            if not type(fault).__module__.startswith("shalabench"):
                traceback.print_exc()
        answers.write(json.dumps([result, error]) + "\n")
        answers.flush()


if __name__ == "__main__":
    serve()

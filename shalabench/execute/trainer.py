"""The training loop over the stages of a model; a resumed training ends bit for bit alike."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from time import monotonic, process_time
from typing import Any

import torch
from torch import Tensor

from shalabench.api import BenchError, Diverged, Model, Rng, Split, Stage, arithmetic, derive_seed
from shalabench.config.training import TrainSettings
from shalabench.execute.continuation import Continuation
from shalabench.execute.divergence import Runaway
from shalabench.execute.graphs import GraphedUpdates, capturable
from shalabench.execute.made_by import MADE_BY, differences
from shalabench.execute.reuse import Reuse
from shalabench.execute.tensors import read_checkpoint
from shalabench.records.digests import Damaged, set_aside
from shalabench.records.store import RunFolder


class Stopped(Exception):
    """Training was asked to stop, and did so after a checkpoint."""


@dataclass(frozen=True)
class Progress:
    """Where a training stands.

    Attributes:
        terms: Loss terms, mean over the last `log_every` updates.
        rate: Updates a second since the stage began or was resumed.
    """

    stage: str
    step: int
    steps: int
    terms: dict[str, float]
    rate: float


@dataclass(frozen=True)
class Watch:
    """What surrounds a training.

    Attributes:
        should_stop: Called before every update.
        report: Called with every reading of the losses.
        checkpoint_every: Seconds between checkpoints.
        made_by: Code, packages, device and threads of the training.
    """

    should_stop: Callable[[], bool] = lambda: False
    report: Callable[[Progress], None] = lambda progress: None
    checkpoint_every: float = 60.0
    made_by: Mapping[str, Any] = field(default_factory=dict)


class Clock:
    """Seconds of a training by the wall and of the processor, those before a resumption included.

    Args:
        before: What `read` gave when the checkpoint was written from which a training resumes.
    """

    def __init__(self, before: tuple[float, float] = (0.0, 0.0)):
        self._began = monotonic() - before[0], process_time() - before[1]

    def read(self) -> tuple[float, float]:
        """Both kinds of seconds, so far."""
        return monotonic() - self._began[0], process_time() - self._began[1]


@dataclass
class _Window:
    """Loss terms summed on the device since the last reading."""

    sums: dict[str, Tensor] = field(default_factory=dict)
    updates: int = 0

    def add(self, terms: dict[str, Tensor]) -> None:
        for name, value in terms.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.clone()
        self.updates += 1

    def read(self, stage: str, step: int) -> dict[str, float]:
        """Means, by one synchronisation; empties the window."""
        values = torch.stack([v.double() for v in self.sums.values()]).tolist()
        means = {name: v / self.updates for name, v in zip(self.sums, values, strict=True)}
        self.sums, self.updates = {}, 0
        for name, value in means.items():
            if not math.isfinite(value):
                raise Diverged(stage, step, name)
        return means


def train(
    model: Model,
    data: Split,
    folder: RunFolder,
    seed: int,
    settings: TrainSettings,
    watch: Watch,
    find_start: Callable[[Sequence[Stage]], Reuse | Continuation | None] = lambda stages: None,
    validation: Split | None = None,
) -> tuple[dict[str, dict[str, float]], Clock]:
    """Train every stage of a model, from its newest checkpoint where there is one.

    Args:
        model: On the training device, initialised.
        data: The training split, on the same device.
        folder: Where checkpoints and events go.
        seed: Of the run.
        settings: Precision and logging.
        watch: Stopping, progress, checkpoint cadence and what the training is made by.
        find_start: Finds its beginning in other runs where there is no checkpoint.
        validation: The validation split, for stages that choose by it (`Stage.validation`).

    Returns:
        The last reading of the loss terms of each stage, and the clock, reused stages included.

    Raises:
        Diverged: A loss term was not finite, or ran away and stayed there.
        GraphError: `settings.graphs` is true and a stage cannot be captured.
        Stopped: `watch.should_stop` returned True; a checkpoint is written.
    """
    stages = model.stages()
    if settings.graphs:
        capturable(stages)
    saved, event = _restore(folder, model, stages, data.device), "resumed"
    mixed = _changes(saved, folder, watch.made_by) if saved else []
    if saved is None and (start := find_start(stages)):
        saved, event = start.load(model, stages), "begun"
        start.log(folder)
    done = saved["last"] if saved else {}
    first = saved["stage"] if saved else 0
    clock = Clock(*([saved["spent"]] if saved and "spent" in saved else []))
    for number, stage in enumerate(stages):
        if number < first:
            continue
        stage.validation = validation
        loop = _Loop(model, stage, number, data, folder, seed, settings, watch, clock, done, mixed)
        loop.run(saved if number == first else None, event)
    model.eval()
    return done, clock


@dataclass
class _Loop:
    """The updates of one stage."""

    model: Model
    stage: Stage
    number: int
    data: Split
    folder: RunFolder
    seed: int
    settings: TrainSettings
    watch: Watch
    clock: Clock
    done: dict[str, dict[str, float]]
    mixed: list[str]  # what changed since the training began, of what it is made by
    window: _Window = field(default_factory=_Window)
    last: dict[str, float] = field(default_factory=dict)
    runaway: Runaway = field(default_factory=Runaway)
    graphed: GraphedUpdates | None = None

    def run(self, saved: dict[str, Any] | None, event: str) -> None:
        """Train the stage; its last reading is then in `done`."""
        step = self._begin(saved, event)
        if self.settings.graphs:
            [stage] = capturable([self.stage])
            self.graphed = GraphedUpdates(stage, self.data, self._size, self._arithmetic)
        began, first, kept = monotonic(), step, monotonic()
        batches, fork = self._batches(step), self.stage.common(2 * self.stage.steps)
        while step < self.stage.steps:
            if 0 < step == fork:
                self.folder.write_fork(self.number, step, self._content(step))
            if self.watch.should_stop():
                self._keep(step)
                raise Stopped
            self._update(step, next(batches))
            step += 1
            if step % self.settings.log_every == 0 or step == self.stage.steps:
                self.last = self.window.read(self.stage.name, step)
                self.runaway.read(self.stage.name, step, self.last)
                rate = (step - first) / max(monotonic() - began, 1e-9)
                progress = Progress(self.stage.name, step, self.stage.steps, self.last, rate)
                self.folder.log("progress", stage=self.stage.name, step=step, **self.last)
                self.watch.report(progress)
            if monotonic() - kept >= self.watch.checkpoint_every and step < self.stage.steps:
                self._keep(step)
                kept = monotonic()
        self.model.eval()
        self.stage.finish(self.data)
        self.done[self.stage.name] = self.last
        self.folder.log("finished", stage=self.stage.name, spent=self.clock.read())
        self._keep(0, after=True)

    def _begin(self, saved: dict[str, Any] | None, event: str) -> int:
        self.stage.begin(self.data)
        self.model.train()
        if saved is None or saved["step"] == 0:
            self.folder.log("stage", stage=self.stage.name, steps=self.stage.steps)
            return 0
        try:
            self.stage.load_state_dict(saved["state"])
        except KeyError as error:
            raise BenchError(
                f"The checkpoint in {self.folder.path} has no {error} in the state of the stage "
                f"'{self.stage.name}', so another version of the code wrote it. Finish the run "
                "with that version, or delete the folder to train it anew."
            ) from error
        self.window.sums, self.window.updates = saved["sums"], saved["updates"]
        self.last = saved["reading"]
        self.runaway = Runaway.restored(saved.get("runaway"))
        self.folder.log(event, stage=self.stage.name, step=saved["step"])
        return saved["step"]

    def _update(self, step: int, index: Tensor) -> None:
        device, name = self.data.device, self.stage.name
        torch.manual_seed(derive_seed(self.seed, name, "global", step))
        seed = derive_seed(self.seed, name, "update", step)
        if self.graphed:
            self.window.add(self.graphed.update(index, seed))
            return
        with self._arithmetic():
            self.window.add(self.stage.update(self.data.batch(index), Rng(seed, device=device)))

    def _arithmetic(self) -> AbstractContextManager[object]:
        return arithmetic(self.settings.precision, self.data.device)

    @property
    def _size(self) -> int:
        """Tuples an update."""
        return min(self.stage.batch_size, len(self.data))

    def _batches(self, step: int) -> Iterator[Tensor]:
        """Index tensors from update `step` on; an epoch's order follows from its number alone."""
        size = self._size
        per_epoch = len(self.data) // size
        while True:
            epoch, position = divmod(step, per_epoch)
            seed = derive_seed(self.seed, self.stage.name, "order", epoch)
            order = torch.randperm(len(self.data), generator=torch.Generator().manual_seed(seed))
            order = order.to(self.data.device)
            for start in range(position * size, per_epoch * size, size):
                yield order[start : start + size]
                step += 1

    def _keep(self, step: int, *, after: bool = False) -> None:
        content = self._content(step, after=after)
        self.folder.write_checkpoint(self.number + after, step, content)
        self.folder.log("checkpoint", stage=self.stage.name, step=step)

    def _content(self, step: int, *, after: bool = False) -> bytes:
        """A checkpoint before update `step`, or after the stage."""
        content = {
            "model": self.model.state_dict(),
            "stage": self.number + after,
            "step": step,
            "state": None if after else self.stage.state_dict(),
            "sums": {} if after else self.window.sums,
            "updates": 0 if after else self.window.updates,
            "reading": {} if after else self.last,
            "runaway": (Runaway() if after else self.runaway).state(),
            "last": self.done,
            "spent": self.clock.read(),
            "made_by": {key: x for key, x in self.watch.made_by.items() if key in MADE_BY},
            "mixed": self.mixed,
            "run": self.folder.path.name,
        }
        file = io.BytesIO()
        torch.save(content, file)
        return file.getvalue()


def _restore(
    folder: RunFolder, model: Model, stages: Sequence[Stage], device: torch.device
) -> dict[str, Any] | None:
    """The newest checkpoint that is whole, with the model's weights put in place.

    A damaged one is renamed, so that it does not count among those that are kept.
    """
    files = folder.checkpoints()
    for number, file in enumerate(files, 1):
        try:
            saved = read_checkpoint(file, folder.path.name, model, stages, device)
        except Damaged as error:
            last = number == len(files)
            then = "Without another, it starts anew." if last else "The one before is used."
            message = f"The checkpoint {file.name} does not load: {error}. {then}"
            warnings.warn(message, stacklevel=2)
            folder.log("warning", message=message)
            set_aside(file)
            continue
        model.load_state_dict(saved["model"])
        return saved
    return None


def _changes(saved: dict[str, Any], folder: RunFolder, made_by: Mapping[str, Any]) -> list[str]:
    """What changed since the training began, of what it is made by; a new change is logged."""
    found = differences(saved.get("made_by", {}), made_by)
    if found:
        seconds = saved["spent"][1] if "spent" in saved else 0.0
        message = (
            f"The checkpoint in {folder.path} was written with {' and '.join(found.values())}. The "
            "training goes on and loses no update, but its weights will not be, bit for bit, those "
            "of one that was not interrupted, and no other run will reuse them. To keep them so, "
            "stop and go on with what it was written with. To train it anew, delete the folder, "
            f"which loses {seconds:,.0f} CPU seconds."
        )
        warnings.warn(message, stacklevel=3)
        folder.log("changed", what=list(found), message=message)
    return sorted({*saved.get("mixed", ()), *found})

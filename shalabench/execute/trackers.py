"""Adapters of experiment trackers: each writes the log of one run in the form of its tool.

Nothing is sent to a server unless the tool's own environment variables say so. Their packages are
extras of the same names, imported when a log is asked for.
"""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import io
import json
import logging
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from shalabench.api.errors import BenchError, unknown
from shalabench.records.store import RunFolder

PROJECT = "shala-bench"  # an experiment of MLflow
_MOST_PARAMS = 100  # of MLflow, a request


@dataclass(frozen=True)
class Subject:
    """The run that a log is of.

    Attributes:
        folder: Of the run; a tool that keeps a file a run writes into `logs` of it.
        store: Folder of all runs; a tool that keeps runs together writes into it.
    """

    folder: RunFolder
    store: Path

    @property
    def name(self) -> str:
        """Of the run's folder, which is unique within a store."""
        return self.folder.name

    def identities(self) -> dict[str, str]:
        """What the run is, in words and by its identity."""
        run = self.folder.run
        keys = ("model", "dataset", "preset", "seed", "train_id", "model_version")
        facts = {key: str(run[key]) for key in keys}
        return {"name": self.name, **facts, "fingerprint": run["data"]["fingerprint"]}

    def settings(self) -> dict[str, Any]:
        """The resolved settings by dotted key."""
        return dict(self.folder.run["settings"])

    def group(self) -> str:
        """The same for runs that differ in the seed or in settings."""
        run = self.folder.run
        return f"{run['model']}-{run['dataset']}-{run['preset']}"


class Writer(Protocol):
    """The log of one run in one tool.

    Attributes:
        identity: By which the tool knows the run; it is handed back when the log is continued.
    """

    identity: str

    def write(
        self, group: str, values: Mapping[str, float], step: int, time: float, count: int
    ) -> None:
        """Write values of one step.

        Args:
            group: The stage, or the split of an evaluation; the first part of the values' names.
            values: By name, such as "vae/loss". Letters, digits and `_ . / -` only.
            step: Updates of the stage; for scores, of all stages.
            time: When they were measured, in seconds of the clock.
            count: Number of calls before, in all commands that have written this log.
        """

    def flush(self) -> None:
        """Bring what was written to the disk."""

    def close(self, status: str) -> None:
        """End the log, for now or for good.

        Args:
            status: "done", "failed" or "stopped".
        """


Open = Callable[[Subject, str | None], Writer]
"""Begins the log of a run or, with the identity that it had, goes on with it."""


class TensorBoard:
    """An event file in the run's folder, by `torch.utils.tensorboard`."""

    def __init__(self, subject: Subject, identity: str | None):
        from torch.utils.tensorboard import SummaryWriter

        self.identity = identity or subject.name
        self._out = SummaryWriter(str(subject.folder.path / "logs"))
        if identity is None:
            for name, facts in (("run", subject.identities()), ("settings", subject.settings())):
                lines = (f"    {key} = {json.dumps(value)}" for key, value in facts.items())
                self._out.add_text(name, "\n".join(lines), 0)

    def write(
        self, group: str, values: Mapping[str, float], step: int, time: float, count: int
    ) -> None:
        for name, value in values.items():
            self._out.add_scalar(name, value, step, time)

    def flush(self) -> None:
        self._out.flush()

    def close(self, status: str) -> None:
        self._out.close()


class WandB:
    """An offline run of Weights & Biases below the store; `WANDB_MODE=online` sends it instead."""

    def __init__(self, subject: Subject, identity: str | None):
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        self.identity = identity or uuid.uuid4().hex
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=self.identity,
            name=subject.name,
            group=subject.group(),
            config={**subject.settings(), "run": subject.identities()},
            dir=os.environ.get("WANDB_DIR", str(subject.store)),
            mode=os.environ.get("WANDB_MODE", "offline"),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        )
        self._groups: set[str] = set()

    def write(
        self, group: str, values: Mapping[str, float], step: int, time: float, count: int
    ) -> None:
        if group not in self._groups:
            self._groups.add(group)
            self._run.define_metric(f"{group}/*", step_metric=f"{group}/step")
        self._run.log({**values, f"{group}/step": step}, step=count)

    def flush(self) -> None:
        pass  # another process writes what it is handed

    def close(self, status: str) -> None:
        self._run.finish(exit_code=int(status == "failed"))


class MLflow:
    """A run in the database `mlflow.db` of the store, or where MLFLOW_TRACKING_URI says."""

    _STATUS = {"done": "FINISHED", "failed": "FAILED", "stopped": "KILLED"}

    def __init__(self, subject: Subject, identity: str | None):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow.entities import Metric, Param
        from mlflow.tracking import MlflowClient

        logging.getLogger("alembic").setLevel(logging.WARNING)
        place = os.environ.get("MLFLOW_TRACKING_URI")
        database = subject.store.absolute() / "mlflow.db"
        self._client = MlflowClient(tracking_uri=place or f"sqlite:///{database}")
        self._metric = Metric
        if identity is not None:
            self._client.update_run(identity, status="RUNNING")
            self.identity = identity
            return
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self._client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self._create(name, subject)
        run = self._client.create_run(number, run_name=subject.name, tags=subject.identities())
        self.identity = run.info.run_id
        params = [Param(key, json.dumps(value)) for key, value in subject.settings().items()]
        for first in range(0, len(params), _MOST_PARAMS):
            self._client.log_batch(self.identity, params=params[first : first + _MOST_PARAMS])

    def _create(self, name: str, subject: Subject) -> str:
        files = subject.store.absolute() / "mlflow-files"  # else in the working folder
        return self._client.create_experiment(name, artifact_location=files.as_uri())

    def write(
        self, group: str, values: Mapping[str, float], step: int, time: float, count: int
    ) -> None:
        when = round(1000 * time)
        metrics = [self._metric(name, value, when, step) for name, value in values.items()]
        self._client.log_batch(self.identity, metrics=metrics)

    def flush(self) -> None:
        pass  # each batch is a transaction

    def close(self, status: str) -> None:
        self._client.set_terminated(self.identity, status=self._STATUS[status])


class Trackio:
    """A run in the folder `trackio` of the store, or where TRACKIO_DIR says."""

    def __init__(self, subject: Subject, identity: str | None):
        os.environ.setdefault("TRACKIO_DIR", str(subject.store.absolute() / "trackio"))
        import trackio

        def begin() -> Any:
            return trackio.init(
                project=PROJECT,
                name=subject.name if identity is None else identity,
                group=subject.group(),
                config={**subject.settings(), "run": subject.identities()},
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

        # trackio.init ends the run that it began before in the same context, and prints.
        with contextlib.redirect_stdout(io.StringIO()):
            self._run = contextvars.Context().run(begin)
        self.identity = self._run.name

    def write(
        self, group: str, values: Mapping[str, float], step: int, time: float, count: int
    ) -> None:
        self._run.log({**values, f"{group}/step": step}, step=count)

    def flush(self) -> None:
        pass  # a thread of its own writes within half a second

    def close(self, status: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()


TRACKERS: dict[str, tuple[Open, str]] = {  # with the module that its extra installs
    "tensorboard": (TensorBoard, "torch.utils.tensorboard"),
    "wandb": (WandB, "wandb"),
    "mlflow": (MLflow, "mlflow"),
    "trackio": (Trackio, "trackio"),
}


def find_trackers(names: tuple[str, ...], store: Path) -> dict[str, Open]:
    """The trackers of some names.

    Args:
        names: Such as "wandb".
        store: Folder of the runs.

    Raises:
        BenchError: A name is unknown, or the package of a tracker does not import.
    """
    found = {}
    for name in names:
        if name not in TRACKERS:
            raise BenchError(unknown("tracker", name, TRACKERS))
        found[name], module = TRACKERS[name]
        if name == "trackio":  # which reads it when it is imported
            os.environ.setdefault("TRACKIO_DIR", str(store.absolute() / "trackio"))
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise BenchError(
                f"--log {name} needs a package that is not installed ({error.name or error}): "
                f"pip install 'shala-bench[{name}]'."
            ) from error
    return found

"""Studies of tuning: one JSON file for a dataset and a preset, rewritten after every trial."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from shalabench.api.errors import BenchError
from shalabench.records.store import read_json, write_whole

OBJECTIVE = (
    "mean of coherence/joint and coherence/cross on the validation split; 0 if the effective "
    "number of classes is below half of the data's, or the training diverged"
)
RUNGS = (0.25, 0.5, 1.0)
"""Part of the preset's updates at each rung."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Trial(_Strict):
    """One training of one setting.

    Attributes:
        number: Of the setting; 0 is the preset's own values.
        rung: Index into `RUNGS`.
        values: By dotted key of the method's settings.
        status: "drawn" until it is trained and evaluated.
        joint, cross: The two coherences.
        classes: Effective number of classes among the joint samples.
        objective: What is compared.
        cpu_seconds: Of the training; of a diverged one by the wall.
        evaluation_seconds: By the wall; not part of the budget.
        train_id: Of the run.
    """

    number: int
    rung: int
    values: dict[str, Any]
    status: Literal["drawn", "done", "collapsed", "diverged"] = "drawn"
    joint: float | None = None
    cross: float | None = None
    classes: float | None = None
    objective: float = 0.0
    cpu_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    train_id: str = ""


class MethodStudy(_Strict):
    """The trials of one method.

    Attributes:
        version: Of the method.
        overrides: The --set arguments of every trial.
        space: The values that are tried, by dotted key.
        packages: Versions.
        trials: In the order in which they were drawn.
        out_of_budget: Whether settings were left out because the CPU seconds were used up.
        chosen: Number of the best setting, once it is known.
    """

    version: int
    overrides: list[str]
    space: dict[str, dict[str, Any]]
    packages: dict[str, str] = {}
    trials: list[Trial] = []
    out_of_budget: bool = False
    chosen: int | None = None

    def at(self, rung: int) -> list[Trial]:
        """The trials at a rung."""
        return [trial for trial in self.trials if trial.rung == rung]

    def last_of(self, number: int) -> Trial:
        """The trial of a setting at the highest rung that it has reached."""
        return max((t for t in self.trials if t.number == number), key=lambda t: t.rung)

    @property
    def spent(self) -> float:
        """CPU seconds of all trainings."""
        return sum(trial.cpu_seconds for trial in self.trials)


class Study(_Strict):
    """All that was tried on one dataset under one preset.

    Attributes:
        fingerprint: Of the data.
        classes: Of the data.
        seed: Of the sampler and of every training.
        trials: Settings at the first rung, for each method.
        budget: CPU seconds of training after which a method gets no new settings.
        objective, rungs: What was maximised, and the parts of the preset's updates.
        methods: By name.
    """

    dataset: str
    preset: str
    fingerprint: str
    classes: int
    seed: int
    trials: int
    budget: float
    objective: str = OBJECTIVE
    rungs: list[float] = list(RUNGS)
    methods: dict[str, MethodStudy] = {}

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return f"{self.dataset}-{self.preset}"

    def write(self, folder: Path) -> None:
        """Write its file, whole or not at all."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        write_whole(folder / f"{self.name}.json", text.encode(), "--studies")


def read_study(file: Path) -> Study:
    """The study in a file.

    Raises:
        BenchError: The file does not read, or is no study.
    """
    try:
        return Study.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise BenchError(f"{file} is no study: {key}: {first['msg'].lower()}.") from error


def read_studies(folder: Path, dataset: str | None, preset: str | None) -> list[Study]:
    """The studies in a folder, of one dataset or preset where it is named.

    Raises:
        BenchError: There is none.
    """
    studies = [read_study(file) for file in sorted(folder.glob("*.json"))]
    chosen = [s for s in studies if dataset in (None, s.dataset) and preset in (None, s.preset)]
    if not chosen:
        names = ", ".join(study.name for study in studies) or "none"
        raise BenchError(
            f"{folder} has no such study; it has {names}. Make one with python bench.py tune, or "
            "name another folder with --studies."
        )
    return chosen

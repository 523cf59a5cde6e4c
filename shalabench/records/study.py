"""Studies of tuning: one JSON file for a dataset and a preset, rewritten after every trial.

A study of dials has its own file, whose name ends in "-dials".
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from shalabench.api.errors import BenchError
from shalabench.api.files import remove_temporary
from shalabench.config import tuned
from shalabench.records.reading import files_in
from shalabench.records.store import read_json, write_whole

OBJECTIVE = (
    "mean of coherence/joint and coherence/cross on the validation split; coherence/cross less 1 "
    "if the effective number of classes is below half of the data's; -1 if the training diverged"
)
RUNGS = (0.25, 0.5, 1.0)
"""Part of the preset's updates at each rung."""
WORST_KID = 1.1
LEAST_RECALL = 0.9
"""What chosen dials may cost, as parts of the values at the neutral dials.

A tenth is about what trainings with other seeds differ by: on mst-digits under quick, the standard
deviations are 3 to 4 % of KID and 8 to 10 % of recall (classifier features, medians of methods).
"""
DIALS_RULE = (
    "most coherence (joint, cross) on the validation split, if above the neutral dials' by more "
    f"than one standard error of the difference; KID at most {WORST_KID} times and recall at least "
    f"{LEAST_RECALL} times the neutral dials'; effective classes at least half of the data's"
)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Trial(_Strict):
    """One training of one setting.

    Attributes:
        number: Of the setting; 0 is the preset's own values.
        rung: Index into `RUNGS`.
        repeat: 0, or k for the same training with k added to the seed, at the last rung.
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
    repeat: int = 0
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
        code: Digests of its code and of the shared networks; empty in older studies.
        settings: Of the preset, as far as they decide what is trained; empty in older studies.
        overrides: The --set arguments of every trial, and the neutral dials where the preset has
            others.
        space: The values that are tried, by dotted key.
        packages: Versions.
        trials: In the order in which they were drawn.
        out_of_budget: Whether settings were left out because the CPU seconds were used up.
        chosen: Number of the best setting, once it is known.
    """

    version: int
    code: dict[str, str] = {}
    settings: dict[str, Any] = {}
    overrides: list[str]
    space: dict[str, dict[str, Any]]
    packages: dict[str, str] = {}
    trials: list[Trial] = []
    out_of_budget: bool = False
    chosen: int | None = None

    def at(self, rung: int) -> list[Trial]:
        """The first trainings at a rung."""
        return [trial for trial in self.trials if trial.rung == rung and not trial.repeat]

    def last_of(self, number: int) -> Trial:
        """The first training of a setting at the highest rung that it has reached."""
        return max(
            (t for t in self.trials if t.number == number and not t.repeat), key=lambda t: t.rung
        )

    def repeats_of(self, number: int) -> list[Trial]:
        """The trainings of a setting with other seeds."""
        return [trial for trial in self.trials if trial.number == number and trial.repeat]

    @property
    def spent(self) -> float:
        """CPU seconds of all trainings."""
        return sum(trial.cpu_seconds for trial in self.trials)


class _OfData(_Strict):
    """A study on one dataset under one preset, in a file of its own.

    Attributes:
        fingerprint, classes: Of the data.
        seed: Of the sampler of settings, and of every training but the repeated ones.
    """

    dataset: str
    preset: str
    fingerprint: str
    classes: int
    seed: int

    @property
    def name(self) -> str:
        """Of its file, without the ending."""
        return f"{self.dataset}-{self.preset}"

    def write(self, folder: Path) -> None:
        """Write its file, whole or not at all."""
        text = json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"
        write_whole(folder / f"{self.name}.json", text.encode(), "--studies")
        remove_temporary(folder)


class Study(_OfData):
    """All settings that were tried.

    Attributes:
        seeds: Trainings that the chosen setting must survive.
        trials: Settings at the first rung, for each method.
        budget: CPU seconds of training after which a method gets no new settings.
        objective, rungs: What was maximised, and the parts of the preset's updates.
        methods: By name.
    """

    seeds: int = 1
    trials: int
    budget: float
    objective: str = OBJECTIVE
    rungs: list[float] = list(RUNGS)
    methods: dict[str, MethodStudy] = {}


class Reading(_Strict):
    """What was measured of joint samples, or of translations.

    Attributes:
        coherence, stderr: Of the samples, with its standard error over items.
        classes: Effective number of classes; of joint samples only.
        kid, recall: Of the images; None where there are none.
    """

    coherence: float
    stderr: float
    classes: float | None = None
    kid: float | None = None
    recall: float | None = None


class DialTrial(_Strict):
    """The samples of a trained model at some values of its dials.

    Attributes:
        number: 0 is the neutral values.
        values: By dotted key.
        joint, cross: None until they are measured, or where the method has no such samples.
        evaluation_seconds: By the wall.
        train_id: Of the run; empty until it is measured.
    """

    number: int
    values: dict[str, Any]
    joint: Reading | None = None
    cross: Reading | None = None
    evaluation_seconds: float = 0.0
    train_id: str = ""


class MethodDials(_Strict):
    """The dials of one method.

    Attributes:
        version: Of the method.
        overrides: The --set arguments of every trial.
        space: The dials by dotted key: neutral, choices, of.
        packages: Versions.
        trials: By number.
        chosen: The number of the best trial for "joint" and "cross", once it is known.
    """

    version: int
    overrides: list[str]
    space: dict[str, dict[str, Any]]
    packages: dict[str, str] = {}
    trials: list[DialTrial] = []
    chosen: dict[str, int] = {}

    def at(self, protocol: str) -> list[DialTrial]:
        """The trials with different values of the dials of "joint" or "cross", in order."""
        found: dict[str, DialTrial] = {}
        for trial in self.trials:
            found.setdefault(str(self.values_of(trial, protocol)), trial)
        return list(found.values())

    def values_of(self, trial: DialTrial, protocol: str) -> dict[str, Any]:
        """The values of a trial's dials of "joint" or "cross"."""
        return {k: v for k, v in trial.values.items() if self.space[k]["of"] == protocol}

    @property
    def values(self) -> dict[str, Any]:
        """The chosen values of all dials."""
        trials = {trial.number: trial for trial in self.trials}
        chosen = [self.values_of(trials[n], protocol) for protocol, n in self.chosen.items()]
        return {key: value for part in chosen for key, value in part.items()}


class DialStudy(_OfData):
    """The dials of methods.

    Attributes:
        extractor: Of the features behind KID and recall.
        images: Generated images behind KID and recall, for each comparison.
        rule: How dials are chosen.
        methods: By name.
    """

    extractor: str
    images: int
    rule: str = DIALS_RULE
    methods: dict[str, MethodDials] = {}

    @property
    def name(self) -> str:
        return f"{self.dataset}-{tuned.with_dials(self.preset)}"


Kind = TypeVar("Kind", Study, DialStudy)


def read_study(file: Path, kind: type[Kind] = Study) -> Kind:  # type: ignore[assignment]
    """The study in a file, of trainings or of dials.

    Raises:
        BenchError: The file does not read, or is no study.
    """
    try:
        return kind.model_validate(read_json(file))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise BenchError(f"{file} is no study: {key}: {first['msg'].lower()}.") from error


def read_studies(folder: Path, dataset: str | None, preset: str | None) -> list[Study | DialStudy]:
    """The studies in a folder, of one dataset or preset where it is named.

    Raises:
        BenchError: There is none.
    """
    studies: list[Study | DialStudy] = []
    for file in files_in(folder, ".json"):
        of_dials = tuned.without_dials(file.stem) != file.stem
        studies.append(read_study(file, DialStudy) if of_dials else read_study(file))
    chosen = [s for s in studies if dataset in (None, s.dataset) and preset in (None, s.preset)]
    if not chosen:
        names = ", ".join(study.name for study in studies)
        what = f"no such study; it has {names}" if names else "no studies"
        raise BenchError(
            f"{folder} has {what}. Make one with python bench.py tune, or name another folder with "
            "--studies."
        )
    return chosen

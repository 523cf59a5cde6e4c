"""Columns of the data frames of runs and scores, and their rows as named tuples."""

from __future__ import annotations

from typing import Any, NamedTuple

import pandas as pd

REFERENCE = "(reference)"  # ends the label of a row of packaged records beside one's own


class RunRow(NamedTuple):
    """A training. `settings` also has those of the evaluators whose results are read."""

    run: str
    train_id: str
    model: str
    model_version: int
    paper: str
    dataset: str
    preset: str
    seed: int
    overrides: tuple[str, ...]
    state: str
    reason: str
    device: str
    precision: str
    parameters: float  # this and the next four are NaN where they are unknown
    tuples: float
    seconds: float
    cpu_seconds: float
    peak_memory: float
    commit: str
    source: str
    nets: str
    fingerprint: str
    data_source: str
    proxy_for: str
    deviation: str
    data: dict[str, Any]
    settings: dict[str, Any]
    origins: dict[str, list[str]]
    provenance: dict[str, Any]
    store: str
    label: str  # empty, unless an ablation names the row or it is of the reference records
    stages: tuple[str, ...]  # that were trained, in order

    @property
    def name(self) -> str:
        """The label, or the model with its overrides."""
        return self.label or " ".join([self.model, *(f"[{text}]" for text in self.overrides)])


class ScoreRow(NamedTuple):
    """A score. A summary has no target and nothing given."""

    run: str
    train_id: str
    eval_id: str
    dataset: str
    preset: str
    fingerprint: str
    method: str
    variant: str
    seed: int
    split: str
    evaluator: str
    version: int
    extractor: str
    metric: str
    role: str
    of: str
    given: tuple[str, ...]
    target: str | None
    value: float
    stderr: float  # NaN where unknown, as are low and high
    n: int
    groups: int | None
    low: float
    high: float
    direction: str
    digits: int
    meaning: str
    biased: bool
    headline: bool


RUNS, SCORES = RunRow._fields, ScoreRow._fields
_NUMBERS = (
    *("parameters", "tuples", "seconds", "cpu_seconds", "peak_memory"),
    *("value", "stderr", "low", "high"),
)


def run_rows(frame: pd.DataFrame) -> list[RunRow]:
    """The rows of a frame of runs, a hundred times faster than `DataFrame.itertuples`."""
    return list(map(RunRow._make, frame.to_numpy(dtype=object).tolist()))


def score_rows(frame: pd.DataFrame) -> list[ScoreRow]:
    """The same of a frame of scores."""
    return list(map(ScoreRow._make, frame.to_numpy(dtype=object).tolist()))


def make_frame(rows: list[tuple[Any, ...]], columns: tuple[str, ...]) -> pd.DataFrame:
    """A frame whose texts and lists are objects, so that None stays None, and numbers floats."""
    frame = pd.DataFrame(rows, columns=columns, dtype=object)
    numbers = {name: float for name in _NUMBERS if name in columns}
    return frame.astype(numbers).copy()  # in two blocks, of which rows are taken ten times faster

"""Training budgets: tuples by stage, of a record and of the preset `paper`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from shalabench.records.sheets import count, filled, read_sheet

FILE = Path(__file__).parent / "budgets.csv"
_MIXTURE, _DIFFUSION = "mixture", "fitted-diffusion"
FITTED = (_MIXTURE, _DIFFUSION)  # stages that see latents, not tuples


@dataclass(frozen=True)
class Budget:
    """The updates of one stage in the preset `paper`.

    The file holds them, so that tables need not import the methods; a test compares both.

    Attributes:
        dataset: What they are for; empty for all datasets without a row of their own.
        stage: Empty for the first one.
        updates, batch_size: Of the preset.
        published_for: The data for which they are published; empty where they are our choice.
        source: As the setting's.
        undertrained: Why a run with fewer tuples is called undertrained; empty where it is not.
    """

    method: str
    dataset: str
    stage: str
    updates: int
    batch_size: int
    published_for: str
    source: str
    undertrained: str = ""

    @property
    def tuples(self) -> int:
        """Updates times batch size."""
        return self.updates * self.batch_size


@cache
def read_budgets(file: Path = FILE) -> dict[tuple[str, str, str], Budget]:
    """Every budget of the file, by method, dataset and stage.

    Raises:
        ConfigErrors: It holds mistakes.
    """
    checks = {"method": filled, "source": filled, "updates": count, "batch_size": count}
    budgets = read_sheet(file, Budget, checks, ("method", "dataset", "stage"))
    return {(b.method, b.dataset, b.stage): b for b in budgets}


def budget_of(method: str, dataset: str, stage: str) -> Budget | None:
    """The budget of a stage on a dataset, else the one for all datasets; None where neither is."""
    budgets = read_budgets()
    return budgets.get((method, dataset, stage)) or budgets.get((method, "", stage))


def tuples_by_stage(settings: Mapping[str, Any], stages: Iterable[str]) -> dict[str, int] | None:
    """Training tuples, with repetitions, of each stage: its updates times its batch size.

    The first stage has "model.steps" and "model.batch_size", a further one a section of its name,
    such as "model.prior.steps" or "model.volume_steps". A stage that is fitted without updates has
    no entry. A stage that was not trained again, because another run's weights were reused, counts
    as if it was.

    Args:
        settings: Of the run, by dotted key.
        stages: Names of those that ran, in order.

    Returns:
        None where a stage's steps or batch size are not among the settings.
    """
    tuples = {}
    for number, stage in enumerate(stages):
        if stage == _MIXTURE:
            continue
        starts = (f"model.{stage}.", f"model.{stage}_", *(() if number else ("model.",)))
        if stage == _DIFFUSION:
            starts = ("prior.diffusion.",)
        sizes = [
            settings[f"{start}steps"] * settings[f"{start}batch_size"]
            for start in starts
            if {f"{start}steps", f"{start}batch_size"} <= settings.keys()
        ]
        if not sizes:
            return None
        tuples[stage] = sizes[0]
    return tuples


def tuples_seen(settings: Mapping[str, Any], stages: Iterable[str]) -> int | None:
    """The sum of `tuples_by_stage`; None where it is unknown or nothing."""
    return sum((tuples_by_stage(settings, stages) or {}).values()) or None

"""How runs are carried out, and how one has ended."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from shalabench.api import DataPaths

Status = Literal["done", "already", "skipped", "diverged", "failed", "stopped", "busy"]


@dataclass(frozen=True)
class SlurmOptions:
    """What a job asks Slurm for.

    Attributes:
        partition: Its name; the cluster's default where None.
        minutes: Time limit of a job, which is started again when it is over.
        array: Whether the runs are one job array; else each is a job.
        more: Other options of sbatch, such as ("account", "vision").
    """

    partition: str | None = None
    minutes: int = 60
    array: bool = False
    more: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Options:
    """How and where to carry runs out; none of it changes a number.

    Attributes:
        evaluators: Names; every one that applies where empty.
        split: "test", or "validation" for a choice.
        archive: Classifiers to use in place of the shipped ones.
        device: "auto", "cpu" or "cuda[:n]".
        jobs: Processes at a time; 1 works in this process.
        engine: "local", "ray" or "slurm".
        address: Of the Ray cluster.
        gpus: GPUs a run; with 0 it sees none. Each process of this machine has at most one.
        slurm: What Slurm is asked for.
        trackers: Names of experiment trackers that are given a log.
        deadline: Time (seconds of the clock) at which to stop; None for never.
        checkpoint_every: Seconds between checkpoints.
        threads: Torch threads a run; None leaves torch's choice, shared out between jobs.
        retry: Whether to take up runs that failed or diverged before.
        wait: Whether to wait for runs that another process holds.
        locks: Whether to hold runs by file locks; False where the file system has none.
        verbose: Whether to say of each run which evaluators do not apply; else each reason once.
    """

    store: Path
    paths: DataPaths
    evaluators: tuple[str, ...] = ()
    split: Literal["test", "validation"] = "test"
    archive: Path | None = None
    device: str = "auto"
    jobs: int = 1
    engine: Literal["local", "ray", "slurm"] = "local"
    address: str = "auto"
    gpus: float = 1.0
    slurm: SlurmOptions = SlurmOptions()
    trackers: tuple[str, ...] = ()
    deadline: float | None = None
    checkpoint_every: float = 60.0
    threads: int | None = None
    retry: bool = False
    wait: bool = False
    locks: bool = True
    verbose: bool = False


@dataclass(frozen=True)
class Outcome:
    """How one run ended.

    Attributes:
        status: In a word.
        text: In a sentence.
        folder: Where it is recorded, if anywhere.
        skipped: Why evaluators do not apply, by name.
    """

    status: Status
    text: str
    folder: Path | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)

"""What comes before any run: data on disk, and the classifiers that will judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import classifiers
from shalabench.api import BenchError, DataPaths, Dataset
from shalabench.api.registry import find
from shalabench.config.settings import resolve_data
from shalabench.execute.campaign import choose_device


def prepare_dataset(
    name: str, overrides: Sequence[str], paths: DataPaths, *, download: bool = False
) -> Dataset:
    """A dataset whose splits are ready to be read.

    Args:
        name: Registered name.
        overrides: "data.key=value" each.
        paths: Where sources lie and where generated data are kept.
        download: Whether missing sources may be fetched.

    Raises:
        BenchError: The name, a setting or the data are wrong.
    """
    dataset = find("dataset", name).cls(resolve_data(name, overrides))
    dataset.prepare(paths, download=download)
    return dataset


def train_classifiers(
    name: str,
    overrides: Sequence[str],
    paths: DataPaths,
    device: str,
    out: Path | None,
    updates: int | None = None,
) -> Iterator[dict[str, Any]]:
    """Train and store one classifier a modality of a dataset.

    Args:
        name: Registered name of the dataset.
        overrides: "data.key=value" each.
        paths: Where the data lie.
        device: "auto", "cpu" or "cuda[:n]".
        out: Folder for the weights; the shipped ones of the dataset where None.
        updates: Of each classifier; as many as are known to suffice where None.

    Yields:
        What is recorded of each classifier, as soon as it is written.

    Raises:
        BenchError: The dataset has neither classes nor attributes, or its name, a setting or the
            data are wrong.
    """
    data = prepare_dataset(name, overrides, paths)
    if not data.spec.classes and data.spec.grammar is None:
        raise BenchError(f"The dataset '{name}' has no classes to train a classifier on.")
    told = ["python bench.py classifiers train --dataset", name, *(f"--set {o}" for o in overrides)]
    told += [f"--updates {updates}"] if updates else []
    yield from classifiers.train_all(data, choose_device(device), out, " ".join(told), updates)

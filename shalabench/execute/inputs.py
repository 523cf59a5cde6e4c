"""What runs need before they begin: datasets, classifiers and the device."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import classifiers
from classifiers.weights import SHIPPED
from shalabench.api import BenchError, Classifier, DataError, DataPaths, Dataset, DataSettings
from shalabench.api.commands import command_line
from shalabench.api.registry import entries, find
from shalabench.config.settings import resolve_data
from shalabench.config.training import TrainSettings
from shalabench.execute.incomplete import hide_views


def open_dataset(name: str, settings: DataSettings, paths: DataPaths) -> Dataset:
    """A prepared dataset of which every tuple is complete.

    It is kept in memory between runs of one process, whatever `settings.missing` is.
    """
    return _open(name, settings.model_copy(update={"missing": 0.0}), paths)


@functools.lru_cache(maxsize=2)
def _open(name: str, settings: DataSettings, paths: DataPaths) -> Dataset:
    dataset = find("dataset", name).cls(settings)
    dataset.prepare(paths)
    _check(dataset)
    return dataset


def _check(dataset: Dataset) -> None:
    """Refuse contradictions, also of datasets that do not keep their splits by `set_splits`."""
    if problem := next(filter(None, (m.problem() for m in dataset.spec.modalities)), None):
        raise DataError(f"The dataset '{dataset.name}' cannot be used. {problem}")


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
    settings = resolve_data(name, overrides)
    dataset = find("dataset", name).cls(settings)
    dataset.prepare(paths, download=download)
    _check(dataset)
    return hide_views(dataset, settings.missing)


def load_classifiers(
    dataset: Dataset, evaluators: Sequence[str], archive: Path | None, device: torch.device
) -> dict[str, Classifier]:
    """The classifiers of a dataset by modality; none where no evaluator uses them.

    Args:
        dataset: Prepared.
        evaluators: Names; every registered one where empty. Unless all of those that are named
            need classifiers, a dataset without shipped ones has none, and the evaluators that need
            them are skipped.
        archive: Folder of classifiers to use in place of the shipped ones.
        device: Where they compute.
    """
    names = evaluators or tuple(entries("evaluator"))
    if not any(find("evaluator", name).cls.uses_classifiers for name in names):
        return {}
    try:
        return classifiers.load(dataset.spec, device, archive)
    except classifiers.NotShipped:
        if evaluators and all(find("evaluator", n).cls.needs_classifiers() for n in names):
            raise
        return {}


def train_classifiers(
    name: str,
    overrides: Sequence[str],
    paths: DataPaths,
    device: str,
    out: Path | None,
    updates: int | None = None,
    overwrite: bool = False,
) -> Iterator[dict[str, Any]]:
    """Train and store one classifier a modality of a dataset.

    Args:
        name: Registered name of the dataset.
        overrides: "data.key=value" each.
        paths: Where the data lie.
        device: "auto", "cpu" or "cuda[:n]".
        out: Folder for the weights; the shipped ones of the dataset where None.
        updates: Of each classifier; as many as are known to suffice where None.
        overwrite: Whether shipped weights may be replaced.

    Yields:
        What is recorded of each classifier, as soon as it is written.

    Raises:
        BenchError: The dataset has neither classes nor attributes, or its name, a setting or the
            data are wrong. Or shipped weights would be replaced.
    """
    shipped = SHIPPED / name
    is_shipped = (shipped / "weights.json").is_file()
    if is_shipped and not overwrite and (out or shipped).resolve() == shipped.resolve():
        raise BenchError(
            f"{shipped} holds the packaged classifiers of '{name}'. Write --out FOLDER to keep "
            "them and use yours by --classifiers FOLDER, or add --overwrite to replace them."
        )
    data = open_dataset(name, resolve_data(name, overrides), paths)
    if not data.spec.classes and data.spec.grammar is None:
        raise BenchError(f"The dataset '{name}' has no classes to train a classifier on.")
    options = {"dataset": name, "set": list(overrides), "updates": updates}
    command = command_line("python bench.py classifiers train", options)
    yield from classifiers.train_all(data, choose_device(device), out, command, updates)


def choose_device(name: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one.

    Raises:
        BenchError: It is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise BenchError(f"--device is '{name}'; auto, cpu or cuda[:n] was expected.")
    device = torch.device(name)
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise BenchError(f"--device is '{name}' and torch sees {count} GPUs. Use cpu or auto.")
    return device


def check_gpu_settings(train: TrainSettings, device: torch.device) -> None:
    """Refuse settings of a training that have no meaning on its device.

    Raises:
        BenchError: One is set, and the device is no GPU.
    """
    for name in ("graphs", "tf32"):
        if getattr(train, name) and device.type != "cuda":
            raise BenchError(
                f"train.{name} is true and the device is {device}; it needs an NVIDIA GPU "
                f"(--device cuda). Leave train.{name} false."
            )


def order_channels_last(model: nn.Module) -> None:
    """Lay out weights of two-dimensional convolutions channels last; volumes' stay as they are.

    `Module.to(memory_format=...)` refuses models that also have three-dimensional convolutions.
    """
    for weight in model.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last)


def compile_networks(module: nn.Module) -> None:
    """Compile each outermost part of a model that is called as a network.

    What does not compile runs as it is, and torch warns of it.
    """
    torch._dynamo.config.suppress_errors = True
    for part in module.children():
        if type(part).forward is nn.Module.forward:  # a container, or called by other methods
            compile_networks(part)
        else:
            part.compile()


@functools.cache
def keep_freed_memory() -> None:
    """Let glibc reuse large freed blocks; handing them back costs a page fault each 4 kB.

    Measured on a CPU: a fifth to a third of an update. Without glibc it does nothing.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(mmap_threshold, 1 << 30)
        libc.mallopt(trim_threshold, (1 << 31) - 1)

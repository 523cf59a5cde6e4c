"""The trained model of a recorded run, and its data."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import ValidationError

from shalabench.api import (
    BenchError,
    Classifier,
    DataPaths,
    Dataset,
    Model,
    Settings,
)
from shalabench.api.registry import find
from shalabench.config.nested import leaves, nest
from shalabench.config.training import PriorSettings, SamplingSettings
from shalabench.execute.incomplete import hide_views
from shalabench.execute.inputs import load_classifiers, open_dataset, order_channels_last
from shalabench.execute.sampling import set_temperatures
from shalabench.execute.tensors import damaged_weights, read_weights
from shalabench.priors.fitted import with_prior
from shalabench.records.ids import as_then
from shalabench.records.store import RunFolder


def load_trained(folder: RunFolder, paths: DataPaths) -> tuple[Model, Dataset]:
    """A run's model in eval mode with its weights, on the CPU, and its data.

    Args:
        folder: Of a finished run that has its weights.
        paths: Where the data lie.

    Raises:
        BenchError: The code or the data here are not those of the run, or its weights do not load.
    """
    run = folder.run
    entry = find("model", run["model"])
    if entry.version != run["model_version"]:
        raise BenchError(
            f"{folder.path.name} was trained by version {run['model_version']} of {run['model']}, "
            f"and this is version {entry.version}. Train it again."
        )
    data = _read(folder, find("dataset", run["dataset"]).cls.Config, "data")
    dataset = hide_views(open_dataset(run["dataset"], data, paths), data.missing)
    spec = dataset.spec
    if spec.fingerprint != run["data"]["fingerprint"]:
        raise BenchError(
            f"{folder.path.name} was trained on other data ({run['data']['source']}) than lie here "
            f"({spec.source}). Name theirs with --data-root, or train it again."
        )
    method = with_prior(entry.cls, _read(folder, PriorSettings, "prior"))
    with torch.random.fork_rng(devices=[]):
        model = method(spec, _read(folder, entry.cls.Config, "model"))
    if run["settings"].get("train.channels_last"):
        order_channels_last(model)
    state = read_weights(folder.weights, (folder.trained or {}).get("digest"), "cpu")
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise damaged_weights(folder.weights, str(error).partition("\n")[0]) from error
    set_temperatures(model, _read(folder, SamplingSettings, "sampling"))
    return model.eval(), dataset


def load_with_classifiers(
    folder: RunFolder, paths: DataPaths
) -> tuple[Model, Dataset, dict[str, Classifier]]:
    """A run's model and data as `load_trained` gives them, and the shipped classifiers.

    There are no classifiers where the data have no classes or none are shipped.
    """
    model, dataset = load_trained(folder, paths)
    if not dataset.spec.classes:
        return model, dataset, {}
    return model, dataset, load_classifiers(dataset, (), None, torch.device("cpu"))


def _read(folder: RunFolder, cls: type[Settings], section: str) -> Any:
    """The settings of a section as the run's record holds them."""
    known = (f"{section}.{key}" for key, _ in leaves(cls().model_dump()))
    try:
        return cls.model_validate(nest(as_then(folder.run["settings"], known), section))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (section, *first["loc"])))
        raise BenchError(
            f"{folder.path.name} was trained with {key} = {first['input']!r}, which is no setting "
            f"here any more ({first['msg'].lower()}). Train it again."
        ) from error

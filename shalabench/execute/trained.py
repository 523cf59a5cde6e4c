"""The trained model of a recorded run, and its data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError

from shalabench.api import (
    BenchError,
    Classifier,
    DataPaths,
    Dataset,
    DataSpec,
    Model,
    Settings,
)
from shalabench.api.registry import Entry, find
from shalabench.config.nested import leaves, nest
from shalabench.config.training import PriorSettings, SamplingSettings
from shalabench.execute.incomplete import hide_views
from shalabench.execute.inputs import load_classifiers, open_dataset, order_channels_last
from shalabench.execute.sampling import set_temperatures
from shalabench.execute.tensors import damaged_weights, read_weights
from shalabench.priors.fitted import with_prior
from shalabench.records.ids import with_later_settings
from shalabench.records.store import RunFolder

_AGAIN = "Train it again."


def load_trained(folder: RunFolder, paths: DataPaths) -> tuple[Model, Dataset]:
    """A run's model in eval mode with its weights, on the CPU, and its data.

    Args:
        folder: Of a finished run that has its weights.
        paths: Where the data lie.

    Raises:
        BenchError: The code or the data here are not those of the run, or its weights do not load.
    """
    run, who = folder.run, folder.path.name
    _find_method(run, who, _AGAIN)
    data = _read(run, find("dataset", run["dataset"]).cls.Config, "data", who, _AGAIN)
    dataset = hide_views(open_dataset(run["dataset"], data, paths), data.missing)
    spec = dataset.spec
    if spec.fingerprint != run["data"]["fingerprint"]:
        raise BenchError(
            f"{who} was trained on other data ({run['data']['source']}) than lie here "
            f"({spec.source}). Name theirs with --data-root, or train it again."
        )
    model = build_model(run, spec, who)
    state = read_weights(folder.weights, (folder.trained or {}).get("digest"), "cpu")
    try:
        model.load_state_dict(state)
    except (RuntimeError, TypeError) as error:
        raise damaged_weights(folder.weights, str(error).partition("\n")[0]) from error
    return model, dataset


def build_model(run: Mapping[str, Any], spec: DataSpec, who: str, cure: str = _AGAIN) -> Model:
    """The model of a run in eval mode, on the CPU, before its weights are loaded.

    Args:
        run: Its description: "model", "model_version" and "settings".
        spec: Of its data.
        who: The name of the run, for messages.
        cure: The next step where it cannot be built here, for messages.

    Raises:
        BenchError: The method is unknown or of another version, or a setting of the run no longer
            exists.
    """
    entry = _find_method(run, who, cure)
    method = with_prior(entry.cls, _read(run, PriorSettings, "prior", who, cure))
    with torch.random.fork_rng(devices=[]):
        model = method(spec, _read(run, entry.cls.Config, "model", who, cure))
    if run["settings"].get("train.channels_last"):
        order_channels_last(model)
    set_temperatures(model, _read(run, SamplingSettings, "sampling", who, cure))
    return model.eval()


def _find_method(run: Mapping[str, Any], who: str, cure: str) -> Entry:
    entry = find("model", run["model"])
    if entry.version != run["model_version"]:
        raise BenchError(
            f"{who} was trained by version {run['model_version']} of {run['model']}, and this is "
            f"version {entry.version}. {cure}"
        )
    return entry


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


def _read(run: Mapping[str, Any], cls: type[Settings], section: str, who: str, cure: str) -> Any:
    """The settings of a section as the run's record holds them."""
    known = (f"{section}.{key}" for key, _ in leaves(cls().model_dump()))
    try:
        return cls.model_validate(nest(with_later_settings(run["settings"], known), section))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, (section, *first["loc"])))
        raise BenchError(
            f"{who} was trained with {key} = {first['input']!r}, which is no setting here any more "
            f"({first['msg'].lower()}). {cure}"
        ) from error

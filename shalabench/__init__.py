"""Benchmark of multimodal generative models that share one latent space.

    >>> import shalabench as sb
    >>> sb.run("shala", "polydigits", preset="smoke")
    >>> sb.results(metric="coherence")

Importing the package imports neither torch nor pandas.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from shalabench.api.files import expand_home

if TYPE_CHECKING:
    import pandas as pd

    from shalabench.api import DataPaths, Dataset
    from shalabench.exchange.loaded import LoadedRun
    from shalabench.execute.campaign import Summary

__version__ = "0.2.0"
__all__ = ["__version__", "dataset", "evaluate", "load_pretrained", "load_run", "results", "run"]


def results(
    stores: str | Path | Sequence[str | Path] | None = None,
    metric: str | None = None,
    *,
    split: str = "test",
) -> pd.DataFrame:
    """Return the recorded scores as a data frame with a row for each score.

        >>> scores = shalabench.results(metric="coherence/joint")
        >>> scores.groupby(["dataset", "preset", "method"])["value"].mean()

    Args:
        stores: A folder of records, or several. By default the runs in the default store or, if
            there are none, the packaged reference records.
        metric: Name of a metric, or the first part of the names of several, such as "coherence";
            None for all.
        split: "test" or "validation".

    Raises:
        BenchError: There are no records.
    """
    from shalabench.records.frame import load
    from shalabench.records.locations import default_stores
    from shalabench.records.store import Store

    if isinstance(stores, str | Path):
        stores = [stores]
    folders = [expand_home(store) for store in stores] if stores is not None else default_stores()
    scores = load([Store(folder) for folder in folders], split).scores
    if metric is None:
        return scores
    return scores[(scores.metric == metric) | scores.metric.str.startswith(f"{metric}/")]


def dataset(name: str, **settings: Any) -> Dataset:
    """Return a dataset that is ready to be read; nothing is downloaded.

        >>> data = shalabench.dataset("mst-digits", missing=0.3)
        >>> test = data.split("test")

    Args:
        name: Registered name, as in `shala-bench list datasets`.
        settings: Settings of the dataset by name, as in `--set data.KEY=VALUE`.

    Data are read from the folder in the environment variable SHALA_DATA. Generated data are kept
    in that of SHALA_CACHE.

    Raises:
        BenchError: The name or a setting is wrong, or the data are missing.
    """
    from shalabench.execute.inputs import prepare_dataset

    overrides = _overrides({f"data.{key}": value for key, value in settings.items()})
    return prepare_dataset(name, overrides, _data_paths())


def run(
    models: str | Sequence[str],
    dataset: str,
    preset: str = "quick",
    *,
    seeds: Sequence[int] = (0,),
    settings: dict[str, Any] | None = None,
    store: str | Path | None = None,
    **overrides: Any,
) -> Summary:
    """Train and evaluate methods, and record the results; finished work is not repeated.

        >>> summary = shalabench.run(["shala", "mvae"], "polydigits", "smoke", latent_dim=32)
        >>> summary.exit_code
        0

    Args:
        models: Registered names, or "all".
        dataset: Registered name.
        preset: Name of a preset, as in `shala-bench list presets`.
        seeds: Each method is trained once with each seed.
        settings: Values by dotted key, such as `{"model.latent_dim": 32}`.
        store: Folder for the records; by default that of `shala-bench run`.
        overrides: Fields of `shalabench.execute.campaign.Options`, such as `jobs`, `device` or
            `evaluators`; any other name is a setting of the methods, with two underscores for a
            dot: `latent_dim=32`, `optimiser__lr=1e-3`.

    Returns:
        The outcome of each run.

    Raises:
        ConfigErrors: All wrong names and settings together, before any training.
        BenchError: The device, the data or the classifiers are missing.
    """
    from shalabench.config.plan import plan
    from shalabench.execute.campaign import Options, run_campaign
    from shalabench.execute.progress import Reporter
    from shalabench.records.locations import default_store

    known = {field.name for field in dataclasses.fields(Options)}
    options = {key: value for key, value in overrides.items() if key in known}
    options |= {key: _names(options[key]) for key in ("evaluators", "trackers") if key in options}
    values = {
        f"model.{key.replace('__', '.')}": value
        for key, value in overrides.items()
        if key not in known
    }
    texts = _overrides({**values, **(settings or {})})
    runs = plan(_names(models), dataset, preset, seeds, texts, options.get("evaluators", ()))
    folder = expand_home(store) if store is not None else default_store()
    with Reporter() as reporter:
        return run_campaign(runs, Options(store=folder, paths=_data_paths(), **options), reporter)


def load_run(run: str | Path) -> LoadedRun:
    """Return the trained model of a finished run, in eval mode, on the CPU.

        >>> model = shalabench.load_run("shala-polydigits-smoke-s0-...")
        >>> model.names
        >>> model.sample(8, seed=0)
        >>> model.translate({"m0": x}, ["m1"], seed=0)

    Args:
        run: The folder of a run, or its name in the default store. Or a folder of weights, or the
            name of weights that are part of the package; these need no data.

    Raises:
        BenchError: There is no such run, it has no weights, or the data or the code have changed
            since.
    """
    from functools import partial

    from shalabench.exchange.loaded import LoadedRun
    from shalabench.exchange.pretrained import describe, load
    from shalabench.execute.trained import load_trained
    from shalabench.records.locations import find_run, find_weights, packaged_weights

    if weights := find_weights(run):
        return load(weights)
    folder = find_run(run, packaged_weights())
    return LoadedRun(*load_trained(folder, _data_paths()), partial(describe, folder))


def load_pretrained(source: str | Path, *, trust_code: bool = False, **options: Any) -> LoadedRun:
    """Return a trained model from a folder of weights or from the Hugging Face hub.

        >>> shalabench.load_run("shala-polydigits-smoke-s0-...").save_pretrained("folder")
        >>> model = shalabench.load_pretrained("folder")
        >>> model = shalabench.load_pretrained("owner/name", revision="main")

    Neither data nor the run are needed, and nothing is unpickled.

    Args:
        source: A folder that `save_pretrained` or `shala-bench weights` wrote, the name of weights
            that are part of the package, or "owner/name" on the hub, which needs the extra `hub`.
        trust_code: Whether custom networks (`model.networks.NAME`), which are code, may be
            imported.
        options: For the hub: revision, cache_dir, force_download, local_files_only, token.

    Raises:
        BenchError: There are no such weights, a file is damaged, or the method is unknown or has
            another version in this installation.
    """
    from shalabench.api.errors import BenchError, unknown
    from shalabench.records.locations import CONFIG, find_weights, packaged_weights

    if folder := find_weights(source):
        from shalabench.exchange.pretrained import load

        return load(folder, trust_code=trust_code)
    if expand_home(source).exists():
        raise BenchError(f"{source} has no {CONFIG}, which `save_pretrained` writes.")
    if str(source).count("/") != 1 or str(source).startswith((".", "/", "~")):
        raise BenchError(unknown("folder of weights", str(source), packaged_weights()))
    from shalabench.exchange.hub import load_from_hub

    return load_from_hub(str(source), trust_code=trust_code, **options)


def evaluate(
    samples: Any,
    dataset: str,
    evaluators: Sequence[str] = (),
    *,
    name: str = "samples",
    preset: str = "quick",
    settings: dict[str, Any] | None = None,
    store: str | Path | None = None,
    split: Literal["test", "validation"] = "test",
    **options: Any,
) -> pd.DataFrame:
    """Score samples that other code has made, or a model (docs/external.md).

        >>> shalabench.evaluate("samples.npz", "polymnist", ["coherence"])
        >>> shalabench.evaluate({"m0": images, "m1": others}, "my-data", preset="external")

    Args:
        samples: A folder, an archive, arrays by name, or an object with `sample(n)` or
            `translate(given, targets)`, such as what `load_run` returns.
        dataset: Registered name.
        evaluators: Names of evaluators; if empty, all that apply.
        name: Name of the method in tables, which add " (external)".
        preset: Preset whose evaluator settings are used, or "external" for the default ones.
        settings: Values by dotted key, such as `{"data.modalities": 3}`.
        store: Folder for the records; by default, no records are kept.
        split: Split whose tuples are given and compared with.
        options: Other fields of `shalabench.exchange.score.Request`, such as `number` or `range`.

    Returns:
        A row for each score, as `results` returns them.

    Raises:
        ConfigErrors: The samples do not fit the data; it states what is expected.
        BenchError: No evaluator applies, or all failed. If only some failed, a warning names them.
    """
    import tempfile
    import warnings

    from shalabench.exchange.score import Request, score
    from shalabench.records.frame import load
    from shalabench.records.store import Store

    asked = _names(evaluators)
    with tempfile.TemporaryDirectory() as folder:
        request = Request(
            *(name, dataset, expand_home(store or folder), _data_paths(), preset),
            evaluators=asked,
            overrides=_overrides(settings or {}),
            split=split,
            **options,
        )
        scored = score(samples, request)
        for evaluator, reason in scored.failed.items():
            warnings.warn(f"{evaluator} failed: {reason}", stacklevel=2)
        scores = load([Store(scored.folder.path)], split).scores
    return scores[scores.evaluator.isin(asked)] if asked else scores


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    """Names of which one may be given alone."""
    return (given,) if isinstance(given, str) else tuple(given)


def _overrides(settings: dict[str, Any]) -> tuple[str, ...]:
    return tuple(f"{key}={json.dumps(value)}" for key, value in settings.items())


def _data_paths() -> DataPaths:
    from shalabench.api import DataPaths
    from shalabench.records.locations import DATA_ROOT, default_cache

    return DataPaths(
        expand_home(os.environ.get("SHALA_DATA") or DATA_ROOT),
        expand_home(os.environ.get("SHALA_CACHE") or default_cache()),
    )

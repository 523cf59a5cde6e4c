"""Benchmark of multimodal generative models that share one latent space.

    >>> import shalabench
    >>> shalabench.run("shala", "polydigits", preset="smoke")
    >>> shalabench.results(metric="coherence")

Importing the package imports neither torch nor pandas.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shalabench.api.files import expand_home

if TYPE_CHECKING:
    import pandas as pd

    from shalabench.api import DataPaths, Dataset, Model
    from shalabench.execute.campaign import Summary

__version__ = "0.2.0"
__all__ = ["__version__", "dataset", "load_run", "results", "run"]


def results(
    stores: Sequence[str | Path] | None = None, metric: str | None = None, *, split: str = "test"
) -> pd.DataFrame:
    """Return the recorded scores as a data frame with a row for each score.

        >>> scores = shalabench.results(metric="coherence/joint")
        >>> scores.groupby(["dataset", "preset", "method"])["value"].mean()

    Args:
        stores: Folders of records. By default the runs made here or, before any, the reference
            records.
        metric: A metric, or the first part of several, such as "coherence"; all if None.
        split: "test" or "validation".

    Raises:
        BenchError: There are no records.
    """
    from shalabench.records.frame import load
    from shalabench.records.locations import default_stores
    from shalabench.records.store import Store

    folders = [expand_home(store) for store in stores] if stores is not None else default_stores()
    scores = load([Store(folder) for folder in folders], split).scores
    if metric is None:
        return scores
    return scores[(scores.metric == metric) | scores.metric.str.startswith(f"{metric}/")]


def dataset(name: str, **settings: Any) -> Dataset:
    """Return a dataset whose files are ready to be read; downloads nothing.

        >>> data = shalabench.dataset("mst-digits", missing=0.3)
        >>> test = data.split("test")

    Args:
        name: Registered name, as in `shala-bench list datasets`.
        settings: Values to change, as in `--set data.KEY=VALUE`. Data are read from the folder in
            the environment variable SHALA_DATA, and generated data are kept in SHALA_CACHE.

    Raises:
        BenchError: The name or a setting is wrong, or the data are missing.
    """
    from shalabench.execute.inputs import prepare_dataset

    overrides = [f"data.{key}={json.dumps(value)}" for key, value in settings.items()]
    return prepare_dataset(name, overrides, _data_paths())


def run(
    models: str | Sequence[str],
    dataset: str,
    preset: str = "quick",
    *,
    seeds: Sequence[int] = (0,),
    settings: dict[str, Any] | None = None,
    store: str | Path | None = None,
    **options: Any,
) -> Summary:
    """Train and evaluate methods, and record the results; finished work is not repeated.

        >>> summary = shalabench.run(["shala", "mmvae+"], "polydigits", preset="smoke", jobs=2)
        >>> summary.exit_code
        0

    Args:
        models: Registered names, or "all".
        dataset: Registered name.
        preset: "smoke", "quick", "cpu" or "paper".
        seeds: One run of each method for each seed.
        settings: Values by dotted key, such as `{"model.latent_dim": 32}`.
        store: Folder for the records; by default that of `shala-bench run`.
        options: Other fields of `shalabench.execute.campaign.Options`, such as `jobs`, `device`
            or `evaluators`.

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

    names = [models] if isinstance(models, str) else models
    overrides = [f"{key}={json.dumps(value)}" for key, value in (settings or {}).items()]
    runs = plan(names, dataset, preset, seeds, overrides, options.get("evaluators", ()))
    folder = expand_home(store) if store is not None else default_store()
    with Reporter() as reporter:
        return run_campaign(runs, Options(store=folder, paths=_data_paths(), **options), reporter)


def load_run(run: str | Path) -> Model:
    """Return the trained model of a finished run, in eval mode, on the CPU.

        >>> model = shalabench.load_run("results/runs/shala-polydigits-smoke-s0-...")
        >>> model.spec.names
        >>> model.sample(16, Rng(0))

    Args:
        run: The folder of a run, or its name in the default store.

    Returns:
        The model; `model.spec` describes its modalities.

    Raises:
        BenchError: There is no such run, it has no weights, or its data or its code are different
            here.
    """
    from shalabench.api.errors import BenchError, unknown
    from shalabench.execute.trained import load_trained
    from shalabench.records.locations import default_store
    from shalabench.records.store import RunFolder, Store

    folder = RunFolder(expand_home(run))
    if not (folder.path / "run.json").is_file():
        known = {folder.path.name: folder for folder in Store(default_store()).runs()}
        if str(run) not in known:
            raise BenchError(unknown("run", str(run), known))
        folder = known[str(run)]
    return load_trained(folder, _data_paths())[0]


def _data_paths() -> DataPaths:
    from shalabench.api import DataPaths
    from shalabench.records.locations import DATA_ROOT, default_cache

    return DataPaths(
        expand_home(os.environ.get("SHALA_DATA") or DATA_ROOT),
        expand_home(os.environ.get("SHALA_CACHE") or default_cache()),
    )

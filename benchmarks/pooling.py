"""CPU time of poolings: their share of an update, and how they grow with the modalities.

    python benchmarks/pooling.py [--preset quick] [--batch 32] [--repeats 8]

The first table has an update of each method on five modalities (PolyDigits), with the networks of
mvtcae: seconds, and their ratio to an update of mvtcae. The second has one pooling of all
experts, forward and backward, for 2 to 16 modalities: milliseconds, and the exponent of M by which
they grow from 8 to 16. Times are medians of CPU time in a process with one thread, and turns
alternate. Use an idle machine.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median
from typing import Any, get_args

import click
import torch
from step import build, make_update
from tabulate import tabulate
from timing import Work, describe_processor, keep_memory, take_turns
from torch.distributions import Normal

from shalabench.api import DataPaths
from shalabench.api.registry import find
from shalabench.config.settings import resolve
from shalabench.nets.pooling import Pooling, pool_all

_MODALITIES = (2, 4, 8, 16)
_CALLS = 20  # of a pooling, a turn
_RHO = 0.4


def make_updates(paths: DataPaths, dataset: str, preset: str, batch: int) -> dict[str, Work]:
    """An update of mvtcae, of helvae under each pooling and training, and of the other methods."""
    entry = find("dataset", dataset).cls
    data = entry(entry.Config())
    data.prepare(paths)
    split = data.split("train").head(batch)
    asked = {"mvtcae": ("mvtcae", ())}
    for training in ("full", "subsets"):
        for pooling in get_args(Pooling):
            settings = (f"model.pooling={pooling}", f"model.training={training}")
            asked[f"{pooling}, {training}"] = ("helvae", settings)
    asked |= {name: (name, ()) for name in ("codevae", "crmvae")}
    updates = {}
    for label, (method, settings) in asked.items():
        config = resolve(method, dataset, preset, settings).model
        (stage,) = build(method, data.spec, config).stages()
        stage.begin(split)
        updates[label] = keep_memory(make_update(stage, split, "float32"))
    return updates


def make_pooling(pooling: Pooling, modalities: int, batch: int, size: int) -> Work:
    """Poolings of all experts, forward and backward, `_CALLS` times."""
    torch.manual_seed(0)
    mean, log_scale = (torch.randn(modalities, batch, size) for _ in range(2))
    given = mean.requires_grad_(), (0.3 * log_scale).requires_grad_()

    def work() -> None:
        for _ in range(_CALLS):
            q = pool_all(Normal(given[0], given[1].exp(), validate_args=False), pooling, _RHO)
            torch.autograd.grad(q.mean.sum() + q.scale.sum(), given)

    return work


def measure(
    paths: DataPaths, dataset: str, preset: str, batch: int, size: int, repeats: int
) -> dict[str, Any]:
    """Rows of both tables, ready for JSON."""
    turns = take_turns(make_updates(paths, dataset, preset, batch), repeats)
    # A turn's methods share its busy spells, so ratios are taken within turns.
    updates = [
        (name, median(times), median(a / b for a, b in zip(times, turns["mvtcae"], strict=True)))
        for name, times in turns.items()
    ]
    works = {
        f"{pooling} {m}": make_pooling(pooling, m, batch, size)
        for pooling in get_args(Pooling)
        for m in _MODALITIES
    }
    found = {name: median(times) for name, times in take_turns(works, repeats).items()}
    poolings = []
    for pooling in get_args(Pooling):
        times = [1e3 * found[f"{pooling} {m}"] / _CALLS for m in _MODALITIES]
        poolings.append((pooling, *times, math.log2(times[-1] / times[-2])))
    facts = {"machine": describe_processor(), "torch": torch.__version__, "dataset": dataset}
    facts |= {"preset": preset, "batch": batch, "size": size, "modalities": _MODALITIES}
    return facts | {"updates": updates, "poolings": poolings}


@click.command(help=__doc__)
@click.option("--dataset", default="polydigits", show_default=True)
@click.option("--preset", default="quick", show_default=True)
@click.option("--batch", default=32, show_default=True, help="Tuples an update.")
@click.option("--size", default=64, show_default=True, help="D, in the second table.")
@click.option("--repeats", default=8, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
@click.option("--data-root", envvar="SHALA_DATA", default="data")
@click.option("--cache-dir", envvar="SHALA_CACHE", default=Path.home() / ".cache" / "shala-bench")
def main(as_json: bool, data_root: Path, cache_dir: Path, **what: Any) -> None:
    """Print both tables."""
    torch.set_num_threads(1)
    made = measure(DataPaths(Path(data_root), Path(cache_dir)), **what)
    if as_json:
        click.echo(json.dumps(made, indent=1))
        return
    head = ("method, or helvae's pooling and training", "s an update", "times mvtcae")
    click.echo(tabulate(made["updates"], head, floatfmt=("", ".4f", ".2f")))
    head = ("pooling, ms", *(f"M = {m}" for m in _MODALITIES), "exponent 8 to 16")
    formats = ("", *[".3f"] * len(_MODALITIES), ".2f")
    click.echo("\n" + tabulate(made["poolings"], head, floatfmt=formats))


if __name__ == "__main__":
    main()

"""How a method's cost grows with the number of views: updates, joint samples and translations.

    python benchmarks/views.py [--method shala] [--views 4,8,16,32] [--set train.precision=float32]
    python benchmarks/views.py --method mmvae+,cmvae --modalities 2,4,6,8,10 --set model.experts=1

The views are random pictures with cameras evenly spaced round an object. Networks, batch sizes and
precision are the preset's for cars. With `--modalities`, they are pictures without cameras, and all
is the preset's for PolyMNIST. The rows are an update of each stage, sixteen joint samples, and
sixteen translations of the first view to all. The numbers of views take turns, each in a
process of its own with one thread; the best CPU time of each is shown. `GFLOP` counts the
multiplications and additions of convolutions and matrix products, the same on every machine.
Columns with an x are relative to the row with the fewest views. No cost should grow faster than
`views x`. `power` is the exponent p for which CPU time grew as views^p, by least squares. Methods
without a setting that `--set` names are left out, and so are numbers that a method refuses; stderr
says which.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import click
import numpy as np
import torch
from step import build, make_update
from tabulate import tabulate
from timing import Meter, Work, best_times, describe_processor, keep_memory

from shalabench.api import (
    ConfigErrors,
    DataSpec,
    Joint,
    Modality,
    Model,
    Rng,
    Split,
    Translate,
    choose_precision,
)
from shalabench.api.registry import find
from shalabench.config.settings import Resolved, resolve
from shalabench.datasets.sources.composing import describe_modalities
from shalabench.datasets.sources.polymnist import SIDE
from shalabench.datasets.sources.rig import describe_views, ring

_GENERATED = 16  # tuples
_HEAD = ("work", "views", "CPU ms", "GFLOP", "views x", "CPU x", "GFLOP x")


def make_modalities(config: Resolved, views: int) -> tuple[Modality, ...]:
    """Views of a car where the data have cameras, else PolyMNIST's modalities."""
    if hasattr(config.data, "resolution"):
        return describe_views(ring(views), config.data.resolution)
    return describe_modalities(views, SIDE)


def make_spec(config: Resolved, views: int) -> DataSpec:
    """Random pictures of those modalities."""
    return DataSpec("random", 1, make_modalities(config, views), 0, {}, "", "random pixels")


def make_works(method: str, config: Resolved, views: int, only: str = "") -> dict[str, Work]:
    """What is measured at a number of views, by name; only work whose name contains `only`."""
    spec = make_spec(config, views)
    model = build(method, spec, config.model)
    stages = model.stages()
    split = make_split(spec, max(stage.batch_size for stage in stages))
    precision = choose_precision(config.train.precision, split.device)
    works = {}
    for stage in stages:
        stage.begin(split)
        batch = split.head(stage.batch_size)
        works[f"{stage.name} update"] = make_update(stage, batch, precision)
    works |= make_generations(model, split.head(_GENERATED))
    return {name: work for name, work in works.items() if only in name}


def make_split(spec: DataSpec, n: int) -> Split:
    """Random pictures, `n` tuples."""
    shapes = {m.name: (n, *m.shape) for m in spec.modalities}
    return Split({k: torch.randint(256, x, dtype=torch.uint8) for k, x in shapes.items()})


def make_generations(model: Model, split: Split) -> dict[str, Work]:
    """As many joint samples as the split has tuples, and translations of the first view to all."""
    names, n = model.spec.names, len(split)
    given = {names[0]: split.batch(torch.arange(n)).views[names[0]]}

    @torch.no_grad()  # inference mode would hide operations from the meter
    def sample() -> None:
        model.eval().sample(n, Rng(0))

    @torch.no_grad()
    def translate() -> None:
        model.eval().translate(given, names, Rng(0))

    works = {"joint sample": (sample, Joint), "translation": (translate, Translate)}
    return {name: work for name, (work, ability) in works.items() if isinstance(model, ability)}


def count(work: Work) -> float:
    """GFLOP of a piece of work."""
    with Meter() as meter:
        work()
    return meter.flops / 1e9


def measure(
    method: str, config: Resolved, numbers: list[int], repeats: int, only: str = ""
) -> Iterator[tuple]:
    """A row for each piece of work and number of views."""
    works = {views: make_works(method, config, views, only) for views in numbers}
    for name in works[numbers[0]]:
        timed = {str(views): keep_memory(works[views][name]) for views in numbers}
        seconds = list(best_times(timed, repeats).values())
        flops = [count(works[views][name]) for views in numbers]
        for views, time, flop in zip(numbers, seconds, flops, strict=True):
            times = views / numbers[0], time / seconds[0], flop / flops[0]
            yield name, views, 1000 * time, flop, *times


def find_powers(rows: list[tuple]) -> dict[str, float]:
    """The exponent of each work's CPU time: the slope of its logarithm, by least squares."""
    powers = {}
    for name in dict.fromkeys(row[0] for row in rows):
        sizes, times = zip(*(row[1:3] for row in rows if row[0] == name), strict=True)
        if len(sizes) > 1:
            powers[name] = float(np.polyfit(np.log(sizes), np.log(times), 1)[0])
    return powers


@click.command(help=__doc__)
@click.option("--method", "methods", default="shala", show_default=True, help="Or several, by ','.")
@click.option("--views", default="4,8,16,32", show_default=True)
@click.option("--modalities", default="", help="In place of --views: modalities as PolyMNIST's.")
@click.option("--preset", default="quick", show_default=True)
@click.option("--set", "overrides", multiple=True, help="As bench.py's: train.precision=float32.")
@click.option("--only", default="", help="Only work whose name contains this, such as update.")
@click.option("--repeats", default=10, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def main(
    methods: str,
    views: str,
    modalities: str,
    preset: str,
    overrides: tuple[str, ...],
    only: str,
    repeats: int,
    as_json: bool,
) -> None:
    """Print a table for each method."""
    torch.set_num_threads(1)
    dataset = "polymnist" if modalities else "cars"
    numbers = sorted(int(n) for n in (modalities or views).split(","))
    made = {}
    for method in methods.split(","):
        try:
            config = resolve(method, dataset, preset, overrides)
        except ConfigErrors as error:
            click.echo(f"{method} is left out: {error}", err=True)
            continue
        model, kept = find("model", method).cls, []
        for number in numbers:
            if reason := model.skip(make_spec(config, number), config.model):
                click.echo(f"{method} is left out at {number}: {reason}", err=True)
            else:
                kept.append(number)
        rows = list(measure(method, config, kept, repeats, only)) if kept else []
        made[method] = {"rows": rows, "powers": find_powers(rows)}
        if as_json:
            continue
        if "," in methods:
            click.echo(f"\n{method}")
        click.echo(tabulate(rows, _HEAD, floatfmt=("", "", ".1f", ".4f", ".2f", ".2f", ".2f")))
        for name, power in made[method]["powers"].items():
            click.echo(f"{name}: power {power:.2f}", err=True)
    if as_json:
        facts = {"machine": describe_processor(), "dataset": dataset, "preset": preset}
        facts |= {"torch": torch.__version__, "overrides": overrides, "columns": _HEAD}
        click.echo(json.dumps(facts | {"methods": made}, indent=1))


if __name__ == "__main__":
    main()

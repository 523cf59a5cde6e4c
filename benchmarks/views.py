"""How a method's cost grows with the number of views: updates, joint samples and translations.

    python benchmarks/views.py [--method shala] [--views 4,8,16,32] [--set train.precision=float32]

The views are random pictures with cameras evenly spaced round an object. Networks, batch sizes and
precision are the preset's for cars. The rows are an update of each stage, sixteen joint samples,
and sixteen translations of the first view to all. The numbers of views take turns, each in a
process of its own with one thread; the best CPU time of each is shown. `GFLOP` counts the
multiplications and additions of convolutions and matrix products, the same on every machine.
Columns with an x are relative to the row with the fewest views. No cost should grow faster than
`views x`.
"""

from __future__ import annotations

from collections.abc import Iterator

import click
import torch
from step import build, make_update
from tabulate import tabulate
from timing import Meter, Work, best_times, keep_memory

from shalabench.api import DataSpec, Joint, Model, Rng, Split, Translate, choose_precision
from shalabench.config.settings import Resolved, resolve
from shalabench.datasets.sources.rig import describe_views, ring

_GENERATED = 16  # tuples


def make_works(method: str, config: Resolved, views: int) -> dict[str, Work]:
    """What is measured at a number of views, by name."""
    modalities = describe_views(ring(views), config.data.resolution)
    spec = DataSpec("random", 1, modalities, 0, {}, "", "random pixels")
    model = build(method, spec, config.model)
    stages = model.stages()
    split = make_split(spec, max(stage.batch_size for stage in stages))
    precision = choose_precision(config.train.precision, split.device)
    works = {}
    for stage in stages:
        stage.begin(split)
        batch = split.head(stage.batch_size)
        works[f"{stage.name} update"] = make_update(stage, batch, precision)
    return works | make_generations(model, split.head(_GENERATED))


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


def measure(method: str, config: Resolved, numbers: list[int], repeats: int) -> Iterator[tuple]:
    """A row for each piece of work and number of views."""
    works = {views: make_works(method, config, views) for views in numbers}
    for name in works[numbers[0]]:
        timed = {str(views): keep_memory(works[views][name]) for views in numbers}
        seconds = list(best_times(timed, repeats).values())
        flops = [count(works[views][name]) for views in numbers]
        for views, time, flop in zip(numbers, seconds, flops, strict=True):
            times = views / numbers[0], time / seconds[0], flop / flops[0]
            yield name, views, 1000 * time, flop, *times


@click.command(help=__doc__)
@click.option("--method", default="shala", show_default=True)
@click.option("--views", default="4,8,16,32", show_default=True)
@click.option("--preset", default="quick", show_default=True)
@click.option("--set", "overrides", multiple=True, help="As bench.py's: train.precision=float32.")
@click.option("--repeats", default=10, show_default=True)
def main(method: str, views: str, preset: str, overrides: tuple[str, ...], repeats: int) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    numbers = sorted(int(n) for n in views.split(","))
    config = resolve(method, "cars", preset, overrides)
    rows = measure(method, config, numbers, repeats)
    head = ("work", "views", "CPU ms", "GFLOP", "views x", "CPU x", "GFLOP x")
    click.echo(tabulate(rows, head, floatfmt=("", "", ".1f", ".4f", ".2f", ".2f", ".2f")))


if __name__ == "__main__":
    main()

"""CPU time, FLOPs and memory of a training update for each method, stage and network family.

    python benchmarks/step.py [--batch 256] [--methods shala,mmvae+] [--families conv,resnet]
    python benchmarks/step.py --against REV [--methods shala,mmvae+] [--precision float32]

Each time is the best CPU time of a few updates, in a process with one thread, after a warm-up.
Without `--batch`, an update has 32 tuples for conv and 2 for resnet, which costs 40 times as much.
With 2 tuples the optimiser takes a larger share than in training, most of all at latents of 512.
`GFLOP` counts the multiplications and additions of convolutions and matrix products, forward and
backward, for one training tuple. `step MiB` is the peak memory of the tensors of a bf16 update
(activations, gradients), without weights and optimiser. `images/s` counts the images of the other
modalities that are generated from the first in a second of CPU time. Methods that cannot run are
named on stderr with the reason.

With `--against`, it compares updates of this tree with those of a commit instead (see against.py):
the preset's batch size, PolyMNIST, the preset `cpu` and the nine methods of the paper unless others
are named. `--families` and `--repeats` do not apply then.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import torch
from against import METHODS, Comparison, compare, render
from tabulate import tabulate
from timing import Meter, best_times, keep_memory

from shalabench.api import (
    DataPaths,
    Dataset,
    DataSpec,
    Model,
    Rng,
    Settings,
    Split,
    Stage,
    Translate,
    arithmetic,
)
from shalabench.api.registry import entries, find
from shalabench.config.settings import resolve
from shalabench.execute.inputs import order_channels_last

_BATCH = {"conv": 32, "resnet": 2}
_GENERATED = 16  # test tuples


def build(method: str, spec: DataSpec, config: Settings) -> Model:
    """The method with the weights of seed 0, in training mode."""
    torch.manual_seed(0)
    model = find("model", method).cls(spec, config)
    order_channels_last(model)
    return model.train()


def make_update(
    stage: Stage, split: Split, precision: str
) -> Callable[[], dict[str, torch.Tensor]]:
    """One update of a stage on all of a split, as training does it; gives its loss terms."""
    index = torch.arange(len(split))

    def update() -> dict[str, torch.Tensor]:
        with arithmetic(precision, split.device):
            return stage.update(split.batch(index), Rng(0))

    return update


def count(model: Model, stage: Stage, split: Split) -> tuple[float, float]:
    """GFLOP a tuple and peak MiB of a bf16 update."""
    update = make_update(stage, split, "bf16")
    update()  # makes the optimiser's state, which is not counted
    model.zero_grad(set_to_none=True)
    with Meter() as meter:
        update()
    return meter.flops / len(split) / 1e9, meter.most / 2**20


@torch.inference_mode()
def images_per_second(model: Model, split: Split) -> float | None:
    """Views of all other modalities generated from the first one, a second of CPU time."""
    if not isinstance(model, Translate):
        return None
    first, *others = model.spec.names
    given = {first: split.batch(torch.arange(len(split))).views[first]}
    model.eval()
    model.translate({first: given[first][:1]}, others, Rng(0))
    began = time.process_time()
    model.translate(given, others, Rng(0))
    return len(split) * len(others) / (time.process_time() - began)


def measure(
    method: str, dataset: Dataset, preset: str, family: str, batch: int, repeats: int
) -> Iterator[tuple]:
    """A row of the table for each stage."""
    split = dataset.split("train").head(batch)
    config = resolve(method, dataset.name, preset, (f"model.network.family={family}",)).model
    model = build(method, dataset.spec, config)
    rate = images_per_second(model, dataset.split("test").head(_GENERATED))
    for stage in model.train().stages():
        stage.begin(split)
        kinds = ("float32", "bf16")
        best = best_times({k: keep_memory(make_update(stage, split, k)) for k in kinds}, repeats)
        counted = count(model, stage, split)
        yield (method, family, stage.name, len(split), *best.values(), *counted, rate)


@click.command(help=__doc__)
@click.option("--batch", default=0, help="Tuples an update; by the family if 0.")
@click.option("--methods", default="", help="Comma between them; all that are registered if empty.")
@click.option("--families", default="conv", show_default=True)
@click.option("--repeats", default=2, show_default=True)
@click.option("--dataset", "name", help="polydigits if not given; polymnist with --against.")
@click.option("--preset", help="paper if not given; cpu with --against.")
@click.option("--against", metavar="REV", help="Compare with this commit.")
@click.option("--stage", default="", help="With --against: only the stage of this name.")
@click.option(
    "--precision", type=click.Choice(["auto", "bf16", "float32"]), default="auto", show_default=True
)
@click.option("--set", "overrides", multiple=True, help="With --against: as bench.py's.")
@click.option("--turns", default=8, show_default=True, help="With --against: turns of each side.")
@click.option("--updates", default=3, show_default=True, help="With --against: updates a turn.")
@click.option("--evaluate", default="", help="With --against: evaluators to time too.")
@click.option("--tuples", default=0, help="With --evaluate: test tuples; all if 0.")
@click.option("--json", "as_json", is_flag=True, help="With --against: one JSON object.")
@click.option("--data-root", envvar="SHALA_DATA", default="data")
@click.option("--cache-dir", envvar="SHALA_CACHE", default=Path.home() / ".cache" / "shala-bench")
def main(
    batch: int,
    methods: str,
    families: str,
    repeats: int,
    name: str | None,
    preset: str | None,
    against: str | None,
    stage: str,
    precision: str,
    overrides: tuple[str, ...],
    turns: int,
    updates: int,
    evaluate: str,
    tuples: int,
    as_json: bool,
    data_root: Path,
    cache_dir: Path,
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    if against is not None:
        comparison = Comparison(
            methods=tuple(methods.split(",")) if methods else METHODS,
            dataset=name or "polymnist",
            preset=preset or "cpu",
            overrides=(f"train.precision={precision}", *overrides),
            stage=stage,
            turns=turns,
            updates=updates,
            evaluators=tuple(evaluate.split(",")) if evaluate else (),
            tuples=tuples,
            batch=batch,
            paths={"data_root": str(data_root), "cache_dir": str(cache_dir)},
        )
        made = compare(against, comparison)
        click.echo(json.dumps(made, indent=1) if as_json else render(made))
        return
    name, preset = name or "polydigits", preset or "paper"
    entry = find("dataset", name).cls
    dataset = entry(entry.Config())
    dataset.prepare(DataPaths(Path(data_root), Path(cache_dir)))
    rows = []
    for method in methods.split(",") if methods else entries("model"):
        config = resolve(method, name, preset, ()).model
        reason = find("model", method).cls.skip(dataset.spec, config)
        if reason:
            click.echo(f"{method}: {reason}", err=True)
            continue
        for family in families.split(","):
            size = batch or _BATCH[family]
            for row in measure(method, dataset, preset, family, size, repeats):
                rows.append(row)
                click.echo(f"{method} {family} {row[2]}: {row[5]:.2f} s", err=True)
    head = ("method", "family", "stage", "batch", "float32 s", "bf16 s")
    head += ("GFLOP", "step MiB", "images/s")
    formats = ("", "", "", "", ".3f", ".3f", ".3f", ".0f", ".0f")
    click.echo(tabulate(rows, head, floatfmt=formats))


if __name__ == "__main__":
    main()

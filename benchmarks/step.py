"""CPU time and memory of a training update for each method and network family, and of evaluation.

    python benchmarks/step.py [--batch 256] [--methods shala,mmvae+] [--families conv,resnet]

Each figure is the best of a few updates, in process CPU time on one thread, after a warm-up. The
column `plain` is what the same networks cost in a plain float32 loop: images in NCHW order, one
decoder call for every expert and modality, an unfused optimiser. The polydigits data are used.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import click
import torch
from tabulate import tabulate

sys.path.insert(0, str(Path(__file__).parent.parent))

import classifiers
from baselines import mmvae_plus
from evaluators.coherence import Coherence
from harness.api import Model, Places, Rng, Split, Tools
from harness.api.registry import find
from harness.config import resolve
from harness.provenance import peak_memory

_CPU = torch.device("cpu")


def best_time(work: Callable[[], object], repeats: int) -> float:
    """Smallest process CPU time of a call, in seconds, after one warm-up."""
    work()
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def build(method: str, dataset, family: str, *, channels_last: bool) -> Model:
    """The method at the published size of a network family."""
    override = f"model.network.family={family}"
    config = resolve(method, "polydigits", "paper", (override,)).model
    torch.manual_seed(0)
    model = find("model", method).cls(dataset.spec, config)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def time_update(model: Model, split: Split, batch: int, precision: str, repeats: int) -> float:
    """Seconds of CPU time of an update of the first stage."""
    stage, index = model.stages()[0], torch.arange(batch)

    def update() -> None:
        cast = torch.autocast("cpu", dtype=torch.bfloat16)
        with cast if precision == "bf16" else nullcontext():
            stage.update(split.batch(index), Rng(0))

    return best_time(update, repeats)


def time_plain(model: Model, split: Split, batch: int, repeats: int) -> float:
    """The same networks without any of the harness's means: see the module's docstring."""
    config = model.stages()[0]._settings
    adam = torch.optim.Adam(
        model.parameters(), lr=config.lr, amsgrad=config.amsgrad, foreach=False, fused=False
    )
    index = torch.arange(batch)
    decode_many = mmvae_plus.decode_many

    def one_by_one(net: torch.nn.Module, z: torch.Tensor) -> torch.Tensor:
        rows = z.flatten(0, -3)  # [M * K, B, D]
        made = torch.stack([net(row) for row in rows])
        return made.unflatten(0, z.shape[:-2])

    def update() -> None:
        views = {n: x.contiguous() for n, x in split.batch(index).views.items()}
        if hasattr(model, "inference"):
            loss, _ = model.inference.elbo(views, 1.0, Rng(0))
        else:
            loss = -model.log_weights(views, Rng(0))[0].mean()
        adam.zero_grad()
        loss.backward()
        adam.step()

    mmvae_plus.decode_many = one_by_one
    try:
        return best_time(update, repeats)
    finally:
        mmvae_plus.decode_many = decode_many


@torch.inference_mode()
def images_per_second(model: Model, dataset, items: int) -> float:
    """Generated, decoded and classified images a second of CPU time in cross coherence."""
    judges = classifiers.load(dataset.spec, _CPU)
    split = dataset.split("test").head(items)
    evaluator = Coherence(Coherence.Config(samples=1, subsets=False))
    model.eval()
    began = time.process_time()
    evaluator.run(model, dataset.spec, split, Tools(_CPU, 0, judges))
    modalities = len(dataset.spec.modalities)
    return items * modalities * (modalities - 1) / (time.process_time() - began)


@click.command(help=__doc__)
@click.option("--batch", default=256, show_default=True)
@click.option("--methods", default="shala,mmvae+", show_default=True)
@click.option("--families", default="conv,resnet", show_default=True)
@click.option("--repeats", default=3, show_default=True)
@click.option("--cache-dir", envvar="SHALA_CACHE", default=Path.home() / ".cache" / "shala-bench")
def main(batch: int, methods: str, families: str, repeats: int, cache_dir: Path) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    entry = find("dataset", "polydigits").cls
    dataset = entry(entry.Config())
    dataset.prepare(Places(Path(), Path(cache_dir)))
    split, rows = dataset.split("train"), []
    for method in methods.split(","):
        for family in families.split(","):
            plain = time_plain(
                build(method, dataset, family, channels_last=False), split, batch, repeats
            )
            model = build(method, dataset, family, channels_last=True)
            single = time_update(model, split, batch, "float32", repeats)
            half = time_update(model, split, batch, "bf16", repeats)
            rate = images_per_second(model, dataset, 100)
            memory = peak_memory(_CPU) / 2**30
            rows.append((method, family, plain, single, half, half / plain, memory, rate))
            click.echo(f"{method} {family}: {half:.2f} s", err=True)
    seconds = ("plain s", "float32 s", "bf16 s", "bf16/plain")
    head = ("method", "family", *seconds, "GiB so far", "images/s")
    click.echo(tabulate(rows, head, floatfmt=".2f"))


if __name__ == "__main__":
    main()

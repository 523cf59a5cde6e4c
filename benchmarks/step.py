"""CPU time, FLOPs and memory of a training update for each method, stage and network family.

    python benchmarks/step.py [--batch 256] [--methods shala,mmvae+] [--families conv,resnet]

Each time is the best of a few updates, in CPU time of a process with one thread, after a warm-up.
Without `--batch`, an update has 32 tuples for conv and 2 for resnet, which costs 40 times as much;
at 2 the optimiser weighs more than in training, most of all with latents of 512.
The column `plain` is what the same networks cost in a plain float32 loop: images in NCHW order, one
decoder call for every expert and modality, an unfused optimiser, freed memory handed back. `GFLOP`
counts the multiplications and additions of convolutions and matrix products, forward and backward,
for one training tuple. `step MiB` is the most that tensors made in a bf16 update hold at once
(activations, gradients), beyond weights and optimiser. `images/s` is how many images of the other
modalities are generated from the first, a second of CPU time. Methods that cannot run are told on
stderr.
"""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

sys.path.insert(0, str(Path(__file__).parent.parent))

from timing import best_times

from shalabench.api import (
    DataPaths,
    Dataset,
    GradientStage,
    Model,
    Rng,
    Split,
    Stage,
    Translate,
    arithmetic,
)
from shalabench.api.registry import entries, find
from shalabench.config.settings import resolve
from shalabench.execute.inputs import keep_freed_memory, order_channels_last
from shalabench.nets.backbones import decode_many

_BATCH = {"conv": 32, "resnet": 2}
_GENERATED = 16  # test tuples


class Meter(TorchDispatchMode):
    """Counts operations, and the bytes of tensors made within it while they live.

    Unlike torch's FlopCounterMode, whose rules it uses, it allows methods that take gradients
    within a forward pass (short-run Langevin).

    Attributes:
        flops: Multiplications and additions of convolutions and matrix products so far.
        most: Largest number of bytes held at once.
    """

    def __init__(self):
        super().__init__()
        self.flops, self.most, self._held, self._sizes = 0, 0, 0, {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if _is_tensor(x)}
        made = func(*args, **kwargs)
        rule = flop_registry.get(func._overloadpacket)
        self.flops += rule(*args, **kwargs, out_val=made) if rule else 0
        for x in filter(_is_tensor, tree_leaves(made)):
            storage = x.untyped_storage()
            key = storage._cdata
            if key in given or key in self._sizes:  # a view, or changed in place
                continue
            self._sizes[key] = storage.nbytes()
            self._held += storage.nbytes()
            self.most = max(self.most, self._held)
            weakref.finalize(storage, self._release, key)
        return made

    def _release(self, key: int) -> None:
        self._held -= self._sizes.pop(key)


def _is_tensor(x: object) -> bool:
    return isinstance(x, Tensor)


def build(method: str, dataset: Dataset, preset: str, family: str, *, channels_last: bool) -> Model:
    """The method at a preset's size of a network family."""
    override = f"model.network.family={family}"
    config = resolve(method, dataset.name, preset, (override,)).model
    torch.manual_seed(0)
    model = find("model", method).cls(dataset.spec, config)
    if channels_last:
        order_channels_last(model)
    return model


def make_update(stage: Stage, split: Split, precision: str) -> Callable[[], object]:
    """One update of a stage on all of a split, as the harness does it."""
    index = torch.arange(len(split))

    def update() -> None:
        with arithmetic(precision, split.device):
            stage.update(split.batch(index), Rng(0))

    return update


def kept(work: Callable[[], object]) -> Callable[[], object]:
    """The same, with freed memory kept for its process, as the driver does it."""

    def run() -> None:
        keep_freed_memory()
        work()

    return run


def make_plain_update(stage: GradientStage, split: Split) -> Callable[[], object]:
    """The same update without any of the harness's means: see the module's docstring."""
    settings = stage._settings
    adam = torch.optim.Adam(
        stage._parameters, lr=settings.lr, amsgrad=settings.amsgrad, foreach=False, fused=False
    )

    def update() -> None:
        batch = split.batch(torch.arange(len(split)))
        batch.__dict__["views"] = {name: x.contiguous() for name, x in batch.views.items()}
        with one_decoder_call_each():
            loss, _ = stage._loss(batch, Rng(0), 0)
        adam.zero_grad()
        loss.backward()
        adam.step()

    return update


@contextmanager
def one_decoder_call_each() -> Iterator[None]:
    """Within it, methods decode expert by expert."""

    def one_by_one(net: nn.Module, z: Tensor) -> Tensor:
        if z.dim() == 2:
            return net(z)
        rows = z.flatten(0, -3)  # [M * K, B, D]
        return torch.stack([net(row) for row in rows]).unflatten(0, z.shape[:-2])

    users = [m for m in list(sys.modules.values()) if getattr(m, "decode_many", 0) is decode_many]
    for user in users:
        user.decode_many = one_by_one
    try:
        yield
    finally:
        for user in users:
            user.decode_many = decode_many


def count(model: Model, stage: Stage, split: Split) -> tuple[float, float]:
    """GFLOP a tuple, and MiB held at most, of a bf16 update."""
    update = make_update(stage, split, "bf16")
    update()  # the optimiser's state is not the update's
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
    plain = build(method, dataset, preset, family, channels_last=False)
    model = build(method, dataset, preset, family, channels_last=True)
    rate = images_per_second(model, dataset.split("test").head(_GENERATED))
    for stage, slow in zip(model.train().stages(), plain.train().stages(), strict=True):
        stage.begin(split), slow.begin(split)
        works = {kind: kept(make_update(stage, split, kind)) for kind in ("float32", "bf16")}
        if isinstance(slow, GradientStage):
            works["plain"] = make_plain_update(slow, split)
        best = best_times(works, repeats)
        ratio = best["bf16"] / best["plain"] if "plain" in best else None
        seconds = (best.get("plain"), best["float32"], best["bf16"], ratio)
        yield (method, family, stage.name, len(split), *seconds, *count(model, stage, split), rate)


@click.command(help=__doc__)
@click.option("--batch", default=0, help="Tuples an update; by the family if 0.")
@click.option("--methods", default="", help="Comma between them; all that are registered if empty.")
@click.option("--families", default="conv", show_default=True)
@click.option("--repeats", default=2, show_default=True)
@click.option("--dataset", "name", default="polydigits", show_default=True)
@click.option("--preset", default="paper", show_default=True)
@click.option("--cache-dir", envvar="SHALA_CACHE", default=Path.home() / ".cache" / "shala-bench")
def main(
    batch: int, methods: str, families: str, repeats: int, name: str, preset: str, cache_dir: Path
) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    entry = find("dataset", name).cls
    dataset = entry(entry.Config())
    dataset.prepare(DataPaths(Path(), Path(cache_dir)))
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
                click.echo(f"{method} {family} {row[2]}: {row[6]:.2f} s", err=True)
    seconds = ("plain s", "float32 s", "bf16 s", "bf16/plain")
    head = ("method", "family", "stage", "batch", *seconds, "GFLOP", "step MiB", "images/s")
    formats = ("", "", "", "", ".3f", ".3f", ".3f", ".2f", ".3f", ".0f", ".0f")
    click.echo(tabulate(rows, head, floatfmt=formats))


if __name__ == "__main__":
    main()

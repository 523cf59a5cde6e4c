"""CPU time of a training update here and in the library MultiVae, on the same networks and weights.

    python benchmarks/peer.py [--batch 256] [--methods mmvae+,mopoe] [--json]

Five modalities 3 x 28 x 28 of random pixels, the conv networks, Laplace likelihoods of scale 0.75,
latents of 512 (32 + 32 with private ones), one sample of each expert. MultiVae's models are given
copies of the networks built here. First the script compares objectives and gradients in float64,
with the same number in place of every random draw of a tuple; `objective` and `gradient` are the
relative differences. Then it times forward, backward and optimiser step. Both sides take turns,
each in a process of its own with one thread; the median CPU time is shown. MultiVae runs as its
trainer runs it: float32, unfused Adam, a batch of floats. This project runs as in training, through
`Stage.update`: images converted from integers, fused Adam, channels last, freed memory kept; once
in float32 and once in bf16. With `--tuples`, it also times the coherence evaluators on that many
test tuples (peer_coherence.py). MultiVae is not a dependency. Where it is missing, the
message names the commands that install it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from statistics import geometric_mean, median
from typing import Any
from unittest import mock

import click
import torch
from peer_coherence import make_evaluations
from peer_models import PAIRS, Copies, Pair, build_peer
from step import make_update
from tabulate import tabulate
from timing import Work, describe_processor, keep_memory, take_turns
from torch import Tensor, nn
from torch.distributions import Laplace, Normal

from shalabench.api import DataSpec, Modality, Model, Rng, Split
from shalabench.api.registry import entries, find
from shalabench.nets.backbones import Network

_SHAPE, _MODALITIES, _SCALE = (3, 28, 28), 5, 0.75
_COMPARED = 64  # tuples on which the objectives are compared
_MISSING = (
    "MultiVae is not installed here; because it brings many packages, give it an environment of "
    "its own with `python -m venv peer && peer/bin/pip install multivae==1.0.3 .` and run "
    "`peer/bin/python benchmarks/peer.py`."
)


def make_split(batch: int) -> Split:
    """Random pixels, uint8."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (_MODALITIES, batch, *_SHAPE), generator=generator)
    return Split({f"m{i}": x.to(torch.uint8) for i, x in enumerate(pixels)})


def make_spec(batch: int) -> DataSpec:
    """The data's modalities."""
    modalities = tuple(
        Modality(f"m{i}", "image", _SHAPE, "laplace", _SCALE) for i in range(_MODALITIES)
    )
    return DataSpec("peer", 1, modalities, 0, {"train": batch}, "", "random pixels")


def make_model(method: str, spec: DataSpec, pair: Pair) -> Model:
    """The method as this project builds it, with the conv networks."""
    cls = find("model", method).cls
    torch.manual_seed(0)
    return cls(spec, cls.Config(network=Network(family="conv"), **pair.settings))


def _given_noise(items: Tensor) -> Tensor:
    return torch.sin(items.float() + 1.0)  # one number a tuple, of both signs


class GivenRng(Rng):
    """The same number for every draw of a tuple, so that the order of draws does not matter."""

    def fork(self, *names: object) -> GivenRng:
        return GivenRng(0, first=self.first, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        items = _given_noise(torch.arange(self.first, self.first + shape[0]))
        return items.view(-1, *(1,) * (len(shape) - 1)).expand(shape)

    laplace = normal


@contextmanager
def given_draws() -> Iterator[None]:
    """Within it, torch's reparametrised draws `[..., B, D]` use `GivenRng`'s numbers."""

    def rsample(self: Normal | Laplace, sample_shape: Any = ()) -> Tensor:
        shape = self._extended_shape(torch.Size(sample_shape))
        noise = _given_noise(torch.arange(shape[-2]))[:, None].expand(shape)
        return self.loc + self.scale * noise

    normal, laplace = (mock.patch.object(cls, "rsample", rsample) for cls in (Normal, Laplace))
    with normal, laplace:
        yield


def compare(model: Model, peer: nn.Module, copies: Copies, pair: Pair, split: Split) -> dict:
    """Relative differences of the objectives and of their gradients, in float64."""
    split = split.head(_COMPARED)
    batch = split.batch(torch.arange(len(split)))
    batch.__dict__["views"] = {name: x.double() for name, x in batch.views.items()}
    model.double(), peer.double()
    stage = model.stages()[0]
    ours, _ = stage._loss(batch, GivenRng(0), stage.steps)
    ours.backward()
    with given_draws():
        theirs = _peer_loss(peer, batch.views) / (len(split) if pair.summed else 1)
    theirs.backward()
    gap, size = 0.0, 0.0
    for here, there in copies.pairs:
        if here.grad is None or there.grad is None:
            raise RuntimeError("A parameter of the networks has no gradient on one side.")
        gap += float((here.grad - there.grad).square().sum())
        size += float(here.grad.square().sum())
    ours, theirs = ours.item(), theirs.item()
    model.float().zero_grad(), peer.float().zero_grad()  # back to the same float32 weights
    gaps = {"objective": abs(ours - theirs) / abs(theirs), "gradient": (gap / size) ** 0.5}
    return {"here": ours, "multivae": theirs} | gaps


def _peer_loss(peer: nn.Module, views: dict[str, Tensor]) -> Tensor:
    from multivae.data.datasets.base import MultimodalBaseDataset

    return peer(MultimodalBaseDataset(views), epoch=1000).loss  # any warm-up is over


def measure(model: Model, peer: nn.Module, split: Split, repeats: int) -> dict[str, float]:
    """Median CPU seconds of an update of each kind."""
    stage = model.to(memory_format=torch.channels_last).stages()[0]
    views = {name: x.float() / 255 for name, x in split.tensors.items()}
    settings = stage._settings
    adam = torch.optim.Adam(peer.parameters(), lr=settings.lr, amsgrad=settings.amsgrad)

    def update_peer() -> None:
        loss = _peer_loss(peer, views)
        adam.zero_grad()
        loss.backward()
        adam.step()

    works = {f"{p}_s": keep_memory(make_update(stage, split, p)) for p in ("float32", "bf16")}
    return median_times({"multivae_s": update_peer} | works, repeats)


def median_times(works: dict[str, Work], repeats: int) -> dict[str, float]:
    """Median CPU seconds of each piece of work; the pieces take turns."""
    return {name: median(times) for name, times in take_turns(works, repeats).items()}


def mean_ratio(rows: Iterable[dict[str, Any]], precision: str) -> float | None:
    """Geometric mean of MultiVae's CPU time over this project's; None if nothing was measured."""
    measured = [row for row in rows if "multivae_s" in row]
    ratios = [row["multivae_s"] / row[f"{precision}_s"] for row in measured]
    return geometric_mean(ratios) if ratios else None


def render_coherence(rows: dict[str, dict[str, Any]], tuples: int) -> str:
    """Tuples a second of the coherence evaluators, as a table."""
    measured = {name: row["coherence"] for name, row in rows.items() if "coherence" in row}
    lines = []
    for name, row in measured.items():
        rates = [tuples / row[f"{kind}_s"] for kind in ("multivae", "float32", "bf16")]
        ratios = (f"{rate / rates[0]:.2f}" for rate in rates[1:])
        lines.append((name, *(f"{rate:.1f}" for rate in rates), *ratios))
    means = (mean_ratio(measured.values(), kind) for kind in ("float32", "bf16"))
    lines.append(("geometric mean", "", "", "", *(f"{mean:.2f}" for mean in means)))
    head = ("coherence, tuples/s", "MultiVae", "here", "here, bf16", "ratio", "ratio, bf16")
    return tabulate(lines, head, disable_numparse=True)


def render(rows: dict[str, dict[str, Any]]) -> str:
    """The rows and the geometric mean, as a table."""
    head = ("method", "objective", "gradient", "MultiVae s", "float32 s", "bf16 s")
    head += ("MultiVae/float32", "MultiVae/bf16")
    lines = []
    for name, row in rows.items():
        if "multivae_s" not in row:
            lines.append((name, row["status"], *("",) * 6))
            continue
        seconds = [row[f"{kind}_s"] for kind in ("multivae", "float32", "bf16")]
        ratios = (f"{seconds[0] / s:.2f}" for s in seconds[1:])
        gaps = (f"{row[kind]:.1e}" for kind in ("objective", "gradient"))
        lines.append((name, *gaps, *(f"{s:.2f}" for s in seconds), *ratios))
    if mean_ratio(rows.values(), "bf16"):
        means = (f"{mean_ratio(rows.values(), kind):.2f}" for kind in ("float32", "bf16"))
        lines.append(("geometric mean", *("",) * 5, *means))
    return tabulate(lines, head, disable_numparse=True)


@click.command(help=__doc__)
@click.option("--batch", default=256, show_default=True)
@click.option("--methods", default=",".join(PAIRS), show_default=True)
@click.option("--repeats", default=5, show_default=True)
@click.option("--tuples", default=0, help="Also evaluate coherence on so many tuples.")
@click.option("--json", "as_json", is_flag=True, help="Everything measured, as one JSON object.")
def main(batch: int, methods: str, repeats: int, tuples: int, as_json: bool) -> None:
    """Print the table."""
    if importlib.util.find_spec("multivae") is None:
        raise click.ClickException(_MISSING)
    torch.set_num_threads(1)
    spec, split, rows = make_spec(batch), make_split(batch), {}
    for method in methods.split(","):
        if method not in PAIRS or method not in entries("model"):
            rows[method] = {"status": "not here"}
            continue
        pair, copies = PAIRS[method], Copies()
        model = make_model(method, spec, pair)
        peer = build_peer(model, pair, copies)
        row = compare(model, peer, copies, pair, split) | measure(model, peer, split, repeats)
        rows[method] = row
        if tuples:
            works = make_evaluations(model, peer, spec, make_split(tuples), tuples)
            row["coherence"] = median_times(works, min(repeats, 3))
        click.echo(f"{method}: {row['multivae_s'] / row['bf16_s']:.2f}", err=True)
    if not as_json:
        click.echo(render(rows))
        if tuples:
            click.echo("\n" + render_coherence(rows, tuples))
        return
    versions = {name: importlib.metadata.version(name) for name in ("torch", "multivae")}
    kinds = ("float32", "bf16")
    means = {kind: mean_ratio(rows.values(), kind) for kind in kinds}
    made = {"machine": describe_processor(), "batch": batch, "tuples": tuples}
    made |= {"versions": versions, "methods": rows, "geometric_mean": means}
    if tuples:
        coherence = [row["coherence"] for row in rows.values() if "coherence" in row]
        made["coherence_mean"] = {kind: mean_ratio(coherence, kind) for kind in kinds}
    click.echo(json.dumps(made, indent=2))


if __name__ == "__main__":
    main()

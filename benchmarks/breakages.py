"""Break ShaLa on purpose, one thing at a time: does the regression gate see it?

    python bench.py check --reference results/reference/gate --store results/check --run
    python benchmarks/breakages.py --reference results/reference/gate --store results/check

The second command copies the healthy runs that the first one made, breaks one thing, measures the
same weights again and checks the result against the reference. "half the updates" trains anew. Each
breakage must give exit code 1 and name a gate that it is known to hurt; the healthy runs must give
0.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import timing  # noqa: F401  puts the project on the import path
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional

import classifiers
from shala.inference import Inference
from shala.model import ShaLa
from shala.prior import DiffusionPrior
from shalabench.analysis.check import check, work_of
from shalabench.api import DataPaths, GradientStage, Split, Views
from shalabench.config.plan import Run, plan
from shalabench.records.store import Store

METHOD = "shala"
Broken = AbstractContextManager[object]


def make_runs(runs: list[Run], **options: Any) -> None:
    """Train and evaluate on this machine."""
    from shalabench.execute.campaign import Options, run_campaign
    from shalabench.execute.progress import Reporter

    with Reporter() as reporter:
        run_campaign(runs, Options(**options, device="cpu", threads=1), reporter)


def _swapped_decoders() -> Broken:
    """The first image modality shows what the second one's decoder paints, and the reverse."""
    healthy = Inference.decode

    def decode(self: Inference, z: Tensor, targets: tuple[str, ...]) -> Views:
        a, b = [m for m in self.spec.modalities if m.kind == "image"][:2]
        exchanged = {a.name: b.name, b.name: a.name}
        drawn = healthy(self, z, tuple(exchanged.get(name, name) for name in targets))
        return {
            name: _fitted(drawn[exchanged.get(name, name)], self.spec[name].shape)
            for name in targets
        }

    return patch.object(Inference, "decode", decode)


def _fitted(view: Tensor, shape: tuple[int, ...]) -> Tensor:
    """A view in the shape of another image modality; text stays as it is."""
    if view.shape[1:] == shape:
        return view
    view = functional.interpolate(view, size=shape[-2:])
    return view.mean(1, keepdim=True).expand(-1, shape[0], -1, -1)


def _untrained_prior() -> Broken:
    healthy = ShaLa.load_state_dict

    def load(self: ShaLa, state: dict[str, Tensor], *args: object) -> object:
        start = {k: v.clone() for k, v in self.prior_net.denoiser.state_dict().items()}
        loaded = healthy(self, state, *args)
        self.prior_net.denoiser.load_state_dict(start)
        return loaded

    return patch.object(ShaLa, "load_state_dict", load)


def _permuted_labels() -> Broken:
    healthy = Split.to

    def moved(self: Split, device: torch.device) -> Split:
        split = healthy(self, device)
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
        return Split(split.tensors, split.labels[order], split.present, split.rows, split.facts)

    return patch.object(Split, "to", moved)


def _flipped_guidance() -> Broken:
    healthy = DiffusionPrior._guided

    def guided(self: DiffusionPrior, features, n, rng, several, guidance):
        w = self.config.guidance if guidance is None else guidance
        return healthy(self, features, n, rng, several, -w)

    return patch.object(DiffusionPrior, "_guided", guided)


def _first_classifier(change: Callable[[nn.Module], object]) -> Broken:
    """The classifier of the dataset's first modality is changed."""
    healthy = classifiers.load

    def load(*args: object) -> dict[str, Any]:
        loaded = healthy(*args)
        change(next(iter(loaded.values())).network)
        return loaded

    return patch.object(classifiers, "load", load)


def _reset(network: nn.Module) -> None:
    torch.manual_seed(0)
    for layer in network.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()


def _half_the_updates() -> Broken:
    healthy = GradientStage.__init__

    def begin(self: GradientStage, *args: object, steps: int, **settings: object) -> None:
        healthy(self, *args, steps=steps // 2, **settings)

    return patch.object(GradientStage, "__init__", begin)


@dataclass(frozen=True)
class Breakage:
    """What is broken.

    Attributes:
        name: In the table.
        apply: Breaks it while the context lasts.
        gates: Metrics, or words of a failure. The check must name at least one.
        anew: Whether the runs are trained again, not only measured.
    """

    name: str
    apply: Callable[[], Broken]
    gates: tuple[str, ...]
    anew: bool = False


JOINT, CROSS, POSTERIOR = "coherence/joint", "coherence/cross", "coherence/posterior"
ACCURACY = "classifier/accuracy"
BREAKAGES = (
    Breakage("decoders swapped", _swapped_decoders, (CROSS, POSTERIOR)),
    Breakage("prior untrained", _untrained_prior, (JOINT, CROSS)),
    Breakage("labels permuted", _permuted_labels, (CROSS,)),
    Breakage("guidance sign flipped", _flipped_guidance, (CROSS,)),
    Breakage("classifier replaced", lambda: _first_classifier(_reset), (ACCURACY,)),
    # Dropout changes the scores by less than a gate of this size sees, so a run refuses it.
    Breakage("training mode", lambda: _first_classifier(nn.Module.train), ("training mode",)),
    Breakage("half the updates", _half_the_updates, (JOINT, CROSS, POSTERIOR), anew=True),
)


def break_runs(
    breakage: Breakage, healthy: Path, reference: Path, paths: DataPaths, store: Path, count: int
) -> None:
    """Make a store like the healthy one in which the first seeds' runs of ShaLa are broken."""
    shutil.copytree(healthy, store)
    works, evaluators = work_of(reference)
    folders = [folder for folder in Store(store).runs() if folder.run["model"] == METHOD]
    seeds = sorted({folder.run["seed"] for folder in folders})[:count]
    for folder in folders:
        if folder.run["seed"] not in seeds:
            shutil.rmtree(folder.path)
            continue
        shutil.rmtree(folder.path / "results")
        if breakage.anew:
            folder.weights.unlink()
            (folder.path / "trained.json").unlink()
    runs = []
    for work in (w for w in works if w.model == METHOD):
        runs += plan([METHOD], work.dataset, work.preset, seeds, work.overrides)
    with breakage.apply():
        make_runs(runs, store=store, paths=paths, evaluators=evaluators)


@click.command(help=__doc__)
@click.option("--reference", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--store", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data-root", type=click.Path(path_type=Path), envvar="SHALA_DATA", default="data")
@click.option("--cache-dir", type=click.Path(path_type=Path), envvar="SHALA_CACHE", required=True)
@click.option("--only", help="Names of breakages that contain this.", default="")
@click.option("--seeds", "count", default=1, show_default=True, help="How many seeds to break.")
def main(
    reference: Path, store: Path, data_root: Path, cache_dir: Path, only: str, count: int
) -> None:
    """Print the gate's answer to each breakage; exit 1 if it missed one."""
    healthy = check(reference, [Store(store)]).exit_code
    rows, missed = [("none", healthy, "")], healthy != 0
    for breakage in (b for b in BREAKAGES if only in b.name):
        with tempfile.TemporaryDirectory() as folder:
            broken, paths = Path(folder) / "store", DataPaths(data_root, cache_dir)
            break_runs(breakage, store, reference, paths, broken, count)
            report = check(reference, [Store(broken)])
        regressed = [v.gate for v in report.verdicts if v.state == "regressed"]
        named = [gate.metric for gate in regressed if gate.label == METHOD]
        named += [text.partition(": ")[2] for text in report.broken]
        missed |= report.exit_code != 1 or not any(g in x for g in breakage.gates for x in named)
        rows.append((breakage.name, report.exit_code, ", ".join(named)))
    click.echo(tabulate(rows, ("broken", "exit code", "gates named")))
    sys.exit(int(missed))


if __name__ == "__main__":
    main()

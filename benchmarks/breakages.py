"""Break ShaLa on purpose, one thing at a time: does the regression gate see it?

    python bench.py check --reference results/reference/gate --store results/check --run
    python benchmarks/breakages.py --reference results/reference/gate --store results/check

The second line takes the healthy runs that the first one made, breaks one thing, measures the same
weights again (half the updates are trained anew), and checks the result against the reference. Each
breakage must give exit code 1 and name a gate that it is known to hurt, and the healthy runs 0.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import click
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parent.parent))

import classifiers
from shala.inference import Inference
from shala.model import ShaLa
from shala.prior import DiffusionPrior
from shalabench.analysis.check import check, work_of
from shalabench.api import Classifier, DataPaths, GradientStage, Split, Views
from shalabench.config.plan import plan
from shalabench.execute.campaign import Options, run_campaign
from shalabench.execute.progress import Reporter
from shalabench.records.store import Store

METHOD = "shala"


@dataclass(frozen=True)
class Breakage:
    """What is broken.

    Attributes:
        name: In the table.
        apply: Breaks it, as long as the context lasts.
        gates: Metrics, or words of a failure, of which at least one must be named.
        anew: Whether the runs are trained again, not only measured.
    """

    name: str
    apply: Callable[[], AbstractContextManager[object]]
    gates: tuple[str, ...]
    anew: bool = False


def _swapped_decoders() -> AbstractContextManager[object]:
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


def _untrained_prior() -> AbstractContextManager[object]:
    healthy = ShaLa.load_state_dict

    def load(self: ShaLa, state: dict[str, Tensor], *args: object) -> object:
        start = {k: v.clone() for k, v in self.prior_net.denoiser.state_dict().items()}
        found = healthy(self, state, *args)
        self.prior_net.denoiser.load_state_dict(start)
        return found

    return patch.object(ShaLa, "load_state_dict", load)


def _permuted_labels() -> AbstractContextManager[object]:
    healthy = Split.to

    def moved(self: Split, device: torch.device) -> Split:
        split = healthy(self, device)
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
        return Split(split.tensors, split.labels[order], split.present, split.rows, split.facts)

    return patch.object(Split, "to", moved)


def _flipped_guidance() -> AbstractContextManager[object]:
    healthy = DiffusionPrior._guided

    def guided(self: DiffusionPrior, features, n, rng, several, guidance):
        w = self.config.guidance if guidance is None else guidance
        return healthy(self, features, n, rng, several, -w)

    return patch.object(DiffusionPrior, "_guided", guided)


def _judges(change: Callable[[nn.Module], object]) -> AbstractContextManager[object]:
    """The classifier of the dataset's first modality is changed."""
    healthy = classifiers.load

    def load(*args: object) -> dict[str, Classifier]:
        judges = healthy(*args)
        change(next(iter(judges.values())).network)
        return judges

    return patch.object(classifiers, "load", load)


def _start_again(network: nn.Module) -> None:
    torch.manual_seed(0)
    for layer in network.modules():
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()


@contextmanager
def _half_the_updates() -> Iterator[None]:
    healthy = GradientStage.__init__

    def begin(self: GradientStage, *args: object, steps: int, **settings: object) -> None:
        healthy(self, *args, steps=steps // 2, **settings)

    with patch.object(GradientStage, "__init__", begin):
        yield


JOINT, CROSS, POSTERIOR = "coherence/joint", "coherence/cross", "coherence/posterior"
JUDGES = "classifier/accuracy"
BREAKAGES = (
    Breakage("decoders swapped", _swapped_decoders, (CROSS, POSTERIOR)),
    Breakage("prior untrained", _untrained_prior, (JOINT, CROSS)),
    Breakage("labels permuted", _permuted_labels, (CROSS,)),
    Breakage("guidance sign flipped", _flipped_guidance, (CROSS,)),
    Breakage("classifier replaced", lambda: _judges(_start_again), (JUDGES,)),
    # Dropout changes these classifiers' figures by less than a gate sees: the driver refuses it.
    Breakage("classifier in training mode", lambda: _judges(nn.Module.train), ("training mode",)),
    Breakage("half the updates", _half_the_updates, (JOINT, CROSS, POSTERIOR), anew=True),
)


def broken(
    breakage: Breakage, healthy: Path, reference: Path, paths: DataPaths, folder: Path, count: int
) -> Path:
    """A store like the healthy one whose runs of ShaLa, the first seeds only, are broken."""
    store = folder / "store"
    shutil.copytree(healthy, store)
    works, evaluators = work_of(reference)
    own = [run for run in Store(store).runs() if run.run["model"] == METHOD]
    seeds = sorted({run.run["seed"] for run in own})[:count]
    for run in own:
        if run.run["seed"] not in seeds:
            shutil.rmtree(run.path)
        else:
            shutil.rmtree(run.path / "results")
            if breakage.anew:
                run.weights.unlink()
                (run.path / "trained.json").unlink()
    runs = [
        run
        for work in works
        if work.model == METHOD
        for run in plan([METHOD], work.dataset, work.preset, seeds, work.overrides)
    ]
    options = Options(store=store, paths=paths, evaluators=evaluators, device="cpu", threads=1)
    with breakage.apply(), Reporter() as reporter:
        run_campaign(runs, options, reporter)
    return store


@click.command(help=__doc__)
@click.option("--reference", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--store", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--data-root", type=click.Path(path_type=Path), envvar="SHALA_DATA", default="data")
@click.option("--cache-dir", type=click.Path(path_type=Path), envvar="SHALA_CACHE", required=True)
@click.option("--only", help="Names of breakages that contain this.", default="")
@click.option(
    "--seeds", "count", default=1, show_default=True, help="Seeds that are broken, the first ones."
)
def main(
    reference: Path, store: Path, data_root: Path, cache_dir: Path, only: str, count: int
) -> None:
    """Print what the gate said of each breakage; exit 1 where it missed one."""
    healthy = check(reference, [Store(store)]).exit_code
    rows, missed = [("none", healthy, "")], healthy != 0
    for breakage in (b for b in BREAKAGES if only in b.name):
        with tempfile.TemporaryDirectory() as folder:
            paths = DataPaths(data_root, cache_dir)
            ill = broken(breakage, store, reference, paths, Path(folder), count)
            found = check(reference, [Store(ill)])
        named = [
            v.gate.metric
            for v in found.verdicts
            if v.state == "regressed" and v.gate.label == METHOD
        ]
        named += [text.partition(": ")[2] for text in found.broken]
        missed |= found.exit_code != 1 or not any(g in x for g in breakage.gates for x in named)
        rows.append((breakage.name, found.exit_code, ", ".join(named)))
    click.echo(tabulate(rows, ("broken", "exit code", "gates named")))
    sys.exit(int(missed))


if __name__ == "__main__":
    main()

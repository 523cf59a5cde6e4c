"""CPU time of a training update here and in the library MultiVae, on the same networks and weights.

    python benchmarks/peer.py [--batch 256] [--methods mmvae+,mopoe] [--json]

Five modalities 3 x 28 x 28 of random pixels, the conv networks, Laplace likelihoods of scale 0.75,
latents of 512 (32 + 32 where there are private ones), one sample of each expert. MultiVae's models
are given copies of the networks built here. First the objectives and their gradients are compared,
with the same number put in place of every draw of a tuple; `objective` and `gradient` are the
relative differences. Then forward, backward and the optimiser's step of both take turns, each in a
process of its own with one thread, and the best CPU time of each counts: MultiVae as its trainer
runs it (float32, Adam unfused, the batch already converted), this project as its driver does it
through `Stage.update` (images converted from integers, fused Adam, channels last, freed memory
kept) in float32 and in its default bf16. MultiVae is no dependency: where it is missing, the
message says how to get it.
"""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import click
import torch
from tabulate import tabulate
from torch import Tensor, nn
from torch.distributions import Laplace, Normal

sys.path.insert(0, str(Path(__file__).parent.parent))

from timing import best_times

from shalabench.api import DataSpec, Modality, Model, Rng, Split
from shalabench.api.registry import entries, find
from shalabench.execute.inputs import keep_freed_memory
from shalabench.nets.backbones import Network
from shalabench.nets.experts import subsets

_SIDE, _MODALITIES, _SCALE = 28, 5, 0.75
_COMPARED = 64  # tuples on which the objectives are compared
_MISSING = (
    "MultiVae is not installed here; because it brings many packages, give it an environment of "
    "its own with `python -m venv peer && peer/bin/pip install multivae==1.0.3 .` and run "
    "`peer/bin/python benchmarks/peer.py`."
)


class Copies:
    """MultiVae's encoders and decoders around copies of a model's networks.

    Attributes:
        pairs: Parameters here with their copies there.
    """

    def __init__(self) -> None:
        self.pairs: list[tuple[nn.Parameter, nn.Parameter]] = []

    def take(self, module: nn.Module) -> nn.Module:
        """A copy whose parameters are remembered."""
        taken = copy.deepcopy(module)
        self.pairs += zip(module.parameters(), taken.parameters(), strict=True)
        return taken

    def encoders(self, towers: nn.ModuleDict, private: nn.ModuleDict | None = None) -> dict:
        """One encoder a modality; with a second tower where there are private latents."""
        return {
            name: _wrap_encoder(
                self.take(tower), None if private is None else self.take(private[name])
            )
            for name, tower in towers.items()
        }

    def decoders(self, nets: nn.ModuleDict, private_dim: int = 0) -> dict:
        """One decoder a modality; here private latents come first, there shared ones."""
        return {name: _wrap_decoder(self.take(net), private_dim) for name, net in nets.items()}


def _wrap_encoder(tower: nn.Module, private: nn.Module | None) -> nn.Module:
    from multivae.models.base import ModelOutput
    from multivae.models.nn.base_architectures import BaseEncoder

    def outputs(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        trunk, head = net
        features = trunk(x)
        raw = head.log_var if hasattr(head, "log_var") else head.raw
        return head.mean(features), raw(features)

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.tower, self.private = tower, private
            self.latent_dim = tower[1].mean.out_features
            self.style_dim = 0 if private is None else private[1].mean.out_features

        def forward(self, x: Tensor):
            mean, raw = outputs(self.tower, x)
            made = ModelOutput(embedding=mean, log_covariance=raw)
            if self.private is not None:
                mean, raw = outputs(self.private, x)
                made["style_embedding"], made["style_log_covariance"] = mean, raw
            return made

    return Encoder()


def _wrap_decoder(net: nn.Module, private_dim: int) -> nn.Module:
    from multivae.models.base import ModelOutput
    from multivae.models.nn.base_architectures import BaseDecoder

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, z: Tensor):
            if private_dim:
                shared = z.shape[-1] - private_dim
                z = torch.cat([z[..., shared:], z[..., :shared]], -1)
            return ModelOutput(reconstruction=self.net(z))

    return Decoder()


@dataclass(frozen=True)
class Pair:
    """How one method is built on both sides.

    Attributes:
        settings: Of this project's configuration, beside the networks.
        build: Gives MultiVae's model of the same settings for a model built here.
        summed: Whether MultiVae's loss is the sum over the batch; here it is the mean.
        note: What differs on purpose, for the reader of the table.
    """

    settings: dict[str, Any]
    build: Callable[[Model, Copies], nn.Module]
    summed: bool = False
    note: str = ""


def _common(model: Model) -> dict[str, Any]:
    spec = model.spec
    return {
        "n_modalities": len(spec.names),
        "input_dims": {m.name: m.shape for m in spec.modalities},
        "decoders_dist": dict.fromkeys(spec.names, "laplace"),
        "decoder_dist_params": {m.name: {"scale": m.scale} for m in spec.modalities},
    }


def _mmvae_plus(model: Model, copies: Copies) -> nn.Module:
    from multivae.models import MMVAEPlus, MMVAEPlusConfig

    c = model.config
    config = MMVAEPlusConfig(
        **_common(model),
        latent_dim=c.shared_dim,
        modalities_specific_dim=c.private_dim,
        K=c.importance_samples,
        loss="iwae_looser",
        beta=c.beta,
    )
    return MMVAEPlus(
        config,
        copies.encoders(model.shared, model.private),
        copies.decoders(model.decoders, c.private_dim),
    )


def _cmvae(model: Model, copies: Copies) -> nn.Module:
    from multivae.models import CMVAE, CMVAEConfig

    c = model.config
    config = CMVAEConfig(
        **_common(model),
        latent_dim=c.shared_dim,
        modalities_specific_dim=c.private_dim,
        number_of_clusters=c.clusters,
        K=c.importance_samples,
        loss="iwae_looser",
        beta=c.beta,
    )
    peer = CMVAE(
        config,
        copies.encoders(model.shared, model.private),
        copies.decoders(model.decoders, c.private_dim),
    )
    for there, here in zip(peer.mean_clusters, model.clusters.means, strict=True):
        there.data.copy_(here[None])
    return peer


def _mvae(model: Model, copies: Copies) -> nn.Module:
    from multivae.models import MVAE, MVAEConfig

    c = model.config
    config = MVAEConfig(
        **_common(model), latent_dim=c.latent_dim, k=c.random_subsets, warmup=0, beta=c.beta
    )
    return MVAE(config, copies.encoders(model.encoders), copies.decoders(model.decoders))


def _mmvae(model: Model, copies: Copies) -> nn.Module:
    from multivae.models import MMVAE, MMVAEConfig

    c = model.config
    config = MMVAEConfig(
        **_common(model),
        latent_dim=c.latent_dim,
        K=c.importance_samples,
        learn_prior=c.learn_prior,
        loss="iwae_looser",
        beta=c.beta,
    )
    return MMVAE(config, copies.encoders(model.encoders), copies.decoders(model.decoders))


def _mopoe(model: Model, copies: Copies) -> nn.Module:
    from multivae.models import MoPoE, MoPoEConfig

    c, names = model.config, model.spec.names
    rows = subsets(len(names), torch.device("cpu")).bool().tolist()  # in the order of the slices
    members = [[n for n, there in zip(names, row, strict=True) if there] for row in rows]
    config = MoPoEConfig(**_common(model), latent_dim=c.latent_dim, beta=c.beta, subsets=members)
    return MoPoE(config, copies.encoders(model.encoders), copies.decoders(model.decoders))


def _mvtcae(model: Model, copies: Copies) -> nn.Module:
    from multivae.models import MVTCAE, MVTCAEConfig

    c = model.config
    config = MVTCAEConfig(**_common(model), latent_dim=c.latent_dim, beta=c.beta, alpha=c.ratio)
    return MVTCAE(config, copies.encoders(model.encoders), copies.decoders(model.decoders))


PAIRS: dict[str, Pair] = {
    "mvtcae": Pair({"latent_dim": 512}, _mvtcae),
    "mopoe": Pair({"latent_dim": 512, "components": "slices"}, _mopoe),
    "cmvae": Pair({"shared_dim": 32, "private_dim": 32}, _cmvae, summed=True),
    "mmvae+": Pair({"shared_dim": 32, "private_dim": 32}, _mmvae_plus, summed=True),
    "mvae": Pair({"latent_dim": 512}, _mvae),
    "mmvae": Pair({"latent_dim": 512}, _mmvae, summed=True),
}


def make_split(batch: int) -> Split:
    """Random pixels, uint8."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, 3, _SIDE, _SIDE)
    names = [f"m{i}" for i in range(_MODALITIES)]
    make = lambda: torch.randint(256, shape, generator=generator).to(torch.uint8)  # noqa: E731
    return Split({name: make() for name in names})


def make_spec(batch: int) -> DataSpec:
    """The data's modalities."""
    shape = (3, _SIDE, _SIDE)
    modalities = tuple(
        Modality(f"m{i}", "image", shape, "laplace", _SCALE) for i in range(_MODALITIES)
    )
    return DataSpec("peer", 1, modalities, 0, {"train": batch}, "", "random pixels")


def make_model(method: str, spec: DataSpec, pair: Pair) -> Model:
    """The method as this project builds it, with the conv networks."""
    cls = find("model", method).cls
    torch.manual_seed(0)
    return cls(spec, cls.Config(network=Network(family="conv"), **pair.settings))


def _given_noise(items: Tensor) -> Tensor:
    return torch.sin(items.float() + 1.0)  # any numbers would do; one a tuple, of both signs


class GivenRng(Rng):
    """The same number for every draw of a tuple, so that no order of draws matters."""

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

    with (
        mock.patch.object(Normal, "rsample", rsample),
        mock.patch.object(Laplace, "rsample", rsample),
    ):
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
        theirs = _peer_loss(peer, batch.views)
    theirs = theirs / (len(split) if pair.summed else 1)
    theirs.backward()
    gap, size = 0.0, 0.0
    for here, there in copies.pairs:
        if here.grad is None or there.grad is None:
            raise RuntimeError("A parameter of the networks has no gradient on one side.")
        gap += float((here.grad - there.grad).square().sum())
        size += float(here.grad.square().sum())
    ours, theirs = ours.item(), theirs.item()
    model.float().zero_grad(), peer.float().zero_grad()  # back to the same float32 weights
    return {
        "here": ours,
        "multivae": theirs,
        "objective": abs(ours - theirs) / abs(theirs),
        "gradient": math.sqrt(gap / size),
    }


def _peer_loss(peer: nn.Module, views: dict[str, Tensor]) -> Tensor:
    from multivae.data.datasets.base import MultimodalBaseDataset

    return peer(MultimodalBaseDataset(views), epoch=1000).loss  # any warm-up is over


def measure(model: Model, peer: nn.Module, split: Split, repeats: int) -> dict[str, float]:
    """Best CPU seconds of an update of each kind."""
    index = torch.arange(len(split))
    stage = model.to(memory_format=torch.channels_last).stages()[0]
    views = {name: x.float() / 255 for name, x in split.tensors.items()}
    settings = stage._settings
    adam = torch.optim.Adam(peer.parameters(), lr=settings.lr, amsgrad=settings.amsgrad)

    def update_peer() -> None:
        loss = _peer_loss(peer, views)
        adam.zero_grad()
        loss.backward()
        adam.step()

    def update(precision: str) -> None:
        keep_freed_memory()
        cast = torch.autocast("cpu", dtype=torch.bfloat16)
        with cast if precision == "bf16" else nullcontext():
            stage.update(split.batch(index), Rng(0))

    return best_times(
        {
            "multivae_s": update_peer,
            "float32_s": lambda: update("float32"),
            "bf16_s": lambda: update("bf16"),
        },
        repeats,
    )


@dataclass
class Report:
    """What was measured, method by method."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)

    def ratios(self, precision: str) -> list[float]:
        """How many times the CPU time of MultiVae is that of this project, where both ran."""
        measured = [row for row in self.rows.values() if "multivae_s" in row]
        return [row["multivae_s"] / row[f"{precision}_s"] for row in measured]

    def mean(self, precision: str) -> float | None:
        """Geometric mean of the ratios."""
        ratios = self.ratios(precision)
        return math.exp(sum(map(math.log, ratios)) / len(ratios)) if ratios else None

    def table(self) -> str:
        """The rows and the geometric mean."""
        head = ("method", "objective", "gradient", "MultiVae s", "float32 s", "bf16 s")
        head += ("MultiVae/float32", "MultiVae/bf16")
        lines = []
        for name, row in self.rows.items():
            if "multivae_s" not in row:
                lines.append((name, row["status"], *("",) * 6))
                continue
            seconds = [row[f"{kind}_s"] for kind in ("multivae", "float32", "bf16")]
            ratios = (f"{seconds[0] / s:.2f}" for s in seconds[1:])
            gaps = (f"{row[kind]:.1e}" for kind in ("objective", "gradient"))
            lines.append((name, *gaps, *(f"{s:.2f}" for s in seconds), *ratios))
        if self.ratios("bf16"):
            means = (f"{self.mean(kind):.2f}" for kind in ("float32", "bf16"))
            lines.append(("geometric mean", *("",) * 5, *means))
        return tabulate(lines, head, disable_numparse=True)


@click.command(help=__doc__)
@click.option("--batch", default=256, show_default=True)
@click.option("--methods", default=",".join(PAIRS), show_default=True)
@click.option("--repeats", default=2, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Everything measured, as one JSON object.")
def main(batch: int, methods: str, repeats: int, as_json: bool) -> None:
    """Print the table."""
    if importlib.util.find_spec("multivae") is None:
        raise click.ClickException(_MISSING)
    torch.set_num_threads(1)
    spec, split, report = make_spec(batch), make_split(batch), Report()
    for method in methods.split(","):
        if method not in PAIRS or method not in entries("model"):
            report.rows[method] = {"status": "not here"}
            continue
        pair, copies = PAIRS[method], Copies()
        model = make_model(method, spec, pair)
        peer = pair.build(model, copies)
        row = compare(model, peer, copies, pair, split)
        row |= measure(model, peer, split, repeats) | ({"note": pair.note} if pair.note else {})
        report.rows[method] = row
        click.echo(f"{method}: {row['multivae_s'] / row['bf16_s']:.2f}", err=True)
    if as_json:
        versions = {name: importlib.metadata.version(name) for name in ("torch", "multivae")}
        means = {kind: report.mean(kind) for kind in ("float32", "bf16")}
        made = {"batch": batch, "versions": versions, "methods": report.rows}
        click.echo(json.dumps(made | {"geometric_mean": means}, indent=2))
        return
    click.echo(report.table())
    for name, row in report.rows.items():
        if "note" in row:
            click.echo(f"{name}: {row['note']}")


if __name__ == "__main__":
    main()

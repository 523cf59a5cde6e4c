"""MultiVae's models with the settings and copied networks of the models built here."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import timing  # noqa: F401  puts the project on the import path
import torch
from torch import Tensor, nn

from shalabench.api import Model
from shalabench.nets.experts import subsets

_SCALE = 0.75  # of the Laplace likelihoods


@dataclass(frozen=True)
class Pair:
    """How one method is built on both sides.

    Attributes:
        there: Name of MultiVae's model; its configuration is called the same with "Config".
        settings: Of this project's configuration, beside the networks.
        translate: Gives MultiVae's settings for a model built here, beside the shared ones.
        summed: Whether MultiVae's loss is the sum over the batch; here it is the mean.
    """

    there: str
    settings: dict[str, Any]
    translate: Callable[[Model], dict[str, Any]]
    summed: bool = False


def _mopoe_subsets(model: Model) -> list[list[str]]:
    names = model.spec.names
    rows = subsets(len(names), torch.device("cpu")).bool().tolist()  # in the order of the slices
    return [[n for n, there in zip(names, row, strict=True) if there] for row in rows]


def _importance(model: Model) -> dict[str, Any]:
    return {"K": model.config.importance_samples, "loss": "iwae_looser"}


_PRIVATE = {"shared_dim": 32, "private_dim": 32}
_SHARED = {"latent_dim": 512}
PAIRS: dict[str, Pair] = {
    "mvtcae": Pair("MVTCAE", _SHARED, lambda model: {"alpha": model.config.ratio}),
    "mopoe": Pair(
        "MoPoE",
        _SHARED | {"components": "slices"},
        lambda model: {"subsets": _mopoe_subsets(model)},
    ),
    "cmvae": Pair(
        "CMVAE",
        _PRIVATE,
        lambda model: _importance(model) | {"number_of_clusters": model.config.clusters},
        summed=True,
    ),
    "mmvae+": Pair("MMVAEPlus", _PRIVATE, _importance, summed=True),
    "mvae": Pair("MVAE", _SHARED, lambda model: {"k": model.config.random_subsets, "warmup": 0}),
    "mmvae": Pair(
        "MMVAE",
        _SHARED,
        lambda model: _importance(model) | {"learn_prior": model.config.learn_prior},
        summed=True,
    ),
}


class Copies:
    """Copies of a model's networks.

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


def build_peer(model: Model, pair: Pair, copies: Copies) -> nn.Module:
    """MultiVae's model with the settings and copied networks of a model built here."""
    import multivae.models

    c, spec, private = model.config, model.spec, "private_dim" in pair.settings
    dims = {"latent_dim": c.shared_dim if private else c.latent_dim}
    if private:
        dims["modalities_specific_dim"] = c.private_dim
    config = getattr(multivae.models, f"{pair.there}Config")(
        n_modalities=len(spec.names),
        input_dims={m.name: m.shape for m in spec.modalities},
        decoders_dist=dict.fromkeys(spec.names, "laplace"),
        decoder_dist_params={m.name: {"scale": m.scale} for m in spec.modalities},
        beta=c.beta,
        **dims,
        **pair.translate(model),
    )
    towers = model.shared if private else model.encoders
    encoders = {
        name: _wrap_encoder(
            copies.take(tower), copies.take(model.private[name]) if private else None
        )
        for name, tower in towers.items()
    }
    private_dim = c.private_dim if private else 0
    decoders = {
        n: _wrap_decoder(copies.take(net), private_dim) for n, net in model.decoders.items()
    }
    peer = getattr(multivae.models, pair.there)(config, encoders, decoders)
    if pair.there == "CMVAE":
        for there, here in zip(peer.mean_clusters, model.clusters.means, strict=True):
            there.data.copy_(here[None])
    return peer


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
                made["style_embedding"], made["style_log_covariance"] = outputs(self.private, x)
            return made

    return Encoder()


def _wrap_decoder(net: nn.Module, private_dim: int) -> nn.Module:
    """Puts private latents first, as the networks here expect; MultiVae gives shared ones first."""
    from multivae.models.base import ModelOutput
    from multivae.models.nn.base_architectures import BaseDecoder

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.net = net

        def forward(self, z: Tensor):
            shared = z.shape[-1] - private_dim
            ordered = torch.cat([z[..., shared:], z[..., :shared]], -1) if private_dim else z
            return ModelOutput(reconstruction=self.net(ordered))

    return Decoder()
